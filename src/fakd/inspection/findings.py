"""What to fix, from what was seen: one line each with file and remedy, the most important first."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

from fakd.data.dataset import SegmentationData
from fakd.data.masks import MaskValue
from fakd.inspection.opening import Opened, open_listed, open_path
from fakd.inspection.survey import Budget, Header, SplitFacts, identical, read_headers, read_pixels
from fakd.settings import IGNORE

RARE = 1e-3
"""Share of labelled pixels below which a class is pointed out."""
_MUCH = 0.5
"""Share of ignored pixels that is pointed out."""
_LISTED = 8


class Weight(IntEnum):
    """How much a finding matters."""

    STOPS = 0
    """Training would stop there, or learn nothing."""
    HARMS = 1
    """It would go on, with worse data than it should."""
    TELLS = 2
    """Right as it is if it is meant so."""


class Finding(NamedTuple):
    """Something to fix or to know."""

    weight: Weight
    text: str


@dataclass
class Inspection:
    """What was seen in a data set, and what follows."""

    opened: Opened
    splits: list[SplitFacts]
    findings: list[Finding]

    @property
    def usable(self) -> bool:
        """Whether training would get through."""
        return not any(finding.weight is Weight.STOPS for finding in self.findings)


def inspected(
    data: SegmentationData | Path,
    description: Path | None = None,
    samples: int | None = None,
    seconds: float | None = None,
    workers: int = 0,
    advance: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> Inspection:
    """Look a data set over.

    Args:
        data: A folder, a .yaml file, or a data set of files that is open already.
        description: The YAML file of a folder, if it does not stand in it.
        samples: Pairs of each split that are decoded; None for as many as the time allows.
        seconds: When to come to an end; None for never.
        workers: Threads that read files.
        advance: Is told what is done, how much of it and how much there is.

    Raises:
        InputError: there is no data set, or none whose parts can be told.
    """
    budget = Budget(seconds, workers)
    opened = open_path(data, description) if isinstance(data, Path) else open_listed(data)
    splits = [SplitFacts(listing) for listing in opened.splits]
    read_headers(splits, budget, lambda done, total: advance("files", done, total))
    read_pixels(splits, budget, samples, lambda done, total: advance("pixels", done, total))
    twins = identical(splits, budget)
    return Inspection(opened, splits, _findings(opened, splits, twins))


def _findings(
    opened: Opened, splits: Sequence[SplitFacts], twins: Sequence[tuple[Path, Path]]
) -> list[Finding]:
    """Judge what was seen, the most important first."""
    found = [*_arrangement(opened)]
    for split in splits:
        found += _pairing(split)
        found += _damage(split)
        found += _contents(opened, split)
        found += [Finding(Weight.TELLS, text) for text in split.listing.remarks]
    ids = opened.description.encoding.ids
    wide = any(raw > 255 for raw, target in ids.items() if target != IGNORE)
    for split in splits:
        found += _appearances(split, wide)
    found += _overlap(splits, twins)
    return sorted(dict.fromkeys(found), key=lambda finding: finding.weight)


def _arrangement(opened: Opened) -> Iterator[Finding]:
    if (proposal := opened.proposal) is None:
        return
    path = opened.root / "dataset.yaml"
    lists = ", train.txt and val.txt" if proposal.chosen else ""
    yield Finding(
        Weight.STOPS,
        f"there is no {path}: save the lines above as that file, with your class names"
        f"{' and the two lists of names' if lists else ''}; --save FOLDER writes "
        f"dataset.yaml{lists} there",
    )
    if proposal.divided:
        yield Finding(
            Weight.TELLS,
            "nothing says which images are for validation, so every fifth is proposed; change the "
            "lists if images of one scene or film follow each other",
        )


def _pairing(split: SplitFacts) -> Iterator[Finding]:
    listing = split.listing
    for text in listing.refusals:
        yield Finding(Weight.STOPS, text)
    if listing.images_alone:
        yield Finding(
            Weight.STOPS,
            f"{listing.split}: {_count(len(listing.images_alone), 'image')} without a mask "
            f"({_files(listing.images_alone)}); add the masks under the names of the images, or "
            "take the images out",
        )
    if listing.masks_alone:
        yield Finding(
            Weight.HARMS,
            f"{listing.split}: {_count(len(listing.masks_alone), 'mask')} without an image "
            f"({_files(listing.masks_alone)}); add the images, or remove the masks",
        )
    if not listing.pairs and not listing.refusals:
        yield Finding(
            Weight.STOPS,
            f"{listing.split}: no image has a mask; name each mask as its image, or say in "
            "dataset.yaml where they lie",
        )


def _damage(split: SplitFacts) -> Iterator[Finding]:
    for text in list(split.unreadable.values())[:_LISTED]:
        yield Finding(Weight.STOPS, f"{split.listing.split}: {text}")
    if (more := len(split.unreadable) - _LISTED) > 0:
        last = list(split.unreadable)[_LISTED:]
        yield Finding(
            Weight.STOPS,
            f"{split.listing.split}: {more} more files cannot be read ({_files(last)}); replace or "
            "remove them",
        )
    if mismatched := split.mismatched:
        pair, image, mask = mismatched[0]
        yield Finding(
            Weight.STOPS,
            f"{split.listing.split}: {_count(len(mismatched), 'mask')} not of the size of the "
            f"image ({pair.mask} is {_by(mask.size)}, {pair.image} is {_by(image.size)}); export "
            "masks at the size of their images",
        )


def _contents(opened: Opened, split: SplitFacts) -> Iterator[Finding]:
    name = split.listing.split
    description = opened.description
    binary = set(split.pixels) <= {0, 255} and 255 in split.pixels
    if binary and split.classes[IGNORE]:
        yield Finding(
            Weight.STOPS,
            f"{name}: masks hold 0 and 255 only ({_first_mask(split)}), and 255 means no class; "
            f"write 'ids: {{0: {description.class_names[0]}, 255: {description.class_names[-1]}}}' "
            f"in {description.path} if 255 is the object",
        )
    elif split.classes[IGNORE] and split.ignored == 1:
        yield Finding(
            Weight.STOPS,
            f"{name}: every pixel is ignored ({_first_mask(split)}); see ids: and ignore: in "
            f"{description.path}",
        )
    elif split.ignored > _MUCH:
        yield Finding(
            Weight.HARMS,
            f"{name}: {split.ignored:.0%} of the pixels are ignored; if that is not meant, see "
            f"ids: and ignore: in {description.path}",
        )
    yield from _unknown(opened, split)
    if split.known_pixels > split.classes[IGNORE]:
        yield from _classes(opened, split)


def _unknown(opened: Opened, split: SplitFacts) -> Iterator[Finding]:
    path = opened.description.path
    ids = [value for value in split.unknown if isinstance(value, int)]
    if ids:
        yield Finding(
            Weight.STOPS,
            f"{split.listing.split}: masks hold {_values('id', sorted(ids))} unknown to {path} "
            f"({_holders(split, ids)}); map with ids: or leave out with ignore: there",
        )
    colours = [value for value in split.unknown if not isinstance(value, int)]
    if not colours:
        return
    colours.sort(key=lambda value: -split.pixels[value])
    described = opened.description
    if described.masks == "ids" or not described.has_palette:
        use = f"use the masks of {described.source}" if described.source else "save class ids"
        remedy = f"{use}, or give the classes their colours with palette: there"
    elif len(colours) > max(3, len(described.class_names)):
        remedy = "they look like smooth edges or compression: save PNG, drawn without smoothing"
    else:
        remedy = "add to palette: or ignore_colors: there"
    yield Finding(
        Weight.STOPS,
        f"{split.listing.split}: masks hold {_values('colour', colours)} unknown to {path} "
        f"({_holders(split, colours)}); {remedy}",
    )


def _classes(opened: Opened, split: SplitFacts) -> Iterator[Finding]:
    class_names, source = opened.description.class_names, opened.description.source
    every = len(split.sample) == len(split.listing.pairs)
    where = "" if every else f" in {len(split.sample)} of {len(split.listing.pairs)} masks"
    training = split.listing.split == "train"
    numbers = range(len(class_names))
    if never := [class_names[number] for number in numbers if not split.classes[number]]:
        sure = training and every
        remedy = "they do not count in the mean IoU"
        if training:
            remedy = "take out or merge classes that are never there, or see ids:"
            remedy = f"see whether the copy of {source} is whole" if source else remedy
        yield Finding(
            Weight.HARMS if sure else Weight.TELLS,
            f"{split.listing.split}: {_classes_named(never)} never seen{where}; {remedy}",
        )
    rare = [class_names[each] for each in numbers if 0 < split.share(each) < RARE]
    if rare and training:
        yield Finding(
            Weight.TELLS,
            f"train: {_classes_named(rare)} below {RARE:.1%} of the pixels{where}; expect a low "
            "IoU, or add images of them",
        )


def _overlap(splits: Sequence[SplitFacts], twins: Sequence[tuple[Path, Path]]) -> Iterator[Finding]:
    first, second = (split.listing.pairs for split in splits)
    if shared := {pair.image for pair in first} & {pair.image for pair in second}:
        yield Finding(
            Weight.HARMS,
            f"{_count(len(shared), 'image')} in train and val alike ({_files(sorted(shared))}); "
            "take them out of one, for scores of images seen in training say nothing",
        )
    if twins:
        one, other = twins[0]
        yield Finding(
            Weight.HARMS,
            f"{_count(len(twins), 'image')} of val byte for byte in train ({other} is {one}); "
            "remove them from one",
        )
    names = {pair.name for pair in first} & {pair.name for pair in second}
    if names and not shared and not twins:
        yield Finding(
            Weight.TELLS,
            f"{_count(len(names), 'name')} both in train and val ({', '.join(sorted(names)[:2])}); "
            "make sure that they are different images",
        )


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def _classes_named(names: Sequence[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    noun = "class" if len(names) == 1 else f"{len(names)} classes"
    return f"{noun} {', '.join(names[:_LISTED])}{more}"


def _values(noun: str, values: Sequence[MaskValue]) -> str:
    texts = [str(list(value) if isinstance(value, tuple) else value) for value in values]
    more = f" and {len(values) - _LISTED} more" if len(values) > _LISTED else ""
    return f"{noun}{'s' if len(values) > 1 else ''} {', '.join(texts[:_LISTED])}{more}"


def _holders(split: SplitFacts, values: Sequence[MaskValue]) -> str:
    return _files(list(dict.fromkeys(path for value in values for path in split.unknown[value])))


def _first_mask(split: SplitFacts) -> str:
    return str(next(pair.mask for pair in split.sample if pair.mask is not None))


def _appearances(split: SplitFacts, wide: bool) -> Iterator[Finding]:
    """Yield what the headers of a split say about its formats; ``wide`` ids need 16 bits."""
    name, images, masks = split.listing.split, split.image_headers, split.mask_headers
    for headers, holds, weight, noun, text in (
        (
            masks,
            lambda header: header.format == "JPEG",
            Weight.STOPS,
            "mask",
            "in JPEG, whose compression changes ids and colours; save masks as PNG",
        ),
        (
            masks,
            lambda header: header.mode.startswith(("I", "F")) and not wide,
            Weight.TELLS,
            "mask",
            "with 16 bits; fakd reads their ids as they are, but 8 bits are smaller and faster",
        ),
        (
            images,
            lambda header: header.turned,
            Weight.TELLS,
            "image",
            "to be turned by EXIF, which fakd does; see in the picture whether masks are upright",
        ),
        (
            images,
            lambda header: header.mode in ("1", "L", "LA") or header.mode.startswith("I"),
            Weight.TELLS,
            "image",
            "in grey, read as RGB of equal channels; fine if predictions get grey images as well",
        ),
        (
            images,
            lambda header: header.mode in ("RGBA", "PA"),
            Weight.TELLS,
            "image",
            "with transparency, which is dropped; fill the background if it shows in the picture",
        ),
    ):
        if found := _those(headers, holds):
            others = f" and {len(found) - 1} more" if len(found) > 1 else ""
            what = f"{len(found)} of {len(headers)} {noun}{'s' if len(headers) > 1 else ''}"
            yield Finding(weight, f"{name}: {what} {text} ({found[0]}{others})")


def _those(headers: dict[Path, Header], holds: Callable[[Header], bool]) -> list[Path]:
    return [path for path, header in headers.items() if holds(header)]


def _files(paths: Sequence[Path], most: int = 2) -> str:
    """Name the first of some files."""
    more = f" and {len(paths) - most} more" if len(paths) > most else ""
    return f"{', '.join(str(path) for path in paths[:most])}{more}"


def _count(number: int, noun: str) -> str:
    """Say how many there are of something."""
    return f"{number} {noun}{'s' if number > 1 else ''}"
