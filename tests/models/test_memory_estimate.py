"""What a network takes of memory, told from its structure, is what it takes."""

import pytest
import torch
from torch import nn

from fakd.errors import InputError
from fakd.models import adapt, open_network
from fakd.models.catalogue import activation_bytes
from fakd.models.memory_estimate import (
    bytes_of_image,
    peak_bytes,
    require_image_memory,
    structure_of,
)
from fakd.types import Prediction, Segmenter

CPU = torch.device("cpu")
WORDS = ("pspnet?backbone=mobilenetv3_small_050&channels=8", "fcn_hrnet?backbone=hrnet_w18s")


@pytest.mark.parametrize("word", WORDS)
def test_a_structure_takes_what_the_network_does(word):
    network = open_network(word, 5).train()
    before = {name: each.clone() for name, each in network.state_dict().items()}
    told = [bytes_of_image(network, (64, 96), learns=learns) for learns in (True, False)]
    assert network.training
    assert all(torch.equal(each, before[name]) for name, each in network.state_dict().items())
    images = torch.rand(2, 3, 64, 96)
    assert told[0] == activation_bytes(network, images) // 2
    assert told[1] == peak_bytes(structure_of(network).eval(), images[:1].to("meta"))


def test_what_is_frozen_keeps_less():
    network = open_network(WORDS[0], 5)
    all_of_it = bytes_of_image(network, (64, 96), learns=True)
    network.backbone.requires_grad_(False)
    assert bytes_of_image(network, (64, 96), learns=True) < all_of_it / 2


def test_what_is_held_is_let_go_between_layers():
    layers = nn.Sequential(*(nn.Conv2d(3, 3, 1) for _ in range(9)))
    image = torch.rand(1, 3, 32, 32)
    assert peak_bytes(layers.to("meta"), image.to("meta")) == 2 * 4 * image.numel()


class Looking(nn.Module):
    """Decides by a value, which a structure does not have."""

    def __init__(self):
        super().__init__()
        self.last = nn.Conv2d(3, 4, 1)

    def forward(self, images):
        return self.last(images if images.mean() > 0 else -images)


def test_a_network_that_looks_at_values_counts_as_its_images(monkeypatch):
    network = adapt(Looking())
    assert bytes_of_image(network, (32, 32), learns=True) == 0
    monkeypatch.setattr(
        "fakd.models.memory_estimate.free_memory", lambda device: 100 * 12 * 32 * 32
    )
    monkeypatch.setattr("fakd.memory.free_memory", lambda device: 100 * 12 * 32 * 32)
    require_image_memory(99, (32, 32), CPU, "", asked=[network])
    with pytest.raises(InputError, match=r"101 images of 32 x 32 pixels at a time would take"):
        require_image_memory(101, (32, 32), CPU, "", asked=[network])


class Never(Segmenter):
    classes, classifier = 4, None

    def forward(self, images) -> Prediction:
        raise AssertionError


@pytest.mark.slow
def test_the_largest_of_learner_and_teachers_counts_and_says_how_many_fit(monkeypatch):
    learner, teacher = (open_network(word, 5) for word in WORDS)
    kept = bytes_of_image(learner, (64, 96), learns=True)
    held = bytes_of_image(teacher, (64, 96), learns=False)
    weights = 8 * sum(each.numel() for each in learner.parameters())
    image = 12 * 64 * 96
    for half, networks, each in (
        (False, {"learner": learner}, kept),
        (True, {"learner": learner}, kept // 2),
        (False, {"learner": learner, "asked": [teacher]}, max(kept, held)),
    ):
        free = weights + 7 * (image + each)
        for place in ("fakd.memory", "fakd.models.memory_estimate"):
            monkeypatch.setattr(f"{place}.free_memory", lambda device, free=free: free)
        require_image_memory(7, (64, 96), CPU, "a remedy", half=half, **networks)
        with pytest.raises(InputError, match=r"8 images of .*; that is enough for 7; a remedy"):
            require_image_memory(8, (64, 96), CPU, "a remedy", half=half, **networks)


def test_where_there_is_plenty_no_network_is_looked_at(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError

    monkeypatch.setattr("fakd.models.memory_estimate.bytes_of_image", refuse)
    require_image_memory(2, (32, 32), CPU, "", asked=[Never()])
    monkeypatch.setattr("fakd.models.memory_estimate.free_memory", lambda device: None)
    require_image_memory(10**9, (10**6, 10**6), CPU, "", asked=[Never()])
