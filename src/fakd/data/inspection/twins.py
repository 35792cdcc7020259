"""Images that are in both splits, byte for byte."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from fakd.data.inspection.budget import Budget
from fakd.data.inspection.facts import SplitFacts


def identical(splits: Sequence[SplitFacts], budget: Budget) -> list[tuple[Path, Path]]:
    """Find images of one split that are byte for byte those of the next.

    Only files of equal length are read.
    """
    first, second = (_by_length(split) for split in splits)
    found = []
    for length in sorted(first.keys() & second.keys()):
        if not budget.left():
            break
        known = {_digest(path): path for path in first[length]}
        for path in second[length]:
            twin = known.get(_digest(path))
            if twin is not None and twin != path:
                found.append((twin, path))
    return found


def _by_length(split: SplitFacts) -> dict[int, list[Path]]:
    grouped: defaultdict[int, list[Path]] = defaultdict(list)
    for path, header in split.image_headers.items():
        grouped[header.length].append(path)
    return grouped


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()
