"""Where the time of a step goes, and how long batches are waited for."""

import json
import time
from io import StringIO
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

import fakd
from fakd.cli import main
from fakd.models import pspnet
from fakd.runs.folder import RESULT, TRACE
from fakd.settings import Augmentation, Hardware, Intervals, Schedule
from fakd.training import profiling
from fakd.training.profiling import Profile, require_steps
from stand_ins import message

CPU = torch.device("cpu")


def test_parts_are_timed_in_the_steps_that_are_watched_alone(tmp_path, monkeypatch):
    # A step in which the loader takes 1 second, the student 3, and all else none.
    now = [0.0]
    monkeypatch.setattr(profiling, "time", SimpleNamespace(perf_counter=lambda: now[0]))

    def batches():
        for number in range(9):
            now[0] += 1
            yield number

    watched, console = Profile(CPU), Console(record=True, width=80, file=StringIO())
    watched.watch(2, tmp_path / "trace.json")
    for _ in watched.waiting(batches()):
        with watched.part("student"):
            torch.zeros(3).exp()
            now[0] += 3
        watched.after_step(console)
    rows = [line.split("│") for line in console.export_text().splitlines() if "│" in line]
    cells = {row[1].strip(): [each.strip() for each in row[2:4]] for row in rows}
    assert cells["loader"] == ["1000.0", "25.0%"]
    assert cells["student"] == ["3000.0", "75.0%"]
    assert cells["all"] == ["4000.0", "100.0%"]
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert len([each for each in events if each.get("name") == "student"]) == 2
    assert len([each for each in events if each.get("name") == "aten::exp"]) == 2
    assert watched.take_waited() == 9
    assert watched.take_waited() == 0


def test_a_profiled_run_is_the_same_and_says_where_its_time_went(tiny_data, tmp_path, capsys):
    results = []
    for profile in (None, 2):
        torch.manual_seed(0)
        teacher = pspnet("mobilenetv3_small_050", tiny_data.classes, channels=16)
        student = pspnet("mobilenetv3_small_050", tiny_data.classes, channels=16)
        results.append(
            fakd.distill(
                teacher,
                student,
                tiny_data,
                tmp_path / str(profile),
                schedule=Schedule(steps=6, batch_size=2, learning_rate=0.05),
                augmentation=Augmentation(crop=(32, 48)),
                hardware=Hardware(accelerator="cpu", threads=1),
                intervals=Intervals(evaluate=6),
                check_teacher=False,
                profile=profile,
            )
        )
    assert results[0]["final"] == results[1]["final"]
    printed = capsys.readouterr().out
    for part in ("loader", "teacher", "student", "loss", "backward", "optimiser"):
        assert f"│ {part} " in printed
    assert not (tmp_path / "None" / TRACE).exists()
    events = json.loads((tmp_path / "2" / TRACE).read_text())["traceEvents"]
    assert len([each for each in events if each.get("name") == "backward"]) == 2
    assert "\nprofile:" not in (tmp_path / "2" / "recipe.yaml").read_text()


def test_waiting_for_images_is_counted_and_told(tiny_data, tmp_path, capsys, monkeypatch):
    from fakd.data import batches

    real = batches._read

    def slow(*arguments):
        time.sleep(0.1)
        return real(*arguments)

    monkeypatch.setattr(batches, "_read", slow)
    network = pspnet("mobilenetv3_small_050", tiny_data.classes, channels=16)
    fakd.train(
        network,
        tiny_data,
        tmp_path / "run",
        Schedule(steps=3, batch_size=2, learning_rate=0.05),
        augmentation=Augmentation(crop=(32, 48)),
        hardware=Hardware(accelerator="cpu", threads=1),
        intervals=Intervals(evaluate=3),
    )
    result = json.loads((tmp_path / "run" / RESULT).read_text())
    assert 0.6 <= result["waited_seconds"] <= result["train_seconds"]
    share = result["waited_seconds"] / result["train_seconds"]
    assert f"{share:.0%} of it waiting for images" in capsys.readouterr().out


@pytest.mark.parametrize("wanted", [0, 4])
def test_more_steps_than_there_are_cannot_be_watched(wanted):
    require_steps(3, steps=6)
    require_steps(None, steps=1)
    assert "from 1 to 3" in message(lambda: require_steps(wanted, steps=6))


def test_a_refused_profile_leaves_nothing_behind(tmp_path, capsys):
    run = tmp_path / "run"
    flags = ["--network=pspnet", "--network.backbone=resnet18", "--data=scenes", f"--run={run}"]
    assert main(["train", *flags, "--schedule.steps=5", "--profile=3"]) == 2
    assert "expected --profile from 1 to 2" in capsys.readouterr().err
    assert not run.exists()
