"""The two contracts everything else meets: what a segmenter answers and what a loss may see.

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


class Prediction(NamedTuple):
    """What a segmenter saw and said, before any upsampling."""

    logits: Float[Tensor, "batch classes rows cols"]
    features: Float[Tensor, "batch channels rows cols"] | None = None
    """The final classifier's input, dropout included; None where only the logits are known."""
    auxiliary: Tensor | tuple[Tensor, ...] | None = None
    """Logits of the auxiliary head or heads, each on any grid; None where there is none."""


@runtime_checkable
class Classifier(Protocol):
    """The final linear layer, from features to logits; a convolution of odd size is one."""

    @property
    def weight(self) -> Float[Tensor, "classes channels size size"]:
        """What features are multiplied by; read anew at every step."""

    @property
    def in_channels(self) -> int:
        """Channels of the features."""


class Segmenter(nn.Module, ABC):
    """A network that classifies pixels: images in [0, 1] in, `Prediction` out.

    Every segmenter normalises its input for itself, so a teacher and a student that were trained
    with different statistics see the same images.
    """

    classes: int
    class_names: tuple[str, ...] | None = None
    palette: tuple[tuple[int, int, int], ...] | None = None
    """Names and colours that the weights came with; None if they came without."""
    extra: Mapping[str, Any] = MappingProxyType({})
    """What else the file of its weights says: step, score, how it was shown images."""
    remarks: tuple[str, ...] = ()
    """What its user should know before it is trained or asked."""
    opaque: str = ""
    """Why it shows no classifier; empty if it shows one, or nothing is known."""
    align_corners: bool = False
    """How its logits are meant to be enlarged to the image."""
    config: dict[str, Any] | None = None
    """How to build this architecture again: ``{"class_path": ..., "init_args": {...}}``, JSON."""
    origin: dict[str, Any] | None = None
    """How this very network came to be, its starting weights included; same form as `config`."""

    @abstractmethod
    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> Prediction:
        """Classify every position of the network's output grid."""

    @property
    @abstractmethod
    def classifier(self) -> Classifier | None:
        """The final linear layer, from features to logits; None if only logits are known."""

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Name what may learn at different rates: ``backbone``, then ``head``; or all ``network``.

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
    """Everything a distillation loss may look at, all on the student's output grid."""

    student: Prediction
    teacher: Prediction
    labels: Integer[Tensor, "batch rows cols"]
    """Class ids, nearest-resized; `IGNORE` where a pixel has none."""
    statistics: LogitStatistics | None = None
    """How the student's logits vary under feature augmentation; None if the loss asked for none."""
    progress: float = 0.0
    """Share of the training steps done, 0 to 1."""


ClassWeights = Literal["auto"] | Sequence[float] | None
"""One factor for each class, or auto for ones that follow from how rare the classes are."""


class ClassWeighing(nn.Module, ABC):
    """What may weigh classes, in a buffer: the task's loss, PD, CWD."""

    class_weights: Float[Tensor, " classes"] | None
    given_weights: ClassWeights

    def set_class_weights(self, name: str, given: ClassWeights, classes: int | None = None) -> None:
        """Take in what was given; automatic weights are 1 until `weigh` is told better.

        Raises:
            InputError: they are impossible, or not as many as classes where these are known.
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
        """Scale weights as their use asks for."""


Weight = float | dict[str, Any]
"""A loss's factor, or how it fades: ``{from: 1, to: 0, schedule: linear, start: 0, end: 1}``."""
_FADING = {"from": None, "to": None, "schedule": "linear", "start": 0.0, "end": 1.0}


class DistillationLoss(nn.Module, ABC):
    """A scalar that falls as the student nears the teacher; unweighted, mean over the batch.

    Between two calls it keeps nothing but what its state dict and its optimisers hold.

    Args:
        weight: The factor that whoever adds it up multiplies it by, or how it fades; see
            `weight_at`.

    Raises:
        ValueError: the weight is below 0 or not finite, it fades to where it began or ends before
            it starts, or an argument that is annotated with a ``Literal`` is none of its values.
    """

    arguments: dict[str, Any]
    """What its constructor was given, by name, defaults included: how a recipe writes it."""

    covariance: CovarianceKind | None = None
    """Which class statistics of the student must be tracked for this loss; None for none."""

    momentum: float | None = None
    """Exponential window of those statistics; None keeps everything ever seen."""

    margin: bool = False
    """Whether the running median margin of the student's logits must be tracked for this loss."""

    image_by_image: bool = True
    """Whether the loss of a batch is the mean over its images, so that a step may go in parts."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """Record the arguments, which a loss may keep under other names, or not at all."""
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

        Parameters made here train with the student, unless one of `optimizers` has them.

        Raises:
            InputError: a network does not show what the loss needs.
        """

    def weight_at(self, progress: float) -> float:
        r"""Compute the factor where so large a share of the training steps is done.

        .. math:: (1 - s) \cdot from + s \cdot to, \quad
            s = \min(\max(\tfrac{progress - start}{end - start}, 0), 1)

        With ``schedule: cosine``, :math:`(1 - \cos(\pi s)) / 2` takes the place of s.
        """
        if not isinstance(self.weight, dict):
            return self.weight
        first, last, schedule, start, end = self.weight.values()
        share = min(max((progress - start) / (end - start), 0.0), 1.0)
        if schedule == "cosine":
            share = (1 - math.cos(math.pi * share)) / 2
        return float((1 - share) * first + share * last)

    def fading(self, progress: float) -> dict[str, float]:
        """Name the factors that change over the run, and what they are now."""
        return {"weight": self.weight_at(progress)} if isinstance(self.weight, dict) else {}

    def over(self, progress: float) -> bool:
        """Tell whether the factor has faded to 0, and the teacher is of no more use."""
        fades = self.weight if isinstance(self.weight, dict) else None
        return fades is not None and fades["to"] == 0 and progress >= fades["end"]

    @abstractmethod
    def forward(self, inputs: LossInputs) -> Float[Tensor, ""]:
        """Compute the loss in float32."""

    def terms(self, inputs: LossInputs) -> dict[str, Float[Tensor, ""]]:
        """Compute the unweighted parts whose sum the loss is, by the name of their curve."""
        return {"distillation": self(inputs)}

    def after_step(self, inputs: LossInputs) -> dict[str, Float[Tensor, ""]]:
        """Train what opposes the student, once it has stepped on ``inputs``; its losses by name."""
        return {}

    def optimizers(self) -> tuple[torch.optim.Optimizer, ...]:
        """List the optimisers that `after_step` uses, for the checkpoint."""
        return ()

    def measures(self, inputs: LossInputs) -> dict[str, Float[Tensor, ""]]:
        """Quantities worth a curve beside the loss, by name; computed only when logged."""
        return {}


def _fading(given: Mapping[str, Any]) -> dict[str, Any]:
    """Fill in how a weight fades, in the order of `_FADING`, and refuse what cannot be meant."""
    known, full = ", ".join(_FADING), {**_FADING, **given}
    if full.keys() != _FADING.keys() or None in full.values():
        raise ValueError(f"expected a weight that fades to have {known}, got {given}")
    require_choice("weight.schedule", full["schedule"], Literal["linear", "cosine"])
    for name in ("from", "to", "start", "end"):
        if type(full[name]) not in (int, float):
            raise ValueError(f"expected weight.{name} to be a number, got {full[name]!r}")
        require_at_least(0, **{f"weight.{name}": full[name]})
    if full["from"] == full["to"]:
        raise ValueError(f"expected a weight that fades, got {given}; give weight: {full['to']}")
    if not full["start"] < full["end"] <= 1:
        raise ValueError(
            "expected weight.start below weight.end, both shares of the steps from 0 to 1, got "
            f"{full['start']} and {full['end']}"
        )
    return full


def _recorded(kind: type, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    signature = inspect.signature(kind.__init__)  # type: ignore[misc]
    try:
        # Partial, because a copy is made without arguments and then given its state.
        bound = signature.bind_partial(None, *args, **kwargs)
    except TypeError:
        return {}  # The constructor, which comes next, says what is wrong.
    bound.apply_defaults()
    arguments = dict(list(bound.arguments.items())[1:])
    for name, parameter in signature.parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            arguments |= arguments.pop(name)
    return arguments
