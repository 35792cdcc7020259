"""Nothing asks the network unless a flag names something that lies there."""

import socket

import pytest

from fakd import models
from fakd.cli import main

DATA = ["--data=scenes", "--data.train=4", "--data.val=2", "--data.size=[32,48]"]


@pytest.fixture
def connections(monkeypatch):
    """The connections that were asked for; libraries may hide that they failed."""
    asked = []

    def refuse(self, *given):
        if getattr(self, "family", None) != socket.AF_UNIX:
            asked.append(given)
        raise OSError("no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "connect_ex", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    return asked


def test_a_network_of_smp_in_a_folder_is_opened_without_the_hub(tmp_path, connections):
    smp = pytest.importorskip("segmentation_models_pytorch")
    smp.Unet("resnet18", encoder_weights=None, classes=3).save_pretrained(tmp_path / "net")
    network = models.open_network(f"smp:{tmp_path / 'net'}")
    assert network.classes == 3
    assert any("its normalisation of images is unknown" in each for each in network.remarks)
    assert connections == []


def test_train_evaluate_and_report_open_no_connection(tmp_path, monkeypatch, connections):
    monkeypatch.chdir(tmp_path)
    size = ["--schedule.steps=2", "--schedule.batch_size=2", "--augmentation.crop=[32,48]"]
    network = ["--network=pspnet", "--network.backbone=mobilenetv3_small_050"]
    small = [*network, "--network.channels=8", "--hardware.accelerator=cpu"]
    assert main(["train", *small, *DATA, *size, "--run=r"]) == 0
    assert main(["evaluate", "--network=r", *DATA, "--accelerator=cpu"]) == 0
    assert main(["report", "r", "--images=2", "--accelerator=cpu"]) == 0
    assert (tmp_path / "report.html").stat().st_size > 1000
    assert connections == []
