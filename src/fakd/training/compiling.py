"""Compilation of networks for the training step, whose shapes are fixed."""

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
from fakd.hardware import Hardware

_LEAVE_OUT = "leave out --hardware.compile"


def require_compilers(device: torch.device, hardware: Hardware) -> None:
    """Refuse a machine where `compile_network` or Triton kernels cannot work, if they are wanted.

    Raises:
        InputError: there is no C++ compiler, no GPU or no Triton.
    """
    if hardware.triton and not (device.type == "cuda" and find_spec("triton")):
        raise InputError(
            f"hardware.triton needs Triton and a CUDA device, not {device.type}; leave it out"
        )
    if not hardware.compile:
        return
    if device.type == "cuda" and find_spec("triton") is None:
        raise InputError(f"hardware.compile needs Triton, pip install triton; or {_LEAVE_OUT}")
    compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    if shutil.which(compiler) is None:
        raise InputError(
            f"hardware.compile needs a C++ compiler, and there is no {compiler}; install one, set "
            f"CXX to another, or {_LEAVE_OUT}"
        )


def compile_network(network: nn.Module) -> Any:
    """Compile a network for images of one shape; weights and their names are unchanged.

    Another shape recompiles, so evaluation uses the network itself. Dropout draws the same numbers
    as without compilation.
    """
    return torch.compile(network, dynamic=False, options={"fallback_random": True})


@contextmanager
def compiling(say: Callable[[str], None]) -> Iterator[None]:
    """Report the time of the first step, in which everything is compiled.

    Raises:
        InputError: something cannot be compiled.
    """
    began = time.perf_counter()
    with compiler_errors():
        yield
    say(f"compiled: the first step took {time.perf_counter() - began:.0f} s")


@contextmanager
def compiler_errors() -> Iterator[None]:
    """Turn a compiler's failure into an error message of one line.

    Raises:
        InputError: something cannot be compiled.
    """
    from torch._dynamo.exc import BackendCompilerFailed

    try:
        yield
    except BackendCompilerFailed as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"hardware.compile failed: {reason}; {_LEAVE_OUT}") from error
