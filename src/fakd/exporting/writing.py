"""Writing a program to a file: ONNX with either exporter, `torch.export`, OpenVINO."""

import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import replace
from importlib import import_module
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fakd.errors import InputError
from fakd.exporting.kinds import Target
from fakd.exporting.program import Form, Program, output_mismatch
from fakd.files import writing
from fakd.imports import require_library
from fakd.models.foreign.deployed import KEY
from fakd.models.foreign.exported import onnx_session
from fakd.types import Segmenter

ENDINGS: Mapping[Target, str] = {"onnx": ".onnx", "torch": ".pt2", "openvino": ".xml"}
LIBRARIES: Mapping[Target, tuple[str, ...]] = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "torch": (),
    "openvino": ("onnx", "onnxscript", "onnxruntime", "openvino"),
}
DYNAMO, TORCHSCRIPT = "dynamo", "TorchScript"
_AXES = {0: "batch", 2: "height", 3: "width"}


def export_graph(
    network: Segmenter, form: Form, fixed: tuple[int, int] | None, file: Path, opset: int | None
) -> tuple[Form, str]:
    """Write a network as ONNX, with the first exporter whose file gives the network's outputs.

    The newer exporter is tried before the older one, and images of any size, if ``form`` has none,
    before the size ``fixed``.

    Args:
        network: The network.
        form: Inputs and outputs of the file.
        fixed: Fallback image size; None for no fallback.
        file: The file to write.
        opset: Of ONNX; the exporter's default if None.

    Returns:
        The form of the file, and the exporter's name.

    Raises:
        InputError: no exporter wrote a file with correct outputs.
    """
    problems = []
    sizes = [form.size] if form.size or fixed is None else [None, fixed]
    for size in sizes:
        tried = replace(form, size=size)
        program = Program(network, tried)
        for exporter in (DYNAMO, TORCHSCRIPT):
            try:
                with quiet(), writing(file):
                    _write(program, file, exporter, opset)
                wrong = _describe_errors(program, file)
            except InputError:
                raise
            except Exception as error:
                wrong = (str(error).splitlines() or [""])[0] or type(error).__name__
            if not wrong:
                return tried, exporter
            problems.append(f"{exporter} at {size or 'any size'}: {wrong}")
    file.unlink(missing_ok=True)
    way = "; give --size HEIGHT,WIDTH" if sizes == [None] else ""
    raise InputError(f"the network cannot be exported to ONNX ({'; '.join(problems)}){way}")


def _axes(form: Form) -> dict[int, str]:
    free = {0: form.batch is None, 2: form.size is None, 3: form.size is None}
    return {axis: name for axis, name in _AXES.items() if free[axis]}


def _dims(axes: Mapping[int, str]) -> dict[int, Any]:
    # A feature map of one cell would need another graph, so sides must exceed the largest stride.
    return {axis: torch.export.Dim(name, min=64 if axis else 1) for axis, name in axes.items()}


def _images(form: Form, *, seed: int, by: int = 0) -> Tensor:
    """Generate smooth images, at another size than the example's if any size is allowed."""
    batch, channels, height, width = form.example
    if form.size is None:
        height, width = height + by, width + 2 * by
    draw = torch.Generator().manual_seed(seed)
    coarse = torch.rand(batch, channels, 6, 8, generator=draw)
    images = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)
    return (images * 255).round().to(torch.uint8) if form.input == "uint8" else images


def _write(program: Program, file: Path, exporter: str, opset: int | None) -> None:
    axes = _axes(program.form)
    options: dict[str, Any] = {"dynamo": exporter == DYNAMO, "opset_version": opset}
    if exporter == DYNAMO:
        options |= {"external_data": False, "verbose": False}
        if axes:
            options["dynamic_shapes"] = (_dims(axes),)
    elif axes:
        options["dynamic_axes"] = {"images": axes, program.form.output: axes}
    torch.onnx.export(
        program,
        (_images(program.form, seed=0),),
        str(file),
        input_names=["images"],
        output_names=[program.form.output],
        **options,
    )


def _describe_errors(program: Program, file: Path) -> str:
    """Describe errors in an ONNX file's outputs, tested at two sizes if it takes any."""
    session = onnx_session(file)
    for by in (0, 37) if program.form.size is None else (0,):
        images = _images(program.form, seed=1, by=by)
        answer = torch.from_numpy(session.run(None, {"images": images.numpy()})[0])
        if (found := output_mismatch(answer, program, images)) is not None:
            return "its file gives other outputs (off by {off:.2g}, limit {limit:.2g})".format(
                **found
            )
    return ""


def export_program(
    network: Segmenter,
    form: Form,
    fixed: tuple[int, int] | None,
    file: Path,
    told: Mapping[str, Any],
) -> Form:
    """Write a network as a `torch.export` program with metadata; see `export_graph`.

    Raises:
        InputError: it cannot be exported.
    """
    problem = ""
    for size in [form.size] if form.size or fixed is None else [None, fixed]:
        tried = replace(form, size=size)
        program = Program(network, tried)
        shapes = (_dims(_axes(tried)) or None,)
        try:
            with quiet(), torch.no_grad():
                images = _images(tried, seed=0)
                # Strict mode fails at type checks, and is no longer the default.
                made = torch.export.export(program, (images,), dynamic_shapes=shapes, strict=False)
                text = json.dumps({**told, "size": size and list(size)})
                # Not straight into the file: torch ends the process where a disk is full.
                content = BytesIO()
                torch.export.save(made, content, extra_files={KEY: text})
                with writing(file):
                    file.write_bytes(content.getbuffer())
                module = torch.export.load(file).module()
                seen = [_images(tried, seed=1, by=by) for by in ((0, 37) if size is None else (0,))]
                if all(output_mismatch(module(each), program, each) is None for each in seen):
                    return tried
            problem = "its file answers otherwise"
        except InputError:
            raise
        except Exception as error:
            problem = (str(error).splitlines() or [""])[0] or type(error).__name__
    file.unlink(missing_ok=True)
    raise InputError(f"the network cannot be exported by torch.export: {problem}")


def add_metadata(file: Path, told: Mapping[str, Any]) -> None:
    """Write metadata into an ONNX file."""
    onnx: Any = import_module("onnx")
    model = onnx.load(file)
    model.producer_name = "fakd"
    onnx.helper.set_model_props(model, {KEY: json.dumps(told)})
    onnx.save(model, file)


def convert_to_openvino(source: Path, file: Path, told: Mapping[str, Any]) -> None:
    """Convert an ONNX file to OpenVINO's .xml and .bin."""
    openvino: Any = import_module("openvino")
    model = openvino.convert_model(source)
    model.set_rt_info(json.dumps(told), [KEY])
    openvino.save_model(model, file, compress_to_fp16=False)


def require_target(target: Target) -> None:
    """Refuse a target whose libraries are missing.

    Raises:
        InputError: the message has the command that installs them.
    """
    for name in LIBRARIES[target]:
        require_library(name)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the exporters' output and warnings."""
    with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        warnings.simplefilter("ignore")
        yield
