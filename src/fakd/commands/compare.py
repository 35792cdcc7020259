"""`fakd compare`: does it help? Pairs x methods x seeds, and a verdict."""

from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fakd.comparing.engines import Place, open_engine
from fakd.comparing.grid import Grid
from fakd.comparing.work import work_all
from fakd.console import open_console
from fakd.files import expanded
from fakd.settings import (
    Augmentation,
    Freeze,
    Hardware,
    Inference,
    Intervals,
    Optimizer,
    Schedule,
    Stopping,
    Task,
)

if TYPE_CHECKING:
    from fakd.data import SegmentationData
    from fakd.runs.reading import Run


def compare(
    data: "SegmentationData | str | Path",
    run: str | Path,
    teacher: dict[str, Any] | str | Path | None = None,
    student: dict[str, Any] | str | Path | None = None,
    pairs: dict | None = None,
    methods: dict | list[str] | str = "alone,cwd,cwd-fa",
    seeds: int | list[int] | str = 3,
    minutes: float | None = None,
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
    check_teacher: bool = True,
    on: Place = "local",
    parallel: int | None = None,
    cluster: dict | None = None,
) -> "list[Run]":
    """Compare distillation methods over seeds, the student alone among them, and say what helped.

    For example: fakd compare --teacher runs/teacher --student pspnet --student.backbone resnet18
    --data FOLDER --methods alone,cwd,cwd+fa --seeds 3 --run runs/comparison

    Or fakd compare GRID.yaml, a file with any of these values. Every run is a process of its own in
    RUN/PAIR/METHOD/seed-N. The same command, stopped or started twice, shares and continues the
    work; with more methods, seeds or pairs it runs what is new. A run that fails is shown with its
    last line, does not stop the others, and is tried again by the same command.

    Args:
        data: images: a folder, a .yaml file, or "scenes" for the built-in data.
        run: folder of the comparison.
        teacher: a finished run or weight file, or any network with its weights.
        student: what to train, for example pspnet with --student.backbone mobilenetv3_small_050.
        pairs: several teachers and students instead, {NAME: {teacher: ..., student: ...}}.
        methods: presets, as alone,cwd,cwd+fa; or your own, {NAME: {distillation: {class_path: ...,
            init_args: ...}}}, where any setting may differ, such as schedule.
        seeds: how many, from 0 on, or which, as 3,4,5.
        minutes: train every run for so long instead of schedule.steps; a step of each method is
            timed first.
        schedule: how long and how fast to train.
        optimizer: how gradients change weights: SGD, AdamW or any other of torch.optim.
        augmentation: how training images are varied.
        inference: how images are shown to the networks when they are evaluated.
        hardware: where and how each run computes.
        intervals: how often each run logs, saves and evaluates.
        freeze: which weights stay as they are.
        stopping: when to end a run before its last step.
        ema: evaluate and save a moving average of the weights that keeps this share of itself.
        task: what is asked of the networks by the labels: class weights, Dice, hardest pixels.
        check_teacher: let every run evaluate its teacher first, and refuse one that knows nothing.
        on: this machine, a Ray cluster, or SLURM.
        parallel: runs at a time; one per GPU, or one, if not given.
        cluster: what Ray (ray.init) or SLURM (submitit) needs to know, as {slurm_partition: gpu}.

    Returns:
        Every finished run, as `fakd.runs.reading` reads it.

    Raises:
        ChildProcessError: runs have failed; the others are finished.
    """
    # Imported here because `fakd compare --help` need not wait for them.
    from fakd.comparing.methods import resolve_methods, resolve_pairs, resolve_seeds
    from fakd.comparing.verdict import references, sentence
    from fakd.data import open_data
    from fakd.inspection.readiness import require_labels
    from fakd.report.methods import terminal_table
    from fakd.runs.reading import by_pair, read_grid
    from fakd.runs.recipe import describe
    from fakd.training.start import announce

    opened, optimizer = open_data(data), optimizer.settled()
    settings = describe(
        {
            "data": opened,
            "schedule": schedule.settled(len(opened.train), optimizer),
            "optimizer": optimizer,
            "augmentation": augmentation,
            "inference": inference,
            "hardware": hardware,
            "intervals": intervals,
            "freeze": freeze,
            "stopping": stopping,
            "ema": ema,
            "task": task,
            "check_teacher": check_teacher,
        }
    )
    grid = Grid(
        expanded(run),
        resolve_pairs(pairs, teacher, student),
        resolve_methods(methods),
        resolve_seeds(seeds),
        settings,
        minutes,
    )
    doubts = require_labels(opened)
    engine = open_engine(on, hardware, parallel, cluster or {}, str(grid.run / "jobs"))
    grid.open()
    console = open_console()
    announce(console, opened, inference, doubts)
    cells = grid.cells()
    console.print(
        f"{len(cells)} runs in {grid.run}: {len(grid.pairs)} pair(s) x {len(grid.methods)} methods "
        f"x {len(grid.seeds)} seeds, {sum(cell.finished for cell in cells)} finished",
        soft_wrap=True,
    )
    failed = work_all(cells, minutes, engine, console)
    outcome = read_grid(grid.run)
    for (name, pair), found in by_pair(outcome.runs).items():
        console.print(f"\n{pair} on {name}", style="bold", soft_wrap=True)
        compared = references(found)
        failures = [each for each in outcome.failures if each.pair == pair]
        console.print(terminal_table(found, compared, failures))
        for each in chain.from_iterable(compared.values()):
            console.print(sentence(each), soft_wrap=True)
    if failed:
        raise ChildProcessError(
            f"{len(failed)} of {len(cells)} runs failed, the first is {failed[0].label} "
            f"({failed[0].failure}); the same command tries them again"
        )
    return outcome.runs
