"""Encoding of logit maps in a few thousand bytes."""

from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any, Literal

import numpy as np
from jaxtyping import Float32

from fakd.errors import InputError

Format = Literal["float16", "int8", "topk"]
Map = Float32[np.ndarray, "channels rows cols"]

_LEVEL = 3
_LARGEST = 65504.0
"""The largest float16."""
_FLOOR = -50.0
"""Smallest log probability that is stored."""


@dataclass(frozen=True)
class Encoding:
    """How maps are encoded.

    - ``float16``: every value in 16 bits.
    - ``int8``: every value in 8 bits, evenly spaced between the minimum and maximum of its channel.
    - ``topk``: log probabilities of the k most likely classes of each pixel and of the remaining
    mass, in 16 bits; when decoded, the remaining mass is spread evenly over the other channels.

    Args:
        format: One of the three.
        k: For ``topk``.
    """

    format: Format = "int8"
    k: int = 5

    def encode(self, values: Map) -> bytes:
        """Encode and compress a map."""
        values = np.ascontiguousarray(values, dtype=np.float32)
        arrays = {"float16": _halves, "int8": _levels}.get(self.format)
        parts = self._likeliest(values) if arrays is None else arrays(values)
        compressor = _zstd().ZstdCompressor(_LEVEL, write_checksum=True)
        return bytes(compressor.compress(b"".join(parts)))

    def decode(self, data: bytes, shape: tuple[int, int, int]) -> Map:
        """Decode a map.

        Raises:
            ValueError: the bytes are not a map of this shape.
        """
        try:
            raw = _zstd().ZstdDecompressor().decompress(data)
        except _zstd().ZstdError as error:
            raise ValueError(str(error)) from error
        if self.format == "topk":
            return self._spread(raw, shape)
        return (_from_halves if self.format == "float16" else _from_levels)(raw, shape)

    def _likeliest(self, values: Map) -> list[bytes]:
        if not 0 < self.k < len(values):
            raise InputError(f"expected k from 1 to below {len(values)} channels, got {self.k}")
        shifted = values - values.max(0)
        logs = shifted - np.log(np.exp(shifted).sum(0))
        order = np.argsort(-logs, axis=0, kind="stable")
        chosen, others = order[: self.k], order[self.k :]
        with np.errstate(divide="ignore"):
            rest = np.log(np.exp(np.take_along_axis(logs, others, 0)).mean(0))
        kept = np.concatenate([np.take_along_axis(logs, chosen, 0), rest[None]])
        kept = np.maximum(kept, _FLOOR)
        return [chosen.astype(_ids(len(values))).tobytes(), *_halves(kept)]

    def _spread(self, raw: bytes, shape: tuple[int, int, int]) -> Map:
        kind = np.dtype(_ids(shape[0]))
        count = self.k * shape[1] * shape[2]
        chosen = np.frombuffer(raw[: count * kind.itemsize], kind)
        kept = _from_halves(raw[count * kind.itemsize :], (self.k + 1, *shape[1:]))
        result = np.broadcast_to(kept[-1], shape).copy()
        indices = chosen.reshape(self.k, *shape[1:]).astype(np.int64)
        np.put_along_axis(result, indices, kept[:-1], 0)
        return result


def _ids(channels: int) -> type[np.unsignedinteger[Any]]:
    return np.uint8 if channels <= 256 else np.uint16


def _halves(values: Map) -> list[bytes]:
    halves = values.clip(-_LARGEST, _LARGEST).astype(np.float16)
    # Signs and exponents are stored separately from the mantissa bits, which are close to random.
    return [np.ascontiguousarray(halves.view(np.uint8).reshape(-1, 2).T).tobytes()]


def _from_halves(raw: bytes, shape: tuple[int, int, int]) -> Map:
    pairs = np.frombuffer(raw, np.uint8).reshape(2, -1)
    halves = np.ascontiguousarray(pairs.T).view(np.float16)
    return halves.reshape(shape).astype(np.float32)


def _levels(values: Map) -> list[bytes]:
    low, high = values.min((1, 2)), values.max((1, 2))
    step = np.maximum((high - low) / 255, np.finfo(np.float32).tiny)
    levels = np.rint((values - low[:, None, None]) / step[:, None, None]).astype(np.uint8)
    # Neighbours are similar, so differences, which wrap around in 8 bits, compress better.
    return [low.tobytes(), step.tobytes(), np.diff(levels, axis=-1, prepend=np.uint8(0)).tobytes()]


def _from_levels(raw: bytes, shape: tuple[int, int, int]) -> Map:
    scales = np.frombuffer(raw[: 8 * shape[0]], np.float32).reshape(2, shape[0], 1, 1)
    differences = np.frombuffer(raw[8 * shape[0] :], np.uint8).reshape(shape)
    levels = np.cumsum(differences, axis=-1, dtype=np.uint8)
    result: Map = levels * scales[1] + scales[0]
    return result


@cache
def _zstd() -> Any:
    try:
        return import_module("zstandard")
    except ImportError as error:
        raise InputError("stored answers need zstandard; pip install zstandard") from error
