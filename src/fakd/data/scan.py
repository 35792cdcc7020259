"""Recursive folder listings, cached between runs while nothing in the folders changes."""

import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from fakd.console import open_console
from fakd.errors import InputError
from fakd.files import write_text

_FORMAT = 2
_OTHERS = ("__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", "lost+found")
"""Folders created by archives and systems; skipped like hidden ones."""
_WORTH_KEEPING = 1000
"""Minimum number of files for caching; below it, listing is as fast as validating the cache."""
_SETTLED = 2.0
"""Seconds after which another change is sure to get another timestamp; FAT has a resolution of 2
s."""
_PATIENCE = 1.0
"""Seconds until a progress message is shown."""


def files_below(folder: Path) -> list[str]:
    """List the files below a folder as relative paths with slashes, without hidden ones.

    Links are followed, except to a folder that contains them. The listing of a large folder is
    cached in the user's cache, and is valid as long as no folder in it has another modification
    time.

    Raises:
        InputError: a folder cannot be read.
    """
    memory = _cache_file(folder)
    if memory is not None and (remembered := _read_cache(memory, folder)) is not None:
        return remembered
    began = time.time()
    directories, files = _walk(folder)
    newest = max(mtime for _, mtime, _ in directories) / 1e9
    if memory is not None and len(files) >= _WORTH_KEEPING and began - newest > _SETTLED:
        _write_cache(memory, folder, directories, files)
    return files


def cache_folder() -> Path | None:
    """Find the cache folder: ``FAKD_CACHE`` (``off`` for none), or the user's cache."""
    given = os.environ.get("FAKD_CACHE")
    if given:
        return None if given == "off" else Path(given).expanduser()
    with suppress(RuntimeError):
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fakd"
    # A user without a home folder has no cache.
    return None


_Directory = tuple[str, int, int]
"""Relative path, modification time in nanoseconds, inode."""


def _walk(folder: Path) -> tuple[list[_Directory], list[str]]:
    directories: list[_Directory] = []
    files: list[str] = []
    with ExitStack() as shown:
        began, silent = time.monotonic(), True
        outer = frozenset(
            (each.stat().st_dev, each.stat().st_ino) for each in folder.resolve().parents
        )
        for path, is_directory, state in _entries(str(folder), "", outer):
            if is_directory:
                directories.append((path, state.st_mtime_ns, state.st_ino))
            else:
                files.append(path)
            if silent and time.monotonic() - began > _PATIENCE:
                silent = False
                _show(shown, folder)
    files.sort()
    return directories, files


def _show(shown: ExitStack, folder: Path) -> None:
    console = open_console(stderr=True)
    text = f"listing the files of {folder}"
    if console.is_terminal:
        shown.enter_context(console.status(text))
    else:
        console.print(f"{text} ...", soft_wrap=True)


def _entries(
    folder: str, relative: str, around: frozenset[tuple[int, int]]
) -> Iterator[tuple[str, bool, Any]]:
    try:
        # Read before listing, so that a file added meanwhile changes the modification time.
        state = os.stat(folder)
        identity = (state.st_dev, state.st_ino)
        if identity in around:
            return
        yield relative, True, state
        with os.scandir(folder) as entries:
            inner = []
            for entry in entries:
                if entry.name.startswith(".") or entry.name in _OTHERS:
                    continue
                path = f"{relative}/{entry.name}" if relative else entry.name
                if os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir():
                    inner.append((entry.path, path))
                else:
                    yield path, False, None
    except OSError as error:
        raise InputError(
            f"cannot list {folder}: {error.strerror}; change its permissions"
        ) from error
    for place, path in sorted(inner):
        yield from _entries(place, path, around | {identity})


def _cache_file(folder: Path) -> Path | None:
    cache = cache_folder()
    if cache is None:
        return None
    key = hashlib.sha256(os.path.abspath(folder).encode("utf-8", "surrogateescape")).hexdigest()
    return cache / "scans" / f"{key[:32]}.json"


def _read_cache(memory: Path, folder: Path) -> list[str] | None:
    """Read a cached listing; None if it is outdated, damaged or missing."""
    try:
        content = json.loads(memory.read_text(encoding="utf-8"))
        if content["format"] != _FORMAT or content["folder"] != os.path.abspath(folder):
            return None
        for path, mtime, inode in content["directories"]:
            state = os.stat(folder / path)
            if (state.st_mtime_ns, state.st_ino) != (mtime, inode):
                return None
        files = content["files"]
        if not all(isinstance(file, str) for file in files):
            return None
        return list(files)
    except (OSError, ValueError, TypeError, LookupError, RecursionError):
        return None


def _write_cache(
    memory: Path, folder: Path, directories: list[_Directory], files: list[str]
) -> None:
    content = {
        "format": _FORMAT,
        "folder": os.path.abspath(folder),
        "directories": directories,
        "files": files,
    }
    # If the cache is not writable, the next run lists again.
    with suppress(OSError, InputError):
        write_text(memory, json.dumps(content))
