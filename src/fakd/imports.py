"""Importing what a class path names, and whose code the user has allowed."""

import difflib
import hashlib
import inspect
import os
import re
import sys
import sysconfig
from collections.abc import Iterable
from importlib import import_module
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from fakd.errors import InputError

LIBRARIES = ("segmentation_models_pytorch", "timm", "torchvision", "transformers")
IN_FILE = re.compile(r"(?P<file>.+\.py):(?P<name>[A-Za-z_]\w*)")
"""A function in a file, ``path/to/net.py:function``; it stands wherever a class path may."""
_EXTRAS = {
    "transformers": "transformers",
    "segmentation_models_pytorch": "smp",
    "onnxruntime": "onnx",
    "huggingface_hub": "hub",
    "onnx": "export",
    "onnxscript": "export",
    "openvino": "openvino",
    "av": "video",
}
_allowed: set[str] = set()


def allow(*names: str) -> None:
    """Let files ask for the caller's own code: class paths, modules, packages, or .py files."""
    _allowed.update(names)


def is_allowed(path: str) -> bool:
    """Tell whether the user named or allowed a class path, in this process."""
    if (inside := IN_FILE.fullmatch(path)) is not None:
        return _allowed_file(inside["file"]) is not None
    return any(path == name or path.startswith(f"{name}.") for name in _allowed)


def _allowed_file(file: str) -> str | None:
    """Find the allowed file of that path, else of that name: where it lies may have changed."""
    files = [name.partition(".py:")[0].removesuffix(".py") + ".py" for name in sorted(_allowed)]
    same = [each for each in files if Path(each).name == Path(file).name]
    return file if file in same else next(iter(same), None)


def nearest(wrong: str, known: Iterable[str], otherwise: str = "", cutoff: float = 0.5) -> str:
    """Ask for the known name that a mistyped one is closest to.

    >>> nearest("psnet", ["pspnet", "isanet"])
    '; did you mean pspnet?'
    """
    found = difflib.get_close_matches(wrong, list(known), 1, cutoff)
    return f"; did you mean {found[0]}?" if found else otherwise


def require_library(name: str) -> None:
    """Refuse what an optional library is missing for, without importing it.

    Raises:
        InputError: names the line that installs it.
    """
    if find_spec(name) is None:
        extra = _EXTRAS.get(name)
        line = f"pip install 'fakd[{extra}]'" if extra else f"pip install {name}"
        raise InputError(f"this needs {name}, which is not installed; {line}")


def find(path: str) -> Any:
    """Import what a class path names, or a function in a file, ``path/to/net.py:function``.

    Raises:
        InputError: there is no such module or file, or nothing of that name in it, or it is of
            Python's own library.

    >>> find("fakd.errors.InputError")
    <class 'fakd.errors.InputError'>
    """
    if (inside := IN_FILE.fullmatch(path)) is not None:
        name, owner = inside["name"], _file_module(_allowed_file(inside["file"]) or inside["file"])
    else:
        module, _, name = path.rpartition(".")
        if not module:
            raise InputError(f"expected a dotted path such as fakd.models.pspnet, got {path!r}")
        owner = _module(module, path)
    try:
        found = getattr(owner, name)
    except AttributeError as error:
        known = getattr(owner, "__all__", None) or vars(owner)
        raise InputError(f"there is no {path}{nearest(name, known)}") from error
    if _is_pythons_own(found):
        raise InputError(
            f"{path} comes with Python itself, where there are no networks, losses, data or "
            "transforms; it was not run"
        )
    return found


def _is_pythons_own(found: Any) -> bool:
    """Tell what nobody means in a recipe, and somebody might to do harm, such as os.system."""
    if not (isinstance(found, type) or inspect.isroutine(found)):
        return False
    module = sys.modules.get(found.__module__ or "builtins")
    file = getattr(module, "__file__", None)
    inside = file is None or Path(file).is_relative_to(sysconfig.get_paths()["stdlib"])
    root = (found.__module__ or "builtins").partition(".")[0]
    return root in sys.stdlib_module_names and inside


def _module(module: str, path: str) -> Any:
    if module.partition(".")[0] not in ("fakd", *LIBRARIES):
        _look_in(os.getcwd())
    try:
        return import_module(module)
    except SyntaxError as error:
        raise InputError(f"{path} cannot be imported: {error}") from error
    except ImportError as error:
        # Either there is no such module, which may be a class instead, or one that it imports.
        itself = f"{module}.".startswith(f"{error.name}.") if error.name else False
        if module in LIBRARIES and itself:
            require_library(module)
        if "." not in module or not itself:
            raise InputError(f"{path} cannot be imported: {error}") from error
        return find(module)


def _file_module(file: str) -> ModuleType:
    """Run a file once; what lies beside it can be imported in it."""
    whole = Path(file).expanduser().resolve()
    if not whole.is_file():
        raise InputError(f"{file} does not exist; name the .py file that has the function")
    name = f"{whole.stem}_{hashlib.sha256(str(whole).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = spec_from_file_location(name, whole)
    if spec is None or spec.loader is None:
        raise InputError(f"{file} cannot be imported; name a .py file")
    module = module_from_spec(spec)
    _look_in(str(whole.parent))
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise InputError(f"{file} cannot be imported: {type(error).__name__}: {error}") from error
    return module


def _look_in(folder: str) -> None:
    """Let Python look for modules in one more folder, last."""
    if folder not in sys.path:
        sys.path.append(folder)
