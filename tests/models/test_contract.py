"""What every network of this package promises, whatever its head."""

import pytest
import torch
from torch import nn

from fakd.models import adapt, deeplabv3plus, fcn_hrnet, hypercolumns, isanet, load, pspnet, save

BUILDERS = {
    "pspnet": lambda: pspnet("resnet18", 7),
    "pspnet-lite": lambda: pspnet("tf_efficientnet_lite0", 7, channels=32),
    "deeplabv3plus": lambda: deeplabv3plus("mobilenetv2", 7, channels=32, detail=8),
    "isanet": lambda: isanet("resnet18", 7, channels=32, attention_channels=16),
    "fcn_hrnet": lambda: fcn_hrnet("hrnet_w18s", 7),
    "hypercolumns": lambda: hypercolumns("tf_efficientnet_lite0", 7, strides=(4, 8, 16)),
}


@pytest.fixture(scope="module", params=BUILDERS)
def network(request):
    torch.manual_seed(0)
    return BUILDERS[request.param]()


@pytest.mark.parametrize("size", [(32, 32), (97, 113)])
def test_logits_are_the_classifier_of_the_features(network, size):
    network.eval()

    with torch.no_grad():
        logits, features, auxiliary = network(torch.rand(1, 3, *size))
        weight, bias = network.classifier.weight[:, :, 0, 0], network.classifier.bias
        expected = torch.einsum("kc,bcij->bkij", weight, features) + bias.view(-1, 1, 1)

    scale = max(1.0, expected.abs().max().item())
    torch.testing.assert_close(logits, expected, rtol=0, atol=2e-6 * scale)
    stride = 4 if logits.shape[-1] > size[1] // 8 + 1 else 8
    assert logits.shape == (1, 7, *(-(-side // stride) for side in size))
    assert (auxiliary is None) == (network.auxiliary_head is None)


def test_training_drops_feature_channels_before_the_classifier(network):
    network.train()
    torch.manual_seed(0)

    logits, features, auxiliary = network(torch.rand(2, 3, 64, 64))

    assert torch.equal(logits, network.classifier(features))
    if network.auxiliary_head is None:
        assert auxiliary is None
    else:
        assert auxiliary.shape == (2, 7, 8, 8)
        dropout = network.decode_head.dropout
        assert isinstance(dropout, nn.Dropout2d)
        assert dropout.p == 0.1


def test_dropped_channels_are_visible_in_the_features():
    network = pspnet("resnet18", 3, dropout=0.5).train()
    torch.manual_seed(0)

    features = network(torch.rand(2, 3, 64, 64)).features

    silent = (features == 0).all(dim=(2, 3)).float().mean()
    assert 0.3 < silent < 0.8


def test_names_of_the_state(network):
    prefixes = {name.split(".")[0] for name in network.state_dict()}

    assert prefixes - {"auxiliary_head"} == {"backbone", "decode_head"}
    assert ("auxiliary_head" in prefixes) == (network.auxiliary_head is not None)


def test_config_and_file_rebuild_the_network(network, tmp_path):
    save(network, tmp_path / "network.safetensors", class_names=None, palette=None)
    network.eval()
    images = torch.rand(1, 3, 40, 48)

    again = load(tmp_path / "network.safetensors")

    assert "weights" not in network.config["init_args"]
    assert again.config == network.config
    with torch.no_grad():
        assert torch.equal(again(images).logits, network(images).logits)


def test_normalisation_can_be_taken_out(network):
    network.eval()
    images = torch.rand(1, 3, 32, 32)
    normalize = network.normalize

    with torch.no_grad():
        expected = network(images).logits
        network.normalize = nn.Identity()
        bare = network(normalize(images)).logits
    network.normalize = normalize

    assert torch.equal(bare, expected)


def test_adapt_returns_a_segmenter_as_it_is(network):
    assert adapt(network) is network
