"""How fast a network is here: from an image's bytes to its classes, in every runtime there is."""

import copy
import ctypes
import gc
import re
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import torch

from fakd.errors import InputError
from fakd.files import expanded
from fakd.inference import predict_classes
from fakd.models import EncoderDecoder, open_network
from fakd.report.measurements import device_name, timed
from fakd.runs.folder import RESULT, read_json
from fakd.settings import Inference
from fakd.sources import EXPORTED
from fakd.types import Segmenter

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_FILES = {".onnx": "onnx", ".xml": "openvino"}


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
        name = device_name(torch.device("cpu"))
        runtime = _FILES.get(path.suffix, "torch")
        yield Timing(runtime=runtime, device=name, **_timed(call, "cpu", before), **facts)
        return
    network = copy.deepcopy(network).to(device)
    if isinstance(network, EncoderDecoder):
        network.auxiliary_head = None
    for runtime in runtimes:
        if runtime == "compile":
            network.compile()
        call = partial(predict_classes, network, image.to(device), shown)
        found = _timed(call, device.type, None, _weight(network))
        yield Timing(runtime=runtime, device=device_name(device), **found, **facts)


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
    except InputError:
        raise
    except Exception as error:
        return {"problem": (str(error).strip().splitlines() or [type(error).__name__])[0]}
    median, p90 = spread(times)
    rounded = None if memory is None else round(memory, 1)
    return {"median": median, "p90": p90, "memory": rounded}


def spread(times: Sequence[float]) -> tuple[float, float]:
    """Compute median and 90th percentile.

    >>> spread([1.0, 2.0, 3.0])
    (2.0, 2.8)
    """
    p90 = statistics.quantiles(times, n=10, method="inclusive")[-1]
    return round(statistics.median(times), 3), round(p90, 3)


def trained_inference(network: Segmenter) -> Inference:
    """Read how a network was shown images when it was trained; as they are if it does not say."""
    given = network.extra.get("inference") or {}
    known = {each.name: given[each.name] for each in fields(Inference) if each.name in given}
    # JSON has made lists of tuples.
    tuples = {key: tuple(each) for key, each in known.items() if isinstance(each, list)}
    return Inference(**{**known, **tuples})


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
