"""What a finished network costs on this machine, and what its scores do not show."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, Integer, UInt8
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from fakd.inference import predict_logits, to_unit
from fakd.metrics import Scores, confusion_matrix
from fakd.report.boundary import boundary_counts
from fakd.report.reliability import Reliability, reliability
from fakd.settings import Inference
from fakd.types import IGNORE, Segmenter

_WARM_UP, _REPEATS, _SECONDS = 3, 30, 4.0


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

    Passes are repeated up to 30 times or 4 seconds, at least 3 times.

    Args:
        network: in evaluation mode, on the device to measure.
        size: height and width of its input.
    """
    device = next(network.parameters()).device
    image = torch.rand(1, 3, *size, device=device)
    with torch.no_grad():
        with FlopCounterMode(display=False) as counter:
            network(image)
        times = timed(lambda: network(image), device)
    low, middle, high = statistics.quantiles(times, n=4, method="inclusive")
    threads = torch.get_num_threads()
    on_cpu = f"processor, {threads} thread{'s' if threads > 1 else ''}"
    return Cost(
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        flops=counter.get_total_flops(),
        size=size,
        latency=middle,
        quartiles=(low, high),
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else on_cpu,
    )


def timed(call: Callable[[], object], device: torch.device) -> list[float]:
    """Repeat a call and return the milliseconds of each, the first few left out."""
    times: list[float] = []
    deadline = time.perf_counter() + _SECONDS
    while len(times) < _WARM_UP + _REPEATS:
        if time.perf_counter() > deadline and len(times) >= 2 * _WARM_UP:
            break
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
        self.counts: Int[Tensor, "3 classes"] = torch.zeros(3, network.classes, dtype=torch.long)
        self.matrix: Int[Tensor, "classes classes"] = torch.zeros(
            network.classes, network.classes, dtype=torch.long
        )
        self.reliability = Reliability.empty()

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
        self.reliability += reliability(confidence, classes[known] == labels[known])
        self.counts += boundary_counts(classes, labels, self.network.classes).cpu()
        self.matrix += confusion_matrix(classes, labels, self.network.classes).cpu()
        return classes.cpu()

    @property
    def scores(self) -> Scores:
        """IoU and accuracy on the images shown, as fractions of 1."""
        return Scores.from_matrix(self.matrix)

    @property
    def boundary_iou(self) -> Float[Tensor, " classes"]:
        """Boundary IoU of every class in percent; NaN for one neither labelled nor predicted."""
        found, labelled, predicted = self.counts.double()
        iou: Float[Tensor, " classes"] = 100 * found / (labelled + predicted - found)
        return iou

    @property
    def mean_boundary_iou(self) -> float:
        """Mean over the classes that have one, in percent."""
        return float(self.boundary_iou.nanmean())

    @property
    def calibration_error(self) -> float:
        """Expected calibration error in percent."""
        return 100 * self.reliability.error
