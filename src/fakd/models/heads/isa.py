"""The interlaced sparse attention head of ISANet."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from fakd.models.convolution import ConvBlock, pixel_classifier

BLOCK = 8
"""Side of a local block; also the number of positions between two of a global group."""


class SelfAttention(nn.Module):
    """Every position looks at every other of its map: ``softmax(q k^T / sqrt(width)) v``."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.key_project = nn.Sequential(ConvBlock(channels, width), ConvBlock(width, width))
        self.query_project = nn.Sequential(ConvBlock(channels, width), ConvBlock(width, width))
        self.value_project = nn.Conv2d(channels, channels, 1)
        self.output_project = ConvBlock(channels, channels)

    def forward(
        self, features: Float[Tensor, "maps channels rows cols"]
    ) -> Float[Tensor, "maps channels rows cols"]:
        """Return what each position gathered from its map, without a residual."""
        query = self.query_project(features).flatten(2)
        key = self.key_project(features).flatten(2)
        value = self.value_project(features).flatten(2)
        attention = torch.softmax(query.mT @ key * self.width**-0.5, dim=-1)
        gathered = value @ attention.mT
        output: Tensor = self.output_project(gathered.view(features.shape))
        return output


class ISAHead(nn.Module):
    """Dense attention in two sparse steps: across blocks at equal offset, then inside each block.

    The map is padded with zeros to multiples of eight, centred. First every position attends to
    those with the same offset in all 8x8 blocks (far), then to those of its own block (near).
    Huang et al., 2019 (arXiv 1907.12273).
    """

    def __init__(
        self,
        stage_channels: tuple[int, ...],
        channels: int,
        width: int,
        classes: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.in_conv = ConvBlock(stage_channels[-1], channels, 3)
        self.global_relation = SelfAttention(channels, width)
        self.local_relation = SelfAttention(channels, width)
        self.out_conv = ConvBlock(2 * channels, channels)
        self.dropout = nn.Dropout2d(dropout)
        self.conv_seg = pixel_classifier(channels, classes)

    def forward(
        self, stages: list[Float[Tensor, "batch _ _ _"]]
    ) -> tuple[Float[Tensor, "batch classes rows cols"], Float[Tensor, "batch channels rows cols"]]:
        """Return logits and their feature, the input of ``conv_seg``."""
        residual = self.in_conv(stages[-1])
        attended = self.attend(residual)
        features = self.dropout(self.out_conv(torch.cat([attended, residual], dim=1)))
        return self.conv_seg(features), features

    def attend(
        self, features: Float[Tensor, "batch channels rows cols"]
    ) -> Float[Tensor, "batch channels rows cols"]:
        """Apply the far and then the near attention."""
        batch, channels, rows, cols = features.shape
        extra_rows, extra_cols = -rows % BLOCK, -cols % BLOCK
        top, left = extra_rows // 2, extra_cols // 2
        padded = F.pad(features, (left, extra_cols - left, top, extra_rows - top))
        down, across = padded.shape[-2] // BLOCK, padded.shape[-1] // BLOCK

        # batch channels (down row) (across col) -> (batch row col) channels down across
        far = padded.view(batch, channels, down, BLOCK, across, BLOCK).permute(0, 3, 5, 1, 2, 4)
        far = self.global_relation(far.reshape(-1, channels, down, across))

        # (batch row col) channels down across -> (batch down across) channels row col
        near = far.view(batch, BLOCK, BLOCK, channels, down, across).permute(0, 4, 5, 3, 1, 2)
        near = self.local_relation(near.reshape(-1, channels, BLOCK, BLOCK))

        # (batch down across) channels row col -> batch channels (down row) (across col)
        whole = near.view(batch, down, across, channels, BLOCK, BLOCK).permute(0, 3, 1, 4, 2, 5)
        attended: Tensor = whole.reshape(padded.shape)
        return attended[..., top : top + rows, left : left + cols]
