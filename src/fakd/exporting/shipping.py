"""Export of a network to a folder with its file, guarantee, run.py and card.md."""

import json
import os
import platform
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from fakd.data import SegmentationData, Split
from fakd.errors import InputError
from fakd.exporting.guarantee import Guarantee, compare_outputs, measure_memory
from fakd.exporting.kinds import Precision, Target
from fakd.exporting.program import Form, metadata
from fakd.exporting.quantization import Quantizer, to_half
from fakd.exporting.runner import card_text, runner_text
from fakd.exporting.writing import (
    ENDINGS,
    add_metadata,
    convert_to_openvino,
    export_graph,
    export_program,
)
from fakd.files import make_folder, writing
from fakd.models.files import save
from fakd.models.foreign.exported import open_exported
from fakd.settings import Inference
from fakd.sources import GUARANTEE, REJECTED
from fakd.types import Segmenter

CARD, SCRIPT = "card.md", "run.py"


@dataclass(frozen=True)
class ExportSettings:
    """The settings of an export.

    Args:
        target: The runtime.
        form: Inputs and outputs of the file.
        precision: Of its arithmetic.
        tolerance: Maximum loss in mIoU points.
        images: Number of labelled images to test with; all if None.
        fixed: Image size to fall back to if no file for any size can be written.
        opset: Of ONNX.
        calibration: Number of training images for calibrating INT8.
    """

    target: Target
    form: Form
    precision: Precision = "fp32"
    tolerance: float = 0.1
    images: int | None = None
    fixed: tuple[int, int] | None = None
    opset: int | None = None
    calibration: int = 32


def export_and_verify(
    network: Segmenter,
    data: SegmentationData,
    inference: Inference,
    wanted: ExportSettings,
    out: Path,
    name: str,
    word: str | None,
    facts: dict[str, Any],
    done: Callable[[int], None] = lambda _: None,
) -> dict[str, Any]:
    """Export a network, test the file on labelled images, and keep it or mark it as rejected.

    An export that fails for another reason leaves nothing behind; an earlier rejected one is
    removed.

    Args:
        network: The student.
        data: Its validation images are used for the test.
        inference: How images are fed to the student.
        wanted: The settings of the export.
        out: The folder; created with its parents.
        name: File name without suffix.
        word: The student's specifier, for a process of its own; None if it has none.
        facts: Run, data and licence, for the metadata.
        done: Called with the number of images done.

    Returns:
        The metadata and the guarantee, ``holds``, the ``verdict`` and the ``path``.

    Raises:
        InputError: it cannot be exported, or the file's outputs are infinite or NaN.
    """
    before = out.exists()
    make_folder(out)
    with (
        _removed_if_empty(out, before),
        tempfile.TemporaryDirectory(dir=out, prefix=".export-") as place,
        writing(out),
    ):
        folder = Path(place)
        file = folder / f"{name}{ENDINGS[wanted.target]}"
        found, told = _write_and_test(network, data, inference, wanted, file, facts, done)
        holds = found.holds(wanted.tolerance)
        verdict = describe_guarantee(found, wanted.tolerance, name)
        (folder / SCRIPT).write_text(runner_text(wanted.target, file.name), encoding="utf-8")
        numbers = _add_measurements(found, network, data.val, folder, file, word)
        told |= {"guarantee": numbers, "holds": holds, "tolerance": wanted.tolerance}
        (folder / CARD).write_text(
            card_text(told, file.name, wanted.target, verdict), encoding="utf-8"
        )
        (folder / GUARANTEE).write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
        kept = [file.name, file.with_suffix(".bin").name, CARD, GUARANTEE]
        for each in (*kept, SCRIPT):
            (out / f"{each}{REJECTED}").unlink(missing_ok=True)
            if (folder / each).is_file() and (holds or each != SCRIPT):
                os.replace(folder / each, out / (each if holds else each + REJECTED))
    return {**told, "verdict": verdict, "path": str(out / file.name) + ("" if holds else REJECTED)}


@contextmanager
def _removed_if_empty(folder: Path, wanted: bool) -> Iterator[None]:
    """Remove a new folder afterwards if it is empty."""
    try:
        yield
    finally:
        if not wanted:
            with suppress(OSError):
                folder.rmdir()


def _write_and_test(
    network: Segmenter,
    data: SegmentationData,
    inference: Inference,
    wanted: ExportSettings,
    file: Path,
    facts: dict[str, Any],
    done: Callable[[int], None],
) -> tuple[Guarantee, dict[str, Any]]:
    """Write the file and test it; with INT8, keep more layers in float until it is good enough."""

    def tried() -> Guarantee:
        opened = open_exported(str(file))
        if not isinstance(opened, Segmenter):
            raise TypeError(f"{file} has lost its metadata")
        try:
            return compare_outputs(network, opened, data.val, inference, wanted.images, done)
        except FloatingPointError as error:
            raise InputError(
                f"outputs for images of {data.name} are infinite or NaN in {wanted.precision}; "
                "give --precision fp32, or train the network again if that does not help"
            ) from error

    said = {"target": wanted.target, "precision": wanted.precision}
    told = metadata(network, wanted.form, exporter="torch.export", float_layers=[], **said, **facts)
    if wanted.target == "torch":
        form = export_program(network, wanted.form, wanted.fixed, file, told)
        told["size"] = form.size and list(form.size)
        return tried(), told
    graph = file.with_suffix(".onnx")
    form, exporter = export_graph(network, wanted.form, wanted.fixed, graph, wanted.opset)
    told |= {"size": form.size and list(form.size), "exporter": exporter}

    def finished() -> Guarantee:
        add_metadata(graph, told)
        if wanted.target == "openvino":
            convert_to_openvino(graph, file, told)
        return tried()

    if wanted.precision == "fp16":
        to_half(graph)
    if wanted.precision != "int8":
        return finished(), told
    add_metadata(graph, told)
    plain = graph.rename(file.with_name("plain.onnx"))
    quantizer = Quantizer(plain, data.train, network.classes, wanted.calibration)
    for layers in quantizer.float_layers():
        told["float_layers"] = layers
        quantizer.write(graph, layers)
        found = finished()
        if found.holds(wanted.tolerance):
            break
    return found, told


def _add_measurements(
    found: Guarantee,
    network: Segmenter,
    split: Split,
    folder: Path,
    file: Path,
    word: str | None,
) -> dict[str, Any]:
    """Add file sizes and memory to the guarantee's numbers."""
    numbers = found.as_dict(network.class_names or tuple(map(str, range(network.classes))))
    picture, weights = folder / "picture.png", folder / "student.safetensors"
    Image.fromarray(split[0].image.permute(1, 2, 0).contiguous().numpy()).save(picture)
    save(network, weights, class_names=None, palette=None)
    files = [each for each in (file, file.with_suffix(".bin")) if each.is_file()]
    used = measure_memory(word, folder / SCRIPT, file, picture, folder)
    for side, stored, memory in zip(("student", "file"), ([weights], files), used, strict=True):
        size = sum(each.stat().st_size for each in stored)
        numbers[side] |= {"megabytes": round(size / 1e6, 3), "memory_mb": memory}
    return numbers | {"machine": processor_name()}


def describe_guarantee(found: Guarantee, tolerance: float, name: str) -> str:
    """Describe whether the guarantee holds."""
    kept = "holds" if found.holds(tolerance) else "does NOT hold"
    nothing = (
        " It says nothing about the file, because the student predicts one class everywhere, as a "
        "broken one may do: train it first."
    )
    return (
        f"The guarantee {kept}: {name} scores {100 * found.file.miou:.2f} mIoU as a file and "
        f"{100 * found.student.miou:.2f} as the student ({-found.fall:+.2f}, allowed loss "
        f"{tolerance:g}) on {found.images} images; they agree on {found.agreement:.3%} of the "
        "pixels." + nothing * (found.named < 2)
    )


def processor_name() -> str:
    """Return the processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(each.partition(":")[2].strip() for each in lines if "model name" in each)
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def refuse_present(out: Path, name: str, target: Target, overwrite: bool) -> None:
    """Refuse a folder that contains an export, unless ``overwrite``.

    Raises:
        InputError: a file exists, or the path is not a folder.
    """
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is not a folder; choose another --out")
    ours = (f"{name}{ENDINGS[target]}", CARD, SCRIPT, GUARANTEE)
    present = [each for each in ours if (out / each).exists()]
    if present and not overwrite:
        raise InputError(
            f"{out / present[0]} exists; choose another --out or give --overwrite true"
        )
