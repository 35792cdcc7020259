"""`fakd demo`: the whole idea in minutes, without download, GPU or data set."""

from pathlib import Path
from typing import Any

import fakd
from fakd.console import open_console
from fakd.settings import Augmentation, Existing, Intervals, Schedule

SCENES: dict[str, Any] = {"train": 400, "val": 100, "size": (96, 128)}
TEACHER, STUDENT = ("resnet10t", 128), ("mobilenetv3_small_050", 64)
CROP = (96, 128)
STRENGTHS = {"alone": None, "cwd": 0.0, "fakd": 1.0}
PICTURES = 5


def demo(
    run: Path = Path("runs/demo"),
    seed: int = 0,
    teacher_steps: int = 250,
    student_steps: int = 250,
    existing: Existing = "reuse",
) -> list[dict[str, Any]]:
    """Train a teacher and three small students on built-in street scenes, and compare them.

    The students start from the same weights and see the same images in the same order: one alone,
    one with channel-wise distillation (CWD), one with its feature-augmented form (FAKD). Ends with
    a table, a picture grid and the curves. Takes minutes on a CPU; if stopped, it continues.

    Args:
        run: folder for the four runs and the pictures.
        seed: all that is random derives from it, the drawn scenes included.
        teacher_steps: how long the teacher is trained.
        student_steps: how long each student is trained.
        existing: what to do with finished runs of an earlier demo: reuse, overwrite or refuse.

    Returns:
        The rows of the table: name and result of the teacher and each student.
    """
    # Imported here because `fakd demo --help` need not wait for it.
    import torch

    from fakd.report.table import comparison_table

    data = fakd.data.scenes(**SCENES, seed=seed)
    common: dict[str, Any] = {
        "data": data,
        "augmentation": Augmentation(crop=CROP),
        "intervals": Intervals(evaluate=125),
        "seed": seed,
        "existing": existing,
    }

    def trained(name: str, size: tuple[str, int], steps: int, strength: float | None) -> Any:
        torch.manual_seed(seed)
        network = fakd.models.pspnet(size[0], data.classes, channels=size[1])
        schedule = Schedule(steps, learning_rate=0.05, warmup=min(20, steps - 1))
        options = {"run": run / name, "schedule": schedule, **common}
        if strength is None:
            return fakd.train(network, **options)
        options |= {"distillation": fakd.losses.ChannelKL(strength=strength)}
        return fakd.distill(fakd.load(run / "teacher"), network, check_teacher=False, **options)

    rows = [{"name": "teacher", **trained("teacher", TEACHER, teacher_steps, None)}]
    for name, strength in STRENGTHS.items():
        result = trained(name, STUDENT, student_steps, strength)
        rows.append({"name": f"student, {name}", **result})
    console = open_console()
    console.print(comparison_table(rows))
    console.print(verdict(*(row["final"]["miou"] for row in rows[1:])))
    _pictures(data, run)
    console.print(f"pictures: {run / 'examples.png'}, {run / 'curves.png'}", soft_wrap=True)
    return rows


def verdict(alone: float, cwd: float, fakd: float) -> str:
    """Say how the students differ in mIoU, in percent; one seed does not say who is better."""
    return (
        f"Here CWD scored {cwd - alone:+.2f} mIoU against the student alone; FAKD "
        f"{fakd - alone:+.2f} against the student alone and {fakd - cwd:+.2f} against CWD. One "
        "seed and a short training: the next seed may say the opposite, and fakd compare is what "
        "can tell."
    )


def _pictures(data: "fakd.data.SegmentationData", run: Path) -> None:
    from fakd.report.figures import save_curves
    from fakd.report.pictures import draw_examples
    from fakd.runs.folder import CURVES

    networks = {name: fakd.load(run / name).eval() for name in ("teacher", *STRENGTHS)}
    draw_examples(run / "examples.png", [data.val[i] for i in range(PICTURES)], data, networks)
    save_curves(run / "curves.png", {name: run / name / CURVES for name in STRENGTHS})
