"""The plain convolutional head: HRNet's decode head and every auxiliary head."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fakd.models.convolution import ConvBlock, pixel_classifier, resize


class FCNHead(nn.Module):
    """One convolution and the classifier, on one stage or on several brought to one size.

    With several stages, each is interpolated to the size of the first and all are concatenated in
    order, the way HRNetV2 reads its four resolutions. Sun et al., 2019 (arXiv 1904.04514).

    Args:
        stage_channels: channels of all stages of the backbone.
        stages: indices of the stages to read.
        channels: width of the feature.
        classes: number of classes.
        dropout: share of feature channels dropped in training.
        kernel_size: of the one convolution.
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

    def forward(
        self, stages: list[Float[Tensor, "batch _ _ _"]]
    ) -> tuple[Float[Tensor, "batch classes rows cols"], Float[Tensor, "batch channels rows cols"]]:
        """Return logits and their feature, the input of ``conv_seg``."""
        first, *others = [stages[index] for index in self.stages]
        joined = torch.cat([first, *(resize(other, like=first) for other in others)], dim=1)
        features = self.dropout(self.convs(joined))
        return self.conv_seg(features), features
