"""An external network as a `Segmenter`: converts its inputs and extracts logits and features."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fakd.errors import InputError
from fakd.models.foreign.answers import (
    class_scores,
    find_logits,
    invert_activation,
    maps_in,
    queries_in,
    two_classes,
)
from fakd.models.foreign.libraries import NetworkMetadata, Order
from fakd.models.foreign.probe import ProbedOutput, tokens_to_map
from fakd.models.foreign.sizes import FittedImages, crop
from fakd.models.normalize import Normalize
from fakd.types import Classifier, Prediction, Segmenter

_LUMA = (0.299, 0.587, 0.114)
"""Luma weights of red, green and blue (ITU-R BT.601), for networks that take grey images."""


@dataclass(frozen=True)
class Probe:
    """Properties of an external network, as found by probing."""

    library: str
    name: str
    parameters: int
    classes: int
    classifier: str | None
    """Name of the layer that outputs the logits; None if there is none."""
    kind: str
    """Type of that layer, or else ``queries and masks`` or ``unknown``."""
    features: int | None
    """Channels of its input; None if unknown."""
    opaque: str
    """Why feature augmentation through the classifier is impossible; empty if it is possible."""
    channels: int
    """Channels of the images that it takes."""
    order: Order
    mean: tuple[float, ...]
    std: tuple[float, ...]
    told_by: str
    """Source of mean and standard deviation."""
    sizes: str
    stride: int | None
    activation: str
    """Final activation, which is undone: none, softmax, log-softmax or sigmoid."""
    auxiliary: tuple[str, ...]
    class_names: tuple[str, ...] | None
    remarks: tuple[str, ...]


class LinearView:
    """View of a linear layer, or of a classifier of one class, as a 1x1 convolution."""

    def __init__(self, layer: nn.Conv2d | nn.Linear) -> None:
        self._layer = layer

    @property
    def weight(self) -> Tensor:
        """Its weight [classes, channels, size, size]; one class becomes two, absent and present."""
        weight = self._layer.weight
        weight = weight[:, :, None, None] if weight.ndim == 2 else weight
        return torch.cat([torch.zeros_like(weight), weight]) if len(weight) == 1 else weight

    @property
    def bias(self) -> Tensor | None:
        """Its bias [classes]."""
        bias = self._layer.bias
        if bias is None or len(bias) > 1:
            return bias
        return torch.cat([torch.zeros_like(bias), bias])

    @property
    def in_channels(self) -> int:
        """Channels of the features."""
        return self._layer.weight.shape[1]


class Adapted(Segmenter):
    """An external network whose logits and features are extracted with hooks.

    Built by `adapt`. The classifier layer's input is the feature, its output the logits, before the
    network's own upsampling; if no such layer is found, the network's output is the logits. The
    state dictionary has the external network's names.

    Args:
        network: the external network.
        answer: result of `probe_output`.
        carried: normalisation, channel order and further inputs.
        backbone: the part that is excluded from a higher learning rate for heads.
    """

    def __init__(
        self,
        network: nn.Module,
        answer: ProbedOutput,
        carried: NetworkMetadata,
        backbone: str | None,
    ) -> None:
        super().__init__()
        self.normalize: nn.Module = Normalize(carried.mean, carried.std)
        self.network = network
        self.answer, self.order, self.slow = answer, carried.order, backbone
        self.classes = 2 if answer.channels == 1 else answer.channels
        self.class_names = carried.class_names
        self.align_corners = answer.enlarged == "corners"
        self.head = answer.head
        self.opaque = _describe_opaque(answer)
        self.calls: list[tuple[Tensor, Tensor]] = []
        self.beside: list[Tensor] = []
        self.inputs = tuple(carried.inputs)
        for name, value in carried.inputs.items():
            self.register_buffer(f"input_{name}", torch.tensor(value), persistent=False)
        if self.head is not None:
            network.get_submodule(self.head.name).register_forward_hook(self.store_classifier)
        for name in () if answer.extra else answer.auxiliary:
            network.get_submodule(name).register_forward_hook(self.store_auxiliary)
        self.register_state_dict_post_hook(_without_prefix)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(_with_prefix)  # type: ignore[no-untyped-call]

    @property
    def classifier(self) -> Classifier | None:
        """The layer from features to logits, if it is linear; else None."""
        if self.head is None or self.head.opaque:
            return None
        layer = self.network.get_submodule(self.head.name)
        if isinstance(layer, nn.Conv2d) and layer.out_channels > 1:
            return layer
        return LinearView(cast(nn.Linear, layer))

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Split parameters into backbone and head, the classifier or all but the named backbone."""
        every = list(self.parameters())
        if self.slow is not None:
            slow = {id(each) for each in self.network.get_submodule(self.slow).parameters()}
            head = {id(each) for each in every} - slow
        elif self.head is not None:
            head = {id(each) for each in self.network.get_submodule(self.head.name).parameters()}
        else:
            return {"network": every}
        return {
            "backbone": [each for each in every if id(each) not in head],
            "head": [each for each in every if id(each) in head],
        }

    def store_classifier(self, _: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """Store the classifier's last input and output until `forward` uses them."""
        self.calls[:] = [(inputs[0], output)]

    def store_auxiliary(self, _: nn.Module, __: Any, output: Tensor) -> None:
        """Store an auxiliary head's output."""
        if self.training:
            self.beside.append(output)

    def feed(self, images: Float[Tensor, "batch 3 height width"]) -> Tensor:
        """Convert images in [0, 1] to the network's channels, channel order and normalisation."""
        if self.order == "gray":
            images = (images * images.new_tensor(_LUMA)[:, None, None]).sum(1, keepdim=True)
        images = self.normalize(images)
        return images.flip(1) if self.order == "bgr" else images

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> Prediction:
        """Run the network and return the input and output of its classifier."""
        self.calls.clear()
        self.beside.clear()
        shown = self.answer.sizes.fit(self.feed(images), self.answer.stride)
        given = {name: getattr(self, f"input_{name}") for name in self.inputs}
        given = {name: value.expand(len(images), -1) for name, value in given.items()}
        answer = self.network(shown.images, **given)
        if self.answer.queries:
            queries = queries_in(answer)
            if queries is None:
                raise InputError("the network must return queries and masks in training too")
            return Prediction(crop(class_scores(*queries), shown))
        features, logits = self._take_features(answer, shown)
        auxiliary = self._find_auxiliary(answer, logits) if self.training else ()
        self.calls.clear()
        self.beside.clear()
        cut = [crop(each, shown) for each in (self._classes(logits), *auxiliary)]
        return Prediction(
            cut[0], None if features is None else crop(features, shown), tuple(cut[1:]) or None
        )

    def _take_features(self, answer: Any, shown: FittedImages) -> tuple[Tensor | None, Tensor]:
        if self.head is None:
            _, main = find_logits(answer, self.answer.place or None)
            main = main.movedim(-1, 1) if self.answer.channels_last else main
            return None, invert_activation(main, self.answer.activation)
        seen, said = self.calls.pop()
        if self.head.kind == "linear":
            size = (shown.images.shape[-2], shown.images.shape[-1])
            seen, said = (
                cast(Tensor, tokens_to_map(each, size, self.head.prefix)) for each in (seen, said)
            )
        return None if self.head.opaque else seen, said

    def _find_auxiliary(self, answer: Any, logits: Tensor) -> list[Tensor]:
        """Find the auxiliary outputs, of which there may be more in training mode."""
        found = list(self.beside)
        if self.answer.extra:
            place, _ = find_logits(answer)
            place = self.answer.place if self.answer.place in maps_in(answer) else place
            found = [
                invert_activation(value, self.answer.activation)
                for key, value in maps_in(answer).items()
                if key != place and value.shape[1] == logits.shape[1]
            ]
        return [self._classes(each) for each in found]

    def _classes(self, logits: Tensor) -> Tensor:
        return two_classes(logits) if logits.shape[1] == 1 else logits

    def describe(self, carried: NetworkMetadata, remarks: Sequence[str]) -> None:
        """Set ``probe`` and ``remarks`` to what is known about the network."""
        head, answer = self.head, self.answer
        kind = head.kind if head else "queries and masks" if answer.queries else "unknown"
        normalize = cast(Normalize, self.normalize)
        self.remarks = tuple(remarks)
        self.probe = Probe(
            carried.library,
            type(self.network).__name__,
            sum(each.numel() for each in self.network.parameters()),
            self.classes,
            head.name if head else None,
            kind,
            head.channels if head else None,
            self.opaque,
            normalize.mean.numel(),
            self.order,
            tuple(normalize.mean.flatten().tolist()),
            tuple(normalize.std.flatten().tolist()),
            carried.told_by or "ImageNet's, by default",
            str(answer.sizes),
            answer.stride,
            answer.activation,
            answer.auxiliary,
            self.class_names,
            self.remarks,
        )


def _describe_opaque(answer: ProbedOutput) -> str:
    if answer.queries:
        return "it classifies masks, and no layer outputs class scores of pixels"
    if answer.head is None:
        return "no single layer was found that outputs its logits"
    return answer.head.opaque


_PREFIX = "network."


def _without_prefix(module: nn.Module, state: dict[str, Tensor], prefix: str, _: Any) -> None:
    for key in [key for key in state if key.startswith(prefix + _PREFIX)]:
        state[prefix + key[len(prefix + _PREFIX) :]] = state.pop(key)


def _with_prefix(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    for key in [key for key in state if key.startswith(prefix)]:
        state[prefix + _PREFIX + key[len(prefix) :]] = state.pop(key)
