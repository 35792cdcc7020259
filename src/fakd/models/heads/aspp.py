"""The depthwise-separable atrous pyramid head of DeepLabV3+."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fakd.models.convolution import ConvBlock, SeparableConvBlock, pixel_classifier, resize

DILATIONS = (12, 24, 36)


class SeparableASPPHead(nn.Module):
    """Atrous spatial pyramid pooling, refined with the first stage's detail.

    The last stage passes five branches: its global average, a 1x1 convolution, and separable 3x3
    convolutions of dilation 12, 24 and 36 (at output stride 8). A 3x3 convolution joins them, the
    result is interpolated to the first stage, concatenated with a narrow view of it (``detail``
    channels), and two separable convolutions make the feature, at the first stage's stride.
    Chen et al., 2018 (arXiv 1802.02611).

    In training the global average is a single cell, so batch norm needs two images per device.
    """

    def __init__(
        self,
        stage_channels: tuple[int, ...],
        channels: int,
        detail: int,
        classes: int,
        dropout: float,
        align_corners: bool = False,
    ) -> None:
        super().__init__()
        self.align_corners = align_corners
        inputs = stage_channels[-1]
        self.image_pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), ConvBlock(inputs, channels))
        self.aspp_modules = nn.ModuleList([ConvBlock(inputs, channels)])
        self.aspp_modules.extend(
            SeparableConvBlock(inputs, channels, dilation) for dilation in DILATIONS
        )
        branches = 1 + len(self.aspp_modules)
        self.bottleneck = ConvBlock(branches * channels, channels, 3)
        self.c1_bottleneck = ConvBlock(stage_channels[0], detail)
        self.sep_bottleneck = nn.Sequential(
            SeparableConvBlock(channels + detail, channels),
            SeparableConvBlock(channels, channels),
        )
        self.dropout = nn.Dropout2d(dropout)
        self.conv_seg = pixel_classifier(channels, classes)

    def forward(
        self, stages: list[Float[Tensor, "batch _ _ _"]]
    ) -> tuple[Float[Tensor, "batch classes rows cols"], Float[Tensor, "batch channels rows cols"]]:
        """Return logits and their feature, the input of ``conv_seg``."""
        stage = stages[-1]
        branches = [resize(self.image_pool(stage), stage, self.align_corners)]
        branches += [branch(stage) for branch in self.aspp_modules]
        context = self.bottleneck(torch.cat(branches, dim=1))
        detail = self.c1_bottleneck(stages[0])
        context = resize(context, detail, self.align_corners)
        joined = torch.cat([context, detail], dim=1)
        features = self.dropout(self.sep_bottleneck(joined))
        return self.conv_seg(features), features
