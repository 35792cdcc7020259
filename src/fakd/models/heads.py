"""Decode heads of the paper: from a backbone's stages to features and logits."""

from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from fakd.errors import InputError

Stages = list[Float[Tensor, "batch _ _ _"]]
"""A backbone's maps, fine to coarse."""
Answer = tuple[Float[Tensor, "batch classes rows cols"], Float[Tensor, "batch channels rows cols"]]
"""Logits, and the feature that is the input of the final classifier."""


class ConvBlock(nn.Module):
    """Convolution without bias, batch norm, ReLU; keeps the spatial size.

    Convolutions are initialised Kaiming normal by fan-out, batch norms with scale 1 and shift 0.
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
    """A depthwise 3x3 `ConvBlock`, then a pointwise one, with ReLU after each."""

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
    """Build a head's final 1x1 convolution with bias, weights initialised with deviation 0.01."""
    if classes < 1:
        raise InputError(
            f"classes must be at least 1, got {classes}; give the data set's number of classes"
        )
    classifier = nn.Conv2d(channels, classes, 1)
    nn.init.normal_(classifier.weight, std=0.01)
    nn.init.constant_(cast(Tensor, classifier.bias), 0)
    return classifier


def resize(
    features: Float[Tensor, "batch channels rows cols"],
    like: Float[Tensor, "_ _ rows2 cols2"],
    align_corners: bool = False,
) -> Float[Tensor, "batch channels rows2 cols2"]:
    """Resize bilinearly to another map's size."""
    size = like.shape[-2:]
    return F.interpolate(features, size=size, mode="bilinear", align_corners=align_corners)


class FCNHead(nn.Module):
    """One convolution and the classifier, on one stage or on several resized to one size.

    Several stages are each interpolated to the size of the first and concatenated in order, as in
    HRNetV2. Sun et al., 2019 (arXiv 1904.04514). ``stages`` are the indices of the input stages,
    ``kernel_size`` is that of the convolution.
    """

    def __init__(
        self,
        stage_channels: tuple[int, ...],
        stages: tuple[int, ...],
        channels: int,
        classes: int,
        dropout: float,
        kernel_size: int,
    ) -> None:
        super().__init__()
        self.stages = stages
        inputs = sum(stage_channels[stage] for stage in stages)
        self.convs = nn.Sequential(ConvBlock(inputs, channels, kernel_size))
        self.dropout = nn.Dropout2d(dropout)
        self.conv_seg = pixel_classifier(channels, classes)

    def forward(self, stages: Stages) -> Answer:
        """Return logits and their feature, the input of ``conv_seg``."""
        first, *others = [stages[index] for index in self.stages]
        joined = torch.cat([first, *(resize(other, like=first) for other in others)], dim=1)
        features = self.dropout(self.convs(joined))
        return self.conv_seg(features), features


class HypercolumnHead(nn.Module):
    """Concatenate all stages at the size of the first, reduce channels, convolve once.

    A 1x1 convolution reduces the concatenated stages to ``channels``; a separable 3x3 convolution
    computes the feature.
    """

    def __init__(self, stage_channels: tuple[int, ...], channels: int, classes: int) -> None:
        super().__init__()
        self.narrow = ConvBlock(sum(stage_channels), channels)
        self.refine = SeparableConvBlock(channels, channels)
        self.conv_seg = pixel_classifier(channels, classes)

    def forward(self, stages: Stages) -> Answer:
        """Return logits and their feature, the input of ``conv_seg``."""
        finest, *others = stages
        joined = [finest, *(resize(stage, like=finest) for stage in others)]
        features = self.refine(self.narrow(torch.cat(joined, dim=1)))
        return self.conv_seg(features), features


POOL_SCALES = (1, 2, 3, 6)


class PSPHead(nn.Module):
    r"""Pyramid pooling: adds context at four scales to each position.

    The last stage is average-pooled to grids of 1, 2, 3 and 6 cells a side; each passes a 1x1
    convolution and is upsampled. The stage and the four maps (in this order) are concatenated, and
    a 3x3 convolution computes the feature. Zhao et al., 2017 (arXiv 1612.01105).

    The coarsest scale is a single cell, so in training batch norm needs two images per device.
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

    def forward(self, stages: Stages) -> Answer:
        """Return logits and their feature, the input of ``conv_seg``."""
        stage = stages[-1]
        context = [resize(pool(stage), stage, self.align_corners) for pool in self.psp_modules]
        features = self.dropout(self.bottleneck(torch.cat([stage, *context], dim=1)))
        return self.conv_seg(features), features


DILATIONS = (12, 24, 36)


class SeparableASPPHead(nn.Module):
    """Atrous spatial pyramid pooling, refined with the first stage's detail.

    The last stage passes five branches: global average pooling, a 1x1 convolution, and separable
    3x3 convolutions of dilation 12, 24 and 36 (at output stride 8). A 3x3 convolution joins them,
    the result is upsampled to the first stage and concatenated with that stage, reduced to
    ``detail`` channels. Two separable convolutions compute the feature, at the first stage's
    stride. Chen et al., 2018 (arXiv 1802.02611).

    The global average is a single cell, so in training batch norm needs two images per device.
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

    def forward(self, stages: Stages) -> Answer:
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


BLOCK = 8
"""Side of a local block; also the spacing of the positions of a global group."""


class SelfAttention(nn.Module):
    """Dense self-attention over the positions of a map: ``softmax(q k^T / sqrt(width)) v``."""

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
        """Attend within each map; there is no residual connection."""
        query = self.query_project(features).flatten(2)
        key = self.key_project(features).flatten(2)
        value = self.value_project(features).flatten(2)
        # Not .mT, which one of the ONNX exporters does not support.
        attention = torch.softmax(query.transpose(1, 2) @ key * self.width**-0.5, dim=-1)
        gathered = value @ attention.transpose(1, 2)
        output: Tensor = self.output_project(gathered.view(features.shape))
        return output


class ISAHead(nn.Module):
    """Interlaced sparse attention: across blocks at equal offset, then inside each block.

    The map is zero-padded to multiples of eight, centred. First every position attends to those
    with the same offset in all 8x8 blocks (far), then to those of its own block (near). Huang et
    al., 2019 (arXiv 1907.12273).
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

    def forward(self, stages: Stages) -> Answer:
        """Return logits and their feature, the input of ``conv_seg``."""
        residual = self.in_conv(stages[-1])
        attended = self.attend(residual)
        features = self.dropout(self.out_conv(torch.cat([attended, residual], dim=1)))
        return self.conv_seg(features), features

    def attend(
        self, features: Float[Tensor, "batch channels rows cols"]
    ) -> Float[Tensor, "batch channels rows cols"]:
        """Apply the far, then the near attention."""
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


Head = PSPHead | SeparableASPPHead | ISAHead | FCNHead | HypercolumnHead
