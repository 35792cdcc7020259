"""Growth of memory, open files and logs during a long run.

    python benchmarks/endurance.py --steps 20000

A single convolution is distilled into another on the built-in scenes, in a process that is observed
from outside: this measures the training loop, which is the same for every network. Slopes are
medians over all pairs of samples in the second half, when all caches are filled.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from scipy.stats import theilslopes

from common import FOLDER, environment
from fakd.runs.folder import CURVES, read_curves

TINY = [
    "--data=scenes", "--data.train=16", "--data.val=2", "--data.size=[16,24]",
    "--augmentation.crop=[16,16]", "--hardware.threads=1", "--hardware.accelerator=cpu",
    "--schedule.batch_size=2",
]  # fmt: skip
NETWORK = {"in_channels": 3, "out_channels": 12, "kernel_size": 3, "padding": 1}


def command(name: str, trained: str, run: Path, steps: int, *more: str) -> list[str]:
    arguments = [f"--{trained}.{key}={value}" for key, value in NETWORK.items()]
    given = [
        f"--{trained}=torch.nn.Conv2d",
        *arguments,
        *TINY,
        f"--run={run}",
        f"--schedule.steps={steps}",
        *more,
    ]
    return [sys.executable, "-m", "fakd", name, *given]


def watch(process: subprocess.Popen, run: Path, seconds: float) -> list[dict[str, float]]:
    """Record memory, open files and the size of the logs until the run ends."""
    place, samples, page = Path("/proc") / str(process.pid), [], os.sysconf("SC_PAGE_SIZE")
    while process.poll() is None:
        time.sleep(seconds)
        rows = read_curves(run / CURVES)
        try:
            pages = int((place / "statm").read_text().split()[1])
            files = len(list((place / "fd").iterdir()))
        except (OSError, IndexError):
            break
        logs = [run / CURVES, *run.glob("events.out.*")]
        sizes = sum(file.stat().st_size for file in logs if file.is_file())
        if rows:
            sample = {"step": rows[-1]["step"], "bytes": pages * page, "files": files}
            samples.append({**sample, "log_bytes": sizes})
    return samples


def slope(samples: list[dict[str, float]], name: str) -> float:
    """Growth per thousand steps."""
    half = [each for each in samples if each["step"] > samples[-1]["step"] / 2]
    steps = [each["step"] for each in half]
    return 1000 * float(theilslopes([each[name] for each in half], steps).slope)


def main() -> int:
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--steps", type=int, default=20_000)
    flags.add_argument("--seconds", type=float, default=2.0, help="between two samples")
    flags.add_argument("--out", type=Path, default=FOLDER / "results" / "endurance.json")
    chosen = flags.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        teacher, run = Path(folder) / "teacher", Path(folder) / "student"
        subprocess.run(command("train", "network", teacher, 20), check=True, capture_output=True)
        more = ["--teacher=fakd.models.load", f"--teacher.path={teacher}", "--check_teacher=false"]
        more += ["--teacher.allow=torch.nn.Conv2d", "--intervals.evaluate=100"]
        process = subprocess.Popen(
            command("distill", "student", run, chosen.steps, *more), stdout=subprocess.DEVNULL
        )
        samples = watch(process, run, chosen.seconds)
    result = {
        "schema": 1,
        "benchmark": "endurance",
        "steps": chosen.steps,
        "environment": environment("cpu"),
        "per_thousand_steps": {
            name: round(slope(samples, name), 3) for name in ("bytes", "files", "log_bytes")
        },
        "samples": samples[:: max(1, len(samples) // 50)],
    }
    chosen.out.write_text(json.dumps(result, indent=1) + "\n")
    first, last = samples[len(samples) // 2], samples[-1]
    print(f"step {first['step']:.0f} to {last['step']:.0f}, per thousand steps:")
    print(f"  resident memory {result['per_thousand_steps']['bytes'] / 1024:+.1f} KiB")
    print(f"  open files      {result['per_thousand_steps']['files']:+.3f}")
    print(f"  logs            {result['per_thousand_steps']['log_bytes'] / 1024:+.1f} KiB")
    return process.returncode


if __name__ == "__main__":
    sys.exit(main())
