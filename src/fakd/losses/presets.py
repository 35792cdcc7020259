"""Sums of losses, and published settings of each method by name."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fakd import specs
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


Spec = dict[str, Any]


def _loss(name: str, **arguments: Any) -> Spec:
    return {"class_path": f"fakd.losses.{name}", "init_args": arguments}


def _sum(**parts: tuple[float, Spec]) -> Spec:
    """Write a weighted sum; each part is its weight and itself."""
    return _loss(
        "WeightedSum",
        losses={name: spec for name, (_, spec) in parts.items()},
        weights={name: weight for name, (weight, _) in parts.items()},
    )


def _cirkd(memory_weight: float) -> Spec:
    return _sum(
        pixel=(1.0, _PD),
        cross_image=(1.0, _loss("CrossImageSimilarity", temperature=0.1)),
        memory=(memory_weight, _loss("MemoryContrast", temperature=0.1)),
    )


_PD = _loss("PixelKL", temperature=1.0, strength=0.0)
_CE_PIXELS = _loss("PixelKL", temperature=1.0, strength=0.0, reduction="sum_over_hw")
_PD_PER_CLASS = _loss(
    "PixelKL", temperature=1.0, strength=0.0, reduction="element_mean", t_squared=False
)
_HINGE = _loss("Adversarial", loss="hinge")
_WGAN = _loss("Adversarial", loss="wgan-gp", schedule="poly")
_WGAN_SGD = _loss(
    "Adversarial", loss="wgan-gp", optimizer="sgd", weight_decay=5e-4, schedule="poly"
)

PRESETS: Mapping[str, Spec] = {
    "pd": _sum(pixel=(1.0, _PD)),
    "pd-fa": _sum(pixel=(1.0, _loss("PixelKL", temperature=1.0, strength=1.0))),
    "cwd": _sum(channel=(5.0, _loss("ChannelKL", temperature=1.0, strength=0.0))),
    "cwd-fa": _sum(channel=(5.0, _loss("ChannelKL", temperature=1.0, strength=1.0))),
    "cwd-fa-logits": _sum(
        channel=(5.0, _loss("ChannelKL", temperature=1.0, strength=1.0, covariance="logits"))
    ),
    # The CWD authors' configurations for mmsegmentation and for Cityscapes, and CIRKD's harness.
    "cwd-mmseg-ade20k": _sum(channel=(10.0, _loss("ChannelKL", temperature=1.0, strength=0.0))),
    "cwd-mmseg-cityscapes": _sum(channel=(5.0, _loss("ChannelKL", temperature=1.0, strength=0.0))),
    "cwd-td": _sum(channel=(3.0, _loss("ChannelKL", temperature=4.0, strength=0.0))),
    "cwd-td-all": _sum(
        channel=(3.0, _loss("ChannelKL", temperature=4.0, strength=0.0)),
        pixel=(10.0, _PD_PER_CLASS),
        holistic=(0.001, _WGAN),
    ),
    "cwd-cirkd": _sum(
        pixel=(1.0, _PD),
        features=(
            50.0,
            _loss("FeatureChannelKL", temperature=4.0, alignment="conv", divisor="student"),
        ),
        channel=(3.0, _loss("ChannelKL", temperature=4.0, strength=0.0)),
        holistic=(0.001, _HINGE),
    ),
    "skds-official": _sum(
        pixel=(10.0, _CE_PIXELS),
        pair=(0.5, _loss("PairwiseSimilarity", scale=0.5, detach_norm=True)),
        holistic=(0.1, _WGAN_SGD),
    ),
    "skds-cirkd": _sum(
        pixel=(1.0, _PD),
        pair=(10.0, _loss("PairwiseSimilarity", kernel=[2, 2])),
        holistic=(0.001, _HINGE),
    ),
    "ifvd-official": _sum(
        pixel=(10.0, _PD_PER_CLASS),
        intra_class=(200.0, _loss("IntraClassVariation")),
        holistic=(0.001, _WGAN),
    ),
    "ifvd-cirkd": _sum(
        pixel=(1.0, _PD),
        intra_class=(20.0, _loss("IntraClassVariation")),
        holistic=(0.001, _HINGE),
    ),
    "cirkd": _cirkd(0.1),
    "cirkd-voc": _cirkd(0.01),
    "features-l2": _sum(features=(1.0, _loss("FeatureDistance", kind="l2"))),
    "features-cosine": _sum(features=(1.0, _loss("FeatureDistance", kind="cosine"))),
    "dist": _sum(relations=(1.0, _loss("Relational"))),
}
"""Name -> what ``distillation:`` holds in a recipe; docs/methods.md says where each comes from."""


def preset(name: str) -> DistillationLoss:
    """Build the loss, or weighted sum of losses, of a published setting.

    Raises:
        ValueError: there is no such preset; lists those there are.

    >>> preset("ifvd-cirkd").weights
    {'pixel': 1.0, 'intra_class': 20.0, 'holistic': 0.001}
    """
    if name not in PRESETS:
        raise ValueError(f"expected one of {', '.join(PRESETS)}, got {name!r}")
    loss: DistillationLoss = specs.build(PRESETS[name])
    return loss
