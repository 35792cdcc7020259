import pytest
import torch
from torch import nn

from fakd.errors import InputError
from fakd.settings import Schedule
from fakd.training.optimizer import build_optimizer, set_learning_rate


def test_poly_decay_from_the_first_to_the_last_step():
    schedule = Schedule(steps=100, learning_rate=0.01, power=0.9)
    assert schedule.learning_rate_at(0) == pytest.approx(0.01)
    assert schedule.learning_rate_at(50) == pytest.approx(0.01 * 0.5**0.9)
    assert 0 < schedule.learning_rate_at(99) < 0.0002


def test_minimum_is_the_floor_as_in_mmsegmentation():
    schedule = Schedule(steps=40_000, learning_rate=0.01, minimum_learning_rate=1e-4)
    expected = (0.01 - 1e-4) * (1 - 20_000 / 40_000) ** 0.9 + 1e-4
    assert schedule.learning_rate_at(20_000) == pytest.approx(expected)


def test_warmup_rises_to_the_schedule_it_then_follows():
    plain, warm = Schedule(steps=100), Schedule(steps=100, warmup=10)
    rates = [warm.learning_rate_at(step) for step in range(12)]
    assert rates[:11] == sorted(rates[:11])
    assert rates[0] == pytest.approx(plain.learning_rate_at(0) / 11)
    assert rates[10:] == [plain.learning_rate_at(step) for step in (10, 11)]


def test_heads_learn_faster_than_the_backbone(tiny_network):
    schedule = Schedule(steps=10, learning_rate=0.1, head_multiplier=10.0)
    optimizer = build_optimizer(schedule, tiny_network)
    set_learning_rate(optimizer, 0.05)
    backbone, heads = optimizer.param_groups
    assert (backbone["lr"], heads["lr"]) == (0.05, 0.5)
    ids = {id(parameter) for parameter in tiny_network.backbone.parameters()}
    assert {id(parameter) for parameter in backbone["params"]} == ids
    count = sum(len(group["params"]) for group in optimizer.param_groups)
    assert count == len(list(tiny_network.parameters()))


def test_the_optimiser_is_torchs_sgd(tiny_network):
    """Zeroed momentum at the start changes nothing: three steps as with a plain SGD."""
    torch.manual_seed(0)
    ours, theirs = nn.Linear(3, 2), nn.Linear(3, 2)
    theirs.load_state_dict(ours.state_dict())
    schedule = Schedule(steps=10, learning_rate=0.1)
    optimizers = [
        build_optimizer(schedule, ours),
        torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4),
    ]
    for _ in range(3):
        x = torch.rand(4, 3)
        for network, optimizer in zip((ours, theirs), optimizers, strict=True):
            optimizer.zero_grad()
            network(x).square().sum().backward()
            optimizer.step()
    assert torch.equal(ours.weight, theirs.weight)


@pytest.mark.parametrize(
    "wrong",
    [{"steps": 0}, {"batch_size": 0}, {"learning_rate": 0.0}, {"warmup": 1000}, {"clip": 0.0}],
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(InputError, match=f"schedule.{next(iter(wrong))}"):
        Schedule(**wrong)
