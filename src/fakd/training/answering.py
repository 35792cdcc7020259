"""Computing a network's answers to whole images once, to store them."""

from collections.abc import Iterator, Sequence
from itertools import groupby, islice
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from fakd.answers.encoding import Encoding
from fakd.answers.maps import Maps
from fakd.answers.store import PARTS, Record, Store, images_of
from fakd.data import SegmentationData, evaluation_samples
from fakd.errors import InputError
from fakd.inference import predict_logits, require_inference_memory, to_unit
from fakd.settings import Inference
from fakd.training.teacher import NetworkTeacher, Teacher


class Answering:
    """A frozen network and its inference settings.

    Args:
        teacher: the network, on the device, and its precision.
        inference: inference settings (scales, flips, windows).
        stride: side in pixels of the cells over which logits are averaged. If not given: with plain
            inference the network's own grid is stored unchanged, otherwise its own stride is used.
        features: whether to store the classifier's input too.
        image: a sample image to measure the network's own stride on.

    Raises:
        InputError: the stride is below 1; or features were requested from a network that has
            none, or together with a stride or with inference other than plain.
    """

    def __init__(
        self,
        teacher: NetworkTeacher,
        inference: Inference,
        stride: int | None,
        features: bool,
        image: UInt8[Tensor, "3 height width"],
    ) -> None:
        if stride is not None and stride < 1:
            raise InputError(f"expected --stride of at least 1 pixel, got {stride}")
        network = teacher.network
        plain = inference == Inference() and stride is None
        if features and (network.classifier is None or not plain):
            raise InputError(
                "--features needs a network that exposes its features, and plain inference; leave "
                "out --inference and --stride"
            )
        self._network, self._teacher, self._inference = network, teacher, inference
        self._features = features
        self.channels = network.classifier.in_channels if features and network.classifier else None
        self.stride: int | None = None
        if not plain:
            size = tuple(image.shape[1:])
            largest = max(inference.scales)
            require_inference_memory(network, size, inference, teacher.device, largest)
            self.stride = stride or self._own_stride(image)

    def _own_stride(self, image: UInt8[Tensor, "3 height width"]) -> int:
        """Measure the stride of the network's logits, in pixels of the image, at the top scale."""
        height, width = image.shape[1:]
        size = self._inference.size((height, width), max(self._inference.scales))
        shown = F.interpolate(image[None].float(), size).to(torch.uint8)
        rows: int = self._answer_images(shown)[0].logits.shape[1]
        return max(1, round(height / rows))

    def __call__(self, images: UInt8[Tensor, "batch 3 height width"]) -> list[Maps]:
        """Compute the answers to a batch of images of one size."""
        if self.stride is None:
            return self._answer_images(images)
        height, width = images.shape[-2:]
        with self._teacher.computing():
            shown = to_unit(images.to(self._teacher.device))
            logits = predict_logits(self._network, shown, self._inference)
        grid = max(1, round(height / self.stride)), max(1, round(width / self.stride))
        return _maps(F.adaptive_avg_pool2d(logits, grid), None)

    def _answer_images(self, images: UInt8[Tensor, "batch 3 height width"]) -> list[Maps]:
        with torch.no_grad(), self._teacher.computing():
            found = self._network(to_unit(images.to(self._teacher.device)))
        return _maps(found.logits, found.features if self._features else None)


def _maps(
    logits: Float[Tensor, "batch classes rows cols"],
    features: Float[Tensor, "batch channels rows cols"] | None,
) -> list[Maps]:
    if not torch.isfinite(logits).all():
        raise InputError(
            "the teacher's output is infinite or NaN; try --hardware.precision 32-true, "
            "--hardware.teacher_precision fp32"
        )
    several = [None] * len(logits) if features is None else list(features.float().cpu().numpy())
    return [Maps(*each) for each in zip(logits.float().cpu().numpy(), several, strict=True)]


def manifest(
    teacher: Teacher,
    data: SegmentationData,
    answering: Answering,
    encoding: Encoding,
    inference: Inference,
    shard: int,
) -> dict[str, Any]:
    """Describe the content of a store of a teacher's answers."""
    network = teacher.network
    return {
        "teacher": {
            "fingerprint": teacher.fingerprint(),
            "classes": network.classes,
            "class_names": network.class_names,
            "palette": network.palette,
        },
        "data": images_of(data),
        "settings": {
            "format": encoding.format,
            "k": encoding.k if encoding.format == "topk" else None,
            "channels": answering.channels,
            "stride": answering.stride,
            "inference": inference.views(),
        },
        "origin": {"teacher": network.origin or network.config, "data": data.config},
        "parts": {part: len(getattr(data, part)) for part in PARTS},
        "shard": shard,
    }


def records(
    answering: Answering,
    data: SegmentationData,
    part: str,
    indices: Sequence[int],
    batch_size: int = 1,
    workers: int = 0,
) -> Iterator[Record]:
    """Yield the answers to samples of a part in order; batch consecutive images of one size."""
    split = getattr(data, part)
    samples = evaluation_samples(split, workers, indices)
    numbered = zip(indices, samples, strict=True)
    for size, group in groupby(numbered, key=lambda each: tuple(each[1].image.shape[1:])):
        while together := list(islice(group, batch_size)):
            images = torch.stack([sample.image for _, sample in together])
            for (index, sample), maps in zip(together, answering(images), strict=True):
                version = split.stamp(index), split.checksum(index)
                yield Record(sample.name, *version, (size[0], size[1]), maps)


def mean_encoded_size(store: Store, found: Sequence[Record]) -> float:
    """Compute the mean encoded size of answers, in bytes."""
    lengths = [len(chunk) for record in found for chunk in store.encode(record.maps)]
    return sum(lengths) / len(found)
