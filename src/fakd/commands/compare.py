"""`fakd compare`: does it help? Pairs x methods x seeds, and a verdict."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

import fakd
from fakd.settings import Augmentation, Average, Hardware, Inference, Intervals, Place, Schedule

if TYPE_CHECKING:
    from fakd.comparing.cell import Cell
    from fakd.comparing.engines import Engine
    from fakd.runs.reading import Run


def compare(
    data: "fakd.data.SegmentationData | str | Path",
    run: str | Path,
    teacher: dict[str, Any] | str | Path | None = None,
    student: dict[str, Any] | str | Path | None = None,
    pairs: dict | None = None,
    methods: dict | list[str] | str = "alone,cwd,cwd-fa",
    seeds: int | list[int] | str = 3,
    minutes: float | None = None,
    schedule: Schedule = Schedule(),
    augmentation: Augmentation = Augmentation(),
    inference: Inference = Inference(),
    hardware: Hardware = Hardware(),
    intervals: Intervals = Intervals(),
    auxiliary_weight: float = 0.4,
    average: Average = "valid",
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
        augmentation: how training images are varied.
        inference: how images are shown to the networks when they are evaluated.
        hardware: where and how each run computes.
        intervals: how often each run logs, saves and evaluates.
        auxiliary_weight: factor of the auxiliary head's cross-entropy.
        average: divide the cross-entropy by the valid pixels, or by all as mmsegmentation 0.x did.
        check_teacher: let every run evaluate its teacher first, and refuse one that knows nothing.
        on: this machine, a Ray cluster, or SLURM.
        parallel: runs at a time; one per GPU, or one, if not given.
        cluster: what Ray (ray.init) or SLURM (submitit) needs to know, as {slurm_partition: gpu}.

    Returns:
        Every finished run, as `fakd.runs.reading` reads it.

    Raises:
        ChildProcessError: runs have failed; the others are finished.
    """
    # Imported here because `fakd compare --help` need not wait for it.
    from fakd.comparing.engines import open_engine
    from fakd.comparing.grid import Grid
    from fakd.comparing.methods import resolve_methods, resolve_pairs, resolve_seeds
    from fakd.comparing.verdict import cautions, references, verdict_table, verdicts
    from fakd.runs.reading import by_pair, read_grid
    from fakd.runs.recipe import describe

    settings = describe(
        {
            "data": fakd.data.open_data(data),
            "schedule": schedule,
            "augmentation": augmentation,
            "inference": inference,
            "hardware": hardware,
            "intervals": intervals,
            "auxiliary_weight": auxiliary_weight,
            "average": average,
            "check_teacher": check_teacher,
        }
    )
    grid = Grid(
        Path(run),
        resolve_pairs(pairs, teacher, student),
        resolve_methods(methods),
        resolve_seeds(seeds),
        settings,
        minutes,
    )
    engine = open_engine(on, hardware, parallel, cluster or {}, str(grid.run / "jobs"))
    grid.open()
    console = Console(highlight=False)
    cells = grid.cells()
    console.print(
        f"{len(cells)} runs in {grid.run}: {len(grid.pairs)} pair(s) x {len(grid.methods)} methods "
        f"x {len(grid.seeds)} seeds, {sum(cell.finished for cell in cells)} finished",
        soft_wrap=True,
    )
    failed = _run(cells, minutes, engine, console)
    runs, failures = read_grid(grid.run)
    for (name, pair), by_method in by_pair(runs).items():
        console.print(f"\n[bold]{pair} on {name}[/]", soft_wrap=True)
        compared = references(by_method)
        failed_here = [each for each in failures if each.pair == pair]
        console.print(verdict_table(by_method, compared, failed_here))
        for sentence in (*verdicts(compared), *cautions(compared)):
            console.print(sentence, soft_wrap=True)
    if failed:
        raise ChildProcessError(
            f"{len(failed)} of {len(cells)} runs failed, the first is {failed[0].label} "
            f"({failed[0].failure}); the same command tries them again"
        )
    return runs


def _run(
    cells: "Sequence[Cell]", minutes: float | None, engine: "Engine", console: Console
) -> "list[Cell]":
    """Do all that is unfinished and return what failed."""
    from fakd.comparing.cell import attempt
    from fakd.comparing.work import GridProgress, work

    lost: list[Cell] = []
    if minutes is not None:
        cells, lost = _timed(cells, minutes, engine, console)
    failed = work(attempt, cells, engine, GridProgress(console, "runs", cells))
    engine.close()
    return [*lost, *failed]


def _timed(
    cells: "Sequence[Cell]", minutes: float, engine: "Engine", console: Console
) -> "tuple[list[Cell], list[Cell]]":
    """Give every cell the steps its method makes in the time; those that cannot be timed fail."""
    from fakd.comparing.calibration import measure, trial_of, within
    from fakd.comparing.work import GridProgress, work

    ready = [cell for cell in cells if cell.finished]
    rest = [cell for cell in cells if not cell.finished]
    trials = {cell.folder.parent: trial_of(cell) for cell in rest}
    display = GridProgress(console, "timing", [*trials.values()])
    reasons = {
        trial.folder.parent: trial.failure
        for trial in work(measure, [*trials.values()], engine, display)
    }
    lost = []
    for cell in rest:
        method = cell.folder.parent
        if method in reasons:
            cell.record_failure(reasons[method] or "its steps could not be timed")
            lost.append(cell)
        else:
            ready.append(within(cell, minutes, trials[method]))
    return ready, lost
