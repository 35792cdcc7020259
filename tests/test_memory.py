"""How much memory there is, and what takes too much of it."""

import pytest
import torch

from fakd.errors import InputError
from fakd.memory import free_memory, require_memory

CPU = torch.device("cpu")


def test_memory_is_what_the_machine_and_its_group_leave(tmp_path):
    device = CPU
    assert free_memory(device, tmp_path) is None
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 9 kB\nMemAvailable: 5 kB\n")
    assert free_memory(device, tmp_path) == 5 * 1024
    group = tmp_path / "sys/fs/cgroup"
    group.mkdir(parents=True)
    (group / "memory.max").write_text("4096\n")
    (group / "memory.current").write_text("1000\n")
    assert free_memory(device, tmp_path) == 3096
    (group / "memory.max").write_text("max\n")
    assert free_memory(device, tmp_path) == 5 * 1024
    (group / "memory.max").write_text("4096\n")
    (group / "memory.stat").write_text("anon 7\nactive_file 200\ninactive_file 300\nfile 900\n")
    assert free_memory(device, tmp_path) == 3596
    (tmp_path / "proc/meminfo").write_text("MemAvailable: 2 kB\nSwapFree: 1 kB\n")
    assert free_memory(device, tmp_path) == 3 * 1024


def test_the_older_groups_count_what_is_below_them(tmp_path):
    group = tmp_path / "sys/fs/cgroup/memory"
    group.mkdir(parents=True)
    (group / "memory.limit_in_bytes").write_text("4096\n")
    (group / "memory.usage_in_bytes").write_text("4000\n")
    (group / "memory.stat").write_text("inactive_file 1\ntotal_inactive_file 50\n")
    assert free_memory(CPU, tmp_path) == 146


def test_what_takes_more_than_is_free_is_refused(monkeypatch):
    assert free_memory(CPU) > 0
    monkeypatch.setattr("fakd.memory.free_memory", lambda device: 2 * 10**9)
    require_memory(2 * 10**9, "a table", "buy a chair")
    expected = r"a table would take at least 3.0 GB of memory, but 2.0 GB are free; buy a chair"
    with pytest.raises(InputError, match=expected):
        require_memory(3 * 10**9, "a table", "buy a chair")
    monkeypatch.setattr("fakd.memory.free_memory", lambda device: None)
    require_memory(3 * 10**9, "a table", "buy a chair")
