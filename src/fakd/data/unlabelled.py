"""Training images without labels: those of further folders, and those whose masks are set aside."""

import hashlib
from collections.abc import Iterable, Sequence
from functools import cache
from math import ceil
from pathlib import Path

from fakd.data.description import Labelled
from fakd.data.layout import IMAGE_SUFFIXES, Levels, Pattern
from fakd.data.masks import Pair
from fakd.data.names import as_stored, composed, read_names
from fakd.data.scan import files_below
from fakd.errors import InputError, some


def without_labels(pairs: Sequence[Pair], labelled: Labelled, root: Path) -> list[Pair]:
    """Set the masks of all pairs aside but for so many, a share of them, or those in a list.

    Which ones keep them follows from the hashes of their names: it is the same on every machine,
    looks like chance, and fewer are always among more.

    Raises:
        InputError: the list cannot be read or names an image that is not there, or too many are
            asked for.
    """
    names = {pair.name for pair in pairs}
    if isinstance(labelled, str):
        kept = {composed(name) for name in read_names(as_stored(root / labelled), names)}
        if missing := sorted(kept - names):
            raise InputError(
                f"{root / labelled} names {some(missing, 3)}, which train has no image of; take "
                "them out"
            )
        if not kept:
            raise InputError(f"{root / labelled} names no image; give --data.labelled a number")
    else:
        number = labelled if isinstance(labelled, int) else ceil(labelled * len(pairs))
        if number > len(pairs):
            raise InputError(f"labelled asks for {number} images, and train has {len(pairs)}")
        kept = set(sorted(names, key=_drawn)[:number])
    return [pair if pair.name in kept else pair._replace(mask=None, reader=None) for pair in pairs]


def unlabelled_pairs(
    patterns: Iterable[Pattern], root: Path, train: Sequence[Pair], val: Sequence[Pair]
) -> tuple[list[Pair], list[str]]:
    """List the images of further folders, and what is doubtful about them.

    An image keeps its name, unless another of training has it; then its folder is part of it.

    Raises:
        InputError: a folder is missing or holds no image, or an image stands in training or
            validation too.
    """
    known = {pair.image.resolve(): "train" for pair in train}
    known |= {pair.image.resolve(): "val" for pair in val}
    levels = train[0].levels if train else Levels()
    taken, found = {pair.name for pair in train}, []
    below = cache(files_below)
    for pattern in patterns:
        folder = as_stored(root / pattern.folder)
        if not folder.is_dir():
            raise InputError(f"expected a folder of unlabelled images {folder}; there is none")
        files = pattern.names(below(folder), IMAGE_SUFFIXES)
        if not files:
            raise InputError(f"{folder} holds no file like {pattern.text}; add unlabelled images")
        for name, file in sorted(files.items()):
            image = folder / file
            if (split := known.get(image.resolve())) is not None:
                raise InputError(
                    f"{image} stands in both {split} and unlabelled; take it out of one of them"
                )
            name = name if name not in taken else f"{Path(pattern.folder).as_posix()}/{name}"
            known[image.resolve()] = "unlabelled"
            taken.add(name)
            found.append(Pair(name, image, levels=levels))
    again = copies(found, val)
    doubts = [
        f"{len(again)} unlabelled images are copies of validation images ({some(again, 2)}); "
        "scores on images that a teacher explained say too much; take them out"
    ]
    return found, doubts if again else []


def _drawn(name: str) -> bytes:
    return hashlib.sha256(name.encode(errors="surrogateescape")).digest()


def copies(pairs: Sequence[Pair], others: Sequence[Pair]) -> list[Path]:
    """Find images that are among the others byte for byte; of those of one size only, each once."""
    sizes = {each.image: each.image.stat().st_size for each in (*pairs, *others)}
    shared = {sizes[each.image] for each in pairs} & {sizes[each.image] for each in others}

    @cache
    def content(image: Path) -> bytes:
        return hashlib.sha256(image.read_bytes()).digest()

    known = {content(each.image) for each in others if sizes[each.image] in shared}
    alike = (each.image for each in pairs if sizes[each.image] in shared)
    return [image for image in alike if content(image) in known]
