"""`fakd check`: checks of data, networks and settings before a long run, on one page."""

from dataclasses import replace
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

import fakd
from fakd.errors import InputError, count_noun
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

if TYPE_CHECKING:
    from fakd.data import SegmentationData
    from fakd.inspection import Finding
    from fakd.training.teacher import Teacher
    from fakd.training.teacher_check import TeacherScores
    from fakd.training.trial import Trial

_DATA_SECONDS, _TEACHER_SECONDS, _FEEDING_SECONDS, _STEP_SECONDS = 5.0, 6.0, 8.0, 10.0


def doctor(
    data: "fakd.data.SegmentationData | str | Path",
    student: "fakd.Segmenter | str | Path | Any | None" = None,
    teacher: "fakd.Segmenter | fakd.answers.Source | str | Path | Any | None" = None,
    network: "fakd.Segmenter | str | Path | Any | None" = None,
    out: Path | None = None,
    run: str | Path | None = None,
    distillation: "fakd.DistillationLoss | None" = None,
    fit: str | None = None,
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
    int8: bool = False,
    broken: Broken = "stop",
    seed: int = 0,
    existing: Existing = "refuse",
) -> dict[str, Any]:
    """Check data, networks and first steps before a long run, in under a minute.

    It takes the arguments of `fakd distill`, or of `fakd train`, and writes no run. It makes a
    quick pass over the data, compares the networks, scores the teacher on a few validation images,
    and reports every loss term, the ratio of the distillation's gradient to the task's, a few steps
    at the highest learning rate, memory and time. It ends with "ready", exit code 0, or with what
    to change, the most important first, exit code 1.

    Args:
        data: images: a folder, a .yaml file, or "scenes" for the built-in data.
        student: the network to distil into.
        teacher: the network to learn from.
        network: a network to train without a teacher.
        out: a PNG of eight validation images, their labels and the teacher's predictions; an
            existing one is replaced. None writes nothing.
        run: the folder planned for the run; refused if it is taken.
        distillation: the loss against the teacher; cwd by default, pd if no image has labels;
            cwd-fa for FAKD.
        fit: a budget for the student; see `fakd distill`.
        schedule: how long and how fast to train.
        optimizer: the optimiser: SGD, AdamW or any other of torch.optim.
        augmentation: how training images are augmented.
        inference: how images are scaled and tiled for evaluation.
        hardware: where and how to compute; one device is tested.
        intervals: how often to log, save and evaluate.
        freeze: which weights are not trained.
        stopping: when to stop before the last step.
        ema: decay of a moving average of the weights.
        task: the loss against the labels: class weights, Dice, hardest pixels.
        check_teacher: whether the run will evaluate the teacher first; here it always is.
        classes_from: a .yaml file that maps the teacher's classes to those of the data, if they
            differ.
        int8: whether the student will be trained with rounding to 8 bits.
        broken: what to do about an unreadable training image or mask.
        seed: the source of all randomness in the run.
        existing: what to do if the run is already finished.

    Returns:
        The results, JSON-serialisable; ``ready`` tells whether nothing must be changed. Without
        results of the steps if there is too little memory for them.
    """
    # Imported here to keep `fakd check --help` fast.
    from fakd.fitting import settle
    from fakd.inspection import Finding, Severity
    from fakd.inspection.readiness import require_labels
    from fakd.training import trial
    from fakd.training.compiling import require_compilers
    from fakd.training.int8 import train_for_int8
    from fakd.training.loop import Training
    from fakd.training.objective import (
        Distillation,
        Supervised,
        default_loss,
        doubts_without_labels,
    )
    from fakd.training.start import console_of, start
    from fakd.training.task import TaskLoss
    from fakd.training.teacher import open_teacher, require_distinct, teacher_of
    from fakd.training.validation import require_same_classes
    from fakd.training.wiring import show_wiring, wiring

    wanted_student = student is not None or fit is not None
    if wanted_student == (network is not None) or (teacher is not None and not wanted_student):
        raise InputError(
            "expected --student and --teacher, for fakd distill, or --network, for fakd train"
        )
    if wanted_student and teacher is None:
        raise InputError("expected --teacher with --student; give --network to train alone")
    if out is not None and out.suffix.lower() != ".png":
        raise InputError(f"--out must end in .png, got {out}; name it {out.with_suffix('.png')}")
    data = fakd.data.open_data(data)
    schedule, optimizer = schedule.settled(len(data.train), optimizer), optimizer.settled()
    hardware, devices = replace(hardware, devices=1), hardware.devices
    asked = None if teacher is None else open_teacher(teacher, data.classes)
    fitted = None
    if fit is not None:
        student, fitted = settle(fit, student, data, inference, hardware, seed)
    learner = network if student is None else student
    learner = fakd.models.open_network(learner, data.classes, trained=True)
    require_same_classes(learner, data)
    doubts = require_labels(data, unlabelled=teacher is not None, skip=broken == "skip")
    if isinstance(asked, fakd.Segmenter):
        require_distinct(asked, learner)
    wanted = Settings.of(locals())
    # Every step at the peak learning rate, with one device's share of the batch.
    batch_size = max(1, schedule.batch_size // devices)
    steps = replace(schedule, shape="constant", warmup=0, batch_size=batch_size)
    fabric = start(hardware, seed)
    require_compilers(fabric.device, hardware)
    # Sizes vary in this check, and each would be compiled separately.
    hardware = replace(hardware, compile=False)
    settings = replace(wanted, schedule=steps, hardware=hardware)
    console = console_of(fabric)
    if classes_from is not None and asked is not None:
        asked = fakd.answers.Mapped(asked, classes_from)
    answers = None if asked is None else teacher_of(asked, data, fabric, hardware)
    kernels = learner.align_corners, hardware.triton
    by_labels = TaskLoss(task, data.classes, *kernels) if data.train.labelled else None
    objective: Distillation | Supervised
    if answers is None:
        objective = Supervised(TaskLoss(task, data.classes, *kernels))
    else:
        loss = default_loss(data.train.labelled) if distillation is None else distillation
        if not data.train.labelled:
            doubts += doubts_without_labels(loss)
        objective = Distillation(answers.network, learner, loss, by_labels, task.confidence)
    quiet = Console(quiet=True)
    training = Training(fabric, learner, objective, data, settings, quiet, "check", answers)
    if int8:
        train_for_int8(learner)
    counts = f"{len(data.train):,} training and {len(data.val):,} validation images"
    console.print(f"{data.name}: {counts}, {data.classes} classes", style="bold")
    wired = wiring(learner, objective, data, settings, answers)
    if fitted is not None:
        wired.between.insert(0, fitted["sentence"])
    show_wiring(console, wired)

    findings = _inspect_data(data, doubts)
    known = _score_teacher(answers, data, settings, findings)
    try:
        tried = trial.try_steps(training, _STEP_SECONDS)
    except MemoryError as error:
        tried = None
        findings.insert(0, Finding(Severity.STOPS, str(error)))
    findings += trial.judge_steps(tried, learner, schedule, optimizer) if tried else []
    findings += [
        trial.note_finding(f"{role}: {each}")
        for role, one in (("teacher", answers and answers.network), ("student", learner))
        for each in (one.remarks if one else ())
    ]
    console.print(_measurement_table(known, tried, wanted, data))
    picture = _draw(console, out, data, known)
    findings.sort(key=lambda each: each.severity)
    ready = _print_conclusion(console, findings)
    return {
        "ready": ready,
        "change": [
            {"severity": each.severity.name.lower(), "text": each.text} for each in findings
        ],
        "teacher_miou": None if known is None else 100 * known.scores.miou,
        **(_numbers(tried, wanted, data) if tried else {}),
        "picture": picture,
    }


def _numbers(tried: "Trial", settings: Settings, data: "SegmentationData") -> dict[str, Any]:
    return {
        "terms": dict(tried.terms),
        "gradient_ratio": tried.ratio,
        "losses": list(tried.losses),
        "step_seconds": tried.step_seconds,
        "seconds": _estimate_seconds(tried, settings, data),
        "peak_memory_bytes": tried.memory,
    }


def _inspect_data(data: "SegmentationData", doubts: list[str]) -> "list[Finding]":
    """Inspect the data's files for a few seconds; generated data have none."""
    from fakd.data.samples import PairedSplit
    from fakd.inspection import Finding, Severity, inspect_data

    found = [Finding(Severity.HARMS, each) for each in doubts]
    if all(isinstance(each, PairedSplit) for each in (data.train, data.val)):
        with_time = inspect_data(data, seconds=_DATA_SECONDS).findings
        found += [each for each in with_time if each.severity is not Severity.TELLS]
    return found


def _score_teacher(
    teacher: "Teacher | None", data: "SegmentationData", settings: Settings, findings: list
) -> "TeacherScores | None":
    """Score the teacher on a few images, and append findings."""
    from fakd.inspection import Finding, Severity
    from fakd.training import trial
    from fakd.training.teacher_check import find_better_inputs, score_teacher
    from fakd.training.validation import refuse_degenerate_teacher

    if teacher is None:
        return None
    named = trial.judge_names(teacher.network, data)
    if not teacher.scored:
        findings += [*named, *(trial.note_finding(each) for each in teacher.remarks)]
        return None
    try:
        known = score_teacher(teacher, data, settings, _TEACHER_SECONDS)
    except FloatingPointError as error:
        raise InputError(f"the teacher's output is infinite or NaN: {error}") from error
    if not known.samples:
        findings += named
        return None
    fed, ordered = find_better_inputs(teacher, data, settings, known, _FEEDING_SECONDS)
    # A class order found by labels makes the comparison of names unnecessary.
    findings += [*fed, *(ordered or named)]
    try:
        refuse_degenerate_teacher(
            known.scores, f"{count_noun(len(known.samples), 'image')} of {data.name}"
        )
    except InputError as error:
        # Unless there is more specific advice.
        findings += [] if fed or ordered else [Finding(Severity.STOPS, str(error))]
    return known


def _estimate_seconds(tried: "Trial", settings: Settings, data: "SegmentationData") -> float:
    """Estimate the seconds of the whole run from the measured steps."""
    steps, workers = settings.schedule.steps, settings.hardware.workers
    reading = tried.batch_seconds / max(1, workers)
    step = max(tried.step_seconds, reading) if workers else tried.step_seconds + reading
    every = settings.intervals.evaluate or -(-steps // 10)
    total = steps * step + -(-steps // every) * len(data.val) * tried.image_seconds
    minutes = settings.stopping.minutes
    return total if minutes is None else min(total, 60 * minutes)


def _measurement_table(
    known: "TeacherScores | None",
    tried: "Trial | None",
    settings: Settings,
    data: "SegmentationData",
) -> Table:
    """Format the measurements as a table."""
    schedule = settings.schedule
    rows = []
    if known is not None:
        miou, images = 100 * known.scores.miou, len(known.samples)
        rows.append(("teacher", f"{miou:.2f} mIoU on {images} validation images"))
    if tried is not None:
        terms = ", ".join(f"{name} {value:.4g}" for name, value in tried.terms.items())
        rows.append(("loss terms", terms))
        if (ratio := tried.ratio) is not None:
            rows.append(("gradients", f"the distillation's is {ratio:.3g} times the task's"))
    batch = f"{schedule.batch_size} images per step"
    rate = f"peak {schedule.learning_rate:g}, {settings.optimizer.kind}, {batch}"
    rows.append(("learning rate", rate))
    if tried is not None:
        first, last = tried.losses[0], tried.losses[-1]
        repeated = f"the loss of one batch goes from {first:.4g} to {last:.4g}"
        rows.append((count_noun(len(tried.losses), "step"), repeated))
        whole = timedelta(seconds=round(_estimate_seconds(tried, settings, data)))
        spent = f"{tried.step_seconds:.3g} s per step, about {whole} for {schedule.steps:,} steps"
        rows.append(("time", f"{spent} with evaluations"))
        rows.append(("memory", f"peak {tried.memory / 1e9:.2f} GB so far"))
    table = Table(box=None, show_header=False, width=80)
    table.add_column(no_wrap=True)
    table.add_column(ratio=1, overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def _draw(
    console: Console, out: Path | None, data: "SegmentationData", known: "TeacherScores | None"
) -> str | None:
    """Draw validation images with their labels and the teacher's predictions."""
    if out is None:
        return None
    from fakd.inspection import spread_evenly
    from fakd.report.figures import overlay, save_grid
    from fakd.training.teacher_check import IMAGES

    if known is None:
        found = (data.val[index] for index in spread_evenly(len(data.val)))
        samples = list(islice((each for each in found if each.labels is not None), IMAGES))
        answers: list = []
    else:
        samples, answers = known.samples, known.answers
    maps = [[each.labels for each in samples], *([answers] if answers else [])]
    rows = [
        [one.image, *(overlay(one.image, each[row], data.palette) for each in maps)]
        for row, one in enumerate(samples)
    ]
    titles = ["image", "labels", *(["teacher"] if answers else [])]
    shown = {int(number) for each in maps for one in each for number in one.unique()}
    legend = {name: data.palette[i] for i, name in enumerate(data.class_names) if i in shown}
    save_grid(out, rows, titles, legend)
    console.print(f"{count_noun(len(rows), 'image')}: {out}", soft_wrap=True)
    return str(out)


def _print_conclusion(console: Console, findings: "list[Finding]") -> bool:
    """Print the findings and the conclusion; return whether nothing must be changed."""
    from fakd.commands.check import print_findings
    from fakd.inspection import Severity

    ready = not any(each.severity is Severity.STOPS for each in findings)
    print_findings(console, findings)
    style = "bold green" if ready else "bold red"
    console.print("ready" if ready else "not ready", style=style)
    return ready
