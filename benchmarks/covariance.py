"""Our class statistics and variance map against the widespread estimator.

That estimator has a row per pixel and class, so it holds several tensors of pixels x classes x
channels. Both compute the same numbers, which is checked first.
"""

from collections.abc import Callable
from typing import Any

import torch

from common import SEED, Size, measure, parser, report
from fakd.covariance import ClassCovariance

OURS, WIDESPREAD = "ours, diagonal", "pixels x classes x channels"


class WidespreadEstimator:
    """Diagonal class statistics, implemented the obvious way: one row per pixel and class."""

    def __init__(self, classes: int, channels: int, device: str) -> None:
        self.count = torch.zeros(classes, 1, device=device)
        self.mean = torch.zeros(classes, channels, device=device)
        self.value = torch.zeros(classes, channels, device=device)

    def update(self, features: torch.Tensor, labels: torch.Tensor) -> None:
        """Update with one batch in which every pixel has a class."""
        pixels = features.permute(0, 2, 3, 1).flatten(0, 2)
        members = torch.nn.functional.one_hot(labels.flatten(), len(self.mean)).to(pixels)
        members = members[:, :, None].expand(-1, -1, pixels.shape[1])
        rows = pixels[:, None].expand_as(members) * members
        count = members[:, :, :1].sum(0)
        mean = rows.sum(0) / count.clamp(min=1)
        value = ((rows - mean * members) ** 2).sum(0) / count.clamp(min=1)
        share = count / (self.count + count).clamp(min=1)
        spread = share * (1 - share) * (self.mean - mean) ** 2
        self.value = (1 - share) * self.value + share * value + spread
        self.mean = (1 - share) * self.mean + share * mean
        self.count = self.count + count

    def logit_variance(self, weight: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Variance of each logit, again from one row per pixel and class."""
        squared = weight.flatten(1)[None] ** 2
        variance = (squared * self.value[labels.flatten()][:, None]).sum(2)
        return variance.unflatten(0, labels.shape).movedim(-1, 1)


def variants(size: Size, device: str) -> dict[str, Callable[[], Any]]:
    """Update with one batch, compute the variance map and backpropagate to the classifier."""
    generator = torch.Generator().manual_seed(SEED)
    shape = (size.batch, size.channels, size.rows, size.cols)
    features = torch.randn(shape, generator=generator).to(device)
    labels = torch.randint(
        size.classes, (size.batch, size.rows, size.cols), generator=generator
    ).to(device)
    weight = torch.randn(size.classes, size.channels, 1, 1, generator=generator).to(device)
    weight.requires_grad_()
    ours = ClassCovariance(size.classes, size.channels).to(device)
    theirs = WidespreadEstimator(size.classes, size.channels, device)

    def step(estimator: ClassCovariance | WidespreadEstimator) -> torch.Tensor:
        with torch.no_grad():
            estimator.update(features, labels)
        variance: torch.Tensor = estimator.logit_variance(weight, labels)
        weight.grad = None
        variance.sum().backward()
        return variance.detach()

    torch.testing.assert_close(step(ours), step(theirs), rtol=1e-3, atol=1e-3)
    return {OURS: lambda: step(ours), WIDESPREAD: lambda: step(theirs)}


def main() -> None:
    flags = parser("covariance", __doc__, ["1x32x32x150x512", "2x32x32x150x512"]).parse_args()
    torch.set_num_threads(flags.threads)
    runs = []
    for size in flags.sizes:
        results = measure(variants(size, flags.device), flags.device, flags.repeats, OURS)
        runs.append((size, results))
    report("covariance", flags, OURS, runs)


if __name__ == "__main__":
    main()
