"""Several distillation losses at once, each with its weight and its own curve."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fakd.covariance import CovarianceKind
from fakd.types import DistillationLoss, LossInputs, Segmenter


class WeightedSum(DistillationLoss):
    """Several distillation losses at once: how most published methods are made up.

    Args:
        losses: The losses by name; each becomes a curve of that name.
        weights: The factor of each loss, by the same names; its default weight where none is given.

    Raises:
        ValueError: a weight has no loss, or two losses need different class statistics.
    """

    def __init__(
        self,
        losses: Mapping[str, DistillationLoss],
        weights: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        if not losses:
            raise ValueError("expected at least one loss in losses, got none")
        if strange := set(weights or {}) - set(losses):
            raise ValueError(
                f"weights names {', '.join(sorted(strange))}, which losses does not; "
                f"it has {', '.join(losses)}"
            )
        taken = {"task", "auxiliary"} & set(losses)
        if taken or any("." in name for name in losses):
            raise ValueError(
                f"expected names of losses without a dot, and other than task and auxiliary, got "
                f"{', '.join(losses)}; choose others"
            )
        self.losses = nn.ModuleDict(losses)
        defaults = {name: loss.default_weight for name, loss in losses.items()}
        self.weights = {**defaults, **(weights or {})}
        self.covariance, self.momentum = _shared_statistics(self._parts())

    def _parts(self) -> dict[str, DistillationLoss]:
        return {name: loss for name, loss in self.losses.items()}  # type: ignore[misc]  # noqa: C416

    def prepare(self, student: Segmenter, teacher: Segmenter) -> None:
        """Prepare each loss."""
        for loss in self._parts().values():
            loss.prepare(student, teacher)

    def forward(self, inputs: LossInputs) -> Float[Tensor, ""]:
        """Compute the weighted sum."""
        return torch.stack(list(self.terms(inputs).values())).sum()

    def terms(self, inputs: LossInputs) -> dict[str, Float[Tensor, ""]]:
        """Compute each weighted loss, by its name in ``losses``."""
        return {name: self.weights[name] * loss(inputs) for name, loss in self._parts().items()}

    def measures(self, inputs: LossInputs) -> dict[str, Float[Tensor, ""]]:
        """Ask each loss for its measures."""
        return {
            f"{name}/{measure}": value
            for name, loss in self._parts().items()
            for measure, value in loss.measures(inputs).items()
        }

    def after_step(self, inputs: LossInputs) -> dict[str, Float[Tensor, ""]]:
        """Let each loss train its opponent."""
        return {
            f"{name}/{term}": value
            for name, loss in self._parts().items()
            for term, value in loss.after_step(inputs).items()
        }

    def optimizers(self) -> tuple[torch.optim.Optimizer, ...]:
        """List the optimisers of all losses."""
        return tuple(each for loss in self._parts().values() for each in loss.optimizers())


def _shared_statistics(
    losses: Mapping[str, DistillationLoss],
) -> tuple[CovarianceKind | None, float | None]:
    """Find the class statistics that all losses with a strength agree on."""
    wanted = {
        name: (loss.covariance, loss.momentum)
        for name, loss in losses.items()
        if loss.covariance is not None
    }
    if len(set(wanted.values())) > 1:
        listed = "; ".join(f"{name}: {kind}, {window}" for name, (kind, window) in wanted.items())
        raise ValueError(
            "expected one covariance and momentum for all losses with a strength, as they share "
            f"the statistics, got {listed}; choose one"
        )
    return next(iter(wanted.values()), (None, None))
