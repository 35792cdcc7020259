"""How fast a network is here: from an image's bytes to its classes, in every runtime there is."""

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
from fakd.exporting.guarantee import spread
from fakd.exporting.program import Form, exportable_inference, metadata
from fakd.exporting.shipping import machine
from fakd.exporting.writing import add_metadata, convert_to_openvino, export_graph
from fakd.files import expanded
from fakd.imports import nearest, require_library
from fakd.inference import predict_classes, trained_inference
from fakd.models import EncoderDecoder, open_network
from fakd.report.measurements import device_name, timed
from fakd.runs.folder import RESULT, read_json
from fakd.settings import Inference
from fakd.sources import EXPORTED
from fakd.types import Segmenter

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
LIBRARIES: Mapping[str, tuple[str, ...]] = {
    name: each for name, each in writing.LIBRARIES.items() if each
}
"""What a runtime of files needs."""
ENDINGS: Mapping[str, str] = {
    "onnx": writing.ENDINGS["onnx"],
    "openvino": writing.ENDINGS["openvino"],
}
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Timing:
    """What one network takes in one runtime, for one image."""

    network: str
    """The word that names it."""
    runtime: str
    size: tuple[int, int]
    """Height and width of the image."""
    device: str
    parameters: int | None = None
    """None if they are not seen."""
    median: float | None = None
    """Milliseconds, after a warm-up, from bytes to class ids."""
    p90: float | None = None
    """Milliseconds that 90 % of the passes stayed below."""
    memory: float | None = None
    """MB: weights and what a pass adds at most; of a file, all that opening and running it adds."""
    miou: float | None = None
    """In percent, where it is known."""
    problem: str = ""
    """Why there are no times."""

    def as_dict(self) -> dict[str, Any]:
        """Turn it into plain JSON."""
        return asdict(self) | {"size": list(self.size)}


def time_network(
    given: Segmenter | str | Path,
    size: tuple[int, int],
    device: torch.device,
    *,
    runtimes: Sequence[str] = ("torch",),
    inference: Inference | None = None,
    classes: int | None = None,
) -> Iterator[Timing]:
    """Time a network in one runtime after the other; an exported file in its own.

    Auxiliary heads are left out, as no device runs them. What does not run says why.

    Args:
        given: a network, or the word that names it.
        size: height and width of the image.
        device: what computes.
        runtimes: of `fakd.budget.RUNTIMES`.
        inference: how the image is shown; as in the network's training if None.
        classes: the number of classes, for what takes one.

    Raises:
        InputError: there is no such network.
    """
    before = _resident()
    network = open_network(given, classes).eval()
    path = expanded(given) if isinstance(given, str | Path) else None
    file = path is not None and path.suffix in EXPORTED
    shown = trained_inference(network) if inference is None else inference
    count = sum(each.numel() for each in network.parameters())
    facts: dict[str, Any] = {
        "network": type(given).__name__ if path is None else str(given),
        "size": size,
        "parameters": count or None,
        "miou": _known_score(network, path),
    }
    image = torch.randint(0, 256, (1, 3, *size), dtype=torch.uint8)
    if file and path is not None:
        call = partial(predict_classes, network, image, shown)
        runtime = next((name for name, end in ENDINGS.items() if end == path.suffix), "torch")
        found = _timed(call, "cpu", before)
        yield Timing(runtime=runtime, device=place_name(CPU), **found, **facts)
        return
    network = copy.deepcopy(network).to(device)
    if isinstance(network, EncoderDecoder):
        network.auxiliary_head = None
    with tempfile.TemporaryDirectory() as place:
        for runtime in runtimes:
            if runtime in ENDINGS:
                found = _as_file(network, runtime, Path(place), image, shown)
                yield Timing(runtime=runtime, device=place_name(CPU), **found, **facts)
                continue
            if runtime == "compile":
                network.compile()
            call = partial(predict_classes, network, image.to(device), shown)
            found = _timed(call, device.type, None, _weight(network))
            yield Timing(runtime=runtime, device=place_name(device), **found, **facts)


def available() -> list[str]:
    """List the runtimes whose libraries are there."""
    return [name for name in RUNTIMES if all(map(find_spec, LIBRARIES.get(name, ())))]


def require_runtimes(names: Sequence[str]) -> None:
    """Refuse runtimes that there are none of, or whose libraries are missing.

    Raises:
        InputError: names those there are, or the line that installs what is missing.
    """
    for name in names:
        if name not in RUNTIMES:
            hint = nearest(name, RUNTIMES, f"; choose of {', '.join(RUNTIMES)}")
            raise InputError(f"there is no runtime {name}{hint}")
        for library in LIBRARIES.get(name, ()):
            require_library(library)


def place_name(device: torch.device) -> str:
    """Say what computes: the GPU, or the processor's name and the number of threads."""
    return device_name(device).replace("processor", machine(), 1)


def _as_file(
    network: Segmenter, runtime: str, folder: Path, image: torch.Tensor, shown: Inference
) -> dict[str, Any]:
    """Export a network for images of one size, and time the file."""
    form = Form(size=(image.shape[-2], image.shape[-1]), inference=exportable_inference(shown))
    if form.inference != shown:
        return {"problem": "windows, mirrored and several sizes are no part of a file"}
    graph, file = folder / "network.onnx", folder / f"network{ENDINGS[runtime]}"
    try:
        if not graph.exists():
            network = copy.deepcopy(network).cpu()
            export_graph(network, form, None, graph, None)
            add_metadata(graph, metadata(network, form))
        if file != graph:
            convert_to_openvino(graph, file, metadata(network, form))
        before = _resident()
        opened = open_network(file)
    except Exception as error:
        return {"problem": _first_line(error)}
    return _timed(partial(predict_classes, opened, image, Inference()), "cpu", before)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _timed(
    call: Callable[[], object], kind: str, before: float | None, weights: float = 0.0
) -> dict[str, Any]:
    """Time a call, and tell the memory it takes: since ``before``, or beside so many MB."""
    try:
        times = timed(call, torch.device(kind))
        if before is None:
            memory = _growth(call, kind)
            memory = None if memory is None else memory + weights
        else:
            memory = None if (now := _peak()) is None else max(0.0, now - before)
    except Exception as error:
        return {"problem": _first_line(error)}
    median, p90 = spread(times)
    rounded = None if memory is None else round(memory, 1)
    return {"median": median, "p90": p90, "memory": rounded}


def _known_score(network: Segmenter, path: Path | None) -> float | None:
    """Find the mIoU that a run, a file of weights or an exported file says it has."""
    if path is not None and (path / RESULT).is_file():
        with suppress(OSError, ValueError, KeyError, TypeError):
            return float(read_json(path / RESULT)["best"]["miou"])
    told = getattr(network, "told", None) or {}
    exported = ((told.get("guarantee") or {}).get("file") or {}).get("miou")
    score = network.extra.get("miou") if exported is None else exported
    return None if score is None else float(score)


def _weight(network: torch.nn.Module) -> float:
    """Tell the MB of a network's weights and buffers."""
    tensors = network.state_dict().values()
    return float(sum(each.numel() * each.element_size() for each in tensors)) / 1e6


def _growth(call: Callable[[], object], kind: str) -> float | None:
    """Tell by how many MB a call adds to what is held, at most; None if the system does not say."""
    if kind == "cuda":
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        call()
        return float(torch.cuda.max_memory_allocated() - held) / 1e6
    before = _resident()
    if before is None:
        return None
    call()
    return None if (now := _peak()) is None else max(0.0, now - before)


def _resident() -> float | None:
    """Tell the MB that the process holds, and begin a new peak; None if it cannot (not Linux)."""
    gc.collect()
    if sys.platform != "linux":
        return None
    with suppress(OSError, AttributeError):
        # What was freed before would hide what is taken now.
        ctypes.CDLL(None).malloc_trim(0)
    try:
        _CLEAR.write_text("5")
    except OSError:
        return None
    return _status("VmRSS")


def _peak() -> float | None:
    """Tell the most MB that the process has held since `_resident`."""
    return _status("VmHWM") if sys.platform == "linux" else None


def _status(entry: str) -> float | None:
    try:
        found = re.search(rf"{entry}:\s+(\d+) kB", _STATUS.read_text(encoding="ascii"))
    except OSError:
        return None
    return int(found[1]) * 1024 / 1e6 if found else None
