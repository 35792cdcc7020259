"""Image and mask files to arrays, whole files only; what a mask says in class ids."""

import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int16, Integer, UInt8
from PIL import Image, ImageOps

from fakd.data.dataset import Colour
from fakd.data.description import Description
from fakd.data.layout import Encoding
from fakd.errors import InputError, some
from fakd.settings import IGNORE

MaskValue = int | Colour
"""What a mask holds at a pixel: an id or a colour."""
Pixels = Integer[np.ndarray, "height width"] | UInt8[np.ndarray, "height width 3"]
"""A mask as it is stored: ids, whatever they mean, or RGB colours."""
_UNKNOWN = -2


class MaskReader:
    """Mask files to class ids through lookup tables made once.

    Args:
        description: Classes and colours.
        encoding: What ids mean; the description's by default.
    """

    def __init__(self, description: Description, encoding: Encoding | None = None) -> None:
        self.encoding = encoding or description.encoding
        self.description = description
        self.reads_colours = description.has_palette and description.masks != "ids"
        """Whether RGB masks mean colours, also where they are grey."""
        others = self.encoding.others
        self._classes = np.full(2**16, _UNKNOWN if others is None else others, dtype=np.int16)
        for raw, target in self.encoding.ids.items():
            self._classes[raw] = target
        self._meanings = {colour: number for number, colour in enumerate(description.palette)}
        self._meanings |= dict.fromkeys(description.ignored_colours, IGNORE)
        codes = _codes(np.array([*self._meanings], dtype=np.uint8)[:, None, :])[:, 0]
        order = np.argsort(codes)
        self._colours = codes[order]
        self._colour_targets = np.array([*self._meanings.values()], dtype=np.int16)[order]

    def __call__(self, path: Path) -> Int16[np.ndarray, "height width"]:
        """Decode a mask and look up the class of each pixel, `IGNORE` where it has none.

        Raises:
            InputError: the file is damaged, or holds an id or a colour that the description does
                not know.
        """
        pixels = self.stored(path)
        if pixels.ndim == 2:
            return self._from_ids(pixels, path)
        if self.reads_colours:
            return self._from_colours(pixels, path)
        if _grey(pixels):
            return self._from_ids(pixels[:, :, 0], path)
        source = self.description.source
        if self.description.masks == "ids":
            raise InputError(
                f"{path} holds colours, where {self.description.path} expects class ids; "
                + (f"use the masks of {source}" if source else "save ids, or leave out masks: ids")
            )
        raise InputError(
            f"{path} holds colours, but {self.description.path} gives none to its classes; "
            "add palette: [[r, g, b], ...], one per class"
        )

    def stored(self, path: Path) -> Pixels:
        """Decode a mask to what it holds, whatever that means.

        Raises:
            InputError: the file is damaged.
        """
        if path.suffix.lower() == ".mat":
            return _label_map(path)
        return decoded(path) if self.description.masks == "colors" else read_mask(path)

    def counted(self, path: Path) -> dict[MaskValue, int]:
        """Count the pixels of each id or colour in a mask.

        Raises:
            InputError: the file is damaged.
        """
        return counted(self.stored(path), self.reads_colours)

    def meaning(self, value: MaskValue) -> int | None:
        """Say which class a value means, `IGNORE` for none, None for what is not known."""
        if isinstance(value, int):
            return self.encoding.ids.get(value, self.encoding.others)
        return self._meanings.get(value) if self.reads_colours else None

    def _from_ids(
        self, ids: Integer[np.ndarray, "height width"], path: Path
    ) -> Int16[np.ndarray, "height width"]:
        if path.suffix.lower() in (".jpg", ".jpeg"):
            raise InputError(
                f"{path} is a JPEG, whose compression changes class ids; save masks as PNG"
            )
        if ids.min() < 0 or ids.max() >= 2**16:
            strange = ids.min() if ids.min() < 0 else ids.max()
            raise InputError(f"{path} holds id {strange}; save masks with ids of 0 to 65535")
        labels: np.ndarray = self._classes.take(ids)
        if labels.min() == _UNKNOWN:
            unknown = np.unique(ids[labels == _UNKNOWN]).tolist()
            raise InputError(
                f"{path} holds {_listed('id', unknown)}, which {self.description.path} does not "
                f"know ({self._known()}); map with ids: or leave out with ignore: there"
            )
        return labels

    def _known(self) -> str:
        ids = [raw for raw, target in self.encoding.ids.items() if target != IGNORE]
        return f"{len(self.description.class_names)} classes, from id {min(ids, default=0)}"

    def _from_colours(
        self, pixels: UInt8[np.ndarray, "height width 3"], path: Path
    ) -> Int16[np.ndarray, "height width"]:
        codes = _codes(pixels)
        nearest = np.searchsorted(self._colours, codes).clip(max=len(self._colours) - 1)
        unknown = self._colours[nearest] != codes
        if unknown.any():
            strange = np.unique(pixels[unknown], axis=0).tolist()
            remedy = (
                "JPEG compression changes colours: save masks as PNG"
                if path.suffix.lower() != ".png"
                else "add to palette: or ignore_colors: there"
            )
            raise InputError(
                f"{path} holds {_listed('colour', strange)}, which {self.description.path} does "
                f"not know; {remedy}"
            )
        labels: np.ndarray = self._colour_targets[nearest]
        return labels


class Pair(NamedTuple):
    """An image and its mask."""

    name: str
    image: Path
    mask: Path | None = None
    """None for an unlabelled image."""
    reader: MaskReader | None = None
    """What reads the mask; its ``encoding`` says what ids mean, its ``description`` the rest."""


def read_mask(path: Path) -> Pixels:
    """Decode a mask: palette indices and grey levels as they are stored, or RGB colours.

    Raises:
        InputError: the file cannot be decoded to its last row.
    """
    pixels = decoded(path, as_stored=True)
    if pixels.dtype == np.bool_:
        return pixels.astype(np.uint8)
    if pixels.ndim == 2:
        return pixels
    # An alpha channel says nothing about the class.
    return pixels[:, :, :3] if pixels.shape[2] >= 3 else pixels[:, :, 0]


def counted(pixels: Pixels, colours: bool = False) -> dict[MaskValue, int]:
    """Count the pixels of each id or colour.

    Args:
        pixels: A mask as it is stored.
        colours: Whether RGB that is grey everywhere also means colours, instead of ids.
    """
    if pixels.ndim == 3 and not colours and _grey(pixels):
        pixels = pixels[:, :, 0]
    if pixels.ndim == 2:
        if pixels.dtype == np.uint8:
            histogram = np.bincount(pixels.ravel(), minlength=256)
            return {int(value): int(histogram[value]) for value in np.flatnonzero(histogram)}
        ids, counts = np.unique(pixels, return_counts=True)
        return dict(zip(ids.tolist(), counts.tolist(), strict=True))
    codes, counts = np.unique(_codes(pixels), return_counts=True)
    triples = [(code >> 16, code >> 8 & 255, code & 255) for code in codes.tolist()]
    return dict(zip(triples, counts.tolist(), strict=True))


def decoded(path: Path, as_stored: bool = False, upright: bool = False) -> np.ndarray:
    """Decode a file to RGB, a palette's indices looked up in it, or to what is stored.

    Args:
        path: An image or a mask.
        as_stored: Keep palette indices, grey levels and transparency.
        upright: Turn it as its EXIF orientation says.

    Raises:
        InputError: the file cannot be decoded to its last row.
    """
    try:
        with warnings.catch_warnings():
            # Pillow warns about metadata it cannot parse, which no pixel depends on.
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                image.load()
                if upright:
                    ImageOps.exif_transpose(image, in_place=True)
                return np.array(image) if as_stored else _rgb(image)
    except FileNotFoundError as error:
        raise InputError(f"cannot read {path}: it is gone, or a link to nothing") from error
    except PermissionError as error:
        raise InputError(f"cannot read {path}: permission denied; change its rights") from error
    except Image.DecompressionBombError as error:
        raise InputError(f"{path} has too many pixels to decode; cut it into tiles") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(
            f"cannot decode {path}: it is damaged, incomplete or no image; replace or remove it"
        ) from error


def _rgb(image: Image.Image) -> UInt8[np.ndarray, "height width 3"]:
    if image.mode.startswith("I"):
        # Pillow would cut 16-bit grey levels off at 255 where their upper byte is meant.
        grey = (np.array(image) >> 8).astype(np.uint8)
        return np.stack([grey] * 3, axis=-1)
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _label_map(path: Path) -> Integer[np.ndarray, "height width"]:
    """Read a MATLAB file: ``LabelMap`` of PASCAL Context, or ``GTcls.Segmentation`` of SBD."""
    # Imported here because nothing but these files needs it, and it takes a while.
    from scipy.io import loadmat

    try:
        content = loadmat(path, variable_names=["LabelMap", "GTcls"])
    except FileNotFoundError as error:
        raise InputError(f"cannot read {path}: it is gone, or a link to nothing") from error
    # SciPy raises whatever its parser stumbles over in a damaged file.
    except Exception as error:
        raise InputError(
            f"cannot decode {path}: it is damaged, incomplete or no MATLAB file before 7.3; "
            "unpack it again"
        ) from error
    try:
        labels: np.ndarray = (
            content["LabelMap"] if "LabelMap" in content else content["GTcls"][0, 0]["Segmentation"]
        )
    except (LookupError, ValueError) as error:
        raise InputError(
            f"{path} holds neither LabelMap nor GTcls.Segmentation; use the file as published"
        ) from error
    if not np.issubdtype(labels.dtype, np.integer) or labels.ndim != 2 or not labels.size:
        raise InputError(
            f"{path} holds {labels.dtype} of shape {labels.shape}, not a map of class ids; use "
            "the file as published"
        )
    return labels


def _grey(pixels: UInt8[np.ndarray, "height width 3"]) -> bool:
    return bool((pixels == pixels[:, :, :1]).all())


def _codes(
    pixels: UInt8[np.ndarray, "height width 3"],
) -> Integer[np.ndarray, "height width"]:
    red, green, blue = np.moveaxis(pixels.astype(np.int32), -1, 0)
    codes: np.ndarray = red << 16 | green << 8 | blue
    return codes


def _listed(noun: str, values: list, most: int = 5) -> str:
    return f"{noun}{'s' if len(values) > 1 else ''} {some(values, most)}"
