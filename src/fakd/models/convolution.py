"""The two bricks of every head: convolution, batch norm, ReLU, and its separable version."""

from typing import cast

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from fakd.errors import InputError


class ConvBlock(nn.Module):
    """Convolution without bias, batch norm, ReLU; keeps the spatial size.

    Convolutions start Kaiming normal over their fan-out, batch norms at scale 1 and shift 0.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel_size: int = 1, dilation: int = 1, groups: int = 1
    ) -> None:
        super().__init__()
        if outputs < 1:
            raise InputError(f"channels must be at least 1, got {outputs}; choose a wider head")
        self.conv = nn.Conv2d(
            inputs,
            outputs,
            kernel_size,
            padding=dilation * (kernel_size // 2),
            dilation=dilation,
            groups=groups,
            bias=False,
        )
        self.bn = nn.BatchNorm2d(outputs)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")

    def forward(
        self, features: Float[Tensor, "batch inputs rows cols"]
    ) -> Float[Tensor, "batch outputs rows cols"]:
        """Apply the three layers."""
        return F.relu(self.bn(self.conv(features)), inplace=True)


class SeparableConvBlock(nn.Module):
    """A depthwise 3x3 `ConvBlock`, then a pointwise one: ReLU after each."""

    def __init__(self, inputs: int, outputs: int, dilation: int = 1) -> None:
        super().__init__()
        self.depthwise_conv = ConvBlock(inputs, inputs, 3, dilation, groups=inputs)
        self.pointwise_conv = ConvBlock(inputs, outputs)

    def forward(
        self, features: Float[Tensor, "batch inputs rows cols"]
    ) -> Float[Tensor, "batch outputs rows cols"]:
        """Apply both convolutions."""
        return cast(Tensor, self.pointwise_conv(self.depthwise_conv(features)))


def pixel_classifier(channels: int, classes: int) -> nn.Conv2d:
    """Return the final linear layer of a head: 1x1 with bias, weights of deviation 0.01."""
    if classes < 1:
        raise InputError(f"classes must be at least 1, got {classes}; give the data set's")
    classifier = nn.Conv2d(channels, classes, 1)
    nn.init.normal_(classifier.weight, std=0.01)
    nn.init.constant_(cast(Tensor, classifier.bias), 0)
    return classifier


def resize(
    features: Float[Tensor, "batch channels rows cols"],
    like: Float[Tensor, "_ _ rows2 cols2"],
    align_corners: bool = False,
) -> Float[Tensor, "batch channels rows2 cols2"]:
    """Interpolate bilinearly to another map's size."""
    size = like.shape[-2:]
    return F.interpolate(features, size=size, mode="bilinear", align_corners=align_corners)
