"""The critic of holistic distillation (SKDS): a network that scores whole maps of logits."""

from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

SMALLEST = 64
"""The shortest side that five convolutions, each of which halves it or more, can score."""


class SpectralConv(nn.Module):
    r"""A 4 x 4 convolution of stride 2 whose weight has a largest singular value of about 1.

    .. math:: v \leftarrow \frac{W^\top u}{\|W^\top u\|}, \quad
        u \leftarrow \frac{W v}{\|W v\|}, \quad \hat W = \frac{W}{u^\top W v}

    Spectral normalisation (Miyato et al., 2018, arXiv 1802.05957) by one step of power iteration
    in each forward pass of training, and none in evaluation. W has one row for each output channel.
    The gradient takes u and v as given, and as they were in that very pass: where one backward pass
    follows several forward passes, public code often uses the latest.

    Args:
        inputs: Channels that come in.
        outputs: Channels that go out.
    """

    left: Float[Tensor, " outputs"]
    right: Float[Tensor, " inputs_rows_cols"]

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel_size=4, stride=2, padding=1)
        self.register_buffer("left", _normalised(torch.randn(outputs)))
        self.register_buffer("right", _normalised(torch.randn(inputs * 4 * 4)))

    def forward(
        self, maps: Float[Tensor, "batch inputs rows cols"]
    ) -> Float[Tensor, "batch outputs _rows _cols"]:
        """Convolve with the normalised weight."""
        weight = self.conv.weight
        matrix = weight.flatten(1)
        if self.training:
            with torch.no_grad():
                # New tensors, as the backward pass of an earlier forward may need the old ones.
                self.right = _normalised(matrix.mT @ self.left)
                self.left = _normalised(matrix @ self.right)
        largest = self.left @ matrix @ self.right
        return F.conv2d(maps, weight / largest, self.conv.bias, stride=2, padding=1)


def _normalised(vector: Float[Tensor, " size"]) -> Float[Tensor, " size"]:
    norm: Tensor = torch.linalg.vector_norm(vector)
    return vector / (norm + 1e-12)


class SelfAttention(nn.Module):
    r"""Adds to each position what the positions that it attends to have in common.

    .. math:: x_i + \gamma \sum_j \mathrm{softmax}_j(q_i \cdot k_j) \, v_j

    The block of SAGAN (Zhang et al., 2018, arXiv 1805.08318): 1 x 1 convolutions, products not
    scaled, and a :math:`\gamma` that starts at 0, so that the block starts as the identity.

    Args:
        channels: Of the map; queries and keys have an eighth of them.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query = nn.Conv2d(channels, channels // 8, 1)
        self.key = nn.Conv2d(channels, channels // 8, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(
        self, maps: Float[Tensor, "batch channels rows cols"]
    ) -> Float[Tensor, "batch channels rows cols"]:
        """Attend from every position to all of the same image."""
        queries, keys = self.query(maps).flatten(2), self.key(maps).flatten(2)
        # Not scaled_dot_product_attention, whose fast forms cannot be differentiated twice.
        attention = (queries.mT @ keys).softmax(2)
        context: Tensor = self.value(maps).flatten(2) @ attention.mT
        return self.gamma * context.view(maps.shape) + maps


class Critic(nn.Module):
    """Scores how much a map of logits looks like one of the teacher's: high is like the teacher.

    The critic of SKDS's public code (Liu et al., 2019, arXiv 1903.04197), which sees the logits
    alone, whereas the paper's is also shown the image. A 64 x 64 map gets one score, a larger one a
    grid of scores for overlapping parts.

    Args:
        classes: Channels of the logits.

    Raises:
        ValueError: logits have less than 64 rows or columns.

    >>> Critic(classes=4)(torch.zeros(2, 4, 64, 64)).shape
    torch.Size([2, 1, 1, 1])
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(classes)
        self.layers = nn.Sequential(
            SpectralConv(classes, 64),
            nn.LeakyReLU(0.1),
            SpectralConv(64, 128),
            nn.LeakyReLU(0.1),
            SpectralConv(128, 256),
            nn.LeakyReLU(0.1),
            SelfAttention(256),
            SpectralConv(256, 512),
            nn.LeakyReLU(0.1),
            SelfAttention(512),
            nn.Conv2d(512, 1, kernel_size=4),
        )

    def forward(
        self, logits: Float[Tensor, "batch classes rows cols"]
    ) -> Float[Tensor, "batch 1 _rows _cols"]:
        """Score raw logits."""
        if min(logits.shape[2:]) < SMALLEST:
            rows, cols = logits.shape[2:]
            raise ValueError(
                f"expected logits of at least {SMALLEST} x {SMALLEST} positions, got "
                f"{rows} x {cols}; enlarge them, as Adversarial does"
            )
        norm = self.norm
        # Not norm(logits): the trainer replaces batch norms by ones that work across devices, and
        # those cannot be differentiated twice, as a gradient penalty asks.
        logits = F.batch_norm(
            logits,
            norm.running_mean,
            norm.running_var,
            norm.weight,
            norm.bias,
            self.training,
            0.1,
            norm.eps,
        )
        return cast(Tensor, self.layers(logits))
