import math

import pytest
import torch
from torch import nn

from fakd.errors import InputError
from fakd.settings import Optimizer, Schedule
from fakd.training.optimizer import build_optimizer, set_learning_rate
from fakd.types import Prediction, Segmenter


class Plain(Segmenter):
    """A classifier and nothing else."""

    classes = 2

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 2, 1)

    def forward(self, images):
        return Prediction(self.layer(images))

    @property
    def classifier(self):
        return self.layer


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
    plain, warm = (Schedule(steps=100, learning_rate=0.01, warmup=n) for n in (0, 10))
    rates = [warm.learning_rate_at(step) for step in range(12)]
    assert rates[:11] == sorted(rates[:11])
    assert rates[0] == pytest.approx(plain.learning_rate_at(0) / 11)
    assert rates[10:] == [plain.learning_rate_at(step) for step in (10, 11)]


def test_heads_learn_faster_than_the_backbone(tiny_network):
    optimizer = build_optimizer(Optimizer(head_multiplier=10.0), tiny_network)
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
    ours, theirs = Plain(), Plain()
    theirs.load_state_dict(ours.state_dict())
    optimizers = [
        build_optimizer(Optimizer(), ours),
        torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4),
    ]
    set_learning_rate(optimizers[0], 0.1)
    for _ in range(3):
        x = torch.rand(4, 3, 2, 2)
        for network, optimizer in zip((ours, theirs), optimizers, strict=True):
            optimizer.zero_grad()
            network(x).logits.square().sum().backward()
            optimizer.step()
    assert torch.equal(ours.classifier.weight, theirs.classifier.weight)


def test_other_shapes_of_the_learning_rate():
    def rates(**settings):
        schedule = Schedule(steps=100, learning_rate=0.1, **settings)
        return [schedule.learning_rate_at(step) for step in range(100)]

    assert set(rates(shape="constant")) == {0.1}
    cosine = rates(shape="cosine", minimum_learning_rate=0.02)
    assert cosine[0] == pytest.approx(0.1)
    assert cosine[25] == pytest.approx(0.02 + 0.08 * (1 + math.cos(math.pi / 4)) / 2)
    assert cosine[50] == pytest.approx(0.06)
    cycle = rates(shape="one-cycle")
    assert cycle[0] == pytest.approx(0.0)
    assert cycle[30] == max(cycle) == pytest.approx(0.1)
    assert cycle[65] == pytest.approx(0.05)
    assert cycle[:31] == sorted(cycle[:31])
    assert cycle[30:] == sorted(cycle[30:], reverse=True)


def test_epochs_become_steps_and_each_optimiser_has_its_usual_rate():
    settled = Schedule(epochs=2.5, batch_size=8).settled(100, Optimizer())
    assert (settled.steps, settled.epochs, settled.learning_rate) == (32, None, 0.01)
    assert Schedule().settled(100, Optimizer("AdamW")).learning_rate == 1e-4
    assert Schedule(learning_rate=0.3).settled(100, Optimizer("AdamW")).learning_rate == 0.3
    with pytest.raises(InputError, match=r"steps or schedule\.epochs"):
        Schedule(steps=10, epochs=1.0)


@pytest.mark.parametrize("kind", ["AdamW", "Adam", "RMSprop", "NAdam", "Adagrad"])
def test_any_optimiser_of_torch_by_its_name(kind):
    ours, theirs = Plain(), Plain()
    theirs.load_state_dict(ours.state_dict())
    mine = build_optimizer(Optimizer(kind, weight_decay=0.1, arguments={"eps": 1e-6}), ours)
    reference = getattr(torch.optim, kind)(theirs.parameters(), lr=0.01, weight_decay=0.1, eps=1e-6)
    set_learning_rate(mine, 0.01)
    for _ in range(3):
        x = torch.rand(4, 3, 2, 2)
        for network, optimizer in ((ours, mine), (theirs, reference)):
            optimizer.zero_grad()
            network(x).logits.square().sum().backward()
            optimizer.step()
    assert torch.equal(ours.classifier.weight, theirs.classifier.weight)


def test_norms_and_biases_may_be_spared_weight_decay(tiny_network):
    aligning = nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2))
    learning = [*tiny_network.named_parameters(), *aligning.named_parameters()]
    spared = Optimizer("AdamW", 0.05, decay_norms=False)
    optimizer = build_optimizer(spared, tiny_network, [*aligning.parameters()])
    decay = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    assert len(decay) == len(learning)
    for name, parameter in learning:
        assert decay[id(parameter)] == (0.05 if parameter.ndim > 1 else 0.0), name


class Transformer(Plain):
    """Four blocks between what comes before and behind them."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Module()
        self.backbone.patch_embed = nn.Linear(2, 2)
        self.backbone.blocks = nn.ModuleList(nn.Linear(2, 2) for _ in range(4))
        self.backbone.norm = nn.LayerNorm(2)


def test_each_block_learns_slower_than_the_next():
    network = Transformer()
    optimizer = build_optimizer(Optimizer("AdamW", layer_decay=0.5, head_multiplier=3.0), network)
    rates = {id(p): g["multiplier"] for g in optimizer.param_groups for p in g["params"]}
    backbone = network.backbone
    assert rates[id(backbone.patch_embed.weight)] == 0.5**5
    assert [rates[id(block.bias)] for block in backbone.blocks] == [0.5**n for n in (4, 3, 2, 1)]
    assert rates[id(backbone.norm.weight)] == 1
    assert rates[id(network.classifier.weight)] == 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (Optimizer("Adamw"), "did you mean AdamW"),
        (Optimizer("AdamW", arguments={"beta": 1}), "did you mean betas"),
        (Optimizer("AdamW", arguments={"betas": [2, 3]}), "does not take"),
        (Optimizer(head_multiplier=2.0), "backbone and head"),
        (Optimizer(layer_decay=0.5), "numbered blocks"),
    ],
)
def test_what_a_network_or_an_optimiser_has_not_is_refused(settings, message):
    with pytest.raises(InputError, match=message):
        build_optimizer(settings, Plain())


def test_a_frozen_network_is_refused():
    with pytest.raises(InputError, match="all weights frozen"):
        build_optimizer(Optimizer(), Plain().requires_grad_(False), nn.Conv2d(2, 2, 1).parameters())


@pytest.mark.parametrize(
    "wrong",
    [
        {"weight_decay": -1.0},
        {"head_multiplier": 0.0},
        {"layer_decay": 1.5},
        {"arguments": {"lr": 1.0}},
    ],
)
def test_impossible_optimisers_are_refused(wrong):
    with pytest.raises(InputError, match="optimizer"):
        Optimizer(**wrong)


@pytest.mark.parametrize(
    "wrong",
    [{"steps": 0}, {"batch_size": 0}, {"learning_rate": 0.0}, {"warmup": 1000}, {"clip": 0.0}],
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(InputError, match=f"schedule.{next(iter(wrong))}"):
        Schedule(**wrong)
