"""`fakd compare`: train pairs x methods x seeds, and give verdicts on what helped."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fakd.comparing.design import LEAST, Against, Design, record_look
from fakd.comparing.engines import Engine, Place, open_engine
from fakd.comparing.grid import Grid
from fakd.comparing.work import expected_seconds, work_all
from fakd.console import open_console
from fakd.errors import InputError
from fakd.files import expand_user, read_yaml, write_yaml
from fakd.runs.folder import OPENED
from fakd.runs.naming import ALONE
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
    from rich.console import Console

    from fakd.comparing.cell import Cell
    from fakd.comparing.verdict import Comparison
    from fakd.data import SegmentationData
    from fakd.runs.reading import Failure, Outcome, Run

SPREAD = 1.0
"""Assumed standard deviation of paired differences in mIoU, before any is measured."""


def compare(
    data: "SegmentationData | str | Path",
    run: str | Path,
    teacher: dict[str, Any] | str | Path | None = None,
    student: dict[str, Any] | str | Path | None = None,
    pairs: dict | None = None,
    methods: dict | list[str] | str = "alone,cwd,cwd-fa",
    seeds: int | list[int] | str = 3,
    minutes: float | None = None,
    primary: str | None = None,
    against: Against = "alone",
    worthwhile: float | None = None,
    until_decided: bool = False,
    most: int = 12,
    confirms: str | None = None,
    final: bool = False,
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
    classes_from: dict | str | None = None,
    on: Place = "local",
    parallel: int | None = None,
    cluster: dict | None = None,
) -> "list[Run]":
    """Compare distillation methods with the student alone over several seeds; say what helped.

    For example: fakd compare --teacher runs/teacher --student pspnet --student.backbone resnet18
    --data FOLDER --methods alone,cwd,cwd+fa --seeds 3 --run runs/comparison

    Or fakd compare GRID.yaml, a file with any of these values. Every run is a separate process in
    RUN/PAIR/METHOD/seed-N. The same command resumes a comparison, and several copies share the
    work; with more methods, seeds or pairs it adds the new runs. A failed run is reported with its
    last line, does not stop the others, and is retried by the same command.

    Args:
        data: images: a folder, a .yaml file, or "scenes" for the built-in data.
        run: folder of the comparison.
        teacher: a finished run or weight file, or any network with its weights.
        student: the network to train, for example pspnet with --student.backbone
            mobilenetv3_small_050.
        pairs: several teachers and students instead, {NAME: {teacher: ..., student: ...}}.
        methods: presets, such as alone,cwd,cwd+fa; or your own, {NAME: {distillation: {class_path:
            ..., init_args: ...}}}, where any setting may differ, such as schedule.
        seeds: how many, starting from 0, or which, such as 3,4,5.
        minutes: train every run for this time instead of schedule.steps; a step of each method is
            timed first.
        primary: the method that the comparison is about; its result needs no confirmation.
        against: the reference of the primary method: the student alone, or CWD.
        worthwhile: the smallest difference in mIoU that matters; by default that of the data, or 1.
        until_decided: start with 3 seeds and add more, at 6 and at most, until the primary or only
            method is decided; the total error over all looks is at most 5 %.
        most: number of seeds at which to stop undecided.
        confirms: the comparison in which the methods were selected, as written by fakd compare
            confirm.
        final: at the end, score every finished run on the data's test split. This is done once: the
            comparison accepts no more runs afterwards.
        schedule: how long and how fast to train.
        optimizer: the optimiser: SGD, AdamW or any other of torch.optim.
        augmentation: how training images are augmented.
        inference: how images are scaled and tiled for evaluation.
        hardware: where and how each run computes.
        intervals: how often each run logs, saves and evaluates.
        freeze: which weights are not trained.
        stopping: when to stop a run before its last step.
        ema: evaluate and save an exponential moving average of the weights with this decay.
        task: the loss against the labels: class weights, Dice, hardest pixels.
        check_teacher: let every run evaluate its teacher first, and refuse a useless one.
        classes_from: a .yaml file that maps the teachers' classes to those of the data, if they
            differ; for one pair, {source: ..., classes_from: ...} as its teacher.
        on: this machine, a Ray cluster, or SLURM.
        parallel: concurrent runs; by default one per GPU, or one.
        cluster: configuration of Ray (ray.init) or SLURM (submitit), such as {slurm_partition:
            gpu}.

    Returns:
        Every finished run.

    Raises:
        ChildProcessError: runs have failed; the others are finished.
    """
    # Imported here to keep `fakd compare --help` fast.
    from fakd.answers.classes import read_class_map
    from fakd.comparing.methods import resolve_methods, resolve_pairs, resolve_seeds
    from fakd.data import open_data
    from fakd.inspection.readiness import require_labels
    from fakd.runs.recipe import describe
    from fakd.training.compiling import require_compilers
    from fakd.training.start import announce, pick_device

    opened, optimizer = open_data(data), optimizer.settled()
    mapped = None if classes_from is None else read_class_map(classes_from).content
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
            "classes_from": mapped,
        }
    )
    first = resolve_seeds(seeds)
    margin = opened.worthwhile if worthwhile is None else worthwhile
    design = Design(primary, against, margin, most if until_decided else None, confirms)
    grid = Grid(
        expand_user(run),
        resolve_pairs(pairs, teacher, student),
        resolve_methods(methods),
        first,
        settings,
        minutes,
        design,
    )
    if until_decided and primary is None and len(grid.methods) != 2:
        raise InputError(
            "--until_decided needs --primary METHOD, the method to be decided, if there are several"
        )
    if until_decided and len(first) > most:
        raise InputError(f"expected --seeds of no more than --most {most}, got {len(first)}")
    closed = final and not (grid.run / OPENED).is_file()
    doubts = require_labels(opened, ("train", "val", "test") if closed else ("train", "val"))
    if on == "local":
        require_compilers(pick_device(hardware.accelerator), hardware)
    console = open_console()
    announce(console, opened, inference, doubts)
    counts = [len(first)]
    if until_decided:
        # A comparison that already has more seeds resumes there.
        reached = max(len(first), grid.begun())
        counts = [each for each in design.looks if each >= reached]
    with closing(
        open_engine(on, hardware, parallel, cluster or {}, str(grid.run / "jobs"))
    ) as engine:
        for count in counts:
            if until_decided:
                more = range(max(first) + 1, max(first) + 1 + count - len(first))
                grid = replace(grid, seeds=[*first, *more])
            grid.require_data(opened.fingerprint)
            grid.open()
            if until_decided and count == counts[0]:
                _announce_looks(grid, engine, console)
            cells = grid.cells()
            known = {cell.folder for cell in cells if cell.failure is not None}
            outcome, decided, failed = _run_and_judge(grid, engine, console)
            if decided or failed:
                break
        # A failure already known before this command does not block scoring of the others.
        seen = all(cell.folder in known for cell in failed)
        if final and seen and outcome.runs and (decided or count == counts[-1]):
            _print_test_verdicts(grid, outcome, opened, hardware, console)
    if failed:
        then = " and opens the test split without those that fail again" if final else ""
        raise ChildProcessError(
            f"{len(failed)} of {len(cells)} runs failed, the first is {failed[0].label} "
            f"({failed[0].failure}); the same command retries them{then}"
        )
    own = {cell.folder for cell in cells}
    if unusable := [each for each in outcome.failures if each.folder in own]:
        raise ChildProcessError(
            f"{len(unusable)} of {len(cells)} finished runs cannot be used, the first is "
            f"{unusable[0].folder} ({unusable[0].reason}); move it elsewhere, and the same command "
            "trains that run anew"
        )
    return outcome.runs


def _announce_looks(grid: Grid, engine: Engine, console: "Console") -> None:
    """Print the seeds needed for the margin and, if nothing is done yet, their training time."""
    from fakd.comparing.statistics import seeds_needed

    margin, design, cells = grid.design.worthwhile, grid.design, grid.cells()
    one_seed = cells[: len(grid.pairs) * len(grid.methods)]
    seconds = None
    if not any(cell.finished for cell in cells):
        seconds = expected_seconds(one_seed, grid.minutes, engine, console)

    def lasting(seeds: int) -> str:
        if seconds is None:
            return ""
        minutes = seeds * seconds / min(engine.slots, seeds * len(one_seed)) / 60
        long = f"{minutes / 60:.1f} h" if minutes >= 60 else f"{max(minutes, 1):.0f} min"
        return f" (about {long} of training)"

    needed = seeds_needed(SPREAD, margin)
    console.print(
        f"{f'about {needed}' if needed else 'more than 100'} seeds{lasting(needed or 100)} detect "
        f"{margin:g} mIoU at a usual spread of {SPREAD:g} over paired seeds; verdicts at "
        f"{', '.join(map(str, design.looks))} seeds{lasting(design.looks[-1])}",
        soft_wrap=True,
    )


def _run_and_judge(
    grid: "Grid", engine: Engine, console: "Console"
) -> "tuple[Outcome, bool, list[Cell]]":
    """Run a grid and print verdicts; return outcome, whether all are decided, and failed cells."""
    from fakd.comparing.verdict import is_primary, tone
    from fakd.runs.reading import read_grid

    cells = grid.cells()
    console.print(
        f"{len(cells)} runs in {grid.run}: {len(grid.pairs)} pair(s) x {len(grid.methods)} methods "
        f"x {len(grid.seeds)} seeds, {sum(cell.finished for cell in cells)} finished",
        soft_wrap=True,
    )
    failed = work_all(cells, grid.minutes, engine, console)
    outcome = read_grid(grid.run)
    record_look(grid.run, len(grid.seeds))
    said = _print_verdicts(outcome.runs, outcome.failures, console)
    tones = [tone(each) for each in said if grid.design.primary is None or is_primary(each)]
    decided = bool(tones) and all(each in ("helped", "hurt", "flat") for each in tones)
    return outcome, decided, failed


def _print_verdicts(
    runs: "Sequence[Run]", failures: "Sequence[Failure]", console: "Console"
) -> "list[Comparison]":
    """Print a table of methods and the verdicts of each pair."""
    from fakd.comparing.verdict import references, sentence, unequal_training
    from fakd.report.methods import terminal_table
    from fakd.runs.reading import by_pair

    comparisons = []
    for (name, pair), found in by_pair(runs).items():
        console.print(f"\n{pair} on {name}", style="bold", soft_wrap=True)
        compared = references(found)
        console.print(
            terminal_table(found, compared, [each for each in failures if each.pair == pair])
        )
        for each in chain.from_iterable(compared.values()):
            console.print(sentence(each), soft_wrap=True)
            comparisons.append(each)
        if unequal := unequal_training(found):
            console.print(unequal, soft_wrap=True)
    return comparisons


def _print_test_verdicts(
    grid: Grid,
    outcome: "Outcome",
    data: "SegmentationData",
    hardware: Hardware,
    console: "Console",
) -> None:
    """Score the test split, or read its earlier scores, and print the verdicts on it."""
    from fakd.report.final import score_test_split

    scored = score_test_split(grid.run, outcome.runs, data, hardware, console)
    _print_verdicts(scored, outcome.failures, console)
    test = scored[0].result["test"]
    console.print(
        f"\ntest split opened {test['opened']} by {test['command']}; its scores are stored in "
        f"{grid.run / OPENED}, and no more runs may be added to the comparison",
        soft_wrap=True,
    )


def confirm(
    run: str | Path, methods: list[str] | str, seeds: int = 3, out: Path | None = None
) -> Path:
    """Write a grid that confirms the result of a comparison: the same with new seeds.

    For example: fakd compare confirm runs/comparison --methods cwd+fa

    Then fakd compare GRID.yaml runs it. Its seeds played no part in the selection, so its result
    stands by itself.

    Args:
        run: folder of the comparison.
        methods: the methods to confirm; the student alone is always included.
        seeds: how many new seeds.
        out: the file; RUN-confirm.yaml by default.

    Returns:
        The file.
    """
    from fakd.comparing.methods import as_names, canonical_name, resolve_methods
    from fakd.runs.folder import GRID

    run = expand_user(run)
    if not (run / GRID).is_file():
        raise InputError(f"expected a comparison with {GRID} in {run}, found none")
    grid = read_yaml(run / GRID)
    if seeds < LEAST:
        raise InputError(
            f"expected --seeds of at least {LEAST}, got {seeds}; fewer give no verdict"
        )
    names = list(dict.fromkeys([ALONE, *map(canonical_name, as_names(methods))]))
    if names == [ALONE]:
        raise InputError("expected --methods to name what is to be confirmed, such as cwd")
    if missing := [name for name in names if name not in grid["methods"]]:
        known = ", ".join(grid["methods"])
        raise InputError(f"{run} has no method {missing[0]!r}; it has {known}")
    chosen = {name: grid["methods"][name] for name in names}
    resolve_methods(chosen)
    begin = max(grid["seeds"]) + 1
    target = out or run.with_name(f"{run.name}-confirm.yaml")
    if target.exists():
        raise InputError(f"{target} exists; choose another --out")
    changed: dict[str, Any] = {
        "run": str(target.with_suffix("")),
        "methods": chosen,
        "confirms": str(run),
    }
    changed |= {"seeds": list(range(begin, begin + seeds)), "primary": None, "against": "alone"}
    write_yaml(target, {**grid, **changed, "until_decided": False})
    console = open_console()
    console.print(f"written to {target}; fakd compare {target} runs it", soft_wrap=True)
    return target
