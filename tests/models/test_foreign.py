import copy
from types import SimpleNamespace

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from fakd.covariance import ClassCovariance
from fakd.errors import InputError
from fakd.losses import ChannelKL
from fakd.models import Adapted, adapt, open_network
from fakd.models.foreign.answers import class_scores
from fakd.settings import Task
from fakd.training.objective import Distillation
from fakd.training.task import TaskLoss


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


class Hidden:
    """A function that shows no layer of the network it asks."""

    def __init__(self, network):
        self.hidden = [network]

    def __call__(self, images):
        return self.hidden[0](images)


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


def test_a_sum_of_two_classifiers_shows_its_logits_only():
    foreign = torchvision.models.segmentation.lraspp_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=5
    ).eval()

    network = adapt(foreign).eval()

    assert network.classifier is None
    assert network.opaque == "no single layer was found that outputs its logits"
    images = torch.rand(1, 3, 64, 64)
    assert torch.equal(network(images).logits, foreign(network.normalize(images))["out"])
    with pytest.raises(InputError, match=r"no single layer .*; use covariance='logits'"):
        Distillation(network, network, ChannelKL(strength=1.0))


@pytest.mark.parametrize("name", ["fcn_resnet50", "deeplabv3_mobilenet_v3_large"])
@pytest.mark.parametrize("auxiliary", [False, True])
def test_torchvision_networks(name, auxiliary):
    build = getattr(torchvision.models.segmentation, name)
    foreign = build(weights=None, weights_backbone=None, num_classes=5, aux_loss=auxiliary).eval()

    network = adapt(foreign)

    assert network.probe.classifier == "classifier.4"
    assert network.classes == 5
    check_tap(network, foreign)
    network.train()
    assert (network(torch.rand(2, 3, 64, 64)).auxiliary is not None) == auxiliary


@pytest.mark.parametrize("kernel_size", [1, 3])
@pytest.mark.parametrize("answer", ["tensor", "out"])
def test_small_networks(kernel_size, answer):
    foreign = Small(kernel_size, answer)

    network = adapt(foreign)

    assert network.probe.classifier == "last"
    check_tap(network, foreign)


@pytest.mark.parametrize("mode", ["nearest", "bicubic"])
@pytest.mark.parametrize("answer", ["object", "logits"])
def test_other_answers_and_resizings(mode, answer):
    assert adapt(Small(answer=answer, mode=mode)).probe.classifier == "last"


def test_probing_leaves_the_network_as_it_was():
    foreign = torchvision.models.segmentation.fcn_resnet50(
        weights=None, weights_backbone=None, num_classes=3
    ).train()
    foreign.backbone.bn1.eval()
    before = copy.deepcopy(foreign.state_dict())
    random_state = torch.get_rng_state()

    adapt(foreign)

    assert torch.equal(torch.get_rng_state(), random_state)
    assert foreign.training
    assert not foreign.backbone.bn1.training
    assert all(torch.equal(before[name], value) for name, value in foreign.state_dict().items())


def test_copies_are_independent():
    network = adapt(Small())
    other = copy.deepcopy(network)
    nn.init.zeros_(other.classifier.weight)

    images = torch.rand(1, 3, 32, 32)

    assert network(images).logits.std() > 0
    assert not network.calls
    assert not torch.equal(network(images).logits, other(images).logits)


def test_gradients_reach_the_foreign_network():
    foreign = Small()

    adapt(foreign)(torch.rand(1, 3, 32, 32)).logits.sum().backward()

    assert foreign.trunk.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("how", ["softmax", "log_softmax"])
@pytest.mark.parametrize("after", ["before resizing", "after resizing"])
def test_a_softmax_at_the_end_is_taken_off(how, after):
    class Probabilities(Small):
        def forward(self, images):
            logits = self.last(torch.relu(self.trunk(images)))
            if after == "after resizing":
                return getattr(F.interpolate(logits, images.shape[-2:], mode="bilinear"), how)(1)
            return F.interpolate(getattr(logits, how)(1), images.shape[-2:], mode="bilinear")

    foreign = Probabilities().eval()
    network = adapt(foreign).eval()

    assert network.probe.classifier == "last"
    assert any(how.replace("_", "-") in remark for remark in network.remarks)
    images = torch.rand(1, 3, 32, 48)
    logits, features, _ = network(images)
    tap = network.classifier
    torch.testing.assert_close(logits, F.conv2d(features, tap.weight, tap.bias))
    function = adapt(Hidden(foreign), 4)
    assert function.classifier is None
    expected = foreign(network.normalize(images))
    torch.testing.assert_close(
        function(images).logits.softmax(1), expected.softmax(1) if "log" in how else expected
    )


def test_a_named_classifier_that_does_not_make_the_answer_is_refused():
    with pytest.raises(InputError, match=r"'auxiliary' does not output the logits.* 'last' does"):
        adapt(Small(answer="out"), classifier="auxiliary")
    assert adapt(Small(), classifier="last").probe.classifier == "last"


def test_one_sigmoid_is_two_classes():
    class Binary(Small):
        def __init__(self):
            super().__init__()
            self.last = nn.Conv2d(8, 1, 1)

        def forward(self, images):
            return super().forward(images).sigmoid()

    foreign = Binary().eval()
    network = adapt(foreign, 2).eval()
    images = torch.rand(1, 3, 32, 32)
    logits, features, _ = network(images)

    chance = F.interpolate(logits, (32, 32), mode="bilinear").softmax(1)[:, 1:]
    torch.testing.assert_close(chance, foreign(network.normalize(images)))
    tap = network.classifier
    torch.testing.assert_close(logits, F.conv2d(features, tap.weight, tap.bias))
    assert tap.weight.shape == (2, 8, 1, 1)


class Tokens(nn.Module):
    """Patches as tokens behind one class token, and a linear layer over all of them."""

    def __init__(self, classes=4):
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, 4)
        self.first = nn.Parameter(torch.ones(1, 1, 8))
        self.last = nn.Linear(8, classes)

    def forward(self, images):
        maps = self.patches(images)
        tokens = torch.cat([self.first.expand(len(maps), -1, -1), maps.flatten(2).mT], 1)
        said = self.last(tokens.relu())[:, 1:].mT.unflatten(2, maps.shape[-2:])
        return F.interpolate(said, images.shape[-2:], mode="bilinear")


def test_a_linear_layer_over_tokens_is_a_classifier():
    foreign = Tokens().eval()
    network = adapt(foreign).eval()

    assert (network.probe.kind, network.probe.features) == ("linear", 8)
    assert network.probe.sizes.startswith("multiples of 4")
    logits, features, _ = network(torch.rand(2, 3, 24, 40))
    assert logits.shape == (2, 4, 6, 10)
    tap = network.classifier
    torch.testing.assert_close(logits, F.conv2d(features, tap.weight, tap.bias))


def test_the_variance_through_a_linear_layer_is_that_of_a_1x1_convolution():
    network = adapt(Tokens())
    images, labels = torch.rand(2, 3, 24, 40), torch.randint(0, 4, (2, 6, 10))
    features = network(images).features
    covariance = ClassCovariance(4, 8, "full")
    covariance.update(features.detach(), labels)

    variance = covariance.logit_variance(network.classifier.weight, labels)

    weight = network.network.last.weight
    expected = torch.einsum("cd,yde,ce->yc", weight, covariance.value, weight)[labels]
    torch.testing.assert_close(variance, expected.movedim(-1, 1), rtol=1e-4, atol=1e-7)
    variance.sum().backward()
    assert weight.grad.abs().sum() > 0


def test_what_is_not_linear_per_position_is_named_as_the_reason():
    class Enlarging(Small):
        def __init__(self):
            super().__init__()
            self.last = nn.ConvTranspose2d(8, 4, 2, 2)

        def forward(self, images):
            return self.last(torch.relu(self.trunk(images)))

    assert "transposed convolution" in adapt(Enlarging()).opaque
    assert adapt(Small(groups=2)).opaque.startswith("its last layer last is not an ungrouped")


def test_deep_supervision_trains_all_its_outputs():
    class Deep(Small):
        def forward(self, images):
            features = torch.relu(self.trunk(images))
            said = [self.last(features), self.auxiliary(features)]
            return said if self.training else said[0]

    network = adapt(Deep()).train()
    auxiliary = network(torch.rand(2, 3, 32, 32)).auxiliary
    terms = TaskLoss(Task(), 4)(network(torch.rand(2, 3, 32, 32)), torch.zeros(2, 32, 32).long())

    assert [each.shape for each in auxiliary] == [(2, 4, 8, 8)]
    terms["auxiliary"].backward()
    assert network.network.auxiliary.weight.grad.abs().sum() > 0
    assert network.eval()(torch.rand(1, 3, 32, 32)).auxiliary is None


def test_grey_images_are_made_for_networks_that_take_one_channel():
    class Grey(Small):
        def __init__(self):
            super().__init__()
            self.trunk = nn.Conv2d(1, 8, 3, stride=4, padding=1)

    foreign = Grey().eval()
    network = adapt(foreign, mean=(0.5,), std=(0.25,)).eval()
    images = torch.rand(1, 3, 32, 32)

    grey = (images * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
    expected = foreign((grey - 0.5) / 0.25)
    said = F.interpolate(network(images).logits, (32, 32), mode="bilinear")
    torch.testing.assert_close(said, expected)


def test_what_a_network_does_behind_its_last_layer_is_kept():
    for behind in (
        lambda logits: logits.relu(),
        lambda logits: logits.index_fill(1, torch.tensor(1), -torch.inf),
    ):
        foreign = Small().eval()
        alone = foreign.forward
        foreign.forward = lambda x, alone=alone, behind=behind: behind(alone(x))
        images = torch.rand(1, 3, 32, 32)
        network = adapt(foreign, mean=(0.5,) * 3, std=(0.25,) * 3).eval()
        found = F.interpolate(network(images).logits, (32, 32), mode="nearest")
        assert torch.equal(found.argmax(1), foreign((images - 0.5) / 0.25).argmax(1))


@pytest.mark.parametrize("std", [(0.2, 0.0, 0.2), (0.2, -1.0, 0.2), (0.2, float("nan"), 0.2)])
def test_images_are_divided_by_numbers_above_0(std):
    with pytest.raises(InputError, match="std of finite numbers above 0"):
        adapt(Small(), std=std)


def test_sixteen_bit_weights_are_computed_with_in_32_bits():
    network = adapt(Small().to(torch.bfloat16))

    assert network(torch.rand(1, 3, 32, 32)).logits.dtype == torch.float32
    assert any("16-bit" in remark for remark in network.remarks)


def test_a_network_with_an_attribute_of_a_modules_name_is_adapted():
    foreign = Small()
    foreign.__dict__["modules"] = ["mine"]

    assert adapt(foreign).classes == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classifier": "trunk"}, "'trunk' does not output the logits.* 'last' does"),
        ({"classifier": "nowhere"}, "the last ones are trunk, last, auxiliary"),
        ({"classes": 9}, "must have 9 classes, got 4"),
        ({"backbone": "stem"}, "no part 'stem'; it has trunk, last, auxiliary"),
        ({"mean": (0.5,)}, "expected mean with 3 numbers"),
        ({"output": "scores"}, "must return logits at 'scores'"),
    ],
)
def test_misuse_is_explained(arguments, message):
    with pytest.raises(InputError, match=message):
        adapt(Small(), **arguments)


def test_networks_of_one_size_are_shown_images_at_that_size():
    class Fixed(Small):
        def forward(self, images):
            if images.shape[-2:] != (48, 48):
                raise ValueError("48 pixels wanted")
            return super().forward(images)

    with pytest.raises(InputError, match="first with '48 pixels wanted'; give the side"):
        adapt(Fixed())
    foreign = Fixed().eval()
    network = adapt(foreign, side=48).eval()
    images = torch.rand(1, 3, 70, 101)
    small = F.interpolate(network.normalize(images), (48, 48), mode="bilinear", antialias=True)
    said = F.interpolate(network(images).logits, (48, 48), mode="bilinear")
    torch.testing.assert_close(said, foreign(small), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("size", "resized"), [((40, 52), False), ((37, 50), True)])
def test_images_are_padded_where_logits_can_be_cropped_and_resized_elsewhere(size, resized):
    class Multiple(Small):
        def forward(self, images):
            if images.shape[-1] % 16 or images.shape[-2] % 16:
                raise ValueError("multiples of 16 wanted")
            return self.last(torch.relu(self.trunk(images)))

    foreign = Multiple().eval()
    network = adapt(foreign).eval()
    images = torch.rand(1, 3, *size)
    shown = network.normalize(images)
    wide = F.pad(shown, (0, 64 - size[1], 0, 48 - size[0]))
    if resized:
        wide = F.interpolate(shown, (48, 64), mode="bilinear", antialias=True)
    expected = foreign(wide) if resized else foreign(wide)[..., :10, :13]

    logits, features, _ = network(images)

    torch.testing.assert_close(logits, expected)
    assert features.shape[-2:] == logits.shape[-2:]


def test_a_function_is_a_teacher():
    foreign = Small(answer="out").eval()
    teacher = adapt(Hidden(foreign), classes=4, mean=(0.0,) * 3, std=(1.0,) * 3)
    images = torch.rand(1, 3, 32, 32)

    prediction = teacher(images)

    assert isinstance(teacher, Adapted)
    assert torch.equal(prediction.logits, foreign(images)["out"])
    assert prediction.features is None
    assert teacher.classifier is None
    with pytest.raises(InputError, match="must have 3 classes, got 4"):
        adapt(foreign.forward, 3)
    assert adapt(foreign.forward, 4).probe.classifier == "parts.0.last"


def test_what_a_function_closes_over_is_not_changed_by_asking_it():
    foreign = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1)).train()
    before = foreign[0].running_mean.clone()
    teacher = adapt(lambda images: foreign(images), 4).eval()

    teacher(torch.rand(2, 3, 32, 32))

    assert torch.equal(foreign[0].running_mean, before)
    assert not foreign.training


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (lambda images: None, "must return logits"),
        (lambda images: 3, "must return logits"),
        (lambda images: images.argmax(1), "got class ids only"),
        (nn.Identity(), "classes"),
        (7, "expected a network, got a int"),
    ],
)
def test_what_has_no_logits_is_refused(given, message):
    with pytest.raises(InputError, match=message):
        adapt(given, 4)


def test_a_state_dictionary_has_the_networks_own_names():
    foreign = Small()
    network = adapt(foreign)

    assert set(network.state_dict()) == set(foreign.state_dict())
    network.load_state_dict(Small().state_dict())
    nested = nn.Sequential(network)
    assert set(nested.state_dict()) == {f"0.{name}" for name in foreign.state_dict()}
    nested.load_state_dict(nested.state_dict())


def test_a_network_with_other_classes_gets_a_new_classifier_to_be_trained():
    foreign = torchvision.models.segmentation.fcn_resnet50(
        weights=None, weights_backbone=None, num_classes=3, aux_loss=True
    )
    network = adapt(foreign, 7, new_head=True).train()
    prediction = network(torch.rand(2, 3, 64, 64))

    assert network.classes == 7
    assert prediction.logits.shape[1] == prediction.auxiliary[0].shape[1] == 7
    assert any("replaced by a new one of 7" in remark for remark in network.remarks)


def test_class_scores_of_masks_are_sums_in_the_log_domain():
    draw = torch.Generator().manual_seed(0)
    queries = 20 * torch.randn(2, 7, 6, generator=draw)
    masks = 20 * torch.randn(2, 7, 4, 5, generator=draw)

    chances = queries.double().log_softmax(-1)[..., :-1]
    covered = F.logsigmoid(masks.double())
    expected = (chances[:, :, :, None, None] + covered[:, :, None]).logsumexp(1)

    scores = class_scores(queries, masks)
    torch.testing.assert_close(scores.double(), expected, rtol=1e-5, atol=1e-4)


def test_what_torchvisions_weights_say_is_taken(monkeypatch):
    name = "deeplabv3_mobilenet_v3_large"
    module = torchvision.models.segmentation
    random = getattr(module, name)(weights=None, weights_backbone=None, aux_loss=True)
    kind = module.DeepLabV3_MobileNet_V3_Large_Weights
    monkeypatch.setattr(kind, "get_state_dict", lambda *_, **__: random.state_dict())
    word = f"torchvision:{name}?weights=COCO_WITH_VOC_LABELS_V1"

    teacher, student = open_network(word, 12), open_network(word, 12, trained=True)

    assert (teacher.classes, student.classes) == (21, 12)
    assert teacher.class_names[1] == "aeroplane"
    assert "the transforms of" in teacher.probe.told_by
    assert student.class_names is None
    assert teacher.remarks == ()


def test_what_an_encoder_of_smp_was_trained_with_is_taken():
    pytest.importorskip("segmentation_models_pytorch")
    network = open_network("smp:FPN?encoder_name=tu-mobilevitv2_050", 12, trained=True)

    assert network.probe.mean == (0.0, 0.0, 0.0)
    assert network.probe.told_by == "its encoder's preprocessing parameters"
    assert network.remarks == ("all its weights are initialised randomly; see encoder_weights",)
