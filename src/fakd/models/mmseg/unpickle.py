"""Read untrusted .pth files: their tensors and plain data, never their code."""

import _codecs
import pickle
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import torch

from fakd.errors import InputError
from fakd.files import describe_bad_download

PLAIN = {
    ("collections", "OrderedDict"),
    ("torch", "Size"),
    ("torch._utils", "_rebuild_tensor_v2"),
    ("torch._utils", "_rebuild_parameter"),
    *(
        (f"numpy.{core}.multiarray", name)
        for core in ("core", "_core")
        for name in ("scalar", "_reconstruct")
    ),
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
}
"""Names that create tensors, numbers and containers; resolved as usual."""

HARMLESS = ("mmcv", "mmengine", "mmseg", "mmrazor", "addict", "yapf", "pathlib", "datetime")
"""Packages whose objects appear in checkpoints besides the weights; they become `Inert`."""


class Refused(pickle.UnpicklingError):
    """Raised for a name that could run code; the message is that name."""


class Inert(dict):
    """Stand-in for an object of a training framework: accepts any state and does nothing."""

    def __new__(cls, *_: object, **__: object) -> "Inert":
        """Accept and drop the constructor's arguments."""
        return super().__new__(cls)

    def __init__(self, *_: object, **__: object) -> None:
        super().__init__()

    def append(self, item: object) -> None:
        """Drop the state, or a list's item or items."""

    __setstate__ = extend = append

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as an empty object."""
        return Inert, ()


class Unpickler(pickle.Unpickler):
    """A pickle reader that resolves `PLAIN` names, makes others inert or refuses them."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        """Resolve a pickled name without importing or calling anything outside `PLAIN`."""
        if (module_name, global_name) in PLAIN or (
            module_name in ("torch", "torch.storage") and global_name.endswith("Storage")
        ):
            return super().find_class(module_name, global_name)
        if (module_name, global_name) == ("_codecs", "encode"):
            return encode_bytes
        if module_name.split(".")[0] in HARMLESS:
            return Inert
        raise Refused(f"{module_name}.{global_name}")


def encode_bytes(text: str, _: str = "latin1") -> bytes:
    """Restore bytes that an old pickle protocol wrote as text."""
    return _codecs.encode(text, "latin1")


def load(file: IO[bytes], **options: Any) -> Any:
    """Read one pickled object."""
    return Unpickler(file, **options).load()


def load_pickled(path: Path) -> Any:
    """Read a file written by ``torch.save``.

    PyTorch's own restricted reader is tried first. It refuses the configuration objects and numbers
    that old training frameworks store besides the weights; the reader of this module makes those
    inert.

    Raises:
        InputError: it is no such file, or it refers to anything that could run code.
    """
    module = SimpleNamespace(Unpickler=Unpickler, load=load, __name__=__name__)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                return torch.load(path, map_location="cpu", weights_only=True)
            except pickle.UnpicklingError:
                return torch.load(path, "cpu", pickle_module=module, weights_only=False)
    except Refused as error:
        raise InputError(
            f"{path} must hold tensors and plain data, but needs '{error}', which was not run; "
            "if you trust the file, load it yourself and save its state dictionary only"
        ) from error
    except Exception as error:
        told = str(error).splitlines()[0] if str(error) else type(error).__name__
        reason = describe_bad_download(
            path, f"it cannot be read as one ({told}); download it again"
        )
        raise InputError(f"{path} must be a file written by torch.save: {reason}") from error
