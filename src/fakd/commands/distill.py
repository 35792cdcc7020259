"""`fakd distill`: train a student with a teacher."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

import fakd
from fakd.budget import require_student_or_budget
from fakd.console import remark
from fakd.errors import InputError, require_kinds
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

if TYPE_CHECKING:
    from fakd.training.teacher import Teacher


def distill(
    teacher: "fakd.Segmenter | fakd.answers.Source | str | Path | Any",
    student: "fakd.Segmenter | str | Path | Any | None",
    data: "fakd.data.SegmentationData | str | Path",
    run: str | Path,
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
    profile: int | None = None,
) -> dict[str, Any]:
    """Train a student with a teacher.

    The same command resumes an interrupted run, and refuses to touch a finished one. Training
    images may lack masks: the teacher then supplies the class of every pixel.

    Args:
        teacher: a finished run or weight file, or any network with its weights: hf:FOLDER,
            smp:FOLDER, torchvision:NAME?weights=NAME, FILE.onnx, net.py:FUNCTION; a folder of
            stored answers, or a .yaml file of several of these.
        student: the network to train, for example pspnet with --student.backbone
            mobilenetv3_small_050, or smp:Unet, or any other network; None if ``fit`` chooses it.
        data: images: a folder, a .yaml file, or "scenes" for the built-in data.
        run: folder for the recipe, curves, checkpoints and weights.
        distillation: the loss against the teacher, with its weight relative to the cross-entropy as
            an argument; cwd by default, pd if no image has labels; cwd-fa for FAKD.
        fit: a budget for the student, such as latency<15ms, parameters<2M or gflops<5, or several
            separated by commas: without a student, the largest of `fakd students` within it is
            used.
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
        check_teacher: evaluate the teacher first, and refuse a useless one.
        classes_from: a .yaml file that maps the teacher's classes to those of the data, if they
            differ.
        int8: train the student with weights and activations rounded to 8 bits, for `fakd export
            --precision int8`; it is evaluated and saved without rounding.
        broken: what to do about an unreadable training image or mask: stop, or skip it with a
            message and count it in the result.
        seed: the source of all randomness in the run.
        existing: what to do if the run is already finished: refuse, reuse its result if the recipe
            is the same, overwrite it, or extend it to a larger schedule.steps.
        profile: profile this many steps, print where their time goes, and write a trace
            (trace.json, for chrome://tracing or perfetto.dev) into the run's folder.

    Returns:
        The content of ``result.json``: final scores, best evaluation, teacher's scores, seconds.
    """
    require_kinds(distill, locals())
    # Imported here to keep `fakd distill --help` fast.
    from fakd.fitting import settle
    from fakd.inspection.readiness import require_labels
    from fakd.runs.folder import read_environment
    from fakd.runs.recipe import recipe_of
    from fakd.training.int8 import train_for_int8
    from fakd.training.loop import Training
    from fakd.training.memory_format import choose
    from fakd.training.objective import Distillation, default_loss, doubts_without_labels
    from fakd.training.preparation import require_step_memory
    from fakd.training.profiling import require_steps
    from fakd.training.start import (
        announce,
        console_of,
        finished_result,
        open_folder,
        say_agreement,
        start,
        weigh_classes,
    )
    from fakd.training.supervision import ends_in_order
    from fakd.training.task import TaskLoss
    from fakd.training.teacher import open_teacher, require_distinct, teacher_of
    from fakd.training.validation import require_class_order, require_same_classes
    from fakd.training.wiring import compare_class_names, run_summary, show_wiring, wiring

    require_student_or_budget(student, fit)
    if int8 and hardware.compile:
        raise InputError("hardware.compile cannot be combined with int8; leave out one of them")
    run = expand_user(run)
    data = fakd.data.open_data(data)
    schedule, optimizer = schedule.settled(len(data.train), optimizer), optimizer.settled()
    require_steps(profile, schedule.steps)
    teacher = open_teacher(teacher, data.classes)
    fitted = None
    if fit is not None:
        before = {} if existing == "overwrite" else read_environment(run).get("fit")
        student, fitted = settle(fit, student, data, inference, hardware, seed, before)
    student = fakd.models.open_network(student, data.classes, trained=True)
    labelled = data.train.labelled
    distillation = default_loss(labelled) if distillation is None else distillation
    require_same_classes(student, data)
    doubts = require_labels(data, unlabelled=True, skip=broken == "skip")
    if not labelled:
        doubts += doubts_without_labels(distillation)
    if isinstance(teacher, fakd.Segmenter):
        require_distinct(teacher, student)
    settings = Settings.of(locals())
    fabric = start(hardware, seed, unused_parameters=not labelled, joining=True)
    console = console_of(fabric)
    with ends_in_order(fabric, run):
        kernels = student.align_corners, hardware.triton
        by_labels = TaskLoss(task, data.classes, *kernels) if labelled else None
        asked = teacher
        if classes_from is not None:
            asked = fakd.answers.Mapped(teacher, classes_from)
            classes_from = asked.classes.content
        settings, layout = choose(fabric, settings, run, existing, student, teacher)
        answers = teacher_of(asked, data, fabric, settings.hardware)
        require_class_order(answers.network, data)
        recipe = recipe_of(distill, locals())
        objective = Distillation(answers.network, student, distillation, by_labels, task.confidence)
        # Before the folder is created, as it refuses invalid settings.
        training = Training(fabric, student, objective, data, settings, console, run.name, answers)
        require_step_memory(fabric, student, data, settings, answers)
        if int8:
            train_for_int8(student)
        taught = answers.fingerprint()
        with open_folder(
            fabric, console, run, recipe, existing, data, teacher=taught, student=student
        ) as folder:
            if (result := finished_result(fabric, folder)) is not None:
                return result
            wired = wiring(student, objective, data, settings, answers)
            if fitted is not None:
                wired.between.insert(0, fitted["sentence"])
            console.print(run_summary(data, settings, fabric.device), soft_wrap=True)
            show_wiring(console, wired)
            if folder:
                note = layout | ({"fit": fitted} if fitted else {})
                folder.note(wiring=wired._asdict(), **note)
            announce(console, data, inference, doubts, teacher=answers.network, student=student)
            compare_class_names(console, "teacher", answers.network, data)
            _print_notes(console, answers, augmentation, int8)
            weigh_classes(fabric, console, objective, data, settings, folder)
            if fabric.is_global_zero:
                say_agreement(console, answers, data, settings)
            return training.run(folder, check_teacher and answers.scored, profile or 0)


def _print_notes(
    console: Console, answers: "Teacher", augmentation: Augmentation, int8: bool
) -> None:
    """Print notes on INT8 training and on limits of stored answers."""
    if int8:
        text = "the student trains with rounding to 8 bits, and is scored and saved without it"
        remark(console, f"{text}; for an INT8 file: fakd export --precision int8")
    for text in answers.remarks:
        remark(console, text)
    if answers.maps and (augmentation.photometric or augmentation.extra):
        remark(
            console,
            "stored answers belong to the original images: only the student sees changes of colour "
            "(augmentation.photometric, extra)",
        )
