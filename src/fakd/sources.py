"""Names of networks from any source, such as hf:FOLDER or FILE.onnx, and the specs they mean."""

import json
import re
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import yaml

from fakd.errors import InputError
from fakd.imports import BUILDERS, IN_FILE, LIBRARIES, _append_search_path, nearest, require_library

SCHEMES = {
    "hf": "transformers",
    "smp": "segmentation_models_pytorch",
    "torchvision": "torchvision",
    "timm": "timm",
}
EXPORTED = (".onnx", ".pt2", ".torchscript", ".ts", ".xml")
GUARANTEE, REJECTED = "guarantee.json", ".rejected"
"""File with an export's guarantee, and the suffix of exports that are worse than their student."""
_LOADED = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar")
_QUERIED = re.compile(r"(?P<name>[A-Za-z_]\w*(\.[A-Za-z_]\w*)*)\?(?P<query>.+)")
"""A network of this package, or a class path, with arguments."""
IN_MODULE = re.compile(r"(?P<module>[A-Za-z_][\w.]*):(?P<name>[A-Za-z_]\w*)")
_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?")
Spec = dict[str, Any]


def make_spec(class_path: str, **arguments: Any) -> Spec:
    """Build a spec from a class path and arguments."""
    return {"class_path": class_path, "init_args": arguments}


def is_source(word: str) -> bool:
    """Return whether a word names a network by a scheme, a code or weights file, or arguments."""
    ending = word.endswith((*EXPORTED, *_LOADED))
    return ":" in word or ending or _QUERIED.fullmatch(word) is not None


def resolve(word: str) -> Spec:
    """Convert a network's name to a spec, without opening it.

    ``hf:FOLDER``, ``hf:ID``, ``smp:Unet?encoder_name=resnet18``, ``smp:FOLDER``,
    ``torchvision:deeplabv3_resnet50?weights=NAME``, ``timm:NAME``, ``pspnet?backbone=resnet18``,
    ``package.module.Class?width=8``, ``net.py:function``, ``package.module:function``,
    ``FILE.onnx``, ``FILE.pt`` of TorchScript, ``FILE.pt2`` of `torch.export`; a folder that
    transformers or segmentation_models_pytorch saved; else a finished run or a file of weights.

    Raises:
        InputError: there is no such scheme, file or module, or a library is missing.

    >>> resolve("torchvision:fcn_resnet50?aux_loss=true")["init_args"]
    {'weights_backbone': None, 'aux_loss': True}
    """
    if (asked := _QUERIED.fullmatch(word)) is not None:
        return _with_arguments(asked["name"], asked["query"])
    if word in BUILDERS and not Path(word).exists():
        return make_spec(f"fakd.models.{word}")
    scheme, colon, rest = word.partition(":")
    if colon and scheme in SCHEMES:
        require_library(SCHEMES[scheme])
        name, _, query = rest.partition("?")
        given = _arguments(query)
        if not name:
            raise InputError(
                f"{word}: expected a name after {scheme}:, such as {_EXAMPLES[scheme]}"
            )
        return _of_library(scheme, name, given)
    if (inside := IN_FILE.fullmatch(word)) is not None:
        if not Path(inside["file"]).expanduser().is_file():
            raise InputError(
                f"{inside['file']} does not exist; give the .py file with the function"
            )
        return make_spec(word)
    if colon and not Path(word).exists():
        return _in_module(word)
    return _at_path(word)


def _arguments(query: str) -> dict[str, Any]:
    return {key: yaml.safe_load(value) for key, value in parse_qsl(query, True)}


def _with_arguments(name: str, query: str) -> Spec:
    if "." not in name and name not in BUILDERS:
        listed = f"; those of fakd are {', '.join(BUILDERS)}"
        raise InputError(f"there is no network {name}{nearest(name, BUILDERS, listed)}")
    return make_spec(name if "." in name else f"fakd.models.{name}", **_arguments(query))


_EXAMPLES = {
    "hf": "hf:FOLDER",
    "smp": "smp:Unet?encoder_name=resnet18",
    "torchvision": "torchvision:deeplabv3_resnet50",
    "timm": "timm:resnet50",
}


def _of_library(scheme: str, name: str, given: Mapping[str, Any]) -> Spec:
    if scheme == "timm":
        head = given.get("head", "pspnet")
        if head not in BUILDERS:
            hint = nearest(str(head), BUILDERS, f"; choose one of {', '.join(BUILDERS)}")
            raise InputError(f"{scheme}:{name}: there is no head {head}{hint}")
        others = {key: value for key, value in given.items() if key != "head"}
        return make_spec(f"fakd.models.{head}", backbone=f"timm/{name}", **others)
    if scheme == "torchvision":
        # Nothing is downloaded unless requested.
        defaults = {} if given.get("weights") else {"weights_backbone": None}
        return make_spec(f"torchvision.models.segmentation.{name}", **{**defaults, **given})
    if scheme == "smp" and "/" not in name and not Path(name).exists():
        return make_spec(
            f"segmentation_models_pytorch.{name}", **{"encoder_weights": None, **given}
        )
    if not Path(name).expanduser().exists() and not _HUB_ID.fullmatch(name):
        raise InputError(f"{name} does not exist; give a folder or an id of the hub")
    opener = "open_transformers" if scheme == "hf" else "open_smp"
    return make_spec(f"fakd.models.{opener}", source=name, **given)


def _in_module(word: str) -> Spec:
    inside = IN_MODULE.fullmatch(word)
    if inside is not None:
        root = inside["module"].partition(".")[0]
        if root not in LIBRARIES:
            _append_search_path(str(Path.cwd()))
        if find_spec(root) is not None:
            return make_spec(f"{inside['module']}.{inside['name']}")
    known = ", ".join(f"{each}:" for each in SCHEMES)
    scheme = word.partition(":")[0]
    raise InputError(
        f"{word}: there is no module {scheme} and no such source{nearest(scheme, SCHEMES)}; "
        f"sources are {known} FILE.py:FUNCTION and MODULE:FUNCTION"
    )


def _at_path(word: str) -> Spec:
    path = Path(word).expanduser()
    _refuse_rejected(path)
    if path.suffix == ".py":
        raise InputError(f"{word} may hold several networks; add the function: {word}:FUNCTION")
    if path.is_dir() and (kind := _saving_library(path)) is not None:
        require_library(SCHEMES[kind])
        return _of_library(kind, word, {})
    if path.suffix in EXPORTED or (path.is_file() and _is_torchscript(path)):
        if not path.is_file():
            raise InputError(f"{word} does not exist; give the file of an exported network")
        if path.suffix == ".onnx":
            require_library("onnxruntime")
        return make_spec("fakd.models.open_exported", path=word)
    return make_spec("fakd.models.load", path=word)


def _refuse_rejected(path: Path) -> None:
    """Raise an error if an export was rejected; its name may lack the suffix of rejected files."""
    meant = path.with_suffix("") if path.suffix == REJECTED else path
    rejected = Path(f"{meant}{REJECTED}")
    if meant.suffix not in EXPORTED or not rejected.is_file() or (path == meant and path.exists()):
        return
    why = "its guarantee did not hold"
    with suppress(OSError, ValueError, KeyError, TypeError):
        told = json.loads((path.parent / f"{GUARANTEE}{REJECTED}").read_text(encoding="utf-8"))
        sides = [f"{told['guarantee'][side]['miou']:.2f}" for side in ("file", "student")]
        why = f"it scores {sides[0]} mIoU and its student {sides[1]}"
    raise InputError(
        f"{rejected} was rejected when it was exported: {why} (see card.md{REJECTED} next to it); "
        f"rename it to {meant.name} to use it anyway"
    )


def _saving_library(folder: Path) -> str | None:
    """Return the scheme of the library that saved a folder; None if neither did."""
    try:
        content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(content, dict):
        return None
    return "hf" if "model_type" in content else "smp" if "_model_class" in content else None


def _is_torchscript(file: Path) -> bool:
    """Return whether a file is an exported program, with code, instead of a file of tensors."""
    if file.suffix not in (".pt", ".pth") or not zipfile.is_zipfile(file):
        return False
    with zipfile.ZipFile(file) as content:
        return any("/code/" in name for name in content.namelist())
