"""The first step that goes wrong is known, though nobody looks at it when it is made."""

import json

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fakd.cli import main
from fakd.errors import InputError
from fakd.models import not_finite, pspnet
from fakd.runs.folder import RunFolder
from fakd.settings import Intervals
from fakd.training.objective import Outcome, Supervised
from fakd.training.task import TaskLoss
from forked import TINY, network
from training.test_loop import Task, training

SELDOM = Intervals(log=50, save=50, evaluate=50)


class Failing(Supervised):
    """Gives a bad loss, or a good one with a bad gradient, at one step of twelve."""

    at, what = 7, "loss"

    def forward(self, student, labels, labelled, progress, teacher=None, share=1.0):
        outcome = super().forward(student, labels, labelled, progress, teacher, share)
        terms = dict(outcome.terms)
        if round(progress * 12) == self.at:
            if self.what == "loss":
                terms["task"] = terms["task"] * torch.inf
            else:
                terms["task"] = terms["task"] + (terms["task"] * 0).sqrt()
        return Outcome(terms, outcome.inputs)


def failing(data, what, **more):
    objective = Failing(TaskLoss(Task(), data.classes))
    objective.what = what
    return training(data, steps=12, objective=objective, **more)


@pytest.mark.parametrize(("what", "names"), [("loss", "task, gradient_norm"), ("root", "gradient")])
def test_the_first_wrong_step_is_named_though_it_was_not_logged(tiny_data, tmp_path, what, names):
    run = failing(tiny_data, what, intervals=SELDOM)
    with pytest.raises(FloatingPointError, match=f"{names}.* infinite or NaN at step 8; fakd rep"):
        run.run(RunFolder(tmp_path / "run", {}))
    assert json.loads((tmp_path / "run" / "wrong.json").read_text())["step"] == 8
    assert not (tmp_path / "run" / "best.safetensors").exists()
    assert not (tmp_path / "run" / "last.safetensors").exists()


def test_the_best_weights_stay_the_last_finite_ones(tiny_data, tmp_path):
    run = failing(tiny_data, "loss", intervals=Intervals(log=50, save=2, evaluate=3))
    with pytest.raises(FloatingPointError, match="step 8; the checkpoint of step 6 is intact"):
        run.run(RunFolder(tmp_path / "run", {}))
    import fakd

    assert not not_finite(fakd.load(tmp_path / "run"))


class Unread(TorchDispatchMode):
    """Fails where the value of a tensor is read, for which a GPU would have to be waited."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        assert function is not torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


def test_a_step_reads_no_value_and_is_known_to_be_wrong(tiny_data):
    run = failing(tiny_data, "root")
    run.begin()
    for step, batch in zip(range(10), run.batches(0), strict=False):
        with Unread():
            run.advance(step, run.step.asking.answer_batch(step, batch), measured=False)
    assert run.step.wrong() == (8, ["gradient_norm"])


def test_answers_that_are_not_finite_fail_the_run_and_are_never_best(tiny_data, monkeypatch):
    run = training(tiny_data, steps=4, intervals=Intervals(log=50, save=50, evaluate=2))
    forward = type(run.network).forward

    def broken(self, images):
        answer = forward(self, images)
        return answer if self.training else answer._replace(logits=answer.logits * torch.nan)

    monkeypatch.setattr(type(run.network), "forward", broken)
    with pytest.raises(FloatingPointError, match=r"output on validation images became .* step 2"):
        run.run()


def test_weights_that_overflow_in_a_step_are_not_saved(tiny_data, tmp_path):
    """Loss and gradient were finite; what the step made of the weights is not."""
    rates = {"learning_rate": 3e38, "steps": 1}
    run = training(tiny_data, **rates, intervals=SELDOM)
    with pytest.raises(FloatingPointError, match="infinite or NaN at step 1"):
        run.run(RunFolder(tmp_path / "run", {}))
    assert not (tmp_path / "run" / "last.safetensors").exists()


def test_files_with_broken_weights_are_refused(tmp_path):
    import fakd

    made = pspnet("mobilenetv3_small_050", 3, channels=8)
    with torch.no_grad():
        made.classifier.bias[1] = torch.nan
    path = tmp_path / "broken.safetensors"
    fakd.models.save(made, path, class_names=None, palette=None)
    with pytest.raises(
        InputError, match=r"finite weights in .*, got decode_head.conv_seg.bias with inf"
    ):
        fakd.load(path)


def test_masks_of_minus_infinity_are_no_broken_weights():
    made = torch.nn.Linear(2, 2)
    made.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
    assert not_finite(made) == []
    made.mask[0] = torch.inf
    assert not_finite(made) == ["mask"]


def test_a_wrong_step_is_replayed(tmp_path, capsys):
    run = tmp_path / "run"
    command = ["train", *network("network"), *TINY, f"--run={run}", "--schedule.steps=30"]
    command += ["--schedule.learning_rate=1e12", "--intervals.log=50", "--intervals.evaluate=50"]
    assert main(command) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    step = json.loads((run / "wrong.json").read_text())["step"]
    assert f"at step {step}; fakd replay {run}" in said
    assert main(["replay", str(run)]) == 0
    shown = capsys.readouterr().out
    assert f"run: step {step} of 30, 2 images" in shown
    assert "train/0000" in shown
    assert "loss: task nan" in shown
    assert "infinite or NaN: gradients of" in shown
    assert (run / f"step-{step}.png").is_file()
    assert main(["replay", str(run), "--step=1"]) == 0
    assert "infinite" not in capsys.readouterr().out


SHORT = [*TINY, "--schedule.steps=7", "--intervals.log=1", "--intervals.save=4"]


@pytest.fixture(scope="module")
def teachers(tmp_path_factory):
    """A network, and what it answered."""
    folder = tmp_path_factory.mktemp("teachers")
    run, answers = folder / "run", folder / "answers"
    assert main(["train", *network("network"), *SHORT, f"--run={run}"]) == 0
    seen = [flag for flag in TINY if flag.startswith("--data")]
    assert main(["answer", f"--teacher={run}", *seen, f"--out={answers}"]) == 0
    return run, answers


@pytest.mark.parametrize(
    ("more", "stored"),
    [
        ("", False),
        *(
            pytest.param(more, stored, marks=pytest.mark.slow)
            for more, stored in [
                ("", True),
                ("--int8=true", False),
                ("--int8=true", True),
                ("--task.class_weights=auto", False),
                ("--task.class_weights=auto", True),
            ]
        ),
    ],
)
def test_a_step_is_replayed_as_it_was(stored, more, teachers, tmp_path, capsys):
    """The loss of a step between two checkpoints is the one that was logged."""
    from fakd.commands.replay import replay
    from fakd.runs.folder import read_curves

    run = tmp_path / "run"
    command = ["distill", f"--teacher={teachers[stored]}", *network("student"), *SHORT]
    command += [f"--run={run}"]
    command += [more] if more else []
    from fakd.training.loop import Training

    save = Training._save

    def once(self, done):
        save(self, done)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Training, "_save", once)
        assert main([*command, "--check_teacher=false"]) == 130
    left = (run / "last.safetensors").read_bytes()
    found = replay(run, 6, accelerator="cpu")
    assert (run / "last.safetensors").read_bytes() == left
    assert main([*command, "--check_teacher=false"]) == 0
    logged = next(row for row in read_curves(run / "metrics.csv") if row["step"] == 6)
    for name, value in found["terms"].items():
        assert logged[name] == pytest.approx(value, rel=1e-5), name
    (run / "last.safetensors").unlink()
    found = replay(run, 3, accelerator="cpu")
    logged = next(row for row in read_curves(run / "metrics.csv") if row["step"] == 3)
    for name, value in found["terms"].items():
        assert logged[name] == pytest.approx(value, rel=1e-5), name
    assert main(["replay", str(run), "--step=8"]) == 2
    assert "a --step from 1 to 7; got 8" in capsys.readouterr().err
