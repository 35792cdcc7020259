"""Is the file as good as the student? It is run over labelled images, and that is compared."""

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
from fakd.report.measurements import timed
from fakd.settings import Inference
from fakd.types import Segmenter


@dataclass(frozen=True)
class Guarantee:
    """What the same images say of the student and of the file."""

    student: Scores
    file: Scores
    agreement: float
    """Share of all pixels, labelled or not, of which both name the same class."""
    images: int
    latency: tuple[tuple[float, float], tuple[float, float]]
    """Median and 90th percentile in ms of the first image, of student and file, bytes to ids."""
    threads: int
    named: int
    """How many classes the student names."""

    @property
    def fall(self) -> float:
        """Points of mIoU that the file lost."""
        return 100 * (self.student.miou - self.file.miou)

    def holds(self, tolerance: float) -> bool:
        """Tell whether the file lost at most so many points of mIoU."""
        return self.fall <= tolerance

    def as_dict(self, names: tuple[str, ...]) -> dict[str, Any]:
        """Turn it into plain JSON, in percent and milliseconds."""
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


def guarantee(
    student: Segmenter,
    file: Segmenter,
    split: Split,
    inference: Inference,
    images: int | None = None,
    done: Callable[[int], None] = lambda _: None,
) -> Guarantee:
    """Show labelled images to the student and to the file that was made of it.

    Args:
        student: as it was trained, in evaluation mode.
        file: the file, opened.
        split: labelled images.
        inference: how the student is shown them; the file does that for itself.
        images: how many of them, evenly over the split; all if None.
        done: called with the number of images done.

    Raises:
        InputError: no pixel of them has a class.
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
        raise InputError("no pixel of these images has a class, so nothing can be guaranteed")
    times = [
        timed(partial(predict_classes, network, first, way), torch.device("cpu"))
        for network, way in pairs
    ]
    return Guarantee(
        Scores.from_matrix(matrices[0]),
        Scores.from_matrix(matrices[1]),
        same / pixels,
        count,
        (spread(times[0]), spread(times[1])),
        torch.get_num_threads(),
        int(matrices[0].any(dim=0).sum()),
    )


def spread(times: Sequence[float]) -> tuple[float, float]:
    """Compute median and 90th percentile.

    >>> spread([1.0, 2.0, 3.0])
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


def memory_of(code: str, *arguments: str) -> float | None:
    """Run code in a process of its own and tell the most memory it held, in MB.

    None where the system does not say, or the code fails. The usage that a system reports of its
    children would begin with what their parent held.
    """
    command = [sys.executable, "-c", _CHILD.format(code=code), *arguments]
    said = subprocess.run(command, capture_output=True, text=True)
    return None if said.returncode else round(int(said.stdout.split()[-1]) * 1024 / 1e6, 1)


def memories(
    network: str | None, script: Path, file: Path, picture: Path, folder: Path
) -> tuple[float | None, float | None]:
    """Tell the peak memory of a process that segments one picture: with fakd, and with run.py.

    Args:
        network: the word that names the student; None where there is none.
        script: run.py.
        file: the exported network.
        picture: an image.
        folder: where masks may be written.
    """
    code = _STUDENT.format(threads=torch.get_num_threads())
    words = (network, str(picture), str(folder / "student"))
    whole = None if network is None else memory_of(code, *map(str, words))
    return whole, memory_of(_ALONE, *map(str, (script, picture, folder / "mask.png", file)))
