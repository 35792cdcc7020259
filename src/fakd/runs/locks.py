"""Who is at work on a folder: a lock that ends with its process, however that ends."""

import fcntl
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fakd.files import make_folder, writing


@contextmanager
def lock(path: Path, wait: bool = False) -> Iterator[int | None]:
    """Hold a file's lock and yield its descriptor, or None if another holds it already.

    The kernel releases the lock when the last process that has the descriptor ends, however it
    ends. A run inherits it, and so stays locked if only the process that started it was killed.
    Some network file systems have no locks: there a warning is printed, and nothing is held back.
    """
    make_folder(path.parent)
    with writing(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield None
            return
        except OSError as error:
            print(
                f"fakd: warning: {path.parent} cannot be locked ({error.strerror}); see to it that "
                "one process alone works there",
                file=sys.stderr,
            )
        with suppress(OSError):
            os.truncate(descriptor, 0)
            os.write(descriptor, f"process {os.getpid()} on {platform.node()}".encode())
        try:
            yield descriptor
        finally:
            # Closing would not do where a straggler of the run still has the descriptor.
            with suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_UN)
    finally:
        os.close(descriptor)


def holder(path: Path) -> str:
    """Name the process that holds a lock, as far as it is known."""
    with suppress(OSError):
        return path.read_text(encoding="utf-8") or "unknown"
    return "unknown"
