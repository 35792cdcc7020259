"""The first stages of a backbone, joined at the finest stride."""

import pytest
import timm
import torch

from fakd.errors import InputError
from fakd.models import hypercolumns, load, save
from fakd.models.backbones import find_architecture
from fakd.models.weights import find_package

LITE = "tf_efficientnet_lite0"


@pytest.mark.parametrize("backbone", [LITE, "mobilenetv3_small_050", "resnet10t"])
@pytest.mark.parametrize("strides", [(2, 4, 8), (4, 16)])
def test_nothing_is_kept_that_the_logits_do_not_depend_on(backbone, strides):
    network = hypercolumns(backbone, 5, strides=strides, channels=8)
    answer = network(torch.rand(2, 3, 32, 64))
    assert answer.logits.shape == (2, 5, 32 // strides[0], 64 // strides[0])
    assert answer.features.shape[1] == 8
    torch.testing.assert_close(network.classifier(answer.features), answer.logits)
    answer.logits.square().sum().backward()
    assert all(weight.grad is not None for weight in network.parameters())


def test_the_stages_are_those_of_the_whole_backbone():
    network = hypercolumns(LITE, 5, strides=(4, 8)).eval()
    whole = timm.create_model(LITE, features_only=True, out_indices=(1, 2)).eval()
    whole.load_state_dict(network.backbone.state_dict(), strict=False)
    images = torch.rand(1, 3, 64, 64)
    for ours, theirs in zip(network.backbone(images), whole(images), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("strides", [(), (4, 2), (2, 2), (3,), (64,)])
def test_strides_that_the_backbone_does_not_have_are_refused(strides):
    with pytest.raises(
        InputError, match=r"strides must be some of 2, 4, 8, 16, 32, fine to coarse"
    ):
        hypercolumns(LITE, 5, strides=strides)


@pytest.mark.skipif(find_package(find_architecture(LITE)) is None, reason="needs ImageNet weights")
def test_imagenet_weights_go_in_up_to_the_coarsest_stage(tmp_path):
    network = hypercolumns(LITE, 5, strides=(2, 8), weights="imagenet").eval()
    plain = hypercolumns(LITE, 5, strides=(2, 8)).eval()
    weights = network.backbone.conv_stem.weight
    assert not torch.equal(weights, plain.backbone.conv_stem.weight)
    save(network, tmp_path / "n.safetensors", class_names=None, palette=None)
    again = load(tmp_path / "n.safetensors")
    images = torch.rand(1, 3, 32, 32)
    assert torch.equal(again(images).logits, network(images).logits)
