"""What to fix, from what was seen: one line each with file and remedy, the most important first."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from fakd.data.inspection.appearance import appearances
from fakd.data.inspection.facts import MaskValue, SplitFacts
from fakd.data.inspection.finding import Finding, Weight, count, files
from fakd.data.inspection.opening import Opened
from fakd.types import IGNORE

RARE = 1e-3
"""Share of labelled pixels below which a class is pointed out."""
_MUCH = 0.5
"""Share of ignored pixels that is pointed out."""
_LISTED = 8


def findings(
    opened: Opened, splits: Sequence[SplitFacts], twins: Sequence[tuple[Path, Path]]
) -> list[Finding]:
    """Judge what was seen, the most important first."""
    found = [*_arrangement(opened)]
    for split in splits:
        found += _pairing(split)
        found += _damage(split)
        found += _contents(opened, split)
        found += [Finding(Weight.TELLS, text) for text in split.listing.remarks]
    for split in splits:
        found += appearances(split)
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
    # The reader stops at the first missing mask, which the list below says better.
    for text in listing.refusals:
        if not (listing.images_alone and text.startswith("no mask ")):
            yield Finding(Weight.STOPS, text)
    if listing.images_alone:
        yield Finding(
            Weight.STOPS,
            f"{listing.split}: {count(len(listing.images_alone), 'image')} without a mask "
            f"({files(listing.images_alone)}); add the masks under the names of the images, or "
            "take the images out",
        )
    if listing.masks_alone:
        yield Finding(
            Weight.HARMS,
            f"{listing.split}: {count(len(listing.masks_alone), 'mask')} without an image "
            f"({files(listing.masks_alone)}); add the images, or remove the masks",
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
            f"{split.listing.split}: {more} more files cannot be read ({files(last)}); replace or "
            "remove them",
        )
    if mismatched := split.mismatched:
        pair, image, mask = mismatched[0]
        yield Finding(
            Weight.STOPS,
            f"{split.listing.split}: {count(len(mismatched), 'mask')} not of the size of the image "
            f"({pair.mask} is {_by(mask.size)}, {pair.image} is {_by(image.size)}); export masks "
            "at the size of their images",
        )


def _contents(opened: Opened, split: SplitFacts) -> Iterator[Finding]:
    name = split.listing.split
    description = opened.description
    binary = set(split.pixels) <= {0, IGNORE} and IGNORE in split.pixels
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
            f"{count(len(shared), 'image')} in train and val alike ({files(sorted(shared))}); "
            "take them out of one, for scores of images seen in training say nothing",
        )
    if twins:
        one, other = twins[0]
        yield Finding(
            Weight.HARMS,
            f"{count(len(twins), 'image')} of val byte for byte in train ({other} is {one}); "
            "remove them from one",
        )
    names = {pair.name for pair in first} & {pair.name for pair in second}
    if names and not shared and not twins:
        yield Finding(
            Weight.TELLS,
            f"{count(len(names), 'name')} both in train and val ({', '.join(sorted(names)[:2])}); "
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
    return files(list(dict.fromkeys(path for value in values for path in split.unknown[value])))


def _first_mask(split: SplitFacts) -> str:
    return str(next(pair.mask for pair in split.sample if pair.mask is not None))
