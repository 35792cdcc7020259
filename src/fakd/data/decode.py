"""Image and mask files to arrays, and nothing but whole files."""

import warnings
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Integer, UInt8
from PIL import Image, ImageOps
from torch import Tensor

from fakd.errors import InputError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
MASK_SUFFIXES = (".png", ".jpg", ".jpeg")


def read_image(path: Path) -> UInt8[Tensor, "3 height width"]:
    """Decode an image of any kind to RGB, upright as its EXIF orientation says.

    Raises:
        InputError: the file cannot be decoded to its last row.
    """
    pixels = _decoded(path, upright=True)
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy())


def read_mask(
    path: Path,
) -> Integer[np.ndarray, "height width"] | UInt8[np.ndarray, "height width 3"]:
    """Decode a mask: palette indices and grey levels as they are stored, or RGB colours.

    Raises:
        InputError: the file cannot be decoded to its last row.
    """
    pixels = _decoded(path)
    if pixels.dtype == np.bool_:
        return pixels.astype(np.uint8)
    if pixels.ndim == 2:
        return pixels
    # An alpha channel says nothing about the class.
    return pixels[:, :, :3] if pixels.shape[2] >= 3 else pixels[:, :, 0]


def palette_colours(path: Path) -> UInt8[np.ndarray, "height width 3"]:
    """Decode a mask to RGB, looking a palette image's indices up in its palette."""
    return _decoded(path, rgb=True)


def _decoded(path: Path, rgb: bool = False, upright: bool = False) -> np.ndarray:
    try:
        with warnings.catch_warnings():
            # Pillow warns about metadata it cannot parse, which no pixel depends on.
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                image.load()
                if upright:
                    ImageOps.exif_transpose(image, in_place=True)
                    return _rgb(image)
                return _rgb(image) if rgb else np.array(image)
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
