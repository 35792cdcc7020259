"""Killed at fifty moments, training, distilling and comparing end as if they never had been."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress

import pytest
import torch
from safetensors.torch import load_file

from fakd.cli import main
from fakd.runs.folder import lock, read_checkpoint_state
from forked import TINY, network, start
from training.test_interruption import assert_same, rows

EVERY = ["--intervals.log=2", "--intervals.save=3", "--intervals.evaluate=5"]
RELATIVE = [
    "--distillation=ChannelKL", "--distillation.strength=0.3",
    "--distillation.strength_unit=margin",
]  # fmt: skip
KILLS = {"train": 22, "distill": 22, "compare": 6}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    run = tmp_path_factory.mktemp("teacher") / "run"
    assert main(["train", *network("network"), *TINY, "--schedule.steps=9", f"--run={run}"]) == 0
    return run


def whole_files(run):
    """Open all that is there: what a kill leaves must never be half a file."""
    for file in run.glob("*.safetensors"):
        assert all(value.isfinite().all() for value in load_file(file).values()), file
    for file in run.glob("*.json"):
        json.loads(file.read_text())
    if (run / "last.safetensors").is_file():
        read_checkpoint_state(run / "last.safetensors")


def timed(command, run):
    """Let a command end, and tell its seconds."""
    began = time.monotonic()
    process = start(command, run.with_suffix(".log"))
    process.join()
    assert process.exitcode == 0, run.with_suffix(".log").read_text()
    return time.monotonic() - began


def children(process):
    """The runs of a comparison, which outlive it when it alone is killed."""
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True)
    return [int(line) for line in listed.stdout.split()]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["train", "distill"])
def test_a_run_survives_being_killed_at_any_moment(teacher, tmp_path, kind):
    draw = random.Random(kind)
    command = ["train", *network("network"), *TINY, *EVERY, "--schedule.steps=40"]
    if kind == "distill":
        given = [f"--teacher={teacher}", "--check_teacher=false", "--ema=0.9", *RELATIVE]
        command = ["distill", *network("student"), *given, *command[4:]]
    seconds = timed([*command, f"--run={tmp_path / 'whole'}"], tmp_path / "whole")
    run, kills, sittings = tmp_path / "killed", 0, 0
    while kills < KILLS[kind]:
        sittings += 1
        # A new run whenever one ends before its kill.
        place = run.with_name(f"killed-{sittings}") if not run.exists() else run
        process = start([*command, f"--run={run}"], tmp_path / "log")
        process.join(draw.uniform(0.05, 0.6) * seconds)
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            kills += 1
            whole_files(run)
        else:
            assert process.exitcode == 0, (tmp_path / "log").read_text()
            assert_same(tmp_path / "whole", run)
            run.rename(place.with_name(f"ended-{sittings}"))
    timed([*command, f"--run={run}"], run)
    assert_same(tmp_path / "whole", run)
    assert not list(run.glob(".*"))


@pytest.mark.slow
def test_a_comparison_survives_being_killed_at_any_moment(teacher, tmp_path):
    draw = random.Random("compare")
    command = [
        sys.executable, "-m", "fakd", "compare", f"--teacher={teacher}", *network("student"), *TINY,
        *EVERY, "--schedule.steps=12", "--methods=alone,cwd", "--seeds=1", "--check_teacher=false",
    ]  # fmt: skip
    began = time.monotonic()
    subprocess.run([*command, f"--run={tmp_path / 'whole'}"], check=True, capture_output=True)
    seconds, grid, kills = time.monotonic() - began, tmp_path / "killed", 0
    while kills < KILLS["compare"]:
        process = subprocess.Popen(
            [*command, f"--run={grid}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        with suppress(subprocess.TimeoutExpired):
            assert process.wait(draw.uniform(0.1, 0.7) * seconds) == 0
            grid.rename(tmp_path / f"ended-{kills}")
            continue
        runs = children(process) if kills % 2 else []
        for pid in (process.pid, *runs):
            os.kill(pid, signal.SIGKILL)
        process.wait()
        kills += 1
        for run in grid.glob("*/*/seed-0"):
            whole_files(run)
    subprocess.run([*command, f"--run={grid}"], check=True, capture_output=True)
    runs = sorted(
        path.relative_to(tmp_path / "whole") for path in (tmp_path / "whole").glob("*/*/seed-0")
    )
    assert len(runs) == 2
    for run in runs:
        first, second = tmp_path / "whole" / run, grid / run
        for name in ("best", "final"):
            one, other = (load_file(each / f"{name}.safetensors") for each in (first, second))
            assert all(torch.equal(one[key], other[key]) for key in one)
        assert rows(first) == rows(second)
        with lock(second.with_name("seed-0.lock")) as held:
            assert held is not None
