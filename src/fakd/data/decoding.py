"""What image files hold, whatever wrote them; images as 8-bit RGB."""

import logging
import math
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from io import BytesIO
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from fakd.data.layout import Levels
from fakd.data.packed import Packed, Place
from fakd.errors import InputError
from fakd.files import wrong_with

if TYPE_CHECKING:
    from fakd.data.masks import Pair

_FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "GIF", "TIFF")
"""Pillow's names of what is read; its other readers interpret ids, or run programs."""
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_DEEP = ("RGB;16B", "RGBA;16B", "LA;16B")
"""PNG of which Pillow would drop the lower bytes."""
_ORIENTATION = 0x0112
SIDEWAYS = (5, 6, 7, 8)
"""EXIF orientations that swap width and height."""
_LOOKED_AT = 4
_FAINT = 1 / 8
_CUT = 1 / 2
"""Share of an image's numbers outside its range that is hardly meant so."""
_COLOURS = {0: 1, 1: 1, 2: 3, 3: 1, 5: 4, 6: 3}
"""Bands of a colour, by TIFF's photometric interpretation; what else there is, is no colour."""


class Stored(NamedTuple):
    """What a file holds, before anything is made of it."""

    pixels: np.ndarray
    """Numbers as they are stored, ``height width`` or ``height width bands``."""
    white: int | None = 255
    """The number that means full brightness; None where the type does not tell."""
    palette: UInt8[np.ndarray, "256 3"] | None = None
    """The colours that numbers stand for, if they do."""
    transparent: bool = False
    """Whether the last band is transparency."""
    lossy: bool = False
    """Whether compression may have changed the numbers."""
    orientation: int = 1
    """The EXIF orientation by which the pixels were turned."""

    @property
    def size_before(self) -> tuple[int, int]:
        """Width and height before they were turned."""
        height, width = self.pixels.shape[:2]
        return (height, width) if self.orientation in SIDEWAYS else (width, height)


def decoded(path: Place, levels: Levels = Levels()) -> UInt8[np.ndarray, "height width 3"]:
    """Decode an image of any kind to RGB, upright as its EXIF orientation says.

    Raises:
        InputError: as `stored` and `as_rgb` say.
    """
    return as_rgb(stored(path, upright=True), levels, path)


def stored(path: Place, upright: bool = False) -> Stored:
    """Decode a file to what is stored in it.

    Args:
        path: An image or a mask.
        upright: Turn it as its EXIF orientation says; TIFF is always turned as it says.

    Raises:
        InputError: the file cannot be decoded to its last row, holds several pictures, or more
            pixels than ``FAKD_MAX_PIXELS``, by default some 180 million.
    """
    if path.suffix.lower() == ".mat":
        return Stored(_label_map(path), white=None)
    most = most_pixels()
    with _explained(path), path.open("rb") as file:
        beginning = file.read(16)
        file.seek(0)
        if beginning[:4] in _TIFF:
            return _tiff(file, path, most)
        with Image.open(file, formats=_FORMATS) as image:
            if image.format in ("GIF", "PNG", "WEBP") and getattr(image, "is_animated", False):
                raise InputError(f"{path} is an animation; save the picture that is meant alone")
            webp = image.format == "WEBP" and beginning[12:] != b"VP8L"
            lossy = webp or image.format in ("JPEG", "MPO")
            return _picture(image, path, upright)._replace(lossy=lossy)


def most_pixels() -> int:
    """Take the most pixels that are decoded from ``FAKD_MAX_PIXELS``, or from Pillow.

    Raises:
        InputError: the variable holds no number.
    """
    given = os.environ.get("FAKD_MAX_PIXELS")
    if given is None:
        return 2 * (Image.MAX_IMAGE_PIXELS or 2**62)
    if not given.isdecimal() or not int(given):
        raise InputError(f"FAKD_MAX_PIXELS must be a number of pixels, got {given!r}")
    # Pillow refuses headers that promise more than twice its own limit.
    Image.MAX_IMAGE_PIXELS = -(-int(given) // 2)
    return int(given)


def as_rgb(file: Stored, levels: Levels, path: Place) -> UInt8[np.ndarray, "height width 3"]:
    """Show what is stored as 8-bit RGB, by type and range of its numbers.

    The range of ``levels``, else the whole range of an unsigned type of up to 16 bits, else, for
    floating point, 0 to 1, is divided into 256 equal steps.

    Raises:
        InputError: there are other than one or three bands, or numbers whose range is not known,
            and ``levels`` does not say what they mean.
    """
    pixels = file.pixels if file.palette is None else file.palette[file.pixels]
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    bands = pixels.shape[2] - file.transparent
    if levels.bands is not None:
        if max(levels.bands) > pixels.shape[2]:
            raise InputError(
                f"{path} has {pixels.shape[2]} bands, but bands: {[*levels.bands]} names band "
                f"{max(levels.bands)}; name bands that there are"
            )
        pixels = pixels[:, :, [band - 1 for band in levels.bands]]
    elif bands in (1, 3):
        pixels = pixels[:, :, :bands]
    else:
        raise InputError(
            f"{path} has {bands} bands, where one or three are expected; say which are red, green "
            "and blue with bands: [1, 2, 3] in the description"
        )
    low, high = _range(pixels, file.white, levels, path)
    if pixels.dtype != np.uint8 or (low, high) != (0, 255):
        scaled = (pixels.astype(np.float64) - low) * 256 / (high - low)
        pixels = scaled.clip(0, 255).astype(np.uint8)
    return np.broadcast_to(pixels, (*pixels.shape[:2], 3))


def _range(
    pixels: np.ndarray, white: int | None, levels: Levels, path: Place
) -> tuple[float, float]:
    floating = pixels.dtype.kind == "f"
    if floating and not np.isfinite(pixels).all():
        raise InputError(
            f"{path} holds numbers that are not finite (NaN or infinity); fill them in"
        )
    if levels.range is not None:
        if white is not None and levels.range[1] > white:
            raise InputError(
                f"{path} holds numbers of 0 to {white}, but white is {levels.range[1]:g} by range: "
                f"[{levels.range[0]:g}, {levels.range[1]:g}] in the description; take it out, or "
                "save all images with as many bits"
            )
        return levels.range
    if white is not None:
        return 0.0, float(white)
    least, most = pixels.min(), pixels.max()
    if floating and least >= 0 and most <= 1:
        return 0.0, 1.0
    expected = "numbers of 0 to 1 are expected" if floating else "8 or 16 bits are expected"
    raise InputError(
        f"{path} holds {pixels.dtype} numbers of {least} to {most}, where {expected}; say which "
        "are black and white with range: [low, high] in the description, one for all images"
    )


def unused_range(pairs: Sequence["Pair"], levels: Levels) -> str | None:
    """Say so if images use little of their range, and so are nearly black, or go beyond it.

    A few of them are decoded, spread evenly; 8-bit images are not where no range is given.
    """
    peak, white, beyond = 0.0, 1.0, 0
    low, high = levels.range or (0.0, math.inf)
    chosen = [pair.image for pair in pairs[:: max(1, len(pairs) // _LOOKED_AT)]]
    for path in chosen:
        # What is wrong with a file is said when it is needed.
        with suppress(InputError, OSError):
            with path.open("rb") as file:
                beginning = file.read(25)
            if not levels.range and beginning[:4] not in _TIFF and beginning[24:] != b"\x10":
                continue
            image = stored(path)
            peak = max(peak, float(image.pixels.max()))
            white = max(white, image.white or 1.0)
            outside = (image.pixels < low) | (image.pixels > high)
            beyond += image.palette is None and bool(outside.mean() > _CUT)
    if levels.range is not None:
        bounds = f"range: [{low:g}, {high:g}] in the description"
        if 2 * beyond > len(chosen):
            return f"most pixels of images ({chosen[0]}) are beyond {bounds} and black or white"
        if 0 < peak - low < _FAINT * (high - low):
            return f"images hold numbers of up to {peak:g} ({chosen[0]}), nearly black by {bounds}"
        return None
    if not 0 < peak < _FAINT * white:
        return None
    high = 2 ** math.ceil(math.log2(peak + 1)) - 1 if white > 1 else float(f"{peak:.1g}")
    return (
        f"images hold numbers of up to {peak:g}, where {white:g} is white, and are read as nearly "
        f"black ({chosen[0]}); say what is white with range: [0, {high:g}] in the description"
    )


@contextmanager
def _explained(path: Place) -> Iterator[None]:
    try:
        with warnings.catch_warnings():
            # Pillow warns about metadata it cannot parse, which no pixel depends on.
            warnings.simplefilter("ignore")
            yield
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"cannot read {path}: it is gone, or a link to nothing") from error
    except PermissionError as error:
        raise InputError(f"cannot read {path}: permission denied; change its rights") from error
    except (Image.DecompressionBombError, MemoryError) as error:
        raise InputError(_too_large(path)) from error
    # Parsers raise whatever they stumble over in a damaged file.
    except Exception as error:
        reason = "it is damaged, incomplete or no image; replace or remove it"
        if not isinstance(path, Packed):
            reason = wrong_with(path, reason)
        raise InputError(f"cannot decode {path}: {reason}") from error


def _too_large(path: Place) -> str:
    return (
        f"{path} has too many pixels to decode, more than {most_pixels()}; cut it into tiles, or "
        "set FAKD_MAX_PIXELS to a larger number"
    )


def _picture(image: Image.Image, path: Place, upright: bool) -> Stored:
    """Take what Pillow decodes as it is stored."""
    if image.width * image.height > most_pixels():
        raise InputError(_too_large(path))
    tiles = getattr(image, "tile", [])
    arguments = tiles[0][3] if tiles else None
    packing = str(arguments[0] if isinstance(arguments, tuple) else arguments)
    # Pillow turns TIFF by itself, and forgets then how.
    code = image.getexif().get(_ORIENTATION, 1) if upright or image.format == "TIFF" else 1
    image.load()
    if packing in _DEEP:
        return Stored(_turned(_deep(path), code), 65535, None, "A" in packing, orientation=code)
    if upright:
        ImageOps.exif_transpose(image, in_place=True)
    return _unpacked(image, packing)._replace(orientation=code)


def _unpacked(image: Image.Image, packing: str) -> Stored:
    """Take the pixels of an image that Pillow has decoded, by its mode and the file's bits."""
    if image.mode.startswith("I"):
        return Stored(np.asarray(image).astype(np.uint16), 65535)
    if image.mode == "P":
        palette = np.zeros((256, 3), np.uint8)
        colours = np.array(image.getpalette("RGB"), np.uint8).reshape(-1, 3)
        palette[: len(colours)] = colours
        return Stored(np.asarray(image), palette=palette)
    if image.mode not in ("1", "L", "LA", "RGB", "RGBA"):
        image = image.convert("RGBA" if image.mode in ("PA", "RGBa", "La") else "RGB")
    pixels = np.asarray(image)
    if image.mode == "1":
        return Stored(pixels.astype(np.uint8), 1)
    if image.mode == "L" and packing.startswith(("L;2", "L;4")):
        white = 2 ** int(packing[2]) - 1
        return Stored(pixels // (255 // white), white)
    return Stored(pixels, transparent=image.mode in ("LA", "RGBA"))


def _label_map(path: Place) -> np.ndarray:
    """Read a MATLAB file: ``LabelMap`` of PASCAL Context, or ``GTcls.Segmentation`` of SBD."""
    # Imported here because nothing but these files needs it, and it takes a while.
    from scipy.io import loadmat

    try:
        with path.open("rb") as file:
            content = loadmat(file, variable_names=["LabelMap", "GTcls"])
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


def _deep(path: Place) -> np.ndarray:
    """Decode a PNG of 16 bits and several bands."""
    # Imported here because masks and most images need no tensor.
    import torch
    from torchvision.io import ImageReadMode, decode_image

    content = torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8)
    pixels: np.ndarray = decode_image(content, ImageReadMode.UNCHANGED).numpy()
    return pixels.transpose(1, 2, 0)


def _tiff(file: IO[bytes] | BytesIO, path: Place, most: int) -> Stored:
    import tifffile

    # It would write what is wrong with a file beside the error that names it.
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    with tifffile.TiffFile(file) as tiff:
        # Smaller copies and masks of transparency come with the picture.
        every: Iterable[tuple[int, Any]] = enumerate(tiff.pages)
        pages = [(index, page) for index, page in every if not page.subfiletype & 5]
        if not pages:
            raise ValueError("no page")
        if len(pages) > 1:
            raise InputError(f"{path} has {len(pages)} pages; save each as a file of its own")
        index, page = pages[0]
        if page.imagewidth * page.imagelength * page.imagedepth > most:
            raise InputError(_too_large(path))
        colours = _COLOURS.get(page.photometric, 0)
        beyond = page.samplesperpixel - colours
        transparent = beyond == 1 and page.extrasamples[-1:] in ((1,), (2,))
        lossy = page.compression in (6, 7)
        if (
            page.bitspersample in (1, 2, 4, 8)
            and page.sampleformat == 1
            and colours
            and (not beyond or transparent)
        ):
            file.seek(0)
            with Image.open(file, formats=("TIFF",)) as image:
                image.seek(index)
                return _picture(image, path, upright=False)._replace(lossy=lossy)
        if page.photometric not in (0, 1, 2) or page.axes not in ("YX", "YXS", "SYX"):
            raise InputError(
                f"{path} stores {page.dtype} numbers as {page.photometric.name.lower()} "
                f"({page.axes}), which fakd does not read; save them as grey or RGB"
            )
        pixels = _samples(page, path)
        bits = page.bitspersample
    white = 2**bits - 1 if pixels.dtype.kind == "u" and bits <= 16 else None
    if page.photometric == 0 and white is not None:
        pixels = white - pixels
    tag = page.tags.get(_ORIENTATION)
    code = 1 if tag is None else tag.value
    return Stored(_turned(pixels, code), white, None, transparent, lossy, code)


def _samples(page: Any, path: Place) -> np.ndarray:
    """Decode the numbers of a TIFF page, ``height width`` or ``height width bands``."""
    if sum(page.databytecounts) > 2 * page.nbytes + 2**16:
        raise InputError(f"{path} holds more than the pixels it promises; save it again")
    try:
        pixels: np.ndarray = page.asarray()
    except ValueError as error:
        if "imagecodecs" not in str(error):
            raise
        raise InputError(
            f"{path} is compressed by {page.compression.name}, which needs the extra 'tiff'; pip "
            "install 'fakd[tiff]', or save it without compression"
        ) from error
    pixels = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
    return np.moveaxis(pixels, 0, -1) if page.axes == "SYX" else pixels


def _turned(pixels: np.ndarray, code: int) -> np.ndarray:
    """Turn pixels as an EXIF orientation of 1 to 8 says."""
    if code in SIDEWAYS:
        pixels = pixels.swapaxes(0, 1)
    if code in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels[::-1] if code in (3, 4, 7, 8) else pixels
