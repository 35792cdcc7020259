"""Load and write mmsegmentation checkpoints of the paper's networks."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from fakd.errors import InputError
from fakd.files import expand_user
from fakd.models.mmseg.renaming import from_mmseg, to_mmseg_names
from fakd.models.mmseg.unpickle import load_pickled
from fakd.models.paper import EncoderDecoder, deeplabv3plus, fcn_hrnet, isanet, pspnet
from fakd.models.state import network_state
from fakd.models.weights import misfits, require_finite

BACKBONES = {
    "mobilenetv2": (("layer7.0",), ()),
    "resnet101": (("stem", "layer3.22"), ()),
    "resnet18": (("stem", "layer4.1"), ("layer1.0.conv3",)),
    "resnet18b": (("conv1", "layer4.1"), ("stem", "layer1.0.conv3")),
    "hrnet_w48": (("stage4.2",), ()),
    "hrnet_w18s": (("stage4.1",), ("stage4.2",)),
}
"""Layers that identify a backbone: those present, and those absent; the first match counts."""

HASH = re.compile(r"-([0-9a-f]{8})\.pth")
"""The end of a published file's name: the first digits of its SHA-256."""


def load_mmseg(
    source: Path | str | Mapping[str, Any], *, align_corners: bool | None = None
) -> EncoderDecoder:
    """Load a checkpoint of mmsegmentation into the equivalent network of fakd, in evaluation mode.

    Network, backbone, widths and class count are inferred from the entries. Class names and
    palette, if the file has them, become ``class_names`` and ``palette`` of the result.

    Args:
        source: a .pth file, or its content: a state dictionary, alone or under ``state_dict``.
        align_corners: how the network interpolates; by default True if the file's name contains
            769x769, as those recipes align corners, else False.

    Raises:
        InputError: the file is damaged, would run code, or holds another network.
    """
    if isinstance(source, Mapping):
        name, checkpoint = "the state dictionary", source
    else:
        name, checkpoint = str(source), read(expand_user(source))
    if not isinstance(checkpoint, Mapping):
        raise InputError(f"{name} must be a dictionary, got {type(checkpoint).__name__}")
    state = network_state(checkpoint, name)
    aligned = "769x769" in Path(name).name if align_corners is None else align_corners
    network = build(state, aligned, name)
    backbone = backbone_of(network)
    problems = misfits(to_mmseg_names(network.state_dict(), backbone), state)
    if problems:
        kind = str((network.config or {}).get("class_path", "")).rpartition(".")[2]
        raise InputError(
            f"{name} must hold exactly the entries of {kind} on {backbone}, but does not: "
            f"{'; '.join(problems)}; choose a checkpoint of one of the paper's networks"
        )
    renamed = from_mmseg(state, backbone)
    require_finite(network, renamed, name)
    network.load_state_dict(renamed)
    describe(network, checkpoint.get("meta"))
    if isinstance(source, Path | str):
        arguments = {"source": str(source), "align_corners": aligned}
        network.origin = {"class_path": "fakd.models.load_mmseg", "init_args": arguments}
    return network.eval()


def to_mmseg(network: EncoderDecoder) -> dict[str, Tensor]:
    """Return a network's state dictionary with mmsegmentation's names.

    Args:
        network: one of the paper's networks, on one of the paper's backbones.

    Raises:
        InputError: mmsegmentation's names for its backbone are not known.
    """
    return to_mmseg_names(network.state_dict(), backbone_of(network))


def read(path: Path) -> Any:
    """Read a checkpoint after checking it against the SHA-256 digits in its name."""
    if not path.is_file():
        raise InputError(f"a checkpoint must be a .pth file, got {path}, which does not exist")
    digits = HASH.search(path.name)
    if digits is not None:
        with open(path, "rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if not found.startswith(digits[1]):
            raise InputError(
                f"{path} must have the SHA-256 {digits[1]}... of its name, got "
                f"{found[:8]}...; the file is damaged, download it again"
            )
    return load_pickled(path)


def build(state: Mapping[str, Tensor], align_corners: bool, source: str) -> EncoderDecoder:
    """Build the network that these entries belong to, with widths inferred from their shapes."""
    backbone = find_backbone(state)
    head = {name.split(".")[1] for name in state if name.startswith("decode_head.")}
    classifier = state.get("decode_head.conv_seg.weight")
    if backbone is not None and classifier is not None:
        classes, channels = classifier.shape[:2]
        if backbone.startswith("hrnet") and "convs" in head:
            return fcn_hrnet(backbone, classes, channels=channels)
        options: dict[str, Any] = {"channels": channels, "align_corners": align_corners}
        options["auxiliary"] = any(name.startswith("auxiliary_head.") for name in state)
        if "psp_modules" in head:
            return pspnet(backbone, classes, **options)
        if "c1_bottleneck" in head and "aspp_modules" in head:
            detail = width(state, "decode_head.c1_bottleneck.conv.weight")
            return deeplabv3plus(backbone, classes, detail=detail, **options)
        if "global_relation" in head:
            attention = width(state, "decode_head.global_relation.key_project.0.conv.weight")
            return isanet(backbone, classes, attention_channels=attention, **options)
    known = "PSPNet, DeepLabV3+, ISANet or FCN-HRNet on one of " + ", ".join(BACKBONES)
    raise InputError(
        f"{source} must hold {known}, with decode_head.conv_seg.weight, but holds {len(state)} "
        f"entries such as {', '.join(list(state)[:2])}; choose a checkpoint of such a network, "
        "or name the code that builds its network: --teacher.network net.py:FUNCTION"
    )


def find_backbone(state: Mapping[str, Tensor]) -> str | None:
    """Return the paper's name of the backbone that these entries belong to."""

    def has(layer: str) -> bool:
        return any(name.startswith(f"backbone.{layer}.") for name in state)

    for name, (present, absent) in BACKBONES.items():
        if all(map(has, present)) and not any(map(has, absent)):
            return name
    return None


def width(state: Mapping[str, Tensor], name: str) -> int:
    """Return a convolution's output channels; 1 if it is missing, which is reported later."""
    return state[name].shape[0] if name in state else 1


def describe(network: EncoderDecoder, meta: object) -> None:
    """Set the network's class names and palette from a checkpoint's ``meta``."""
    meta = meta if isinstance(meta, Mapping) else {}
    newer = meta.get("dataset_meta")
    meta = {**meta, **(newer if isinstance(newer, Mapping) else {})}
    names = meta.get("CLASSES", meta.get("classes"))
    palette = meta.get("PALETTE", meta.get("palette"))
    # Ignored unless there is one entry per class.
    if isinstance(names, Sequence) and len(names) == network.classes:
        network.class_names = tuple(str(name).strip() for name in names)
    if isinstance(palette, Sequence) and len(palette) == network.classes:
        network.palette = tuple((int(r), int(g), int(b)) for r, g, b in palette)


def backbone_of(network: EncoderDecoder) -> str:
    """Return the paper's name of a network's backbone."""
    backbone = (network.config or {}).get("init_args", {}).get("backbone")
    if backbone not in BACKBONES:
        raise InputError(
            f"backbone must be one of {', '.join(BACKBONES)} for mmsegmentation, got {backbone}; "
            "save the network as .safetensors instead"
        )
    return str(backbone)
