"""PSPNet: any backbone at output stride 8 under a pyramid pooling head."""

from pathlib import Path

from fakd.models.backbones import build_backbone
from fakd.models.encoder_decoder import EncoderDecoder
from fakd.models.heads import FCNHead, PSPHead
from fakd.models.weights import load_imagenet


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
        channels: width of the feature before the classifier; by default 512 for backbones that end
            in 1024 channels or more, else 128.
        auxiliary: whether training has a second, half as wide head on the stage before the last.
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
    arguments = {
        "backbone": backbone,
        "classes": classes,
        "channels": channels,
        "auxiliary": auxiliary,
        "dropout": dropout,
        "output_stride": output_stride,
        "align_corners": align_corners,
    }
    config = {"class_path": "fakd.models.pspnet", "init_args": arguments}
    return EncoderDecoder(trunk.module, head, side, normalize, config, weights, align_corners)
