"""Cost of a distillation loss, forward and backward, and overhead of feature augmentation.

The augmented variants include everything a training step does for them: updating the class
statistics from the features, the variance of the logits, the loss and its gradient.
"""

from collections.abc import Callable
from typing import Any

import torch

from common import SEED, Size, measure, parser, report
from fakd.covariance import ClassCovariance, LogitStatistics
from fakd.losses import ChannelKL, PixelKL
from fakd.types import DistillationLoss, LossInputs, Prediction

LOSSES: dict[str, Callable[[], DistillationLoss]] = {
    "CWD": ChannelKL,
    "CWD, FAKD diagonal": lambda: ChannelKL(strength=1.0),
    "CWD, FAKD full": lambda: ChannelKL(strength=1.0, covariance="full"),
    "CWD, FAKD logits": lambda: ChannelKL(strength=1.0, covariance="logits"),
    "PD": PixelKL,
    "PD, FAKD diagonal": lambda: PixelKL(strength=1.0),
    "PD, FAKD full": lambda: PixelKL(strength=1.0, covariance="full"),
    "PD, FAKD diagonal, difference": lambda: PixelKL(strength=1.0, bound="difference"),
    "PD, FAKD diagonal, tilted": lambda: PixelKL(strength=1.0, bound="tilted"),
}


def step(loss: DistillationLoss, size: Size, device: str) -> Callable[[], Any]:
    """Build the part of a training step for this loss, without running the two networks."""
    generator = torch.Generator().manual_seed(SEED)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(device)

    features = draw(size.batch, size.channels, size.rows, size.cols).relu()
    shape = (size.batch, size.classes, size.rows, size.cols)
    logits, teacher = draw(*shape).requires_grad_(), draw(*shape)
    weight = draw(size.classes, size.channels, 1, 1).mul_(0.05).requires_grad_()
    # About a dozen classes per image, in patches, as in photographs.
    patches = torch.randint(size.classes, (size.batch, 3, 4), generator=generator)
    grown = torch.nn.functional.interpolate(patches[:, None].float(), (size.rows, size.cols))
    labels = grown[:, 0].long().to(device)
    covariance = None
    if loss.covariance is not None:
        channels = size.classes if loss.covariance == "logits" else size.channels
        covariance = ClassCovariance(size.classes, channels, kind=loss.covariance).to(device)

    def run() -> None:
        logits.grad = weight.grad = None
        statistics = None
        if covariance is not None:
            covariance.update(logits if covariance.kind == "logits" else features, labels)
            statistics = LogitStatistics(covariance, weight, labels)
        student = Prediction(logits, features)
        loss(LossInputs(student, Prediction(teacher), labels, statistics, 1.0)).backward()

    return run


def main() -> None:
    flags = parser("losses", __doc__, ["16x64x64x150x512"])
    flags.add_argument("--only", nargs="+", choices=LOSSES, default=list(LOSSES))
    chosen = flags.parse_args()
    torch.set_num_threads(chosen.threads)
    runs = []
    for size in chosen.sizes:
        variants = {name: step(LOSSES[name](), size, chosen.device) for name in chosen.only}
        reference = chosen.only[0]
        runs.append((size, measure(variants, chosen.device, chosen.repeats, reference)))
    report("losses", chosen, chosen.only[0], runs)


if __name__ == "__main__":
    main()
