"""Start of a run: processes, device and folder, the same way on every process."""

import hashlib
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning_fabric import Fabric
from rich.console import Console
from torch import nn

from fakd import signals
from fakd.console import open_console, remark
from fakd.data import SegmentationData, evaluation_samples, training_batches
from fakd.errors import InputError, list_some, require_seed
from fakd.inference import to_unit
from fakd.losses.grid import labels_on_grid_of
from fakd.processes import all_sum, launched_processes
from fakd.runs.folder import RunFolder
from fakd.runs.recipe import describe
from fakd.settings import Existing, Hardware, Inference, Settings, Task
from fakd.signals import Interrupted
from fakd.threads import free_cores, require_threads
from fakd.training.interruption import agreed_signal
from fakd.training.objective import Objective
from fakd.training.progress import StepProgress
from fakd.training.task import automatic_weights
from fakd.types import IGNORE, Segmenter

if TYPE_CHECKING:
    from fakd.training.teacher import Teacher


def start(
    hardware: Hardware, seed: int, *, unused_parameters: bool = False, joining: bool = False
) -> Fabric:
    """Launch the processes and give all of them the same random seed.

    Args:
        hardware: devices, precision and threads.
        seed: the random seed.
        unused_parameters: some weights may get no gradient, which DDP must know.
        joining: join the processes that torchrun or srun started, if any.

    Raises:
        InputError: the machine lacks the accelerator or has too few devices or threads, the
            launcher started a different number of processes than ``hardware.devices``, or the
            seed is out of range.
    """
    require_seed(seed)
    threads, open_to_us = hardware.threads, not os.environ.get("OMP_NUM_THREADS")
    require_threads(threads or torch.get_num_threads())
    cuda = hardware.accelerator in ("auto", "cuda", "gpu") and torch.cuda.is_available()
    if hardware.precision == "16-mixed" and not cuda:
        raise InputError("hardware.precision 16-mixed needs a CUDA GPU; choose bf16-mixed here")
    devices, nodes = hardware.devices, 1
    here, total = launched_processes() if joining else (1, 1)
    if total > 1:
        if devices not in (1, here):
            raise InputError(
                f"{total} processes were started together, {here} of them on this machine, and "
                f"hardware.devices is {devices}; leave it out, or start {devices} on each machine"
            )
        devices, nodes = here, total // here
    strategy = "auto"
    if devices * nodes > 1:
        strategy = "ddp_find_unused_parameters_true" if unused_parameters else "ddp"
    try:
        fabric = Fabric(
            accelerator=hardware.accelerator,
            devices=devices,
            num_nodes=nodes,
            strategy=strategy,
            precision=hardware.precision,
        )
        fabric.launch()
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"cannot use hardware.accelerator {hardware.accelerator!r} with hardware.devices "
            f"{devices}: {reason}"
        ) from error
    if threads is None and open_to_us:
        threads = min(torch.get_num_threads(), max(1, free_cores() // devices))
    if threads is not None:
        # After the launch, which sets its own number for several devices.
        torch.set_num_threads(threads)
    torch.manual_seed(seed)
    return fabric


@contextmanager
def open_folder(
    fabric: Fabric,
    console: Console,
    path: Path,
    recipe: Mapping[str, Any],
    existing: Existing,
    data: SegmentationData,
    **networks: nn.Module | str,
) -> Iterator[RunFolder | None]:
    """Open and lock the run's folder on the first process; the others get None, or the same error.

    ``networks`` are the recipe's networks by key, or their fingerprints. Data and networks are
    compared by content, not by path.
    """
    folder, problem = None, None
    if fabric.is_global_zero:
        try:
            found = {
                key: each if isinstance(each, str) else fingerprint(each)
                for key, each in networks.items()
            }
            found["data"] = data.fingerprint()
            folder = RunFolder(path, recipe, existing, found)
        except InputError as error:
            problem = str(error)
    problem = fabric.broadcast(problem)
    if problem is not None:
        raise InputError(problem)
    with folder or nullcontext():
        for each in folder.remarks if folder else ():
            remark(console, f"{path.name} {each}")
        yield folder


def fingerprint(network: nn.Module) -> str:
    """Hash the names and values of a network's weights."""
    digest, state = hashlib.sha256(), network.state_dict()
    if not state:
        # An exported program exposes no weights: hash its output instead.
        noise = torch.rand(1, 3, 96, 128, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            logits = network.eval()(noise).logits
        state = {"answer": (logits * (1e3 / logits.abs().max())).round()}
    for name, tensor in state.items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def finished_result(fabric: Fabric, folder: RunFolder | None) -> dict[str, Any] | None:
    """Broadcast the result of a reused run; None if there is none."""
    return fabric.broadcast(folder.result if folder else None)


def console_of(fabric: Fabric) -> Console:
    """Open a console that prints on the first process only."""
    return open_console(quiet=not fabric.is_global_zero)


def pick_device(accelerator: str, threads: int | None = None) -> torch.device:
    """Choose one device for evaluation or prediction, and set the number of threads.

    Raises:
        InputError: the machine has no such accelerator.
    """
    return start(Hardware(accelerator=accelerator, threads=threads), seed=0).device


def weigh_classes(
    fabric: Fabric,
    console: Console,
    objective: Objective,
    data: SegmentationData,
    settings: Settings,
    folder: RunFolder | None,
) -> None:
    """Count the training labels if classes are weighted, and give advice on rare classes.

    Automatic weights are computed from all labels. A resumed run has them in its checkpoint.

    Raises:
        InputError: no pixel has a class.
        Interrupted: a signal asked to stop.
    """
    if objective.task is None or fabric.broadcast(folder is not None and folder.last.is_file()):
        return
    weighing, pixels = objective.class_weights(), None
    if weighing:
        automatic = [each for each in weighing if each.given_weights == "auto"]
        labelled = data.train.labelled_indices()
        looked_at = len(labelled) if automatic else min(len(labelled), _LOOKED_AT)
        every = [labelled[place * len(labelled) // looked_at] for place in range(looked_at)]
        pixels = _pixels_of_classes(fabric, console, data, settings, every)
        for each in automatic:
            each.weigh(automatic_weights(pixels))
        absent = [name for name, n in zip(data.class_names, pixels, strict=True) if n == 0]
        if absent:
            missing = list_some(absent, 3)
            remark(
                console, f"class_weights: none of {looked_at} training images contains {missing}"
            )
    if note := advice(objective.task.settings, data.class_names, pixels):
        remark(console, note)


_LOOKED_AT = 100
"""Images to read, within seconds, to check whether classes with given weights occur at all."""


def _pixels_of_classes(
    fabric: Fabric,
    console: Console,
    data: SegmentationData,
    settings: Settings,
    every: Sequence[int],
) -> list[int]:
    """Count the labelled pixels of each class in the given training images."""
    share = every[fabric.global_rank :: fabric.world_size]
    pixels = torch.zeros(data.classes, dtype=torch.long, device=fabric.device)
    samples = evaluation_samples(data.train, settings.hardware.workers, share)
    with StepProgress(console, "counting classes", len(share)) as display, closing(samples):
        for done, sample in enumerate(samples, start=1):
            if signals.received_signal():
                break
            if sample.labels is not None:
                named = sample.labels[sample.labels != IGNORE].long()
                pixels += named.bincount(minlength=data.classes).to(pixels.device)
            display.advance(done)
    if number := agreed_signal():
        raise Interrupted(number)
    return [int(count) for count in all_sum(pixels).tolist()]


def advice(task: Task, classes: Sequence[str], pixels: Sequence[int] | None = None) -> str | None:
    """Recommend a region loss if there are two classes, or one covers nearly all pixels.

    Args:
        task: no advice if it has a region loss already.
        classes: their names.
        pixels: number of pixels of each class, if known.
    """
    begin = "start with --task.dice 1, see Labels in docs/training.md"
    if task.dice or task.lovasz:
        return None
    if pixels is not None and max(pixels) > 0.95 * sum(pixels):
        largest = classes[pixels.index(max(pixels))]
        return f"{max(pixels) / sum(pixels):.1%} of the labelled pixels are {largest}; {begin}"
    few = len(classes) == 2 and pixels is None
    return f"there are two classes; if one is rare, {begin}" if few else None


def say_agreement(
    console: Console, teacher: "Teacher", data: SegmentationData, settings: Settings
) -> None:
    """Print how often the teacher predicts the labelled class, if it replaces missing labels."""
    labelled = data.train.labelled_indices()
    if not 0 < len(labelled) < len(data.train):
        return
    batch_size = settings.schedule.batch_size
    last = math.ceil(min(_AGREED_ON, len(labelled)) / batch_size)
    options: dict[str, Any] = {"lookup": teacher.lookup, "unlabelled_share": 0.0}
    augmentation = replace(settings.augmentation, mix=None)
    same, counted = 0, 0
    with closing(
        training_batches(
            data.train, augmentation, batch_size, settings.seed, 0, last, broken="skip", **options
        )
    ) as batches:
        for batch in batches:
            logits = teacher.answer(to_unit(batch.images.to(teacher.device)), batch).logits
            labels = labels_on_grid_of(logits, batch.labels.to(logits.device))
            known = labels != IGNORE
            same += int((logits.argmax(1) == labels)[known].sum())
            counted += int(known.sum())
    share = same / max(counted, 1)
    console.print(
        f"{len(data.train) - len(labelled)} of {len(data.train)} training images have no labels; "
        f"the teacher's predictions replace them, and match {share:.1%} of the labelled pixels of "
        f"{last * batch_size} crops",
        soft_wrap=True,
    )


_AGREED_ON = 32
"""Number of images on which teacher and labels are compared before training."""


def announce(
    console: Console,
    data: SegmentationData,
    inference: Inference,
    doubts: Sequence[str] = (),
    **networks: Segmenter,
) -> None:
    """Print remarks on networks and data, and on differences to the published protocol."""
    for role, network in networks.items():
        for each in network.remarks:
            remark(console, f"{role}: {each}")
    for each in (*data.remarks, *doubts):
        remark(console, each, "warning")
    if note := unlike_published(data, inference):
        remark(console, note)


def unlike_published(data: SegmentationData, inference: Inference) -> str | None:
    """Name the inference settings of published scores on this data that differ from these."""
    now = describe(inference)
    differing = {key: value for key, value in (data.protocol or {}).items() if now[key] != value}
    if not differing:
        return None
    flags = " ".join(f"--inference.{key} '{value}'" for key, value in differing.items())
    return f"published scores on {data.name} are measured with {flags}; these may differ"
