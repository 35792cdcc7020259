"""What a finished network costs on this machine, and what its scores do not show."""

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
"""Of confidence."""


@dataclass(frozen=True)
class Cost:
    """What one forward pass of one image takes; an auxiliary head that computes is counted."""

    parameters: int
    flops: int
    """Floating-point operations, two per multiply-accumulate, as PyTorch counts them."""
    size: tuple[int, int]
    """Height and width of the network's input."""
    latency: float
    """Milliseconds, median."""
    quartiles: tuple[float, float]
    """Milliseconds that a quarter and three quarters of the passes stayed below."""
    device: str
    """What computed: its kind, and on a processor the number of threads."""


def input_size(image: tuple[int, int], inference: Inference) -> tuple[int, int]:
    """Tell the height and width of what the network sees at a time: the image, or a window."""
    height, width = inference.size(image, inference.scales[0])
    side = inference.window
    return (height, width) if side is None else (min(height, side), min(width, side))


def cost_of(network: Segmenter, size: tuple[int, int]) -> Cost:
    """Count the operations of one forward pass, and time it after a warm-up.

    Passes are repeated up to 30 times or 4 seconds, at least 3 times. The network is in evaluation
    mode, on the device to measure; its input has that height and width.
    """
    device = next(network.parameters()).device
    image = torch.rand(1, 3, *size, device=device)
    with torch.no_grad():
        with FlopCounterMode(display=False) as counter:
            network(image)
        times = timed(lambda: network(image), device)
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
    """Say what computes: the GPU, or the processor and with how many threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"processor, {threads} thread{'s' if threads > 1 else ''}"


def timed(call: Callable[[], object], device: torch.device) -> list[float]:
    """Repeat a call and return the milliseconds of each, the first few left out."""
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
    """mIoU, boundary IoU and calibration of a network, gathered image by image."""

    def __init__(self, network: Segmenter, inference: Inference) -> None:
        self.network, self.inference = network, inference
        classes = network.classes
        self.counts = torch.zeros(3, classes, dtype=torch.long)
        self.matrix = torch.zeros(classes, classes, dtype=torch.long)
        self.bins = torch.zeros(3, BINS, dtype=torch.double)
        """As `reliability` counts them."""

    def add(
        self, image: UInt8[Tensor, "3 height width"], labels: Integer[Tensor, "height width"]
    ) -> Int[Tensor, "height width"]:
        """Predict one image, count it in, and return the classes of its pixels."""
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
        """IoU and accuracy on the images shown, as fractions of 1."""
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
    """Tell how many pixels from a contour still belong to its region; at least 1.

    >>> boundary_width(720, 960)
    24
    """
    return max(1, round(SHARE * math.hypot(height, width)))


def boundary_counts(
    prediction: Integer[Tensor, "height width"],
    labels: Integer[Tensor, "height width"],
    classes: int,
) -> Int[Tensor, "3 classes"]:
    r"""Count the pixels of each class in its boundary region: found, labelled, and predicted.

    .. math:: \text{Boundary IoU} =
        \frac{|(G_d \cap G) \cap (P_d \cap P)|}{|(G_d \cap G) \cup (P_d \cap P)|}

    G and P are labelled and predicted pixels of a class, and those in the region are within d of
    the contour, d being 2 % of the diagonal. Counts of several images add up to those of the set:
    IoU = found / (labelled + predicted - found). Cheng et al., 2021 (arXiv 2103.16562), Eq. 2. As
    there, distances are those of repeated 3x3 erosion and the image's border is a contour. Ignored
    pixels are left out and make no contour.
    """
    known = labels != IGNORE
    width = boundary_width(*labels.shape)
    truth = near_contour(labels, known, width) & known
    said = near_contour(prediction, known, width) & known
    found = truth & said & (prediction == labels)
    groups = (labels[found], labels[truth], prediction[said])
    return torch.stack([torch.bincount(each.long(), minlength=classes) for each in groups])


def near_contour(
    classes: Integer[Tensor, "height width"], known: Bool[Tensor, "height width"], width: int
) -> Bool[Tensor, "height width"]:
    """Find the pixels within ``width`` of one of another class or of the image's border.

    The class's eroded mask is where the largest and the smallest class id around are its own, so
    that two searches serve all classes.
    """
    # Signed, so that one maximum serves for the smallest too; 16 bits, for speed.
    ids, lowest = classes.short(), torch.iinfo(torch.short).min
    largest = _largest(ids.masked_fill(~known, lowest), width, border=lowest)
    smallest = -_largest((-ids).masked_fill(~known, lowest), width, border=1)
    return (largest != ids) | (smallest != ids)


def _largest(ids: Tensor, width: int, border: int) -> Tensor:
    """Find the largest value within ``width`` of each place, rows and columns one after another.

    Windows are joined to ones of twice the size, which costs the logarithm of their width.
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
    """Sort pixels into bins ((m - 1) / 15, m / 15] of the probability of their likeliest class.

    Returns:
        Of each bin how many pixels it has, the sum of their probabilities, and how many are right;
        those of several images add up.
    """
    place = (confidence * BINS).ceil().long().sub_(1).clamp_(0, BINS - 1)
    weights = (None, confidence.double(), right.double())
    counts = [torch.bincount(place, each, minlength=BINS).double() for each in weights]
    return torch.stack(counts).cpu()


def calibration_error(bins: Float[Tensor, "3 bins"]) -> float:
    r"""Compute the expected calibration error, 0 to 1, of what `reliability` counts.

    .. math:: \text{ECE} = \sum_m \frac{n_m}{n} |\text{accuracy}_m - \text{confidence}_m|

    Guo et al., 2017 (arXiv 1706.04599), Eq. 3, over pixels. NaN without any.
    """
    pixels, confidence, right = bins
    return float((right - confidence).abs().sum() / pixels.sum())
