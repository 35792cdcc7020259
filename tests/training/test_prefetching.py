"""A teacher that answers one batch ahead: the same batches in the same order, the same numbers."""

from contextlib import contextmanager

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from fakd.cli import main
from fakd.commands.replay import replay
from fakd.data import scenes
from fakd.losses import ChannelKL
from fakd.models import pspnet
from fakd.runs.folder import read_curves
from fakd.settings import Augmentation, Hardware, Intervals, Schedule, Settings, Task
from fakd.training.loop import Training
from fakd.training.objective import Distillation
from fakd.training.prefetching import prefetch
from fakd.training.start import start
from fakd.training.step import Step
from fakd.training.task import TaskLoss
from fakd.training.teacher import NetworkTeacher
from forked import TINY, network

SHORT = [*TINY, "--schedule.steps=7", "--schedule.batch_size=4", "--intervals.log=1",
         "--intervals.save=3", "--intervals.evaluate=3", "--check_teacher=false"]  # fmt: skip
AHEAD = "--hardware.teacher_ahead=true"


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    run = tmp_path_factory.mktemp("teacher") / "run"
    assert main(["train", *network("network"), *TINY, "--schedule.steps=2", f"--run={run}"]) == 0
    return run


@pytest.fixture
def steps(monkeypatch):
    """List the steps that are made, each with its samples."""
    made = []
    gradients = Step.gradients

    def noted(self, step, asked, student, optimizer):
        made.append((step, asked.batch.indices.tolist()))
        return gradients(self, step, asked, student, optimizer)

    monkeypatch.setattr(Step, "gradients", noted)
    return made


def distilled(teacher, run, *more):
    given = [f"--teacher={teacher}", *network("student"), *SHORT, f"--run={run}"]
    return main(["distill", *given, *more])


def logged(run):
    untimed = ("images/s", "seconds")
    rows = read_curves(run / "metrics.csv")
    return [{key: value for key, value in row.items() if key not in untimed} for row in rows]


def equal(one, other):
    found, expected = (load_file(run / "final.safetensors") for run in (one, other))
    assert found.keys() == expected.keys()
    return all(torch.equal(found[name], expected[name]) for name in found)


@pytest.mark.parametrize(
    "more",
    [
        [],
        pytest.param(
            ["--schedule.accumulate=2", "--hardware.workers=1", "--distillation=cwd-fa"],
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ["--distillation=ChannelKL", "--distillation.weight={from: 3, to: 0, end: 0.4}"],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_batches_and_numbers_are_those_of_a_teacher_asked_in_its_step(
    teacher, tmp_path, steps, more
):
    assert distilled(teacher, tmp_path / "in turn", *more) == 0
    expected = [*steps]
    steps.clear()
    assert distilled(teacher, tmp_path / "ahead", AHEAD, *more) == 0
    assert steps == expected
    assert [step for step, _ in steps] == [*range(7)]
    assert logged(tmp_path / "ahead") == logged(tmp_path / "in turn")
    assert equal(tmp_path / "ahead", tmp_path / "in turn")


@pytest.mark.slow
def test_the_batch_ahead_of_one_that_was_stopped_is_learnt_from_once(
    teacher, tmp_path, steps, monkeypatch
):
    assert distilled(teacher, tmp_path / "whole") == 0
    expected = [*steps]
    steps.clear()
    save = Training._save

    def once(self, done):
        save(self, done)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Training, "_save", once)
        assert distilled(teacher, tmp_path / "run", AHEAD) == 130
    assert [step for step, _ in steps] == [0, 1, 2]
    found = replay(tmp_path / "run", 5, accelerator="cpu")
    assert [step for step, _ in steps[3:]] == [3, 4]
    del steps[3:]
    assert distilled(teacher, tmp_path / "run", AHEAD) == 0
    assert steps == expected
    assert equal(tmp_path / "run", tmp_path / "whole")
    row = next(each for each in read_curves(tmp_path / "run" / "metrics.csv") if each["step"] == 5)
    for name, value in found["terms"].items():
        assert row[name] == pytest.approx(value, rel=1e-5), name


class Streams:
    """Stands for a device's streams and writes down who waits for what."""

    def __init__(self):
        self.said, self.now = [], "main"

    def current_stream(self):
        return self

    @contextmanager
    def stream(self, other):
        self.now = "own"
        yield
        self.now = "main"

    def wait_event(self, event):
        self.said.append(f"main waits for {event}")

    def wait_stream(self, other):
        self.said.append("own waits for main")

    def record_event(self):
        asked = [each for each in self.said if "answers" in each]
        return asked[-1].replace("answers", "answered")


def test_each_stream_waits_for_what_it_needs_of_the_other():
    """The teacher's for the steps made before it begins, the student's for its own answer only."""
    torch.manual_seed(0)
    data = scenes(train=4, val=2, size=(32, 48))
    networks = [pspnet("mobilenetv3_small_050", 12, channels=8) for _ in range(2)]
    hardware = Hardware(accelerator="cpu", teacher_ahead=True)
    settings = Settings(
        Schedule(steps=3, batch_size=2, learning_rate=0.01),
        augmentation=Augmentation(crop=(32, 48)),
        intervals=Intervals(log=50, evaluate=50),
        hardware=hardware,
    )
    fabric, streams = start(hardware, 0), Streams()
    objective = Distillation(*networks, ChannelKL(), TaskLoss(Task(), 12))
    asked = NetworkTeacher(networks[0], fabric, hardware)
    answer, count = asked.answer, iter(range(3))

    def answering(images, batch):
        streams.said.append(f"{streams.now} answers {next(count)}")
        return answer(images, batch)

    asked.answer = answering
    run = Training(
        fabric, networks[1], objective, data, settings, Console(quiet=True), teacher=asked
    )
    run.step.asking._streams = run.step.asking._own = streams
    run.begin()
    for step, each in run.step.asking.answer_batches(run.batches(0), 0):
        streams.said.append(f"{streams.now} learns {step}")
        run.advance(step, each, measured=False)
    assert streams.said == [
        "own waits for main", "own answers 0",
        "own waits for main", "own answers 1", "main waits for own answered 0", "main learns 0",
        "own waits for main", "own answers 2", "main waits for own answered 1", "main learns 1",
        "main waits for own answered 2", "main learns 2",
    ]  # fmt: skip


def test_an_error_comes_after_what_was_taken_before_it():
    def broken():
        yield from (1, 2)
        raise ValueError("the third")

    seen, taken = [], prefetch(broken())
    with pytest.raises(ValueError, match="the third"):
        seen.extend(taken)
    assert seen == [1, 2]
    assert list(prefetch([])) == []
