"""Which training images keep their labels; the masks of the others are set aside."""

import hashlib
from collections.abc import Sequence
from math import ceil
from pathlib import Path

import numpy as np

from fakd.data.description import PER_CLASS, Description, Labelled
from fakd.data.masks import Pair
from fakd.data.names import list_file, read_names, to_nfc
from fakd.errors import InputError, list_some
from fakd.settings import IGNORE

SHARE = 1e-3
"""Share of an image's pixels above which it shows a class; less may be noise."""


def without_labels(
    pairs: Sequence[Pair], labelled: Labelled, described: Description, root: Path
) -> list[Pair]:
    """Drop all masks except for a number, a share, a number per class, or a list of names.

    Those kept are chosen by the hash of their names: pseudo-random, the same on every machine, and
    smaller subsets are contained in larger ones.

    Raises:
        InputError: the list cannot be read or names a missing image, more labels are requested than
            there are images, or a mask that has to be read is damaged.
    """
    names = {pair.name for pair in pairs}
    if isinstance(labelled, str) and (found := PER_CLASS.fullmatch(labelled)):
        kept = _choose_per_class(pairs, int(found[1]), len(described.class_names))
    elif isinstance(labelled, str):
        file = list_file(labelled, root, described.path)
        if not file.exists():
            raise InputError(
                f"labelled must be a number of images, a share, a number per class such as '10 per "
                f"class', or a file of names, and there is no file {file}"
            )
        kept = {to_nfc(name) for name in read_names(file, names)}
        if missing := sorted(kept - names):
            raise InputError(
                f"{file} names {list_some(missing, 3)}, which are not images of train; remove them"
            )
        if not kept:
            raise InputError(f"{file} names no image; give --data.labelled a number")
    else:
        number = labelled if isinstance(labelled, int) else ceil(labelled * len(pairs))
        if number > len(pairs):
            raise InputError(f"labelled asks for {number} images, but train has {len(pairs)}")
        kept = set(sorted(names, key=_hash_of)[:number])
    return [pair if pair.name in kept else pair._replace(mask=None, reader=None) for pair in pairs]


def _choose_per_class(pairs: Sequence[Pair], number: int, classes: int) -> set[str]:
    """Choose the first images that show a class, a number for each; one may count for several."""
    wanted, kept = np.full(classes, number), set()
    for pair in sorted(pairs, key=lambda pair: _hash_of(pair.name)):
        if not wanted.any():
            break
        if pair.mask is None or pair.reader is None:
            continue
        labels = pair.reader(pair.mask)
        pixels = np.bincount(labels[labels != IGNORE], minlength=classes)
        serves = (pixels >= max(1.0, SHARE * labels.size)) & (wanted > 0)
        wanted -= serves
        if serves.any():
            kept.add(pair.name)
    return kept


def _hash_of(name: str) -> bytes:
    return hashlib.sha256(name.encode(errors="surrogateescape")).digest()
