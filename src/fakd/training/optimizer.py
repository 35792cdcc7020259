"""The optimiser: parameter groups and the learning rate of a step."""

from collections.abc import Iterable

import torch
from torch import nn

from fakd.settings import Schedule


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
