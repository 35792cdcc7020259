"""Weighted sum of several distillation losses."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fakd.types import TASK_TERMS, DistillationLoss, LossInputs, Segmenter

_CURVES = (*TASK_TERMS, "step", "learning_rate", "gradient_norm")
"""Names of curves that every run may have."""


class WeightedSum(DistillationLoss):
    """Weighted sum of several distillation losses, as in most published methods.

    Args:
        losses: The losses by name; each is logged as a curve of that name.

    Raises:
        ValueError: there is no loss, a name is reserved, or two losses need different class
            statistics.
    """

    def __init__(self, losses: Mapping[str, DistillationLoss]) -> None:
        super().__init__()
        if not losses:
            raise ValueError("expected at least one loss in losses, got none")
        if any(name in _CURVES or "." in name or "/" in name for name in losses):
            raise ValueError(
                f"expected names of losses without a dot or slash, and other than "
                f"{', '.join(_CURVES)}, got {', '.join(losses)}; choose other names"
            )
        self.losses = nn.ModuleDict(losses)
        self.image_by_image = all(loss.image_by_image for loss in losses.values())
        self.determines_classes = any(loss.determines_classes for loss in losses.values())
        self.margin = any(loss.margin for loss in losses.values())
        wanted = {
            name: (loss.covariance, loss.momentum)
            for name, loss in losses.items()
            if loss.covariance is not None
        }
        if len(set(wanted.values())) > 1:
            listed = "; ".join(f"{name}: {kind}, {past}" for name, (kind, past) in wanted.items())
            raise ValueError(
                "expected the same covariance and momentum for all losses with strength above 0, "
                f"as they share the statistics, got {listed}; choose one of each"
            )
        self.covariance, self.momentum = next(iter(wanted.values()), (None, None))

    def _parts(self) -> dict[str, DistillationLoss]:
        return {name: loss for name, loss in self.losses.items()}  # type: ignore[misc]  # noqa: C416

    def _active(self, progress: float) -> dict[str, DistillationLoss]:
        """Return the losses that have not faded to 0."""
        return {name: loss for name, loss in self._parts().items() if not loss.over(progress)}

    def prepare(self, student: Segmenter, teacher: Segmenter) -> None:
        """Prepare each loss."""
        for loss in self._parts().values():
            loss.prepare(student, teacher)

    def forward(self, inputs: LossInputs) -> Float[Tensor, ""]:
        """Compute the weighted sum."""
        return torch.stack(list(self.terms(inputs).values())).sum()

    def terms(self, inputs: LossInputs) -> dict[str, Float[Tensor, ""]]:
        """Compute each weighted loss, keyed by its name in ``losses``; 0 once it has faded."""
        now = inputs.progress
        return {
            name: torch.zeros((), device=inputs.student.logits.device)
            if loss.over(now)
            else loss.weight_at(now) * loss(inputs)
            for name, loss in self._parts().items()
        }

    def fading(self, progress: float) -> dict[str, float]:
        """Collect the fading weights of all losses."""
        return _named(self._parts(), lambda loss: loss.fading(progress))

    def over(self, progress: float) -> bool:
        """Return whether every loss is over."""
        return all(loss.over(progress) for loss in self._parts().values())

    def measures(self, inputs: LossInputs) -> dict[str, Float[Tensor, ""]]:
        """Collect the measures of the losses that have not faded to 0."""
        return _named(self._active(inputs.progress), lambda loss: loss.measures(inputs))

    def after_step(self, inputs: LossInputs) -> dict[str, Float[Tensor, ""]]:
        """Let each loss that has not faded to 0 train its critic."""
        return _named(self._active(inputs.progress), lambda loss: loss.after_step(inputs))

    def optimizers(self) -> tuple[torch.optim.Optimizer, ...]:
        """List the optimisers of all losses."""
        return tuple(each for loss in self._parts().values() for each in loss.optimizers())


def _named(
    parts: Mapping[str, DistillationLoss], ask: Callable[[DistillationLoss], dict[str, Any]]
) -> dict[str, Any]:
    found = ((name, ask(loss)) for name, loss in parts.items())
    return {f"{name}/{key}": each for name, own in found for key, each in own.items()}
