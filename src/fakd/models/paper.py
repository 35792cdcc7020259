"""The paper's networks, each a backbone and a decode head, as built by mmsegmentation."""

import inspect
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import ParamSpec

from jaxtyping import Float
from torch import Tensor, nn

from fakd.models.backbones import build_backbone
from fakd.models.heads import FCNHead, Head, ISAHead, PSPHead, SeparableASPPHead
from fakd.models.normalize import Normalize
from fakd.models.weights import load_imagenet
from fakd.types import Prediction, Segmenter


class EncoderDecoder(Segmenter):
    """Backbone and decode head; outputs logits and the feature before the classifier.

    For images that are already normalised, replace ``normalize`` by ``nn.Identity()``.
    The state dictionary holds ``backbone.*``, ``decode_head.*`` and ``auxiliary_head.*``.

    Args:
        backbone: maps images to a list of feature maps, fine to coarse.
        decode_head: maps these to (logits, features).
        auxiliary_head: a second head on an earlier stage, a few per cent of the cost; set it to
            None to remove it from a trained network.
        normalize: normalisation of images in [0, 1].
        align_corners: how its logits are to be upsampled to the image.
    """

    def __init__(
        self,
        backbone: nn.Module,
        decode_head: Head,
        auxiliary_head: FCNHead | None,
        normalize: nn.Module | None = None,
        align_corners: bool = False,
    ) -> None:
        super().__init__()
        self.normalize = normalize or Normalize()
        self.backbone = backbone
        self.decode_head = decode_head
        self.auxiliary_head = auxiliary_head
        self.classes = decode_head.conv_seg.out_channels
        self.align_corners = align_corners

    @property
    def classifier(self) -> nn.Conv2d:
        """The final 1x1 convolution, from features to logits."""
        return self.decode_head.conv_seg

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> Prediction:
        """Classify every position of the head's grid."""
        stages = self.backbone(self.normalize(images))
        logits, features = self.decode_head(stages)
        auxiliary = None
        if self.auxiliary_head is not None:
            auxiliary, _ = self.auxiliary_head(stages)
        return Prediction(logits, features, auxiliary)


P = ParamSpec("P")


def records_spec(builder: Callable[P, EncoderDecoder]) -> Callable[P, EncoderDecoder]:
    """Decorate a builder so that its networks record the call that built them, with defaults."""
    signature = inspect.signature(builder)

    @wraps(builder)
    def build(*args: P.args, **kwargs: P.kwargs) -> EncoderDecoder:
        network = builder(*args, **kwargs)
        call = signature.bind(*args, **kwargs)
        call.apply_defaults()
        # Lists, as in a network built from a recipe or from a file's metadata.
        given = {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in call.arguments.items()
        }
        weights = given.pop("weights")
        path = f"fakd.models.{builder.__name__}"
        network.config = {"class_path": path, "init_args": given}
        if weights is not None:
            started = {**given, "weights": str(weights)}
            network.origin = {"class_path": path, "init_args": started}
        return network

    return build


@records_spec
def pspnet(
    backbone: str,
    classes: int,
    *,
    channels: int | None = None,
    auxiliary: bool = True,
    dropout: float = 0.1,
    output_stride: int = 8,
    align_corners: bool = False,
    weights: str | Path | None = None,
) -> EncoderDecoder:
    """Build a PSPNet. Zhao et al., 2017 (arXiv 1612.01105).

    Args:
        backbone: resnet101, resnet18, resnet18b, mobilenetv2 as in the paper, or any model name of
            timm that can be dilated, such as resnet50 or tf_efficientnet_lite0.
        classes: number of classes.
        channels: channels of the feature before the classifier; by default 512 for backbones whose
            last stage has 1024 channels or more, else 128.
        auxiliary: whether to add an auxiliary head of half the width on the stage before the last.
        dropout: share of feature channels dropped in training.
        output_stride: image pixels per feature position, 8 in the paper.
        align_corners: how maps are interpolated; True for weights trained on 769x769 crops.
        weights: 'imagenet', or a file with ImageNet weights of the backbone; random if not given.
    """
    trunk = build_backbone(backbone, output_stride)
    width = trunk.width if channels is None else channels
    head = PSPHead(trunk.channels, width, classes, dropout, align_corners)
    side = FCNHead(trunk.channels, (2,), width // 2, classes, dropout, 3) if auxiliary else None
    normalize = load_imagenet(trunk, weights)
    return EncoderDecoder(trunk.module, head, side, normalize, align_corners)


@records_spec
def deeplabv3plus(
    backbone: str,
    classes: int,
    *,
    channels: int = 512,
    detail: int = 48,
    auxiliary: bool = True,
    dropout: float = 0.1,
    output_stride: int = 8,
    align_corners: bool = False,
    weights: str | Path | None = None,
) -> EncoderDecoder:
    """Build a DeepLabV3+. Chen et al., 2018 (arXiv 1802.02611).

    Args:
        backbone: resnet101, resnet18, resnet18b, mobilenetv2 as in the paper, or any model name of
            timm that can be dilated, such as resnet50 or tf_efficientnet_lite0.
        classes: number of classes.
        channels: channels of the feature before the classifier; 512 for every backbone, as in the
            paper.
        detail: channels that the first stage is reduced to.
        auxiliary: whether to add an auxiliary head of half the width on the stage before the last.
        dropout: share of feature channels dropped in training.
        output_stride: image pixels per position of the last stage, 8 in the paper; the logits
            have the first stage's stride of 4.
        align_corners: how maps are interpolated; True for weights trained on 769x769 crops.
        weights: 'imagenet', or a file with ImageNet weights of the backbone; random if not given.
    """
    trunk = build_backbone(backbone, output_stride)
    head = SeparableASPPHead(trunk.channels, channels, detail, classes, dropout, align_corners)
    side = FCNHead(trunk.channels, (2,), channels // 2, classes, dropout, 3) if auxiliary else None
    normalize = load_imagenet(trunk, weights)
    return EncoderDecoder(trunk.module, head, side, normalize, align_corners)


@records_spec
def isanet(
    backbone: str,
    classes: int,
    *,
    channels: int | None = None,
    attention_channels: int = 256,
    auxiliary: bool = True,
    dropout: float = 0.1,
    output_stride: int = 8,
    align_corners: bool = False,
    weights: str | Path | None = None,
) -> EncoderDecoder:
    """Build an ISANet. Huang et al., 2019 (arXiv 1907.12273).

    Args:
        backbone: resnet101, resnet18, resnet18b, mobilenetv2 as in the paper, or any model name of
            timm that can be dilated, such as resnet50 or tf_efficientnet_lite0.
        classes: number of classes.
        channels: channels of the feature before the classifier; by default 512 for backbones whose
            last stage has 1024 channels or more, else 128.
        attention_channels: channels of queries and keys.
        auxiliary: whether to add an auxiliary head of half the width on the stage before the last.
        dropout: share of feature channels dropped in training.
        output_stride: image pixels per feature position, 8 in the paper.
        align_corners: how logits are to be upsampled; True for weights trained on 769x769 crops.
        weights: 'imagenet', or a file with ImageNet weights of the backbone; random if not given.
    """
    trunk = build_backbone(backbone, output_stride)
    width = trunk.width if channels is None else channels
    head = ISAHead(trunk.channels, width, attention_channels, classes, dropout)
    side = FCNHead(trunk.channels, (2,), width // 2, classes, dropout, 3) if auxiliary else None
    normalize = load_imagenet(trunk, weights)
    return EncoderDecoder(trunk.module, head, side, normalize, align_corners)


@records_spec
def fcn_hrnet(
    backbone: str,
    classes: int,
    *,
    channels: int | None = None,
    dropout: float = 0.0,
    weights: str | Path | None = None,
) -> EncoderDecoder:
    """Build an HRNetV2 with its convolutional head. Sun et al., 2019 (arXiv 1904.04514).

    Args:
        backbone: hrnet_w48 or hrnet_w18s as in the paper, or any model name of timm with four
            stages, such as hrnet_w32.
        classes: number of classes.
        channels: channels of the feature before the classifier; by default the sum over all
            stages, as in the paper.
        dropout: share of feature channels dropped in training, none in the paper.
        weights: 'imagenet', or a file with ImageNet weights of the backbone; random if not given.
    """
    trunk = build_backbone(backbone, output_stride=None)
    width = sum(trunk.channels) if channels is None else channels
    head = FCNHead(trunk.channels, (0, 1, 2, 3), width, classes, dropout, kernel_size=1)
    normalize = load_imagenet(trunk, weights)
    return EncoderDecoder(trunk.module, head, None, normalize)
