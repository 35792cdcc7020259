"""Networks of other libraries and of the user's own, from training to evaluation."""

import json
import sys
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

import fakd
from fakd import imports, specs
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
    return "own_nets.net"


@pytest.mark.slow
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
    foreign = specs.make_spec(DEEPLAB, weights_backbone=None)
    network = fakd.models.adapt(specs.build(foreign, classes=12))
    fakd.models.save(network, teacher, class_names=None, palette=None)
    given = [f"--teacher={teacher}", f"--student={mine}", "--student.width=6"]
    options = ["--check_teacher=false", f"--run={run}"]
    assert main(["distill", *given, *DATA, *SHORT, *options]) == 0
    assert fakd.load(run).config["init_args"]["network"] == specs.make_spec(
        mine, classes=12, width=6
    )
    imports._allowed.clear()
    capsys.readouterr()
    assert main(["evaluate", f"--network={run}", *DATA]) == 2
    error = capsys.readouterr().err
    assert "uses own_nets.net" in error
    assert "--code own_nets.net" in error
    assert error.count("\n") == 1
    assert main(["evaluate", f"--network={run}", "--code=own_nets.net", *DATA]) == 0


OWN = """
import fakd
from torch import nn

class LogitL1(fakd.DistillationLoss):
    def __init__(self, weight: float = 1.0) -> None:
        super().__init__(weight)

    def forward(self, inputs: fakd.LossInputs):
        return (inputs.student.logits - inputs.teacher.logits).abs().mean()

def net(classes: int, width: int = 8) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, width, 3, 4, 1), nn.ReLU(), nn.Conv2d(width, classes, 1))

def data(number: int):
    found = fakd.data.scenes(train=number, val=2, size=(32, 48))
    return fakd.data.SegmentationData(
        "own", found.class_names, found.palette, found.train, found.val
    )
"""


def test_a_recipe_of_ones_own_loss_network_and_data_in_a_file_can_be_repeated(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    Path("own_things.py").write_text(OWN)
    given = ["--teacher=own_things.py:net", "--student=own_things.py:net", "--student.width=6"]
    given += ["--data=own_things.py:data", "--data.number=4", "--check_teacher=false"]
    given += ["--distillation=own_things.py:LogitL1", "--distillation.weight=2"]
    assert main(["distill", *given, *SHORT, "--run=run"]) == 0
    recipe = yaml.safe_load(Path("run/recipe.yaml").read_text())
    assert recipe["distillation"] == {
        "class_path": "own_things.py:LogitL1", "init_args": {"weight": 2.0},
    }  # fmt: skip
    assert recipe["data"] == {"class_path": "own_things.py:data", "init_args": {"number": 4}}
    imports._allowed.clear()
    again = ["distill", "--recipe=run/recipe.yaml", "--run=again"]
    assert main(again) == 2
    assert "add --code own_things.py" in capsys.readouterr().err
    assert main([*again, "--code=own_things.py"]) == 0
    files = [Path(folder, "final.safetensors").read_bytes() for folder in ("run", "again")]
    assert files[0] == files[1]


def test_a_run_of_ones_own_network_converts_to_plain_weights(mine, tmp_path, capsys):
    run, target = tmp_path / "run", tmp_path / "plain.pth"
    assert main(["train", f"--network={mine}", *DATA, *SHORT, f"--run={run}"]) == 0
    assert main(["convert", f"--source={run}", f"--target={target}"]) == 0
    saved = torch.load(target, weights_only=True)
    network = specs.import_object(mine)(12)
    network.load_state_dict(saved["state_dict"])
    assert saved["meta"]["CLASSES"][0] == "road"
    images = torch.rand(1, 3, 32, 48)
    run_network = fakd.load(run)
    with torch.no_grad():
        expected = run_network(images).logits
        assert torch.equal(network.eval()(run_network.feed(images)), expected)
    assert main(["convert", f"--source={run}", f"--target={tmp_path / 'x.safetensors'}"]) == 2
    assert "network of fakd already" in capsys.readouterr().err


def test_adapt_names_what_it_cannot_find_out(mine, tmp_path):
    run = tmp_path / "run"
    given = ["--network=adapt", f"--network.network={mine}", "--network.network.width=5"]
    given += ["--network.backbone='0'", "--network.mean=[0.5,0.5,0.5]"]
    assert main(["train", *given, *DATA, *SHORT, f"--run={run}"]) == 0
    network = fakd.load(run)
    assert network.normalize.mean.flatten().tolist() == [0.5, 0.5, 0.5]
    assert network.config["init_args"]["network"]["init_args"] == {"classes": 12, "width": 5}
    assert len(network.parameter_groups()["backbone"]) == 2


def test_a_teacher_of_other_classes_is_mapped_and_a_student_gets_a_new_head(tmp_path, monkeypatch):
    pytest.importorskip("transformers")
    from foreign_networks import transformers_folder

    monkeypatch.chdir(tmp_path)
    transformers_folder("segformer", tmp_path / "segformer")
    names = fakd.data.scenes(train=1, val=1).class_names
    folder = fakd.data.scenes(train=4, val=2, size=(32, 48)).train
    for split, count in (("train", 4), ("val", 2)):
        for kind in ("images", "masks"):
            (tmp_path / "data" / split / kind).mkdir(parents=True)
        for index in range(count):
            image, labels = folder[index][:2]
            Image.fromarray(image.movedim(0, -1).numpy()).save(f"data/{split}/images/{index}.png")
            sky = (labels == names.index("sky")).to(torch.uint8)
            Image.fromarray(sky.numpy()).save(f"data/{split}/masks/{index}.png")
    Path("data/dataset.yaml").write_text("classes: [other, sky]\n")
    sky = names.index("sky")
    Path("map.yaml").write_text(f"classes: {{other: [], sky: [{sky}]}}\nrest: other\n")
    claims = [f"--{role}.mean=[0.5,0.5,0.5]" for role in ("teacher", "student")]
    given = ["--teacher=hf:segformer", "--student=hf:segformer", *claims]
    given += ["--data=data", "--classes_from=map.yaml", "--check_teacher=false", "--run=run"]
    assert main(["distill", *given, *SHORT]) == 0
    network = fakd.load("run")
    assert network.classes == 2
    assert network.normalize.mean.flatten().tolist() == [0.5, 0.5, 0.5]


def test_a_network_that_takes_grey_images_is_loaded_again(tmp_path, monkeypatch):
    file = tmp_path / "grey.py"
    file.write_text(
        "from torch import nn\n\n"
        "def net(classes):\n"
        "    return nn.Sequential(nn.Conv2d(1, 4, 3, 4, 1), nn.ReLU(), nn.Conv2d(4, classes, 1))\n"
    )
    run = tmp_path / "run"
    # Named in the other way: as what adapt is given.
    given = ["--network=adapt", f"--network.network={file}:net"]
    assert main(["train", *given, *DATA, *SHORT, f"--run={run}"]) == 0
    assert main(["evaluate", f"--network={run}", f"--code={file}", *DATA]) == 0
    network = fakd.load(run)
    assert network.order == "gray"
    assert network.normalize.mean.numel() == 1


def test_a_function_in_a_file_is_a_network_without_annotations(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "parts.py").write_text("from torch import nn\nConv = nn.Conv2d\n")
    (tmp_path / "mine.py").write_text(
        "from torch import nn\nfrom parts import Conv\n\n"
        "def net(classes, width=8):\n"
        "    return nn.Sequential(Conv(3, width, 3, 4, 1), nn.ReLU(), Conv(width, classes, 1))\n"
    )
    given = ["--network=mine.py:net", "--network.width=6", "--network.mean=[0.5,0.5,0.5]"]
    assert main(["train", *given, *DATA, *SHORT, "--run=run"]) == 0
    network = fakd.load("run")
    assert network.probe.features == 6
    assert network.normalize.mean.flatten().tolist() == [0.5, 0.5, 0.5]
    imports._allowed.clear()
    capsys.readouterr()
    assert main(["evaluate", "--network=run", *DATA]) == 2
    error = capsys.readouterr().err
    assert "uses mine.py:net" in error
    assert "--code mine.py" in error
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "mine.py").rename(tmp_path / "elsewhere" / "mine.py")
    (tmp_path / "parts.py").rename(tmp_path / "elsewhere" / "parts.py")
    assert main(["evaluate", "--network=run", "--code=elsewhere/mine.py", *DATA]) == 0
    imports._allowed.clear()
    again = ["--recipe=run/recipe.yaml", "--network=elsewhere/mine.py:net", "--run=again"]
    assert main(["train", *again, *DATA, *SHORT]) == 0


def test_plain_weights_are_loaded_into_the_network_named_beside_them(mine, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    network = specs.import_object(mine)(12, 6)
    torch.save(network.state_dict(), "weights.pth")
    given = ["--teacher=weights.pth", "--teacher.network=own_nets.py:net"]
    given += ["--teacher.network.width=6", "--student=own_nets.py:net", "--check_teacher=false"]
    assert main(["distill", *given, *DATA, *SHORT, "--run=run"]) == 0
    spec = yaml.safe_load(Path("run/recipe.yaml").read_text())["teacher"]["init_args"]
    assert spec["path"] == "weights.pth"
    assert spec["network"]["init_args"]["width"] == 6
    fed = [*given, "--teacher.mean=[0.5,0.5,0.5]", "--teacher.classifier='2'"]
    assert main(["distill", *fed, *DATA, *SHORT, "--run=fed"]) == 0
    told = yaml.safe_load(Path("fed/recipe.yaml").read_text())["teacher"]["init_args"]["network"]
    assert told["init_args"]["mean"] == [0.5, 0.5, 0.5]
    assert told["init_args"]["network"]["init_args"]["width"] == 6
    assert main(["distill", "--recipe=fed/recipe.yaml", "--run=again"]) == 0
    files = [Path(run, "final.safetensors").read_bytes() for run in ("run", "fed", "again")]
    assert files[0] != files[1] == files[2]
    assert main(["distill", *given, "--teacher.wdth=3", *DATA, *SHORT, "--run=x"]) == 2
    loaded = fakd.load("weights.pth", network)
    assert torch.equal(loaded.network[2].weight, torch.load("weights.pth")["2.weight"])


def test_another_teacher_is_another_run(mine, tmp_path):
    made = specs.import_object(mine)
    torch.manual_seed(0)
    first, second = (fakd.models.adapt(made(12)) for _ in range(2))
    student = specs.make_spec(mine)
    data = fakd.data.scenes(train=4, val=2, size=(32, 48))
    options = {
        "schedule": fakd.Schedule(steps=2, batch_size=2),
        "existing": "reuse",
        "check_teacher": False,
    }
    result = fakd.distill(first, student, data, tmp_path / "run", **options)
    assert fakd.distill(first, student, data, tmp_path / "run", **options) == result
    with pytest.raises(fakd.InputError, match="the teacher has changed"):
        fakd.distill(second, student, data, tmp_path / "run", **options)


@pytest.mark.parametrize(
    ("teacher", "expected"),
    [
        ("hg:model", "there is no module hg and no such source"),
        ("smq:Unet", "did you mean smp?"),
        ("hf:", "expected a name after hf:"),
        ("hf:./gone", "./gone does not exist"),
        ("hf:nobody/nothing", "the hub cannot be reached"),
        ("smp:Unett", "did you mean Unet?"),
        ("smp:fpn", "did you mean FPN?"),
        ("smp:Unet?encoder_name=resnet1000", "Wrong encoder name"),
        ("smp:Unet?encoder_nam=resnet18", "encoder_nam"),
        ("torchvision:deeplab", "there is no torchvision.models.segmentation.deeplab"),
        ("torchvision:fcn_resnet50?aux=true", "there is no teacher.aux"),
        ("timm:resnet5000", "resnet5000"),
        ("timm:resnet18?head=deeplab", "no head deeplab; did you mean deeplabv3plus?"),
        ("small.py", "add the function: small.py:FUNCTION"),
        ("small.py:net --teacher.mean=0.5", "teacher.mean: expected numbers such as [0.5, 0.5]"),
        ("small.py:net --teacher.order=brg", "teacher.order: expected rgb or bgr or gray, got"),
        ("small.py:net --code=gone.py", "--code: gone.py does not exist"),
        ("small.py:wide --teacher.width=six", "cannot be built with classes=12, width='six'"),
        ("gone.onnx", "gone.onnx does not exist"),
        ("gone.py:net", "gone.py does not exist"),
        ("broken.py:net", "broken.py cannot be imported: ZeroDivisionError"),
        ("small.py:nett", "did you mean net?"),
        ("small.py:nothing", "expected a network"),
        ("small.py:ids", "class ids only"),
        ("small.py:net --teacher.classifier=0", "'0' does not output the logits"),
        ("small.py:net --teacher.output=aux", "must return logits at 'aux'"),
        ("small.py:four", "images of 4 channels"),
        ("plain.pth", "--teacher.network net.py:FUNCTION"),
        ("text.onnx", "cannot be opened"),
        ("detr", "type detr, which is not for semantic segmentation"),
        ("empty", "empty cannot be opened with transformers"),
    ],
)
def test_every_mistake_with_a_source_gets_one_line(
    teacher, expected, tmp_path, monkeypatch, capsys
):
    for library in ("transformers", "segmentation_models_pytorch", "onnxruntime"):
        pytest.importorskip(library)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fakd.models.foreign.libraries.is_reachable", lambda: False)
    (tmp_path / "broken.py").write_text("1 / 0\n")
    (tmp_path / "small.py").write_text(
        "from torch import nn\n\n"
        "class Ids(nn.Module):\n"
        "    def forward(self, images):\n"
        "        return images[:, 0].long()\n\n"
        "def net(classes):\n"
        "    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, classes, 1))\n\n"
        "def wide(classes, width=4):\n    return nn.Conv2d(3, classes, width)\n\n"
        "def nothing(classes):\n    return None\n\n"
        "def four(classes):\n    return nn.Conv2d(4, classes, 1)\n\n"
        "def ids():\n    return Ids()\n"
    )
    (tmp_path / "text.onnx").write_text("text")
    torch.save({"weight": torch.zeros(1)}, "plain.pth")
    for name, kind in (("detr", "detr"), ("empty", "segformer")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps({"model_type": kind}))
    before = set(tmp_path.iterdir())
    given = [f"--teacher={teacher.partition(' ')[0]}", *teacher.split()[1:]]
    given += ["--student=pspnet", "--student.backbone=mobilenetv3_small_050", "--run=run"]
    assert main(["distill", *given, *DATA, *SHORT]) == 2
    error = capsys.readouterr().err
    assert expected in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()
    assert {path for path in tmp_path.iterdir() if path.name != "__pycache__"} == before


def test_a_missing_library_is_named_with_the_line_that_installs_it(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("fakd.imports.find_spec", lambda name: None)
    assert main(["evaluate", "--network=smp:Unet", *DATA]) == 2
    assert "pip install 'fakd[smp]'" in capsys.readouterr().err


def test_a_single_layer_of_other_classes_is_no_student(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text("from torch import nn\n\ndef net():\n    return nn.Conv2d(3, 7, 1)\n")
    assert main(["train", "--network=net.py:net", *DATA, *SHORT, "--run=run"]) == 2
    assert "a single layer of 7 classes; build it with 12" in capsys.readouterr().err
    assert not Path("run").exists()


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
