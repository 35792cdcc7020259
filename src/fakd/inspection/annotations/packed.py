"""Decoding of bitmaps that annotation programs embed as text."""

import io
import zlib
from base64 import b64decode

import numpy as np
from jaxtyping import Bool
from PIL import Image


def decode_bitmap(text: str) -> Bool[np.ndarray, "height width"]:
    """Decode a base64 PNG, possibly zlib-compressed again; 0 and transparent are outside."""
    content = b64decode(text)
    if not content.startswith(b"\x89PNG"):
        content = zlib.decompress(content)
    with Image.open(io.BytesIO(content)) as image:
        pixels = np.array(image)
    bitmap: np.ndarray = (pixels[..., -1] if pixels.ndim == 3 else pixels) > 0
    return bitmap
