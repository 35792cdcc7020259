"""A run on two devices ends as one, whichever of its processes ends first."""

import os
import signal
import subprocess
import sys
import time

import pytest
from safetensors.torch import load_file

from fakd.runs.folder import read_checkpoint_state
from forked import TINY, network

COMMAND = [
    "train", *network("network"), *TINY, "--schedule.batch_size=4", "--hardware.devices=2",
    "--intervals.evaluate=1000",
]  # fmt: skip


def begin(run, log, *more, steps=2000):
    command = [sys.executable, "-m", "fakd", *COMMAND, f"--schedule.steps={steps}", f"--run={run}"]
    with log.open("wb") as file:
        return subprocess.Popen(
            [*command, "--intervals.save=5", *more], stderr=file, stdout=subprocess.DEVNULL
        )


def child_of(process):
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True)
    return int(listed.stdout.split()[0])


def is_there(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def gone(pid, seconds=10):
    deadline = time.monotonic() + seconds
    while is_there(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not is_there(pid)


def until_saved(run, process, after=0):
    last = run / "last.safetensors"
    while not last.is_file() or read_checkpoint_state(last)["step"] <= after:
        assert process.poll() is None
        time.sleep(0.02)


def said(log):
    return [line for line in log.read_text().splitlines() if line.startswith("fakd:")]


@pytest.mark.slow
@pytest.mark.parametrize("first", [False, True])
def test_a_process_that_is_killed_is_named_with_the_step_that_is_safe(tmp_path, first):
    run, log = tmp_path / "run", tmp_path / "log"
    process = begin(run, log)
    until_saved(run, process)
    child = child_of(process)
    os.kill(process.pid if first else child, signal.SIGKILL)
    code = process.wait(60)
    assert gone(child)
    step = read_checkpoint_state(run / "last.safetensors")["step"]
    (line,) = said(log)
    assert f"was killed{'' if first else ' by SIGKILL'} (out of memory?)" in line
    assert f"the same command resumes at step {step}" in line
    assert "Traceback" not in log.read_text()
    assert code == (-signal.SIGKILL if first else 1)


@pytest.mark.slow
def test_all_processes_stop_at_one_step_though_one_is_asked(tmp_path):
    run, log = tmp_path / "run", tmp_path / "log"
    process = begin(run, log, "--hardware.workers=1")
    until_saved(run, process)
    child = child_of(process)
    os.kill(child, signal.SIGUSR1)
    assert process.wait(60) == 128 + signal.SIGUSR1
    assert gone(child)
    step = read_checkpoint_state(run / "last.safetensors")["step"]
    assert said(log)[-1].startswith(f"fakd: stopped by SIGUSR1 after step {step} of 2000")
    assert "Traceback" not in log.read_text()
    again = begin(run, log)
    until_saved(run, again, after=step)
    again.send_signal(signal.SIGTERM)
    assert again.wait(60) == 128 + signal.SIGTERM
    assert read_checkpoint_state(run / "last.safetensors")["step"] > step
    assert load_file(run / "last.safetensors")


@pytest.mark.slow
def test_a_mistake_that_all_processes_find_is_said_once(tmp_path):
    run, log = tmp_path / "run", tmp_path / "log"
    process = begin(run, log, "--schedule.accumulate=2")
    assert process.wait(60) == 2
    (line,) = said(log)
    assert "schedule.batch_size of at least 8 with this network, got 4" in line
    assert not run.exists()
