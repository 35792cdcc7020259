"""Probe a network: image sizes, location of the logits, and the layer that outputs them."""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fakd.errors import InputError
from fakd.models.foreign.answers import (
    Activation,
    activate,
    activation_of,
    find_logits,
    maps_in,
    queries_in,
)
from fakd.models.foreign.sizes import EVEN, Size, Sizes, find_sizes

Layer = nn.Conv2d | nn.Linear | nn.ConvTranspose2d
TOLERANCE = 1e-3
"""Largest difference between output and resized candidate, relative to the output's range."""
_AUXILIARY = re.compile(r"(^|[._])aux")
_PREFIXES = range(6)
"""Possible numbers of tokens before those of the image: class, distillation, registers."""
_RESIZED: Mapping[str, Mapping[str, Any]] = {
    "bilinear": {"mode": "bilinear", "align_corners": False},
    "corners": {"mode": "bilinear", "align_corners": True},
    "bicubic": {"mode": "bicubic", "align_corners": False},
    "nearest": {"mode": "nearest"},
}


@dataclass(frozen=True)
class Head:
    """The layer whose output is the logits."""

    name: str
    kind: str
    channels: int | None
    """Channels of the features it is applied to; None if it is not linear per position."""
    opaque: str = ""
    """Why feature augmentation through it is impossible; empty if it is possible."""
    prefix: int = 0
    """Tokens before those of the image."""


@dataclass(frozen=True)
class ProbedOutput:
    """Properties of a network's output, as found by probing."""

    place: str
    """Path of the logits, such as ``logits`` or ``decoder.0``; empty for the output itself."""
    channels: int
    channels_last: bool
    activation: Activation
    queries: bool
    """Whether it classifies masks."""
    enlarged: str
    """How the network upsamples its logits: bilinear, corners (aligned), bicubic or nearest."""
    sizes: Sizes
    stride: int | None
    """Image pixels per position of the logits; None if that is not a whole number."""
    head: Head | None
    auxiliary: tuple[str, ...]
    """Names of auxiliary heads, or paths of auxiliary logits in the output; both are trained."""
    extra: bool
    """Whether the auxiliary logits are in the output."""


def probe_output(
    network: nn.Module,
    run: Callable[[Tensor], Any],
    *,
    channels: int,
    side: Size | None = None,
    likely: tuple[Size, ...] = (),
    classifier: str | None = None,
    place: str | None = None,
) -> ProbedOutput:
    """Probe a network by running it on noise in evaluation mode; its state is restored afterwards.

    Args:
        network: the network whose layers are searched.
        run: runs it on images [1, channels, height, width].
        channels: channels of the images.
        side: the fixed size, if stated by the caller.
        likely: sizes that it may be designed for.
        classifier: name of the layer that outputs the logits, which is checked.
        place: path of the logits in the output.

    Raises:
        InputError: it does not run, does not return logits, or an argument contradicts the probing.
    """
    draw = torch.Generator().manual_seed(0)
    weight = next((p for p in network.parameters() if p.is_floating_point()), torch.zeros(1))

    def answer_at(size: Size) -> Any:
        # As normalised images are: what a network cuts off shows only where values are negative.
        return run(torch.randn(1, channels, *size, generator=draw).to(weight))

    found: dict[str, Any] = {}

    def grid_at(size: Size) -> Size:
        answer = answer_at(size)
        if (queries := queries_in(answer)) is not None:
            found.update(channels=queries[0].shape[-1] - 1, last=False)
            return _size(queries[1])
        _, main = find_logits(answer, place)
        last = _is_channels_last(main, size)
        found.update(channels=main.shape[-1 if last else 1], last=last)
        return _size(main.movedim(-1, 1) if last else main)

    with evaluating(network):
        sizes = find_sizes(grid_at, side, likely)
        size = sizes.fixed or (EVEN if sizes.multiple == 1 else _multiple_of(sizes.multiple))
        with _recording(network, found["channels"]) as (calls, beside):
            answer = answer_at(size)
    queries = queries_in(answer)
    if queries is not None:
        rows, _ = _size(queries[1])
        return ProbedOutput(
            "", found["channels"], False, "none", True, "bilinear", sizes,
            _whole(size[0], rows), None, (), False,
        )  # fmt: skip
    key, main = find_logits(answer, place)
    main = main.movedim(-1, 1) if found["last"] else main
    head, activation, enlarged, grid = _head(network, calls, main, classifier, size)
    stride = _whole(size[0], grid[0])
    if head is not None and head.kind == "linear" and sizes == Sizes() and stride is not None:
        # Pixels that do not fill a patch are ignored, even if logits are upsampled to the image.
        sizes = Sizes(stride)
    others = [k for k, v in maps_in(answer).items() if k != key and v.shape[1] == main.shape[1]]
    return ProbedOutput(
        key, main.shape[1], found["last"], activation, False, enlarged, sizes,
        stride, head, tuple(beside or others), not beside,
    )  # fmt: skip


def _multiple_of(number: int) -> Size:
    first = max(1, 64 // number) | 1
    return number * first, number * (first + 2)


def _size(maps: Tensor) -> Size:
    return maps.shape[-2], maps.shape[-1]


def _whole(side: int, cells: int) -> int | None:
    return side // cells if cells and side % cells == 0 else None


def _is_channels_last(main: Tensor, size: Size) -> bool:
    """Return whether channels come last, judged by which axes have the image's aspect ratio."""

    def fits(rows: int, cols: int) -> bool:
        return abs(rows * size[1] - cols * size[0]) <= max(size) + min(size)

    return not fits(*_size(main)) and fits(main.shape[1], main.shape[2])


def _head(
    network: nn.Module,
    calls: dict[str, Tensor],
    main: Tensor,
    claimed: str | None,
    size: Size,
) -> tuple[Head | None, Activation, str, Size]:
    """Find the layer whose output, resized and activated, equals the network's output."""
    modules = dict(network.named_modules())
    if claimed is not None and not isinstance(modules.get(claimed), Layer):
        layers = [name for name, module in modules.items() if isinstance(module, Layer)]
        raise InputError(
            f"classifier '{claimed}' must be a convolution or a linear layer of the network, got "
            f"{modules.get(claimed)}; the last ones are {', '.join(layers[-4:])}"
        )
    agreeing = []
    for name, output in reversed(calls.items()):
        for maps, prefix in _as_maps(output, modules[name], size):
            if (how := _agrees(maps, main)) is not None:
                agreeing.append((_describe_head(name, modules[name], prefix), *how, _size(maps)))
                break
    for head, activation, enlarged, grid in sorted(agreeing, key=lambda each: bool(each[0].opaque)):
        if claimed in (None, head.name):
            return head, activation, enlarged, grid
    if claimed is not None:
        instead = f"'{agreeing[0][0].name}' does" if agreeing else "no single layer does"
        raise InputError(
            f"classifier '{claimed}' does not output the logits, resized or not; {instead}; leave "
            "it out"
        )
    return None, activation_of(main), "bilinear", _size(main)


def _describe_head(name: str, layer: nn.Module, prefix: int) -> Head:
    if isinstance(layer, nn.Linear):
        return Head(name, "linear", layer.in_features, prefix=prefix)
    if isinstance(layer, nn.ConvTranspose2d):
        why = f"its last layer {name} is a transposed convolution, whose output has another grid"
        return Head(name, "transposed convolution", None, f"{why} than its features")
    if not isinstance(layer, nn.Conv2d):
        raise TypeError(f"expected a layer, got {type(layer).__name__}")
    kind = f"{layer.kernel_size[0]}x{layer.kernel_size[1]} convolution"
    if not keeps_size(layer):
        why = f"its last layer {name} is not an ungrouped convolution that keeps its input's size"
        return Head(name, kind, None, why)
    return Head(name, kind, layer.in_channels)


def keeps_size(layer: nn.Conv2d) -> bool:
    """Return whether a convolution is ungrouped and square, and keeps its input's size."""
    spans = zip(layer.kernel_size, layer.dilation, strict=True)
    same = tuple(dilation * (size - 1) // 2 for size, dilation in spans)
    return (
        layer.groups == 1
        and layer.kernel_size[0] == layer.kernel_size[1]
        and layer.kernel_size[0] % 2 == 1
        and set(layer.stride) == {1}
        and (set(layer.dilation) == {1} or layer.kernel_size == (1, 1))
        and layer.padding in ("same", same)
        and layer.padding_mode == "zeros"
    )


def _as_maps(output: Tensor, layer: nn.Module, size: Size) -> Iterator[tuple[Tensor, int]]:
    """Interpret a layer's output as maps [batch, classes, rows, cols] in all possible ways."""
    if not isinstance(layer, nn.Linear):
        yield output, 0
        return
    for prefix in _PREFIXES:
        if (maps := tokens_to_map(output, size, prefix)) is not None:
            yield maps, prefix


def tokens_to_map(tokens: Tensor, size: Size, prefix: int) -> Tensor | None:
    """Arrange tokens [batch, prefix + rows * cols, channels] on a grid with the image's shape.

    Channels-last maps are only transposed. None if the tokens do not fill a grid.
    """
    if tokens.ndim == 4:
        return tokens.movedim(-1, 1) if prefix == 0 else None
    count = tokens.shape[1] - prefix if tokens.ndim == 3 else 0
    rows = round((count * size[0] / size[1]) ** 0.5) if count > 0 else 0
    for cells in (rows, rows - 1, rows + 1):
        if cells > 0 and count % cells == 0:
            return tokens[:, prefix:].mT.reshape(len(tokens), -1, cells, count // cells)
    return None


def _agrees(output: Tensor, answer: Tensor) -> tuple[Activation, str] | None:
    """Find the activation and resizing from a layer's output to the answer; None if none fits."""
    # No layer outputs infinity: it was put in behind the last one.
    if output.ndim != 4 or output.shape[:2] != answer.shape[:2] or not answer.isfinite().all():
        return None
    output, answer = output.double(), answer.double()
    limit = TOLERANCE * float(answer.max() - answer.min())
    limit += 1e-6 * float(answer.abs().max())
    size = answer.shape[-2:]
    kinds: tuple[Activation, ...] = ("none", "softmax", "log-softmax", "sigmoid")
    for kind in kinds:
        for name, how in _RESIZED.items():
            for resized in (
                activate(F.interpolate(output, size, **how), kind),
                F.interpolate(activate(output, kind), size, **how),
            ):
                if float((resized - answer).abs().max()) <= limit:
                    return kind, name
    return None


@contextmanager
def _recording(network: nn.Module, classes: int) -> Iterator[tuple[dict[str, Tensor], list[str]]]:
    """Record the outputs of layers with ``classes`` channels, in the order of their last calls.

    Also record the names of auxiliary heads that output maps with ``classes`` channels.
    """
    calls: dict[str, Tensor] = {}
    beside: list[str] = []

    def keep(name: str, module: nn.Module, _: Any, output: Any) -> None:
        axis = -1 if isinstance(module, nn.Linear) else 1
        if isinstance(output, Tensor) and output.ndim > 2 and output.shape[axis] == classes:
            calls.pop(name, None)
            calls[name] = output

    def note(name: str, _module: nn.Module, _: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and output.shape[1] == classes:
            beside.append(name)

    handles = []
    for name, module in network.named_modules():
        if isinstance(module, Layer):
            handles.append(module.register_forward_hook(partial(keep, name)))
        parent = name.rpartition(".")[0]
        if _AUXILIARY.search(name) and not _AUXILIARY.search(parent):
            handles.append(module.register_forward_hook(partial(note, name)))
    try:
        yield calls, beside
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Run the block without gradients and in evaluation mode, then restore every module's mode."""
    modes = {module: module.training for _, module in network.named_modules()}
    network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode
