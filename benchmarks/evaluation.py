"""Cost of scoring an image: one confusion matrix, against three histograms of its pixels.

The usual way drops ignored pixels and counts hits, predictions and labels in a histogram each, in
NumPy or, as MMSegmentation does now, in PyTorch. Both variants start from predicted and labelled
class ids as tensors, and agree, which is checked first. The step before is common to both, from
small logits to the most likely class at the labels' resolution: all classes upsampled at once and
`argmax`, or `predict_classes`.

A size is images, height, width, classes, and the stride of the network's output in pixels.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from common import SEED, Size, measure, parser, report
from fakd.inference import predict_classes, predict_logits, to_unit
from fakd.metrics import confusion_matrix
from fakd.settings import Inference
from fakd.types import IGNORE, Prediction, Segmenter


class Still(Segmenter):
    """A network with constant output, so that only what follows it is measured."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.classes = logits.shape[1]
        self._prediction = Prediction(logits)

    def forward(self, images: Tensor) -> Prediction:
        """Return the constant output."""
        return self._prediction

    @property
    def classifier(self) -> None:
        """Has none."""
        return None


def draw(size: Size) -> tuple[Tensor, Tensor]:
    """Draw labels in patches within a border of ignored pixels, and a prediction 80 % correct."""
    generator = torch.Generator().manual_seed(SEED)
    shape = (size.batch, size.rows, size.cols)
    patches = torch.randint(size.classes, (size.batch, 1, 8, 11), generator=generator)
    labels = F.interpolate(patches.float(), shape[1:])[:, 0].to(torch.int16)
    guesses = torch.randint(size.classes, shape, generator=generator)
    wrong = torch.rand(shape, generator=generator) < 0.2
    prediction = torch.where(wrong, guesses, labels.long())
    labels[:, :10] = IGNORE
    return prediction, labels


def in_numpy(prediction: Tensor, labels: Tensor, classes: int) -> np.ndarray:
    """Count hits, predictions and labels of every class in three NumPy histograms."""
    said, truth = prediction.cpu().numpy(), labels.cpu().numpy()
    labelled = truth != IGNORE
    said, truth = said[labelled], truth[labelled]
    # Bins of equal width, the faster of NumPy's two ways.
    limits = (0, classes - 1)
    return np.stack(
        [np.histogram(ids, classes, limits)[0] for ids in (said[said == truth], said, truth)]
    )


def in_pytorch(prediction: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Count the same in three PyTorch histograms."""
    labelled = labels != IGNORE
    said, truth = prediction[labelled], labels[labelled]
    return torch.stack(
        [
            torch.histc(ids.float(), classes, 0, classes - 1)
            for ids in (said[said == truth], said, truth)
        ]
    )


def in_one_matrix(prediction: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Count the same in a confusion matrix, which contains more."""
    matrix = confusion_matrix(prediction, labels, classes)
    return torch.stack([matrix.diagonal(), matrix.sum(0), matrix.sum(1)])


def variants(size: Size, device: str) -> dict[str, Callable[[], Any]]:
    """Build each way of counting, and each way of computing classes."""
    prediction, labels = (drawn.to(device) for drawn in draw(size))
    ways: dict[str, Callable[[Tensor, Tensor, int], Any]] = {
        "three histograms, NumPy": in_numpy,
        "three histograms, PyTorch": in_pytorch,
        "one matrix": in_one_matrix,
    }
    expected = torch.as_tensor(in_numpy(prediction, labels, size.classes))
    for name, count in ways.items():
        came = torch.as_tensor(count(prediction, labels, size.classes)).cpu()
        if not torch.equal(came.long(), expected):
            raise RuntimeError(f"{name} counts other pixels than NumPy; fix it first")
    shape = (size.rows // size.channels, size.cols // size.channels)
    network = Still(torch.randn(size.batch, size.classes, *shape).to(device))
    still = Inference()
    images = torch.zeros(size.batch, 3, size.rows, size.cols, dtype=torch.uint8, device=device)
    return {
        name: lambda count=count: count(prediction, labels, size.classes)
        for name, count in ways.items()
    } | {
        "argmax of all": lambda: predict_logits(network, to_unit(images), still).argmax(1),
        "predict_classes": lambda: predict_classes(network, images, still),
    }


def main() -> None:
    flags = parser("evaluation", __doc__, ["1x512x683x150x8", "1x1024x2048x19x8"])
    chosen = flags.parse_args()
    torch.set_num_threads(chosen.threads)
    runs = []
    for size in chosen.sizes:
        ways = variants(size, chosen.device)
        runs.append((size, measure(ways, chosen.device, chosen.repeats, next(iter(ways)))))
    report("evaluation", chosen, "three histograms, NumPy", runs)


if __name__ == "__main__":
    main()
