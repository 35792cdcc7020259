"""Importing what a class path names, and whose code the user has allowed."""

import difflib
import hashlib
import inspect
import os
import re
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import MappingProxyType, ModuleType
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
    "datasets": "datasets",
}
BUILDERS = ("deeplabv3plus", "fcn_hrnet", "hypercolumns", "isanet", "pspnet")
"""Those of this package's networks, in `fakd.models`."""
ARCHITECTURES = frozenset(f"fakd.models.{name}" for name in ("adapt", *BUILDERS))
"""What of this package a weights file may ask for: a network without weights."""
OPENERS = ARCHITECTURES | {
    *(
        f"fakd.models.{name}"
        for name in ("load", "load_mmseg", "open_exported", "open_smp", "open_transformers")
    ),
    *(
        f"fakd.data.{name}"
        for name in ("ade20k", "cityscapes", "folder", "pascal_context", "scenes", "voc2012")
    ),
}
"""What the recipe of a run may ask for, too: other files."""

_OF_RECIPES = ("fakd.answers.", "fakd.losses.", "fakd.settings.", "torchvision.transforms.")
"""Where that lies what a recipe is made of besides networks and data."""
_allowed: set[str] = set()
_only_named = False


@contextmanager
def only_named() -> Iterator[None]:
    """Run no code but fakd's, the libraries' and what `allow` names, in the block.

    For commands: their recipes, grids and run folders may be a stranger's. A caller from Python
    means what it passes.
    """
    global _only_named
    before, _only_named = _only_named, True
    try:
        yield
    finally:
        _only_named = before


def allowed() -> tuple[str, ...]:
    """List what the user has named or allowed."""
    return tuple(sorted(_allowed))


def allow(*names: str) -> None:
    """Let files ask for the caller's own code: class paths, modules, packages, or .py files."""
    _allowed.update(names)


def is_allowed(path: str) -> bool:
    """Tell whether the user named or allowed a class path or file, in this process."""
    inside = IN_FILE.fullmatch(path)
    if inside or path.endswith(".py"):
        return _allowed_file(inside["file"] if inside else path) is not None
    return any(path == name or path.startswith(f"{name}.") for name in _allowed)


def _is_own(path: str) -> bool:
    """Tell whether a class path is of neither fakd nor a library it knows."""
    return bool(IN_FILE.fullmatch(path)) or path.partition(".")[0] not in ("fakd", *LIBRARIES)


def require_leave(path: str, given: Mapping[str, Any] = MappingProxyType({})) -> None:
    """Refuse what a command's user has not named and what is made for no recipe.

    Args:
        path: a class path.
        given: its arguments.

    Raises:
        InputError: names the flag that allows it.
    """
    if not _only_named:
        if _is_own(path):
            allow(path)
        return
    names = given.get("allow") if path == "fakd.models.load" else None
    for name in [names] if isinstance(names, str) else names or []:
        if not is_allowed(name):
            raise InputError(_unnamed(name))
    if is_allowed(path) or path in OPENERS or path.startswith(_OF_RECIPES) or is_network(path):
        return
    if not _is_own(path):
        find(path)  # rather says that there is no such thing
    raise InputError(_unnamed(path))


def _unnamed(path: str) -> str:
    code = inside["file"] if (inside := IN_FILE.fullmatch(path)) else path
    return (
        f"{path} is asked for by a file and not by you, and was not run; if you trust it, add "
        f"--code {code}"
    )


def is_network(path: str) -> bool:
    """Tell whether a known library's class path makes a network, or a configuration of one."""
    if path.partition(".")[0] not in LIBRARIES:
        return False
    if path in ("timm.create_model", "segmentation_models_pytorch.create_model"):
        return True
    if path.startswith("torchvision.models.segmentation."):
        builders = find("torchvision.models.list_models")(find("torchvision.models.segmentation"))
        return path.rpartition(".")[2] in builders
    from torch.nn import Module

    found = find(path)
    configuration = path.startswith("transformers.") and path.endswith("Config")
    return inspect.isclass(found) and (configuration or issubclass(found, Module))


def _allowed_file(file: str) -> str | None:
    """Find the allowed file of that path, else of that name: where it lies may have changed."""
    files = [name.partition(".py:")[0].removesuffix(".py") + ".py" for name in sorted(_allowed)]
    same = [each for each in files if Path(each).name == Path(file).name]
    return file if file in same else next(iter(same), None)


def nearest(wrong: str, known: Iterable[str], otherwise: str = "", cutoff: float = 0.5) -> str:
    """Ask for the known name that a mistyped one is closest to.

    Letters decide whether a name is close at all; punctuation helps to choose among the close ones.

    >>> nearest("psnet", ["pspnet", "isanet"]), nearest("channel_kl", ["PixelKL", "ChannelKL"])
    ('; did you mean pspnet?', '; did you mean ChannelKL?')
    >>> nearest("cwdd", ["cwd-td", "cwd"])
    '; did you mean cwd?'
    """
    letters = {each: _likeness(_letters(wrong), _letters(each)) for each in known}
    close = [each for each, likeness in letters.items() if likeness >= cutoff]
    found = max(close, key=lambda each: letters[each] + _likeness(wrong, each), default=None)
    return f"; did you mean {found}?" if found else otherwise


def _letters(name: str) -> str:
    return re.sub(r"[\W_]", "", name.casefold())


def _likeness(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, one, other).ratio()


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
    if _only_named and _is_own(path) and not is_allowed(path):
        raise InputError(_unnamed(path))
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
        same = (f"; did you mean {each}?" for each in known if each.lower() == name.lower())
        raise InputError(f"there is no {path}{next(same, nearest(name, known))}") from error
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
