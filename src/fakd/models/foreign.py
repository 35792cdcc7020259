"""Anybody's network as a `Segmenter`: tapped at its last classifier, or for its logits only."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from fakd.errors import InputError
from fakd.models.normalize import IMAGENET_MEAN, IMAGENET_STD, Normalize
from fakd.specs import architecture, spec_of, written
from fakd.types import Prediction, Segmenter

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


class Tapped(Segmenter):
    """A network whose logits are a convolution of a feature, wherever in it that may be.

    What flows into the classifier is the feature, what flows out the logits, before the network's
    own upsampling. The network may answer with a tensor, a dictionary with ``out`` or ``logits``,
    or an object with ``.logits``; in training, ``aux`` of a dictionary is the auxiliary output.

    Args:
        network: the foreign network.
        classes: how many classes it must have; None takes what it has.
        classifier: the dotted name of the last convolution; None looks for the one whose output,
            resized, is what the network answers.
        backbone: the dotted name of the part that `Schedule.head_multiplier` does not speed up;
            None for all but the classifier.
        mean, std: what the network subtracts from and divides images in [0, 1] by.
        side: of the square image the network is tried on.
    """

    def __init__(
        self,
        network: nn.Module,
        classes: int | None = None,
        *,
        classifier: str | None = None,
        backbone: str | None = None,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        side: int = 128,
    ) -> None:
        super().__init__()
        self.normalize: nn.Module = Normalize(mean, std)
        self.network = network
        self.name, tap = find_classifier(network, classifier, side)
        self.classes = tap.out_channels
        if classes is not None and classes != self.classes:
            raise InputError(
                f"network must have {classes} classes, got {self.classes} from its classifier "
                f"'{self.name}'; change the class count or name another classifier"
            )
        if backbone is not None and backbone not in dict(network.named_modules()):
            parts = ", ".join(name for name, _ in network.named_children())
            raise InputError(f"there is no part {backbone!r} in the network; it has {parts}")
        self.slow = backbone
        self.calls: list[Call] = []
        tap.register_forward_hook(self.remember)
        if (inner := spec_of(network)) is not None:
            found: dict[str, Any] = {"classifier": self.name, "backbone": backbone}
            found |= {"mean": list(mean), "std": list(std)}
            self.config = written("fakd.models.adapt", network=architecture(inner), **found)
            self.origin = written("fakd.models.adapt", network=inner, **found)

    @property
    def classifier(self) -> nn.Conv2d:
        """The tapped convolution: of the features it makes the logits."""
        tap = self.network.get_submodule(self.name)
        if not isinstance(tap, nn.Conv2d):
            raise TypeError(f"classifier '{self.name}' must be a Conv2d, got {type(tap).__name__}")
        return tap

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Tell the backbone from the head: the classifier, or all but what was named backbone."""
        every = list(self.parameters())
        head = {id(parameter) for parameter in self.classifier.parameters()}
        if self.slow is not None:
            slow = {id(each) for each in self.network.get_submodule(self.slow).parameters()}
            head = {id(parameter) for parameter in every} - slow
        return {
            "backbone": [each for each in every if id(each) not in head],
            "head": [each for each in every if id(each) in head],
        }

    def remember(self, _: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """Keep what passed the classifier until `forward` takes it."""
        self.calls.append((inputs[0], output))

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> Prediction:
        """Run the foreign network and return what its classifier saw and said."""
        self.calls.clear()
        answer = self.network(self.normalize(images))
        features, logits = self.calls.pop()
        self.calls.clear()
        auxiliary = answer.get("aux") if self.training and isinstance(answer, dict) else None
        return Prediction(logits, features, auxiliary)


class LogitsOnly(Segmenter):
    """A teacher that is only a function from images to logits: an exported model, an ensemble.

    Distillation that needs its features or classifier cannot use it; what compares logits can.

    Args:
        function: images, normalised, to logits or to any answer `Tapped` understands.
        classes: how many classes it distinguishes.
        mean, std: what it expects images in [0, 1] to be normalised with.
    """

    def __init__(
        self,
        function: Callable[[Tensor], Any],
        classes: int,
        *,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        super().__init__()
        self.normalize: nn.Module = Normalize(mean, std)
        self.function = function
        self.classes = classes

    @property
    def classifier(self) -> None:
        """There is none to see."""
        return None

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> Prediction:
        """Return the function's logits."""
        logits = logits_of(self.function(self.normalize(images)))
        if logits.shape[1] != self.classes:
            raise InputError(
                f"teacher must give {self.classes} classes, got logits of shape "
                f"{tuple(logits.shape)}; correct the class count"
            )
        return Prediction(logits)


def adapt(
    network: Callable[[Tensor], Any],
    classes: int | None = None,
    *,
    classifier: str | None = None,
    backbone: str | None = None,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    side: int = 128,
) -> Segmenter:
    """Make a `Segmenter` of whatever is given.

    Args:
        network: a `Segmenter` (returned as it is), a module (`Tapped`), or a function
            (`LogitsOnly`, which needs ``classes``).
        classes: how many classes it must have.
        classifier: name of a module's last convolution, if it is not found.
        backbone: name of a module's part that learns at the plain rate where heads learn faster;
            all but the classifier if not given.
        mean: what the network subtracts from images in [0, 1], red, green, blue.
        std: what it then divides by.
        side: of the square image a module is tried on.
    """
    if isinstance(network, Segmenter):
        if classes is not None and network.classes != classes:
            raise InputError(f"network must have {classes} classes, got {network.classes}")
        return network
    if isinstance(network, nn.Module):
        names = {"classifier": classifier, "backbone": backbone}
        return Tapped(network, classes, **names, mean=mean, std=std, side=side)
    if classes is None:
        raise InputError("a function's class count must be given, got none; pass classes=...")
    return LogitsOnly(network, classes, mean=mean, std=std)
