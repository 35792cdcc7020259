"""Which files of a split belong together, and which stand alone: never stops at what lacks."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fakd.data.decode import IMAGE_SUFFIXES, MASK_SUFFIXES
from fakd.data.description import Description
from fakd.data.layout import Masks, Part, Pattern
from fakd.data.masks import MaskReader
from fakd.data.matching import Matcher
from fakd.data.pairs import Pair
from fakd.errors import InputError

Lister = Callable[[Path], list[str]]


@dataclass
class Listing:
    """The files of one split."""

    split: str
    pairs: list[Pair] = field(default_factory=list)
    """With a mask, or all without one if the split is unlabelled."""
    images_alone: list[Path] = field(default_factory=list)
    masks_alone: list[Path] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    """Why the split cannot be opened as it is, in the words of the reader."""
    remarks: list[str] = field(default_factory=list)

    @property
    def labelled(self) -> bool:
        """Whether there is any mask."""
        return any(pair.mask is not None for pair in self.pairs)


def listings(
    root: Path,
    description: Description,
    listed: Lister,
    chosen: Mapping[str, Sequence[str]] | None = None,
) -> list[Listing]:
    """List both splits.

    Args:
        root: The folder that patterns start from.
        description: Where files lie and what masks mean.
        listed: Lists the files below a folder.
        chosen: The names of each split, instead of what the description lists.
    """
    found = []
    for split, parts in (("train", description.train), ("val", description.val)):
        listing = Listing(split)
        for part in parts:
            if chosen is None:
                _strictly(root, description, part, listing, listed)
            names = None if chosen is None else chosen[split]
            _leniently(root, description, part, listing, listed, names)
        found.append(listing)
    used = {pair.mask for listing in found for pair in listing.pairs}
    for listing in found:
        # Splits may share a folder of masks: those of the other one are not alone, and those of
        # none are said once.
        listing.masks_alone = [mask for mask in listing.masks_alone if mask not in used]
        used.update(listing.masks_alone)
    return found


def _strictly(
    root: Path, description: Description, part: Part, listing: Listing, listed: Lister
) -> None:
    matcher = Matcher(root, description, listing.split, part, listed)
    try:
        names = [pair.name for pair in matcher.pairs()]
    except InputError as error:
        listing.refusals.append(str(error))
        return
    if remark := matcher.remark(names):
        listing.remarks.append(remark)


def _leniently(
    root: Path,
    description: Description,
    part: Part,
    listing: Listing,
    listed: Lister,
    chosen: Sequence[str] | None,
) -> None:
    images = _found(root, part.images, IMAGE_SUFFIXES, listed, listing)
    names = sorted(images)
    wanted = chosen if chosen is not None else _listed_names(root, part)
    if wanted is not None:
        names = [name for name in wanted if name in images]
    place, masks = _best(root, part.masks, names, listed, listing)
    if place is None:
        listing.pairs += [Pair(name, images[name]) for name in names]
        return
    reader = MaskReader(description, place.encoding)
    for name in names:
        if name in masks:
            listing.pairs.append(Pair(name, images[name], masks[name], reader))
        else:
            listing.images_alone.append(images[name])
    listing.masks_alone += [masks[name] for name in sorted(masks) if name not in images]


def _best(
    root: Path, places: Sequence[Masks], names: Sequence[str], listed: Lister, listing: Listing
) -> tuple[Masks | None, dict[str, Path]]:
    """Find the place with the most masks for the images, None where no place exists."""
    best: tuple[Masks | None, dict[str, Path]] = (None, {})
    most = -1
    for place in places:
        if not (root / place.pattern.folder).is_dir():
            continue
        found = _found(root, place.pattern, MASK_SUFFIXES, listed, listing)
        matches = sum(name in found for name in names)
        if matches > most:
            best, most = (place, found), matches
    return best


def _found(
    root: Path, pattern: Pattern, suffixes: tuple[str, ...], listed: Lister, listing: Listing
) -> dict[str, Path]:
    folder = root / pattern.folder
    if not folder.is_dir():
        return {}
    try:
        names = pattern.names(listed(folder), suffixes)
    except InputError as error:
        if str(error) not in listing.refusals:
            listing.refusals.append(str(error))
        return {}
    return {name: folder / file for name, file in names.items()}


def _listed_names(root: Path, part: Part) -> list[str] | None:
    """Read the names of a part's lists; None where it has none or they are missing."""
    for group in part.lists:
        try:
            excluded = {name for file in part.excluded for name in _lines(root / file)}
            lines = [name for file in group for name in _lines(root / file)]
        except (OSError, UnicodeDecodeError):
            continue
        return [name for name in dict.fromkeys(lines) if name not in excluded]
    return [] if part.lists else None


def _lines(path: Path) -> list[str]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.strip()]
