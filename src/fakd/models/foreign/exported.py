"""Networks without their code, teachers only: ONNX, TorchScript, `torch.export`, functions."""

import inspect
import warnings
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fakd.errors import InputError
from fakd.imports import require_library
from fakd.models.foreign.deployed import KEY, Deployed
from fakd.models.foreign.libraries import Carried, keep
from fakd.models.foreign.sizes import Size


class OnnxNetwork(nn.Module):
    """An ONNX file, run by onnxruntime on the CPU; images in, its first map of floats out.

    It is shown images one by one where its batch is fixed to one, channels last where its input
    says so, and as 8-bit values where it takes bytes.

    Args:
        session: an open ``onnxruntime.InferenceSession``.
        title: what errors call it.
    """

    def __init__(self, session: Any, title: str = "the ONNX network") -> None:
        super().__init__()
        self.session, self.title = session, title
        inputs = session.get_inputs()
        if len(inputs) != 1 or len(inputs[0].shape) != 4:
            shapes = ", ".join(f"{each.name} {each.shape}" for each in inputs)
            raise InputError(f"{title} must have one input, images of four axes, got {shapes}")
        shape = [side if isinstance(side, int) and side > 0 else None for side in inputs[0].shape]
        self.channels_last = shape[3] in (1, 3) and shape[1] not in (1, 3)
        height, width = (shape[1], shape[2]) if self.channels_last else (shape[2], shape[3])
        self.side: Size | None = (height, width) if height and width else None
        self.channels: int = (shape[3] if self.channels_last else shape[1]) or 3
        self.single = shape[0] == 1
        self.input, self.takes_bytes = inputs[0].name, inputs[0].type == "tensor(uint8)"
        keep(self, Carried("ONNX"))
        if self.takes_bytes:
            nothing, one = (0.0,) * self.channels, (1.0,) * self.channels
            keep(self, Carried("ONNX", nothing, one, told_by="its input of bytes"))
        self.takes_half = inputs[0].type == "tensor(float16)"

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return what the file names and answers."""
        shown = images.detach().float().cpu()
        if self.takes_bytes:
            shown = (shown * 255).round().clamp(0, 255).to(torch.uint8)
        shown = (shown.movedim(1, -1) if self.channels_last else shown).contiguous()
        arrays = shown.numpy().astype(np.float16) if self.takes_half else shown.numpy()
        parts = np.split(arrays, len(arrays)) if self.single else [arrays]
        answers = [self.session.run(None, {self.input: part}) for part in parts]
        names = [each.name for each in self.session.get_outputs()]
        joined = {
            name: np.concatenate(each)
            for name, each in zip(names, zip(*answers, strict=True), strict=True)
        }
        found = {name: torch.from_numpy(each).to(images.device) for name, each in joined.items()}
        return {k: v.float() if v.is_floating_point() else v for k, v in found.items()}

    def __deepcopy__(self, memo: Any) -> "OnnxNetwork":
        return self  # a session cannot be copied, and never changes


class FunctionNetwork(nn.Module):
    """A function from images to logits, with the modules that it closes over or belongs to.

    Those it is seen to use are put into evaluation mode and onto the device with it, and never
    learn.
    """

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = function
        self.parts = nn.ModuleList(_modules_of(function)).requires_grad_(False)

    def forward(self, images: Tensor) -> Any:
        """Call the function."""
        return self.function(images)


def _modules_of(function: Any) -> list[nn.Module]:
    """Find the modules that a function belongs to, closes over, has as defaults or attributes."""
    used = [getattr(function, "__self__", None), *(getattr(function, "__defaults__", None) or ())]
    with suppress(TypeError):
        variables = inspect.getclosurevars(function)
        used += [*variables.nonlocals.values(), *variables.globals.values()]
    used += getattr(function, "__dict__", {}).values()
    modules = {id(each): each for each in used if isinstance(each, nn.Module)}
    return list(modules.values())


class ExportedNetwork(nn.Module):
    """A program of `torch.export` or TorchScript; it does not learn.

    Args:
        program: what is called with images.
    """

    def __init__(self, program: nn.Module) -> None:
        super().__init__()
        for parameter in program.parameters():
            parameter.requires_grad_(False)
        # Not a submodule: an exported program refuses to be switched between modes.
        self._program = (program,)
        keep(self, Carried("exported"))

    def forward(self, images: Tensor) -> Any:
        """Run the program on the device that the images are on."""
        self._program[0].to(images.device)
        return self._program[0](images)


def open_exported(path: str) -> nn.Module:
    """Open an exported network, a teacher: it cannot be trained.

    Args:
        path: an .onnx file, a TorchScript file, a .pt2 file of `torch.export`, or an .xml file that
            `fakd export` wrote for OpenVINO.

    Raises:
        InputError: it cannot be read, or its runtime is missing.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise InputError(f"{path} does not exist; name an exported network")
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
            beside = {KEY: ""}
            module = torch.export.load(file, extra_files=beside).module()
            if not beside[KEY]:
                return ExportedNetwork(module)
            return Deployed(lambda images: _numpy(module, images), beside[KEY], path)
        with warnings.catch_warnings():
            # That TorchScript is deprecated helps nobody who was given such a file.
            warnings.simplefilter("ignore", FutureWarning)
            program = torch.jit.load(str(file), map_location="cpu")  # type: ignore[no-untyped-call]
        return ExportedNetwork(program.eval())
    except InputError:
        raise
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
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
    with torch.no_grad():
        answer: np.ndarray = module(torch.from_numpy(images)).numpy()
    return answer


def _openvino(file: Path) -> tuple[Callable[[np.ndarray], np.ndarray], str]:
    """Open an .xml file with its weights beside it; what it says of itself comes second."""
    require_library("openvino")
    openvino: Any = import_module("openvino")
    model = openvino.Core().read_model(file)
    if not model.has_rt_info([KEY]):
        raise InputError(f"{file} must have been written by fakd export, and is something else")
    options = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(model, "CPU", options)
    return lambda images: compiled(images)[0].copy(), model.get_rt_info([KEY]).value


def as_module(given: Any) -> nn.Module | None:
    """Make a module of a program, a session or a function; None of anything else."""
    if isinstance(given, torch.jit.ScriptModule):
        return ExportedNetwork(given.eval())
    if isinstance(given, torch.export.ExportedProgram):
        return ExportedNetwork(given.module())
    if type(given).__module__.startswith("onnxruntime") and hasattr(given, "get_inputs"):
        return OnnxNetwork(given)
    if isinstance(given, nn.Module):
        return given
    return FunctionNetwork(given) if callable(given) else None
