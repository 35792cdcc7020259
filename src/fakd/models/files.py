"""Save and load networks: weights in safetensors, the network's configuration in its metadata."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fakd import specs
from fakd.errors import InputError
from fakd.files import describe_bad_download, expand_user, replace_folder, write_atomically
from fakd.models.foreign.adapted import Adapted
from fakd.models.foreign.adaption import adapt
from fakd.models.foreign.libraries import save_own
from fakd.models.foreign.opening import open_network
from fakd.models.mmseg.checkpoint import load_mmseg
from fakd.models.normalize import Normalize
from fakd.models.state import network_state
from fakd.models.weights import load_strictly, read_file
from fakd.sources import resolve
from fakd.types import Segmenter

FORMAT = 1
"""Version of the metadata, incremented when old readers would misread the new format."""

KEY = "fakd"
"""The single metadata entry, as JSON. Two entries would make files of equal networks differ, since
safetensors does not keep their order."""

FINISHED = "best.safetensors"
"""File of the best network in a run folder."""

SHARED = "model.safetensors"
"""Weights file in a folder written by `fakd.save_pretrained`."""

CHECKPOINT = ".pth"
"""Suffix of mmsegmentation's checkpoints."""

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class NetworkInfo:
    """Metadata of a saved network."""

    class_names: tuple[str, ...] | None
    palette: tuple[Colour, ...] | None
    config: dict[str, Any] | None
    """Specification that builds the network; None if only the caller can build it."""
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    """The input statistics; None if the network does not normalise with `Normalize`."""
    fakd_version: str
    extra: dict[str, Any] = field(default_factory=dict)
    """Additional entries of the writer: scores, recipe, origin."""


def save(
    network: Segmenter,
    path: Path | str,
    *,
    class_names: Sequence[str] | None,
    palette: Sequence[Sequence[int]] | None,
    extra: Mapping[str, Any] | None = None,
    own_format: bool = False,
) -> None:
    """Write a network to one .safetensors file, with all that is needed to load it again.

    Args:
        network: the network; its ``config`` specifies how to rebuild it.
        path: the file; its folder must exist.
        class_names: one per class, in order of their ids.
        palette: one RGB colour per class.
        extra: additional metadata, plain JSON.
        own_format: also write a network of transformers or segmentation_models_pytorch in that
            library's format, to a folder with the file's name without its suffix.
    """
    for name, given in (("class_names", class_names), ("palette", palette)):
        if given is not None and len(given) != network.classes:
            raise InputError(
                f"{name} must have one entry for each of the network's {network.classes} classes, "
                f"got {len(given)}; give those of the data set that the network was trained on"
            )
    normalize = getattr(network, "normalize", None)
    statistics = normalize if isinstance(normalize, Normalize) else None
    information = {
        "format": FORMAT,
        "config": network.config,
        "class_names": None if class_names is None else list(class_names),
        "palette": None if palette is None else [list(colour) for colour in palette],
        "mean": statistics.mean.flatten().tolist() if statistics else None,
        "std": statistics.std.flatten().tolist() if statistics else None,
        "fakd_version": own_version(),
        "extra": dict(extra or {}),
    }
    tensors = {
        name: tensor.detach().to("cpu").clone(memory_format=torch.contiguous_format)
        for name, tensor in network.state_dict().items()
    }
    metadata = {KEY: json.dumps(information)}
    write_atomically(expand_user(path), lambda file: save_file(tensors, file, metadata=metadata))
    if own_format and isinstance(network, Adapted):
        folder = expand_user(path).with_suffix("")
        replace_folder(folder, lambda new: save_own(network.network, new, class_names))


def load(
    path: Path | str,
    network: Segmenter | nn.Module | None = None,
    *,
    allow: str | Sequence[str] = (),
) -> Segmenter:
    """Load a finished network, in evaluation mode.

    Args:
        path: a .safetensors file, the folder of a finished run, a .pth checkpoint of
            mmsegmentation, which `load_mmseg` recognises, or any name of a network, such as
            hf:FOLDER or FILE.onnx; see `fakd.sources.resolve`. With ``network`` also a plain state
            dictionary, .safetensors or saved by PyTorch.
        network: the network to load into; needed only if the file does not specify one.
        allow: class paths or modules of your own that the file may use; those of fakd, timm,
            torchvision, transformers and segmentation_models_pytorch are always allowed.

    Raises:
        InputError: there is no such file, it holds another network, or it needs ``network``.
    """
    meant = resolve(str(path))
    if network is None and meant["class_path"] != "fakd.models.load":
        return open_network(path).eval()
    if network is None and is_pickled(expand_user(path)):
        return load_mmseg(path)
    specs.allow(*([allow] if isinstance(allow, str) else allow))
    if network is not None and is_plain(expand_user(path)):
        return load_plain(expand_user(path), network)
    file = find(expand_user(path))
    information = read_info(file)
    network = build(information.config, file) if network is None else adapt(network)
    load_strictly(network, upgrade_names(load_file(file), network), file)
    if hasattr(network, "normalize"):
        network.normalize = normalization(information).to(next(network.parameters()).device)
    for key in ("class_names", "palette"):
        named = getattr(information, key)
        if named is not None and len(named) != network.classes:
            raise InputError(
                f"the metadata of {file} are damaged: {len(named)} {key} for {network.classes} "
                "classes; save the network again"
            )
    network.class_names, network.palette = information.class_names, information.palette
    network.extra = information.extra
    network.origin = specs.make_spec("fakd.models.load", path=str(path))
    return network.eval()


def is_pickled(path: Path) -> bool:
    """Return whether a file was saved by ``torch.save``, under any name."""
    if path.suffix in (CHECKPOINT, ".safetensors") or not path.is_file():
        return path.suffix == CHECKPOINT
    with path.open("rb") as file:
        return file.read(4)[:2] in (b"PK", b"\x80\x02")


def upgrade_names(state: dict[str, Tensor], network: Segmenter) -> dict[str, Tensor]:
    """Remove the prefix that version 0.1 wrote before weight names of an external network."""
    if isinstance(network, Adapted) and all(name.startswith("network.") for name in state):
        former = {name.removeprefix("network."): tensor for name, tensor in state.items()}
        return former if former.keys() == network.state_dict().keys() else state
    return state


def is_plain(path: Path) -> bool:
    """Return whether a file holds tensors only, without the metadata of fakd."""
    if not path.is_file() or path.suffix != ".safetensors":
        return path.is_file()
    with suppress(SafetensorError, OSError), safe_open(path, framework="pt") as content:
        return KEY not in (content.metadata() or {})
    return False


def load_plain(path: Path, network: Segmenter | nn.Module) -> Segmenter:
    """Load a plain state dictionary into the network it belongs to."""
    foreign = network.network if isinstance(network, Adapted) else network
    content = read_file(path)
    own = isinstance(content, Mapping) and content.keys() == foreign.state_dict().keys()
    load_strictly(foreign, content if own else network_state(content, str(path)), path)
    inner = network.origin if isinstance(network, Adapted) else specs.spec_of(foreign)
    made = adapt(network)
    if inner is not None:
        made.origin = specs.make_spec("fakd.models.load", path=str(path), network=inner)
    return made.eval()


def read_info(path: Path | str) -> NetworkInfo:
    """Read the metadata of a saved network, without its weights.

    Args:
        path: a .safetensors file, or the folder of a finished run.
    """
    file = find(expand_user(path))
    try:
        with safe_open(file, framework="pt") as content:
            metadata = content.metadata() or {}
        information = json.loads(metadata[KEY])
    except (SafetensorError, OSError) as error:
        reason = f"it is damaged or of another format ({error}); save it again"
        raise InputError(
            f"{file} must be a .safetensors file: {describe_bad_download(file, reason)}"
        ) from error
    except (KeyError, ValueError) as error:
        raise InputError(
            f"{file} must have been saved by fakd, but lacks its metadata; build the "
            "network yourself and load the weights with torch"
        ) from error
    try:
        found = information["format"]
        if found == FORMAT:
            return _info(information)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise InputError(
            f"the metadata of {file} are damaged ({reason}); save the network again, or build it "
            "yourself and load the weights with torch"
        ) from error
    raise InputError(
        f"{file} must have format {FORMAT}, got {found}; it comes from another version of fakd "
        f"({information.get('fakd_version')}), use that one"
    )


def _info(information: Mapping[str, Any]) -> NetworkInfo:
    """Parse metadata; malformed entries raise builtin errors."""
    names, palette, extra = (information[key] for key in ("class_names", "palette", "extra"))
    mean, std = (
        None if information[key] is None else tuple(float(each) for each in information[key])
        for key in ("mean", "std")
    )
    if {len(given or ()) for given in (mean, std)} not in ({0}, {1}, {3}):
        raise ValueError(f"mean and std {mean} and {std}")
    if names is not None and not all(isinstance(name, str) for name in names):
        raise TypeError(f"class_names {names}")
    return NetworkInfo(
        class_names=None if names is None else tuple(names),
        palette=None if palette is None else tuple((int(r), int(g), int(b)) for r, g, b in palette),
        config=information["config"],
        mean=mean,
        std=std,
        fakd_version=str(information["fakd_version"]),
        extra=dict(extra),
    )


def find(path: Path) -> Path:
    """Return the network's file: the path itself, or the file in a run's or shared folder."""
    file = path
    if path.is_dir():
        shared = (path / SHARED).is_file() and not (path / FINISHED).is_file()
        file = path / (SHARED if shared else FINISHED)
    if is_pickled(file):
        raise InputError(
            f"a saved network must be a .safetensors file or a run folder, got {path}; convert a "
            "checkpoint of mmsegmentation with fakd.models.import_mmseg"
        )
    if file.is_file():
        return file
    raise InputError(
        f"a network must be a .safetensors file or a run folder with {FINISHED}, got {path}, "
        f"where there is no {file.name}; finish the run or check the path"
    )


def normalization(information: NetworkInfo) -> nn.Module:
    """Build the input normalisation of a saved network."""
    if information.mean is None or information.std is None:
        return nn.Identity()
    return Normalize(information.mean, information.std)


def build(config: dict[str, Any] | None, file: Path) -> Segmenter:
    """Build the network that a file specifies, if the classes it names are allowed."""
    if config is None or not specs.is_spec(config):
        raise InputError(
            f"{file} must specify how to build its network, got {config}; build the network "
            "yourself and pass it: fakd.load(path, network=...)"
        )
    try:
        network = specs.build(config, asked_by="it")
    except InputError as error:
        raise InputError(f"{file} must specify how to build its network: {error}") from error
    if not isinstance(network, nn.Module):
        raise InputError(f"{file} must specify a network, got {config}")
    return adapt(network)


def own_version() -> str:
    """Return this package's version."""
    try:
        return version("fakd")
    except PackageNotFoundError:
        return "not installed"
