"""What a class path may name, and whose code a command runs."""

import sys
from pathlib import Path

import pytest

import fakd
from fakd import imports
from fakd.cli import main
from fakd.errors import InputError
from fakd.imports import import_object


@pytest.mark.parametrize(
    "path",
    ["os.system", "builtins.eval", "subprocess.Popen", "torch.os.system", "shutil.rmtree",
     "pathlib.Path", "posix.remove", "fakd.files.os.remove"],
)  # fmt: skip
def test_nothing_of_pythons_own_is_found(path):
    with pytest.raises(InputError, match="is in Python's standard library"):
        import_object(path)


@pytest.mark.parametrize(
    "path", ["torch.nn.Conv2d", "torchvision.transforms.v2.RandomGrayscale", "fakd.data.scenes"]
)
def test_libraries_are_found(path):
    assert import_object(path).__name__ == path.rpartition(".")[2]


def test_ones_own_module_is_found_whatever_it_holds(tmp_path, monkeypatch):
    (tmp_path / "mine_only.py").write_text(
        "from functools import partial\n\ndef net(classes):\n    return classes\n\n"
        "small = partial(net, 3)\n"
    )
    monkeypatch.chdir(tmp_path)
    assert import_object("mine_only.net")(2) == 2
    assert import_object("mine_only.small")() == 3


@pytest.mark.parametrize("where", ["network", "data", "augmentation.extra"])
def test_a_recipe_of_a_stranger_runs_no_command(where, tmp_path, capsys):
    spec = f"{{class_path: os.system, init_args: {{command: 'touch {tmp_path / 'run'}'}}}}"
    parts = {
        "network": "{class_path: fakd.models.pspnet, init_args: {backbone: resnet18}}",
        "data": "{class_path: fakd.data.scenes}",
        "augmentation.extra": "null",
    }
    parts[where] = spec
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        f"network: {parts['network']}\ndata: {parts['data']}\nrun: {tmp_path / 'r'}\n"
        f"augmentation: {{extra: {parts['augmentation.extra']}}}\n"
    )
    assert main(["train", f"--recipe={recipe}"]) == 2
    assert "os.system is named by a file and not by you" in capsys.readouterr().err
    assert main(["train", f"--recipe={recipe}", "--code=os"]) == 2
    assert "os.system is in Python's standard library" in capsys.readouterr().err
    assert [*tmp_path.iterdir()] == [recipe]


NET = """
from pathlib import Path
from torch import nn

Path("was_run").touch()

def net(classes, width=4):
    return nn.Sequential(nn.Conv2d(3, width, 3, 4, 1), nn.ReLU(), nn.Conv2d(width, classes, 1))

class Loss:
    pass
"""
DATA = ["--data=scenes", "--data.train=2", "--data.val=1", "--data.size=[32,48]"]
SHORT = ["--schedule.steps=1", "--schedule.batch_size=2", "--augmentation.crop=[32,48]"]
SMALL = ["--student=pspnet", "--student.backbone=mobilenetv3_small_050"]
TEACHERS = "teachers: [{source: 'net.py:net'}, {source: 'net.py:net'}]"


@pytest.fixture
def stranger(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "nets", raising=False)
    for name in ("net.py", "nets.py"):
        Path(name).write_text(NET)
    return tmp_path


@pytest.mark.parametrize(
    ("command", "content", "code"),
    [
        ("train", "network: net.py:net", "net.py"),
        ("train", "network: nets:net", "nets.net"),
        ("train", "network: {class_path: net.py:net, init_args: {width: 3}}", "net.py"),
        ("train", "network: {class_path: adapt, init_args: {network: net.py:net}}", "net.py"),
        ("train", "network: {class_path: adapt, init_args: {network: nets.net}}", "nets.net"),
        ("train --print_config", "network: net.py:net", "net.py"),
        ("train --network.width=3 --network.mean=[0,0,0]", "network: net.py:net", "net.py"),
        (
            "train --network=pspnet --network.backbone=mobilenetv3_small_050",
            "augmentation: {extra: {class_path: nets.Loss}}",
            "nets.Loss",
        ),
        ("train --network=pspnet", "data: nets.net", "nets.net"),
        ("train --network=pspnet", "data: net.py:net", "net.py"),
        ("check", "network: net.py:net", "net.py"),
        ("distill", "teacher: net.py:net", "net.py"),
        ("distill", TEACHERS.replace("teachers", "teacher: {teachers", 1) + "}", "net.py"),
        ("distill --teacher=net.yaml", "", "net.py"),
        ("distill --teacher=pspnet", "distillation: {class_path: net.py:Loss}", "net.py"),
        ("compare", "teacher: net.py:net\nstudent: net.py:net", "net.py"),
        ("compare", "pairs: {a: {teacher: nets:net, student: net.py:net}}", "nets.net"),
        ("evaluate", "network: net.py:net", "net.py"),
    ],
)
def test_a_strangers_file_runs_no_code_until_the_user_names_it(
    stranger, capsys, command, content, code
):
    Path("net.yaml").write_text(TEACHERS)
    Path("r.yaml").write_text(content or "seed: 1")
    name, *flags = command.split()
    flags += SMALL if name == "distill" else []
    flags += [] if "data" in content else DATA
    given = [name, "--recipe=r.yaml", *flags, *([] if name == "evaluate" else ["--run=run"])]
    before = {each.name for each in stranger.iterdir()}
    assert main(given) == 2
    error = capsys.readouterr().err
    assert f"add --code {code}" in error
    assert error.count("\n") == 1
    assert {each.name for each in stranger.iterdir()} - {"__pycache__"} == before


@pytest.mark.parametrize(
    "spec",
    [
        "{class_path: fakd.files.write_text, init_args: {path: r.yaml, text: gone}}",
        "{class_path: fakd.models.save, init_args: {network: pspnet, path: net.py}}",
        "{class_path: torchvision.datasets.utils.extract_archive, init_args: {from_path: r.yaml}}",
        "{class_path: fakd.models.load, init_args: {path: nowhere, allow: nets}}",
    ],
)
def test_a_recipe_may_only_ask_for_what_recipes_are_made_of(stranger, capsys, spec):
    Path("r.yaml").write_text(f"network: {spec}\nrun: run\n")
    text = Path("net.py").read_text()
    Path("nowhere").mkdir()
    assert main(["train", "--recipe=r.yaml", *DATA]) == 2
    assert "is named by a file and not by you" in capsys.readouterr().err
    assert Path("net.py").read_text() == text
    assert not Path("run").exists()


def test_what_the_command_names_is_allowed_in_all_of_it(stranger, forked_commands):
    train = ["train", "--network=net.py:net", *DATA, *SHORT]
    assert main([*train, "--run=teacher"]) == 0
    # The recipe of that run is a file like any other.
    again = ["train", "--recipe=teacher/recipe.yaml", "--run=again"]
    imports._allowed.clear()
    assert main(again) == 2
    assert main([*again, "--code=net.py"]) == 0
    imports._allowed.clear()
    student = ["--student=net.py:net", "--student.width=3", "--check_teacher=false"]
    assert main(["distill", "--teacher=teacher", *student, *DATA, *SHORT, "--run=student"]) == 0
    assert "allow" not in Path("student/recipe.yaml").read_text()
    imports._allowed.clear()
    assert main(["evaluate", "--network=student", *DATA]) == 2
    compare = ["compare", "--teacher=teacher", *student[:2], *DATA, *SHORT, *student[2:]]
    assert main([*compare, "--methods=alone,cwd", "--seeds=1", "--run=grid"]) == 0


def test_a_caller_from_python_means_what_it_passes(stranger):
    data = fakd.data.scenes(train=2, val=1, size=(32, 48))
    schedule = fakd.Schedule(steps=1, batch_size=2)
    augmentation = fakd.data.Augmentation(crop=(32, 48))
    options = {"schedule": schedule, "augmentation": augmentation}
    fakd.train("nets:net", data, "run", **options)
    assert fakd.load("run").classes == 12
