"""Findings of a check: one line each with file and way out, the most important first."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from pathlib import Path
from typing import NamedTuple

from fakd.data.dataset import SegmentationData
from fakd.data.groups import proposed_group
from fakd.data.layout import NEAREST, Encoding, Levels
from fakd.data.levels import describe_unused_range
from fakd.data.masks import EXIF_REMEDY, MaskReader, MaskValue, remedy_for_ids
from fakd.data.names import case_remedy
from fakd.data.packed import Place
from fakd.errors import count_noun, list_some
from fakd.inspection.borders import is_void
from fakd.inspection.classes import Occurrence
from fakd.inspection.grouping import LISTS
from fakd.inspection.opening import OpenedData, open_listed, open_path
from fakd.inspection.proposal import Proposal
from fakd.inspection.readiness import LabelSummary, describe_ambiguous_rotation, describe_flaw
from fakd.inspection.survey import (
    Budget,
    Header,
    SplitFacts,
    find_identical,
    map_values,
    read_headers,
    read_pixels,
    read_with,
)
from fakd.settings import IGNORE

RARE = 1e-3
"""Share of labelled pixels below which a class is reported."""
_MUCH = 0.5
"""Share of ignored pixels above which it is reported."""
_LISTED = 8


class Severity(IntEnum):
    """Severity of a finding."""

    STOPS = 0
    """Training would fail, or learn nothing."""
    HARMS = 1
    """Training would run, but on worse data than necessary."""
    TELLS = 2
    """Fine if intended."""


class Finding(NamedTuple):
    """Something to fix or to know."""

    severity: Severity
    text: str


_stops, _harms, _tells = (partial(Finding, severity) for severity in Severity)


@dataclass
class Inspection:
    """The contents of a data set, and the findings."""

    opened: OpenedData
    splits: list[SplitFacts]
    findings: list[Finding]

    @property
    def usable(self) -> bool:
        """Whether training can run."""
        return not any(finding.severity is Severity.STOPS for finding in self.findings)


def inspect_data(
    data: SegmentationData | Path,
    description: Path | None = None,
    samples: int | None = None,
    seconds: float | None = None,
    workers: int = 0,
    save: Path | None = None,
    advance: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> Inspection:
    """Check a data set.

    Args:
        data: A folder, a .yaml file, or an open data set of files.
        description: The YAML file of a folder, if it is elsewhere.
        samples: Pairs of each split to decode; None for as many as the time allows.
        seconds: Time limit; None for none.
        workers: Threads that read files.
        save: The folder for a proposal; masks are drawn there if annotations are not masks.
        advance: Called with the current step, how much of it is done, and the total.

    Raises:
        InputError: there is no data set, or its parts cannot be recognised.
    """
    if isinstance(data, Path):
        opened = open_path(data, description, save, lambda *counts: advance("masks", *counts))
    else:
        opened = open_listed(data)
    budget = Budget(seconds, workers)
    splits = [SplitFacts(listing) for listing in opened.splits]
    read_headers(splits, budget, lambda done, total: advance("files", done, total))
    read_pixels(splits, budget, samples, lambda done, total: advance("pixels", done, total))
    if opened.proposal is not None:
        _derive_classes(opened, opened.proposal, splits)
    for split in splits:
        map_values(split)
    twins = find_identical(splits, budget)
    return Inspection(opened, splits, _findings(opened, splits, twins, save is not None))


def _derive_classes(opened: OpenedData, proposal: Proposal, splits: Sequence[SplitFacts]) -> None:
    """Derive a proposal's classes from all masks that were read."""
    found: defaultdict[MaskValue, Occurrence] = defaultdict(lambda: Occurrence(0, 0))
    for counts in (counts for split in splits for counts in split.counts):
        area = sum(counts.values())
        for value, pixels in counts.items():
            before = found[value]
            found[value] = Occurrence(before.pixels + pixels, before.area + area)
    headers = (header for split in splits for header in split.mask_headers.values())
    proposal.derive_classes(
        found,
        lossy=any(header.format == "JPEG" for header in headers),
        is_void=lambda value: is_void(value, splits[0].masks()),
    )
    readers = {pair.reader for split in splits for pair in split.sample if pair.reader}
    shown = {id_: colour for each in readers for id_, (colour, _) in each.first_shown.items()}
    opened.description = proposal.description(opened.description.path)
    proposal.derive_greys(shown, MaskReader(opened.description))
    opened.description = proposal.description(opened.description.path)
    reader = MaskReader(opened.description)
    for split in splits:
        read_with(split, reader)


def _findings(
    opened: OpenedData,
    splits: Sequence[SplitFacts],
    twins: Sequence[tuple[Place, Place]],
    saved: bool,
) -> list[Finding]:
    """Derive the findings, the most important first."""
    found = [*map(_tells, opened.remarks), *_arrangement(opened.proposal, saved)]
    for split in splits:
        found += map(_stops, split.listing.refusals)
        for finding in (*_pairing(split), *_damage(split), *_contents(opened, split)):
            found.append(finding._replace(text=f"{split.listing.split}: {finding.text}"))
        found += map(_harms, split.listing.doubts)
        found += map(_tells, split.listing.remarks)
        if split.listing.split == "val" and opened.description.group is None:
            found += _clips([pair.name for pair in split.listing.pairs], opened.description.path)
    for split in splits:
        found += _appearances(split, opened.description.encoding)
    found += _overlap(splits, twins)
    return sorted(dict.fromkeys(found), key=lambda finding: finding.severity)


def _clips(names: Sequence[str], path: Path) -> Iterator[Finding]:
    if pattern := proposed_group(names):
        count = len({match[1] for match in map(re.compile(pattern).match, names) if match})
        means = (
            "so scores describe that clip alone; if they are frames, add other clips to val"
            if count == 1
            else "which are not independent images; if they are frames, write group: "
            f"'{pattern}' into {path}"
        )
        frames = f"frames of {count_noun(count, 'clip')}"
        yield _tells(f"val: its {len(names)} names look like {frames}, {means}")


def _arrangement(proposal: Proposal | None, saved: bool) -> Iterator[Finding]:
    if proposal is None:
        return
    if not saved:
        names = list_some([LISTS[split] for split in proposal.chosen or ()], 3)
        lists = f" and the lists {names}" if names else ""
        yield _stops(
            "there is no dataset.yaml, which training needs; --save NEWFOLDER writes the lines "
            f"above{lists} there"
        )
    yield from map(_harms, proposal.left_out)
    yield from map(_tells, proposal.remarks)
    if proposal.divided:
        yield _tells(
            "no validation images are given, so every fifth image is proposed; change the lists if "
            "consecutive images show one scene or film"
        )


def _pairing(split: SplitFacts) -> Iterator[Finding]:
    listing = split.listing
    if alone := listing.images_alone:
        remedy = case_remedy(alone, listing.masks_alone) or (
            "add the masks under the names of the images, or remove the images"
        )
        what = f"{count_noun(len(alone), 'image')} without a mask ({list_some(alone, 2)})"
        yield _stops(f"{what}; {remedy}")
    if alone := listing.masks_alone:
        what = f"{count_noun(len(alone), 'mask')} without an image ({list_some(alone, 2)})"
        yield _harms(f"{what}; add the images, or remove the masks")
    if not (listing.pairs or listing.refusals or listing.images_alone):
        yield _stops(
            "no image has a mask; name each mask like its image, or say in dataset.yaml where they "
            "are"
        )


def _damage(split: SplitFacts) -> Iterator[Finding]:
    yield from map(_stops, list(split.unreadable.values())[:_LISTED])
    if last := list(split.unreadable)[_LISTED:]:
        yield _stops(
            f"{count_noun(len(last), 'more file')} cannot be read ({list_some(last, 2)}); "
            "replace or remove them"
        )
    if mismatched := split.mismatched:
        pair, photo, truth = mismatched[0]
        image, mask = ("{}x{}".format(*header.size) for header in (photo, truth))
        turned = truth.size == photo.stored
        yield _stops(
            f"{count_noun(len(mismatched), 'mask')} with another size than the image "
            f"({pair.mask} is "
            f"{mask}, {pair.image} is {image}{' after EXIF rotation' if turned else ''}); "
            f"{EXIF_REMEDY if turned else 'export masks at the size of their images'}"
        )
    if text := describe_ambiguous_rotation(
        [*split.image_headers.items()] if split.mask_headers else []
    ):
        yield _stops(text)


def _contents(opened: OpenedData, split: SplitFacts) -> Iterator[Finding]:
    names, path = opened.description.class_names, opened.description.path
    ignored = split.classes[IGNORE]
    shown = _label_summary(split)
    text = describe_flaw(shown, names) if split.known_pixels and not split.unknown else None
    if text and (shown.assumed or not shown.classes):
        yield _stops(text)
    elif text and len(split.sample) == len(split.listing.pairs):
        yield _harms(text)
    elif split.ignored > _MUCH:
        yield _harms(
            f"{split.ignored:.0%} of the pixels are ignored; if that is not intended, see ids: and "
            f"ignore: in {path}"
        )
    yield from _unknown(opened, split)
    if near := split.near / max(1, split.known_pixels):
        yield _harms(
            f"{near:.1%} of the pixels have values of no class, probably from smooth edges or "
            "compression, and count as the nearest class; better save masks as PNG, drawn and "
            "resized without antialiasing"
        )
    if split.known_pixels > ignored:
        yield from _classes(opened, split)


def _label_summary(split: SplitFacts) -> LabelSummary:
    masks = [(pair.mask, pair.reader) for pair in split.sample if pair.mask and pair.reader]
    assumed = {raw for _, reader in masks for raw in reader.encoding.assumed}
    return LabelSummary(
        classes=[number for number in split.classes if number != IGNORE],
        assumed=[raw for raw in assumed if raw in split.pixels],
        masks=[mask for mask, _ in masks],
        reader=masks[0][1] if masks else None,
    )


def _unknown(opened: OpenedData, split: SplitFacts) -> Iterator[Finding]:
    described = opened.description
    if ids := sorted(value for value in split.unknown if isinstance(value, int)):
        yield _stops(
            f"masks hold {_values('id', ids)} unknown to {described.path} "
            f"({_holders(split, ids)}); {remedy_for_ids(ids)}"
        )
    colours = [value for value in split.unknown if not isinstance(value, int)]
    if not colours:
        return
    colours.sort(key=lambda value: -split.pixels[value])
    if described.masks == "ids" or not described.has_palette:
        use = f"use the masks of {described.source}" if described.source else "save class ids"
        remedy = f"{use}, or give the colours of the classes with palette: there"
    elif len(colours) > max(3, len(described.class_names)):
        remedy = "they look like smooth edges or compression: save PNG without antialiasing"
    else:
        remedy = "add to palette: or ignore_colors: there"
    yield _stops(
        f"masks hold {_values('colour', colours)} unknown to {described.path} "
        f"({_holders(split, colours)}); {remedy}"
    )


def _classes(opened: OpenedData, split: SplitFacts) -> Iterator[Finding]:
    class_names, source = opened.description.class_names, opened.description.source
    every = len(split.sample) == len(split.listing.pairs)
    where = "" if every else f" in {len(split.sample)} of {len(split.listing.pairs)} masks"
    training = split.listing.split == "train"
    if never := [name for number, name in enumerate(class_names) if not split.classes[number]]:
        remedy = "they do not count in the mean IoU"
        if training:
            remedy = "remove or merge classes that never occur, or see ids:"
            remedy = f"check whether the copy of {source} is complete" if source else remedy
        found = _harms if training and every else _tells
        yield found(f"{_classes_named(never)} never seen{where}; {remedy}")
    shares = {name: split.share(number) for number, name in enumerate(class_names)}
    rare = [name for name, share in shares.items() if 0 < share < RARE]
    if rare and training:
        yield _tells(
            f"{_classes_named(rare)} below {RARE:.1%} of the pixels{where}; expect a low IoU, or "
            "add images of them"
        )


def _appearances(split: SplitFacts, encoding: Encoding) -> Iterator[Finding]:
    """Yield findings about the file formats of a split."""
    pairs = split.listing.pairs
    if faint := describe_unused_range(pairs, pairs[0].levels if pairs else Levels()):
        yield _harms(f"{split.listing.split}: {faint}")
    wide = any(raw > 255 for raw, target in encoding.ids.items() if target != IGNORE)
    headers = {"mask": split.mask_headers, "image": split.image_headers}
    checks: tuple[tuple[Severity, str, Callable[[Header], bool], str], ...] = (
        (
            Severity.STOPS,
            "mask",
            lambda header: header.format == "JPEG" and encoding.others != NEAREST,
            "in JPEG, whose compression changes ids and colours; save masks as PNG",
        ),
        (
            Severity.TELLS,
            "mask",
            lambda header: header.mode.startswith(("I", "F")) and not wide,
            "with 16 bits or more; fakd reads their ids correctly, but 8 are smaller and faster",
        ),
        (
            Severity.TELLS,
            "image",
            lambda header: header.turned and header.size != header.stored,
            "rotated by EXIF, which fakd applies; see in the picture whether masks are upright",
        ),
        (
            Severity.TELLS,
            "image",
            lambda header: header.mode in ("1", "L", "LA") or header.mode[0] in "IF",
            "in grey, read as RGB with equal channels; fine if predictions get grey images too",
        ),
        (
            Severity.TELLS,
            "image",
            lambda header: header.transparent,
            "with transparency, which is dropped; fill the background if it shows in the picture",
        ),
    )
    for severity, noun, holds, text in checks:
        if those := [path for path, header in headers[noun].items() if holds(header)]:
            all_of_kind = count_noun(len(headers[noun]), noun)
            what = f"{len(those)} of {all_of_kind} {text} ({list_some(those, 1)})"
            yield Finding(severity, f"{split.listing.split}: {what}")


def _overlap(
    splits: Sequence[SplitFacts], twins: Sequence[tuple[Place, Place]]
) -> Iterator[Finding]:
    first, second = (split.listing.pairs for split in splits)
    if shared := sorted({pair.image for pair in first} & {pair.image for pair in second}):
        yield _harms(
            f"{count_noun(len(shared), 'image')} in both train and val "
            f"({list_some(shared, 2)}); remove "
            "them from one, since scores on training images mean nothing"
        )
    if twins:
        one, other = twins[0]
        yield _harms(
            f"{count_noun(len(twins), 'image')} of val with an identical copy in train ({other} is "
            f"{one}); remove them from one"
        )
    names = {pair.name for pair in first} & {pair.name for pair in second}
    if names and not shared and not twins:
        yield _tells(
            f"{count_noun(len(names), 'name')} in both train and val "
            f"({list_some(sorted(names), 2)}); make sure that they are different images"
        )


def _classes_named(names: Sequence[str]) -> str:
    noun = "class" if len(names) == 1 else f"{len(names)} classes"
    return f"{noun} {list_some(names, _LISTED)}"


def _values(noun: str, values: Sequence[MaskValue]) -> str:
    texts = [str(list(value) if isinstance(value, tuple) else value) for value in values]
    return f"{noun}{'s' if len(values) > 1 else ''} {list_some(texts, _LISTED)}"


def _holders(split: SplitFacts, values: Sequence[MaskValue]) -> str:
    return list_some(dict.fromkeys(path for value in values for path in split.unknown[value]), 2)
