"""Inference at full resolution: whole images, sliding windows, flips, several scales; scoring."""

import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import fields
from functools import lru_cache
from itertools import product
from typing import TypeVar
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Integer, UInt8
from torch import Tensor

from fakd.bilinear import Span, cut, mixing, tile_size
from fakd.errors import InputError
from fakd.metrics import confusion_matrix
from fakd.models.foreign.deployed import Deployed
from fakd.models.foreign.probe import evaluating
from fakd.models.memory_estimate import require_image_memory
from fakd.settings import Inference, InferenceOverrides
from fakd.types import RULED_OUT, Segmenter

Item = TypeVar("Item")
_HELD = 4
"""Number of batches of images that may wait for others of their size."""
_TOGETHER = {"scale": ["base"], "base": ["scale"], "window": ["stride"]}
"""Setting -> the settings of training that it replaces as well."""
_SMALLER = "give inference.window, such as 1024, or a smaller inference.scale or base"
"""Remedy for images that take too much memory."""


def resolve_inference(network: Segmenter, overrides: InferenceOverrides = None) -> Inference:
    """Complete settings by those of the network's training; `batch_size` is not taken over.

    Settings that have a meaning only together replace each other: with `scale` or `base` given,
    neither is taken over, and with `window` given, `stride` is not.

    Raises:
        InputError: there is no such setting, or a value is invalid.
    """
    if isinstance(overrides, Inference):
        return overrides
    given, names = dict(overrides or {}), [each.name for each in fields(Inference)]
    if wrong := [each for each in given if each not in names]:
        raise InputError(f"there is no inference.{wrong[0]}; expected some of {', '.join(names)}")
    trained = dict(network.extra.get("inference") or {}) | {"batch_size": 1}
    for each in given:
        for replaced in _TOGETHER.get(each, ()):
            trained.pop(replaced, None)
    return Inference.from_stored(trained | given)


def inference_remark(network: Segmenter, inference: Inference) -> str | None:
    """Name inference settings that are not the defaults, and those of training that differ."""
    if network.extra.get("inference") is None:
        return None
    trained = resolve_inference(network)
    used = _as_flags(inference, Inference()) or "the defaults of --inference"
    if inference != trained:
        return (
            f"images are shown to the network with {used}; during its training it was evaluated "
            f"with {_as_flags(trained, inference)}, so scores may differ"
        )
    if inference == Inference():
        return None
    return f"images are shown to the network as in its training, with {used}"


def _as_flags(these: Inference, others: Inference) -> str:
    """List the settings that differ from others', as flags."""
    before = others.views()
    differing = {key: each for key, each in these.views().items() if each != before[key]}
    return " ".join(f"--inference.{key} {_as_flag(each)}" for key, each in differing.items())


def _as_flag(value: object) -> str:
    if isinstance(value, tuple):
        return f"[{','.join(map(str, value))}]"
    return "null" if value is None else str(value).lower()


def to_unit(images: UInt8[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """Convert 8-bit images to [0, 1]."""
    return images.float().div_(255)


def require_inference_memory(
    network: Segmenter,
    image: Sequence[int],
    inference: Inference,
    device: torch.device,
    factor: float = 1.0,
    count: int = 1,
) -> None:
    """Refuse images for which memory does not suffice; checked once for each size.

    Args:
        network: the network; it is not run.
        image: original height and width of the images.
        inference: inference settings.
        device: the network's device.
        factor: one of `Inference.scales`.
        count: images at a time.

    Raises:
        InputError: says how much is needed, how much is free, and how to need less.
    """
    shown = inference.size((image[0], image[1]), factor)
    if (pixels := count * math.prod(shown)) <= _largest.get(network, 0):
        return
    require_image_memory(count, shown, device, _SMALLER)
    window = inference.window or max(shown)
    seen = (min(shown[0], window), min(shown[1], window))
    require_image_memory(count, seen, device, _SMALLER, asked=[network])
    _largest[network] = pixels


_largest: WeakKeyDictionary[Segmenter, int] = WeakKeyDictionary()
"""Largest number of pixels at a time that was checked for each network."""


@torch.no_grad()
def predict_logits(
    network: Segmenter, images: Float[Tensor, "batch 3 height width"], inference: Inference
) -> Float[Tensor, "batch classes height width"]:
    """Compute logits at the images' original resolution, in float32.

    As in mmsegmentation: resize, forward, bilinear to the network's input size (averaged over
    windows where they overlap), bilinear to the original size. With `flip` or several `scales`
    the result is the logarithm of the mean class probabilities.

    Raises:
        FloatingPointError: logits are infinite or NaN.
    """
    result = images.new_empty(len(images), network.classes, *images.shape[-2:])
    for (rows, columns), logits in _tiles(network, images, inference):
        result[:, :, rows, columns] = logits.transpose(1, 2)
    return result


@torch.no_grad()
def predict_classes(
    network: Segmenter, images: UInt8[Tensor, "batch 3 height width"], inference: Inference
) -> Int[Tensor, "batch height width"]:
    """Predict the most likely class of every pixel.

    Except for the network's output on its own grid, memory does not grow with classes times pixels.

    Raises:
        FloatingPointError: logits are infinite or NaN.
        InputError: the settings need logits, which an exported network does not output.
    """
    if isinstance(network, Deployed) and network.output == "classes":
        if inference != Inference():
            network.refuse("--inference.* must be left out")
        return network.name_classes(images)
    likeliest = torch.empty_like(images[:, 0], dtype=torch.long)
    for (rows, columns), logits in _tiles(network, images, inference):
        # `max` returns the same classes as `argmax`, two to three times as fast.
        likeliest[:, rows, columns] = logits.max(2).indices
    return likeliest


def _tiles(
    network: Segmenter, images: Tensor, inference: Inference
) -> Iterator[tuple[tuple[slice, slice], Float[Tensor, "batch rows classes cols"]]]:
    """Compute logits at the images' resolution tile by tile, each with its rows and columns."""
    mirrors = (False, True) if inference.flip else (False,)
    views = [
        _View(network, images, inference, *each) for each in product(inference.scales, mirrors)
    ]
    height, width = images.shape[-2:]
    high, wide = tile_size(images.device, len(images) * network.classes, width)
    with torch.autocast(images.device.type, enabled=False):
        tiles = zip(*(view.tiles(high, wide) for view in views), strict=True)
        places = product(_slices(height, high), _slices(width, wide))
        for place, (first, *others) in zip(places, tiles, strict=True):
            if others:
                first = F.log_softmax(first, dim=2)
                for other in others:
                    first = torch.logaddexp(first, F.log_softmax(other, dim=2))
                first.sub_(math.log(len(views)))
            yield place, first


def _slices(side: int, length: int) -> list[slice]:
    return [slice(start, min(start + length, side)) for start in range(0, side, length)]


class _View:
    """A network's logits for images at one scale, flipped or not, on the network's own grid.

    Upsampling the logits, averaging overlapping windows and resizing to the original size are
    linear and separable: each window adds a product of three matrices, of which the outer two map
    its rows and its columns.
    """

    def __init__(
        self,
        network: Segmenter,
        images: Tensor,
        inference: Inference,
        factor: float,
        mirrored: bool,
    ) -> None:
        self._mirrored, self._aligned = mirrored, network.align_corners
        self._blend, self._size = inference.blend, images.shape[-2:]
        images = images.flip(-1) if mirrored else images
        self._shown = inference.size((images.shape[-2], images.shape[-1]), factor)
        require_inference_memory(network, self._size, inference, images.device, factor, len(images))
        if self._shown != self._size:
            # Not antialiased, as in training.
            images = F.interpolate(_unit(images), self._shown, mode="bilinear")
        window = inference.window or max(self._shown)
        stride = inference.stride or max(1, window * 2 // 3)
        self._starts = tuple(tuple(_starts(side, window, stride)) for side in self._shown)
        self._window = tuple(min(side, window) for side in self._shown)
        self._answers = [
            [
                _run_network(network, images[..., top : top + window, left : left + window])
                for left in self._starts[1]
            ]
            for top in self._starts[0]
        ]

    def tiles(self, high: int, wide: int) -> Iterator[Float[Tensor, "batch rows classes cols"]]:
        """Compute logits at the images' size in tiles of at most this size, row by row."""
        ruled_out = any(bool((each <= RULED_OUT).any()) for row in self._answers for each in row)
        for rows in self._parts(0, high):
            for columns in self._parts(1, wide):
                first, *others = (
                    self._upsample(top, down, left, along)
                    for (top, down), (left, along) in product(rows, columns)
                )
                total = sum(others, start=first)
                # A class that any averaged position rules out stays ruled out.
                yield total.where(total > RULED_OUT / 1e6, -math.inf) if ruled_out else total

    def _upsample(self, top: int, down: Span, left: int, along: Span) -> Tensor:
        part = self._answers[top][left][:, down.coarse, :, along.coarse]
        part = part if along.copies else part @ along.mixing
        if down.copies:
            return part
        return (down.mixing.T @ part.flatten(2)).view(len(part), -1, *part.shape[2:])

    def _parts(self, axis: int, length: int) -> list[list[tuple[int, Span]]]:
        """List for each tile along an axis the windows that cover it, with their spans."""
        answer = self._answers[0][0]
        return _spans(
            answer.shape[1 if axis == 0 else 3],
            self._window[axis],
            self._starts[axis],
            self._shown[axis],
            self._size[axis],
            length,
            self._aligned,
            self._blend,
            self._mirrored and axis == 1,
            answer.device,
        )


@lru_cache(maxsize=64)
def _spans(
    grid: int,
    window: int,
    starts: tuple[int, ...],
    shown: int,
    size: int,
    length: int,
    aligned: bool,
    blend: bool,
    mirrored: bool,
    device: torch.device,
) -> list[list[tuple[int, Span]]]:
    weight = torch.ones(window, dtype=torch.float64)
    if blend:
        weight = torch.hann_window(window + 2, periodic=False, dtype=torch.float64)[1:-1]
    total = torch.zeros(shown, dtype=torch.float64)
    for start in starts:
        total[start : start + window] += weight
    enlarging = mixing(grid, window, aligned).double()
    resizing = mixing(shown, size, aligned).double()
    parts: list[list[tuple[int, Span]]] = [[] for _ in range(0, size, length)]
    for number, start in enumerate(starts):
        inside = slice(start, start + window)
        matrix = (enlarging * (weight / total[inside])) @ resizing[inside]
        matrix = (matrix.flip(-1) if mirrored else matrix).float()
        for part, span in zip(parts, cut(matrix, length, device), strict=True):
            if span:
                part.append((number, span))
    return parts


def _unit(images: Tensor) -> Tensor:
    return to_unit(images) if images.dtype == torch.uint8 else images


def _run_network(network: Segmenter, images: Tensor) -> Float[Tensor, "batch rows classes cols"]:
    logits: Tensor = network(_unit(images)).logits.float()
    # Minus infinity may rule out a class; other values that are not finite would yield a class too.
    if not (logits < math.inf).all():
        raise FloatingPointError("the network's logits are infinite or NaN; it is broken")
    # Finite, so that products with zeros are zero.
    return logits.clamp_min(RULED_OUT).transpose(1, 2)


def _starts(side: int, window: int, stride: int) -> list[int]:
    """List the starts of windows; a window that would exceed the border ends at it instead."""
    count = max(side - window + stride - 1, 0) // stride + 1
    return [max(min(i * stride, side - window), 0) for i in range(count)]


def batch_by_size(
    items: Iterable[Item], count: int, size: Callable[[Item], Hashable]
) -> Iterator[list[Item]]:
    """Group items by size into batches of at most ``count``, with few items waiting.

    Examples:
        >>> " ".join(map("".join, batch_by_size("aAbBcCd", 2, str.isupper)))
        'ab AB cd C'
    """
    waiting: dict[Hashable, list[Item]] = {}
    for item in items:
        group = waiting.setdefault(size(item), [])
        group.append(item)
        if len(group) == count or sum(map(len, waiting.values())) == _HELD * count:
            yield waiting.pop(max(waiting, key=lambda each: len(waiting[each])))
    yield from waiting.values()


def score(
    network: Segmenter,
    samples: Iterable[tuple[UInt8[Tensor, "3 height width"], Integer[Tensor, "height width"]]],
    inference: Inference,
    device: torch.device,
    each: Callable[[int, Int[Tensor, "classes classes"]], None] | None = None,
) -> Int[Tensor, "classes classes"]:
    """Evaluate batch by batch into one confusion matrix; memory does not grow with the data.

    Args:
        network: Network to evaluate; its mode is restored afterwards.
        samples: Images and their labels.
        inference: Inference settings.
        device: The network's device.
        each: Called with the index, from 0, and the confusion matrix of every image, in the order
            in which batches fill up.
    """
    matrix = torch.zeros(network.classes, network.classes, dtype=torch.long, device=device)
    numbered = ((number, *sample) for number, sample in enumerate(samples))
    with evaluating(network):
        for group in batch_by_size(numbered, inference.batch_size, lambda each: each[1].shape):
            images = torch.stack([image for _, image, _ in group]).to(device)
            for (number, _, labels), classes in zip(
                group, predict_classes(network, images, inference), strict=True
            ):
                found = confusion_matrix(classes, labels.to(device), network.classes)
                matrix += found
                if each is not None:
                    each(number, found)
    return matrix
