"""From images to class maps: whole, in windows, mirrored or at several sizes; full resolution."""

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
from fakd.metrics import confusion_matrix
from fakd.models.demand import require_room
from fakd.models.foreign.deployed import Deployed
from fakd.settings import Inference
from fakd.types import Segmenter

Item = TypeVar("Item")
_HELD = 4
"""Batches' worth of images that wait for others of their size."""
_RULED_OUT = -1e30
"""Stands for minus infinity while maps are resized."""
_SMALLER = "give inference.window, such as 1024, or a smaller inference.scale or base"
"""What to do about images that take too much memory."""


def unlike_training(network: Segmenter, inference: Inference) -> str | None:
    """Say how a network was shown images when it was trained, if that differs from now."""
    known = network.extra.get("inference")
    if known is None:
        return None
    flags = []
    for field in (each for each in fields(Inference) if each.compare):
        then, now = known.get(field.name, field.default), getattr(inference, field.name)
        # JSON has made lists of tuples.
        then = tuple(then) if isinstance(then, list) else then
        if then != now:
            flags.append(f"--inference.{field.name} {_as_flag(then)}")
    if not flags:
        return None
    return (
        f"in its training this network was evaluated with {' '.join(flags)}; "
        "scores may differ without"
    )


def trained_inference(network: Segmenter) -> Inference:
    """Read how a network was shown images when it was trained; as they are if it does not say."""
    given = network.extra.get("inference") or {}
    known = {each.name: given[each.name] for each in fields(Inference) if each.name in given}
    # JSON has made lists of tuples.
    tuples = {key: tuple(each) for key, each in known.items() if isinstance(each, list)}
    return Inference(**{**known, **tuples})


def _as_flag(value: object) -> str:
    if isinstance(value, tuple):
        return f"[{','.join(map(str, value))}]"
    return "null" if value is None else str(value).lower()


def to_unit(images: UInt8[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """Bring 8-bit images to [0, 1], the range in which images travel."""
    return images.float().div_(255)


def require_shown(
    network: Segmenter,
    image: Sequence[int],
    inference: Inference,
    device: torch.device,
    factor: float = 1.0,
    count: int = 1,
) -> None:
    """Refuse images that there is too little memory to show the network, once for each size.

    Args:
        network: is not asked.
        image: height and width of the images as they are.
        inference: how they are shown.
        device: where the network is.
        factor: one of `Inference.scales`.
        count: images at a time.

    Raises:
        InputError: says how much is needed, how much is free, and how less would do.
    """
    shown = inference.size((image[0], image[1]), factor)
    if (pixels := count * math.prod(shown)) <= _largest.get(network, 0):
        return
    require_room(count, shown, device, _SMALLER)
    window = inference.window or max(shown)
    seen = (min(shown[0], window), min(shown[1], window))
    require_room(count, seen, device, _SMALLER, asked=[network])
    _largest[network] = pixels


_largest: WeakKeyDictionary[Segmenter, int] = WeakKeyDictionary()
"""How many pixels at a time a network may be shown, as far as that was asked."""


@torch.no_grad()
def predict_logits(
    network: Segmenter, images: Float[Tensor, "batch 3 height width"], inference: Inference
) -> Float[Tensor, "batch classes height width"]:
    """Compute logits at the images' own resolution, in float32.

    As in mmsegmentation: resize, forward, bilinear to the network's input size (averaged over
    windows where they overlap), bilinear to the original size. With `flip` or several `scales`
    the result is the logarithm of the class probabilities' mean.

    Raises:
        FloatingPointError: answers are infinite or NaN, and name no class.
    """
    result = images.new_empty(len(images), network.classes, *images.shape[-2:])
    for (rows, columns), logits in _tiles(network, images, inference):
        result[:, :, rows, columns] = logits.transpose(1, 2)
    return result


@torch.no_grad()
def predict_classes(
    network: Segmenter, images: UInt8[Tensor, "batch 3 height width"], inference: Inference
) -> Int[Tensor, "batch height width"]:
    """Name the likeliest class of every pixel.

    Beyond what the network answers on its own grid, memory does not grow with the number of
    classes times that of pixels.

    Raises:
        FloatingPointError: answers are infinite or NaN, and name no class.
        InputError: an exported network that has no logits is asked for what needs them.
    """
    if isinstance(network, Deployed) and network.output == "classes":
        if inference != Inference():
            network.refuse("--inference.* must be left out")
        return network.name_classes(images)
    likeliest = torch.empty_like(images[:, 0], dtype=torch.long)
    for (rows, columns), logits in _tiles(network, images, inference):
        # `max` names the same classes as `argmax`, which takes two to three times as long.
        likeliest[:, rows, columns] = logits.max(2).indices
    return likeliest


def _tiles(
    network: Segmenter, images: Tensor, inference: Inference
) -> Iterator[tuple[tuple[slice, slice], Float[Tensor, "batch rows classes cols"]]]:
    """Make the logits at the images' resolution tile by tile, each with its rows and columns."""
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
    """What a network answers to images at one size, mirrored or not, on the network's own grid.

    Enlarging the answers, averaging them where windows overlap and resizing the whole are linear
    and separable: each window adds a product of three matrices, of which the outer ones say what
    becomes of its rows and of its columns.
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
        require_shown(network, self._size, inference, images.device, factor, len(images))
        if self._shown != self._size:
            # Not antialiased, as in training: the network knows images as they are sampled there.
            images = F.interpolate(_unit(images), self._shown, mode="bilinear")
        window = inference.window or max(self._shown)
        stride = inference.stride or max(1, window * 2 // 3)
        self._starts = tuple(tuple(_starts(side, window, stride)) for side in self._shown)
        self._window = tuple(min(side, window) for side in self._shown)
        self._answers = [
            [
                _answer(network, images[..., top : top + window, left : left + window])
                for left in self._starts[1]
            ]
            for top in self._starts[0]
        ]

    def tiles(self, high: int, wide: int) -> Iterator[Float[Tensor, "batch rows classes cols"]]:
        """Make the logits at the images' size, row by row of tiles of at most this size."""
        ruled_out = any(bool((each <= _RULED_OUT).any()) for row in self._answers for each in row)
        for rows in self._parts(0, high):
            for columns in self._parts(1, wide):
                first, *others = (
                    self._enlarged(top, down, left, along)
                    for (top, down), (left, along) in product(rows, columns)
                )
                total = sum(others, start=first)
                # What is ruled out stays so, however little of it a mean contains.
                yield total.where(total > _RULED_OUT / 1e6, -math.inf) if ruled_out else total

    def _enlarged(self, top: int, down: Span, left: int, along: Span) -> Tensor:
        part = self._answers[top][left][:, down.coarse, :, along.coarse]
        part = part if along.copies else part @ along.mixing
        if down.copies:
            return part
        return (down.mixing.T @ part.flatten(2)).view(len(part), -1, *part.shape[2:])

    def _parts(self, axis: int, length: int) -> list[list[tuple[int, Span]]]:
        """List for the tiles along an axis which windows reach them, and how."""
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


def _answer(network: Segmenter, images: Tensor) -> Float[Tensor, "batch rows classes cols"]:
    logits: Tensor = network(_unit(images)).logits.float()
    # Minus infinity may rule a class out; anything else that is not finite names some class too.
    if not (logits < math.inf).all():
        raise FloatingPointError("the network's answers are infinite or NaN; it is broken")
    # Finite, as products with zeros must be zero.
    return logits.clamp_min(_RULED_OUT).transpose(1, 2)


def _starts(side: int, window: int, stride: int) -> list[int]:
    """List where windows begin; one that would overrun ends at the border instead."""
    count = max(side - window + stride - 1, 0) // stride + 1
    return [max(min(i * stride, side - window), 0) for i in range(count)]


def together(
    items: Iterable[Item], count: int, size: Callable[[Item], Hashable]
) -> Iterator[list[Item]]:
    """Gather items of one size, at most so many, as soon as there are or too many wait.

    >>> " ".join(map("".join, together("aAbBcCd", 2, str.isupper)))
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
    """Evaluate batch by batch into one confusion matrix; memory does not grow with the set.

    Args:
        network: What to evaluate; left in the mode it was in.
        samples: Images and their labels.
        inference: How images are shown to it.
        device: Where it is.
        each: Called with the number, from 0, and the confusion matrix of every image, in the order
            in which batches are full.
    """
    was_training = network.training
    network.eval()
    matrix = torch.zeros(network.classes, network.classes, dtype=torch.long, device=device)
    numbered = ((number, *sample) for number, sample in enumerate(samples))
    for group in together(numbered, inference.batch_size, lambda each: each[1].shape):
        images = torch.stack([image for _, image, _ in group]).to(device)
        for (number, _, labels), classes in zip(
            group, predict_classes(network, images, inference), strict=True
        ):
            found = confusion_matrix(classes, labels.to(device), network.classes)
            matrix += found
            if each is not None:
                each(number, found)
    network.train(was_training)
    return matrix
