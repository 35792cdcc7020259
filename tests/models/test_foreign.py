import copy
from types import SimpleNamespace

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from fakd.errors import InputError
from fakd.models import LogitsOnly, Tapped, adapt


class Small(nn.Module):
    """A foreign network with a classifier of choice and an answer of choice."""

    def __init__(self, kernel_size=1, answer="tensor", mode="bilinear", groups=1):
        super().__init__()
        self.trunk = nn.Conv2d(3, 8, 3, stride=4, padding=1)
        self.last = nn.Conv2d(8, 4, kernel_size, padding=kernel_size // 2, groups=groups)
        self.auxiliary = nn.Conv2d(8, 4, 1)
        self.answer, self.mode = answer, mode

    def forward(self, images):
        features = torch.relu(self.trunk(images))
        logits = F.interpolate(self.last(features), size=images.shape[-2:], mode=self.mode)
        if self.answer == "tensor":
            return logits
        if self.answer == "object":
            return SimpleNamespace(logits=logits)
        return {self.answer: logits, "aux": self.auxiliary(features)}


def check_tap(network, foreign, size=(64, 96)):
    images = torch.rand(2, 3, *size)
    network.eval()
    with torch.no_grad():
        logits, features, _ = network(images)
        tap = network.classifier
        expected = F.conv2d(features, tap.weight, tap.bias, padding=tap.padding)
        torch.testing.assert_close(logits, expected, rtol=0, atol=2e-6)
        answer = foreign(network.normalize(images))
        answer = answer["out"] if isinstance(answer, dict) else answer
        enlarged = F.interpolate(logits, answer.shape[-2:], mode="bilinear")
    torch.testing.assert_close(enlarged, answer, rtol=0, atol=2e-6)


def test_a_sum_of_two_classifiers_has_no_feature():
    foreign = torchvision.models.segmentation.lraspp_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=5
    )

    with pytest.raises(InputError, match="LogitsOnly"):
        adapt(foreign)


@pytest.mark.parametrize("name", ["fcn_resnet50", "deeplabv3_mobilenet_v3_large"])
@pytest.mark.parametrize("auxiliary", [False, True])
def test_torchvision_networks(name, auxiliary):
    build = getattr(torchvision.models.segmentation, name)
    foreign = build(weights=None, weights_backbone=None, num_classes=5, aux_loss=auxiliary).eval()

    network = adapt(foreign)

    assert network.name == "classifier.4"
    assert network.classes == 5
    check_tap(network, foreign)
    network.train()
    assert (network(torch.rand(2, 3, 64, 64)).auxiliary is not None) == auxiliary


@pytest.mark.parametrize("kernel_size", [1, 3])
@pytest.mark.parametrize("answer", ["tensor", "out"])
def test_small_networks(kernel_size, answer):
    foreign = Small(kernel_size, answer)

    network = Tapped(foreign)

    assert network.name == "last"
    check_tap(network, foreign)


@pytest.mark.parametrize("mode", ["nearest", "bicubic"])
@pytest.mark.parametrize("answer", ["object", "logits"])
def test_other_answers_and_resizings(mode, answer):
    assert Tapped(Small(answer=answer, mode=mode)).name == "last"


def test_probing_leaves_the_network_as_it_was():
    foreign = torchvision.models.segmentation.fcn_resnet50(
        weights=None, weights_backbone=None, num_classes=3
    ).train()
    foreign.backbone.bn1.eval()
    before = copy.deepcopy(foreign.state_dict())
    random_state = torch.get_rng_state()

    Tapped(foreign)

    assert torch.equal(torch.get_rng_state(), random_state)
    assert foreign.training
    assert not foreign.backbone.bn1.training
    assert all(torch.equal(before[name], value) for name, value in foreign.state_dict().items())


def test_copies_are_independent():
    network = Tapped(Small())
    other = copy.deepcopy(network)
    nn.init.zeros_(other.classifier.weight)

    images = torch.rand(1, 3, 32, 32)

    assert network(images).logits.std() > 0
    assert not network.calls
    assert not torch.equal(network(images).logits, other(images).logits)


def test_gradients_reach_the_foreign_network():
    foreign = Small()

    Tapped(foreign)(torch.rand(1, 3, 32, 32)).logits.sum().backward()

    assert foreign.trunk.weight.grad.abs().sum() > 0


def test_named_classifier_is_taken_although_the_answer_is_no_longer_logits():
    class Probabilities(Small):
        def forward(self, images):
            return super().forward(images).softmax(dim=1)

    with pytest.raises(InputError, match="give its name"):
        Tapped(Probabilities())
    assert Tapped(Probabilities(), classifier="last").classes == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classifier": "trunk"}, "ungrouped convolution that keeps the size"),
        ({"classifier": "nowhere"}, "the last convolutions are trunk, last, auxiliary"),
        ({"classes": 9}, "must have 9 classes, got 4"),
    ],
)
def test_misuse_is_explained(arguments, message):
    with pytest.raises(InputError, match=message):
        adapt(Small(), **arguments)


def test_grouped_convolutions_are_no_classifiers():
    with pytest.raises(InputError, match="must end in a convolution"):
        Tapped(Small(groups=2))
    with pytest.raises(InputError, match="Identity without any"):
        Tapped(nn.Identity())


def test_networks_of_one_size_are_tried_at_that_size():
    class Fixed(Small):
        def forward(self, images):
            if images.shape[-1] != 48:
                raise ValueError("48 pixels wanted")
            return super().forward(images)

    with pytest.raises(InputError, match="128x128 pixels, got '48 pixels wanted'"):
        Tapped(Fixed())
    assert Tapped(Fixed(), side=48).name == "last"


def test_half_precision_networks_are_tried_in_theirs():
    assert Tapped(Small().to(torch.bfloat16)).classes == 4


def test_logits_only():
    foreign = Small(answer="out").eval()
    teacher = adapt(foreign.forward, classes=4, mean=(0.0,) * 3, std=(1.0,) * 3)
    images = torch.rand(1, 3, 32, 32)

    prediction = teacher(images)

    assert isinstance(teacher, LogitsOnly)
    assert torch.equal(prediction.logits, foreign(images)["out"])
    assert prediction.features is None
    assert teacher.classifier is None
    with pytest.raises(InputError, match="must give 3 classes"):
        LogitsOnly(foreign, 3)(images)
    with pytest.raises(InputError, match="class count"):
        adapt(foreign.forward)


@pytest.mark.parametrize("given", [None, 3])
def test_answers_without_logits_are_refused(given):
    with pytest.raises(InputError, match="must answer with logits"):
        LogitsOnly(lambda images: given, 3)(torch.rand(1, 3, 8, 8))
