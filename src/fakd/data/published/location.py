"""Finding a published data set at, or just below, the folder that a user names."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from fakd.errors import InputError


def located(
    root: str | Path, title: str, inside: tuple[str, ...], marks: tuple[str, ...], source: str
) -> Path:
    """Find the publisher's folder.

    Args:
        root: The folder itself or one that holds it.
        title: What the set is called.
        inside: Where a parent holds the folder.
        marks: Folders inside it, of which a whole copy has all.
        source: Where to get it.

    Raises:
        InputError: it is neither; the message names a folder nearby that would be right.
    """
    base = Path(root).expanduser()
    if not base.is_dir():
        came = "is a file" if base.exists() else "does not exist"
        raise InputError(f"expected the folder of {title}, but {base} {came}; check the path")
    # A whole copy anywhere comes before half of one.
    for enough in (len(marks), 1):
        for folder in (base, *(base / path for path in inside)):
            if sum((folder / mark).is_dir() for mark in marks) >= enough:
                return folder
    entries = sorted(entry.name for entry in base.iterdir() if not entry.name.startswith("."))
    more = f" and {len(entries) - 6} more" if len(entries) > 6 else ""
    holds = f"{', '.join(entries[:6]) or 'nothing'}{more}"
    near = next((path for path in _near(base, inside) if _has_all(path, marks)), None)
    remedy = f"get {source}" if near is None else f"give {near}, which has them"
    raise InputError(
        f"{base} is not {title}: expected {' and '.join(marks)} in it or in its "
        f"{' or '.join(inside)}, but it holds {holds}; {remedy}"
    )


def _near(base: Path, inside: tuple[str, ...]) -> Iterator[Path]:
    """Walk up a few levels, then one down."""
    parents = list(base.absolute().parents)[:3]
    children = sorted(entry for entry in base.iterdir() if entry.is_dir())[:100]
    for folder in (*parents, *children):
        yield folder
        yield from (folder / path for path in inside)


def _has_all(folder: Path, marks: Iterable[str]) -> bool:
    return all((folder / mark).is_dir() for mark in marks)
