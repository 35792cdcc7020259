"""How long and how fast to train: settings, the learning rate of a step, the optimiser."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from fakd.errors import InputError


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


def build_optimizer(
    schedule: Schedule, network: nn.Module, beside: Iterable[nn.Parameter] = ()
) -> torch.optim.SGD:
    """Set up SGD over the network and what trains beside it, such as an alignment layer.

    Everything outside ``network.backbone`` learns ``head_multiplier`` times faster. A network
    without a backbone has one rate.
    """
    backbone = getattr(network, "backbone", None)
    slow = list(backbone.parameters()) if isinstance(backbone, nn.Module) else []
    known = {id(parameter) for parameter in slow}
    every = [*network.parameters(), *beside]
    fast = [parameter for parameter in every if id(parameter) not in known]
    groups = [
        {"params": [p for p in slow if p.requires_grad], "multiplier": 1.0},
        {
            "params": [p for p in fast if p.requires_grad],
            "multiplier": schedule.head_multiplier if slow else 1.0,
        },
    ]
    optimizer = torch.optim.SGD(
        [group for group in groups if group["params"]],
        lr=schedule.learning_rate,
        momentum=schedule.momentum,
        weight_decay=schedule.weight_decay,
    )
    if schedule.momentum:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                # PyTorch would copy the first gradient, whose memory layout need not be the
                # parameter's; rounding could then differ after a resume.
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every parameter group its share of the step's learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["multiplier"]
