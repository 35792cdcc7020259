"""`fakd train`: train a teacher, or a student alone."""

from pathlib import Path
from typing import Any

import fakd
from fakd.errors import require_kinds
from fakd.files import expanded
from fakd.settings import (
    Augmentation,
    Broken,
    Existing,
    Freeze,
    Hardware,
    Inference,
    Intervals,
    Optimizer,
    Schedule,
    Settings,
    Stopping,
    Task,
)


def train(
    network: "fakd.Segmenter | str | Path | Any",
    data: "fakd.data.SegmentationData | str | Path",
    run: str | Path,
    schedule: Schedule = Schedule(),
    optimizer: Optimizer = Optimizer(),
    augmentation: Augmentation = Augmentation(),
    inference: Inference = Inference(),
    hardware: Hardware = Hardware(),
    intervals: Intervals = Intervals(),
    freeze: Freeze = Freeze(),
    stopping: Stopping = Stopping(),
    ema: float | None = None,
    task: Task = Task(),
    broken: Broken = "stop",
    seed: int = 0,
    existing: Existing = "refuse",
    profile: int | None = None,
) -> dict[str, Any]:
    """Train a network on labelled images: a teacher, or a student alone.

    The same command resumes a run that was stopped, and refuses a finished one.

    Args:
        network: what to train, for example pspnet with --network.backbone resnet18.
        data: labelled images: a folder, a .yaml file, or "scenes" for the built-in data.
        run: folder for the recipe, curves, checkpoints and weights.
        schedule: steps, batch size and learning rate.
        optimizer: SGD, AdamW or any other of torch.optim, and its arguments.
        augmentation: random changes of training images: scale, crop, flip, colour, mixing.
        inference: inference settings of evaluations: resizing, windows, flips, scales.
        hardware: devices, precision, workers and memory.
        intervals: how often to log, save and evaluate.
        freeze: which weights are not trained.
        stopping: when to stop before the last step.
        ema: evaluate and save an exponential moving average of the weights with this decay, for
            example 0.999.
        task: the task loss, on labels: class weights, Dice, Lovász, hardest pixels.
        broken: what to do with an unreadable training image or mask: stop, or skip it, print a
            note and count it in the result.
        seed: random seed of the run.
        existing: what to do with a finished run in the folder: refuse, reuse its result if the
            recipe is the same, overwrite it, or extend it to a larger schedule.steps.
        profile: number of steps to profile: print the time of each part, and write a trace
            (trace.json, for chrome://tracing or perfetto.dev) into the run's folder.

    Returns:
        The content of ``result.json``: final scores, best evaluation, parameters, seconds.
    """
    require_kinds(train, locals())
    # Imported here to keep `fakd train --help` fast.
    from fakd.inspection.readiness import require_labels
    from fakd.runs.recipe import recipe_of
    from fakd.training.company import sitting
    from fakd.training.loop import Training
    from fakd.training.memory_format import choose
    from fakd.training.objective import Supervised
    from fakd.training.preparation import require_step_memory
    from fakd.training.profiling import require_steps
    from fakd.training.start import (
        announce,
        console_of,
        finished_result,
        open_folder,
        start,
        weigh_classes,
    )
    from fakd.training.task import TaskLoss
    from fakd.training.validation import require_same_classes
    from fakd.training.wiring import opening, show_wiring, wiring

    run = expanded(run)
    data = fakd.data.open_data(data)
    schedule, optimizer = (
        schedule.settled(len(data.train.labelled_indices()), optimizer),
        optimizer.settled(),
    )
    require_steps(profile, schedule.steps)
    network = fakd.models.open_network(network, data.classes, trained=True)
    recipe = recipe_of(train, locals())
    require_same_classes(network, data)
    doubts = require_labels(data, skip=broken == "skip")
    settings = Settings.of(locals())
    fabric = start(hardware, seed, joining=True)
    console = console_of(fabric)
    with sitting(fabric, run):
        objective = Supervised(TaskLoss(task, data.classes, network.align_corners))
        # Before the folder is created, as they refuse invalid settings.
        settings, layout = choose(fabric, settings, run, existing, network)
        training = Training(fabric, network, objective, data, settings, console, run.name)
        require_step_memory(fabric, network, data, settings)
        with open_folder(fabric, console, run, recipe, existing, data, network=network) as folder:
            if (result := finished_result(fabric, folder)) is not None:
                return result
            wired = wiring(network, objective, data, settings)
            console.print(opening(data, settings, fabric.device), soft_wrap=True)
            show_wiring(console, wired)
            if folder:
                folder.note(wiring=wired._asdict(), **layout)
            announce(console, data, inference, doubts, network=network)
            weigh_classes(fabric, console, objective, data, settings, folder)
            return training.run(folder, profile=profile or 0)
