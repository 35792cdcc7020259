"""Rename entries of state dictionaries between mmsegmentation and fakd, in both directions.

Heads and HRNets have the same names in both; ResNets differ in the deep stem, MobileNetV2
everywhere.
"""

from collections.abc import Mapping

from torch import Tensor

PREFIX = "backbone."


def mobilenet_layers() -> dict[str, str]:
    """Map mmsegmentation's names of MobileNetV2's layers to timm's.

    The first stage's block has no expansion.
    """
    names = {"conv1.conv": "conv_stem", "conv1.bn": "bn1"}
    for stage, blocks in enumerate((1, 2, 3, 4, 3, 3, 1)):
        # In order; each is followed by its batch norm, bn1 to bn3.
        convolutions = ("conv_pw", "conv_dw", "conv_pwl") if stage else ("conv_dw", "conv_pw")
        for block in range(blocks):
            for number, convolution in enumerate(convolutions):
                theirs, ours = f"layer{stage + 1}.{block}.conv.{number}", f"blocks.{stage}.{block}"
                names[f"{theirs}.conv"] = f"{ours}.{convolution}"
                names[f"{theirs}.bn"] = f"{ours}.bn{number + 1}"
    return names


# timm has the last batch norm of a deep stem as a separate layer.
DEEP_STEM = {"stem.7": "bn1"} | {f"stem.{layer}": f"conv1.{layer}" for layer in range(7)}

LAYERS = {
    "resnet101": DEEP_STEM,
    "resnet18": DEEP_STEM,
    "mobilenetv2": mobilenet_layers(),
}
"""For each backbone, mmsegmentation's layer names -> timm's, where they differ."""


def from_mmseg(state: Mapping[str, Tensor], backbone: str) -> dict[str, Tensor]:
    """Rename the entries of a state dictionary of mmsegmentation to fakd's names.

    Args:
        state: keyed by mmsegmentation's names.
        backbone: the paper's name of the backbone, a key of `fakd.models.backbones.PAPER`.
    """
    return rename_backbone(state, LAYERS.get(backbone, {}))


def to_mmseg_names(state: Mapping[str, Tensor], backbone: str) -> dict[str, Tensor]:
    """Rename the entries of a state dictionary to mmsegmentation's names; inverts `from_mmseg`."""
    return rename_backbone(
        state, {ours: theirs for theirs, ours in LAYERS.get(backbone, {}).items()}
    )


def rename_backbone(state: Mapping[str, Tensor], layers: Mapping[str, str]) -> dict[str, Tensor]:
    """Rename the backbone's layers; the last part of an entry's name is kept."""
    renamed = {}
    for name, tensor in state.items():
        layer, _, kind = name.removeprefix(PREFIX).rpartition(".")
        known = name.startswith(PREFIX) and layer in layers
        renamed[f"{PREFIX}{layers[layer]}.{kind}" if known else name] = tensor
    return renamed
