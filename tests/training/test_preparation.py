"""What a network is told before it is trained."""

import pytest
import timm
import torch
from torch import nn

from fakd.errors import InputError
from fakd.training.preparation import checkpoint_activations, freeze


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
    with pytest.raises(InputError, match="no part of Conv2d offers it"):
        checkpoint_activations(nn.Conv2d(3, 3, 1))


def test_parts_are_frozen_by_name_and_pattern():
    network = nn.Sequential(
        nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.Sequential(nn.BatchNorm2d(3), nn.Linear(3, 3))
    )
    norms = freeze(network, ("1", "2.*", "0.bias"))
    assert set(norms) == {network[1], network[2][0]}
    learning = {name for name, p in network.named_parameters() if p.requires_grad}
    assert learning == {"0.weight"}
