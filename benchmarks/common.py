"""The contract of all benchmarks: what is recorded, and how time and memory are measured."""

import argparse
import ctypes
import datetime
import gc
import json
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

SCHEMA = 1
SEED = 0
FOLDER = Path(__file__).parent


class Size(NamedTuple):
    """One problem size; on the command line ``BATCHxROWSxCOLSxCLASSESxCHANNELS``."""

    batch: int
    rows: int
    cols: int
    classes: int
    channels: int

    @classmethod
    def parse(cls, text: str) -> "Size":
        """Read a size from the command line."""
        try:
            return cls(*(int(part) for part in text.split("x")))
        except (TypeError, ValueError):
            raise argparse.ArgumentTypeError(
                f"expected BATCHxROWSxCOLSxCLASSESxCHANNELS such as 16x64x64x150x512, got {text!r}"
            ) from None


def parser(name: str, description: str | None, sizes: Sequence[str]) -> argparse.ArgumentParser:
    """Flags shared by all benchmarks."""
    flags = argparse.ArgumentParser(description=description)
    flags.add_argument(
        "--sizes", nargs="+", type=Size.parse, default=[Size.parse(size) for size in sizes]
    )
    flags.add_argument(
        "--repeats", type=int, default=9, help="measured rounds after two unmeasured"
    )
    flags.add_argument("--out", type=Path, default=FOLDER / "results" / f"{name}.json")
    flags.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    flags.add_argument("--threads", type=int, default=torch.get_num_threads())
    return flags


def measure(
    variants: dict[str, Callable[[], Any]], device: str, repeats: int, reference: str
) -> dict[str, dict[str, float | list[float]]]:
    """Time the variants alternately, round by round, then measure the memory of each.

    A ratio compares two runs of the same round, so that a slowdown of the machine affects both.
    """
    rounds: list[dict[str, float]] = []
    for _ in range(repeats + 2):
        rounds.append({name: _seconds(run, device) for name, run in variants.items()})
    rounds = rounds[2:]
    peaks = {name: _peak_bytes(run, device) for name, run in variants.items()}
    results: dict[str, dict[str, float | list[float]]] = {}
    for name in variants:
        results[name] = {
            "seconds": _quartiles([times[name] for times in rounds]),
            "seconds_ratio": _quartiles([times[name] / times[reference] for times in rounds]),
            "peak_bytes": peaks[name],
            "peak_ratio": peaks[name] / max(peaks[reference], 1),
        }
    return results


def _quartiles(samples: list[float]) -> list[float]:
    if len(samples) < 2:
        return samples * 3
    return statistics.quantiles(samples, n=4, method="inclusive")


def _seconds(run: Callable[[], Any], device: str) -> float:
    _wait(device)
    start = time.perf_counter()
    run()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def _peak_bytes(run: Callable[[], Any], device: str) -> int:
    """Peak memory beyond the memory held before: the allocator's on a GPU, else resident memory."""
    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        _wait(device)
        return torch.cuda.max_memory_allocated(device) - before
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # freed memory that stays resident would hide the peak
    Path("/proc/self/clear_refs").write_text("5")
    before = _status_bytes("VmRSS")
    run()
    return _status_bytes("VmHWM") - before


def _status_bytes(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"expected {field} in /proc/self/status; measure memory on Linux or a GPU")


def environment(device: str) -> dict[str, Any]:
    """Everything about the machine that explains a number."""
    cpu = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.exists():
        names = [x for x in information.read_text().splitlines() if x.startswith("model name")]
        cpu = names[0].split(":")[1].strip() if names else cpu
    return {
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else cpu,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "commit": _git("rev-parse", "--verify", "--quiet", "HEAD"),
        "modified": bool(_git("status", "--porcelain", "--", "src", "benchmarks/*.py")),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def _git(*arguments: str) -> str:
    run = subprocess.run(["git", *arguments], cwd=FOLDER.parent, capture_output=True, text=True)
    return run.stdout.strip()


def report(
    name: str,
    flags: argparse.Namespace,
    reference: str,
    runs: list[tuple[Size, dict[str, dict[str, Any]]]],
) -> None:
    """Write the results as JSON and print them as a table."""
    record = {
        "schema": SCHEMA,
        "benchmark": name,
        "seed": SEED,
        "repeats": flags.repeats,
        "reference": reference,
        "environment": environment(flags.device),
        "runs": [{"size": size._asdict(), "results": results} for size, results in runs],
    }
    flags.out.parent.mkdir(parents=True, exist_ok=True)
    flags.out.write_text(json.dumps(record, indent=2) + "\n")
    for size, results in runs:
        print(f"\n{'x'.join(map(str, size))}{'ms':>26} {'quartiles':>17} {'ratio':>8} {'MB':>9}")
        for variant, result in results.items():
            low, middle, high = (1000 * seconds for seconds in result["seconds"])
            spread = f"{low:.1f}..{high:.1f}"
            ratio, peak = result["seconds_ratio"][1], result["peak_bytes"] / 1e6
            print(f"  {variant:<32} {middle:>9.2f} {spread:>17} {ratio:>8.3f} {peak:>9.1f}")
    print(f"\nwritten to {flags.out}")
