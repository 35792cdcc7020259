"""`fakd demo`: a demonstration of distillation, in minutes, without download, GPU or data set."""

import os
import sys
import webbrowser
from pathlib import Path
from typing import Any

import fakd
from fakd.console import open_console
from fakd.errors import InputError
from fakd.settings import Augmentation, Existing, Intervals, Optimizer, Schedule, Task

SCENES: dict[str, Any] = {"train": 150, "val": 50, "size": (144, 192)}
LABELLED = 4
TEACHER = Path(fakd.data.__file__).parent / "streets" / "teacher.safetensors"
"""Trained on scenes of another seed; recipes/demo documents how."""
STUDENT: dict[str, Any] = {
    "backbone": "tf_efficientnet_lite0",
    "strides": (2, 4, 8),
    "channels": 48,
    "weights": "imagenet",
}
CROP = (72, 96)
STEPS = 500
UNLABELLED = 0.75
STRENGTHS = {"alone": None, "cwd": 0.0, "fakd": 1.0}
SMALL = ("pole", "pedestrian", "cyclist")
"""Thin or rare classes, shown in the table and used to choose the pictures."""
PICTURES, EXAMINED = 5, 20


def demo(
    run: Path = Path("runs/demo"),
    seed: int = 0,
    steps: int = STEPS,
    existing: Existing = "reuse",
) -> list[dict[str, Any]]:
    """Distil a small student with few labels and many images, on built-in street scenes.

    There are 150 images, 4 of them labelled. Students with the same ImageNet weights are trained
    for the same number of steps: one alone on the 4 labelled images; one by channel-wise
    distillation (CWD) and one by its feature-augmented form (FAKD), which also use the teacher's
    predictions on the others. The teacher ships with fakd and was trained on other streets. Ends
    with a table, pictures and a report, which it opens. Takes minutes on a CPU; resumes if
    interrupted.

    Args:
        run: folder for the three runs, the pictures and the report.
        seed: the source of all randomness, including the drawn scenes.
        steps: training steps of each student.
        existing: what to do with finished runs of an earlier demo: reuse, overwrite or refuse.

    Returns:
        The rows of the table: name and result of the teacher and each student.
    """
    # Imported here to keep `fakd demo --help` fast.
    from fakd.commands.report import report
    from fakd.report.table import comparison_table

    rows = teach(run, seed, steps, existing)
    _pictures(fakd.data.scenes(**SCENES, seed=seed), run)
    written = report([run / name for name in STRENGTHS], run / "report.html", images=EXAMINED)
    console = open_console()
    console.print(comparison_table(rows, SMALL))
    console.print(gains(*(row["final"]["miou"] for row in rows[1:])), soft_wrap=True)
    console.print(f"pictures: {run / 'examples.png'}\nreport: {written}", soft_wrap=True)
    if has_screen():
        webbrowser.open(written.resolve().as_uri())
    return rows


def teach(run: Path, seed: int, steps: int, existing: Existing) -> list[dict[str, Any]]:
    """Train the demo's students and score its teacher, without report; see `demo`."""
    import torch

    from fakd.commands.answer import answer

    if steps < 1:
        raise InputError(f"expected --steps of at least 1, got {steps}")
    data = fakd.data.scenes(**SCENES, seed=seed, labelled=LABELLED)
    answers = run / f"answers-{seed}"
    options: dict[str, Any] = {
        "optimizer": Optimizer("AdamW", weight_decay=0.02),
        "augmentation": Augmentation(crop=CROP, scale=(1.0, 1.0), photometric=False),
        "task": Task(dice=0.5, class_weights="auto"),
        "intervals": Intervals(evaluate=steps),
        "seed": seed,
        "existing": existing,
    }

    def trained(name: str, strength: float | None) -> dict[str, Any]:
        torch.manual_seed(seed)
        network = fakd.models.hypercolumns(classes=data.classes, **STUDENT)
        schedule = Schedule(
            steps,
            learning_rate=0.003,
            shape="cosine",
            warmup=min(20, steps - 1),
            clip=5.0,
            unlabelled_share=None if strength is None else UNLABELLED,
        )
        given = {"run": run / name, "schedule": schedule, **options}
        if strength is None:
            return fakd.train(network, data, **given)
        loss = fakd.losses.ChannelKL(strength=strength)
        return fakd.distill(answers, network, data, distillation=loss, check_teacher=False, **given)

    teacher = fakd.models.open_network(TEACHER)
    parameters = sum(weight.numel() for weight in teacher.parameters())
    final = fakd.evaluate(teacher, data)
    rows: list[dict[str, Any]] = [{"name": "teacher", "parameters": parameters, "final": final}]
    # Answers are stored once, so that two students train at the cost of training alone.
    answer(TEACHER, data, answers, batch_size=8)
    for name, strength in STRENGTHS.items():
        rows.append({"name": f"student, {name}", **trained(name, strength)})
    return rows


def gains(alone: float, cwd: float, fakd: float) -> str:
    """Summarise the gain from the unlabelled images, in mIoU in percent."""
    unlabelled = SCENES["train"] - LABELLED
    return (
        f"The teacher's predictions for {unlabelled} images without labels gave {cwd - alone:+.2f} "
        f"mIoU with CWD and {fakd - alone:+.2f} with FAKD, against the student alone. FAKD against "
        f"CWD: {fakd - cwd:+.2f}, which one seed cannot tell from chance; fakd compare can."
    )


def has_screen() -> bool:
    """Tell whether a page can be shown to someone: a terminal, with a display, and not CI."""
    display = sys.platform in ("darwin", "win32") or any(
        os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY")
    )
    return sys.stdout.isatty() and display and not os.environ.get("CI")


def _pictures(data: "fakd.data.SegmentationData", run: Path) -> None:
    """Draw the predictions of each network for scenes with the most thin or rare classes."""
    import torch

    from fakd.report.pictures import draw_examples

    networks = {name: fakd.load(run / name).eval() for name in STRENGTHS}
    networks |= {"teacher": fakd.load(TEACHER).eval()}
    small = [data.class_names.index(name) for name in SMALL]

    def least(index: int) -> int:
        labels = data.val[index].labels
        return 0 if labels is None else min(int(torch.eq(labels, each).sum()) for each in small)

    shown = sorted(range(len(data.val)), key=least, reverse=True)[:PICTURES]
    draw_examples(run / "examples.png", [data.val[index] for index in shown], data, networks)
