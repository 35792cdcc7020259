"""Index of the classes that each training image contains, computed once per run."""

from collections.abc import Generator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from fakd import signals
from fakd.data import Sample, Split, evaluation_samples
from fakd.data.labelled import SHARE
from fakd.data.rare import ClassOccurrence
from fakd.errors import InputError
from fakd.files import write_atomically
from fakd.inference import to_unit
from fakd.processes import all_sum
from fakd.runs.folder import SHOWN
from fakd.settings import IGNORE, Settings
from fakd.signals import Interrupted
from fakd.training.interruption import agreed_signal
from fakd.training.progress import StepProgress

if TYPE_CHECKING:
    from fakd.training.loop import Training


def class_occurrence(training: "Training", folder: Path | None) -> ClassOccurrence:
    """Index the classes of the training images, or read the index made when the run began.

    Classes come from an image's labels, else from the teacher, at pixels that reach the confidence
    required for class statistics. Without a teacher, unlabelled images contain no class.

    Args:
        training: the run; each of its processes reads its share of the images.
        folder: of the run; None on all processes but the first.

    Raises:
        InputError: an image cannot be read.
        Interrupted: a signal asked to stop.
    """
    fabric = training.fabric
    file = fabric.broadcast(folder and folder / SHOWN)
    if file is not None and fabric.broadcast(file.is_file()):
        return read_occurrence(file)
    found = _count_classes(training)
    if file is not None and fabric.is_global_zero:
        write_occurrence(file, found)
    return found


def _count_classes(training: "Training") -> ClassOccurrence:
    fabric, settings, teacher = training.fabric, training.settings, training.teacher
    split, classes = training.train, training.data.classes
    confidence = getattr(training.objective, "confidence", 0.0)
    every = range(fabric.global_rank, len(split), fabric.world_size)
    share = [index for index in every if teacher is not None or split.is_labelled(index)]
    shows = torch.zeros(len(split), classes, dtype=torch.uint8)
    pixels = torch.zeros(2, classes, dtype=torch.long)
    title = "looking for rare classes"
    with (
        StepProgress(training.console, title, len(share)) as display,
        closing(_each(split, share, settings)) as samples,
    ):
        for done, (index, sample) in enumerate(samples, start=1):
            if signals.received_signal():
                break
            if sample.labels is not None:
                named = sample.labels[sample.labels != IGNORE].long()
            elif teacher is not None:
                image = to_unit(sample.image[None].to(fabric.device))
                with torch.no_grad():
                    logits = teacher.predict(image, index, settings.inference, "train")
                chance, found = logits.softmax(1).max(1)
                named = found[chance >= confidence].cpu()
            counts = named.bincount(minlength=classes)
            shows[index] = counts >= max(1.0, SHARE * sample.image[0].numel())
            pixels[int(sample.labels is not None)] += counts
            display.show(done, {})
    if number := agreed_signal():
        raise Interrupted(number)
    both = [all_sum(each.to(fabric.device)).cpu().numpy() for each in (shows, pixels)]
    return ClassOccurrence(both[0].astype(bool), both[1])


def _each(
    split: Split, share: Sequence[int], settings: Settings
) -> Generator[tuple[int, Sample], None, None]:
    """Load samples; omit unreadable ones if training skips them too."""
    if settings.broken == "stop":
        yield from zip(
            share, evaluation_samples(split, settings.hardware.workers, share), strict=True
        )
        return
    for index in share:
        with suppress(InputError):
            yield index, split[index]


def read_occurrence(path: Path) -> ClassOccurrence:
    """Read what `write_occurrence` has written.

    Raises:
        InputError: the file is damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as content:
            shape = tuple(content["shape"])
            shows = np.unpackbits(content["shows"], count=int(np.prod(shape))).reshape(shape)
            return ClassOccurrence(shows.astype(bool), content["pixels"])
    except Exception as error:
        raise InputError(f"{path} is damaged ({error}); delete it; it is then rebuilt") from error


def write_occurrence(path: Path, shown: ClassOccurrence) -> None:
    """Write the index, one bit per image and class."""
    bits, shape = np.packbits(shown.shows), shown.shows.shape

    def write(file: Path) -> None:
        # Through a file object, since NumPy would append its suffix to a path.
        with file.open("wb") as opened:
            np.savez_compressed(opened, shows=bits, shape=shape, pixels=shown.pixels)

    write_atomically(path, write)
