import collections
import hashlib
import os
import pickle
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fakd.errors import InputError
from fakd.models import (
    PUBLISHED,
    deeplabv3plus,
    export_mmseg,
    fcn_hrnet,
    import_mmseg,
    isanet,
    load,
    load_mmseg,
    pspnet,
    read_info,
    to_mmseg,
)
from fakd.models.backbones import PAPER
from fakd.models.mmseg.renaming import from_mmseg, to_mmseg_names

NETWORKS = [
    (pspnet, "resnet101"),
    (fcn_hrnet, "hrnet_w48"),
    (deeplabv3plus, "resnet101"),
    (isanet, "resnet101"),
    (pspnet, "resnet18"),
    (pspnet, "resnet18b"),
    (fcn_hrnet, "hrnet_w18s"),
    (deeplabv3plus, "mobilenetv2"),
    (isanet, "resnet18"),
]
SMALL = [network for network in NETWORKS if network[1] not in ("resnet101", "hrnet_w48")]


def drawn(network):
    torch.manual_seed(0)
    for name, value in network.state_dict().items():
        if value.is_floating_point() and value.ndim == 1:
            value.uniform_(0.5, 1.5) if "running_mean" not in name else value.normal_()
    return network.eval()


@pytest.fixture(scope="module")
def network():
    return drawn(pspnet("resnet18b", 5))


@pytest.fixture(scope="module")
def state(network):
    return to_mmseg(network)


@pytest.mark.parametrize(("builder", "backbone"), NETWORKS)
def test_renaming_is_reversible_and_complete(builder, backbone):
    with torch.device("meta"):
        ours = builder(backbone, 19).state_dict()
    theirs = to_mmseg_names(ours, backbone)

    assert list(from_mmseg(theirs, backbone)) == list(ours)
    assert len(theirs) == len(ours)
    assert not any("conv_pw" in name or ".blocks." in name for name in theirs)


@pytest.mark.parametrize(
    ("backbone", "theirs", "ours"),
    [
        ("resnet101", "stem.0.weight", "conv1.0.weight"),
        ("resnet18", "stem.1.running_mean", "conv1.1.running_mean"),
        ("resnet18", "stem.6.weight", "conv1.6.weight"),
        ("resnet18", "stem.7.bias", "bn1.bias"),
        ("resnet18", "layer3.0.downsample.1.weight", "layer3.0.downsample.1.weight"),
        ("resnet18b", "conv1.weight", "conv1.weight"),
        ("resnet18b", "bn1.running_var", "bn1.running_var"),
        ("hrnet_w48", "stage2.0.fuse_layers.0.1.0.weight", "stage2.0.fuse_layers.0.1.0.weight"),
        ("mobilenetv2", "conv1.conv.weight", "conv_stem.weight"),
        ("mobilenetv2", "conv1.bn.weight", "bn1.weight"),
        ("mobilenetv2", "layer1.0.conv.0.conv.weight", "blocks.0.0.conv_dw.weight"),
        ("mobilenetv2", "layer1.0.conv.0.bn.bias", "blocks.0.0.bn1.bias"),
        ("mobilenetv2", "layer1.0.conv.1.conv.weight", "blocks.0.0.conv_pw.weight"),
        ("mobilenetv2", "layer1.0.conv.1.bn.bias", "blocks.0.0.bn2.bias"),
        ("mobilenetv2", "layer2.1.conv.0.conv.weight", "blocks.1.1.conv_pw.weight"),
        ("mobilenetv2", "layer4.3.conv.1.conv.weight", "blocks.3.3.conv_dw.weight"),
        ("mobilenetv2", "layer7.0.conv.2.conv.weight", "blocks.6.0.conv_pwl.weight"),
        ("mobilenetv2", "layer7.0.conv.2.bn.running_var", "blocks.6.0.bn3.running_var"),
    ],
)
def test_rules_of_renaming(backbone, theirs, ours):
    tensor = torch.zeros(1)

    assert list(from_mmseg({f"backbone.{theirs}": tensor}, backbone)) == [f"backbone.{ours}"]
    assert list(to_mmseg_names({f"backbone.{ours}": tensor}, backbone)) == [f"backbone.{theirs}"]
    assert list(from_mmseg({f"decode_head.{theirs}": tensor}, backbone)) == [
        f"decode_head.{theirs}"
    ]


@pytest.mark.parametrize(("builder", "backbone"), SMALL)
def test_networks_are_recognised_from_their_entries(builder, backbone):
    network = drawn(builder(backbone, 7, channels=24))
    images = torch.rand(1, 3, 32, 32)

    again = load_mmseg({"state_dict": to_mmseg(network), "meta": {}})

    assert again.config["class_path"] == network.config["class_path"]
    assert again.classes == 7
    assert not again.training
    with torch.no_grad():
        assert torch.equal(again(images).logits, network(images).logits)


@pytest.mark.slow
@pytest.mark.parametrize(("builder", "backbone"), [n for n in NETWORKS if n not in SMALL])
def test_teachers_are_recognised_from_their_entries(builder, backbone):
    again = load_mmseg(to_mmseg(builder(backbone, 7)))

    assert again.config["init_args"]["backbone"] == backbone


def test_prefix_of_parallel_training_is_dropped(state, network):
    again = load_mmseg({f"module.{name}": value for name, value in state.items()})

    assert torch.equal(again.classifier.weight, network.classifier.weight)


@pytest.mark.parametrize(
    "meta",
    [
        {"CLASSES": ("a", "b ", "c", "d", "e"), "PALETTE": [[i, 0, 255] for i in range(5)]},
        {
            "dataset_meta": {
                "classes": ["a", "b", "c", "d", "e"],
                "palette": np.array([[i, 0, 255] for i in range(5)]).tolist(),
            }
        },
    ],
)
def test_names_and_colours_come_along(state, meta):
    network = load_mmseg({"state_dict": state, "meta": meta})

    assert network.class_names == ("a", "b", "c", "d", "e")
    assert network.palette[4] == (4, 0, 255)


@pytest.mark.parametrize("meta", [None, {}, {"CLASSES": ("too", "few"), "PALETTE": None}])
def test_useless_names_are_left_out(state, meta):
    network = load_mmseg({"state_dict": state, "meta": meta})

    assert network.class_names is None
    assert network.palette is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("backbone.layer2.0.bn1.weight"), "missing backbone.layer2.0.bn1.weight"),
        (lambda s: s.update(surprise=torch.zeros(1)), "unexpected surprise"),
        (
            lambda s: s.update({"backbone.conv1.weight": torch.zeros(1, 2)}),
            r"backbone.conv1.weight \(1, 2\) instead of \(64, 3, 7, 7\)",
        ),
        (lambda s: s.pop("decode_head.conv_seg.weight"), "with decode_head.conv_seg.weight"),
        (lambda s: s.update(text="no tensor"), "must hold a state dictionary"),
        (lambda s: s.clear(), "must hold a state dictionary"),
    ],
)
def test_misfits_are_named(state, change, message):
    state = dict(state)
    change(state)

    with pytest.raises(InputError, match=message) as error:
        load_mmseg(state)
    assert "\n" not in str(error.value)


def test_other_networks_are_refused():
    state = {"backbone.patch_embed.weight": torch.zeros(1), "decode_head.x.weight": torch.zeros(1)}

    with pytest.raises(InputError, match="must hold PSPNet, DeepLabV3"):
        load_mmseg(state)
    with pytest.raises(InputError, match="for mmsegmentation, got timm/resnet18"):
        to_mmseg(pspnet("timm/resnet18", 3))


def write(path, content, *, zipped=True):
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path


def test_digits_in_the_name_are_checked(state, tmp_path):
    path = write(tmp_path / "plain.pth", {"state_dict": state})
    digits = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    good = path.rename(tmp_path / f"pspnet_20201226_063116-{digits}.pth")

    assert load_mmseg(good).classes == load(good).classes == 5
    bad = good.rename(tmp_path / "pspnet_20201226_063116-26928a60.pth")
    with pytest.raises(InputError, match=f"26928a60.*got {digits}"):
        load_mmseg(bad)
    with pytest.raises(InputError, match="does not exist"):
        load_mmseg(tmp_path / "nothing.pth")


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_of_torch_save_is_told_by_what_it_holds(state, tmp_path, zipped):
    for name in ("best.pth", "last.ckpt", "net.pt", "net.bin", "epoch.pth.tar"):
        assert load(write(tmp_path / name, {"state_dict": state}, zipped=zipped)).classes == 5


@pytest.mark.parametrize(("name", "aligned"), [("x_769x769_y.pth", True), ("x_512x512.pth", False)])
def test_alignment_is_in_the_name_of_the_recipe(state, tmp_path, name, aligned):
    network = load_mmseg(write(tmp_path / name, state))

    assert network.align_corners == network.decode_head.align_corners == aligned
    assert network.origin["init_args"]["source"] == str(tmp_path / name)
    assert not load_mmseg(tmp_path / name, align_corners=False).align_corners


@pytest.fixture
def framework(monkeypatch):
    """A training framework that is there when a file is written and gone when it is read."""
    names = ("mmcv", "mmcv.utils", "mmcv.utils.config")
    modules = {name: types.ModuleType(name) for name in names}

    class Config(dict):
        pass

    class Buffer:
        def __init__(self):
            self.values = [1, 2]

    for kind in Config, Buffer:
        kind.__module__, kind.__qualname__ = names[-1], kind.__name__
        setattr(modules[names[-1]], kind.__name__, kind)
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    yield modules[names[-1]]
    assert not any(name in sys.modules for name in names)


@pytest.mark.parametrize("zipped", [True, False])
def test_what_frameworks_put_beside_the_weights_is_inert(state, tmp_path, framework, zipped):
    content = {
        "state_dict": collections.OrderedDict(state),
        "meta": {
            "CLASSES": tuple("abcde"),
            "config": framework.Config(model={"type": "EncoderDecoder"}),
            "history": framework.Buffer(),
            "best": np.float64(0.5),
            "scores": np.arange(3.0),
            "text": "model = dict(type='EncoderDecoder')",
        },
        "optimizer": {"state": {}, "param_groups": [{"lr": 0.01}]},
    }
    path = write(tmp_path / "old.pth", content, zipped=zipped)
    for name in ("mmcv.utils.config", "mmcv.utils", "mmcv"):
        del sys.modules[name]

    assert load_mmseg(path).class_names == tuple("abcde")


class Harmful:
    def __init__(self, target):
        self.target = str(target)

    def __reduce__(self):
        return os.mkdir, (self.target,)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("place", ["meta", "state_dict"])
def test_code_is_refused_and_not_run(state, tmp_path, zipped, place):
    content = {"state_dict": dict(state), "meta": {}}
    content[place]["harm"] = Harmful(tmp_path / "made")
    path = write(tmp_path / "harmful.pth", content, zipped=zipped)

    with pytest.raises(InputError, match=r"posix\.mkdir', which was not run"):
        load_mmseg(path)
    assert not (tmp_path / "made").exists()


def test_the_bare_pickle_of_old_files_is_refused_too(tmp_path):
    path = tmp_path / "bare.pth"
    path.write_bytes(pickle.dumps(Harmful(tmp_path / "made")))

    with pytest.raises(InputError):
        load_mmseg(path)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04broken"])
def test_damaged_files_are_refused(tmp_path, content):
    (tmp_path / "x.pth").write_bytes(content)

    with pytest.raises(InputError) as error:
        load_mmseg(tmp_path / "x.pth")
    assert "\n" not in str(error.value)


def test_modules_are_refused(tmp_path):
    with pytest.raises(InputError, match="which was not run"):
        load_mmseg(write(tmp_path / "x.pth", nn.Conv2d(1, 1, 1)))


def test_conversion_there_and_back(state, tmp_path):
    palette = [[i, 0, 255] for i in range(5)]
    meta = {"CLASSES": list("abcde"), "PALETTE": palette}
    source = write(tmp_path / "their.pth", {"state_dict": state, "meta": meta})

    import_mmseg(source, tmp_path / "ours.safetensors")
    export_mmseg(tmp_path / "ours.safetensors", tmp_path / "again.pth")

    information = read_info(tmp_path / "ours.safetensors")
    assert information.class_names == tuple("abcde")
    assert information.palette[1] == (1, 0, 255)
    assert information.extra == {"source": "their.pth"}
    assert load(tmp_path / "ours.safetensors").classes == 5
    again = torch.load(tmp_path / "again.pth", weights_only=True)
    assert list(again["state_dict"]) == list(state)
    assert all(torch.equal(again["state_dict"][name], value) for name, value in state.items())
    assert again["meta"]["CLASSES"] == list("abcde")
    assert again["meta"]["PALETTE"] == palette


def test_published_table():
    files = {published.file for published in PUBLISHED}
    paper = [published for published in PUBLISHED if published.paper]

    assert len(files) == len(PUBLISHED) == 45
    assert len(paper) == 15
    assert "pspnet_r101-d8_512x512_160k_ade20k_20200615_100650-967c316f.pth" in files
    teacher = next(p for p in PUBLISHED if p.recipe == "isanet_r101-d8_512x512_160k_ade20k")
    assert teacher.paper == (43.80, 54.39)
    assert (teacher.miou, teacher.miou_augmented) == (43.80, 45.40)
    site = "https://download.openmmlab.com/mmsegmentation/v0.5"
    urls = {published.recipe: published.url for published in PUBLISHED}
    assert urls["fcn_hr18s_512x512_80k_ade20k"] == (
        f"{site}/hrnet/fcn_hr18s_512x512_80k_ade20k/"
        "fcn_hr18s_512x512_80k_ade20k_20200614_144345-77fc814a.pth"
    )
    mobile = urls["deeplabv3plus_m-v2-d8_512x512_160k_ade20k"]
    assert mobile.startswith(f"{site}/mobilenet_v2/")


def test_files_of_imagenet_classifiers_are_renamed(tmp_path):
    """The files mmsegmentation itself starts its students from."""
    bare = pspnet("resnet18", 3)
    prefix = "backbone."
    stem = {k.removeprefix(prefix): v for k, v in to_mmseg(drawn(bare)).items() if prefix in k}
    stem |= {"fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}
    mobile = to_mmseg(drawn(deeplabv3plus("mobilenetv2", 3, channels=8)))
    mobile = {k: v for k, v in mobile.items() if k.startswith(prefix)}
    mobile |= {"backbone.conv2.conv.weight": torch.zeros(1), "head.fc.bias": torch.zeros(1000)}

    first = pspnet("resnet18", 3, weights=write(tmp_path / PAPER["resnet18"].file, stem))
    path = write(tmp_path / PAPER["mobilenetv2"].file, {"state_dict": mobile, "meta": {}})
    second = pspnet("mobilenetv2", 3, weights=path)

    assert torch.equal(first.backbone.bn1.bias, stem["stem.7.bias"])
    expected = mobile["backbone.layer4.1.conv.1.conv.weight"]
    assert torch.equal(second.backbone.blocks[3][1].conv_dw.weight, expected)
    assert isinstance(path, Path)
