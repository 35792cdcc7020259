"""The pyramid pooling head of PSPNet."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fakd.models.convolution import ConvBlock, pixel_classifier, resize

POOL_SCALES = (1, 2, 3, 6)


class PSPHead(nn.Module):
    r"""Pyramid pooling: what stands here, given what stands around at four scales.

    The last stage is averaged over a grid of 1, 2, 3 and 6 cells a side; each average passes a 1x1
    convolution and is interpolated back. The stage and the four maps (in this order) are
    concatenated and a 3x3 convolution makes the feature. Zhao et al., 2017 (arXiv 1612.01105).

    In training the coarsest scale is a single cell, so batch norm needs two images per device.
    """

    def __init__(
        self,
        stage_channels: tuple[int, ...],
        channels: int,
        classes: int,
        dropout: float,
        align_corners: bool = False,
    ) -> None:
        super().__init__()
        self.align_corners = align_corners
        inputs = stage_channels[-1]
        self.psp_modules = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(scale), ConvBlock(inputs, channels))
            for scale in POOL_SCALES
        )
        self.bottleneck = ConvBlock(inputs + len(POOL_SCALES) * channels, channels, 3)
        self.dropout = nn.Dropout2d(dropout)
        self.conv_seg = pixel_classifier(channels, classes)

    def forward(
        self, stages: list[Float[Tensor, "batch _ _ _"]]
    ) -> tuple[Float[Tensor, "batch classes rows cols"], Float[Tensor, "batch channels rows cols"]]:
        """Return logits and their feature, the input of ``conv_seg``."""
        stage = stages[-1]
        context = [resize(pool(stage), stage, self.align_corners) for pool in self.psp_modules]
        features = self.dropout(self.bottleneck(torch.cat([stage, *context], dim=1)))
        return self.conv_seg(features), features
