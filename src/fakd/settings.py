"""The settings of commands, stored in every recipe."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from fakd.errors import (
    InputError,
    is_count,
    is_positive,
    is_weight,
    require_class_weights,
    require_each,
)
from fakd.hardware import Hardware as Hardware
from fakd.sizes import fitted_size
from fakd.specs import is_spec

_MOST_SCALE = 1000
"""The largest factor by which images are resized; sizes beyond would not fit into a float."""
IGNORE = -1
"""The label of a pixel without a class."""
Average = Literal["valid", "all"]
"""Denominator of the cross-entropy: the labelled pixels, or all pixels."""
Broken = Literal["stop", "skip"]
"""What to do with an unreadable training image."""
Existing = Literal["refuse", "reuse", "overwrite", "extend"]
"""What to do with a finished run in the folder."""


@dataclass(frozen=True)
class Schedule:
    """Steps, batch size and learning rate.

    Args:
        steps: optimiser steps.
        epochs: passes over the training images, instead of steps.
        batch_size: images per step, over all devices together.
        accumulate: parts into which each device splits its share of a batch, to save memory;
            gradients are unchanged for losses that are means over images.
        unlabelled_share: share of unlabelled images in each batch; by default all images are drawn
            equally often.
        rare: temperature of rare class sampling (DAFormer), such as 0.01: images with rare classes
            are drawn more often. Classes come from the labels, or else from the teacher, which is
            run on every unlabelled image first.
        learning_rate: its peak; by default 0.01 for SGD and 0.0001 for all else.
        shape: learning rate schedule: poly is (1 - step/steps)^power, cosine half a wave, constant
            no decay; one-cycle rises over three tenths of the steps and falls again.
        power: exponent of poly.
        minimum_learning_rate: final learning rate.
        warmup: steps over which the learning rate rises linearly from near 0.
        clip: maximum norm of the gradient; None for no clipping.
        clip_value: maximum absolute value of each gradient entry; None for no clipping.
    """

    steps: int = 1000
    epochs: float | None = None
    batch_size: int = 8
    accumulate: int = 1
    learning_rate: float | None = None
    shape: Literal["poly", "cosine", "constant", "one-cycle"] = "poly"
    power: float = 0.9
    minimum_learning_rate: float = 0.0
    warmup: int = 0
    clip: float | None = None
    clip_value: float | None = None
    unlabelled_share: float | None = None
    rare: float | None = None

    def __post_init__(self) -> None:
        numbers = ("steps", "batch_size", "accumulate")
        require_each(self, "schedule", is_count, "of at least 1", *numbers)
        require_each(self, "schedule", lambda n: n <= 10**9, "of at most a billion", *numbers)
        names = ("epochs", "learning_rate", "power", "clip", "clip_value", "rare")
        require_each(self, "schedule", is_positive, "above 0", *names)
        if self.epochs is not None and self.steps != Schedule.steps:
            raise InputError("expected schedule.steps or schedule.epochs, got both; give one")
        require_each(self, "schedule", lambda n: 0 <= n <= 1, "from 0 to 1", "unlabelled_share")
        if not 0 <= self.warmup < self.steps:
            raise InputError(
                f"expected schedule.warmup between 0 and schedule.steps ({self.steps}), "
                f"got {self.warmup}"
            )
        if self.shape == "one-cycle" and self.warmup:
            raise InputError("one-cycle includes a warm-up; leave out schedule.warmup")
        if not 0 <= self.minimum_learning_rate <= (self.learning_rate or math.inf):
            raise InputError(
                "expected schedule.minimum_learning_rate between 0 and schedule.learning_rate, "
                f"got {self.minimum_learning_rate}"
            )

    def settled(self, images: int, optimizer: "Optimizer") -> "Schedule":
        """Convert epochs over ``images`` images to steps, and fill in the default learning rate."""
        steps = self.steps
        if self.epochs is not None:
            steps = max(1, math.ceil(self.epochs * images / self.batch_size))
        rate = self.learning_rate or (0.01 if optimizer.kind == "SGD" else 1e-4)
        return replace(self, steps=steps, epochs=None, learning_rate=rate)

    def learning_rate_at(self, step: int) -> float:
        """Compute the learning rate of a step, counted from 0: linear warm-up, then the shape."""
        if self.learning_rate is None:
            raise ValueError("expected a schedule with learning rate, got one before settled()")
        done = step / self.steps
        if self.shape == "one-cycle":
            rising = 0.3
            done = 1 - done / rising if done < rising else (done - rising) / (1 - rising)
        decay: float = {
            "poly": (1 - done) ** self.power,
            "constant": 1.0,
        }.get(self.shape, (1 + math.cos(math.pi * done)) / 2)
        span = self.learning_rate - self.minimum_learning_rate
        rate = span * decay + self.minimum_learning_rate
        if step < self.warmup:
            rate *= (step + 1) / (self.warmup + 1)
        return rate


@dataclass(frozen=True)
class Optimizer:
    """The optimiser and its arguments.

    Args:
        kind: a class of torch.optim, such as SGD or AdamW.
        weight_decay: 0.0005 for SGD, else the class's own by default.
        decay_norms: whether weight decay also applies to norms, biases and position embeddings.
        head_multiplier: learning rate of the heads relative to the backbone.
        layer_decay: learning rate of each transformer block relative to the next one.
        arguments: other arguments of the class, for example {betas: [0.9, 0.98]}; SGD has a
            momentum of 0.9 by default.
    """

    kind: str = "SGD"
    weight_decay: float | None = None
    decay_norms: bool = True
    head_multiplier: float = 1.0
    layer_decay: float | None = None
    arguments: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse invalid values."""
        require_each(self, "optimizer", is_weight, "of at least 0", "weight_decay")
        require_each(self, "optimizer", is_positive, "above 0", "head_multiplier")
        require_each(self, "optimizer", lambda n: 0 < n < 1, "between 0 and 1", "layer_decay")
        if taken := {"params", "lr", "weight_decay"} & set(self.arguments):
            raise InputError(
                f"optimizer.arguments: there is no {', '.join(sorted(taken))}; set "
                "schedule.learning_rate and optimizer.weight_decay; params is the network"
            )

    def settled(self) -> "Optimizer":
        """Fill in SGD's defaults; a separate step, since flags may still change the kind."""
        if self.kind != "SGD":
            return self
        decay = 5e-4 if self.weight_decay is None else self.weight_decay
        return replace(self, weight_decay=decay, arguments={"momentum": 0.9, **self.arguments})


@dataclass(frozen=True)
class Augmentation:
    """Random changes of training images.

    Args:
        crop: Height and width of the crop; smaller images are padded to it.
        scale: Range of the random scale factor; the aspect ratio is kept.
        flip: Probability of a horizontal flip.
        photometric: Vary brightness, contrast, saturation and hue.
        largest_class: Redraw a crop in which one class has at least this share of the labelled
            pixels, up to ten times; 1 keeps the first.
        base: Long and short side that images are fitted into before scaling; None keeps each
            image's own size.
        rotation: Largest angle in degrees, either way; corners get the mean colour and no class.
        mix: Paste a part of another image of the batch, with its labels: a rectangle (cutmix) or
            half of its classes (classmix).
        mix_probability: Share of images into which another is pasted.
        extra: An additional colour transform: class_path and init_args of one of
            torchvision.transforms.v2, or of your own, that takes 8-bit images.
    """

    crop: tuple[int, int] = (512, 512)
    scale: tuple[float, float] = (0.5, 2.0)
    flip: float = 0.5
    photometric: bool = True
    largest_class: float = 0.75
    base: tuple[int, int] | None = None
    rotation: float = 0.0
    mix: Literal["cutmix", "classmix"] | None = None
    mix_probability: float = 0.5
    # With dict[str, Any] the parser would instantiate class paths.
    extra: dict | None = None

    def __post_init__(self) -> None:
        name = "augmentation"
        require_each(self, name, lambda n: 0 <= n <= 180, "from 0 to 180 degrees", "rotation")
        require_each(self, name, lambda n: 0 < n <= 1, "above 0 and up to 1", "mix_probability")
        require_each(self, name, is_spec, "as {class_path: ..., init_args: {...}}", "extra")
        if self.mix is None and self.mix_probability != Augmentation.mix_probability:
            raise InputError("augmentation.mix_probability needs augmentation.mix; give both")
        if min(self.crop) < 1:
            raise InputError(f"crop must be height and width of at least 1, got {self.crop}")
        if not 0 < self.scale[0] <= self.scale[1] < math.inf:
            raise InputError(f"scale must be a smaller and a larger factor, got {self.scale}")
        for name, value in (("flip", self.flip), ("largest_class", self.largest_class)):
            if not 0 <= value <= 1:
                raise InputError(f"{name} must lie between 0 and 1, got {value}")
        if self.base is not None and min(self.base) < 1:
            raise InputError(f"base must be two sides of at least 1, got {self.base}")


@dataclass(frozen=True)
class Inference:
    """How a network is applied to an image.

    Args:
        scale: resize the image by this factor first; the prediction has the original size.
        window: side of square sliding windows over the (resized) image; None for the whole image.
        stride: distance between windows; by default two thirds of the window.
        blend: weight windows less towards their borders where they overlap, instead of equally.
        base: long and short side that the image is fitted into before scaling, keeping its aspect
            ratio; None keeps its own size.
        flip: average the class probabilities of the image and its horizontal flip.
        scales: average the class probabilities over these additional scale factors.
        batch_size: images of one size per forward pass in evaluation and prediction; changes only
            rounding and memory.
    """

    scale: float = 1.0
    window: int | None = None
    stride: int | None = None
    blend: bool = False
    base: tuple[int, int] | None = None
    flip: bool = False
    scales: tuple[float, ...] = (1.0,)
    batch_size: int = field(default=1, compare=False)

    def __post_init__(self) -> None:
        wanted = f"above 0, at most {_MOST_SCALE:,}"
        require_each(self, "inference", lambda n: 0 < n <= _MOST_SCALE, wanted, "scale")
        require_each(self, "inference", is_count, "of at least 1", "batch_size")
        if not self.scales or not all(0 < factor <= _MOST_SCALE for factor in self.scales):
            raise InputError(f"expected inference.scales to be factors {wanted}, got {self.scales}")
        if self.window is None and self.stride is not None:
            raise InputError("inference.stride needs inference.window; give both or neither")
        require_each(self, "inference", is_count, "of at least 1 pixel", "window", "stride")
        if self.window is not None and (self.stride or 0) > self.window:
            raise InputError(
                f"expected inference.stride of at most the window's {self.window} pixels, got "
                f"{self.stride}, which leaves gaps between windows"
            )
        if self.base is not None and min(self.base) < 1:
            raise InputError(f"expected inference.base to be two sides, got {self.base}")

    @classmethod
    def from_stored(cls, stored: Mapping[str, Any]) -> "Inference":
        """Read settings from a file: lists become tuples, and unknown names are left out."""
        known = {each.name: stored[each.name] for each in fields(cls) if each.name in stored}
        lists = {key: tuple(each) for key, each in known.items() if isinstance(each, list)}
        return cls(**{**known, **lists})

    def views(self) -> dict[str, Any]:
        """Return all settings that change more than rounding, as stored in files."""
        return {each.name: getattr(self, each.name) for each in fields(self) if each.compare}

    @property
    def averages(self) -> bool:
        """Whether several views of an image are averaged."""
        return self.flip or len(self.scales) > 1

    def size(self, image: tuple[int, int], factor: float = 1.0) -> tuple[int, int]:
        """Compute the height and width of the network's input, times one of the `scales`."""
        if self.base is not None:
            return fitted_size(image, self.base, self.scale * factor)
        height, width = (max(int(side * self.scale * factor + 0.5), 1) for side in image)
        return height, width


InferenceOverrides = Inference | Mapping[str, Any] | None
"""All settings; or some by name, the others being as in the network's training."""


@dataclass(frozen=True)
class Intervals:
    """How often a run logs, saves and evaluates.

    Args:
        log: steps between two logged rows.
        save: steps between two checkpoints; a killed run loses at most this many.
        evaluate: steps between two evaluations; by default a tenth of the run, and always at the
            end.
    """

    log: int = 10
    save: int = 100
    evaluate: int | None = None

    def __post_init__(self) -> None:
        require_each(self, "intervals", is_count, "of at least 1 step", "log", "save", "evaluate")


@dataclass(frozen=True)
class Task:
    """The task loss, on labels.

    Args:
        auxiliary_weight: weight of the auxiliary head's cross-entropy.
        average: divide the cross-entropy by the labelled pixels (valid), or by all pixels as
            mmsegmentation 0.x did.
        class_weights: weight of each class in the cross-entropy: auto, from the class frequencies
            in the training images, or one number per class.
        label_smoothing: share of each label that is spread evenly over all classes.
        hardest: use only pixels whose own class has a probability below this, such as 0.7, but at
            least a sixteenth of them (OHEM).
        dice: weight of the Dice loss, added to the cross-entropy.
        lovasz: weight of the Lovász-Softmax loss, which sorts all pixels for each class.
        confidence: minimum probability of the teacher's class for it to count as that of an
            unlabelled pixel.
    """

    auxiliary_weight: float = 0.4
    average: Average = "valid"
    class_weights: Literal["auto"] | tuple[float, ...] | None = None
    label_smoothing: float = 0.0
    hardest: float | None = None
    dice: float = 0.0
    lovasz: float = 0.0
    confidence: float = 0.5

    def __post_init__(self) -> None:
        require_each(self, "task", is_weight, "of at least 0", "auxiliary_weight", "dice", "lovasz")
        require_each(
            self, "task", lambda n: 0 <= n < 1, "from 0 to below 1", "label_smoothing", "confidence"
        )
        require_each(self, "task", lambda n: 0 < n <= 1, "above 0 and up to 1", "hardest")
        require_class_weights("task.class_weights", self.class_weights)


@dataclass(frozen=True)
class Freeze:
    """Which weights are not trained; their batch norm statistics are frozen too.

    Args:
        names: parts of the network by their dotted names, such as backbone or backbone.layer1; *
            matches anything.
        until: the step at which they are unfrozen.
    """

    names: tuple[str, ...] = ()
    until: int | None = None

    def __post_init__(self) -> None:
        if self.until is not None and (self.until < 1 or not self.names):
            raise InputError(
                "expected freeze.until of at least 1 step, and freeze.names to unfreeze, got "
                f"{self.until} and {self.names}"
            )


@dataclass(frozen=True)
class Stopping:
    """When a run stops before its last step.

    Args:
        patience: evaluations without a better mIoU.
        minutes: training time, without evaluation and saving.
    """

    patience: int | None = None
    minutes: float | None = None

    def __post_init__(self) -> None:
        require_each(self, "stopping", is_positive, "above 0", "patience", "minutes")


@dataclass(frozen=True)
class Settings:
    """All settings of a run except the network, the data and the losses."""

    schedule: Schedule = field(default_factory=Schedule)
    optimizer: Optimizer = field(default_factory=Optimizer)
    augmentation: Augmentation = field(default_factory=Augmentation)
    inference: Inference = field(default_factory=Inference)
    hardware: Hardware = field(default_factory=Hardware)
    intervals: Intervals = field(default_factory=Intervals)
    freeze: Freeze = field(default_factory=Freeze)
    stopping: Stopping = field(default_factory=Stopping)
    ema: float | None = None
    seed: int = 0
    broken: Broken = "stop"

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> "Settings":
        """Collect the settings among a command's arguments."""
        return cls(**{each.name: given[each.name] for each in fields(cls)})
