"""Networks of other libraries and of the user's own, from training to evaluation."""

import sys

import pytest
import yaml

import fakd
from fakd import specs
from fakd.cli import main

DATA = ["--data=scenes", "--data.train=4", "--data.val=2", "--data.size=[32,48]"]
SHORT = ["--schedule.steps=2", "--schedule.batch_size=2", "--augmentation.crop=[32,48]"]
DEEPLAB = "torchvision.models.segmentation.deeplabv3_mobilenet_v3_large"
MINE = """
from torch import nn

def net(classes: int, width: int = 8) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, width, 3, 4, 1), nn.ReLU(), nn.Conv2d(width, classes, 1))
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    (tmp_path / "own_nets.py").write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_nets", raising=False)
    monkeypatch.setattr(specs, "_allowed", set())
    return "own_nets.net"


def test_a_torchvision_network_is_trained_loaded_and_evaluated(tmp_path):
    run = tmp_path / "run"
    given = [f"--network={DEEPLAB}", "--network.weights_backbone=null", "--network.aux_loss=true"]
    assert main(["train", *given, *DATA, *SHORT, f"--run={run}"]) == 0
    network = fakd.load(run)
    assert network.classes == 12
    assert network.config["init_args"]["network"]["class_path"] == DEEPLAB
    assert main(["evaluate", f"--network={run}", *DATA]) == 0
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())["network"]
    assert recipe["class_path"] == DEEPLAB
    assert recipe["init_args"]["aux_loss"] is True
    assert "num_classes" not in recipe["init_args"]
    again = tmp_path / "again"
    assert main(["train", f"--recipe={run / 'recipe.yaml'}", f"--run={again}"]) == 0
    files = [(folder / "final.safetensors").read_bytes() for folder in (run, again)]
    assert files[0] == files[1]


def test_ones_own_network_learns_from_it_and_is_loaded_when_allowed(mine, tmp_path, capsys):
    teacher, run = tmp_path / "teacher.safetensors", tmp_path / "run"
    foreign = specs.written(DEEPLAB, weights_backbone=None)
    network = fakd.models.adapt(specs.build(foreign, classes=12))
    fakd.models.save(network, teacher, class_names=None, palette=None)
    given = [f"--teacher={teacher}", f"--student={mine}", "--student.width=6"]
    options = ["--check_teacher=false", f"--run={run}"]
    assert main(["distill", *given, *DATA, *SHORT, *options]) == 0
    assert fakd.load(run).config["init_args"]["network"] == specs.written(mine, classes=12, width=6)
    specs._allowed.clear()
    capsys.readouterr()
    assert main(["evaluate", f"--network={run}", *DATA]) == 2
    error = capsys.readouterr().err
    assert "asks for own_nets.net" in error
    assert "--network.allow own_nets.net" in error
    assert error.count("\n") == 1
    assert main(["evaluate", f"--network={run}", "--network.allow=own_nets.net", *DATA]) == 0


def test_adapt_names_what_it_cannot_find_out(mine, tmp_path):
    run = tmp_path / "run"
    given = ["--network=adapt", f"--network.network={mine}", "--network.network.width=5"]
    given += ["--network.backbone='0'", "--network.mean=[0.5,0.5,0.5]"]
    assert main(["train", *given, *DATA, *SHORT, f"--run={run}"]) == 0
    network = fakd.load(run)
    assert network.normalize.mean.flatten().tolist() == [0.5, 0.5, 0.5]
    assert network.config["init_args"]["network"]["init_args"] == {"classes": 12, "width": 5}
    assert len(network.parameter_groups()["backbone"]) == 2


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["--network=own_nets.nett"], "did you mean net?"),
        (["--network=own_nets.net", "--network.widht=3"], "did you mean network.width?"),
        (["--network=own_nets.net", "--network.width=wide"], "network.width: expected int"),
        (["--network=no_such_module.net"], "No module named 'no_such_module'"),
        (["--network=builtins.print"], "network"),
    ],
)
def test_mistakes_get_one_line(mine, tmp_path, capsys, given, expected):
    assert main(["train", *given, *DATA, *SHORT, f"--run={tmp_path / 'run'}"]) == 2
    error = capsys.readouterr().err
    assert expected in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()
