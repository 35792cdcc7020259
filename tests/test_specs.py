"""Whatever was built can be named, saved and built again; a file has nothing else imported."""

import sys

import pytest
import torch
from torch import nn

import fakd
from fakd import imports, specs
from fakd.errors import InputError
from fakd.models import adapt, pspnet, save

MINE = """
import torch
from torch import nn
from torch.nn import functional as F

class Net(nn.Module):
    def __init__(self, classes, width=4):
        super().__init__()
        self.trunk = nn.Conv2d(3, width, 3, 4, padding=1)
        self.last = nn.Conv2d(width, classes, 1)

    def forward(self, images):
        logits = self.last(self.trunk(images).relu())
        return F.interpolate(logits, images.shape[-2:], mode="bilinear")

def net(classes: int, width: int = 4) -> nn.Module:
    return Net(classes, width)
"""
IMAGES = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A user's own module on the path, which nobody has allowed yet."""
    (tmp_path / "my_networks.py").write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_networks", raising=False)
    return "my_networks.net"


def saved(network, path):
    save(network.eval(), path, class_names=None, palette=None)
    return path


def same(first, second):
    with torch.no_grad():
        return torch.equal(first.eval()(IMAGES).logits, second.eval()(IMAGES).logits)


SEGFORMER = specs.make_spec(
    "transformers.SegformerConfig",
    depths=[1, 1, 1, 1],
    hidden_sizes=[8, 8, 16, 16],
    num_attention_heads=[1, 1, 2, 2],
    decoder_hidden_size=16,
)
FOREIGN = {
    "fcn": specs.make_spec("torchvision.models.segmentation.fcn_resnet50", weights_backbone=None),
    "deeplab": specs.make_spec(
        "torchvision.models.segmentation.deeplabv3_mobilenet_v3_large",
        weights_backbone=None,
        aux_loss=True,
    ),
    "smp": specs.make_spec(
        "segmentation_models_pytorch.Unet", encoder_name="resnet18", encoder_weights=None
    ),
    "segformer": specs.make_spec("transformers.SegformerForSemanticSegmentation", config=SEGFORMER),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_networks_of_known_libraries_are_built_again_unasked(name, tmp_path):
    spec = FOREIGN[name]
    pytest.importorskip(spec["class_path"].partition(".")[0])
    network = adapt(specs.build(spec, classes=5), mean=(0.5, 0.5, 0.5))
    assert network.classes == 5
    again = fakd.load(saved(network, tmp_path / "network.safetensors"))
    assert same(again, network)
    assert again.config == network.config
    assert again.config["class_path"] == "fakd.models.adapt"
    assert again.config["init_args"]["classifier"] == network.probe.classifier


def test_what_a_file_names_starts_from_nothing():
    spec = FOREIGN["fcn"] | {"init_args": {}}
    written = specs.architecture(spec)["init_args"]
    assert written == {"weights": None, "weights_backbone": None}


def test_a_users_own_network_is_built_again_when_allowed(mine, tmp_path):
    network = adapt(specs.build(specs.make_spec(mine, width=6), classes=3))
    file = saved(network, tmp_path / "network.safetensors")
    # Whoever named it in this process has allowed it.
    assert same(fakd.load(file), network)
    imports._allowed.clear()
    with pytest.raises(
        InputError, match=r"my_networks.net.*network=.*allow='my_networks.net'"
    ) as e:
        fakd.load(file)
    assert "\n" not in str(e.value)
    assert same(fakd.load(file, network=adapt(specs.import_object(mine)(3, 6))), network)
    imports._allowed.clear()
    assert same(fakd.load(file, allow="my_networks"), network)


def test_a_users_own_segmenter_is_named_as_it_was_built(mine, tmp_path):
    (tmp_path / "my_networks.py").write_text(
        "import fakd\n"
        "def small(classes: int) -> fakd.Segmenter:\n"
        "    return fakd.models.pspnet('mobilenetv3_small_050', classes, channels=8)\n"
    )
    network = specs.build(specs.make_spec("my_networks.small"), classes=3)
    assert network.config == specs.make_spec("my_networks.small", classes=3)
    file = saved(network, tmp_path / "network.safetensors")
    assert same(fakd.load(file), network)
    imports._allowed.clear()
    with pytest.raises(InputError, match=r"my_networks\.small"):
        fakd.load(file)
    fakd.specs.allow("my_networks")
    assert same(fakd.load(file), network)


def test_a_file_has_nothing_imported_unasked(mine, tmp_path):
    network = pspnet("mobilenetv3_small_050", 3, channels=8)
    nested = specs.make_spec("fakd.models.adapt", network=specs.make_spec(mine, classes=3))
    text = specs.make_spec("fakd.models.adapt", network=mine)
    library = specs.make_spec(
        "segmentation_models_pytorch.Unet", encoder_weights=None, activation=specs.make_spec(mine)
    )
    loading = specs.make_spec("fakd.models.load", path="elsewhere", allow="my_networks")
    for config in (specs.make_spec(mine, classes=3), nested, text, library, loading):
        network.config = config
        with pytest.raises(InputError):
            fakd.load(saved(network, tmp_path / "network.safetensors"))
        assert "my_networks" not in sys.modules
    with pytest.raises(InputError, match="which a file cannot"):
        specs.build(loading, asked_by="a recipe", ours=specs.OPENERS)


@pytest.mark.parametrize(
    "spec",
    [
        specs.make_spec("torchvision.models.segmentation.fcn_resnet50", weights="DEFAULT"),
        specs.make_spec("torchvision.datasets.utils.download_url", url="a", root="b"),
        specs.make_spec("timm.create_model", model_name="hf-hub:somebody/model"),
        specs.make_spec("timm.create_model", model_name="resnet18", pretrained=True),
        specs.make_spec("timm.models.load_checkpoint", model=None, checkpoint_path="x"),
        specs.make_spec("os.system", command="true"),
    ],
)
def test_a_file_may_ask_for_architectures_only(spec):
    with pytest.raises(InputError, match="it uses"):
        specs.build(spec, asked_by="it")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (specs.make_spec("fakd.models.psnet"), "no fakd.models.psnet; did you mean pspnet"),
        (specs.make_spec("nowhere.at.all"), "nowhere.at.all cannot be imported|No module"),
        (
            specs.make_spec("fakd.models.pspnet", bakbone="a"),
            "no it.bakbone; did you mean it.backb",
        ),
        (specs.make_spec("fakd.models.pspnet"), "needs backbone"),
        (specs.make_spec("fakd.losses.ChannelKL", strength="much"), "it.strength: expected float"),
        (
            specs.make_spec(
                "fakd.losses.WeightedSum", losses={"a": specs.make_spec("fakd.losses.B")}
            ),
            "there is no fakd.losses.B",
        ),
    ],
)
def test_mistakes_get_one_line(spec, message):
    with pytest.raises(InputError, match=message) as error:
        specs.check_spec(spec, "it", counted=True)
    assert "\n" not in str(error.value)


def test_values_become_what_the_signature_names():
    spec = specs.make_spec("fakd.data.scenes", size=[32, 48])
    assert specs.check_spec(spec, "data")["init_args"]["size"] == (32, 48)
    loaded = specs.check_spec(specs.make_spec("fakd.models.load", path=2024), "network")
    assert str(loaded["init_args"]["path"]) == "2024"


def test_what_was_built_from_objects_has_no_spec():
    made = specs.build(specs.make_spec("torch.nn.Sequential") | {"init_args": {}})
    assert specs.spec_of(made) == specs.make_spec("torch.nn.Sequential")
    objects = specs.make_spec("fakd.models.adapt", network=nn.Conv2d(3, 2, 1))
    assert specs.build(objects).config is None


def test_enumerations_are_written_by_name():
    spec = FOREIGN["fcn"] | {"init_args": {"weights_backbone": "IMAGENET1K_V1"}}
    converted = specs.check_spec(spec, "network", counted=True)
    assert converted["init_args"]["weights_backbone"].name == "IMAGENET1K_V1"
    assert specs.to_plain(converted)["init_args"]["weights_backbone"] == "IMAGENET1K_V1"


def test_parameter_groups_name_backbone_and_head(mine):
    network = pspnet("mobilenetv3_small_050", 3, channels=8)
    groups = network.parameter_groups()
    assert list(groups) == ["backbone", "head"]
    assert [id(p) for p in groups["backbone"]] == [id(p) for p in network.backbone.parameters()]
    assert sum(map(len, groups.values())) == len(list(network.parameters()))
    foreign = specs.import_object(mine)(3)
    groups = adapt(foreign).parameter_groups()
    assert groups["head"] == list(foreign.last.parameters())
    assert groups["backbone"] == list(foreign.trunk.parameters())
    head = nn.Sequential(foreign.trunk, nn.Conv2d(4, 4, 1), foreign.last)
    assert len(adapt(head, backbone="0").parameter_groups()["head"]) == 4
    with pytest.raises(InputError, match="no part 'trunk'; it has 0, 1, 2"):
        adapt(head, backbone="trunk")
