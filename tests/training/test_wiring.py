"""The networks of a run side by side: what is said of them is so, and saying it changes nothing."""

import io
import json

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn

import fakd
from fakd.answers.maps import Answers, Maps
from fakd.commands.report import report
from fakd.losses import ChannelKL
from fakd.models import adapt, pspnet
from fakd.report.measurements import cost_of
from fakd.settings import Augmentation, Hardware, Schedule, Settings, Task
from fakd.training.objective import Distillation, Supervised
from fakd.training.start import start
from fakd.training.task import TaskLoss
from fakd.training.teacher import MappedTeacher, MixedTeacher, NetworkTeacher, StoredTeacher
from fakd.training.wiring import Wiring, rows_of, run_summary, show_wiring, wiring

SETTINGS = Settings(
    Schedule(steps=2, batch_size=2, learning_rate=0.01),
    augmentation=Augmentation(crop=(32, 48)),
    hardware=Hardware(accelerator="cpu"),
)


class Foreign(nn.Module):
    def __init__(self, classes=12):
        super().__init__()
        self.trunk = nn.Conv2d(3, 8, 3, 4, 1)
        self.last = nn.Conv2d(8, classes, 1)
        self.aux_head = nn.Conv2d(8, classes, 1)

    def forward(self, images):
        seen = self.trunk(images).relu()
        self.aux_head(seen)
        return self.last(seen).softmax(1)


class Filled(Answers):
    title, classes, channels, fingerprint = "answers/filled", 12, 5, "0"
    class_names = ("tarmac", *(f"class {i}" for i in range(1, 12)))

    def find(self, part, split):
        return range(len(split))

    def read(self, part, place, size):
        height, width = (side // 4 for side in size)
        ones = np.ones((12, height, width), np.float32)
        return Maps(ones, ones[:5])


@pytest.fixture
def fabric():
    return start(SETTINGS.hardware, 0)


def wired_of(student, data, teacher, loss):
    objective = Distillation(teacher.network, student, loss, TaskLoss(Task(), data.classes))
    return wiring(student, objective, data, SETTINGS, teacher)


def test_a_foreign_teacher_and_a_student_of_ours(fabric, tiny_data, tiny_network):
    network = adapt(Foreign(), mean=(0.5,) * 3, std=(0.25,) * 3)
    count = sum(each.numel() for each in network.parameters())
    teacher = NetworkTeacher(network, fabric, SETTINGS.hardware)
    tiny_network.train()
    before = {name: each.clone() for name, each in tiny_network.state_dict().items()}
    drawn = torch.get_rng_state()

    parts, between = wired_of(tiny_network, tiny_data, teacher, ChannelKL(strength=1.0))

    one, other = parts
    assert (one["role"], other["role"]) == ("teacher", "student")
    assert (one["library"], one["network"]) == ("own code", "Foreign")
    assert one["parameters"] == f"{count:,}"
    assert one["normalised"] == "mean 0.5 0.5 0.5, deviation 0.25 0.25 0.25 (as given)"
    assert one["logits"] == "stride 4, before its softmax"
    assert one["features"] == "8 channels into last (1x1 convolution)"
    assert one["auxiliary"] == "aux_head: ignored"
    assert other["network"] == "pspnet on mobilenetv3_small_050"
    assert other["logits"] == "stride 8"
    assert other["auxiliary"] == "1: trained, with weight 0.4"
    assert between[0] == "the teacher's logits are resized from stride 4 to 8"
    assert "diagonal covariance of features" in between[1]
    assert tiny_network.training
    assert torch.equal(torch.get_rng_state(), drawn)
    for name, each in tiny_network.state_dict().items():
        assert torch.equal(each, before[name])


def test_a_network_alone(tiny_data, tiny_network):
    objective = Supervised(TaskLoss(Task(auxiliary_weight=0.0), 12))
    parts, between = wiring(tiny_network.eval(), objective, tiny_data, SETTINGS)
    assert [each["role"] for each in parts] == ["network"]
    assert parts[0]["auxiliary"] == "1: ignored"
    assert between == []
    assert parts[0]["GFLOPs"] == f"{cost_of(tiny_network, (32, 48)).flops / 1e9:.2f} for 32 x 48"


def test_a_run_opens_with_what_it_learns_from(tiny_data):
    cpu = torch.device("cpu")
    assert run_summary(tiny_data, SETTINGS, cpu) == (
        "scenes: 8 training images, 4 for validation, 12 classes; 2 steps of 2 on cpu"
    )
    few = fakd.data.scenes(train=8, val=4, size=(32, 48), labelled=3)
    assert "8 training images (3 with labels), 4" in run_summary(few, SETTINGS, cpu)


def test_several_teachers_with_stored_answers_and_other_classes(fabric, tiny_data, tiny_network):
    live = NetworkTeacher(pspnet("mobilenetv3_small_050", 12), fabric, SETTINGS.hardware)
    table = [[number] for number in range(12)]
    members = {
        "filled": StoredTeacher(Filled(), tiny_data, fabric),
        "mapped": MappedTeacher(live, table, tiny_data.class_names),
    }
    teacher = MixedTeacher(members, [2.0, 1.0], "confidence")
    parts, between = wired_of(tiny_network, tiny_data, teacher, ChannelKL())
    assert [each["role"] for each in parts] == ["teacher filled", "teacher mapped", "student"]
    assert parts[0]["network"] == "filled"
    assert parts[0]["classes"] == "12, 12 named unlike the data's"
    assert parts[0]["features"] == "5 channels"
    assert parts[1]["classes"] == "12, summed into the data's 12"
    assert between[0] == "the teachers' confidence is averaged, weights 2, 1"
    rows = rows_of(parts)
    assert rows[0] == ("", "teacher filled", "teacher mapped", "student")
    assert all(len(row) == 4 for row in rows)
    shown = io.StringIO()
    show_wiring(Console(width=100, file=shown), Wiring(parts, between))
    lines = shown.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert sum("stored answers" in line for line in lines) == 1


def test_a_run_keeps_it_and_its_report_draws_it_without_the_networks(tmp_path, capsys):
    data = fakd.data.scenes(train=4, val=2, size=(32, 48))
    torch.manual_seed(0)
    student = pspnet("mobilenetv3_small_050", 12, channels=16)
    fakd.distill(
        adapt(Foreign()),
        student,
        data,
        tmp_path / "run",
        schedule=SETTINGS.schedule,
        augmentation=SETTINGS.augmentation,
        hardware=SETTINGS.hardware,
        check_teacher=False,
    )
    said = capsys.readouterr().out
    assert "stride 4, before its softmax" in said
    kept = json.loads((tmp_path / "run" / "environment.json").read_text())["wiring"]
    assert [each["role"] for each in kept["parts"]] == ["teacher", "student"]
    for file in (tmp_path / "run").glob("*.safetensors"):
        file.unlink()
    report([tmp_path / "run"], out=tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "<dd>stride 4, before its softmax</dd>" in page
    assert "resized from stride 4 to 8" in page
    assert "parts:" not in page
