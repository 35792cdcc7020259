"""From images to class maps: whole, in windows, mirrored or at several sizes; full resolution."""

import math
from collections.abc import Callable, Iterable
from dataclasses import fields
from itertools import product

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Integer, UInt8
from torch import Tensor

from fakd.metrics import confusion_matrix
from fakd.settings import Inference
from fakd.types import Segmenter

_AT_ONCE = 2**23
"""Values of enlarged logits that are held at a time when only the likeliest class is asked for."""


def unlike_training(network: Segmenter, inference: Inference) -> str | None:
    """Say how a network was shown images when it was trained, if that differs from now."""
    known = network.extra.get("inference")
    if known is None:
        return None
    flags = []
    for field in fields(Inference):
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


def _as_flag(value: object) -> str:
    if isinstance(value, tuple):
        return f"[{','.join(map(str, value))}]"
    return "null" if value is None else str(value).lower()


def to_unit(images: UInt8[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """Bring 8-bit images to [0, 1], the range in which images travel."""
    return images.float().div_(255)


@torch.no_grad()
def predict_logits(
    network: Segmenter, images: Float[Tensor, "batch 3 height width"], inference: Inference
) -> Float[Tensor, "batch classes height width"]:
    """Compute logits at the images' own resolution, in float32.

    As in mmsegmentation: resize, forward, bilinear to the network's input size (averaged over
    windows where they overlap), bilinear to the original size. With `flip` or several `scales`
    the result is the logarithm of the class probabilities' mean.
    """
    size = images.shape[-2:]
    if not inference.averages:
        logits, shown_size = _forward(network, images, inference, inference.scales[0])
        return _enlarged(network, logits, shown_size, size)
    views = list(product(inference.scales, (False, True) if inference.flip else (False,)))
    total = images.new_full((len(images), network.classes, *size), -math.inf)
    for factor, mirrored in views:
        shown = images.flip(-1) if mirrored else images
        logits = _enlarged(network, *_forward(network, shown, inference, factor), size)
        view = F.log_softmax(logits.flip(-1) if mirrored else logits, dim=1)
        torch.logaddexp(total, view, out=total)
    return total.sub_(math.log(len(views)))


def _forward(
    network: Segmenter, images: Tensor, inference: Inference, factor: float
) -> tuple[Tensor, torch.Size]:
    """Resize the images and run the network: its logits, and the size that it was shown."""
    size = inference.size((images.shape[-2], images.shape[-1]), factor)
    if size != images.shape[-2:]:
        # Not antialiased, as in training: the network knows images as they are sampled there.
        images = F.interpolate(images, size, mode="bilinear")
    if inference.window is None:
        return _answer(network, images), images.shape[-2:]
    stride = inference.stride or max(1, inference.window * 2 // 3)
    return _slide(network, images, inference.window, stride), images.shape[-2:]


def _answer(network: Segmenter, images: Tensor) -> Tensor:
    logits: Tensor = network(images).logits.float()
    # Minus infinity may rule a class out; anything else that is not finite names some class too.
    if not (logits < math.inf).all():
        raise FloatingPointError("the network's answers are infinite or NaN; it is broken")
    return logits


def _enlarged(network: Segmenter, logits: Tensor, shown: torch.Size, size: torch.Size) -> Tensor:
    return _resize(network, _resize(network, logits, shown), size)


def _resize(network: Segmenter, logits: Tensor, size: torch.Size) -> Tensor:
    if logits.shape[-2:] == size:
        return logits
    return F.interpolate(logits, size, mode="bilinear", align_corners=network.align_corners)


def _slide(network: Segmenter, images: Tensor, window: int, stride: int) -> Tensor:
    height, width = images.shape[-2:]
    total = images.new_zeros(len(images), network.classes, height, width)
    visits = images.new_zeros(1, 1, height, width)
    for top in _starts(height, window, stride):
        for left in _starts(width, window, stride):
            region = (..., slice(top, top + window), slice(left, left + window))
            part = images[region]
            total[region] += _resize(network, _answer(network, part), part.shape[-2:])
            visits[region] += 1
    return total.div_(visits)


def _starts(side: int, window: int, stride: int) -> list[int]:
    """List where windows begin; one that would overrun ends at the border instead."""
    count = max(side - window + stride - 1, 0) // stride + 1
    return [max(min(i * stride, side - window), 0) for i in range(count)]


@torch.no_grad()
def predict_classes(
    network: Segmenter, images: UInt8[Tensor, "batch 3 height width"], inference: Inference
) -> Int[Tensor, "batch height width"]:
    """Name the likeliest class of every pixel.

    Logits of one view are enlarged some classes at a time, which bounds memory for large images
    with many classes; a value may be rounded otherwise than among all classes, in its last bit.

    Raises:
        FloatingPointError: answers are infinite or NaN, and name no class.
    """
    if inference.averages:
        # `max` names the same classes as `argmax`, which takes two to three times as long.
        return predict_logits(network, to_unit(images), inference).max(1).indices
    logits, shown = _forward(network, to_unit(images), inference, inference.scales[0])
    step = max(1, _AT_ONCE // max(images[:, 0].numel(), len(images) * shown.numel()))
    best = torch.full_like(images[:, 0], -math.inf, dtype=torch.float32)
    likeliest = torch.zeros_like(best, dtype=torch.long)
    for first in range(0, logits.shape[1], step):
        part = logits[:, first : first + step]
        value, index = _enlarged(network, part, shown, images.shape[-2:]).max(1)
        likeliest = torch.where(value > best, index + first, likeliest)
        best = torch.maximum(best, value)
    return likeliest


def score(
    network: Segmenter,
    samples: Iterable[tuple[UInt8[Tensor, "3 height width"], Integer[Tensor, "height width"]]],
    inference: Inference,
    device: torch.device,
    each: Callable[[Int[Tensor, "classes classes"]], None] | None = None,
) -> Int[Tensor, "classes classes"]:
    """Evaluate image by image into one confusion matrix; memory does not grow with the set.

    Args:
        network: What to evaluate; left in the mode it was in.
        samples: Images and their labels.
        inference: How images are shown to it.
        device: Where it is.
        each: Called with the confusion matrix of every image.
    """
    was_training = network.training
    network.eval()
    matrix = torch.zeros(network.classes, network.classes, dtype=torch.long, device=device)
    for image, labels in samples:
        prediction = predict_classes(network, image[None].to(device), inference)
        found = confusion_matrix(prediction[0], labels.to(device), network.classes)
        matrix += found
        if each is not None:
            each(found)
    network.train(was_training)
    return matrix
