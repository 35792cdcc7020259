"""Import class paths, and keep track of the code that the user has allowed."""

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
"""A function in a file, ``path/to/net.py:function``; allowed wherever a class path is."""
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
"""Builders of this package's networks, in `fakd.models`."""
ARCHITECTURES = frozenset(f"fakd.models.{name}" for name in ("adapt", *BUILDERS))
"""Class paths of this package that a weights file may use: networks without weights."""
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
"""Class paths that a run's recipe may use, which include those that open other files."""

_OF_RECIPES = ("fakd.answers.", "fakd.losses.", "fakd.settings.", "torchvision.transforms.")
"""Modules of the parts of a recipe besides networks and data."""
_allowed: set[str] = set()
_files: dict[str, str] = {}
"""Names of modules that were imported from a file -> the file, as it was given."""
_only_named = False


@contextmanager
def only_named() -> Iterator[None]:
    """Run only code of fakd, of the libraries, and code named by `allow`, in the block.

    For commands, whose recipes, grids and run folders may come from other people. Calls from Python
    are not restricted.
    """
    global _only_named
    before, _only_named = _only_named, True
    try:
        yield
    finally:
        _only_named = before


def allowed() -> tuple[str, ...]:
    """List the code that the user has named or allowed."""
    return tuple(sorted(_allowed))


def allow(*names: str) -> None:
    """Allow files to use the caller's own code: class paths, modules, packages, or .py files."""
    _allowed.update(names)


def is_allowed(path: str) -> bool:
    """Return whether the user named or allowed a class path or file, in this process."""
    inside = IN_FILE.fullmatch(path)
    if inside or path.endswith(".py"):
        return _allowed_file(inside["file"] if inside else path) is not None
    return any(path == name or path.startswith(f"{name}.") for name in _allowed)


def _is_own(path: str) -> bool:
    """Return whether a class path belongs to neither fakd nor a known library."""
    return bool(IN_FILE.fullmatch(path)) or path.partition(".")[0] not in ("fakd", *LIBRARIES)


def require_allowed(path: str, given: Mapping[str, Any] = MappingProxyType({})) -> None:
    """Refuse class paths that neither a command's user has named nor recipes may use.

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
            raise InputError(_not_allowed_text(name))
    if is_allowed(path) or path in OPENERS or path.startswith(_OF_RECIPES) or is_network(path):
        return
    if not _is_own(path):
        import_object(path)  # raises a clearer error if it does not exist
    raise InputError(_not_allowed_text(path))


def _not_allowed_text(path: str) -> str:
    code = inside["file"] if (inside := IN_FILE.fullmatch(path)) else path
    return (
        f"{path} is named by a file and not by you, so it was not run; if you trust it, add "
        f"--code {code}"
    )


def is_network(path: str) -> bool:
    """Return whether a library's class path builds a network, or a configuration of one."""
    if path.partition(".")[0] not in LIBRARIES:
        return False
    if path in ("timm.create_model", "segmentation_models_pytorch.create_model"):
        return True
    if path.startswith("torchvision.models.segmentation."):
        builders = import_object("torchvision.models.list_models")(
            import_object("torchvision.models.segmentation")
        )
        return path.rpartition(".")[2] in builders
    from torch.nn import Module

    found = import_object(path)
    configuration = path.startswith("transformers.") and path.endswith("Config")
    return inspect.isclass(found) and (configuration or issubclass(found, Module))


def _allowed_file(file: str) -> str | None:
    """Find the allowed file of that path, or else of that name, as its folder may have changed."""
    files = [name.partition(".py:")[0].removesuffix(".py") + ".py" for name in sorted(_allowed)]
    same = [each for each in files if Path(each).name == Path(file).name]
    return file if file in same else next(iter(same), None)


def nearest(wrong: str, known: Iterable[str], otherwise: str = "", cutoff: float = 0.5) -> str:
    """Suggest the known name that a mistyped one is closest to, as the end of a message.

    Only letters and digits decide which names are close; punctuation decides among these.

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
    """Check that an optional library is installed, without importing it.

    Raises:
        InputError: names the command that installs it.
    """
    if find_spec(name) is None:
        extra = _EXTRAS.get(name)
        line = f"pip install 'fakd[{extra}]'" if extra else f"pip install {name}"
        raise InputError(f"this needs {name}, which is not installed; {line}")


def import_object(path: str) -> Any:
    """Import a class path, or a function in a file, ``path/to/net.py:function``.

    Raises:
        InputError: there is no such module, file or name, or it belongs to Python's standard
            library.

    >>> import_object("fakd.errors.InputError")
    <class 'fakd.errors.InputError'>
    """
    if _only_named and _is_own(path) and not is_allowed(path):
        raise InputError(_not_allowed_text(path))
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
            f"{path} is in Python's standard library, which has no networks, losses, data or "
            "transforms; it was not run"
        )
    return found


def _is_pythons_own(found: Any) -> bool:
    """Return whether an object is in the standard library, as harmful ones like os.system are."""
    if not (isinstance(found, type) or inspect.isroutine(found)):
        return False
    module = sys.modules.get(found.__module__ or "builtins")
    file = getattr(module, "__file__", None)
    inside = file is None or Path(file).is_relative_to(sysconfig.get_paths()["stdlib"])
    root = (found.__module__ or "builtins").partition(".")[0]
    return root in sys.stdlib_module_names and inside


def _module(module: str, path: str) -> Any:
    if module.partition(".")[0] not in ("fakd", *LIBRARIES):
        _append_search_path(os.getcwd())
    try:
        return import_module(module)
    except SyntaxError as error:
        raise InputError(f"{path} cannot be imported: {error}") from error
    except ImportError as error:
        # This module may not exist, or be a class, or a module that it imports may be missing.
        itself = f"{module}.".startswith(f"{error.name}.") if error.name else False
        if module in LIBRARIES and itself:
            require_library(module)
        if "." not in module or not itself:
            raise InputError(f"{path} cannot be imported: {error}") from error
        return import_object(module)


def _file_module(file: str) -> ModuleType:
    """Import a file once; it can import modules in its folder."""
    whole = Path(file).expanduser().resolve()
    if not whole.is_file():
        raise InputError(f"{file} does not exist; give the .py file with the function")
    name = f"{whole.stem}_{hashlib.sha256(str(whole).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = spec_from_file_location(name, whole)
    if spec is None or spec.loader is None:
        raise InputError(f"{file} cannot be imported; give a .py file")
    module = module_from_spec(spec)
    _append_search_path(str(whole.parent))
    sys.modules[name], _files[name] = module, file
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise InputError(f"{file} cannot be imported: {type(error).__name__}: {error}") from error
    return module


def class_path_of(kind: type) -> str:
    """Return the class path that imports a class again: of its module, or of its file."""
    file = _files.get(kind.__module__)
    owner = f"{kind.__module__}." if file is None else f"{file}:"
    return f"{owner}{kind.__qualname__}"


def _append_search_path(folder: str) -> None:
    """Append a folder to Python's module search path."""
    if folder not in sys.path:
        sys.path.append(folder)
