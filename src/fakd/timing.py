"""Latency and memory of a network on this machine, from image bytes to classes, by runtime."""

import copy
import ctypes
import gc
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from fakd.budget import RUNTIMES
from fakd.errors import InputError
from fakd.exporting import writing
from fakd.exporting.guarantee import median_and_p90
from fakd.exporting.program import Form, exportable_inference, metadata
from fakd.exporting.shipping import processor_name
from fakd.exporting.writing import add_metadata, convert_to_openvino, export_graph
from fakd.files import expand_user
from fakd.imports import nearest, require_library
from fakd.inference import predict_classes, resolve_inference
from fakd.models import EncoderDecoder, open_network
from fakd.report.measurements import device_name, time_call
from fakd.runs.folder import RESULT, read_json
from fakd.settings import Inference, InferenceOverrides
from fakd.sources import EXPORTED
from fakd.types import Segmenter

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
LIBRARIES: Mapping[str, tuple[str, ...]] = {
    name: each for name, each in writing.LIBRARIES.items() if each
}
"""Libraries that runtimes of exported files need."""
ENDINGS: Mapping[str, str] = {
    "onnx": writing.ENDINGS["onnx"],
    "openvino": writing.ENDINGS["openvino"],
}
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Timing:
    """Latency and memory of one network in one runtime, for one image."""

    network: str
    """Name of the network."""
    runtime: str
    size: tuple[int, int]
    """Height and width of the image."""
    device: str
    parameters: int | None = None
    """None if unknown."""
    median: float | None = None
    """Milliseconds, after a warm-up, from bytes to class ids."""
    p90: float | None = None
    """90th percentile, in milliseconds."""
    memory: float | None = None
    """MB: weights and peak of a pass; for a file, everything that opening and running it adds."""
    miou: float | None = None
    """In percent, if known."""
    problem: str = ""
    """Why there are no times."""

    def as_dict(self) -> dict[str, Any]:
        """Convert it to plain JSON."""
        return asdict(self) | {"size": list(self.size)}


def time_network(
    given: Segmenter | str | Path,
    size: tuple[int, int],
    device: torch.device,
    *,
    runtimes: Sequence[str] = ("torch",),
    inference: InferenceOverrides = None,
    classes: int | None = None,
) -> Iterator[Timing]:
    """Time a network in one runtime after the other, or an exported file in its own runtime.

    Auxiliary heads are removed, as they are not deployed. Failures are reported in ``problem``.

    Args:
        given: a network, or its name.
        size: height and width of the image.
        device: device that is timed.
        runtimes: some of `fakd.budget.RUNTIMES`.
        inference: inference settings; those of the network's training, but for what is given.
        classes: number of classes, if the network takes one.

    Raises:
        InputError: there is no such network.
    """
    before = _resident_memory()
    network = open_network(given, classes).eval()
    path = expand_user(given) if isinstance(given, str | Path) else None
    file = path is not None and path.suffix in EXPORTED
    shown = resolve_inference(network, inference)
    count = sum(each.numel() for each in network.parameters())
    facts: dict[str, Any] = {
        "network": type(given).__name__ if path is None else str(given),
        "size": size,
        "parameters": count or None,
        "miou": _known_score(network, path) if shown == resolve_inference(network) else None,
    }
    image = torch.randint(0, 256, (1, 3, *size), dtype=torch.uint8)
    if file and path is not None:
        call = partial(predict_classes, network, image, shown)
        runtime = next((name for name, end in ENDINGS.items() if end == path.suffix), "torch")
        found = _measure_call(call, "cpu", before)
        yield Timing(runtime=runtime, device=place_name(CPU), **found, **facts)
        return
    network = copy.deepcopy(network).to(device)
    if isinstance(network, EncoderDecoder):
        network.auxiliary_head = None
    with tempfile.TemporaryDirectory() as place:
        for runtime in runtimes:
            if runtime in ENDINGS:
                found = _time_exported(network, runtime, Path(place), image, shown)
                yield Timing(runtime=runtime, device=place_name(CPU), **found, **facts)
                continue
            if runtime == "compile":
                network.compile()
            call = partial(predict_classes, network, image.to(device), shown)
            found = _measure_call(call, device.type, None, _weight_megabytes(network))
            yield Timing(runtime=runtime, device=place_name(device), **found, **facts)


def available() -> list[str]:
    """List the runtimes whose libraries are installed."""
    return [name for name in RUNTIMES if all(map(find_spec, LIBRARIES.get(name, ())))]


def require_runtimes(names: Sequence[str]) -> None:
    """Refuse unknown runtimes, and those whose libraries are missing.

    Raises:
        InputError: lists the runtimes, or names the command that installs the library.
    """
    for name in names:
        if name not in RUNTIMES:
            hint = nearest(name, RUNTIMES, f"; choose from {', '.join(RUNTIMES)}")
            raise InputError(f"there is no runtime {name}{hint}")
        for library in LIBRARIES.get(name, ()):
            require_library(library)


def place_name(device: torch.device) -> str:
    """Name the device: the GPU, or the processor with its number of threads."""
    return device_name(device).replace("processor", processor_name(), 1)


def _time_exported(
    network: Segmenter, runtime: str, folder: Path, image: torch.Tensor, shown: Inference
) -> dict[str, Any]:
    """Export a network for images of one size, and time the file."""
    form = Form(size=(image.shape[-2], image.shape[-1]), inference=exportable_inference(shown))
    if form.inference != shown:
        return {"problem": "windows, flips and several scales cannot be exported"}
    graph, file = folder / "network.onnx", folder / f"network{ENDINGS[runtime]}"
    try:
        if not graph.exists():
            network = copy.deepcopy(network).cpu()
            export_graph(network, form, None, graph, None)
            add_metadata(graph, metadata(network, form))
        if file != graph:
            convert_to_openvino(graph, file, metadata(network, form))
        before = _resident_memory()
        opened = open_network(file)
    except Exception as error:
        return {"problem": _first_line(error)}
    return _measure_call(partial(predict_classes, opened, image, Inference()), "cpu", before)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _measure_call(
    call: Callable[[], object], kind: str, before: float | None, weights: float = 0.0
) -> dict[str, Any]:
    """Time a call and measure its memory, since ``before`` or in addition to ``weights`` (MB)."""
    try:
        times = time_call(call, torch.device(kind))
        if before is None:
            memory = _memory_growth(call, kind)
            memory = None if memory is None else memory + weights
        else:
            memory = None if (now := _peak_memory()) is None else max(0.0, now - before)
    except Exception as error:
        return {"problem": _first_line(error)}
    median, p90 = median_and_p90(times)
    rounded = None if memory is None else round(memory, 1)
    return {"median": median, "p90": p90, "memory": rounded}


def _known_score(network: Segmenter, path: Path | None) -> float | None:
    """Read the mIoU that a run, a weights file or an exported file records."""
    if path is not None and (path / RESULT).is_file():
        with suppress(OSError, ValueError, KeyError, TypeError):
            return float(read_json(path / RESULT)["best"]["miou"])
    told = getattr(network, "told", None) or {}
    exported = ((told.get("guarantee") or {}).get("file") or {}).get("miou")
    score = network.extra.get("miou") if exported is None else exported
    return None if score is None else float(score)


def _weight_megabytes(network: torch.nn.Module) -> float:
    """Compute the size of a network's weights and buffers, in MB."""
    tensors = network.state_dict().values()
    return float(sum(each.numel() * each.element_size() for each in tensors)) / 1e6


def _memory_growth(call: Callable[[], object], kind: str) -> float | None:
    """Measure the peak memory that a call adds, in MB; None if the system does not report it."""
    if kind == "cuda":
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        call()
        return float(torch.cuda.max_memory_allocated() - held) / 1e6
    before = _resident_memory()
    if before is None:
        return None
    call()
    return None if (now := _peak_memory()) is None else max(0.0, now - before)


def _resident_memory() -> float | None:
    """Measure the process's memory in MB and reset its peak; None except on Linux."""
    gc.collect()
    if sys.platform != "linux":
        return None
    with suppress(OSError, AttributeError):
        # Freed memory that the allocator keeps would hide new allocations.
        ctypes.CDLL(None).malloc_trim(0)
    try:
        _CLEAR.write_text("5")
    except OSError:
        return None
    return _status("VmRSS")


def _peak_memory() -> float | None:
    """Read the process's peak memory since `_resident_memory`, in MB."""
    return _status("VmHWM") if sys.platform == "linux" else None


def _status(entry: str) -> float | None:
    try:
        found = re.search(rf"{entry}:\s+(\d+) kB", _STATUS.read_text(encoding="ascii"))
    except OSError:
        return None
    return int(found[1]) * 1024 / 1e6 if found else None
