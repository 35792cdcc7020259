"""Looking into a foreign network with one forward pass: which convolution makes its logits."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fakd.errors import InputError

Call = tuple[Tensor, Tensor]
"""What went into a module and what came out."""

TOLERANCE = 1e-4
"""Largest difference, relative to the largest logit, between the answer and a resized candidate."""


def find_classifier(network: nn.Module, name: str | None, side: int) -> tuple[str, nn.Conv2d]:
    """Return the convolution whose output is the network's answer before it is resized.

    Args:
        network: run once, in evaluation mode, on noise; left as it was.
        name: the convolution, if the caller knows; only its form is checked then.
        side: of the square image the network is tried on.

    Raises:
        InputError: there is no such convolution, or it is not linear per pixel.
    """
    modules = dict(network.named_modules())
    if name is not None:
        found = modules.get(name)
        if not isinstance(found, nn.Conv2d) or not is_classifier(found):
            convolutions = [key for key, value in modules.items() if isinstance(value, nn.Conv2d)]
            raise InputError(
                f"classifier '{name}' must be an ungrouped convolution that keeps the size, got "
                f"{found}; the last convolutions are {', '.join(convolutions[-4:])}"
            )
        return name, found
    candidates = {
        key: value
        for key, value in modules.items()
        if isinstance(value, nn.Conv2d) and is_classifier(value)
    }
    if not candidates:
        raise InputError(
            f"the network must end in an ungrouped convolution that keeps the size, got "
            f"{type(network).__name__} without any; wrap it in LogitsOnly"
        )
    images = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    images = images.to(next(iter(candidates.values())).weight)
    with evaluating(network), record(candidates) as calls:
        try:
            answer = logits_of(network(images))
        except (RuntimeError, ValueError, AssertionError) as error:
            if isinstance(error, InputError):
                raise
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InputError(
                f"the network must run on images of {side}x{side} pixels, got '{reason}'; give "
                "the side of an image it takes"
            ) from error
    for key, (_, output) in reversed(calls.items()):
        if agrees(output, answer):
            return key, candidates[key]
    raise InputError(
        f"the network must end in a convolution whose resized output is its answer "
        f"{tuple(answer.shape)}, and none of {', '.join(list(calls)[-4:])} is; give its name, or "
        "wrap the network in LogitsOnly"
    )


def is_classifier(convolution: nn.Conv2d) -> bool:
    """Tell whether a convolution is ungrouped and keeps the size of its input."""
    padding = convolution.padding
    spans = zip(convolution.kernel_size, convolution.dilation, strict=True)
    same = tuple(dilation * (size - 1) // 2 for size, dilation in spans)
    return (
        convolution.groups == 1
        and all(size % 2 == 1 for size in convolution.kernel_size)
        and set(convolution.stride) == {1}
        and padding in ("same", same)
        and convolution.padding_mode == "zeros"
    )


def logits_of(answer: Any) -> Tensor:
    """Find the logits in a network's answer: itself, ``out`` or ``logits`` of it."""
    found = answer
    if isinstance(answer, dict):
        found = answer.get("out", answer.get("logits"))
    elif not isinstance(answer, Tensor):
        found = getattr(answer, "logits", None)
    if isinstance(found, Tensor) and found.ndim == 4:
        return found
    raise InputError(
        "the network must answer with logits [batch, classes, height, width], a dictionary with "
        f"'out' or 'logits', or an object with .logits, got {type(answer).__name__}; wrap it in a "
        "module that returns its logits"
    )


def agrees(output: Tensor, answer: Tensor) -> bool:
    """Tell whether an answer is a convolution's output, perhaps resized."""
    if output.shape[:2] != answer.shape[:2]:
        return False
    limit = TOLERANCE * float(answer.abs().max())
    resized = [
        F.interpolate(output, answer.shape[-2:], mode=mode, align_corners=aligned)
        for mode, aligned in (("bilinear", False), ("bilinear", True), ("bicubic", False))
    ]
    resized.append(F.interpolate(output, answer.shape[-2:], mode="nearest"))
    return any(float((candidate - answer).abs().max()) <= limit for candidate in resized)


@contextmanager
def record(modules: dict[str, nn.Conv2d]) -> Iterator[dict[str, Call]]:
    """Collect what passes some modules inside the block, in the order of their last calls."""
    calls: dict[str, Call] = {}

    def hook(name: str, _: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        calls.pop(name, None)
        calls[name] = (inputs[0], output)

    handles = [
        module.register_forward_hook(partial(hook, name)) for name, module in modules.items()
    ]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Run the block without gradients and in evaluation mode, then restore every module's mode."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode
