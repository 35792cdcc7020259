"""The settings of commands: plain values, which every recipe holds."""

import math
from dataclasses import dataclass, field
from typing import Literal

from fakd.errors import InputError

IGNORE = -1
"""The label of a pixel without a class."""
Average = Literal["valid", "all"]
"""What the cross-entropy is divided by: the labelled pixels, or all of them."""
Broken = Literal["stop", "skip"]
"""What to do about a training image that cannot be read."""
Existing = Literal["refuse", "reuse", "overwrite"]
"""What to do where a finished run already is."""


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train.

    Args:
        steps: optimiser steps; training is counted in steps, not epochs.
        batch_size: images per step, over all devices together.
        learning_rate: of SGD at the first step after the warm-up.
        momentum: of SGD.
        weight_decay: L2 penalty on every parameter.
        power: the learning rate falls as (1 - step/steps)^power.
        minimum_learning_rate: where it falls to.
        warmup: steps in which the learning rate rises linearly from near 0.
        head_multiplier: the heads learn this many times faster than the backbone.
        clip: largest gradient norm; none clips nothing.
    """

    steps: int = 1000
    batch_size: int = 8
    learning_rate: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4
    power: float = 0.9
    minimum_learning_rate: float = 0.0
    warmup: int = 0
    head_multiplier: float = 1.0
    clip: float | None = None

    def __post_init__(self) -> None:
        """Refuse values no training can be run with."""
        for name in ("steps", "batch_size"):
            if getattr(self, name) < 1:
                raise InputError(
                    f"expected schedule.{name} of at least 1, got {getattr(self, name)}"
                )
        if not self.learning_rate > 0:
            raise InputError(f"expected schedule.learning_rate above 0, got {self.learning_rate}")
        if not 0 <= self.warmup < self.steps:
            raise InputError(
                f"expected schedule.warmup between 0 and schedule.steps ({self.steps}), "
                f"got {self.warmup}"
            )
        if self.clip is not None and not self.clip > 0:
            raise InputError(f"expected schedule.clip above 0 or none, got {self.clip}")

    def learning_rate_at(self, step: int) -> float:
        """Compute the learning rate of a step, counted from 0: linear warm-up, then poly decay."""
        decay: float = (1 - step / self.steps) ** self.power
        span = self.learning_rate - self.minimum_learning_rate
        rate = span * decay + self.minimum_learning_rate
        if step < self.warmup:
            rate *= (step + 1) / (self.warmup + 1)
        return rate


@dataclass(frozen=True)
class Augmentation:
    """How training samples vary.

    Args:
        crop: Height and width of what is cut out; smaller images are padded to it.
        scale: Range of the random factor on the image's size, its proportions kept.
        flip: Probability of a mirror image.
        photometric: Vary brightness, contrast, saturation and hue.
        largest_class: Redraw a crop in which one class has at least this share of the labelled
            pixels, up to ten times; 1 takes the first.
        base: Long and short side that images are fitted into before scaling; None keeps each
            image's own size.
    """

    crop: tuple[int, int] = (512, 512)
    scale: tuple[float, float] = (0.5, 2.0)
    flip: float = 0.5
    photometric: bool = True
    largest_class: float = 0.75
    base: tuple[int, int] | None = None

    def __post_init__(self) -> None:
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
    """How an image is shown to the network.

    Args:
        scale: resize the image by this factor first; the result has the original size again.
        window: side of square windows that slide over the (resized) image; none sees it whole.
        stride: distance between windows; two thirds of the window if not given.
        base: long and short side that the image is fitted into, before scaling, its proportions
            kept; none keeps its own size.
        flip: average the class probabilities of the image and its mirror image.
        scales: average the class probabilities over these further factors on the size.
    """

    scale: float = 1.0
    window: int | None = None
    stride: int | None = None
    base: tuple[int, int] | None = None
    flip: bool = False
    scales: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        """Refuse values that no image could be shown with."""
        if not 0 < self.scale < math.inf:
            raise InputError(f"expected inference.scale above 0, got {self.scale}")
        if not self.scales or not all(0 < factor < math.inf for factor in self.scales):
            raise InputError(f"expected inference.scales to be factors above 0, got {self.scales}")
        if self.window is None and self.stride is not None:
            raise InputError("inference.stride needs inference.window; give both or neither")
        for name, value in (("window", self.window), ("stride", self.stride)):
            if value is not None and value < 1:
                raise InputError(f"expected inference.{name} of at least 1 pixel, got {value}")
        if self.window is not None and (self.stride or 0) > self.window:
            raise InputError(
                f"expected inference.stride of at most the window's {self.window} pixels, got "
                f"{self.stride}; no window would see what lies between"
            )
        if self.base is not None and min(self.base) < 1:
            raise InputError(f"expected inference.base to be two sides, got {self.base}")

    @property
    def averages(self) -> bool:
        """Whether several views of an image are averaged."""
        return self.flip or len(self.scales) > 1

    def size(self, image: tuple[int, int], factor: float = 1.0) -> tuple[int, int]:
        """Tell at which height and width an image is shown, times one of the `scales`."""
        if self.base is not None:
            return fitted_size(image, self.base, self.scale * factor)
        height, width = (max(int(side * self.scale * factor + 0.5), 1) for side in image)
        return height, width


@dataclass(frozen=True)
class Hardware:
    """Where and how to compute.

    Args:
        accelerator: cpu, cuda, mps, or auto for the best one present.
        devices: how many; each takes its share of the batch.
        precision: 32-true, or bf16-mixed for networks in bfloat16 (losses stay in float32).
        channels_last: memory layout that most convolutions prefer.
        workers: processes that decode and augment; 0 does it in the training process.
        threads: CPU threads per process; PyTorch decides if not given.
        cache: GiB of memory in which decoded samples are kept, shared out among all worker
            processes of the run; 0 keeps none.
    """

    accelerator: str = "auto"
    devices: int = 1
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    channels_last: bool = True
    workers: int = 0
    threads: int | None = None
    cache: float = 2.0

    def __post_init__(self) -> None:
        """Refuse counts that mean nothing."""
        if not 0 <= self.cache < math.inf:
            raise InputError(
                f"expected hardware.cache of at least 0 GiB, got {self.cache}; 0 keeps nothing"
            )
        if self.devices < 1 or self.workers < 0 or (self.threads is not None and self.threads < 1):
            raise InputError(
                "expected hardware.devices and hardware.threads of at least 1 and "
                f"hardware.workers of at least 0, got {self}"
            )


@dataclass(frozen=True)
class Intervals:
    """How often a run logs, saves and evaluates.

    Args:
        log: steps between two logged rows.
        save: steps between two checkpoints; a killed run loses at most these.
        evaluate: steps between two evaluations; a tenth of the run if not given, always at the end.
    """

    log: int = 10
    save: int = 100
    evaluate: int | None = None

    def __post_init__(self) -> None:
        """Refuse intervals below one step."""
        for name in ("log", "save", "evaluate"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"expected intervals.{name} of at least 1 step, got {value}")


@dataclass(frozen=True)
class Settings:
    """Everything about a run but the network, the data and what is minimised."""

    schedule: Schedule = field(default_factory=Schedule)
    augmentation: Augmentation = field(default_factory=Augmentation)
    inference: Inference = field(default_factory=Inference)
    hardware: Hardware = field(default_factory=Hardware)
    intervals: Intervals = field(default_factory=Intervals)
    seed: int = 0
    broken: Broken = "stop"


def fitted_size(size: tuple[int, int], base: tuple[int, int], factor: float) -> tuple[int, int]:
    """Fit height and width into the scaled long and short side of ``base``, proportions kept."""
    long, short = int(max(base) * factor), int(min(base) * factor)
    fitted = min(long / max(size), short / min(size))
    height, width = (max(int(side * fitted + 0.5), 1) for side in size)
    return height, width
