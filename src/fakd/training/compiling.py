"""Compiling networks for the training step, whose shapes never change."""

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from fakd.errors import InputError

_LEAVE_OUT = "leave out --hardware.compile"


def require_compiler(device: torch.device) -> None:
    """Refuse a machine where `compiled` networks cannot be built.

    Raises:
        InputError: there is no C++ compiler, or for a GPU no Triton.
    """
    if device.type == "cuda" and find_spec("triton") is None:
        raise InputError(f"hardware.compile needs Triton, pip install triton; or {_LEAVE_OUT}")
    compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    if shutil.which(compiler) is None:
        raise InputError(
            f"hardware.compile needs a C++ compiler, and there is no {compiler}; install one, let "
            f"CXX name it, or {_LEAVE_OUT}"
        )


def compiled(network: nn.Module) -> Any:
    """Wrap a network to be called with images of one shape; its weights and names stay its own.

    Another shape compiles it anew, so evaluation calls the network itself. Dropout draws what it
    draws without.
    """
    return torch.compile(network, dynamic=False, options={"fallback_random": True})


@contextmanager
def compiling(say: Callable[[str], None]) -> Iterator[None]:
    """Tell how long a first step takes, within which all is compiled.

    Raises:
        InputError: something cannot be compiled.
    """
    began = time.perf_counter()
    with refused():
        yield
    say(f"compiled: the first step took {time.perf_counter() - began:.0f} s")


@contextmanager
def refused() -> Iterator[None]:
    """Say in a line what the compiler fails of.

    Raises:
        InputError: something cannot be compiled.
    """
    from torch._dynamo.exc import BackendCompilerFailed

    try:
        yield
    except BackendCompilerFailed as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"hardware.compile failed: {reason}; {_LEAVE_OUT}") from error
