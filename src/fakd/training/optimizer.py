"""The optimiser: parameter groups with their learning rates and weight decay."""

import difflib
import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from fakd.errors import InputError
from fakd.settings import Optimizer
from fakd.types import Segmenter

_NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
_POSITIONS = re.compile(r"pos_embed|position_embedding|position_bias_table|cls_token")
_BLOCKS = re.compile(r"(?:^|\.)(?:blocks?|layers?|stages?)\.(\d+)(?:\.(?:blocks?|layers?)\.(\d+))?")


def build_optimizer(
    settings: Optimizer, network: Segmenter, extra: Iterable[nn.Parameter] = ()
) -> torch.optim.Optimizer:
    """Set up the optimiser over the network and ``extra``, such as a loss's alignment layer.

    Every group has a ``multiplier`` on the learning rate of the step. ``extra`` uses the head's.
    Frozen parameters are left out.

    Raises:
        InputError: the optimiser or an argument is unknown, the network is frozen as a whole, or it
            has no such groups.
    """
    settings = settings.settled()
    kind = _class(settings)
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise InputError("expected weights to train, got a network with all weights frozen")
    groups = _groups(settings, network, [*extra])
    arguments = dict(settings.arguments)
    if settings.weight_decay is not None:
        arguments["weight_decay"] = settings.weight_decay
    takes = inspect.signature(kind).parameters
    fused = "fused" in takes and not {"fused", "foreach"} & arguments.keys()
    devices = {parameter.device.type for group in groups for parameter in group["params"]}
    if fused and devices == {"cuda"}:
        arguments["fused"] = True
    try:
        optimizer: torch.optim.Optimizer = kind(groups, **{"lr": 1e-3, **arguments})
    except Exception as error:
        # Optimisers index and compare their arguments before they validate them.
        raise InputError(f"optimizer {settings.kind} does not take {arguments}: {error}") from error
    if arguments.get("momentum") and isinstance(optimizer, torch.optim.SGD):
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                # PyTorch would clone the first gradient, whose memory layout may not be the
                # parameter's; rounding could then differ after a resume.
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of every group to ``rate`` times its multiplier."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["multiplier"]


def _class(settings: Optimizer) -> type[torch.optim.Optimizer]:
    known = {
        name: kind
        for name, kind in vars(torch.optim).items()
        if inspect.isclass(kind) and issubclass(kind, torch.optim.Optimizer)
    }
    for unfit in ("Optimizer", "LBFGS", "SparseAdam"):  # they need a closure, or sparse gradients
        known.pop(unfit, None)
    if settings.kind not in known:
        written = {name.lower(): name for name in known}
        nearest = difflib.get_close_matches(settings.kind.lower(), written, 1, 0.5)
        hint = f"did you mean {written[nearest[0]]}?" if nearest else f"known: {', '.join(known)}"
        raise InputError(f"optimizer.kind: there is no {settings.kind}; {hint}")
    kind = known[settings.kind]
    takes = inspect.signature(kind).parameters
    for name in settings.arguments:
        if name not in takes:
            nearest = difflib.get_close_matches(name, takes, 1, 0.5)
            hint = f"did you mean {nearest[0]}?" if nearest else f"it takes {', '.join(takes)}"
            raise InputError(f"optimizer.arguments: {settings.kind} has no {name}; {hint}")
        _require_like(takes[name], settings.arguments[name])
    return kind


def _require_like(parameter: inspect.Parameter, value: object) -> None:
    """Refuse a value of another kind than the parameter's default; PyTorch validates only a few.

    Raises:
        InputError: it is not a Boolean, a number or as many numbers, as the default is.
    """
    usual = parameter.default
    several = isinstance(usual, tuple)
    if isinstance(usual, bool) or "bool" in str(parameter.annotation):
        wanted, fits = "true or false", isinstance(value, bool) or (value is None and usual is None)
    elif several or isinstance(usual, int | float):
        values = value if several and isinstance(value, list | tuple) else [value]
        fits = all(isinstance(n, int | float) and not isinstance(n, bool) for n in values)
        wanted = f"{len(usual)} numbers" if several else "a number"
        fits = fits and (not several or len(values) == len(usual))
    else:
        return
    if not fits:
        raise InputError(f"optimizer.arguments: {parameter.name} must be {wanted}, got {value!r}")


def _groups(
    settings: Optimizer, network: Segmenter, extra: Sequence[nn.Parameter]
) -> list[dict[str, Any]]:
    """Group the trainable parameters by their factors on learning rate and weight decay."""
    parts = network.parameter_groups()
    if settings.head_multiplier != 1 and not {"backbone", "head"} <= parts.keys():
        raise InputError(
            f"optimizer.head_multiplier needs a network with separate backbone and head, and "
            f"{type(network).__name__} has only {', '.join(parts)}; leave it at 1"
        )
    factors = {"backbone": 1.0, "head": settings.head_multiplier}
    layers = _layer_factors(settings.layer_decay, network, parts)
    spared = set() if settings.decay_norms else _without_decay(network)
    spared |= set() if settings.decay_norms else {id(each) for each in extra if each.ndim <= 1}
    every = [(part, parameter) for part, each in parts.items() for parameter in each]
    every += [("head", parameter) for parameter in extra]
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for part, parameter in every:
        if parameter.requires_grad:
            factor = factors.get(part, 1.0) * layers.get(id(parameter), 1.0)
            groups.setdefault((factor, id(parameter) in spared), []).append(parameter)
    return [
        {"params": members, "multiplier": factor, **({"weight_decay": 0.0} if spare else {})}
        for (factor, spare), members in groups.items()
    ]


def _without_decay(network: nn.Module) -> set[int]:
    """Collect the ids of the parameters of norms, biases and position embeddings."""
    found = {
        id(parameter)
        for module in network.modules()
        if isinstance(module, _NORMS) or type(module).__name__.endswith("Norm")
        for parameter in module.parameters(recurse=False)
    }
    return found | {
        id(parameter)
        for name, parameter in network.named_parameters()
        if parameter.ndim <= 1 or _POSITIONS.search(name)
    }


def _layer_factors(
    decay: float | None, network: nn.Module, parts: Mapping[str, Sequence[nn.Parameter]]
) -> dict[int, float]:
    """Compute layer-wise factors: each backbone block gets ``decay`` times that of the next one."""
    if decay is None:
        return {}
    backbone = {id(parameter) for parameter in parts.get("backbone", ())}
    names = {id(p): name for name, p in network.named_parameters() if id(p) in backbone}
    found = {key: _BLOCKS.search(name) for key, name in names.items()}
    places = {key: (int(m[1]), int(m[2] or 0)) for key, m in found.items() if m}
    blocks = sorted(set(places.values()))
    if len(blocks) < 2:
        raise InputError(
            "optimizer.layer_decay needs a backbone of numbered blocks, as transformers have; "
            "leave it out"
        )
    depth = {place: len(blocks) - number for number, place in enumerate(blocks)}
    factors, reached = {}, False
    for key in names:
        # The patch embedding comes before all blocks, the last norm after them.
        reached = reached or key in places
        outside = 0 if reached else len(blocks) + 1
        factors[key] = decay ** (depth[places[key]] if key in places else outside)
    return factors
