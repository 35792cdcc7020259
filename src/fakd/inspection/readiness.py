"""Checks before a run whether a split's labels can be learned from and scored against."""

import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import Literal, NamedTuple

import numpy as np

from fakd.data.dataset import SegmentationData, Split
from fakd.data.masks import MaskReader, Pair
from fakd.data.packed import Place
from fakd.errors import InputError, list_some
from fakd.inspection.survey import Header, read_header, spread_evenly
from fakd.settings import IGNORE

_PATIENCE = 20.0
"""Seconds after which reading labels ends, and missing classes become a warning instead of an
error."""
_PHOTOS = 32
"""Number of photos of a split whose headers are read."""


class LabelSummary(NamedTuple):
    """The classes in a split's labels, as far as they were read."""

    classes: Collection[int]
    """Without `IGNORE`."""
    assumed: Collection[int] = ()
    """Mask ids that have no class only by default."""
    masks: Sequence[Place] = ()
    reader: MaskReader | None = None


def describe_flaw(shown: LabelSummary, names: Sequence[str]) -> str | None:
    """Explain why labels are useless: they show only one of several classes, or none."""
    looked = f" ({list_some(shown.masks, 1)})" if shown.masks else ""
    where = "the data set" if shown.reader is None else str(shown.reader.description.path)
    if not shown.classes:
        return f"every pixel is ignored{looked}; see ids: and ignore: in {where}"
    if len(shown.classes) > 1 or len(names) == 1:
        return None
    (only,) = shown.classes
    ids = {} if shown.reader is None else shown.reader.encoding.ids
    raw = next((raw for raw, target in ids.items() if target == only), None)
    if not shown.assumed or raw is None:
        return f"every labelled pixel is {names[only]}{looked}; see ids: and ignore: in {where}"
    none, other = min(shown.assumed), names[-1 if only != len(names) - 1 else 0]
    return (
        f"masks hold only {raw} and {none}{looked}, and {none} is ignored; write 'ids: "
        f"{{{raw}: {names[only]}, {none}: {other}}}' in {where} if {none} is a class, or "
        f"'ignore: [{none}]' if it is not"
    )


def describe_ambiguous_rotation(photos: Sequence[tuple[Place, Header]]) -> str | None:
    """Report labelled photos that EXIF rotates although masks also fit them without rotation."""
    turned = [path for path, header in photos if header.turned and header.size == header.stored]
    if not turned:
        return None
    return (
        f"{len(turned)} of {len(photos)} images are rotated by EXIF, and their masks fit with or "
        f"without rotation ({list_some(turned, 1)}); remove the orientation from photos whose "
        "masks fit without (exiftool -Orientation= FILE), and save the others upright"
    )


def require_labels(
    data: SegmentationData,
    splits: Sequence[Literal["train", "val", "test"]] = ("train", "val"),
    unlabelled: bool = False,
    skip: bool = False,
) -> list[str]:
    """Refuse data whose labels are useless, and return warnings.

    Labels are read, spread evenly over the split, until they show two classes; in sound data the
    first one or two do.

    Args:
        data: The data of a run that is about to start.
        splits: Those it needs.
        unlabelled: Whether a teacher supplies the classes of unlabelled images.
        skip: Whether training skips files that cannot be read.

    Raises:
        InputError: there are no labels, no pixel has a class, or an id that may be a class is
            ignored by default; or a file that was read is damaged.
    """
    doubts = []
    for name in splits:
        split = data.split(name)
        if not split.labelled and unlabelled:
            continue
        if not split.labelled:
            known = (each for each in data.remarks if each.startswith(f"{name} has no masks"))
            raise InputError(next(known, f"{name} of {data.name} has no masks; add them"))
        shown, whole = _read_labels(split, min(2, data.classes), skip and name == "train")
        if (text := describe_flaw(shown, data.class_names)) is not None:
            if whole and (shown.assumed or not shown.classes):
                raise InputError(f"{name} of {data.name}: {text}")
            doubts.append(f"{name}: {text}")
        if (text := describe_ambiguous_rotation(_photo_headers(split))) is not None:
            doubts.append(f"{name}: {text}")
    return doubts


def _read_labels(split: Split, wanted: int, skip: bool) -> tuple[LabelSummary, bool]:
    """Read labels until they show ``wanted`` classes; also return whether all were read."""
    pairs: Sequence[Pair] | None = getattr(split, "pairs", None)
    classes, assumed, until = set[int](), set[int](), time.monotonic() + _PATIENCE
    labelled = split.labelled_indices()
    read, order = 0, [labelled[place] for place in spread_evenly(len(labelled))]
    for index in order:
        try:
            if pairs is None or not read:
                # Read the first one like training does, including the image.
                labels = split[index].labels
                found = set() if labels is None else set(np.unique(labels.numpy()).tolist())
            if pairs is not None:
                found, values = _mask_classes(pairs[index])
                assumed.update(values)
        except InputError:
            if not skip:
                raise
            continue
        classes |= found - {IGNORE}
        read += 1
        if len(classes) >= wanted or time.monotonic() > until:
            break
    if not read:
        # Training will report the error.
        return LabelSummary(range(wanted)), False
    masks = [pair.mask for pair in pairs or () if pair.mask is not None]
    return LabelSummary(
        classes, assumed, masks, pairs[order[0]].reader if pairs else None
    ), index == order[-1]


def _mask_classes(pair: Pair) -> tuple[set[int], list[int]]:
    """Return the classes of a mask, and its ids that have no class only by default."""
    if pair.reader is None or pair.mask is None:
        return set(), []
    values = pair.reader.count_values(pair.mask)
    found = {pair.reader.meaning(value) for value in values}
    if None in found:
        pair.reader(pair.mask)  # refuses it in words
    known = {target for target in found if target is not None}
    return known, [raw for raw in pair.reader.encoding.assumed if raw in values]


def _photo_headers(split: Split) -> list[tuple[Place, Header]]:
    """Read the headers of some photos of a split."""
    pairs: Sequence[Pair] = getattr(split, "pairs", ())
    found = []
    for index in spread_evenly(len(pairs))[:_PHOTOS]:
        with suppress(InputError):
            found.append((pairs[index].image, read_header(pairs[index].image, upright=True)))
    return found
