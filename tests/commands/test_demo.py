"""The demo, at a size that takes seconds, and the teacher that it brings."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from ship import ship

import fakd
from fakd.cli import main
from fakd.commands import demo as _  # noqa: F401
from fakd.inference import score
from fakd.metrics import Scores
from fakd.models import read_info
from fakd.settings import Inference, Schedule

ROOT = Path(__file__).parents[2]


@pytest.fixture
def module(monkeypatch):
    module = sys.modules["fakd.commands.demo"]
    monkeypatch.setattr(module, "SCENES", {"train": 6, "val": 3, "size": (32, 48)})
    monkeypatch.setattr(module, "LABELLED", 2)
    monkeypatch.setattr(module, "CROP", (32, 48))
    monkeypatch.setattr(module, "STUDENT", {**module.STUDENT, "weights": None})
    monkeypatch.setattr(module, "PICTURES", 2)
    return module


def test_the_demo_compares_and_draws_and_reports_and_continues(
    module, tmp_path, capsys, monkeypatch
):
    arguments = ["demo", f"--run={tmp_path / 'd'}", "--steps=2"]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    words = ("teacher", "student, alone", "student, cwd", "student, fakd", "pole", "pedestrian")
    assert all(word in printed for word in words)
    assert "for 4 images without labels gave" in printed
    assert str(tmp_path / "d" / "report.html") in printed.splitlines()[-1]
    with Image.open(tmp_path / "d" / "examples.png") as picture:
        assert np.array(picture).std() > 5
    page = (tmp_path / "d" / "report.html").read_text()
    assert all(f">{name}<" in page for name in ("pole", "pedestrian"))
    recipes = {
        name: yaml.safe_load((tmp_path / "d" / name / "recipe.yaml").read_text())
        for name in ("alone", "cwd", "fakd")
    }
    assert "teacher" not in recipes["alone"], "only one goes without"
    assert recipes["alone"]["network"] == recipes["cwd"]["student"] == recipes["fakd"]["student"]
    assert len({str(each["data"]) for each in recipes.values()}) == 1
    strengths = [recipes[name]["distillation"]["init_args"]["strength"] for name in ("cwd", "fakd")]
    assert strengths == [0.0, 1.0]
    shares = [each["schedule"]["unlabelled_share"] for each in recipes.values()]
    assert shares == [None, 0.75, 0.75], "only those who have a teacher see what has no labels"
    assert all(
        recipes[name]["teacher"]["class_path"] == "fakd.answers.Stored" for name in ("cwd", "fakd")
    )

    opened = []
    monkeypatch.setattr(module, "has_screen", lambda: True)
    monkeypatch.setattr(module.webbrowser, "open", opened.append)
    before = (tmp_path / "d" / "fakd" / "final.safetensors").stat().st_mtime_ns
    assert main(arguments) == 0
    assert (tmp_path / "d" / "fakd" / "final.safetensors").stat().st_mtime_ns == before
    assert opened == [(tmp_path / "d" / "report.html").resolve().as_uri()]


def test_gains_are_against_the_student_alone(module):
    text = module.gains(30.0, 34.0, 34.2)
    assert "+4.00 mIoU with CWD and +4.20 with FAKD, against the student alone" in text
    assert "FAKD against CWD: +0.20" in text


@pytest.mark.parametrize(
    ("terminal", "variables", "opens"),
    [
        (True, {"DISPLAY": ":0"}, True),
        (True, {"WAYLAND_DISPLAY": "wayland-0"}, True),
        (True, {}, False),
        (True, {"DISPLAY": ":0", "CI": "true"}, False),
        (False, {"DISPLAY": ":0"}, False),
    ],
)
def test_the_report_opens_where_somebody_can_look(module, monkeypatch, terminal, variables, opens):
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "CI"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal, raising=False)
    assert module.has_screen() is opens


def test_the_teacher_scores_what_the_readme_says():
    module = sys.modules["fakd.commands.demo"]
    data = fakd.data.scenes(**module.SCENES)
    teacher = fakd.load(module.TEACHER)
    pairs = ((sample.image, sample.labels) for sample in fakd.data.evaluation_samples(data.val))
    scores = Scores.from_matrix(score(teacher, pairs, Inference(), torch.device("cpu")))
    row = re.search(r"^ teacher +([\d.]+) M +([\d.]+) ", (ROOT / "README.md").read_text(), re.M)
    assert 100 * scores.miou == pytest.approx(float(row[2]), abs=0.05)
    weights = sum(each.numel() for each in teacher.parameters())
    assert f"{weights / 1e6:.2f}" == row[1]


def test_the_teacher_is_a_small_file_made_by_its_recipe():
    module = sys.modules["fakd.commands.demo"]
    assert module.TEACHER.stat().st_size < 4e6
    extra = read_info(module.TEACHER).extra
    recipe = yaml.safe_load((ROOT / extra["recipe"]).read_text())
    network = fakd.load(module.TEACHER)
    assert network.config["class_path"] == recipe["network"]["class_path"]
    seeds = {recipe["data"]["init_args"]["seed"], 0}
    assert len(seeds) == 2, "the teacher has seen the demo's scenes"


@pytest.mark.slow
def test_what_is_shipped_is_the_run_in_half_precision(tiny_data, tmp_path):
    network = fakd.models.hypercolumns("mobilenetv3_small_050", tiny_data.classes, channels=8)
    result = fakd.train(network, tiny_data, run=tmp_path / "r", schedule=Schedule(1))
    ship(tmp_path / "r", tmp_path / "t.safetensors")
    made, shipped = fakd.load(tmp_path / "r" / "final.safetensors"), tmp_path / "t.safetensors"
    for name, weight in fakd.load(shipped).state_dict().items():
        expected = made.state_dict()[name]
        assert torch.equal(weight, expected.half().to(expected.dtype)), name
    assert read_info(shipped).extra["miou"] == result["final"]["miou"]
    assert read_info(shipped).mean == read_info(tmp_path / "r").mean
    assert str(tmp_path) not in shipped.read_bytes().decode("latin-1")
