"""From images to class maps: whole image or sliding window, at the label's resolution."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from fakd.errors import InputError
from fakd.metrics import confusion_matrix
from fakd.types import Segmenter


@dataclass(frozen=True)
class Inference:
    """How an image is shown to the network.

    Args:
        scale: resize the image by this factor first; the result has the original size again.
        window: side of square windows that slide over the (resized) image; none sees it whole.
        stride: distance between windows; two thirds of the window if not given.
    """

    scale: float = 1.0
    window: int | None = None
    stride: int | None = None

    def __post_init__(self) -> None:
        """Refuse values that no image could be shown with."""
        if self.scale <= 0:
            raise InputError(f"expected inference.scale above 0, got {self.scale}")
        if self.window is None and self.stride is not None:
            raise InputError("inference.stride needs inference.window; give both or neither")
        for name, value in (("window", self.window), ("stride", self.stride)):
            if value is not None and value < 1:
                raise InputError(f"expected inference.{name} of at least 1 pixel, got {value}")


def unlike_training(network: Segmenter, inference: Inference) -> str | None:
    """Say how a network was shown images when it was trained, if that differs from now."""
    known = network.extra.get("inference")
    if known is None or known == asdict(inference):
        return None
    flags = " ".join(f"--inference.{name} {value}" for name, value in known.items() if value)
    return f"in its training this network was evaluated with {flags}; scores may differ without"


def to_unit(images: UInt8[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """Bring 8-bit images to [0, 1], the range in which images travel."""
    return images.float().div_(255)


@torch.no_grad()
def predict_logits(
    network: Segmenter, images: Float[Tensor, "batch 3 height width"], inference: Inference
) -> Float[Tensor, "batch classes height width"]:
    """Compute logits at the images' own resolution, in float32.

    As in mmsegmentation: resize, forward, bilinear to the network's input size (averaged over
    windows where they overlap), bilinear to the original size.
    """
    size = images.shape[-2:]
    if inference.scale != 1.0:
        # Not antialiased, as in training: the network knows images as they are sampled there.
        shown = [max(int(side * inference.scale + 0.5), 1) for side in size]
        images = F.interpolate(images, shown, mode="bilinear")
    if inference.window is None:
        logits = _resize(network, network(images).logits.float(), images.shape[-2:])
    else:
        stride = inference.stride or max(1, inference.window * 2 // 3)
        logits = _slide(network, images, inference.window, stride)
    return _resize(network, logits, size)


def _resize(network: Segmenter, logits: Tensor, size: torch.Size) -> Tensor:
    return F.interpolate(logits, size, mode="bilinear", align_corners=network.align_corners)


def _slide(network: Segmenter, images: Tensor, window: int, stride: int) -> Tensor:
    height, width = images.shape[-2:]
    total = images.new_zeros(len(images), network.classes, height, width)
    visits = images.new_zeros(1, 1, height, width)
    for top in _starts(height, window, stride):
        for left in _starts(width, window, stride):
            region = (..., slice(top, top + window), slice(left, left + window))
            part = images[region]
            total[region] += _resize(network, network(part).logits.float(), part.shape[-2:])
            visits[region] += 1
    return total / visits


def _starts(side: int, window: int, stride: int) -> list[int]:
    """List where windows begin; one that would overrun ends at the border instead."""
    count = max(side - window + stride - 1, 0) // stride + 1
    return [max(min(i * stride, side - window), 0) for i in range(count)]


def predict_classes(
    network: Segmenter, images: UInt8[Tensor, "batch 3 height width"], inference: Inference
) -> Int[Tensor, "batch height width"]:
    """Name the likeliest class of every pixel."""
    return predict_logits(network, to_unit(images), inference).argmax(1)


def score(
    network: Segmenter,
    samples: Iterable[tuple[UInt8[Tensor, "3 height width"], UInt8[Tensor, "height width"]]],
    inference: Inference,
    device: torch.device,
) -> Int[Tensor, "classes classes"]:
    """Evaluate image by image into one confusion matrix; memory does not grow with the set."""
    was_training = network.training
    network.eval()
    matrix = torch.zeros(network.classes, network.classes, dtype=torch.long, device=device)
    for image, labels in samples:
        prediction = predict_classes(network, image[None].to(device), inference)
        matrix += confusion_matrix(prediction[0], labels.to(device), network.classes)
    network.train(was_training)
    return matrix
