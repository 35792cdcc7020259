"""Nothing asks the network unless a flag names something that lies there."""

import socket

from fakd.cli import main

DATA = ["--data=scenes", "--data.train=4", "--data.val=2", "--data.size=[32,48]"]


def test_train_evaluate_and_report_open_no_connection(tmp_path, monkeypatch):
    def refuse(self, *_):
        if self.family != socket.AF_UNIX:
            raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "connect_ex", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.chdir(tmp_path)
    size = ["--schedule.steps=2", "--schedule.batch_size=2", "--augmentation.crop=[32,48]"]
    network = ["--network=pspnet", "--network.backbone=mobilenetv3_small_050"]
    small = [*network, "--network.channels=8", "--hardware.accelerator=cpu"]
    assert main(["train", *small, *DATA, *size, "--run=r"]) == 0
    assert main(["evaluate", "--network=r", *DATA, "--accelerator=cpu"]) == 0
    assert main(["report", "r", "--images=2", "--accelerator=cpu"]) == 0
    assert (tmp_path / "report.html").stat().st_size > 1000
