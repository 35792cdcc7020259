"""Decoding of image files; images become 8-bit RGB."""

import logging
import os
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from typing import IO, Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from fakd.data.layout import Levels
from fakd.data.packed import Packed, Place
from fakd.errors import InputError
from fakd.files import describe_bad_download

_FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "GIF", "TIFF")
"""Pillow's names of the formats that are read. Its other readers change ids or run external
programs."""
TIFF_MARKS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_DEEP = ("RGB;16B", "RGBA;16B", "LA;16B")
"""Raw modes of PNG of which Pillow would drop the lower bytes."""
_ORIENTATION = 0x0112
SIDEWAYS = (5, 6, 7, 8)
"""EXIF orientations that swap width and height."""
_COLOURS = {0: 1, 1: 1, 2: 3, 3: 1, 5: 4, 6: 3}
"""Colour bands by TIFF's photometric interpretation; other interpretations are not supported."""


class RawImage(NamedTuple):
    """The content of a file before it is interpreted."""

    pixels: np.ndarray
    """Stored values, ``height width`` or ``height width bands``."""
    white: int | None = 255
    """The value of full brightness; None if the type does not determine it."""
    palette: UInt8[np.ndarray, "256 3"] | None = None
    """The colours of the values if they are palette indices."""
    transparent: bool = False
    """Whether the last band is an alpha channel."""
    lossy: bool = False
    """Whether lossy compression may have changed the values."""
    orientation: int = 1
    """The EXIF orientation that was applied to the pixels."""

    @property
    def size_before(self) -> tuple[int, int]:
        """Width and height before the EXIF orientation was applied."""
        height, width = self.pixels.shape[:2]
        return (height, width) if self.orientation in SIDEWAYS else (width, height)


def decode_rgb(path: Place, levels: Levels = Levels()) -> UInt8[np.ndarray, "height width 3"]:
    """Decode an image of any format to RGB, rotated according to its EXIF orientation.

    Raises:
        InputError: as for `decode_raw` and `as_rgb`.
    """
    return as_rgb(decode_raw(path, upright=True), levels, path)


def decode_raw(path: Place, upright: bool = False) -> RawImage:
    """Decode a file to its stored values.

    Args:
        path: An image or a mask.
        upright: Apply the EXIF orientation; without it, as for masks, files that have one are
            refused. TIFF orientations are always applied.

    Raises:
        InputError: the file cannot be decoded to its last row, has several frames, an orientation
            that is not applied, or more pixels than ``FAKD_MAX_PIXELS``, by default about 180
            million.
    """
    if path.suffix.lower() == ".mat":
        return RawImage(_read_matlab(path), white=None)
    most = most_pixels()
    with _errors_naming(path), path.open("rb") as file:
        beginning = file.read(16)
        file.seek(0)
        if beginning[:4] in TIFF_MARKS:
            return _read_tiff(file, path, most)
        with Image.open(file, formats=_FORMATS) as image:
            if image.format in ("GIF", "PNG", "WEBP") and getattr(image, "is_animated", False):
                raise InputError(f"{path} is an animation; save the frame you want as an image")
            lossy = image.format in ("JPEG", "MPO")
            if image.format == "WEBP":
                lossy = _is_lossy_webp(file)
            return _from_pillow(image, path, upright)._replace(lossy=lossy)


def _is_lossy_webp(file: IO[bytes] | BytesIO) -> bool:
    # Chunks of transparency, colour profile and metadata may precede that of the picture.
    file.seek(12)
    while (kind := file.read(4)) not in (b"VP8 ", b"VP8L", b""):
        size = int.from_bytes(file.read(4), "little")
        file.seek(size + size % 2, os.SEEK_CUR)
    file.seek(0)
    return kind != b"VP8L"


def most_pixels() -> int:
    """Read the pixel limit from ``FAKD_MAX_PIXELS``, or take Pillow's.

    Raises:
        InputError: the variable is not a number.
    """
    given = os.environ.get("FAKD_MAX_PIXELS")
    if given is None:
        return 2 * (Image.MAX_IMAGE_PIXELS or 2**62)
    if not given.isdecimal() or not int(given):
        raise InputError(f"FAKD_MAX_PIXELS must be a number of pixels, got {given!r}")
    # Pillow refuses images of more than twice its own limit.
    Image.MAX_IMAGE_PIXELS = -(-int(given) // 2)
    return int(given)


def as_rgb(file: RawImage, levels: Levels, path: Place) -> UInt8[np.ndarray, "height width 3"]:
    """Convert stored values to 8-bit RGB, by their type and range.

    The range is that of ``levels``, or the full range of an unsigned type of up to 16 bits, or 0 to
    1 for floating point. It is divided into 256 equal steps.

    Raises:
        InputError: the number of bands is neither one nor three, or the range is unknown, and
            ``levels`` does not specify it.
    """
    pixels = file.pixels if file.palette is None else file.palette[file.pixels]
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    bands = pixels.shape[2] - file.transparent
    if levels.bands is not None:
        if max(levels.bands) > pixels.shape[2]:
            raise InputError(
                f"{path} has {pixels.shape[2]} bands, but bands: {[*levels.bands]} names band "
                f"{max(levels.bands)}; name existing bands"
            )
        pixels = pixels[:, :, [band - 1 for band in levels.bands]]
    elif bands in (1, 3):
        pixels = pixels[:, :, :bands]
    else:
        raise InputError(
            f"{path} has {bands} bands, expected one or three; say which are red, green and blue "
            "with bands: [1, 2, 3] in the description"
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
        raise InputError(f"{path} holds values that are not finite (NaN or infinity); replace them")
    if levels.range is not None:
        if white is not None and levels.range[1] > white:
            raise InputError(
                f"{path} holds values from 0 to {white}, but range: [{levels.range[0]:g}, "
                f"{levels.range[1]:g}] in the description says that white is {levels.range[1]:g}; "
                "remove it, or save all images with the same number of bits"
            )
        return levels.range
    if white is not None:
        return 0.0, float(white)
    least, most = pixels.min(), pixels.max()
    if floating and least >= 0 and most <= 1:
        return 0.0, 1.0
    expected = "values from 0 to 1" if floating else "8 or 16 bits"
    raise InputError(
        f"{path} holds {pixels.dtype} values from {least} to {most}, expected {expected}; say "
        "which are black and white with range: [low, high] in the description, for all images"
    )


@contextmanager
def _errors_naming(path: Place) -> Iterator[None]:
    try:
        with warnings.catch_warnings():
            # Pillow warns about metadata that it cannot parse; pixels do not depend on it.
            warnings.simplefilter("ignore")
            yield
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"cannot read {path}: no such file, or a broken link") from error
    except PermissionError as error:
        raise InputError(
            f"cannot read {path}: permission denied; change its permissions"
        ) from error
    except (Image.DecompressionBombError, MemoryError) as error:
        raise InputError(_too_large_text(path)) from error
    # Parsers raise any exception on a damaged file.
    except Exception as error:
        reason = "it is damaged, incomplete or not an image; replace or remove it"
        if not isinstance(path, Packed):
            reason = describe_bad_download(path, reason)
        raise InputError(f"cannot decode {path}: {reason}") from error


def _too_large_text(path: Place) -> str:
    return (
        f"{path} has too many pixels to decode, more than {most_pixels()}; cut it into tiles, or "
        "set FAKD_MAX_PIXELS to a larger number"
    )


def _from_pillow(image: Image.Image, path: Place, upright: bool) -> RawImage:
    """Return the stored values of an image that Pillow decodes."""
    if image.width * image.height > most_pixels():
        raise InputError(_too_large_text(path))
    tiles = getattr(image, "tile", [])
    arguments = tiles[0][3] if tiles else None
    packing = str(arguments[0] if isinstance(arguments, tuple) else arguments)
    code = 1
    # EXIF that cannot be parsed says nothing; Pillow's parser raises any exception on it.
    with suppress(Exception):
        code = image.getexif().get(_ORIENTATION, 1)
    # Pillow rotates TIFF by itself, and drops the orientation.
    if code in range(2, 9) and not upright and image.format != "TIFF":
        raise InputError(
            f"{path} is a mask with an EXIF orientation of its own, so that its pixels may be "
            "stored rotated; remove it (exiftool -Orientation= FILE), and rotate the mask if it "
            "then does not fit its image"
        )
    image.load()
    if packing in _DEEP:
        return RawImage(
            _apply_orientation(_read_deep_png(path), code),
            65535,
            None,
            "A" in packing,
            orientation=code,
        )
    if upright and code in range(2, 9):
        ImageOps.exif_transpose(image, in_place=True)
    return _pillow_pixels(image, packing)._replace(orientation=code)


def _pillow_pixels(image: Image.Image, packing: str) -> RawImage:
    """Return the pixels that Pillow decoded, by its mode and the file's bit depth."""
    if image.mode.startswith("I"):
        return RawImage(np.asarray(image).astype(np.uint16), 65535)
    if image.mode == "P":
        palette = np.zeros((256, 3), np.uint8)
        colours = np.array(image.getpalette("RGB"), np.uint8).reshape(-1, 3)
        palette[: len(colours)] = colours
        return RawImage(np.asarray(image), palette=palette)
    if image.mode not in ("1", "L", "LA", "RGB", "RGBA"):
        image = image.convert("RGBA" if image.mode in ("PA", "RGBa", "La") else "RGB")
    pixels = np.asarray(image)
    if image.mode == "1":
        return RawImage(pixels.astype(np.uint8), 1)
    if image.mode == "L" and packing.startswith(("L;2", "L;4")):
        white = 2 ** int(packing[2]) - 1
        return RawImage(pixels // (255 // white), white)
    return RawImage(pixels, transparent=image.mode in ("LA", "RGBA"))


def _read_matlab(path: Place) -> np.ndarray:
    """Read a MATLAB file: ``LabelMap`` of PASCAL Context, or ``GTcls.Segmentation`` of SBD."""
    # Imported here because only these files need it, and it is slow to import.
    from scipy.io import loadmat

    try:
        with path.open("rb") as file:
            content = loadmat(file, variable_names=["LabelMap", "GTcls"])
    except FileNotFoundError as error:
        raise InputError(f"cannot read {path}: no such file, or a broken link") from error
    # SciPy's parser raises any exception on a damaged file.
    except Exception as error:
        raise InputError(
            f"cannot decode {path}: it is damaged, incomplete or not a MATLAB file older than "
            "version 7.3; unpack it again"
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


def _read_deep_png(path: Place) -> np.ndarray:
    """Decode a 16-bit PNG with several bands."""
    # Imported here because masks and most images do not need PyTorch.
    import torch
    from torchvision.io import ImageReadMode, decode_image

    content = torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8)
    pixels: np.ndarray = decode_image(content, ImageReadMode.UNCHANGED).numpy()
    return pixels.transpose(1, 2, 0)


def _read_tiff(file: IO[bytes] | BytesIO, path: Place, most: int) -> RawImage:
    import tifffile

    # It would also log the error that is raised here.
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    with tifffile.TiffFile(file) as tiff:
        # Skip thumbnails and transparency masks.
        every: Iterable[tuple[int, Any]] = enumerate(tiff.pages)
        pages = [(index, page) for index, page in every if not page.subfiletype & 5]
        if not pages:
            raise ValueError("no page")
        if len(pages) > 1:
            raise InputError(f"{path} has {len(pages)} pages; save each as a separate file")
        index, page = pages[0]
        if page.imagewidth * page.imagelength * page.imagedepth > most:
            raise InputError(_too_large_text(path))
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
                return _from_pillow(image, path, upright=False)._replace(lossy=lossy)
        if page.photometric not in (0, 1, 2) or page.axes not in ("YX", "YXS", "SYX"):
            raise InputError(
                f"{path} stores {page.dtype} values as {page.photometric.name.lower()} "
                f"({page.axes}), which fakd does not read; save them as grey or RGB"
            )
        pixels = _tiff_samples(page, path)
        bits = page.bitspersample
    white = 2**bits - 1 if pixels.dtype.kind == "u" and bits <= 16 else None
    if page.photometric == 0 and white is not None:
        pixels = white - pixels
    tag = page.tags.get(_ORIENTATION)
    code = 1 if tag is None else tag.value
    return RawImage(_apply_orientation(pixels, code), white, None, transparent, lossy, code)


def _tiff_samples(page: Any, path: Place) -> np.ndarray:
    """Decode the values of a TIFF page, ``height width`` or ``height width bands``."""
    if sum(page.databytecounts) > 2 * page.nbytes + 2**16:
        raise InputError(f"{path} holds more data than its size needs; save it again")
    try:
        pixels: np.ndarray = page.asarray()
    except ValueError as error:
        if "imagecodecs" not in str(error):
            raise
        raise InputError(
            f"{path} is compressed with {page.compression.name}, which needs the extra 'tiff'; pip "
            "install 'fakd[tiff]', or save it without compression"
        ) from error
    pixels = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
    return np.moveaxis(pixels, 0, -1) if page.axes == "SYX" else pixels


def _apply_orientation(pixels: np.ndarray, code: int) -> np.ndarray:
    """Apply an EXIF orientation of 1 to 8."""
    if code in SIDEWAYS:
        pixels = pixels.swapaxes(0, 1)
    if code in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels[::-1] if code in (3, 4, 7, 8) else pixels
