"""Overhead of each published method in a training step, without running the two networks.

Everything its published setting includes: all its terms, their gradients with respect to the
student's logits and features, the class statistics, the memory, and the critic's own step. A size's
channels are the teacher's; the student has a quarter of them, as in the paper's ResNet pairs.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from common import SEED, Size, measure, parser, report
from fakd.covariance import ClassCovariance, LogitStatistics
from fakd.losses import PRESETS, preset
from fakd.types import DistillationLoss, LossInputs, Prediction, Segmenter

METHODS = ("cwd", "cwd-fa", "pd", "pd-fa", "skds-cirkd", "skds-official", "ifvd-cirkd")
METHODS += ("ifvd-official", "cirkd", "cwd-cirkd", "features-l2", "dist")


class Shape(Segmenter):
    """The attributes of a network that a loss needs before training: classes and classifier."""

    def __init__(self, classes: int, channels: int) -> None:
        super().__init__()
        self.classes = classes
        self.last = nn.Conv2d(channels, classes, 1)

    @property
    def classifier(self) -> nn.Conv2d:
        """The layer whose widths a loss needs."""
        return self.last

    def forward(self, images: torch.Tensor) -> Prediction:
        """Raise an error: no network is run here."""
        raise NotImplementedError("this benchmark uses random predictions")


def step(loss: DistillationLoss, size: Size, device: str) -> Callable[[], Any]:
    """Build the part of a training step for this method, without running the two networks."""
    torch.manual_seed(SEED)
    student, teacher = Shape(size.classes, size.channels // 4), Shape(size.classes, size.channels)
    loss.prepare(student, teacher)
    loss.to(device)
    grid = (size.rows, size.cols)
    features = [torch.randn(size.batch, n, *grid).relu().to(device) for n in _channels(size)]
    logits = [torch.randn(size.batch, size.classes, *grid).to(device) for _ in features]
    features[0].requires_grad_()
    logits[0].requires_grad_()
    weight = student.last.weight.detach().to(device).requires_grad_()
    # About a dozen classes per image, in patches, as in photographs.
    patches = torch.randint(size.classes, (size.batch, 1, 3, 4)).float()
    labels = nn.functional.interpolate(patches, grid)[:, 0].long().to(device)
    covariance = None
    if loss.covariance is not None:
        covariance = ClassCovariance(size.classes, size.channels // 4, loss.covariance).to(device)

    def run() -> None:
        for tensor in (features[0], logits[0], weight, *loss.parameters()):
            tensor.grad = None
        statistics = None
        if covariance is not None:
            covariance.update(features[0], labels)
            statistics = LogitStatistics(covariance, weight, labels)
        seen = Prediction(logits[0], features[0]), Prediction(logits[1], features[1])
        inputs = LossInputs(*seen, labels, statistics, 1.0)
        loss(inputs).backward()
        loss.after_step(inputs)

    return run


def _channels(size: Size) -> tuple[int, int]:
    return size.channels // 4, size.channels


def main() -> None:
    flags = parser("methods", __doc__, ["4x64x64x150x512", "4x128x128x150x512"])
    flags.add_argument("--only", nargs="+", choices=PRESETS, default=list(METHODS))
    chosen = flags.parse_args()
    torch.set_num_threads(chosen.threads)
    runs = []
    for size in chosen.sizes:
        variants = {name: step(preset(name), size, chosen.device) for name in chosen.only}
        runs.append((size, measure(variants, chosen.device, chosen.repeats, chosen.only[0])))
    report("methods", chosen, chosen.only[0], runs)


if __name__ == "__main__":
    main()
