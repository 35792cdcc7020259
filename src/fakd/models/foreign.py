"""Anybody's network as a `Segmenter`: tapped at its last classifier, or for its logits only."""

from collections.abc import Callable, Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from fakd.errors import InputError
from fakd.models.normalize import IMAGENET_MEAN, IMAGENET_STD, Normalize
from fakd.models.probe import Call, find_classifier, logits_of
from fakd.types import Prediction, Segmenter


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
        mean, std: what the network subtracts from and divides images in [0, 1] by.
        side: of the square image the network is tried on.
    """

    def __init__(
        self,
        network: nn.Module,
        classes: int | None = None,
        *,
        classifier: str | None = None,
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
        self.calls: list[Call] = []
        tap.register_forward_hook(self.remember)

    @property
    def classifier(self) -> nn.Conv2d:
        """The tapped convolution: of the features it makes the logits."""
        tap = self.network.get_submodule(self.name)
        if not isinstance(tap, nn.Conv2d):
            raise TypeError(f"classifier '{self.name}' must be a Conv2d, got {type(tap).__name__}")
        return tap

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
        mean: what the network subtracts from images in [0, 1], red, green, blue.
        std: what it then divides by.
        side: of the square image a module is tried on.
    """
    if isinstance(network, Segmenter):
        if classes is not None and network.classes != classes:
            raise InputError(f"network must have {classes} classes, got {network.classes}")
        return network
    if isinstance(network, nn.Module):
        return Tapped(network, classes, classifier=classifier, mean=mean, std=std, side=side)
    if classes is None:
        raise InputError("a function's class count must be given, got none; pass classes=...")
    return LogitsOnly(network, classes, mean=mean, std=std)
