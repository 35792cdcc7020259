"""`fakd disagree`: rank images to label next by how much teacher and student differ."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

import fakd
from fakd.console import open_console, remark
from fakd.data.layout import Levels, read_levels
from fakd.data.names import to_nfc
from fakd.errors import InputError, count_noun, list_some, require_above_zero
from fakd.files import expand_user, make_folder, replace_folder
from fakd.settings import Hardware, Inference, InferenceOverrides
from fakd.training.progress import StepProgress

if TYPE_CHECKING:
    from fakd.training.teacher import Teacher


def disagree(
    run: str | Path,
    images: Path,
    out: Path,
    teacher: "fakd.Segmenter | fakd.answers.Source | str | Path | None" = None,
    classes_from: dict | str | None = None,
    first: int = 50,
    diverse: bool = False,
    temperature: float = 1.0,
    inference: InferenceOverrides = None,
    accelerator: str = "auto",
) -> dict[str, Any]:
    """Rank unlabelled images by the disagreement of teacher and student: what to label next.

    An image's score is the mean over its pixels of the Jensen-Shannon divergence of their class
    probabilities, in bits from 0 to 1. out/ranking.csv lists all images; out/images.txt,
    label-studio.json and cvat.jsonl list the first ones for labelling tools; out/overlays shows
    them.

    Args:
        run: the folder of a run of fakd distill; or any network, with --teacher.
        images: a folder, searched with its subfolders, or an image.
        out: a new folder to write to, outside of the images.
        teacher: the network to compare with; by default the run's own teacher. Stored answers must
            cover these images.
        classes_from: a .yaml file that maps the classes of --teacher to the student's, if they
            differ.
        first: how many images are listed for labelling tools and drawn.
        diverse: choose images one by one, each unlike those before it, so that not all are frames
            of one scene.
        temperature: logits are divided by it first.
        inference: inference settings for both networks; as in the student's training, but for what
            is given.
        accelerator: cpu, cuda, mps, or auto for the best available.

    Returns:
        The number of ranked images, their mean score, and the share of pixels that differ.

    Raises:
        InputError: no image can be read, there is no teacher, or it has no answers for the images.
        ChildProcessError: some images cannot be read; the others are ranked.
    """
    # Imported here to keep `fakd disagree --help` fast.
    from fakd.inference import inference_remark, resolve_inference
    from fakd.training.start import start
    from fakd.training.teacher import NetworkTeacher, open_teacher, teacher_of
    from fakd.training.validation import require_class_order

    if first < 1:
        raise InputError(f"expected --first of at least 1, got {first}")
    try:
        require_above_zero(temperature=temperature)
    except ValueError as error:
        raise InputError(str(error)) from error
    if classes_from is not None and teacher is None:
        raise InputError(
            "--classes_from needs --teacher; the run's own teacher uses the class map of the run"
        )
    images, out = expand_user(images), expand_user(out)
    files = fakd.data.image_files(images)
    root = images if images.is_dir() else images.parent
    _require_new(out, images)
    student = fakd.models.open_network(run)
    asked = _own_teacher(run) if teacher is None else open_teacher(teacher, student.classes)
    if classes_from is not None:
        asked = fakd.answers.Mapped(asked, classes_from)
    hardware = Hardware(accelerator=accelerator)
    fabric, console = start(hardware, 0), open_console()
    data = _image_data(root, files, student, read_levels(student.extra.get("levels", {}), images))
    try:
        answers = teacher_of(asked, data, fabric, hardware)
        require_class_order(answers.network, data)
    except InputError as error:
        raise InputError(f"{error}; or name another --teacher") from error
    if answers.network.classes != student.classes:
        raise InputError(
            f"the teacher has {answers.network.classes} classes, the student {student.classes}; "
            "give --classes_from MAP.yaml"
        )
    inference = resolve_inference(student, inference)
    for note in (*answers.network.remarks, inference_remark(student, inference)):
        if note:
            remark(console, note)
    pair = _Pair(answers, NetworkTeacher(student, fabric, hardware), inference, temperature)
    return _rank(console, pair, data, root, files, out, first, diverse)


def _require_new(out: Path, images: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} exists; choose another --out")
    if images.is_dir() and out.resolve().is_relative_to(images.resolve()):
        raise InputError(
            f"--out {out} is inside the images' folder {images}, so the next call would read its "
            "pictures as images; choose a folder outside it"
        )


def _own_teacher(run: str | Path) -> Any:
    """Build the teacher of a run's recipe."""
    from fakd import specs
    from fakd.runs.folder import RECIPE, read_recipe, readable

    folder = expand_user(run)
    remedy = "give --teacher"
    if not (folder / RECIPE).is_file():
        raise InputError(f"{run} is not the folder of a run, which would name a teacher; {remedy}")
    with readable(folder):
        recipe = read_recipe(folder)
        spec, mapped = recipe.get("teacher"), recipe.get("classes_from")
    if not specs.is_spec(spec):
        said = "had no teacher" if spec is None else f"had a teacher object from Python, {spec}"
        raise InputError(f"{folder} {said}; {remedy}")
    try:
        spec = specs.check_spec(spec, "teacher")
        source = spec["class_path"].startswith("fakd.answers.")
        teacher = specs.build(spec) if source else fakd.models.open_network(spec)
        return teacher if mapped is None else fakd.answers.Mapped(teacher, mapped)
    except InputError as error:
        raise InputError(f"the teacher of {folder} cannot be opened: {error}; {remedy}") from error


def _image_data(
    root: Path, files: Sequence[Path], student: "fakd.Segmenter", levels: Levels
) -> "fakd.data.SegmentationData":
    """Create a data set with the student's classes and these images as its training split."""
    from fakd.data import Pair, PairedSplit, SegmentationData, default_palette

    relative = [file.relative_to(root).as_posix() for file in files]
    pairs = [
        Pair(to_nfc(name.rpartition(".")[0]), file, levels=levels)
        for name, file in zip(relative, files, strict=True)
    ]
    names = student.class_names or tuple(str(number) for number in range(student.classes))
    palette = student.palette or default_palette(student.classes)
    every, none = PairedSplit(root, pairs), PairedSplit(root, [])
    return SegmentationData(root.name, names, palette, every, none)


class _Pair:
    """Teacher and student, compared on one image at a time."""

    def __init__(
        self, teacher: "Teacher", student: "Teacher", inference: Inference, temperature: float
    ) -> None:
        self._teacher, self._student = teacher, student
        self._inference, self._temperature = inference, temperature

    def __call__(self, image: Any, index: int) -> Any:
        """Compute how their predictions differ."""
        import torch

        from fakd.inference import to_unit
        from fakd.report.disagreement import Difference

        with torch.no_grad():
            shown = to_unit(image[None].to(self._teacher.device))
            found = [
                each.predict(shown, index, self._inference, "train")
                for each in (self._teacher, self._student)
            ]
            return Difference.of(found[0], found[1], self._temperature)


def _rank(
    console: Console,
    pair: _Pair,
    data: "fakd.data.SegmentationData",
    root: Path,
    images: Sequence[Path],
    out: Path,
    first: int,
    diverse: bool,
) -> dict[str, Any]:
    import numpy as np
    import torch

    from fakd.report import disagreement as report

    split, names = data.train, data.class_names
    found = np.zeros(len(split), report.FOUND)
    found["score"] = np.nan
    looks = np.zeros((len(split), 192), np.uint8) if diverse else None
    pairs = torch.zeros(data.classes, data.classes, dtype=torch.long)
    pixels, unread = 0, list[InputError]()
    with StepProgress(console, "disagree", len(split)) as display:
        for index in range(len(split)):
            try:
                image = split[index].image
            except InputError as error:
                unread.append(error)
                display.advance(index + 1)
                continue
            difference = pair(image, index)
            counts = difference.pairs()
            found[index] = difference.found(counts)
            pairs += counts.cpu()
            pixels += image[0].numel()
            if looks is not None:
                looks[index] = report.thumbnail(image)
            display.show(index + 1, {"score": float(found[index]["score"])})
    if len(unread) == len(split):
        raise unread[0]
    order = report.rank(found["score"], first, looks)
    files = [each.relative_to(root).as_posix() for each in images]
    chosen = order[:first]

    def write(folder: Path) -> bool:
        make_folder(folder)
        report.write_ranking(folder / report.RANKING, files, order, found, names)
        sizes = []
        with StepProgress(console, "draw", len(chosen)) as display:
            for rank, index in enumerate(chosen, start=1):
                image = split[index].image
                sizes.append((image.shape[1], image.shape[2]))
                path = folder / "overlays" / f"{rank:04d}.png"
                difference = pair(image, index)
                report.draw(
                    path, image, files[index], difference, found[index], names, data.palette
                )
                display.advance(rank)
        report.write_lists(folder, root, [files[each] for each in chosen], sizes)
        return True

    replace_folder(out, write)
    mean, differing = float(np.nanmean(found["score"])), int(pairs.sum()) / pixels
    console.print(
        f"{count_noun(len(order), 'image')}, mean score {mean:.3g}, {differing:.1%} of pixels "
        f"differ; the first {len(chosen)} are in {out}",
        soft_wrap=True,
    )
    if pairs.any():
        teacher, student = divmod(int(pairs.argmax()), data.classes)
        share = int(pairs.max()) / int(pairs.sum())
        said = f"most often the teacher predicts {names[teacher]} and the student {names[student]}"
        console.print(f"{said}: {share:.1%} of those pixels", soft_wrap=True)
    for index in chosen[:5]:
        console.print(f"  {found[index]['score']:<9.3g}  {files[index]}", soft_wrap=True)
    if unread:
        raise ChildProcessError(
            f"{len(unread)} of {len(split)} images left out: {list_some(unread, 3)}"
        )
    return {"images": len(order), "score": mean, "differing": differing}
