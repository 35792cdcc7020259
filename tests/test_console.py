"""What is printed is what was meant, wherever it goes, and nothing is lost where it cannot."""

import json
import os
import subprocess
import sys

import pytest

from fakd import models
from fakd.console import open_console, remark

NAMES = ("Straße", "車", "[/bold]", *(f"class {number}" for number in range(9)))


def test_names_are_no_markup(capsys):
    console = open_console(width=100)
    remark(console, "lr[bold] of [/car] :smile:")
    console.print("[/red]", "runs/[a]")
    assert capsys.readouterr().out == "note: lr[bold] of [/car] :smile:\n[/red] runs/[a]\n"


@pytest.fixture
def named(tmp_path, tiny_network):
    models.save(tiny_network, tmp_path / "n.safetensors", class_names=NAMES, palette=None)
    return ["--network", str(tmp_path / "n.safetensors"), "--data=scenes", "--data.train=1",
            "--data.val=1", "--data.size=[32,48]", "--accelerator=cpu"]  # fmt: skip


def evaluated(flags, folder, **how):
    command = [sys.executable, "-m", "fakd", "evaluate", *flags, "--out", str(folder / "s.json")]
    environment = {k: v for k, v in os.environ.items() if "JAXTYPING" not in k}
    environment |= how.pop("env", {})
    return subprocess.run(command, cwd=folder, env=environment, stderr=subprocess.PIPE, **how)


@pytest.mark.slow
def test_what_a_terminal_cannot_show_is_replaced(named, tmp_path):
    ended = evaluated(named, tmp_path, env={"PYTHONIOENCODING": "ascii"}, stdout=subprocess.PIPE)
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert json.loads((tmp_path / "s.json").read_text())["miou"] >= 0


@pytest.mark.slow
def test_a_reader_that_has_seen_enough_costs_no_result(named, tmp_path):
    reading, writing = os.pipe()
    os.close(reading)
    ended = evaluated(named, tmp_path, env={"PYTHONUNBUFFERED": "1"}, stdout=writing)
    os.close(writing)
    assert ended.returncode in (1, 141)
    assert ended.stderr == b""
    assert json.loads((tmp_path / "s.json").read_text())["miou"] >= 0
