"""A run that is asked to stop saves what it has learnt, and goes on as if it never had been."""

import os
import signal
import time

import pytest
import torch
from safetensors.torch import load_file

from fakd.data import scenes
from fakd.runs.folder import read_checkpoint_state, read_curves
from fakd.signals import Interrupted
from fakd.training.loop import Training
from forked import TINY, network, start, until

EVERY = ["--intervals.log=1", "--intervals.save=1000", "--intervals.evaluate=9"]


def train(run, *more, steps=18):
    return ["train", *network("network"), *TINY, f"--run={run}", f"--schedule.steps={steps}", *more]


def rows(run):
    """The curves, without how fast it went."""
    read = read_curves(run / "metrics.csv")
    return [{key: value for key, value in row.items() if key != "images/s"} for row in read]


def whole(command, run):
    process = start(command, run.with_suffix(".log"))
    process.join()
    assert process.exitcode == 0, run.with_suffix(".log").read_text()


def assert_same(first, second):
    for name in ("best", "final", "last"):
        one, other = (load_file(run / f"{name}.safetensors") for run in (first, second))
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one), name
    assert rows(first) == rows(second)
    states = [read_checkpoint_state(run / "last.safetensors") for run in (first, second)]
    clocks = {"seconds": 0, "waited": 0}
    assert {**states[0], **clocks} == {**states[1], **clocks}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    run = tmp_path_factory.mktemp("whole") / "run"
    whole(train(run, *EVERY), run)
    return run


@pytest.mark.parametrize(
    ("number", "workers"),
    [pytest.param(signal.SIGUSR1, 2, marks=pytest.mark.slow), (signal.SIGINT, 0)],
)
def test_a_signal_saves_and_the_same_command_goes_on(tmp_path, uninterrupted, number, workers):
    run, log = tmp_path / "run", tmp_path / "log"
    command = train(run, *EVERY, f"--hardware.workers={workers}")
    process = start(command, log)
    until(lambda: len(rows(run)) > 2, process)
    os.kill(process.pid, number)
    process.join(60)
    said = log.read_text()
    assert process.exitcode == 128 + number
    assert "Traceback" not in said
    name = signal.Signals(number).name
    assert f"fakd: stopped by {name} after step" in said.splitlines()[-1]
    state = read_checkpoint_state(run / "last.safetensors")
    assert f"after step {state['step']} of 18, which is saved" in said
    assert not list(run.glob(".*"))
    whole(command, run)
    assert_same(uninterrupted, run)


def test_a_signal_in_an_evaluation_does_not_wait_for_its_end(tmp_path):
    run, log = tmp_path / "run", tmp_path / "log"
    process = start([*train(run, *EVERY), "--data.val=4000", "--hardware.cache=0"], log)
    until(lambda: len(rows(run)) > 8, process)
    time.sleep(0.3)
    os.kill(process.pid, signal.SIGTERM)
    began = time.monotonic()
    process.join(60)
    assert process.exitcode == 143
    assert time.monotonic() - began < 10
    state = read_checkpoint_state(run / "last.safetensors")
    assert (state["step"], state["pending"]) == (9, True)


def test_what_was_pending_is_made_up_for(tmp_path, uninterrupted, monkeypatch):
    import fakd.training.loop as loop
    from fakd.cli import main

    validate = loop.validate_images

    def interrupted(*_):
        raise Interrupted(signal.SIGTERM)

    run = tmp_path / "run"
    for _ in range(2):
        monkeypatch.setattr(loop, "validate_images", interrupted)
        with pytest.raises(SystemExit) as ended:
            main(train(run, *EVERY))
        assert ended.value.code == 143
        monkeypatch.setattr(loop, "validate_images", validate)
    assert main(train(run, *EVERY)) == 0
    assert_same(uninterrupted, run)


def test_before_the_first_step_nothing_is_left_behind(tmp_path, monkeypatch, capfd):
    from fakd.cli import main

    def interrupted(self, *_, **__):
        os.kill(os.getpid(), signal.SIGTERM)
        return run(self, *_, **__)

    run = Training.run
    monkeypatch.setattr(Training, "run", interrupted)
    with pytest.raises(SystemExit) as ended:
        main(train(tmp_path / "new"))
    assert ended.value.code == 143
    assert "before the first step; the same command starts over" in capfd.readouterr().err
    assert not (tmp_path / "new").exists()


def test_a_refused_run_leaves_no_folder_even_if_that_was_found_late(tmp_path, monkeypatch, capsys):
    import fakd
    from fakd.cli import main

    data = scenes(train=2, val=2, size=(32, 48))
    blind = fakd.models.pspnet("mobilenetv3_small_050", data.classes, channels=8)
    torch.nn.init.zeros_(blind.classifier.weight)
    path = tmp_path / "blind.safetensors"
    fakd.models.save(blind, path, class_names=data.class_names, palette=data.palette)
    command = ["distill", f"--teacher={path}", *network("student"), *TINY, "--schedule.steps=2"]
    assert main([*command, f"--run={tmp_path / 'run'}"]) == 2
    assert "predicting one class everywhere" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
