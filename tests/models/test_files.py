import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from fakd.errors import InputError
from fakd.models import adapt, load, pspnet, read_info, save
from fakd.models.normalize import LITE_MEAN, LITE_STD, Normalize

NAMES = ("sky", "road", "car")
PALETTE = ((0, 0, 0), (128, 64, 128), (0, 0, 142))


@pytest.fixture
def network():
    return pspnet("mobilenetv3_small_050", 3, channels=16).eval()


@pytest.fixture
def file(network, tmp_path):
    path = tmp_path / "network.safetensors"
    save(network, path, class_names=NAMES, palette=PALETTE, extra={"mIoU": 61.5})
    return path


def test_information_survives(network, file):
    information = read_info(file)

    assert information.class_names == NAMES
    assert information.palette == PALETTE
    assert information.config == network.config
    assert information.extra == {"mIoU": 61.5}
    assert information.mean == pytest.approx((0.485, 0.456, 0.406))
    again = load(file)
    assert again.class_names == NAMES
    assert again.palette == PALETTE
    assert not again.training


def test_writing_twice_gives_the_same_bytes(network, file, tmp_path):
    save(network, tmp_path / "b.st", class_names=NAMES, palette=PALETTE, extra={"mIoU": 61.5})

    assert (tmp_path / "b.st").read_bytes() == file.read_bytes()


@pytest.mark.parametrize("normalize", [Normalize(LITE_MEAN, LITE_STD), nn.Identity()])
def test_normalisation_travels_with_the_weights(network, tmp_path, normalize):
    network.normalize = normalize
    images = torch.rand(1, 3, 32, 32)

    save(network, tmp_path / "n.safetensors", class_names=None, palette=None)
    again = load(tmp_path / "n.safetensors")

    with torch.no_grad():
        assert torch.equal(again(images).logits, network(images).logits)


def test_a_run_folder_holds_its_best(file):
    file.rename(file.with_name("best.safetensors"))

    assert load(file.parent).classes == 3
    assert read_info(file.parent).class_names == NAMES


def test_network_given_by_the_user(tmp_path):
    class Foreign(nn.Sequential):
        pass

    network = adapt(Foreign(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 1)))
    other = adapt(Foreign(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 1)))
    path = tmp_path / "foreign.safetensors"
    save(network, path, class_names=NAMES, palette=None)
    images = torch.rand(1, 3, 16, 16)

    with pytest.raises(InputError, match=r"load\(path, network=...\)"):
        load(path)
    assert torch.equal(load(path, other)(images).logits, network(images).logits)


def test_weights_of_another_network_are_named_and_not_copied(file):
    other = pspnet("mobilenetv3_small_050", 5, channels=16)
    before = other.classifier.bias.clone()

    with pytest.raises(InputError, match="checkpoint of another network") as error:
        load(file, other)

    assert "decode_head.conv_seg.weight (3, 16, 1, 1) instead of (5, 16, 1, 1)" in str(error.value)
    assert torch.equal(other.classifier.bias, before)
    with pytest.raises(InputError, match=r"missing .* unexpected"):
        load(file, pspnet("resnet18", 3))


@pytest.mark.parametrize(
    "config",
    [
        {"class_path": "os.system", "init_args": {"command": "true"}},
        {"class_path": "fakd.models.save", "init_args": {"path": "x"}},
        {"class_path": "fakd.models.files.load", "init_args": {}},
        {"class_path": "fakd.models.pspnet", "init_args": {"surprise": 1}},
        None,
    ],
)
def test_a_file_cannot_ask_for_anything_but_a_network(network, tmp_path, config):
    network.config = config
    save(network, tmp_path / "n.safetensors", class_names=None, palette=None)

    with pytest.raises(InputError, match="must specify"):
        load(tmp_path / "n.safetensors")


def test_a_file_cannot_name_other_files(network, tmp_path):
    network.config["init_args"]["weights"] = "/etc/passwd"
    save(network, tmp_path / "n.safetensors", class_names=None, palette=None)

    with pytest.raises(InputError, match="must specify how to build"):
        load(tmp_path / "n.safetensors")


def test_missing_and_strange_files_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"run folder with best.safetensors"):
        load(tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        load(tmp_path / "teacher.pth")
    with pytest.raises(InputError, match="import_mmseg"):
        read_info(tmp_path / "teacher.pth")
    with pytest.raises(InputError, match="check the path"):
        load(tmp_path / "nothing.safetensors")
    (tmp_path / "text.safetensors").write_text("not one")
    with pytest.raises(InputError, match="damaged or of another format"):
        load(tmp_path / "text.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "plain.safetensors")
    with pytest.raises(InputError, match="lacks its metadata"):
        load(tmp_path / "plain.safetensors")
    metadata = {"fakd": json.dumps({"format": 99})}
    save_file({"a": torch.zeros(1)}, tmp_path / "new.safetensors", metadata=metadata)
    with pytest.raises(InputError, match="must have format 1, got 99"):
        load(tmp_path / "new.safetensors")


def test_names_must_match_the_classes(network, tmp_path):
    with pytest.raises(InputError, match="3 classes, got 2"):
        save(network, tmp_path / "n.safetensors", class_names=("a", "b"), palette=None)
