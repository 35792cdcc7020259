"""`fakd train`: train a teacher, or a student alone."""

from pathlib import Path
from typing import Any

import fakd
from fakd.settings import (
    Augmentation,
    Average,
    Broken,
    Existing,
    Hardware,
    Inference,
    Intervals,
    Schedule,
    Settings,
)


def train(
    network: "fakd.Segmenter",
    data: "fakd.data.SegmentationData | str | Path",
    run: str | Path,
    schedule: Schedule = Schedule(),
    augmentation: Augmentation = Augmentation(),
    inference: Inference = Inference(),
    hardware: Hardware = Hardware(),
    intervals: Intervals = Intervals(),
    auxiliary_weight: float = 0.4,
    average: Average = "valid",
    broken: Broken = "stop",
    seed: int = 0,
    existing: Existing = "refuse",
) -> dict[str, Any]:
    """Train a network on labelled images: a teacher, or a student alone.

    The same command continues a run that was stopped, and refuses to touch a finished one.

    Args:
        network: what to train, for example pspnet with --network.backbone resnet18.
        data: labelled images: a folder, a .yaml file, or "scenes" for the built-in data.
        run: folder for the recipe, curves, checkpoints and weights.
        schedule: how long and how fast to train.
        augmentation: how training images are varied.
        inference: how images are shown to the network when it is evaluated.
        hardware: where and how to compute.
        intervals: how often to log, save and evaluate.
        auxiliary_weight: factor of the auxiliary head's cross-entropy.
        average: divide the cross-entropy by the valid pixels, or by all as mmsegmentation 0.x did.
        broken: what to do about a training image or mask that cannot be read: stop, or skip it,
            say so, and count it in the result.
        seed: all that is random in the run derives from it.
        existing: what to do where a finished run already is: refuse, reuse its result if the recipe
            is the same, or overwrite it.

    Returns:
        What ``result.json`` holds: final scores, best evaluation, parameters, seconds.
    """
    # Imported here because `fakd train --help` need not wait for it.
    from fakd.runs.recipe import recipe_of
    from fakd.training.loop import Training
    from fakd.training.objective import Supervised
    from fakd.training.start import announce, console_of, finished_result, open_folder, start
    from fakd.training.validation import require_same_classes

    run = Path(run)
    data = fakd.data.open_data(data)
    recipe = recipe_of(train, locals())
    require_same_classes(network, data)
    settings = Settings(schedule, augmentation, inference, hardware, intervals, seed, broken)
    fabric = start(hardware, seed)
    folder = open_folder(fabric, run, recipe, existing)
    if (result := finished_result(fabric, folder)) is not None:
        return result
    objective = Supervised(auxiliary_weight, average)
    console = console_of(fabric)
    announce(console, data, inference)
    return Training(fabric, network, objective, data, settings, folder, console, run.name).run()
