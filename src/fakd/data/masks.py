"""Conversion of mask files of any type to class ids."""

from collections.abc import Sequence, Sized
from typing import NamedTuple

import numpy as np
from jaxtyping import Int16, Integer, Shaped, UInt8

from fakd.data.dataset import Colour
from fakd.data.decoding import RawImage, decode_raw
from fakd.data.description import Description
from fakd.data.layout import NEAREST, Encoding, Levels
from fakd.data.packed import Place
from fakd.errors import InputError, list_some
from fakd.settings import IGNORE

MaskValue = int | Colour
"""The value of a mask at a pixel: an id or a colour."""
Pixels = Integer[np.ndarray, "height width"] | UInt8[np.ndarray, "height width 3"]
"""A mask as raw ids or as RGB colours."""
EXIF_REMEDY = (
    "rotate the mask too, or remove the orientation from the photo (exiftool -Orientation= FILE)"
)
_UNKNOWN = -2
_MANY = 16


class MaskReader:
    """Converts mask files to class ids with precomputed lookup tables.

    A file may encode classes by its values, its colours or both: a palette PNG has an index and a
    colour at each pixel, a grey one a value that is also a grey. Unless the description has
    ``masks:``, both must give the same class wherever both are known.

    Args:
        description: Classes and colours.
        encoding: The meaning of ids; the description's by default.
    """

    def __init__(self, description: Description, encoding: Encoding | None = None) -> None:
        self.encoding = encoding or description.encoding
        self.description = description
        self.reads_colours = description.has_palette and description.masks != "ids"
        """Whether RGB masks are read as colours, even if all are grey."""
        others = self.encoding.others
        self._nearest = others == NEAREST
        unknown = others is None or self._nearest
        self._classes = np.full(2**16, _UNKNOWN if unknown else others, dtype=np.int16)
        for raw, target in self.encoding.ids.items():
            self._classes[raw] = target
        if self._nearest:
            known = np.flatnonzero(self._classes[:256] != _UNKNOWN)
            nearest = np.abs(np.arange(256)[:, None] - known).argmin(1)
            self._classes[:256] = self._classes[known[nearest]]
        self._meanings = {colour: number for number, colour in enumerate(description.palette)}
        self._meanings |= dict.fromkeys(description.ignored_colours, IGNORE)
        codes = _codes(np.array([*self._meanings], dtype=np.uint8)[:, None, :])[:, 0]
        order = np.argsort(codes)
        self._colours = codes[order]
        self._colour_targets = np.array([*self._meanings.values()], dtype=np.int16)[order]
        self.first_shown: dict[int, tuple[Colour, Place]] = {}
        """The colour that palettes gave each id so far, and the first file with it."""

    def __call__(self, path: Place) -> Int16[np.ndarray, "height width"]:
        """Decode a mask and look up the class of each pixel, `IGNORE` where there is none.

        Raises:
            InputError: the file is damaged, contains an unknown id or colour, or gives different
                classes by value and by colour.
        """
        pixels, lossy = self._read(path)
        if pixels.ndim == 2:
            return self._from_ids(pixels, lossy, path)
        if self.reads_colours:
            return self._from_colours(pixels, lossy, path)
        source = self.description.source
        if self.description.masks == "ids":
            raise InputError(
                f"{path} holds colours, but {self.description.path} expects class ids; "
                + (f"use the masks of {source}" if source else "save ids, or remove masks: ids")
            )
        raise InputError(
            f"{path} holds colours, but {self.description.path} has none for its classes; "
            "add palette: [[r, g, b], ...], one per class"
        )

    def read_values(self, path: Place) -> Pixels:
        """Decode a mask to raw ids or colours, whichever its pixels mean here.

        Raises:
            InputError: the file is damaged, or its values and colours give different classes.
        """
        return self._read(path)[0]

    def _read(self, path: Place) -> tuple[Pixels, bool]:
        """Decode a mask, and return whether compression may have changed it."""
        file = decode_raw(path)
        pixels = _without_alpha(file, path)
        if pixels.ndim == 3:
            coloured = self.reads_colours or not _is_grey(pixels)
            pixels = _as_colours(file, path) if coloured else _as_ids(pixels[:, :, 0], path)
        elif self.description.masks == "colors":
            pixels = _as_colours(file, path)
        else:
            pixels = self._interpret(file._replace(pixels=_as_ids(pixels, path)), path)
        return pixels, file.lossy

    def _interpret(self, file: RawImage, path: Place) -> Pixels:
        """Decide whether the values of a file are ids or stand for the colours that they show."""
        ids = self._expand_greys(file.pixels, file.white)
        if self.description.masks == "ids" or not (self.reads_colours or file.palette is not None):
            return ids
        numbers = _distinct_values(file.pixels).tolist()
        used = numbers if ids is file.pixels else _distinct_values(ids).tolist()
        shown = [_colour_of(file, number) for number in numbers]
        coloured = file.palette is not None and any(
            colour != (number,) * 3 for number, colour in zip(numbers, shown, strict=True)
        )
        by_id = [self.meaning(number) for number in used]
        by_colour = [None if colour is None else self.meaning(colour) for colour in shown]
        if coloured and None in by_colour:
            self._refuse_greys(used, shown, path)
        if not self.reads_colours:
            if coloured:
                self._compare(used, shown, path)
            return ids
        if None in by_id:
            fewer = by_colour.count(None) < by_id.count(None)
            return _as_colours(file, path) if fewer else ids
        for number, colour, one, other in zip(used, shown, by_id, by_colour, strict=True):
            told = other is not None or (coloured and one != IGNORE)
            if one != other and told and (coloured or None not in by_colour):
                shows = "its palette shows" if file.palette is not None else "it shows as"
                raise InputError(
                    f"{path} contradicts {self.description.path}: {number} is an id "
                    f"{self._class_title(one)}, but {shows} {list(colour or ())}, a colour "
                    f"{self._class_title(other)}; say which counts with masks: colors or masks: "
                    "ids there"
                )
        return ids

    def _class_title(self, target: int | None) -> str:
        if target is None:
            return "that is not described"
        return f"of {'no class' if target == IGNORE else self.description.class_names[target]}"

    def _expand_greys(self, pixels: np.ndarray, white: int | None) -> np.ndarray:
        """Expand values of 1, 2 or 4 bits to 8-bit greys if only those are known ids."""
        if white is None or white >= 255:
            return pixels
        used, factor = _distinct_values(pixels).tolist(), 255 // white
        known = self.encoding.ids.keys()
        stretched = not known >= {*used} and known >= {number * factor for number in used}
        return pixels * np.uint8(factor) if stretched else pixels

    def _refuse_greys(
        self, used: Sequence[int], shown: Sequence[Colour | None], path: Place
    ) -> None:
        """Refuse a palette whose greys are themselves ids, as written by PNG optimisers.

        Raises:
            InputError: the greys differ from the indices, and mean other classes.
        """
        greys = [colour[0] for colour in shown if colour and len({*colour}) == 1]
        by_grey = [self.meaning(grey) for grey in greys]
        by_id = [self.meaning(number) for number in used]
        if len(greys) < len(used) or None in (*by_grey, *by_id):
            return
        for number, grey, one, other in zip(used, greys, by_id, by_grey, strict=True):
            if one != other:
                raise InputError(
                    f"{path} has a palette that shows index {number} as grey {grey}, but id "
                    f"{number} is {self._class_title(one)} and id {grey} "
                    f"{self._class_title(other)}; use the "
                    "grey mask from before the PNG was optimised, or write masks: ids in "
                    f"{self.description.path} if the index counts"
                )

    def _compare(self, used: Sequence[int], shown: Sequence[Colour | None], path: Place) -> None:
        """Refuse a palette that gives an id another colour than an earlier mask did.

        Raises:
            InputError: it does; palettes were probably generated per file.
        """
        for number, colour in zip(used, shown, strict=True):
            if colour is None or self.meaning(number) == IGNORE:
                continue
            first, where = self.first_shown.setdefault(number, (colour, path))
            if first != colour:
                raise InputError(
                    f"{path} shows id {number} as {list(colour)}, but {where} as {list(first)}; "
                    f"give the classes their colours in {self.description.path} if colours count, "
                    "or write masks: ids there"
                )

    def count_values(self, path: Place) -> dict[MaskValue, int]:
        """Count the pixels of each id or colour in a mask.

        Raises:
            InputError: as for `decode_raw`.
        """
        return count_values(self.read_values(path))

    def meaning(self, value: MaskValue) -> int | None:
        """Return the class of a value, `IGNORE` for none, None for unknown values."""
        if isinstance(value, int):
            if self.description.masks == "colors":
                return self.meaning((value, value, value))
            target = int(self._classes[value]) if 0 <= value < 2**16 else _UNKNOWN
            return None if target == _UNKNOWN else target
        if self.reads_colours and self._nearest:
            return int(self._nearest_classes(np.array([value], np.uint8))[0])
        return self._meanings.get(value) if self.reads_colours else None

    def is_exact(self, value: MaskValue) -> bool:
        """Return whether a value is described itself, rather than near one that is."""
        if isinstance(value, int) and self.description.masks == "colors":
            value = value, value, value
        return value in (self.encoding.ids if isinstance(value, int) else self._meanings)

    def _from_ids(
        self, ids: Integer[np.ndarray, "height width"], lossy: bool, path: Place
    ) -> Int16[np.ndarray, "height width"]:
        if lossy and not self._nearest:
            raise InputError(
                f"{path} has lossy compression, as JPEG does, which changes class ids; save masks "
                "as PNG"
            )
        labels: np.ndarray = self._classes.take(ids)
        if labels.min() == _UNKNOWN:
            unknown = np.unique(ids[labels == _UNKNOWN]).tolist()
            raise InputError(
                f"{path} holds {_list_values('id', unknown)}, which {self.description.path} "
                f"does not know ({self._known_text()}); {remedy_for_ids(unknown)}"
            )
        return labels

    def _known_text(self) -> str:
        ids = [raw for raw, target in self.encoding.ids.items() if target != IGNORE]
        return f"{len(self.description.class_names)} classes, from id {min(ids, default=0)}"

    def _from_colours(
        self, pixels: UInt8[np.ndarray, "height width 3"], lossy: bool, path: Place
    ) -> Int16[np.ndarray, "height width"]:
        if self._nearest:
            return self._nearest_classes(pixels)
        codes = _codes(pixels)
        nearest = np.searchsorted(self._colours, codes).clip(max=len(self._colours) - 1)
        unknown = self._colours[nearest] != codes
        if unknown.any():
            strange = np.unique(pixels[unknown], axis=0).tolist()
            remedy = (
                "JPEG compression changes colours: save masks as PNG"
                if lossy
                else "add to palette: or ignore_colors: there"
            )
            raise InputError(
                f"{path} holds {_list_values('colour', strange)}, which {self.description.path} "
                f"does not know; {remedy}"
            )
        labels: np.ndarray = self._colour_targets[nearest]
        return labels

    def _nearest_classes(
        self, pixels: UInt8[np.ndarray, "*shape 3"]
    ) -> Int16[np.ndarray, "*shape"]:
        """Look up the class of the nearest colour, by Euclidean distance in RGB."""
        codes, where = np.unique(_codes(pixels), return_inverse=True)
        distances = np.zeros((len(codes), len(self._colours)), np.int32)
        for bits in (0, 8, 16):
            distances += ((codes >> bits & 255)[:, None] - (self._colours >> bits & 255)) ** 2
        nearest = self._colour_targets[distances.argmin(1)]
        labels: np.ndarray = nearest[where].reshape(pixels.shape[:-1])
        return labels


class Pair(NamedTuple):
    """An image and its mask."""

    name: str
    image: Place
    mask: Place | None = None
    """None for an unlabelled image."""
    reader: MaskReader | None = None
    """Reads the mask according to its ``encoding`` and ``description``."""
    levels: Levels = Levels()
    """How values of the image are interpreted."""


def read_mask(path: Place) -> Pixels:
    """Decode a mask without a description: palette indices and greys as ids, or RGB colours.

    Raises:
        InputError: the file cannot be decoded to its last row, or to ids or colours.
    """
    file = decode_raw(path)
    pixels = _without_alpha(file, path)
    if pixels.ndim == 3 and not _is_grey(pixels):
        return _as_colours(file, path)
    return _as_ids(pixels if pixels.ndim == 2 else pixels[:, :, 0], path)


def count_values(pixels: Pixels) -> dict[MaskValue, int]:
    """Count the pixels of each id or colour."""
    if pixels.ndim == 2:
        histogram = np.bincount(pixels.ravel())
        return {int(value): int(histogram[value]) for value in np.flatnonzero(histogram)}
    codes, counts = np.unique(_codes(pixels), return_counts=True)
    triples = [(code >> 16, code >> 8 & 255, code & 255) for code in codes.tolist()]
    return dict(zip(triples, counts.tolist(), strict=True))


def remedy_for_ids(unknown: Sized) -> str:
    """Return the way out for unknown ids."""
    if len(unknown) > _MANY:
        return (
            "if they come from smooth edges, save masks without antialiasing; "
            "otherwise map them with ids: there"
        )
    return "map them with ids: or exclude them with ignore: there"


def _without_alpha(file: RawImage, path: Place) -> np.ndarray:
    """Return the bands of ids or colours, without transparency."""
    pixels = file.pixels
    if pixels.ndim == 2:
        return pixels
    bands = pixels.shape[2] - file.transparent
    if bands not in (1, 3):
        raise InputError(
            f"{path} has {bands} bands, but masks have one or three; save only the band of ids"
        )
    return pixels[:, :, 0] if bands == 1 else pixels[:, :, :3]


def _as_ids(pixels: np.ndarray, path: Place) -> Integer[np.ndarray, "height width"]:
    """Convert values of any type to ids.

    Raises:
        InputError: they are not integers, or out of range.
    """
    if pixels.dtype in (np.uint8, np.uint16):
        return pixels
    if pixels.dtype.kind == "f" and (broken := pixels != np.floor(pixels)).any():
        raise InputError(
            f"{path} holds {pixels[broken][0]}, which is not a class id; save whole numbers from 0 "
            "to 65535"
        )
    if pixels.min() < 0 or pixels.max() >= 2**16:
        strange = pixels.min() if pixels.min() < 0 else pixels.max()
        raise InputError(f"{path} holds id {strange:.0f}; save masks with ids from 0 to 65535")
    return pixels.astype(np.uint16)


def _as_colours(file: RawImage, path: Place) -> UInt8[np.ndarray, "height width 3"]:
    """Convert stored values to 8-bit colours."""
    pixels = _without_alpha(file, path)
    if file.palette is not None:
        colours: np.ndarray = file.palette[pixels]
        return colours
    if file.white is None or (pixels.astype(np.int64) * 255 % file.white).any():
        raise InputError(
            f"{path} holds {pixels.dtype} values that are not 8-bit colours; save it with 8 bits"
        )
    if file.white != 255:
        pixels = (pixels.astype(np.int64) * 255 // file.white).astype(np.uint8)
    return pixels if pixels.ndim == 3 else np.stack([pixels] * 3, axis=-1)


def _colour_of(file: RawImage, number: int) -> Colour | None:
    """Return the 8-bit colour of a value; None if it has none."""
    if file.palette is not None:
        red, green, blue = file.palette[number].tolist()
        return red, green, blue
    if file.white is None or number * 255 % file.white:
        return None
    return (number * 255 // file.white,) * 3


def _distinct_values(pixels: Integer[np.ndarray, "height width"]) -> Integer[np.ndarray, " values"]:
    """List the distinct values; only one pixel of each run of equal ones is counted."""
    flat = pixels.ravel()
    ends = np.flatnonzero(flat[1:] != flat[:-1])
    return np.flatnonzero(np.bincount(np.append(flat[ends], flat[-1])))


def _is_grey(pixels: Shaped[np.ndarray, "height width 3"]) -> bool:
    return bool((pixels == pixels[:, :, :1]).all())


def _codes(pixels: UInt8[np.ndarray, "*shape 3"]) -> Integer[np.ndarray, "*shape"]:
    red, green, blue = np.moveaxis(pixels.astype(np.int32), -1, 0)
    codes: np.ndarray = red << 16 | green << 8 | blue
    return codes


def _list_values(noun: str, values: list, most: int = 5) -> str:
    return f"{noun}{'s' if len(values) > 1 else ''} {list_some(values, most)}"
