"""What the loop does beside stepping: averages, freezing, ending early, scaling gradients."""

import copy

import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.precision import MixedPrecision
from rich.console import Console

from fakd.errors import InputError
from fakd.models import pspnet
from fakd.runs.folder import RunFolder
from fakd.settings import (
    Augmentation,
    Freeze,
    Hardware,
    Intervals,
    Optimizer,
    Schedule,
    Settings,
    Stopping,
    Task,
)
from fakd.training.loop import Training
from fakd.training.objective import Outcome, Supervised
from fakd.training.start import start
from fakd.training.task import TaskLoss


def training(data, steps=4, learning_rate=0.05, fabric=None, objective=None, **settings):
    hardware = Hardware(accelerator="cpu")
    torch.manual_seed(0)
    network = pspnet("mobilenetv3_small_050", data.classes, channels=16)
    given = {
        "schedule": Schedule(steps=steps, batch_size=4, learning_rate=learning_rate),
        "augmentation": Augmentation(crop=(32, 48)),
        "intervals": Intervals(log=1, evaluate=1),
        **settings,
    }
    whole = Settings(hardware=hardware, **given)
    fabric = fabric or start(hardware, 0)
    return Training(
        fabric,
        network,
        objective or Supervised(TaskLoss(Task(), data.classes)),
        data,
        whole,
        Console(quiet=True),
    )


def test_the_moving_average_is_what_its_formula_says_and_what_is_scored(tiny_data, monkeypatch):
    run = training(tiny_data, ema=0.9)
    seen = []
    advance = Training.advance

    def watched(self, *arguments, **options):
        terms = advance(self, *arguments, **options)
        seen.append(copy.deepcopy(self.network.state_dict()))
        return terms

    monkeypatch.setattr(Training, "advance", watched)
    run.run()
    for name, parameter in run.evaluated.named_parameters():
        expected = seen[0][name]
        for weights in seen[1:]:
            expected = 0.9 * expected + 0.1 * weights[name]
        torch.testing.assert_close(parameter, expected)
    for name, buffer in run.evaluated.named_buffers():
        if name in seen[-1]:
            assert torch.equal(buffer, seen[-1][name]), name
    assert run.evaluated is not run.network


@pytest.mark.parametrize("share", [0.0, 1.0, 20.0])
def test_an_average_that_is_none_is_refused(tiny_data, share):
    with pytest.raises(InputError, match="ema between 0 and 1"):
        training(tiny_data, ema=share)


def test_what_is_frozen_does_not_change_its_statistics_neither(tiny_data):
    run = training(tiny_data, freeze=Freeze(("backbone",)))
    before = copy.deepcopy(run.network.state_dict())
    run.run()
    after = run.network.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert not [name for name in changed if name.startswith("backbone.")]
    held = {id(p) for group in run.optimizer.param_groups for p in group["params"]}
    assert not held & {id(p) for p in run.network.backbone.parameters()}


@pytest.mark.parametrize("save", [1, 100])
def test_what_is_thawed_learns_from_then_on_and_the_rest_keeps_its_momentum(tiny_data, save):
    intervals = Intervals(log=1, evaluate=1, save=save)
    run = training(tiny_data, steps=2, freeze=Freeze(("backbone",), until=1), intervals=intervals)
    before = copy.deepcopy(run.network.state_dict())
    run.run()
    after = run.network.state_dict()
    assert any(
        not torch.equal(before[name], after[name]) for name in before if name.startswith("backbone")
    )
    frozen = training(tiny_data, steps=1, freeze=Freeze(("backbone",)))
    frozen.run()
    # Two steps of momentum 0.9 in the head: its buffer is more than the last gradient.
    head = run.network.classifier.weight
    momentum = run.optimizer.state[head]["momentum_buffer"]
    first = frozen.optimizer.state[frozen.network.classifier.weight]["momentum_buffer"]
    assert not torch.equal(momentum, first)
    assert momentum.abs().sum() > 0


@pytest.mark.parametrize(
    ("names", "message"),
    [(("bakcbone",), "there is no bakcbone"), (("*",), "all weights frozen")],
)
def test_freezing_nothing_or_everything_is_refused(tiny_data, names, message):
    with pytest.raises(InputError, match=message):
        training(tiny_data, freeze=Freeze(names))


def test_patience_ends_a_run_that_learns_nothing_more(tiny_data):
    run = training(
        tiny_data, steps=9, learning_rate=1e-30, stopping=Stopping(patience=2), ema=0.999
    )
    result = run.run()
    assert result["steps"] < 9
    assert result["steps"] == result["best"]["step"] + 2
    assert result["ended"] == f"no better mIoU since step {result['best']['step']}"


def test_a_limit_of_time_ends_a_run(tiny_data):
    result = training(tiny_data, steps=50, stopping=Stopping(minutes=1e-6)).run()
    assert (result["steps"], result["ended"]) == (1, "1e-06 minutes of training")
    assert training(tiny_data, steps=2).run()["ended"] == "all steps done"


@pytest.mark.parametrize("wrong", [{"patience": 0}, {"minutes": -1.0}])
def test_limits_that_end_a_run_before_it_began_are_refused(wrong):
    with pytest.raises(InputError, match=f"stopping.{next(iter(wrong))}"):
        Stopping(**wrong)


@pytest.mark.parametrize("wrong", [{"until": 5}, {"names": ("a",), "until": 0}])
def test_thawing_what_is_not_frozen_is_refused(wrong):
    with pytest.raises(InputError, match=r"freeze\.until"):
        Freeze(**wrong)


def test_half_precision_scales_gradients_and_learns_nearly_the_same(tiny_data):
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    precision = MixedPrecision("16-mixed", "cpu", scaler=scaler)
    exact = training(tiny_data)
    half = training(tiny_data, fabric=Fabric(accelerator="cpu", plugins=[precision]))
    exact.run()
    half.run()
    assert half.step.scaler().state_dict()["scale"] == 1024.0
    assert exact.step.scaler().state_dict() == {}
    for name, parameter in exact.network.named_parameters():
        torch.testing.assert_close(
            dict(half.network.named_parameters())[name], parameter, atol=0.05, rtol=0.1
        )


def test_a_run_may_go_on_in_half_precision(tiny_data, tmp_path):
    every = Intervals(log=1, evaluate=2, save=1)
    begun = training(tiny_data, steps=2, intervals=every)
    folder = RunFolder(tmp_path / "run", {})
    begun.run(folder)
    precision = MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu"))
    fabric = Fabric(accelerator="cpu", plugins=[precision])
    half = training(tiny_data, steps=4, fabric=fabric, intervals=every)
    half.resume(folder.last)
    assert half.step.scaler().get_scale() == 2.0**16


def test_half_precision_without_a_gpu_is_refused():
    with pytest.raises(InputError, match="bf16-mixed"):
        start(Hardware(accelerator="cpu", precision="16-mixed"), 0)


class Bringing(Supervised):
    """Learns a number beside the network, with a large gradient."""

    def __init__(self, task):
        super().__init__(task)
        self.brought = torch.nn.Parameter(torch.ones(()))

    def forward(self, *arguments, **options):
        outcome = super().forward(*arguments, **options)
        return Outcome({**outcome.terms, "brought": 100 * self.brought})


def test_gradients_are_clipped_by_norm_and_by_value(tiny_data):
    rate, optimizer = 0.05, Optimizer(weight_decay=0.0, arguments={"momentum": 0.0})
    for clips in ({"clip": 1e-3}, {"clip_value": 1e-5}):
        schedule = Schedule(steps=1, batch_size=4, learning_rate=rate, **clips)
        objective = Bringing(TaskLoss(Task(), tiny_data.classes))
        run = training(tiny_data, schedule=schedule, optimizer=optimizer, objective=objective)
        learning = [*run.network.parameters(), objective.brought]
        before = [parameter.detach().clone() for parameter in learning]
        run.run()
        moved = [
            (parameter - old).detach() / rate
            for parameter, old in zip(learning, before, strict=True)
        ]
        if "clip" in clips:
            norm = torch.stack([each.norm() for each in moved]).norm()
            assert float(norm) == pytest.approx(1e-3, rel=0.02)
        else:
            assert max(float(each.abs().max()) for each in moved) == pytest.approx(1e-5, rel=0.1)
