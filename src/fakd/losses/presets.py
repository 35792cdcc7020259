"""Published settings of each method by name, as plain data that --help lists without torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fakd import specs

if TYPE_CHECKING:
    from fakd.types import DistillationLoss

Spec = dict[str, Any]


def _loss(name: str, **arguments: Any) -> Spec:
    return {"class_path": f"fakd.losses.{name}", "init_args": arguments}


def _sum(**parts: Spec) -> Spec:
    return _loss("WeightedSum", losses=parts)


def _pixel(weight: float = 1.0, **settings: Any) -> Spec:
    return _loss("PixelKL", **{"temperature": 1.0, "strength": 0.0, **settings}, weight=weight)


def _channel(weight: float, temperature: float = 1.0, strength: float = 0.0, **more: Any) -> Spec:
    settings = {"temperature": temperature, "strength": strength, **more}
    return _loss("ChannelKL", **settings, weight=weight)


def _cirkd(memory_weight: float) -> Spec:
    return _sum(
        pixel=_pixel(),
        cross_image=_loss("CrossImageSimilarity", temperature=0.1, weight=1.0),
        memory=_loss("MemoryContrast", temperature=0.1, weight=memory_weight),
    )


_PIXEL_PER_CLASS = _pixel(10.0, reduction="element_mean", t_squared=False)
_HINGE = _loss("Adversarial", loss="hinge", weight=0.001)
_WGAN = _loss("Adversarial", loss="wgan-gp", schedule="poly", weight=0.001)
_WGAN_SGD = _loss(
    "Adversarial", loss="wgan-gp", optimizer="sgd", weight_decay=5e-4, schedule="poly", weight=0.1
)

PRESETS: Mapping[str, Spec] = {
    "pd": _pixel(),
    "pd-fa": _pixel(strength=1.0),
    "cwd": _channel(5.0),
    "cwd-fa": _channel(5.0, strength=1.0),
    "cwd-fa-logits": _channel(5.0, strength=1.0, covariance="logits"),
    # The CWD authors' configurations for mmsegmentation and Cityscapes, and those in CIRKD's code.
    "cwd-mmseg-ade20k": _channel(10.0),
    "cwd-mmseg-cityscapes": _channel(5.0),
    "cwd-td": _channel(3.0, temperature=4.0),
    "cwd-td-all": _sum(
        channel=_channel(3.0, temperature=4.0), pixel=_PIXEL_PER_CLASS, holistic=_WGAN
    ),
    "cwd-cirkd": _sum(
        pixel=_pixel(),
        features=_loss(
            "FeatureChannelKL", temperature=4.0, alignment="conv", divisor="student", weight=50.0
        ),
        channel=_channel(3.0, temperature=4.0),
        holistic=_HINGE,
    ),
    "skds-official": _sum(
        pixel=_pixel(10.0, reduction="sum_over_hw"),
        pair=_loss("PairwiseSimilarity", scale=0.5, detach_norm=True, weight=0.5),
        holistic=_WGAN_SGD,
    ),
    "skds-cirkd": _sum(
        pixel=_pixel(),
        pair=_loss("PairwiseSimilarity", kernel=[2, 2], weight=10.0),
        holistic=_HINGE,
    ),
    "ifvd-official": _sum(
        pixel=_PIXEL_PER_CLASS,
        intra_class=_loss("IntraClassVariation", weight=200.0),
        holistic=_WGAN,
    ),
    "ifvd-cirkd": _sum(
        pixel=_pixel(),
        intra_class=_loss("IntraClassVariation", weight=20.0),
        holistic=_HINGE,
    ),
    "cirkd": _cirkd(0.1),
    "cirkd-voc": _cirkd(0.01),
    "features-l2": _loss("FeatureDistance", kind="l2", weight=1.0),
    "features-cosine": _loss("FeatureDistance", kind="cosine", weight=1.0),
    "dist": _loss("Relational", weight=1.0),
    # Pseudo-labels, the baseline for images without labels.
    "hard": _loss("HardLabels", threshold=0.0, weight=1.0),
}
"""Name -> value of ``distillation:`` in a recipe; docs/methods.md lists the sources."""


def preset(name: str) -> DistillationLoss:
    """Build the loss, or sum of losses, of a published setting.

    Raises:
        ValueError: there is no such preset; lists the available ones.

    >>> preset("cwd-td").weight
    3.0
    """
    if name not in PRESETS:
        raise ValueError(f"expected one of {', '.join(PRESETS)}, got {name!r}")
    loss: DistillationLoss = specs.build(PRESETS[name])
    return loss
