"""A distillation whose weight fades: a function of the step; no teacher once it is over."""

import math

import pytest
import yaml
from rich.console import Console

from fakd.errors import InputError
from fakd.losses import ChannelKL, FeatureDistance, MemoryContrast, PixelKL, WeightedSum, preset
from fakd.runs.naming import method_of
from fakd.runs.recipe import describe
from fakd.settings import Hardware, Schedule, Task
from fakd.specs import build, check_spec
from fakd.training.loop import Training
from fakd.training.objective import Distillation
from fakd.training.result import extension
from fakd.training.task import TaskLoss
from fakd.training.teacher import NetworkTeacher
from fakd.types import DistillationLoss
from training.test_loop import training
from training.test_teacher import network

FADING = {"from": 4.0, "to": 1.0}


@pytest.mark.parametrize(
    ("weight", "expected"),
    [
        (3.0, [3, 3, 3, 3, 3]),
        (FADING, [4, 3.25, 2.5, 1.75, 1]),
        ({**FADING, "start": 0.5}, [4, 4, 4, 2.5, 1]),
        ({**FADING, "end": 0.5}, [4, 2.5, 1, 1, 1]),
        ({"from": 0, "to": 2, "start": 0.25, "end": 0.75}, [0, 0, 1, 2, 2]),
        (
            {**FADING, "schedule": "cosine"},
            [4, 4 - 1.5 * (1 - math.sqrt(0.5)), 2.5, 1 + 1.5 * (1 - math.sqrt(0.5)), 1],
        ),
    ],
)
def test_a_weight_at_each_quarter_of_a_run(weight, expected):
    loss = ChannelKL(weight=weight)
    assert [loss.weight_at(quarter / 4) for quarter in range(5)] == pytest.approx(expected)
    assert loss.fading(0.5) == ({} if weight == 3.0 else {"weight": pytest.approx(expected[2])})


def test_the_ends_are_met_exactly():
    loss = PixelKL(weight={"from": 0.3, "to": 0.1, "start": 0.1, "end": 0.7})
    assert [loss.weight_at(progress) for progress in (0.1, 7 / 10, 0.9)] == [0.3, 0.1, 0.1]


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        ({"from": 1.0, "to": 1.0}, "give weight: 1.0"),
        ({"from": 1.0}, "expected a fading weight with from, to, schedule, start, end"),
        ({"from": 1.0, "to": 0.0, "steps": 5}, "with from, to, schedule, start, end, got"),
        ({"from": -1.0, "to": 0.0}, "expected weight.from of at least 0, got -1"),
        ({"from": 1.0, "to": math.inf}, "expected weight.to of at least 0, got inf"),
        ({"from": "one", "to": 0.0}, "expected weight.from to be a number, got 'one'"),
        ({"from": 1, "to": 0, "schedule": "poly"}, "weight.schedule to be one of .'linear'"),
        ({"from": 1, "to": 0, "start": 0.5, "end": 0.5}, "start below weight.end"),
        ({"from": 1, "to": 0, "start": 0.5, "end": 0.2}, "start below weight.end"),
        ({"from": 1, "to": 0, "end": 500}, "both shares of the steps from 0 to 1"),
    ],
)
def test_a_fading_that_cannot_be_meant_is_refused(weight, message):
    with pytest.raises(ValueError, match=message):
        FeatureDistance(weight=weight)


class Own(DistillationLoss):
    """Somebody's loss, which leaves its weight to the base class."""

    def __init__(self, weight=1.0):
        super().__init__(weight)

    def forward(self, inputs):
        return inputs.student.logits.square().mean()


def test_every_loss_fades_and_its_recipe_says_all_of_it():
    full = {"from": 1.0, "to": 0.5, "schedule": "linear", "start": 0.0, "end": 1.0}
    given = {"from": 1.0, "to": 0.5}
    for kind in (MemoryContrast, PixelKL, Own):
        loss = kind(weight=given)
        written = yaml.safe_load(yaml.safe_dump(describe(loss)))
        assert written["init_args"]["weight"] == full
        assert build(written).weight_at(0.5) == 0.75
    spec = {"class_path": "ChannelKL", "init_args": {"weight": given}}
    spec = check_spec(spec, "distillation", package="fakd.losses")
    assert build(spec).weight == full
    assert method_of({"distillation": describe(preset("cwd"))}) == "cwd"
    assert method_of({"distillation": spec}).startswith("ChannelKL(weight={'from': 1.0")


def distilling(data, loss, steps=4, **settings):
    teacher, alone = network(1), training(data, steps=steps, **settings)
    objective = Distillation(teacher, alone.network, loss, TaskLoss(Task(), data.classes))
    answers = NetworkTeacher(teacher, alone.fabric, Hardware())
    console = Console(quiet=True)
    return Training(
        alone.fabric, alone.network, objective, data, alone.settings, console, teacher=answers
    )


def logged(run, monkeypatch):
    rows = {}
    monkeypatch.setattr(run, "_log", lambda done, terms: rows.update({done: dict(terms)}))
    run.run()
    return rows


def test_a_teacher_that_is_left_behind_is_asked_no_more_and_nothing_else_changes(
    tiny_data, monkeypatch
):
    found = []
    for skipped in (True, False):
        loss = ChannelKL(weight={"from": 2, "to": 0, "end": 0.5}, strength=1.0)
        run = distilling(tiny_data, loss)
        if not skipped:
            monkeypatch.setattr(loss, "over", lambda progress: False)
        answer, asked = run.teacher.answer, []

        def counted(images, batch, answer=answer, asked=asked):
            asked.append(1)
            return answer(images, batch)

        monkeypatch.setattr(run.teacher, "answer", counted)
        rows = logged(run, monkeypatch)
        assert len(asked) == (2 if skipped else 4)
        assert [float(row["weight"]) for row in rows.values()] == [2, 1, 0, 0]
        found.append((rows, run.network.state_dict()))
    (rows, weights), (every, others) = found
    assert [step for step in rows if "distillation" in rows[step]] == [1, 2]
    assert every[3]["distillation"] == 0
    for step in rows:
        assert rows[step]["task"].equal(every[step]["task"])
    assert all(weights[name].equal(others[name]) for name in weights)


def test_in_a_sum_each_loss_fades_by_itself(tiny_data, monkeypatch):
    away, near = {"from": 2, "to": 0, "end": 0.5}, {"from": 1, "to": 0, "end": 0.75}
    losses = {"a": PixelKL(weight=away), "b": ChannelKL(weight=near), "c": PixelKL(weight=0.5)}
    total = WeightedSum(losses)
    assert not total.over(1.0)
    assert total.fading(0.25) == pytest.approx({"a/weight": 1.0, "b/weight": 2 / 3})
    del losses["c"]
    total = WeightedSum(losses)
    assert [total.over(quarter / 4) for quarter in range(5)] == [False, False, False, True, True]
    rows = logged(distilling(tiny_data, total), monkeypatch)
    assert rows[2].keys() >= {"a", "b", "a/weight", "b/weight"}
    assert rows[4].keys() >= {"task", "a/weight", "b/weight"}
    assert not rows[4].keys() & {"a", "b"}


def test_where_nothing_is_labelled_the_teacher_stays(tiny_data):
    teacher, student = network(1), network(0)
    with pytest.raises(InputError, match="nothing to learn from"):
        Distillation(teacher, student, PixelKL(weight={"from": 1, "to": 0, "end": 0.9}))
    Distillation(teacher, student, PixelKL(weight={"from": 1, "to": 0}))


def test_an_extended_run_says_where_a_weight_goes_on(tiny_data):
    loss = ChannelKL(weight={"from": 1, "to": 0, "end": 0.8})
    objective = Distillation(network(1), network(0), loss, TaskLoss(Task(), tiny_data.classes))
    told = extension(Schedule(steps=20, learning_rate=0.1), objective, before=10, step=10)
    assert "the weight changes from 0, at step 10 of the old schedule, to 0.375 of" in told
    assert "the learning rate changes from 0.0126, at step 10" in told
