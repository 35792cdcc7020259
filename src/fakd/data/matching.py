"""Matching of images and masks by a split's layout; missing files are named once."""

import re
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Literal

from fakd.data.description import Description
from fakd.data.groups import describe_ungrouped
from fakd.data.layout import IMAGE_SUFFIXES, MASK_SUFFIXES, Masks, Part, Pattern, default_layout
from fakd.data.masks import MaskReader, Pair
from fakd.data.names import (
    describe_nearest_folder,
    first_missing_number,
    list_file,
    list_remedy,
    none_ending_in,
    read_names,
    resolve_excluded,
    to_nfc,
)
from fakd.data.packed import Folder, PackedFolder, Place, open_folder
from fakd.data.scan import files_below
from fakd.errors import InputError, list_some

Lister = Callable[[Path], list[str]]
"""Lists the files below a folder."""


@dataclass
class Listing:
    """The files of one split."""

    split: str
    pairs: list[Pair] = field(default_factory=list)
    """All with masks, or all without if the split is unlabelled."""
    images_alone: list[Place] = field(default_factory=list)
    masks_alone: list[Place] = field(default_factory=list)
    left_out: list[tuple[Pattern, Place]] = field(default_factory=list)
    """Images that match the pattern except for their suffix."""
    refusals: list[str] = field(default_factory=list)
    """Why the split cannot be opened, apart from images without masks."""
    doubts: list[str] = field(default_factory=list)
    """Probable mistakes that do not stop a run."""
    remarks: list[str] = field(default_factory=list)
    """Notes that do not stop a run."""

    @property
    def labelled(self) -> bool:
        """Whether there is any mask."""
        return any(pair.mask is not None for pair in self.pairs)


def list_splits(
    root: Path,
    description: Description,
    lenient: bool = False,
    chosen: Mapping[str, Sequence[str]] | None = None,
    files: Lister | None = None,
    splits: Sequence[Literal["train", "val", "test"]] = ("train", "val"),
) -> list[Listing]:
    """List the training and validation splits, or others.

    Args:
        root: The folder that patterns are relative to.
        description: The location of files and the encoding of masks.
        lenient: Record errors in the listings and continue with the rest.
        chosen: The names of each split, instead of the description's lists.
        files: Lists the files below a folder.
        splits: The splits to list.

    Raises:
        InputError: a folder, list, listed image or mask is missing; not if ``lenient``.
    """
    # Each folder is listed once for all parts and splits.
    files, folder = files or cache(files_below), cache(partial(open_folder, root))
    found = []
    for split in splits:
        parts: Sequence[Part] = getattr(description, split)
        listing = Listing(split)
        names = None if chosen is None else chosen[split]
        for part in parts:
            _Matcher(root, description, part, listing, lenient, files, folder).match(names)
        _check(listing, description.path, lenient)
        if split != "train":
            alone = describe_ungrouped(description.group, [pair.name for pair in listing.pairs])
            listing.doubts += [] if alone is None else [f"{split}: {alone}"]
        found.append(listing)
    used = {pair.mask for listing in found for pair in listing.pairs}
    if any(listing.left_out for listing in found):
        used |= {pair.image for listing in found for pair in listing.pairs}
    for listing in found:
        listing.doubts += _unused_images(listing, used)
        # Splits may share a folder of masks: a mask used by another split is not alone, and one
        # used by none is reported once.
        listing.masks_alone = [mask for mask in listing.masks_alone if mask not in used]
        used.update(listing.masks_alone)
    return found


def _check(listing: Listing, path: Path, lenient: bool) -> None:
    """Sort the pairs, and refuse an image that is in two parts."""
    split, pairs = listing.split, listing.pairs
    pairs.sort(key=lambda pair: (pair.name, pair.image))
    for first, second in pairwise(pairs):
        if first.image == second.image:
            _refuse(
                f"{first.image} is in two parts of {split} in {path}; remove it from one, for "
                "example with exclude:",
                listing,
                lenient,
            )
            break


def _unused_images(listing: Listing, used: Container[Place | None]) -> Iterator[str]:
    """Report images that are not used, and why."""
    by_pattern: dict[Pattern, list[Place]] = {}
    for pattern, path in listing.left_out:
        if path not in used and path not in listing.masks_alone:
            by_pattern.setdefault(pattern, []).append(path)
    for pattern, paths in by_pattern.items():
        suffixes = sorted({path.suffix for path in paths})
        read = all(suffix.lower() in IMAGE_SUFFIXES for suffix in suffixes)
        remedy = "end it in .* for any suffix" if read else "save them as PNG or JPEG"
        yield (
            f"{listing.split} leaves out {len(paths)} image{'s' if len(paths) > 1 else ''} "
            f"({list_some(paths, 2)}), since {pattern.text} does not match {', '.join(suffixes)}; "
            f"{remedy}"
        )


def _refuse(text: str, listing: Listing, lenient: bool) -> None:
    if not lenient:
        raise InputError(text)
    if text not in listing.refusals:
        listing.refusals.append(text)


class _Matcher:
    """Finds the pairs of one part of a split, and collects notes about them."""

    def __init__(
        self,
        root: Path,
        description: Description,
        part: Part,
        listing: Listing,
        lenient: bool,
        files: Lister,
        folder: Callable[[str], Folder],
    ) -> None:
        self._root, self._description, self._part = root, description, part
        self._listing, self._split = listing, listing.split
        self._lenient, self._files_below, self._folder = lenient, files, folder
        self._by_convention = (part,) == default_layout(self._split)

    def match(self, chosen: Sequence[str] | None) -> None:
        """Add the pairs, unpaired files and errors to the listing."""
        listing, refused = self._listing, len(self._listing.refusals)
        images = self._find_files(self._part.images, IMAGE_SUFFIXES, needed=True)
        every = chosen is None and not self._part.lists
        told = self._without_masks(images)
        images = told if every else images
        if chosen is None:
            names = self._choose_names(images)
        else:
            names = [name for name in map(to_nfc, chosen) if name in images]
        place, masks = self._find_masks(names, images)
        reader = None if place is None else MaskReader(self._description, place.encoding)
        alone = [] if place is None else [name for name in names if name not in masks]
        paired = [name for name in names if place is None or name in masks]
        levels = self._description.levels
        listing.pairs += [
            Pair(name, images[name], masks.get(name), reader, levels) for name in paired
        ]
        listing.images_alone += [images[name] for name in alone]
        left_out = self._other_suffixes(images) if every else {}
        listing.left_out += [(self._part.images, left_out[name]) for name in sorted(left_out)]
        spare = sorted(masks.keys() - images.keys() - left_out.keys())
        shown = set(images.values()) if spare else set()
        listing.masks_alone += [masks[name] for name in spare if masks[name] not in shown]
        if names and place is None:
            self._unlabelled()
        sound = not alone and len(listing.refusals) == refused
        if sound and (remark := self._count_remark(paired)):
            listing.remarks.append(remark)

    def _without_masks(self, images: Mapping[str, Place]) -> dict[str, Place]:
        """Leave out files that are masks of other images, if one pattern matches both."""
        masks: dict[Place, str] = {}
        for place in self._part.masks:
            pattern = place.pattern
            if pattern.may_overlap(self._part.images) and self._open_folder(pattern).is_dir():
                found = self._find_files(pattern, MASK_SUFFIXES)
                masks |= {path: name for name, path in found.items()}
        masked = set(masks.values())
        if same := next((path for name, path in images.items() if masks.get(path) == name), None):
            self._refuse(
                f"{self._description.path}: {same} matches both images: and masks: of "
                f"{self._split}; change one of the two patterns"
            )

        def is_mask(name: str, path: Place) -> bool:
            # The pattern with the shorter name is the more specific one, and decides.
            of = masks.get(path, name)
            return len(of) < len(name) and (of in images or name not in masked)

        return {name: path for name, path in images.items() if not is_mask(name, path)}

    def _other_suffixes(self, images: Mapping[str, Place]) -> dict[str, Place]:
        folder = self._open_folder(self._part.images)
        files = self._files(folder) if images else []
        if len(files) == len(images):
            return {}
        found = self._part.images.other_suffixes(files, images)
        return {name: folder / file for name, file in found.items()}

    def _unlabelled(self) -> None:
        """Note that these images have no labels, so that only a teacher can supply classes."""
        use = "only fakd distill can train on it" if self._split == "train" else "it has no scores"
        said, end = self._listing.remarks, f"without them {use}"
        text = f"{self._description.path} gives none"
        if self._part.masks:
            folder = self._root / self._part.masks[0].pattern.folder
            text = f"there is no {folder}, and {describe_nearest_folder(folder)}"
            if any(entry.is_dir() for entry in folder.parent.iterdir() if entry.name != "images"):
                said, end = (
                    self._listing.doubts,
                    f"if the masks are there, rename their folder to {folder.name}",
                )
        said.append(f"{self._split} has no masks: {text}; {end}")

    def _open_folder(self, pattern: Pattern) -> Folder:
        return self._folder(pattern.folder)

    def _files(self, folder: Folder) -> Sequence[str]:
        return folder.files() if isinstance(folder, PackedFolder) else self._files_below(folder)

    def _refuse(self, text: str) -> None:
        _refuse(text, self._listing, self._lenient)

    def _count_remark(self, names: Sequence[str]) -> str | None:
        """Describe the difference from the expected number of images."""
        wanted = self._part.count
        if wanted is None or len(names) == wanted:
            return None
        title = self._description.name or "the described"
        where = (self._choose_lists() or (self._part.images.text,))[0]
        if len(names) > wanted:
            more = f"more than {title}'s {wanted}; check whether some were added"
            return f"{self._split} has {len(names)} images ({where}), {more}"
        if self._part.lists:
            hint = f"the others are missing in {self._root / where}"
        elif (lacking := first_missing_number(names, wanted)) is not None:
            hint = f"missing, for example, {Path(self._part.images.path(lacking)).name}"
        else:
            hint = f"the others should be in {self._root / self._part.images.folder}"
        return f"{self._split} has {len(names)} of {title}'s {wanted} images ({where}); {hint}"

    def _choose_names(self, images: Mapping[str, Place]) -> list[str]:
        """Return the names of this part's images: those in its lists, or all."""
        lists, refused = self._choose_lists(), len(self._listing.refusals)
        if not images or (self._part.lists and not lists):
            return []
        out: set[str] = set()
        try:
            read = partial(self._read_names, images=images)
            out = resolve_excluded(self._part.excluded, images.keys(), read, others=bool(lists))
        except InputError as error:
            self._refuse(f"{error}; {self._remedy()}")
        listed = [name for file in lists for name in self._read_names(file, images)]
        every = listed if self._part.lists else sorted(images)
        names = dict.fromkeys(name for name in every if name not in out)
        if missing := [name for name in names if name not in images]:
            path = self._root / self._part.images.path(missing[0])
            more = f" (and {len(missing) - 1} more like it)" if missing[1:] else ""
            remedy = list_remedy(missing[0], self._part.images.text, images) or self._remedy()
            said = f"{self._root / lists[0]} names {missing[0]}, but there is no {path}{more}"
            self._refuse(f"{said}; {remedy}")
        elif not names and len(self._listing.refusals) == refused:
            which = self._root / (*lists, *self._part.excluded)[0]
            self._refuse(f"{which} leaves no image to use; name some, or exclude fewer")
        return [name for name in names if name in images]

    def _find_files(
        self, pattern: Pattern, suffixes: tuple[str, ...], needed: bool = False
    ) -> dict[str, Place]:
        """Map names to the files that match a pattern."""
        folder = self._open_folder(pattern)
        if not folder.is_dir():
            self._refuse_folder(self._root / pattern.folder)
            return {}
        try:
            found = pattern.names(self._files(folder), suffixes)
        except InputError as error:
            self._refuse(str(error))
            return {}
        if needed and not found:
            looked_for = (
                none_ending_in(suffixes, self._files(folder))
                if self._by_convention
                else f"no file like {pattern.text}; {self._remedy()}"
            )
            self._refuse(f"{folder} holds {looked_for}")
        return {name: folder / file for name, file in found.items()}

    def _refuse_folder(self, folder: Path) -> None:
        self._refuse(
            f"expected a folder {folder}, but {describe_nearest_folder(folder)}; {self._remedy()}"
        )

    def _find_masks(
        self, names: Sequence[str], images: Mapping[str, Place]
    ) -> tuple[Masks | None, dict[str, Place]]:
        """Find the location with the most masks for the images; None if there is none."""
        places = self._part.masks
        there = [place for place in places if self._open_folder(place.pattern).is_dir()]
        if places and not there and not self._part.may_lack_masks:
            self._refuse_folder(self._root / places[0].pattern.folder)
        best: tuple[Masks | None, dict[str, Place]] = (None, {})
        most = -1
        for place in there:
            found = self._find_files(place.pattern, MASK_SUFFIXES)
            matches = sum(name in found for name in names)
            if matches > most:
                best, most = (place, found), matches
            if matches == len(names):
                break
        if best[0] is not None and not self._lenient and most < len(names):
            missing = [name for name in names if name not in best[1]]
            raise InputError(self._missing_masks_text(missing, images, best[0], most > 0))
        return best

    def _missing_masks_text(
        self, missing: Sequence[str], images: Mapping[str, Place], place: Masks, some: bool
    ) -> str:
        first, pattern = missing[0], place.pattern
        path = self._root / pattern.path(first).replace(".*", ".png")
        more = f" (and {len(missing) - 1} more like it)" if missing[1:] else ""
        others = [other.pattern.path(first) for other in self._part.masks if other is not place]
        nor = f", nor {' or '.join(others)}" if others and not some else ""
        remedy = (
            "a mask has the name of its image, so add, rename or link it, or remove the image"
            if self._by_convention
            else self._remedy()
        )
        return (
            f"no mask {path}{nor} for image {images[first]}{more}"
            f"{self._similar_file_hint(pattern, first, images[first])}; {remedy}"
        )

    def _similar_file_hint(self, pattern: Pattern, name: str, image: Place) -> str:
        """Mention a similar file that was perhaps meant as the missing mask."""
        folder = self._open_folder(pattern)
        for file in self._files(folder):
            # The name must end there: 10 does not match 1.
            alike = re.match(rf"{re.escape(name)}(?![0-9a-zA-Z])", to_nfc(file), re.IGNORECASE)
            if alike and folder / file != image:
                reason = "holds colours, not ids" if "color" in file.lower() else "has another name"
                return f"; {Path(file).name} exists, but {reason}"
        return ""

    def _choose_lists(self) -> tuple[str, ...]:
        """Choose the first complete group of lists; empty if there is none."""
        groups = self._part.lists
        for group in groups:
            if all(self._list_path(file).is_file() for file in group):
                return group
        if groups:
            first = next(file for file in groups[0] if not self._list_path(file).is_file())
            others = [" with ".join(group) for group in groups[1:]]
            instead = f" (or, instead, {' or '.join(others)})" if others else ""
            self._refuse(
                f"expected a list of images {self._root / first}{instead}, but "
                f"{describe_nearest_folder(self._root / first)}; {self._remedy()}"
            )
        return ()

    def _list_path(self, file: str) -> Path:
        return list_file(file, self._root, self._description.path)

    def _read_names(self, file: str, images: Container[str]) -> list[str]:
        try:
            return read_names(self._list_path(file), images)
        except InputError as error:
            self._refuse(str(error))
            return []

    def _remedy(self) -> str:
        if self._by_convention:
            splits = dict.fromkeys(("train", "val", self._split))
            places = (f"{split}/{kind}" for split in splits for kind in ("images", "masks"))
            return f"arrange the data as {', '.join(places)}"
        if self._description.source is not None:
            return f"it comes with {self._description.source}"
        return f"add it, or change {self._split} in {self._description.path}"
