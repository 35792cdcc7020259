"""Cost of a network on this machine, boundary IoU and calibration."""

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Integer, UInt8
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from fakd.inference import predict_logits, to_unit
from fakd.metrics import Scores, confusion_matrix
from fakd.settings import Inference
from fakd.types import IGNORE, Segmenter

_WARM_UP, _REPEATS, _SECONDS = 3, 30, 4.0
SHARE = 0.02
"""Width of the boundary region as a share of the image's diagonal."""
BINS = 15
"""Number of confidence bins."""


@dataclass(frozen=True)
class Cost:
    """Cost of one forward pass of one image, including an auxiliary head if it is computed."""

    parameters: int
    flops: int
    """Floating-point operations, two per multiply-accumulate, as PyTorch counts them."""
    size: tuple[int, int]
    """Height and width of the network's input."""
    latency: float
    """Milliseconds, median."""
    quartiles: tuple[float, float]
    """First and third quartile in milliseconds."""
    device: str
    """The device: its name, and for a CPU the number of threads."""


def input_size(image: tuple[int, int], inference: Inference) -> tuple[int, int]:
    """Return height and width of the network's input: the image, or a window."""
    height, width = inference.size(image, inference.scales[0])
    side = inference.window
    return (height, width) if side is None else (min(height, side), min(width, side))


def cost_of(network: Segmenter, size: tuple[int, int]) -> Cost:
    """Count the FLOPs of one forward pass, and time it after a warm-up.

    The pass is repeated at least 3 times, and up to 30 times or 4 seconds. The network must be in
    evaluation mode and on the device to measure; its input has this height and width.
    """
    device = next(network.parameters()).device
    image = torch.rand(1, 3, *size, device=device)
    with torch.no_grad():
        with FlopCounterMode(display=False) as counter:
            network(image)
        times = time_call(lambda: network(image), device)
    low, middle, high = statistics.quantiles(times, n=4, method="inclusive")
    return Cost(
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        flops=counter.get_total_flops(),
        size=size,
        latency=middle,
        quartiles=(low, high),
        device=device_name(device),
    )


def device_name(device: torch.device) -> str:
    """Return the name of the GPU, or the processor with its number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"processor, {threads} thread{'s' if threads > 1 else ''}"


def time_call(call: Callable[[], object], device: torch.device) -> list[float]:
    """Repeat a call and return the milliseconds of each, after a warm-up."""
    times: list[float] = []
    deadline = time.perf_counter() + _SECONDS
    while len(times) < 2 * _WARM_UP or (
        len(times) < _WARM_UP + _REPEATS and time.perf_counter() < deadline
    ):
        began = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(1000 * (time.perf_counter() - began))
    return times[_WARM_UP:]


class Quality:
    """mIoU, boundary IoU and calibration of a network, accumulated image by image."""

    def __init__(self, network: Segmenter, inference: Inference) -> None:
        self.network, self.inference = network, inference
        classes = network.classes
        self.counts = torch.zeros(3, classes, dtype=torch.long)
        self.matrix = torch.zeros(classes, classes, dtype=torch.long)
        self.bins = torch.zeros(3, BINS, dtype=torch.double)
        """Sums of `reliability`."""

    def add(
        self, image: UInt8[Tensor, "3 height width"], labels: Integer[Tensor, "height width"]
    ) -> Int[Tensor, "height width"]:
        """Predict one image, update the counts, and return the predicted classes."""
        device = next(self.network.parameters()).device
        logits = predict_logits(self.network, to_unit(image[None].to(device)), self.inference)[0]
        confidence, classes = logits.max(0)
        labels = labels.to(device)
        known = labels != IGNORE
        confidence = (confidence - logits.logsumexp(0)).exp()[known]
        self.bins += reliability(confidence, classes[known] == labels[known])
        self.counts += boundary_counts(classes, labels, self.network.classes).cpu()
        self.matrix += confusion_matrix(classes, labels, self.network.classes).cpu()
        return classes.cpu()

    @property
    def scores(self) -> Scores:
        """IoU and accuracy on these images, as fractions of 1."""
        return Scores.from_matrix(self.matrix)

    @property
    def mean_boundary_iou(self) -> float:
        """Mean over the classes that are labelled or predicted, in percent."""
        found, labelled, predicted = self.counts.double()
        return float((100 * found / (labelled + predicted - found)).nanmean())

    @property
    def calibration_error(self) -> float:
        """Expected calibration error in percent."""
        return 100 * calibration_error(self.bins)


def boundary_width(height: int, width: int) -> int:
    """Return the width in pixels of the boundary region; at least 1.

    >>> boundary_width(720, 960)
    24
    """
    return max(1, round(SHARE * math.hypot(height, width)))


def boundary_counts(
    prediction: Integer[Tensor, "height width"],
    labels: Integer[Tensor, "height width"],
    classes: int,
) -> Int[Tensor, "3 classes"]:
    r"""Count the pixels of each class in its boundary region: correct, labelled, and predicted.

    .. math:: \text{Boundary IoU} =
        \frac{|(G_d \cap G) \cap (P_d \cap P)|}{|(G_d \cap G) \cup (P_d \cap P)|}

    G and P are the labelled and predicted pixels of a class; those in the region are within d of
    the contour, d being 2 % of the diagonal. Counts of several images can be added: IoU = correct /
    (labelled + predicted - correct). Cheng et al., 2021 (arXiv 2103.16562), Eq. 2. As there,
    distances are those of repeated 3x3 erosion, and the image border is a contour. Ignored pixels
    are left out and form no contour.
    """
    known = labels != IGNORE
    width = boundary_width(*labels.shape)
    truth = near_boundary(labels, known, width) & known
    said = near_boundary(prediction, known, width) & known
    found = truth & said & (prediction == labels)
    groups = (labels[found], labels[truth], prediction[said])
    return torch.stack([torch.bincount(each.long(), minlength=classes) for each in groups])


def near_boundary(
    classes: Integer[Tensor, "height width"], known: Bool[Tensor, "height width"], width: int
) -> Bool[Tensor, "height width"]:
    """Find the pixels within ``width`` of a pixel of another class or of the image border.

    A class's eroded mask is where the maximum and minimum class id of the neighbourhood are both
    its own, so two searches serve all classes.
    """
    # Negated ids turn the minimum into a maximum; 16 bits are faster.
    ids, lowest = classes.short(), torch.iinfo(torch.short).min
    largest = _largest(ids.masked_fill(~known, lowest), width, border=lowest)
    smallest = -_largest((-ids).masked_fill(~known, lowest), width, border=1)
    return (largest != ids) | (smallest != ids)


def _largest(ids: Tensor, width: int, border: int) -> Tensor:
    """Compute the maximum within ``width`` of each position, first along rows, then along columns.

    Windows are doubled step by step, so the cost is logarithmic in their width.
    """
    ids = F.pad(ids, [width] * 4, value=border)
    for dim in (0, 1):
        reach, side = 1, 2 * width + 1
        while reach < side:
            step = min(reach, side - reach)
            kept = ids.shape[dim] - step
            ids = torch.maximum(ids.narrow(dim, 0, kept), ids.narrow(dim, step, kept))
            reach += step
    return ids


def reliability(
    confidence: Float[Tensor, " pixels"], right: Bool[Tensor, " pixels"]
) -> Float[Tensor, "3 bins"]:
    """Sort pixels into bins ((m - 1) / 15, m / 15] of the probability of their most likely class.

    Returns:
        For each bin the number of pixels, the sum of their probabilities, and the number of correct
        ones; those of several images can be added.
    """
    place = (confidence * BINS).ceil().long().sub_(1).clamp_(0, BINS - 1)
    weights = (None, confidence.double(), right.double())
    counts = [torch.bincount(place, each, minlength=BINS).double() for each in weights]
    return torch.stack(counts).cpu()


def calibration_error(bins: Float[Tensor, "3 bins"]) -> float:
    r"""Compute the expected calibration error, 0 to 1, from sums of `reliability`.

    .. math:: \text{ECE} = \sum_m \frac{n_m}{n} |\text{accuracy}_m - \text{confidence}_m|

    Guo et al., 2017 (arXiv 1706.04599), Eq. 3, over pixels. NaN if there are none.
    """
    pixels, confidence, right = bins
    return float((right - confidence).abs().sum() / pixels.sum())
