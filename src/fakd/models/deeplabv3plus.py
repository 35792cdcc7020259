"""DeepLabV3+: any backbone at output stride 8 under a separable atrous pyramid head."""

from pathlib import Path

from fakd.models.backbones import build_backbone
from fakd.models.encoder_decoder import EncoderDecoder
from fakd.models.heads import FCNHead, SeparableASPPHead
from fakd.models.weights import load_imagenet


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
        channels: width of the feature before the classifier; the paper's 512 for every backbone.
        detail: channels taken from the first stage.
        auxiliary: whether training has a second, half as wide head on the stage before the last.
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
    arguments = {
        "backbone": backbone,
        "classes": classes,
        "channels": channels,
        "detail": detail,
        "auxiliary": auxiliary,
        "dropout": dropout,
        "output_stride": output_stride,
        "align_corners": align_corners,
    }
    config = {"class_path": "fakd.models.deeplabv3plus", "init_args": arguments}
    return EncoderDecoder(trunk.module, head, side, normalize, config, weights, align_corners)
