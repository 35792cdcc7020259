"""A network as a folder: it loads without a network, and its card says what is known."""

import json
import os
import socket
import stat

import huggingface_hub
import pytest
import torch

import fakd
from fakd import sharing
from fakd.errors import InputError
from fakd.files import parse_yaml, replace_folder
from fakd.models import pspnet, save
from made_up_runs import CLASSES

IMAGES = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
PALETTE = tuple((i, i, i) for i in range(5))
OWN = """
import torch
class Net(torch.nn.Module):
    def __init__(self, classes=5, width=8):
        super().__init__()
        self.stem = torch.nn.Conv2d(3, width, 3, padding=1, stride=4)
        self.head = torch.nn.Conv2d(width, classes, 1)
    def forward(self, images):
        return self.head(self.stem(images).relu())
def net(classes, width=8):
    return Net(classes, width)
"""


@pytest.fixture(autouse=True)
def no_sockets(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    # What is asked of a hub by others, such as how an encoder of smp normalises.
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


@pytest.fixture
def student():
    torch.manual_seed(0)
    return pspnet("mobilenetv3_small_050", 5, channels=16).eval()


def same(one, other):
    with torch.no_grad():
        return torch.equal(one(IMAGES).logits, other(IMAGES).logits)


@pytest.fixture
def finished(made_up, student):
    """One of six runs of a grid, with weights."""
    for seed in range(3):
        made_up.in_grid("alone", seed, [0.8, 0.7, 0.6, 0.5, 0.4])
        folder = made_up.in_grid("cwd", seed, [0.9, 0.8, 0.7, 0.6, 0.5])
    save(
        student,
        folder / "best.safetensors",
        class_names=CLASSES,
        palette=PALETTE,
        extra={"miou": 1.0, "inference": {"flip": True}},
    )
    return folder


def test_a_run_is_shared_with_all_that_is_known(finished, student, tmp_path):
    folder = fakd.save_pretrained(finished, tmp_path / "shared", licence="apache-2.0")
    assert sorted(os.listdir(folder)) == ["README.md", "config.json", "model.safetensors"]
    back = fakd.from_pretrained(folder)
    assert same(back, student)
    assert not back.training
    assert back.class_names == CLASSES
    assert back.extra["inference"] == {"flip": True}
    facts = json.loads((folder / "config.json").read_text())
    final = json.loads((finished / "result.json").read_text())["final"]
    assert facts["scores"] == {"miou": 1.0, "step": 1000, "steps": 1000, "final": final}
    assert facts["verdict"].startswith("CWD")
    assert facts["data"] == {"name": "scenes", "fingerprint": "0"}
    text = (folder / "README.md").read_text()
    head, _, body = text.removeprefix("---\n").partition("---\n")
    assert parse_yaml(head)["license"] == "apache-2.0"
    assert parse_yaml(head)["library_name"] == "fakd"
    for said in (
        f"Verdict: {facts['verdict']}",
        "the teacher's was 80.00",
        f"| road | {final['classes']['road']['iou']:.2f} |",
        "fingerprint `0`",
        "- weights of the teacher: not known",
        "fakd.losses.ChannelKL",
    ):
        assert said in body


def test_scores_of_other_weights_are_left_out(finished, tmp_path):
    result = json.loads((finished / "result.json").read_text())
    result["best"] = {"miou": 1.0, "step": 500}
    (finished / "result.json").write_text(json.dumps(result))
    folder = fakd.save_pretrained(finished, tmp_path / "shared")
    assert "final" not in json.loads((folder / "config.json").read_text())["scores"]
    text = (folder / "README.md").read_text()
    assert "at step 500 of 1000" in text
    assert "| road |" not in text


def test_a_shared_folder_stands_wherever_a_run_does(finished, student, tmp_path):
    folder = fakd.save_pretrained(finished, tmp_path / "shared")
    assert same(fakd.load(folder), student)
    assert same(fakd.models.open_network(str(folder)), student)


def test_where_things_lay_is_not_told(made_up, student, tmp_path):
    data = {"class_path": "fakd.data.folder", "init_args": {"root": "/home/secret/streets"}}
    run = made_up.run(tmp_path / "run", "cwd", 0, [0.9] * 5, data=data)
    save(student, run / "best.safetensors", class_names=None, palette=None)
    folder = fakd.save_pretrained(run, tmp_path / "shared")
    for name in ("config.json", "README.md", "model.safetensors"):
        assert b"secret" not in (folder / name).read_bytes()
    assert "root: streets" in (folder / "README.md").read_text()
    assert "no comparison with this run is finished" in (folder / "README.md").read_text()


def test_weights_that_a_run_began_with_have_their_licence(made_up, student, tmp_path):
    given = {"backbone": "timm/lcnet_050", "weights": "imagenet"}
    began = {"class_path": "fakd.models.pspnet", "init_args": given}
    run = made_up.run(tmp_path / "run", "cwd", 0, [0.9] * 5, student=began)
    save(student, run / "best.safetensors", class_names=None, palette=None)
    text = (fakd.save_pretrained(run, tmp_path / "shared") / "README.md").read_text()
    assert "- weights it began with: apache-2.0" in text


@pytest.mark.parametrize(
    "word", ["smp:Unet?encoder_name=resnet18", "torchvision:lraspp_mobilenet_v3_large"]
)
def test_networks_of_libraries_are_shared(word, tmp_path):
    torch.manual_seed(0)
    network = fakd.models.open_network(word, 5).eval()
    folder = fakd.save_pretrained(network, tmp_path / "shared")
    assert same(fakd.from_pretrained(folder), network)
    assert "Not known: it is not a run" in (folder / "README.md").read_text()


def test_own_code_is_built_only_if_allowed(tmp_path, monkeypatch):
    code = tmp_path / "mine" / "own_net.py"
    code.parent.mkdir()
    code.write_text(OWN)
    torch.manual_seed(0)
    network = fakd.models.open_network(f"{code}:net", 5).eval()
    folder = fakd.save_pretrained(network, tmp_path / "shared")
    assert json.loads((folder / "config.json").read_text())["code"] == ["own_net.py"]
    assert "allow=['own_net.py']" in (folder / "README.md").read_text()
    assert str(tmp_path).encode() not in (folder / "model.safetensors").read_bytes()
    monkeypatch.setattr("fakd.imports._allowed", set())
    with pytest.raises(InputError, match="allow code that you trust"):
        fakd.from_pretrained(folder)
    assert same(fakd.from_pretrained(folder, allow=str(code)), network)


def test_nothing_is_overwritten_unless_told(student, tmp_path):
    folder = fakd.save_pretrained(student, tmp_path / "shared")
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"model\.safetensors exists; .*overwrite=True"):
        fakd.save_pretrained(student, folder)
    fakd.save_pretrained(student, folder, overwrite=True)
    assert (folder / "notes.txt").read_text() == "mine"
    with pytest.raises(InputError, match="is not a folder"):
        fakd.save_pretrained(student, folder / "notes.txt")


def test_a_network_that_no_file_can_describe_is_refused(tmp_path):
    network = fakd.models.adapt(torch.nn.Conv2d(3, 5, 1))
    with pytest.raises(InputError, match="no spec that rebuilds it"):
        fakd.save_pretrained(network, tmp_path / "shared")
    assert not (tmp_path / "shared").exists()


@pytest.fixture
def offline(monkeypatch, tmp_path):
    cache = tmp_path / "hub"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    return cache


def test_what_was_fetched_before_loads_without_a_connection(student, offline):
    place = offline / "models--me--student"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("abc")
    fakd.save_pretrained(student, place / "snapshots" / "abc")
    assert same(fakd.from_pretrained("me/student"), student)


@pytest.mark.parametrize("name", ["me/unknown", "no such id", "/gone/away"])
def test_what_was_not_is_refused_in_a_sentence(name, offline):
    with pytest.raises(InputError, match="nor a network in the local cache"):
        fakd.from_pretrained(name)


def test_a_folder_of_something_else_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"must hold model\.safetensors"):
        fakd.from_pretrained(tmp_path)


class Hub:
    """Takes what is pushed."""

    def __init__(self, token=None):
        Hub.token = token

    def create_repo(self, name, *, private, exist_ok):
        Hub.repo = (name, private, exist_ok)

    def upload_folder(self, *, repo_id, folder_path):
        Hub.files = {file.name: file.read_bytes() for file in folder_path.iterdir()}
        return f"https://hub/{repo_id}"


def test_a_network_is_pushed(student, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    monkeypatch.setattr(sharing, "is_reachable", lambda: True)
    where = fakd.push_to_hub(student, "me/small", licence="mit", token="t")
    assert where == "https://hub/me/small"
    assert Hub.repo == ("me/small", True, True)
    assert Hub.token == "t"
    assert set(Hub.files) == {"README.md", "config.json", "model.safetensors"}
    assert b"# small" in Hub.files["README.md"]
    (tmp_path / "model.safetensors").write_bytes(Hub.files["model.safetensors"])
    assert same(fakd.from_pretrained(tmp_path), student)


def test_a_hub_that_is_away_or_refuses_is_a_sentence(student, monkeypatch):
    monkeypatch.setattr(sharing, "is_reachable", lambda: False)
    with pytest.raises(InputError, match="cannot be reached"):
        fakd.push_to_hub(student, "me/small")

    def refuse(*_, **__):
        raise OSError("401 who are you\nat length")

    monkeypatch.setattr(sharing, "is_reachable", lambda: True)
    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", refuse)
    with pytest.raises(InputError, match=r"refuses me/small: 401 who are you$"):
        fakd.push_to_hub(student, "me/small")


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_files_are_as_open_as_the_user_lets_them_be(mask, student, tmp_path):
    before = os.umask(mask)
    try:
        folder = fakd.save_pretrained(student, tmp_path / "shared")
        smp = fakd.models.open_network("smp:Unet?encoder_name=resnet18", 3)
        save(smp, tmp_path / "best.safetensors", class_names=None, palette=None, own_format=True)
    finally:
        os.umask(before)
    files = [each for place in (folder, tmp_path / "best") for each in place.iterdir()]
    assert len(files) >= 5
    for file in (*files, tmp_path / "best.safetensors"):
        assert stat.S_IMODE(file.stat().st_mode) == 0o666 & ~mask, file


def test_a_folder_written_by_a_library_follows_the_mask(tmp_path):
    def write(folder):
        (folder / "inner").mkdir(parents=True)
        (folder / "inner" / "weights").write_text("w")
        (folder / "inner" / "weights").chmod(0o600)
        return True

    before = os.umask(0o022)
    try:
        replace_folder(tmp_path / "saved", write)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "saved" / "inner" / "weights").stat().st_mode) == 0o644
