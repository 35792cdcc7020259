"""The two central interfaces: segmenters and distillation losses.

Axes: ``batch``, ``classes``, ``channels`` (of a feature), ``height x width`` (an image),
``rows x cols`` (a feature map). Labels are class ids; ``IGNORE``, which is -1,
marks pixels without a class.
"""

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, Protocol, get_origin, runtime_checkable

import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn

from fakd.covariance import CovarianceKind, LogitStatistics
from fakd.errors import require_at_least, require_choice, require_class_weights
from fakd.settings import IGNORE as IGNORE

TASK_TERMS = ("task", "auxiliary", "dice", "lovasz")
"""Names of the task loss's curves."""
RULED_OUT = -1e30
"""Replaces a logit of minus infinity, so that its product with a probability of 0 is 0."""


class Prediction(NamedTuple):
    """Output of a segmenter, before any upsampling."""

    logits: Float[Tensor, "batch classes rows cols"]
    features: Float[Tensor, "batch channels rows cols"] | None = None
    """Input of the final classifier, after dropout; None if only the logits are known."""
    auxiliary: Tensor | tuple[Tensor, ...] | None = None
    """Logits of the auxiliary head or heads, each on any grid; None if there is none."""


@runtime_checkable
class Classifier(Protocol):
    """The final linear layer, from features to logits, such as a convolution of odd size."""

    @property
    def weight(self) -> Float[Tensor, "classes channels size size"]:
        """Weight of the layer; read again at every step."""

    @property
    def in_channels(self) -> int:
        """Channels of the features."""


class Segmenter(nn.Module, ABC):
    """A network that classifies pixels: maps images in [0, 1] to a `Prediction`.

    Every segmenter normalises its input itself, so that a teacher and a student with different
    normalisation can be given the same images.
    """

    classes: int
    class_names: tuple[str, ...] | None = None
    palette: tuple[tuple[int, int, int], ...] | None = None
    """Class names and colours stored with the weights; None if there are none."""
    extra: Mapping[str, Any] = MappingProxyType({})
    """Further metadata of its weights file: step, score, inference settings."""
    remarks: tuple[str, ...] = ()
    """Notes for the user before training or inference."""
    opaque: str = ""
    """Why it provides no classifier; empty if it does, or the reason is unknown."""
    align_corners: bool = False
    """How its logits are to be upsampled to the image."""
    config: dict[str, Any] | None = None
    """Spec that rebuilds the architecture: ``{"class_path": ..., "init_args": {...}}``, JSON."""
    origin: dict[str, Any] | None = None
    """Spec that this network was built from, including its initial weights; as `config`."""

    @abstractmethod
    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> Prediction:
        """Classify every position of the network's output grid."""

    @property
    @abstractmethod
    def classifier(self) -> Classifier | None:
        """The final linear layer, from features to logits; None if only logits are known."""

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Group parameters by learning rate: ``backbone`` and ``head``, or all in ``network``.

        By default the backbone is the attribute of that name, if there is one.
        """
        backbone = getattr(self, "backbone", None)
        if not isinstance(backbone, nn.Module):
            return {"network": list(self.parameters())}
        slow = list(backbone.parameters())
        known = {id(parameter) for parameter in slow}
        return {"backbone": slow, "head": [p for p in self.parameters() if id(p) not in known]}


@dataclass(frozen=True)
class LossInputs:
    """Inputs of a distillation loss; all maps but features are on the student's logits' grid.

    `fakd.losses.grid.on_grid_of` resamples the teacher's features to the student's grid.
    """

    student: Prediction
    teacher: Prediction
    labels: Integer[Tensor, "batch rows cols"]
    """Class ids, resized by nearest neighbour; `IGNORE` for pixels without one."""
    statistics: LogitStatistics | None = None
    """Statistics of the student's logits under augmentation; None if the loss needs none."""
    progress: float = 0.0
    """Share of the training steps done, 0 to 1."""


ClassWeights = Literal["auto"] | Sequence[float] | None
"""One weight per class, or auto for weights by rarity."""


class ClassWeighing(nn.Module, ABC):
    """Base of losses with class weights, kept in a buffer: the task loss, PD, CWD."""

    class_weights: Float[Tensor, " classes"] | None
    given_weights: ClassWeights

    def set_class_weights(self, name: str, given: ClassWeights, classes: int | None = None) -> None:
        """Set the given weights; automatic weights are 1 until `weigh` is called.

        Raises:
            InputError: they are invalid, or their number differs from that of the classes.
        """
        require_class_weights(name, given, classes)
        self.given_weights = given
        self.register_buffer("class_weights", None)
        weights = [1.0] * (classes or 0) if given == "auto" else given
        if weights:
            self.weigh(weights)

    def weigh(self, weights: Sequence[float]) -> None:
        """Set the weights of the classes."""
        found, now = torch.tensor(self.scaled(weights), dtype=torch.float32), self.class_weights
        self.class_weights = found if now is None else found.to(now)

    @abstractmethod
    def scaled(self, weights: Sequence[float]) -> Sequence[float]:
        """Scale weights as the loss requires."""


Weight = float | dict[str, Any]
"""A loss's weight, or its schedule: ``{from: 1, to: 0, schedule: linear, start: 0, end: 1}``."""
_FADING = {"from": None, "to": None, "schedule": "linear", "start": 0.0, "end": 1.0}


class DistillationLoss(nn.Module, ABC):
    """Base of distillation losses: a scalar, the mean over the batch, without its weight.

    All state between two calls is in its state dict and its optimisers.

    Args:
        weight: Weight of the loss in a sum, applied by the caller, or its schedule; see
            `weight_at`.

    Raises:
        ValueError: the weight is below 0 or not finite, its schedule is constant or ends before
            it starts, or an argument annotated with a ``Literal`` is none of its values.
    """

    arguments: dict[str, Any]
    """Arguments of its constructor by name, with defaults, as a recipe writes them."""

    covariance: CovarianceKind | None = None
    """Class statistics of the student that must be tracked for this loss; None for none."""

    momentum: float | None = None
    """Momentum of those statistics; None weights all pixels seen equally."""

    margin: bool = False
    """Whether the running median margin of the student's logits must be tracked for this loss."""

    image_by_image: bool = True
    """Whether the loss of a batch is the mean over its images, so that gradients may accumulate."""

    determines_classes: bool = True
    """Whether its minimum says which class a pixel is; if not, only labels can teach that."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """Record the arguments, which a loss may store under other names or not at all."""
        loss = super().__new__(cls)
        loss.__dict__["arguments"] = _recorded(cls, args, kwargs)
        return loss

    def __init__(self, weight: Weight = 1.0) -> None:
        super().__init__()
        if isinstance(weight, dict):
            weight = self.arguments["weight"] = _fading(weight)
        else:
            require_at_least(0, weight=weight)
        self.weight = weight
        for name, parameter in inspect.signature(type(self).__init__).parameters.items():
            if get_origin(parameter.annotation) is Literal:
                require_choice(name, self.arguments[name], parameter.annotation)

    def prepare(self, student: Segmenter, teacher: Segmenter) -> None:
        """Build what depends on the two networks, such as an alignment layer; called once.

        Parameters created here are trained with the student, unless one of `optimizers` has them.

        Raises:
            InputError: a network does not provide what the loss needs.
        """

    def weight_at(self, progress: float) -> float:
        r"""Compute the weight at a share of the training steps.

        .. math:: (1 - s) \cdot from + s \cdot to, \quad
            s = \min(\max(\tfrac{progress - start}{end - start}, 0), 1)

        With ``schedule: cosine``, :math:`(1 - \cos(\pi s)) / 2` replaces s.
        """
        if not isinstance(self.weight, dict):
            return self.weight
        first, last, schedule, start, end = self.weight.values()
        share = min(max((progress - start) / (end - start), 0.0), 1.0)
        if schedule == "cosine":
            share = (1 - math.cos(math.pi * share)) / 2
        return float((1 - share) * first + share * last)

    def fading(self, progress: float) -> dict[str, float]:
        """Return the current values of the weights that change over the run."""
        return {"weight": self.weight_at(progress)} if isinstance(self.weight, dict) else {}

    def over(self, progress: float) -> bool:
        """Return whether the weight has faded to 0, so that the teacher is no longer needed."""
        fades = self.weight if isinstance(self.weight, dict) else None
        return fades is not None and fades["to"] == 0 and progress >= fades["end"]

    @abstractmethod
    def forward(self, inputs: LossInputs) -> Float[Tensor, ""]:
        """Compute the loss in float32."""

    def terms(self, inputs: LossInputs) -> dict[str, Float[Tensor, ""]]:
        """Compute the unweighted parts that add up to the loss, by the name of their curve."""
        return {"distillation": self(inputs)}

    def after_step(self, inputs: LossInputs) -> dict[str, Float[Tensor, ""]]:
        """Train a critic after the student's step on ``inputs``; returns its losses by name."""
        return {}

    def optimizers(self) -> tuple[torch.optim.Optimizer, ...]:
        """List the optimisers that `after_step` uses, for the checkpoint."""
        return ()

    def measures(self, inputs: LossInputs) -> dict[str, Float[Tensor, ""]]:
        """Compute further quantities to log, by name; called only when they are logged."""
        return {}


def _fading(given: Mapping[str, Any]) -> dict[str, Any]:
    """Complete and check a weight's schedule, in the order of `_FADING`."""
    known, full = ", ".join(_FADING), {**_FADING, **given}
    if full.keys() != _FADING.keys() or None in full.values():
        raise ValueError(f"expected a fading weight with {known}, got {given}")
    require_choice("weight.schedule", full["schedule"], Literal["linear", "cosine"])
    for name in ("from", "to", "start", "end"):
        if type(full[name]) not in (int, float):
            raise ValueError(f"expected weight.{name} to be a number, got {full[name]!r}")
        require_at_least(0, **{f"weight.{name}": full[name]})
    if full["from"] == full["to"]:
        raise ValueError(
            f"expected a weight that changes, got {given}; give weight: {full['to']} instead"
        )
    if not full["start"] < full["end"] <= 1:
        raise ValueError(
            "expected weight.start below weight.end, both shares of the steps from 0 to 1, got "
            f"{full['start']} and {full['end']}"
        )
    return full


def _recorded(kind: type, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    signature = inspect.signature(kind.__init__)  # type: ignore[misc]
    try:
        # Partial, because a copy is created without arguments and then given its state.
        bound = signature.bind_partial(None, *args, **kwargs)
    except TypeError:
        return {}  # The constructor, called next, reports the error.
    bound.apply_defaults()
    arguments = dict(list(bound.arguments.items())[1:])
    for name, parameter in signature.parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            arguments |= arguments.pop(name)
    return arguments
