"""In training layers see 8 bits; what learns, is saved and is evaluated is not rounded."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

import fakd
from fakd.settings import Augmentation
from fakd.training.int8 import round_input, round_weight, train_for_int8


def by_hand(values, low, high, steps, least):
    """Round to the nearest of ``steps`` numbers between the two."""
    scale = (high - low) / steps
    zero = round(-low / scale) + least if least == 0 else 0
    codes = np.clip(np.rint(values / scale) + zero, least, least + steps)
    return (codes - zero) * scale


def test_weights_are_rounded_by_channel_and_inputs_as_a_whole():
    torch.manual_seed(0)
    weight = torch.randn(3, 2, 3, 3) * torch.tensor([0.01, 1.0, 100.0])[:, None, None, None]
    found = round_weight(weight).numpy()
    for channel, values in zip(found, weight.double().numpy(), strict=True):
        largest = np.abs(values).max()
        expected = by_hand(values, -largest, largest, 254, -127)
        np.testing.assert_allclose(channel, expected, rtol=1e-5, atol=1e-7 * largest)
    turned = round_weight(weight.transpose(0, 1), channel_axis=1)
    assert torch.equal(turned, round_weight(weight).transpose(0, 1))
    for features in (torch.rand(2, 3, 4, 5) * 6, torch.randn(2, 3, 4, 5), -torch.rand(2, 3)):
        low, high = min(float(features.min()), 0), max(float(features.max()), 0)
        expected = by_hand(features.double().numpy(), low, high, 255, 0)
        np.testing.assert_allclose(round_input(features).numpy(), expected, atol=1e-5)


def test_nothing_is_lost_of_zeros_and_nothing_hidden_of_what_is_no_number():
    assert torch.equal(round_weight(torch.zeros(2, 3, 1, 1)), torch.zeros(2, 3, 1, 1))
    assert torch.equal(round_input(torch.zeros(2, 3)), torch.zeros(2, 3))
    assert round_input(torch.tensor([1.0, torch.nan])).isnan().all()
    assert round_weight(torch.tensor([[1.0, torch.nan]])).isnan().all()


def test_a_norm_folded_into_the_weight_changes_no_rounding():
    torch.manual_seed(0)
    weight, factor = torch.randn(4, 3, 3, 3), torch.tensor([0.01, -3.0, 1.0, 200.0])
    factor = factor[:, None, None, None]
    torch.testing.assert_close(round_weight(weight * factor), round_weight(weight) * factor)


@pytest.mark.parametrize(
    "layer", [nn.Conv2d(3, 4, 3), nn.ConvTranspose2d(3, 4, 3), nn.Linear(8, 4)], ids=str
)
def test_gradients_pass_straight_through(layer):
    torch.manual_seed(0)
    plain, images = copy.deepcopy(layer), torch.randn(2, 3, 8, 8, requires_grad=True)
    train_for_int8(layer)
    axis = int(isinstance(layer, nn.ConvTranspose2d))
    plain.weight.data = round_weight(plain.weight.data, axis)
    shown = round_input(images).detach().requires_grad_()
    answers = layer(images), plain(shown)
    assert torch.equal(*answers)
    for answer in answers:
        answer.square().sum().backward()
    torch.testing.assert_close(layer.weight.grad, plain.weight.grad)
    # All inputs but the outermost, which rounding the zero may have cut off.
    same = (images.grad - shown.grad).abs() < 1e-5
    assert same.float().mean() > 0.98


def test_the_network_stays_what_it_is(tiny_network):
    network, images = copy.deepcopy(tiny_network), torch.rand(2, 3, 32, 48)
    train_for_int8(network)
    network.train()
    plain = copy.deepcopy(tiny_network).train()
    assert not torch.equal(network(images).logits, plain(images).logits)
    assert network.state_dict().keys() == tiny_network.state_dict().keys()
    for (name, found), expected in zip(
        network.named_parameters(), tiny_network.parameters(), strict=True
    ):
        assert torch.equal(found, expected), name
    fresh = copy.deepcopy(tiny_network)
    train_for_int8(fresh)
    assert torch.equal(fresh.eval()(images).logits, tiny_network.eval()(images).logits)
    layer = next(each for each in network.modules() if isinstance(each, nn.Conv2d))
    with pytest.raises(RuntimeError):
        layer(torch.rand(2, 5, 32, 48))
    assert not any("weight" in vars(module) for module in network.modules())


def test_training_makes_a_network_bear_the_rounding():
    """One channel a hundred times the others leaves them few steps, which the rest makes up for."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 4, 1))
    first, last = network[0], network[2]
    images = torch.randn(16, 3, 8, 8)
    with torch.no_grad():
        first.weight[0] *= 100
        last.weight[:, 0] /= 100
    wanted = network(images).detach()
    train_for_int8(network)
    before = nn.functional.mse_loss(network(images), wanted).item()
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for _ in range(200):
        optimizer.zero_grad()
        nn.functional.mse_loss(network(images), wanted).backward()
        optimizer.step()
    assert nn.functional.mse_loss(network(images), wanted).item() < before / 3


@pytest.mark.slow
def test_a_distilled_run_learns_with_it_and_goes_on(tiny_data, tmp_path):
    def run(name, steps, **more):
        torch.manual_seed(0)
        teacher = fakd.models.pspnet("mobilenetv3_small_050", tiny_data.classes, channels=16)
        fakd.models.save(teacher, tmp_path / "t.safetensors", class_names=None, palette=None)
        student = {"class_path": "fakd.models.pspnet"}
        student["init_args"] = {"backbone": "mobilenetv3_small_050", "channels": 8}
        student = fakd.specs.build(student, classes=tiny_data.classes)
        fakd.distill(
            fakd.load(tmp_path / "t.safetensors"), student, tiny_data, tmp_path / name,
            schedule=fakd.Schedule(steps=steps, batch_size=2, warmup=0, shape="constant"),
            augmentation=Augmentation(crop=(32, 32)), check_teacher=False,
            intervals=fakd.Intervals(log=1, save=2), **more,
        )  # fmt: skip
        return fakd.load(tmp_path / name).state_dict()

    plain, rounded = run("plain", 2), run("rounded", 2, int8=True)
    assert not all(torch.equal(plain[key], rounded[key]) for key in plain)
    whole = run("whole", 4, int8=True)
    extended = run("rounded", 4, int8=True, existing="extend")
    assert all(torch.equal(whole[key], extended[key]) for key in whole)
