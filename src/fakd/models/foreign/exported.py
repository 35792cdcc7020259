"""Networks without their code, as teachers only: ONNX, TorchScript, `torch.export`, functions."""

import hashlib
import inspect
import warnings
import zipfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from fakd.errors import InputError
from fakd.files import describe_bad_download
from fakd.imports import require_library
from fakd.models.foreign.deployed import KEY, Deployed
from fakd.models.foreign.libraries import NetworkMetadata, attach_metadata
from fakd.models.foreign.sizes import Size


@dataclass(frozen=True)
class InputFormat:
    """Input format of an exported network.

    Args:
        batch: batch size; None for any.
        channels: channels of the images.
        side: fixed height and width; None for any.
        last: whether channels come last.
        dtype: data type of the images.
    """

    batch: int | None
    channels: int
    side: Size | None
    last: bool
    dtype: torch.dtype

    def parts(self, images: Float[Tensor, "batch channels height width"]) -> list[Tensor]:
        """Convert images to its axes, type and batch size; the last batch is padded with zeros."""
        if self.dtype == torch.uint8:
            images = (images * 255).round().clamp(0, 255)
        images = (images.movedim(1, -1) if self.last else images).to(self.dtype).contiguous()
        if self.batch is None:
            return [images]
        missing = -len(images) % self.batch
        filled = torch.cat([images, images.new_zeros(missing, *images.shape[1:])])
        return [*torch.split(filled, self.batch)]


def input_format_of(shape: Sequence[int | None], dtype: torch.dtype) -> InputFormat | None:
    """Infer a network's input format from its input's shape, in which None means any size.

    >>> input_format_of([1, 257, 257, 3], torch.float32).last
    True
    """
    if len(shape) != 4:
        return None
    last = shape[3] in (1, 3) and shape[1] not in (1, 3)
    channels, height, width = (shape[3], *shape[1:3]) if last else shape[1:]
    side = (height, width) if height and width else None
    return InputFormat(shape[0], channels or 3, side, last, dtype)


def _concatenate(parts: Sequence[Any], count: int) -> Any:
    """Concatenate the outputs for parts of a batch, in any nested structure of tensors."""
    flat = [tree_flatten(each) for each in parts]
    columns = [
        torch.cat(each)[:count] if isinstance(each[0], Tensor) and each[0].ndim else each[0]
        for each in zip(*(values for values, _ in flat), strict=True)
    ]
    # In float32, as losses need.
    columns = [
        each.float() if isinstance(each, Tensor) and each.is_floating_point() else each
        for each in columns
    ]
    return tree_unflatten(columns, flat[0][1])


class OnnxNetwork(nn.Module):
    """An ONNX file, run by onnxruntime on the CPU; maps images to a dictionary of its outputs.

    A fixed batch size, channels last and 8-bit inputs are supported.

    Args:
        session: an open ``onnxruntime.InferenceSession``.
        title: name of the network in error messages.
    """

    def __init__(self, session: Any, title: str = "the ONNX network") -> None:
        super().__init__()
        self.session, inputs = session, session.get_inputs()
        kinds = {"tensor(uint8)": torch.uint8, "tensor(float16)": torch.float16}
        shape = [side if isinstance(side, int) and side > 0 else None for side in inputs[0].shape]
        takes = input_format_of(shape, kinds.get(inputs[0].type, torch.float32))
        if len(inputs) != 1 or takes is None:
            shapes = ", ".join(f"{each.name} {each.shape}" for each in inputs)
            raise InputError(f"{title} must have one input, images with four axes, got {shapes}")
        self.input, self.takes = inputs[0].name, takes
        attach_metadata(self, NetworkMetadata("ONNX"))
        if takes.dtype == torch.uint8:
            nothing, one = (0.0,) * takes.channels, (1.0,) * takes.channels
            attach_metadata(
                self, NetworkMetadata("ONNX", nothing, one, told_by="its input of bytes")
            )

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Run the network; returns its outputs by name."""
        names = [each.name for each in self.session.get_outputs()]
        answers = []
        for part in self.takes.parts(images.detach().float().cpu()):
            found = self.session.run(None, {self.input: part.numpy()})
            answers.append(dict(zip(names, map(torch.from_numpy, found), strict=True)))
        return {k: v.to(images.device) for k, v in _concatenate(answers, len(images)).items()}

    def __deepcopy__(self, memo: Any) -> "OnnxNetwork":
        return self  # a session cannot be copied, and never changes


class FunctionNetwork(nn.Module):
    """A function from images to logits, with the modules that it closes over or belongs to.

    The modules that are found follow this one's mode and device, and are not trained.
    """

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = function
        self.parts = nn.ModuleList(_modules_of(function)).requires_grad_(False)

    def forward(self, images: Tensor) -> Any:
        """Call the function."""
        return self.function(images)


def _modules_of(function: Any) -> list[nn.Module]:
    """Find the modules among a function's owner, closure, globals, defaults and attributes."""
    used = [getattr(function, "__self__", None), *(getattr(function, "__defaults__", None) or ())]
    with suppress(TypeError):
        variables = inspect.getclosurevars(function)
        used += [*variables.nonlocals.values(), *variables.globals.values()]
    used += getattr(function, "__dict__", {}).values()
    modules = {id(each): each for each in used if isinstance(each, nn.Module)}
    return list(modules.values())


class ExportedNetwork(nn.Module):
    """A program of `torch.export` or TorchScript; it is not trained.

    Args:
        program: the program, called with images.
        takes: its input format, if known.
    """

    def __init__(self, program: nn.Module, takes: InputFormat | None = None) -> None:
        super().__init__()
        self.takes = takes
        for parameter in program.parameters():
            parameter.requires_grad_(False)
        # Not a submodule: an exported program does not support train() and eval().
        self._program = (program,)
        attach_metadata(self, NetworkMetadata("exported"))

    def forward(self, images: Tensor) -> Any:
        """Run the program on the device that the images are on."""
        self._program[0].to(images.device)
        if self.takes is None:
            return self._program[0](images)
        answers = [self._program[0](part) for part in self.takes.parts(images)]
        return _concatenate(answers, len(images))


def _of_program(program: torch.export.ExportedProgram) -> ExportedNetwork:
    """Wrap a program as a network, with the input format that it was exported for."""
    names = program.graph_signature.user_inputs
    found = [each.meta["val"] for each in program.graph.nodes if each.name in names[:1]]
    if not found or not isinstance(found[0], Tensor):
        return ExportedNetwork(program.module())
    # Dynamic sizes are symbols.
    shape = [side if type(side) is int else None for side in found[0].shape]
    return ExportedNetwork(program.module(), input_format_of(shape, found[0].dtype))


def open_exported(path: str) -> nn.Module:
    """Open an exported network, for use as a teacher: it cannot be trained.

    Its ``digest`` identifies the file, since the weights of such networks may not be accessible.

    Args:
        path: an .onnx file, a TorchScript file, a .pt2 file of `torch.export`, or an .xml file that
            `fakd export` wrote for OpenVINO.

    Raises:
        InputError: it cannot be read, or its runtime is missing.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise InputError(f"{path} does not exist; give the file of an exported network")
    opened = _open(file, path)
    digest = hashlib.sha256()
    # Some formats store large weights in a separate file.
    for part in (file, file.with_suffix(".bin"), file.with_name(f"{file.name}.data")):
        if part.is_file():
            digest.update(part.read_bytes())
    opened.digest = digest.hexdigest()[:16]  # type: ignore[assignment]
    return opened


def _open(file: Path, path: str) -> nn.Module:
    try:
        if file.suffix == ".onnx":
            session = onnx_session(file)
            told = session.get_modelmeta().custom_metadata_map.get(KEY)
            if told is None:
                return OnnxNetwork(session, path)
            name = session.get_inputs()[0].name
            return Deployed(lambda images: session.run(None, {name: images})[0], told, path)
        if file.suffix == ".xml":
            return Deployed(*_openvino(file), path)
        if file.suffix == ".pt2":
            # torch.export.load would print the stack before it fails.
            if not zipfile.is_zipfile(file):
                raise ValueError("it is damaged or of another format; export it again")
            beside = {KEY: ""}
            program = torch.export.load(file, extra_files=beside)
            if not beside[KEY]:
                return _of_program(program)
            module = program.module()
            return Deployed(lambda images: _numpy(module, images), beside[KEY], path)
        with warnings.catch_warnings():
            # The file exists already, so a warning that TorchScript is deprecated does not help.
            warnings.simplefilter("ignore", FutureWarning)
            program = torch.jit.load(str(file), map_location="cpu")  # type: ignore[no-untyped-call]
        return ExportedNetwork(program.eval())
    except InputError:
        raise
    except Exception as error:
        reason = describe_bad_download(file, (str(error).splitlines() or [type(error).__name__])[0])
        raise InputError(f"{path} cannot be opened as an exported network: {reason}") from error


def onnx_session(file: Path) -> Any:
    """Open an ONNX file on the CPU, with as many threads as PyTorch has.

    Raises:
        InputError: onnxruntime is missing.
    """
    require_library("onnxruntime")
    runtime: Any = import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    return runtime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def _numpy(module: Callable[[Tensor], Tensor], images: np.ndarray) -> np.ndarray:
    try:
        with torch.no_grad():
            answer: np.ndarray = module(torch.from_numpy(images)).numpy()
    except AssertionError as error:
        # A program guards what it was exported for.
        raise InputError(
            f"the exported program takes no {tuple(images.shape)} ({error}); export it for that "
            "size with --size HEIGHT,WIDTH"
        ) from error
    return answer


def _openvino(file: Path) -> tuple[Callable[[np.ndarray], np.ndarray], str]:
    """Open an .xml file and its weights; returns a function that runs it, and its metadata."""
    require_library("openvino")
    openvino: Any = import_module("openvino")
    model = openvino.Core().read_model(file)
    if not model.has_rt_info([KEY]):
        raise InputError(f"{file} must have been written by fakd export, but lacks its metadata")
    options = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(model, "CPU", options)
    return lambda images: compiled(images)[0].copy(), model.get_rt_info([KEY]).value


def as_module(given: Any) -> nn.Module | None:
    """Wrap a program, a session or a function as a module; None for anything else."""
    if isinstance(given, torch.jit.ScriptModule):
        return ExportedNetwork(given.eval())
    if isinstance(given, torch.export.ExportedProgram):
        return _of_program(given)
    if type(given).__module__.startswith("onnxruntime") and hasattr(given, "get_inputs"):
        return OnnxNetwork(given)
    if isinstance(given, nn.Module):
        return given
    return FunctionNetwork(given) if callable(given) else None
