"""FCN on HRNet: the four resolutions of HRNetV2, concatenated and classified at stride 4."""

from pathlib import Path

from fakd.models.backbones import build_backbone
from fakd.models.encoder_decoder import EncoderDecoder
from fakd.models.heads import FCNHead
from fakd.models.weights import load_imagenet


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
        channels: width of the feature before the classifier; by default that of all stages
            together, as in the paper.
        dropout: share of feature channels dropped in training, none in the paper.
        weights: 'imagenet', or a file with ImageNet weights of the backbone; random if not given.
    """
    trunk = build_backbone(backbone, output_stride=None)
    width = sum(trunk.channels) if channels is None else channels
    head = FCNHead(trunk.channels, (0, 1, 2, 3), width, classes, dropout, kernel_size=1)
    normalize = load_imagenet(trunk, weights)
    arguments = {
        "backbone": backbone,
        "classes": classes,
        "channels": channels,
        "dropout": dropout,
    }
    config = {"class_path": "fakd.models.fcn_hrnet", "init_args": arguments}
    return EncoderDecoder(trunk.module, head, None, normalize, config, weights)
