"""`fakd train`: train a teacher, or a student alone."""

from pathlib import Path
from typing import Any

import fakd
from fakd.errors import require_kinds
from fakd.files import expand_user
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

    The same command resumes an interrupted run, and refuses to touch a finished one.

    Args:
        network: the network to train, for example pspnet with --network.backbone resnet18.
        data: labelled images: a folder, a .yaml file, or "scenes" for the built-in data.
        run: folder for the recipe, curves, checkpoints and weights.
        schedule: how long and how fast to train.
        optimizer: the optimiser: SGD, AdamW or any other of torch.optim.
        augmentation: how training images are augmented.
        inference: how images are scaled and tiled for evaluation.
        hardware: where and how to compute.
        intervals: how often to log, save and evaluate.
        freeze: which weights are not trained.
        stopping: when to stop before the last step.
        ema: evaluate and save an exponential moving average of the weights with this decay per
            step, for example 0.999.
        task: the loss against the labels: class weights, Dice, hardest pixels.
        broken: what to do about an unreadable training image or mask: stop, or skip it with a
            message and count it in the result.
        seed: the source of all randomness in the run.
        existing: what to do if the run is already finished: refuse, reuse its result if the recipe
            is the same, overwrite it, or extend it to a larger schedule.steps.
        profile: profile this many steps, print where their time goes, and write a trace
            (trace.json, for chrome://tracing or perfetto.dev) into the run's folder.

    Returns:
        The content of ``result.json``: final scores, best evaluation, parameters, seconds.
    """
    require_kinds(train, locals())
    # Imported here to keep `fakd train --help` fast.
    from fakd.inspection.readiness import require_labels
    from fakd.runs.recipe import recipe_of
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
    from fakd.training.supervision import ends_in_order
    from fakd.training.task import TaskLoss
    from fakd.training.validation import require_same_classes
    from fakd.training.wiring import run_summary, show_wiring, wiring

    run = expand_user(run)
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
    with ends_in_order(fabric, run):
        objective = Supervised(TaskLoss(task, data.classes, network.align_corners, hardware.triton))
        # Before the folder is created, as they refuse invalid settings.
        settings, layout = choose(fabric, settings, run, existing, network)
        training = Training(fabric, network, objective, data, settings, console, run.name)
        require_step_memory(fabric, network, data, settings)
        with open_folder(fabric, console, run, recipe, existing, data, network=network) as folder:
            if (result := finished_result(fabric, folder)) is not None:
                return result
            wired = wiring(network, objective, data, settings)
            console.print(run_summary(data, settings, fabric.device), soft_wrap=True)
            show_wiring(console, wired)
            if folder:
                folder.note(wiring=wired._asdict(), **layout)
            announce(console, data, inference, doubts, network=network)
            weigh_classes(fabric, console, objective, data, settings, folder)
            return training.run(folder, profile=profile or 0)
