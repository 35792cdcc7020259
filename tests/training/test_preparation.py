"""What a network is told before it is trained."""

import copy

import pytest
import timm
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from fakd.errors import InputError
from fakd.settings import Hardware, Schedule, Settings
from fakd.training.preparation import (
    checkpoint_activations,
    freeze,
    require_enough_images,
    synchronize_batch_norms,
)
from fakd.training.start import start
from stand_ins import message
from training.test_loop import training


def test_recomputed_activations_give_the_same_gradients():
    torch.manual_seed(0)
    images = torch.rand(2, 3, 32, 32)
    network = timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=3)
    gradients = []
    for recompute in (False, True):
        if recompute:
            checkpoint_activations(network)
        network.zero_grad()
        network(images).square().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in network.parameters()])
    assert network.grad_checkpointing
    for kept, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(kept, recomputed)


def test_a_network_that_cannot_recompute_is_refused():
    with pytest.raises(InputError, match="no part of Conv2d supports it"):
        checkpoint_activations(nn.Conv2d(3, 3, 1))


def test_parts_are_frozen_by_name_and_pattern():
    network = nn.Sequential(
        nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.Sequential(nn.BatchNorm2d(3), nn.Linear(3, 3))
    )
    network[2][1].bias.requires_grad_(False)
    frozen = freeze(network, ("1", "2.*", "0.bias"))
    assert set(frozen.norms) == {network[1], network[2][0]}
    learning = {name for name, p in network.named_parameters() if p.requires_grad}
    assert learning == {"0.weight"}
    frozen.thaw()
    # What did not learn before it was frozen does not learn afterwards.
    fixed = [name for name, p in network.named_parameters() if not p.requires_grad]
    assert fixed == ["2.1.bias"]


class OwnNorm(nn.BatchNorm2d):
    """Scales beside."""

    def forward(self, maps):
        return 2 * super().forward(maps)


@pytest.mark.parametrize("backbone", ["mobilenetv3_small_050", "tf_efficientnet_lite0", "resnet18"])
def test_norms_of_several_processes_compute_what_those_of_one_do(backbone):
    images = torch.rand(2, 3, 32, 32)
    encoder = timm.create_model(backbone, num_classes=0).eval()
    features = encoder(images)
    network = nn.Sequential(encoder, OwnNorm(features.shape[1])).eval()
    expected = features, network[1](features[:, :, None, None])
    names = {*network.state_dict()}
    synchronize_batch_norms(network)
    features = network[0](images)
    assert torch.equal(features, expected[0])
    assert torch.equal(network[1](features[:, :, None, None]), expected[1])
    assert {*network.state_dict()} == names
    norms = [each for each in network[0].modules() if isinstance(each, _BatchNorm)]
    assert norms
    assert all(isinstance(each, nn.SyncBatchNorm) for each in norms)


@pytest.mark.parametrize(("batch", "accumulate", "least"), [(1, 1, 2), (2, 2, 4)])
def test_one_image_at_a_time_is_refused_where_a_pooled_map_is_normalised(
    tiny_data, batch, accumulate, least
):
    schedule = Schedule(steps=1, batch_size=batch, accumulate=accumulate)
    said = message(lambda: training(tiny_data, schedule=schedule))
    assert f"schedule.batch_size of at least {least} with this network, got {batch}" in said


def test_one_image_at_a_time_is_fine_for_other_networks_and_leaves_them_as_they_were(tiny_data):
    fabric = start(Hardware(accelerator="cpu"), 0)
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout()).train()
    before, drawn = copy.deepcopy(plain.state_dict()), torch.get_rng_state()
    require_enough_images(fabric, plain, Settings(schedule=Schedule(batch_size=1)))
    after = plain.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(drawn, torch.get_rng_state())
