"""Writing files so that a crash, a kill or a full disk never costs the file that was there."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from fakd.errors import InputError


def make_folder(path: Path) -> None:
    """Create a folder and its parents, unless it is there.

    Raises:
        InputError: it cannot be created.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot create the folder {path}: {error.strerror}") from error


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all; see `write_atomically`."""

    def write(file: Path) -> None:
        # Names of files in it may be of any bytes.
        file.write_text(text, encoding="utf-8", errors="surrogateescape")

    write_atomically(path, write)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then rename it into place.

    Readers see the old content or the new, never a part. The data reaches the disk before the
    rename, so the promise also holds for a machine that loses power.

    Raises:
        InputError: no space is left or the folder is not writable; what was at ``path`` is intact.
    """
    # A name may have 255 bytes, and a letter four.
    temporary = path.with_name(f".{path.name[:50]}.{os.getpid()}.tmp")
    try:
        write(temporary)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        # Some libraries write files that only their owner may read.
        temporary.chmod(0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) or "No space left" in str(error):
            reason = error.strerror if isinstance(error, OSError) and error.strerror else error
            kept = "; the previous one is intact" if path.exists() else ""
            raise InputError(f"could not write {path}: {reason}{kept}") from error
        raise
