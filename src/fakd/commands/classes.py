"""`fakd classes`: propose a class map from a teacher's classes to the data's."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from rich.console import Console
from rich.table import Table

import fakd
from fakd.console import open_console
from fakd.errors import InputError
from fakd.files import expand_user, write_text
from fakd.settings import Hardware, Inference, InferenceOverrides
from fakd.training.progress import StepProgress

if TYPE_CHECKING:
    from fakd.metrics import Scores
    from fakd.training.teacher import Teacher


def classes(
    teacher: "fakd.Segmenter | fakd.answers.Source | str | Path",
    data: "fakd.data.SegmentationData | str | Path",
    images: int = 100,
    out: Path | None = None,
    inference: InferenceOverrides = None,
    hardware: Hardware = Hardware(),
) -> dict[str, Any]:
    """Propose a map from a teacher's classes to those of the data, and score it.

    fakd classes TEACHER DATA --out map.yaml; review it, then fakd distill --classes_from map.yaml.
    Classes are matched by name, or else by the labels on which the teacher predicts them.

    Args:
        teacher: a network, or a folder of stored answers.
        data: images: a folder, a .yaml file, or "scenes" for the built-in data.
        images: how many validation images are used, evenly spaced.
        out: a .yaml file to write the class map to.
        inference: the teacher's inference settings; by default those of its training.
        hardware: devices, precision, workers and memory.

    Returns:
        The content of the file, and the mIoU in percent.
    """
    # Imported here to keep `fakd classes --help` fast.
    import torch

    from fakd.answers.classes import propose, read_class_map
    from fakd.inference import resolve_inference
    from fakd.metrics import Scores
    from fakd.training.start import start
    from fakd.training.teacher import MappedTeacher, open_teacher, teacher_of

    if images < 1:
        raise InputError(f"expected --images of at least 1, got {images}")
    out = None if out is None else expand_user(out)
    if out is not None and out.exists():
        raise InputError(f"{out} exists; choose another --out")
    data, console = fakd.data.open_data(data), open_console()
    asked = teacher_of(open_teacher(teacher), data, start(hardware, 0), hardware, any_classes=True)
    inference = resolve_inference(asked.network, inference)
    count = asked.network.classes
    names = asked.network.class_names
    theirs = names or tuple(str(number) for number in range(count))
    counts = None
    if asked.scored:
        counts = _confusion(console, asked, data, images, inference).tolist()
    elif names is None:
        raise InputError(
            f"the teacher's {count} classes have no names, and it has no answers for validation "
            "images to compare with labels; write the class map yourself"
        )
    groups: dict[str, list] = dict(propose(data.class_names, theirs, counts))
    if names is None:
        groups = {name: [int(each) for each in group] for name, group in groups.items()}
    content: dict[str, Any] = {"classes": groups, "rest": "ignore"}
    scores = None
    if counts is not None:
        table = read_class_map(content).table(data.class_names, names, count)
        mapped = MappedTeacher(asked, table, data.class_names)
        matrix = _confusion(console, mapped, data, images, inference)
        scores = Scores.from_matrix(torch.as_tensor(matrix))
    console.print(_table(groups, scores))
    taken = {each for group in groups.values() for each in group}
    if left := [each for each in names or () if each not in taken]:
        console.print(f"not assigned: {', '.join(left)}", soft_wrap=True)
    if scores is not None:
        console.print(f"mIoU {100 * scores.miou:.2f} with these classes")
    text = yaml.safe_dump(content, sort_keys=False, default_flow_style=None, width=120)
    if out is None:
        console.print(f"\n{text}", soft_wrap=True)
    else:
        write_text(out, text)
        console.print(f"written to {out}; distil with --classes_from {out}", soft_wrap=True)
    return content | {"miou": None if scores is None else 100 * scores.miou}


def _confusion(
    console: Console,
    teacher: "Teacher",
    data: "fakd.data.SegmentationData",
    images: int,
    inference: Inference,
) -> Any:
    """Count pixels by label and by the class that the teacher predicts."""
    import torch

    from fakd.inference import to_unit
    from fakd.settings import IGNORE

    split, theirs = data.val, teacher.network.classes
    chosen = sorted({i * len(split) // images for i in range(images)})
    counts = torch.zeros(data.classes, theirs, dtype=torch.long)
    device = teacher.device
    with StepProgress(console, "running the teacher", len(chosen)) as display:
        samples = fakd.data.evaluation_samples(split, indices=chosen)
        for done, (index, sample) in enumerate(zip(chosen, samples, strict=True), 1):
            if sample.labels is not None:
                image = to_unit(sample.image[None].to(device))
                found = teacher.predict(image, index, inference)[0].argmax(0).cpu()
                named = sample.labels != IGNORE
                pairs = sample.labels[named].long() * theirs + found[named]
                counts += pairs.bincount(minlength=counts.numel()).view_as(counts)
            display.advance(done)
    return counts


def _table(groups: dict[str, list], scores: "Scores | None") -> Table:
    table = Table(box=None)
    for heading in ("class", "teacher's classes", "IoU"):
        table.add_column(heading, justify="right" if heading == "IoU" else "left")
    for number, (name, group) in enumerate(groups.items()):
        iou = float("nan") if scores is None else 100 * float(scores.iou[number])
        listed = ", ".join(map(str, group)) or "-"
        table.add_row(name, listed, "" if iou != iou else f"{iou:.2f}")
    return table
