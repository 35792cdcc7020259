"""Bit-identity of twenty steps of every method before and after a change.

    python benchmarks/identity.py --out before.json
    python benchmarks/identity.py --against before.json

Each entry contains the float32 curves that a run logs and a hash of its final weights, on the
built-in scenes with one thread. Results depend on the machine and on PyTorch's version: compare on
one machine.
"""

import argparse
import hashlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fakd.cli import main as fakd

STEPS = 20
CLOCKS = ("images/s",)


def channel_kl(covariance: str) -> str:
    arguments = {"strength": 1.0, "covariance": covariance}
    return json.dumps({"class_path": "fakd.losses.ChannelKL", "init_args": arguments})


METHODS: dict[str, str | None] = {
    "alone": None,
    "pd-fa": "pd-fa",
    "cwd-fa diagonal": channel_kl("diagonal"),
    "cwd-fa full": channel_kl("full"),
    "cwd-fa logits": "cwd-fa-logits",
    "skds": "skds-cirkd",
    "ifvd": "ifvd-cirkd",
    "cirkd": "cirkd",
    "dist": "dist",
    "features": "features-l2",
}


def run(folder: Path, command: str, flags: list[str], width: int = 32) -> None:
    """Train like the command line does."""
    network = "network" if command == "train" else "student"
    code = fakd(
        [
            command,
            *flags,
            f"--run={folder}",
            f"--{network}.channels={width}",
            "--data=scenes",
            "--data.train=40",
            "--data.val=4",
            "--data.size=[48, 64]",
            "--schedule.batch_size=4",
            f"--schedule.steps={STEPS}",
            "--schedule.learning_rate=0.05",
            "--augmentation.crop=[48, 64]",
            "--intervals.log=1",
            "--hardware.threads=1",
            "--hardware.accelerator=cpu",
        ]
    )
    if code:
        sys.exit(f"fakd {command} {' '.join(flags)} ended with {code}")


def described(folder: Path) -> dict[str, Any]:
    """Hash the final weights and read every curve as it was logged, in float32."""
    weights = hashlib.sha256()
    for name, tensor in sorted(load_file(folder / "final.safetensors").items()):
        weights.update(name.encode())
        weights.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    events = EventAccumulator(str(folder)).Reload()
    names = [name for name in events.Tags()["scalars"] if name not in CLOCKS]
    curves = {name: [event.value.hex() for event in events.Scalars(name)] for name in names}
    return {"weights": weights.hexdigest(), "curves": curves}


def record() -> dict[str, Any]:
    """Run every method once."""
    found = {}
    with tempfile.TemporaryDirectory() as place:
        teacher = Path(place) / "teacher"
        run(teacher, "train", ["--network=pspnet", "--network.backbone=resnet10t"], 48)
        found["teacher"] = described(teacher)
        for name, loss in METHODS.items():
            folder = Path(place) / name.replace(" ", "-")
            if loss is None:
                run(folder, "train", ["--network=pspnet", "--network.backbone=resnet10t"])
            else:
                flags = [f"--teacher={teacher}", "--student=pspnet", f"--distillation={loss}"]
                run(folder, "distill", [*flags, "--student.backbone=mobilenetv3_small_050"])
            found[name] = described(folder)
    return found


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """List every entry that changed, and the first step at which each of its curves did."""
    found = []
    for name in {**before, **after}:
        old, new = before.get(name), after.get(name)
        if old == new:
            continue
        if old is None or new is None:
            found.append(f"{name}: only {'after' if old is None else 'before'}")
            continue
        if old["weights"] != new["weights"]:
            found.append(f"{name}: other final weights")
        for curve in {**old["curves"], **new["curves"]}:
            values = old["curves"].get(curve, []), new["curves"].get(curve, [])
            if values[0] != values[1]:
                pairs = zip(*values, strict=False)
                step = next((i for i, (a, b) in enumerate(pairs, 1) if a != b), "length")
                found.append(f"{name}: {curve} differs from entry {step} on")
    return found


def main() -> int:
    """Record, and compare if asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="where to write the record")
    parser.add_argument("--against", type=Path, help="an earlier record to compare with")
    given = parser.parse_args()
    torch.set_num_threads(1)
    found = record()
    if given.out:
        given.out.write_text(json.dumps(found, indent=1) + "\n")
    if not given.against:
        return 0
    changed = differences(json.loads(given.against.read_text()), found)
    print("\n".join(changed) or f"{len(found)} runs are bit-identical")
    return int(bool(changed))


if __name__ == "__main__":
    sys.exit(main())
