"""The names of mmsegmentation's state dictionaries and ours, in both directions.

Heads and HRNets have the same names on both sides; ResNets differ in the deep stem, MobileNetV2
everywhere.
"""

import re
from collections.abc import Callable, Mapping

from torch import Tensor

DEEP_STEM = ("resnet101", "resnet18")

STAGE = re.compile(r"layer(\d)\.(\d+)\.conv\.(\d)\.(conv|bn)\.(.+)")
BLOCK = re.compile(r"blocks\.(\d)\.(\d+)\.(conv_dw|conv_pwl|conv_pw|bn\d)\.(.+)")

FIRST_STAGE = ("conv_dw", "conv_pw")
OTHER_STAGES = ("conv_pw", "conv_dw", "conv_pwl")
"""timm's names of a block's convolutions in order; each is followed by bn1, bn2, bn3 likewise."""

PREFIX = "backbone."


def from_mmseg(state: Mapping[str, Tensor], backbone: str) -> dict[str, Tensor]:
    """Rename a state dictionary of mmsegmentation to ours.

    Args:
        state: by mmsegmentation's names.
        backbone: the paper's name of the backbone, a key of `fakd.models.backbones.PAPER`.
    """
    return rename(state, {"mobilenetv2": mobilenet_to_timm}, stem_to_timm, backbone)


def to_mmseg_names(state: Mapping[str, Tensor], backbone: str) -> dict[str, Tensor]:
    """Rename a state dictionary of ours to mmsegmentation's names; the inverse of `from_mmseg`."""
    return rename(state, {"mobilenetv2": mobilenet_to_mmseg}, stem_to_mmseg, backbone)


def rename(
    state: Mapping[str, Tensor],
    special: Mapping[str, Callable[[str], str]],
    stem: Callable[[str], str],
    backbone: str,
) -> dict[str, Tensor]:
    """Apply the rule of a backbone to the names that start with ``backbone.``."""
    rule = special.get(backbone, stem if backbone in DEEP_STEM else str)
    return {
        PREFIX + rule(name.removeprefix(PREFIX)) if name.startswith(PREFIX) else name: tensor
        for name, tensor in state.items()
    }


def stem_to_timm(name: str) -> str:
    """Rename the deep stem of a ResNet: its last batch norm is a layer of its own in timm."""
    if name.startswith("stem.7."):
        return name.replace("stem.7.", "bn1.", 1)
    return re.sub(r"^stem\.", "conv1.", name)


def stem_to_mmseg(name: str) -> str:
    """Undo `stem_to_timm`."""
    if name.startswith("bn1."):
        return name.replace("bn1.", "stem.7.", 1)
    return re.sub(r"^conv1\.", "stem.", name)


def mobilenet_to_timm(name: str) -> str:
    """Rename an entry of MobileNetV2; the first stage's block has no expansion."""
    name = re.sub(r"^conv1\.conv\.", "conv_stem.", name)
    name = re.sub(r"^conv1\.bn\.", "bn1.", name)
    found = STAGE.fullmatch(name)
    if found is None:
        return name
    stage, block, layer, kind, rest = found.groups()
    convolutions = FIRST_STAGE if stage == "1" else OTHER_STAGES
    if int(layer) >= len(convolutions):
        return name
    part = convolutions[int(layer)] if kind == "conv" else f"bn{int(layer) + 1}"
    return f"blocks.{int(stage) - 1}.{block}.{part}.{rest}"


def mobilenet_to_mmseg(name: str) -> str:
    """Undo `mobilenet_to_timm`."""
    name = re.sub(r"^conv_stem\.", "conv1.conv.", name)
    name = re.sub(r"^bn1\.", "conv1.bn.", name)
    found = BLOCK.fullmatch(name)
    if found is None:
        return name
    stage, block, part, rest = found.groups()
    convolutions = FIRST_STAGE if stage == "0" else OTHER_STAGES
    if part.startswith("bn"):
        layer, kind = int(part.removeprefix("bn")) - 1, "bn"
    else:
        layer, kind = convolutions.index(part), "conv"
    return f"layer{int(stage) + 1}.{block}.conv.{layer}.{kind}.{rest}"
