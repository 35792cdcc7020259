"""File locks that the kernel releases when their process ends, in whatever way."""

import errno
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fakd.files import make_folder, writing

# Windows has no fcntl.
_fcntl: Any = import_module("fcntl") if find_spec("fcntl") else None


@contextmanager
def lock(path: Path, wait: bool = False) -> Iterator[int | None]:
    """Lock a file and yield its descriptor, or None if another process holds the lock.

    The kernel releases the lock when the last process with the descriptor ends, in whatever way. A
    run inherits the descriptor, and so stays locked if only the process that started it was
    killed. Windows and some network file systems have no locks: there a warning is printed and
    nothing is locked.
    """
    make_folder(path.parent)
    with writing(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            if _fcntl is None:
                raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))
            _fcntl.flock(descriptor, _fcntl.LOCK_EX | (0 if wait else _fcntl.LOCK_NB))
        except BlockingIOError:
            yield None
            return
        except OSError as error:
            print(
                f"fakd: warning: {path.parent} cannot be locked ({error.strerror}); make sure that "
                "only one process uses it",
                file=sys.stderr,
            )
        with suppress(OSError):
            os.truncate(descriptor, 0)
            os.write(descriptor, f"process {os.getpid()} on {platform.node()}".encode())
        try:
            yield descriptor
        finally:
            # Closing is not enough if a child process of the run still has the descriptor.
            if _fcntl is not None:
                with suppress(OSError):
                    _fcntl.flock(descriptor, _fcntl.LOCK_UN)
    finally:
        os.close(descriptor)


def holder(path: Path) -> str:
    """Name the process that holds a lock, or ``unknown``."""
    with suppress(OSError):
        return path.read_text(encoding="utf-8") or "unknown"
    return "unknown"
