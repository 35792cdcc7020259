"""Output of an external network: where the logits are in it, and their final activation."""

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from fakd.errors import InputError

Activation = Literal["none", "softmax", "log-softmax", "sigmoid"]
_NAMED = ("logits", "out")
_QUERIES = (("class_queries_logits", "masks_queries_logits"), ("pred_logits", "pred_masks"))
"""Names of the classes and the masks of queries in outputs of mask classifiers."""
_DEPTH = 3


def tensors_in(answer: Any) -> dict[str, Tensor]:
    """List the tensors of an output by their path in it; the path of the output itself is ``""``.

    >>> list(tensors_in({"out": torch.zeros(1), "levels": [torch.zeros(1)]}))
    ['out', 'levels.0']
    """
    return dict(_walk(answer, "", _DEPTH))


def _walk(answer: Any, place: str, depth: int) -> Iterator[tuple[str, Tensor]]:
    if isinstance(answer, Tensor):
        yield place, answer
    elif depth > 0 and answer is not None:
        parts: Mapping[Any, Any] = {}
        if isinstance(answer, Mapping):
            parts = answer
        elif isinstance(answer, list | tuple):
            parts = dict(enumerate(answer))
        elif hasattr(answer, "__dict__"):
            parts = vars(answer)
        for key, value in parts.items():
            yield from _walk(value, f"{place}.{key}" if place else str(key), depth - 1)


def maps_in(answer: Any) -> dict[str, Tensor]:
    """List the tensors that may be logits: floating-point, with four axes."""
    found = tensors_in(answer)
    return {
        key: value for key, value in found.items() if value.ndim == 4 and value.is_floating_point()
    }


def queries_in(answer: Any) -> tuple[Tensor, Tensor] | None:
    """Find the classes and the masks of a mask classifier's queries; None in other outputs."""
    found = tensors_in(answer)
    for classes, masks in _QUERIES:
        if classes in found and masks in found:
            return found[classes], found[masks]
    return None


def class_scores(
    queries: Float[Tensor, "batch queries _"], masks: Float[Tensor, "batch queries rows cols"]
) -> Float[Tensor, "batch classes rows cols"]:
    r"""Score classes per pixel from classified masks, in the log domain.

    .. math:: z_{ic} = \log \sum_q p_q(c) \, \sigma(m_{qi})

    with p the softmax over all classes and "no object", which is last and not in the result; Cheng
    et al., 2021 (arXiv 2107.06278), semantic inference. The largest factors are factored out of the
    sum, which is then one matrix product; it is clamped at about 1e-38 relative to them.
    """
    chances = F.log_softmax(queries.float(), dim=-1)[..., :-1]
    covered = F.logsigmoid(masks.float())
    of_class, of_pixel = chances.amax(1, keepdim=True), covered.amax(1, keepdim=True)
    sums = torch.einsum("bqc,bqhw->bchw", (chances - of_class).exp(), (covered - of_pixel).exp())
    tiny = torch.finfo(sums.dtype).tiny
    return sums.clamp(min=tiny).log() + of_class.mT[..., None] + of_pixel


def find_logits(answer: Any, place: str | None = None) -> tuple[str, Tensor]:
    """Find the map with the logits: at the given path, named ``logits`` or ``out``, or the largest.

    Raises:
        InputError: there is none.
    """
    maps = maps_in(answer)
    if place is not None and place in maps:
        return place, maps[place]
    if place is None:
        for name in _NAMED:
            if name in maps:
                return name, maps[name]
        if maps:
            largest = max(value.shape[-1] * value.shape[-2] for value in maps.values())
            name = next(k for k, v in maps.items() if v.shape[-1] * v.shape[-2] == largest)
            return name, maps[name]
    found = {key: tuple(value.shape) for key, value in tensors_in(answer).items()}
    ids = any(not value.is_floating_point() for value in tensors_in(answer).values())
    what = "class ids only" if ids and not maps else found or type(answer).__name__
    wanted = f" at {place!r}" if place else ""
    raise InputError(
        f"the network must return logits{wanted} [batch, classes, height, width], alone or in "
        f"a dictionary, a list or an object, got {what}; set output to the path of the logits, "
        "or wrap the network in one that returns them"
    )


def activate(logits: Tensor, kind: Activation) -> Tensor:
    """Apply a final activation to logits."""
    if kind == "softmax":
        return logits.softmax(1)
    if kind == "log-softmax":
        return logits.log_softmax(1)
    return logits.sigmoid() if kind == "sigmoid" else logits


def invert_activation(answer: Tensor, kind: Activation) -> Tensor:
    """Invert a final activation; after a softmax, logits are known up to a constant per pixel."""
    if kind == "softmax":
        return answer.clamp(min=torch.finfo(answer.dtype).tiny).log()
    if kind == "sigmoid":
        return answer.logit(eps=torch.finfo(answer.dtype).eps)
    return answer


def activation_of(answer: Tensor) -> Activation:
    """Infer the final activation from values: probabilities of a pixel sum to 1."""
    if answer.shape[1] == 1:
        return "sigmoid" if bool(((answer >= 0) & (answer <= 1)).all()) else "none"
    if bool((answer >= 0).all()) and bool(((answer.sum(1) - 1).abs() < 1e-3).all()):
        return "softmax"
    if bool((answer <= 0).all()) and bool(((answer.exp().sum(1) - 1).abs() < 1e-3).all()):
        return "log-softmax"
    return "none"


def two_classes(logits: Float[Tensor, "batch 1 rows cols"]) -> Float[Tensor, "batch 2 rows cols"]:
    """Convert a sigmoid's logit to those of two classes: 0 for absent, the logit for present."""
    return torch.cat([torch.zeros_like(logits), logits], dim=1)
