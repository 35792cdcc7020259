"""A small network with high-resolution logits: a backbone's first stages at the finest stride."""

from pathlib import Path
from typing import Any

import timm
from timm.models.efficientnet import EfficientNetFeatures
from timm.models.mobilenetv3 import MobileNetV3Features

from fakd.errors import InputError
from fakd.models.backbones import Architecture, Backbone, find_architecture
from fakd.models.heads import HypercolumnHead
from fakd.models.paper import EncoderDecoder, records_spec
from fakd.models.weights import load_imagenet


@records_spec
def hypercolumns(
    backbone: str,
    classes: int,
    *,
    strides: tuple[int, ...] = (2, 4, 8, 16),
    channels: int = 64,
    weights: str | Path | None = None,
) -> EncoderDecoder:
    """Build hypercolumns of a backbone's first stages. Hariharan et al., 2015 (arXiv 1411.5752).

    Layers after the coarsest of these stages, most of a classification network's weights, are
    removed. Logits have the finest stride, which objects of a few pixels need.

    Args:
        backbone: any model name of timm with stages, such as tf_efficientnet_lite0.
        classes: number of classes.
        strides: the stages to read, fine to coarse.
        channels: width of the feature before the classifier.
        weights: 'imagenet', or a file with ImageNet weights of the backbone; random if not given.

    Raises:
        InputError: the backbone lacks a stage of one of the strides.
    """
    architecture = find_architecture(backbone)
    there = _features(architecture).feature_info.reduction()
    if not strides or list(strides) != sorted(set(strides) & set(there)):
        raise InputError(
            f"strides must be some of {', '.join(map(str, there))}, fine to coarse, the strides of "
            f"backbone '{backbone}'; got {', '.join(map(str, strides)) or 'none'}"
        )
    module = _features(architecture, tuple(there.index(stride) for stride in strides))
    info = module.feature_info
    if isinstance(module, EfficientNetFeatures | MobileNetV3Features):
        # For other backbones, timm itself drops the blocks after the last requested stage.
        del module.blocks[info.get_dicts()[-1]["stage"] :]
    trunk = Backbone(module, tuple(info.channels()), strides, architecture)
    head = HypercolumnHead(trunk.channels, channels, classes)
    normalize = load_imagenet(trunk, weights)
    return EncoderDecoder(module, head, None, normalize)


def _features(architecture: Architecture, stages: tuple[int, ...] | None = None) -> Any:
    return timm.create_model(
        architecture.timm_name,
        pretrained=False,
        features_only=True,
        out_indices=stages,
        **architecture.arguments,
    )
