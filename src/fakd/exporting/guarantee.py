"""Comparison of an exported file with the student on labelled images."""

import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from fakd.data import Split, evaluation_samples
from fakd.errors import InputError
from fakd.inference import predict_classes
from fakd.metrics import Scores, confusion_matrix
from fakd.report.measurements import time_call
from fakd.settings import Inference
from fakd.types import Segmenter


@dataclass(frozen=True)
class Guarantee:
    """Scores of student and file on the same images."""

    student: Scores
    file: Scores
    agreement: float
    """Share of all pixels, labelled or not, with the same predicted class."""
    images: int
    latency: tuple[tuple[float, float], tuple[float, float]]
    """Median and 90th percentile of the latency in ms on the first image, for student and file,
    from bytes to class ids."""
    threads: int
    named: int
    """Number of classes that the student predicts anywhere."""

    @property
    def fall(self) -> float:
        """Loss of the file in mIoU points."""
        return 100 * (self.student.miou - self.file.miou)

    def holds(self, tolerance: float) -> bool:
        """Return whether the file lost at most ``tolerance`` points of mIoU."""
        return self.fall <= tolerance

    def as_dict(self, names: tuple[str, ...]) -> dict[str, Any]:
        """Convert to JSON, in percent and milliseconds."""
        sides = {"student": self.student, "file": self.file}
        found: dict[str, Any] = {
            side: scores.as_dict(names)
            | dict(zip(("median_ms", "p90_ms"), self.latency[i], strict=True))
            for i, (side, scores) in enumerate(sides.items())
        }
        return found | {
            "agreement": round(100 * self.agreement, 4),
            "images": self.images,
            "threads": self.threads,
            "named": self.named,
        }


def compare_outputs(
    student: Segmenter,
    file: Segmenter,
    split: Split,
    inference: Inference,
    images: int | None = None,
    done: Callable[[int], None] = lambda _: None,
) -> Guarantee:
    """Run the student and the exported file on labelled images.

    Args:
        student: The trained network, in evaluation mode.
        file: The opened file.
        split: Labelled images.
        inference: How images are fed to the student; the file contains its own resizing.
        images: Number of images, evenly spread over the split; all if None.
        done: Called with the number of images done.

    Raises:
        InputError: no pixel of the images has a class.
    """
    count = min(len(split), images or len(split))
    places = [index * len(split) // count for index in range(count)]
    pairs = ((student, inference), (file, Inference()))
    matrices = torch.zeros(2, student.classes, student.classes, dtype=torch.long)
    same, pixels, first = 0, 0, None
    for number, sample in enumerate(evaluation_samples(split, 0, places), start=1):
        image = sample.image[None]
        first = image if first is None else first
        said = [predict_classes(network, image, way) for network, way in pairs]
        for matrix, classes in zip(matrices, said, strict=True):
            if sample.labels is not None:
                matrix += confusion_matrix(classes[0], sample.labels, student.classes)
        same, pixels = same + int((said[0] == said[1]).sum()), pixels + said[0].numel()
        done(number)
    if first is None or not matrices[0].any():
        raise InputError(
            "no pixel of these images has a class, so nothing can be compared; use labelled images"
        )
    times = [
        time_call(partial(predict_classes, network, first, way), torch.device("cpu"))
        for network, way in pairs
    ]
    return Guarantee(
        Scores.from_matrix(matrices[0]),
        Scores.from_matrix(matrices[1]),
        same / pixels,
        count,
        (median_and_p90(times[0]), median_and_p90(times[1])),
        torch.get_num_threads(),
        int(matrices[0].any(dim=0).sum()),
    )


def median_and_p90(times: Sequence[float]) -> tuple[float, float]:
    """Compute median and 90th percentile.

    >>> median_and_p90([1.0, 2.0, 3.0])
    (2.0, 2.8)
    """
    p90 = statistics.quantiles(times, n=10, method="inclusive")[-1]
    return round(statistics.median(times), 3), round(p90, 3)


_CHILD = """
import sys
{code}
lines = open("/proc/self/status").read().splitlines()
print(next(line.split()[1] for line in lines if line.startswith("VmHWM:")))
"""
_STUDENT = """
import fakd, torch
from pathlib import Path
torch.set_num_threads({threads})
network, picture, folder = sys.argv[1:]
fakd.predict(network, Path(picture), Path(folder), overlays=False, accelerator="cpu")
"""
_ALONE = """
import runpy
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def peak_memory_of(code: str, *arguments: str) -> float | None:
    """Run code in a new process and return its peak memory in MB.

    None if the system does not report it, or the code fails. The system's usage of child processes
    cannot be used, since it starts at the parent's.
    """
    command = [sys.executable, "-c", _CHILD.format(code=code), *arguments]
    said = subprocess.run(command, capture_output=True, text=True)
    return None if said.returncode else round(int(said.stdout.split()[-1]) * 1024 / 1e6, 1)


def measure_memory(
    network: str | None, script: Path, file: Path, picture: Path, folder: Path
) -> tuple[float | None, float | None]:
    """Return the peak memory of a process that segments one image, with fakd and with run.py.

    Args:
        network: The specifier of the student; None if it has none.
        script: run.py.
        file: The exported network.
        picture: An image.
        folder: A folder for masks.
    """
    code = _STUDENT.format(threads=torch.get_num_threads())
    words = (network, str(picture), str(folder / "student"))
    whole = None if network is None else peak_memory_of(code, *map(str, words))
    return whole, peak_memory_of(_ALONE, *map(str, (script, picture, folder / "mask.png", file)))
