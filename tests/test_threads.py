"""Threads that wait sleep, and there are no more than cores: read in processes of their own."""

import os
import subprocess
import sys

import pytest
import torch

from fakd.settings import Hardware
from fakd.threads import WAITING, free_cores
from fakd.training.start import start

# Another process of the command's own, and what PyTorch's OpenMP says it was told.
CODE = """
import os, subprocess, sys
from fakd.cli import main
main(["--version"])
import torch
shown = "import os; print(os.environ.get('OMP_WAIT_POLICY'), os.environ.get('GOMP_SPINCOUNT'))"
subprocess.run([sys.executable, "-c", shown])
"""


def told(**given):
    environment = {key: value for key, value in os.environ.items() if key not in WAITING}
    environment = {key: each for key, each in environment.items() if "JAXTYPING" not in key}
    environment |= {"OMP_DISPLAY_ENV": "true", **given}
    ended = subprocess.run(
        [sys.executable, "-c", CODE], env=environment, capture_output=True, text=True, check=True
    )
    return ended.stdout.splitlines()[-1], ended.stderr


def test_waiting_threads_sleep_in_a_command_and_in_what_it_starts():
    handed_on, shown = told()
    assert handed_on == "passive None"
    if "OMP_WAIT_POLICY" in shown:
        assert "OMP_WAIT_POLICY = 'PASSIVE'" in shown


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"OMP_WAIT_POLICY": "active"}, "active None"),
        pytest.param({"GOMP_SPINCOUNT": "1000"}, "None 1000", marks=pytest.mark.slow),
        pytest.param({"KMP_BLOCKTIME": "200"}, "None None", marks=pytest.mark.slow),
    ],
)
def test_unless_the_user_has_decided(given, expected):
    assert told(**given)[0] == expected


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("0::/", {}, None),
        ("0::/", {"cpu.max": "max 100000"}, None),
        ("0::/", {"cpu.max": "100000 100000"}, 1),
        ("0::/a/b", {"cpu.max": "max 100000", "a/cpu.max": "50000 100000"}, 1),
        ("0::/a/b", {"a/b/cpu.max": "350000 100000", "a/cpu.max": "250000 100000"}, 2),
        ("0::/unseen/here", {"cpu.max": "390000 100000"}, 3),
        (
            "4:cpuset:/\n3:cpu,cpuacct:/job\n0::/",
            {"cpu/job/cpu.cfs_quota_us": "200000\n", "cpu/job/cpu.cfs_period_us": "100000\n"},
            2,
        ),
        ("1:cpu:/", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ("0::/", {"cpu.max": "no number"}, None),
    ],
)
def test_quotas_of_both_kinds_of_groups(groups, files, expected, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(groups + "\n")
    for name, text in files.items():
        path = tmp_path / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert free_cores(tmp_path) == (expected or 8)


def test_a_machine_without_groups_has_its_cores(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert free_cores(tmp_path) == 3


@pytest.mark.parametrize(
    ("said", "threads", "expected"), [(None, None, 2), ("5", None, 4), (None, 3, 3), ("5", 3, 3)]
)
def test_a_run_has_no_more_threads_than_cores(said, threads, expected, monkeypatch):
    monkeypatch.setattr("fakd.training.start.free_cores", lambda: 2)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if said:
        monkeypatch.setenv("OMP_NUM_THREADS", said)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        start(Hardware(accelerator="cpu", threads=threads), 0)
        assert torch.get_num_threads() == expected
    finally:
        torch.set_num_threads(before)
