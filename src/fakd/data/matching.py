"""Which image belongs to which mask, by the layout of a split; what lacks, named once."""

import re
from collections.abc import Callable, Iterable
from pathlib import Path

from fakd.data.decode import IMAGE_SUFFIXES, MASK_SUFFIXES
from fakd.data.description import Description
from fakd.data.layout import Masks, Part, Pattern, default_layout
from fakd.data.masks import MaskReader
from fakd.data.pairs import Pair
from fakd.errors import InputError


class Matcher:
    """Pairs of one part of a split, and what its user should know about them.

    Args:
        root: The folder that patterns start from.
        description: What to read masks with.
        split: ``train`` or ``val``.
        part: The part.
        listed: Lists the files below a folder.
    """

    def __init__(
        self,
        root: Path,
        description: Description,
        split: str,
        part: Part,
        listed: Callable[[Path], list[str]],
    ) -> None:
        self._root, self._description = root, description
        self._split, self._part = split, part
        self._files_below = listed
        self._by_convention = (part,) == default_layout(split)

    def pairs(self) -> list[Pair]:
        """Pair the images of this part with their masks.

        Raises:
            InputError: a folder, a list, a listed image or a mask is missing.
        """
        images = self._images()
        chosen = self._masks(images)
        if chosen is None:
            return [Pair(name, self._root / path) for name, path in images.items()]
        place, masks = chosen
        reader = MaskReader(self._description, place.encoding)
        return [
            Pair(name, self._root / path, self._root / masks[name], reader)
            for name, path in images.items()
        ]

    def remark(self, names: Iterable[str]) -> str | None:
        """Say what this part lacks of the number of images it should have."""
        wanted, names = self._part.count, list(names)
        if wanted is None or len(names) == wanted:
            return None
        title = self._description.name or "the described"
        where = self._lists()[0] if self._part.lists else self._part.images.text
        if len(names) > wanted:
            return (
                f"{self._split} has {len(names)} images ({where}), more than {title}'s {wanted}; "
                "see whether others were added"
            )
        if self._part.lists:
            hint = f"the others are missing in {self._root / where}"
        elif (gap := _gap(names, wanted)) is not None:
            hint = f"missing, for example, {Path(self._part.images.path(gap)).name}"
        else:
            hint = f"the others should lie under {self._root / self._part.images.folder}"
        return f"{self._split} has {len(names)} of {title}'s {wanted} images ({where}); {hint}"

    def _images(self) -> dict[str, str]:
        found = self._found(self._part.images, IMAGE_SUFFIXES)
        if not self._part.lists:
            return {name: found[name] for name in sorted(found)}
        lists = self._lists()
        excluded = {name for file in self._part.excluded for name in self._names(file)}
        names = dict.fromkeys(name for file in lists for name in self._names(file))
        names = dict.fromkeys(name for name in names if name not in excluded)
        if missing := [name for name in names if name not in found]:
            path = self._root / self._part.images.path(missing[0])
            more = f" (and {len(missing) - 1} more like it)" if missing[1:] else ""
            raise InputError(
                f"{self._root / lists[0]} names {missing[0]}, but there is no {path}{more}; "
                f"{self._remedy()}"
            )
        if not names:
            raise InputError(f"{self._root / lists[0]} names no image; {self._remedy()}")
        return {name: found[name] for name in names}

    def _found(self, pattern: Pattern, suffixes: tuple[str, ...]) -> dict[str, str]:
        """Map names to paths below the root."""
        folder = self._existing(pattern)
        prefix = f"{pattern.folder}/" if pattern.folder else ""
        found = pattern.names(self._files_below(folder), suffixes)
        if not found:
            looked_for = (
                f"file ending in {', '.join(suffixes)}; add some"
                if self._by_convention
                else f"file like {pattern.text}; {self._remedy()}"
            )
            raise InputError(f"{folder} holds no {looked_for}")
        return {name: prefix + file for name, file in found.items()}

    def _existing(self, pattern: Pattern) -> Path:
        folder = self._root / pattern.folder
        if not folder.is_dir():
            raise InputError(
                f"expected a folder {folder}, but {_what_is_there(folder)}; {self._remedy()}"
            )
        return folder

    def _masks(self, images: dict[str, str]) -> tuple[Masks, dict[str, str]] | None:
        places = self._part.masks
        there = [place for place in places if (self._root / place.pattern.folder).is_dir()]
        if not places or (self._part.may_lack_masks and not there):
            return None
        if not there:
            self._existing(places[0].pattern)
        best: tuple[Masks, dict[str, str]] = (places[0], {})
        for place in there:
            folder = self._root / place.pattern.folder
            files = place.pattern.names(self._files_below(folder), MASK_SUFFIXES)
            prefix = f"{place.pattern.folder}/" if place.pattern.folder else ""
            found = {name: prefix + files[name] for name in images if name in files}
            if len(found) > len(best[1]):
                best = place, found
            if len(found) == len(images):
                break
        place, found = best
        if missing := [name for name in images if name not in found]:
            self._refuse(missing, images, place if found else there[0], bool(found))
        return best

    def _refuse(self, missing: list[str], images: dict[str, str], place: Masks, some: bool) -> None:
        first, pattern = missing[0], place.pattern
        path = self._root / pattern.path(first).replace(".*", ".png")
        more = f" (and {len(missing) - 1} more like it)" if missing[1:] else ""
        others = [other.pattern.path(first) for other in self._part.masks if other is not place]
        nor = f", nor {' or '.join(others)}" if others and not some else ""
        instead = self._beside(pattern, first)
        remedy = (
            "masks match images by name, so add, rename or link it, or remove the image"
            if self._by_convention
            else self._remedy()
        )
        raise InputError(
            f"no mask {path}{nor} for image {self._root / images[first]}{more}{instead}; {remedy}"
        )

    def _beside(self, pattern: Pattern, name: str) -> str:
        """Mention a file that was perhaps taken for the mask that lacks."""
        for file in self._files_below(self._root / pattern.folder):
            # What follows the name must not be more of a name: 10 is not beside 1.
            if re.match(rf"{re.escape(name)}(?![0-9a-zA-Z])", file):
                reason = (
                    "holds colours, not ids" if "color" in file.lower() else "is named otherwise"
                )
                return f"; {Path(file).name} is there, but {reason}"
        return ""

    def _lists(self) -> tuple[str, ...]:
        groups = self._part.lists
        for group in groups:
            if all((self._root / file).is_file() for file in group):
                return group
        first = next(file for file in groups[0] if not (self._root / file).is_file())
        others = [" with ".join(group) for group in groups[1:]]
        instead = f" (or, instead, {' or '.join(others)})" if others else ""
        raise InputError(
            f"expected a list of images {self._root / first}{instead}, but "
            f"{_what_is_there(self._root / first)}; {self._remedy()}"
        )

    def _names(self, file: str) -> list[str]:
        path = self._root / file
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is no text"
            raise InputError(f"cannot read the list {path}: {reason}; {self._remedy()}") from error
        return [line.strip() for line in lines if line.strip()]

    def _remedy(self) -> str:
        if self._by_convention:
            return "lay the data out as train/images, train/masks, val/images, val/masks"
        if self._description.source is not None:
            return f"it comes with {self._description.source}"
        return f"add it, or change {self._split} in {self._description.path}"


def _what_is_there(path: Path, most: int = 6) -> str:
    """Describe the nearest folder that does exist."""
    folder = path.parent
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    try:
        entries = sorted(entry.name for entry in folder.iterdir() if entry.name[0] != ".")
    except OSError:
        return f"{folder} may not be read"
    more = f" and {len(entries) - most} more" if len(entries) > most else ""
    return f"{folder} holds {', '.join(entries[:most]) or 'nothing'}{more}"


def _gap(names: list[str], wanted: int) -> str | None:
    """Find the first number that lacks, where names are numbered from 1."""
    parts = [re.fullmatch(r"(.*?)(\d+)", name) for name in names]
    numbers = {int(part[2]) for part in parts if part}
    forms = {(part[1], len(part[2])) if part else None for part in parts}
    if len(forms) != 1 or (form := forms.pop()) is None or max(numbers) > wanted:
        return None
    prefix, digits = form
    number = next(number for number in range(1, wanted + 1) if number not in numbers)
    return f"{prefix}{number:0{digits}d}"
