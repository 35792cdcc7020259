from datetime import date

import pytest
import yaml

from fakd.errors import InputError
from fakd.losses import PRESETS
from fakd.shorthand import expand, first_unknown
from fakd.specs import nearest

FLAGS = ["data", "teacher", "student", "run"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["--student", "pspnet"], ["--student=fakd.models.pspnet"]),
        (["--data=scenes"], ["--data=fakd.data.scenes"]),
        (["--data", "a/b"], ["--data=fakd.data.folder", "--data.root=a/b"]),
        (["--data=my.yaml"], ["--data=fakd.data.folder", "--data.root=my.yaml"]),
        (["--teacher=x.pth"], ["--teacher=fakd.models.load", "--teacher.path=x.pth"]),
        (["--teacher", "runs/t"], ["--teacher=fakd.models.load", "--teacher.path=runs/t"]),
        (
            ["--teacher.weights", "a/t.pth"],
            ["--teacher=fakd.models.load", "--teacher.path=a/t.pth"],
        ),
        (["--student", "my.package.net"], ["--student=my.package.net"]),
        (["--run", "scenes", "--data.seed", "3"], ["--run", "scenes", "--data.seed", "3"]),
    ],
)
def test_names_and_paths_are_written_out(given, expected):
    assert expand(given, FLAGS) == expected


def test_an_existing_path_wins_over_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scenes").mkdir()
    assert expand(["--data=scenes"], FLAGS) == ["--data=fakd.data.folder", "--data.root=scenes"]


@pytest.mark.parametrize("start", [["RECIPE"], ["--recipe", "RECIPE"], ["--recipe=RECIPE"]])
def test_a_recipe_may_hold_the_same_short_forms(tmp_path, start):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "data: scenes\n"
        "teacher: runs/t\n"
        "student: {class_path: pspnet, init_args: {backbone: resnet18}}\n"
        "distillation: cwd-fa\n"
        "run: 2026-11-22\n"
        "seeds: {1: 2}\n"
    )
    given = [each.replace("RECIPE", str(recipe)) for each in start]
    expanded = expand([*given, "--run", "r"], [*FLAGS, "distillation"])
    assert expanded[-2:] == ["--run", "r"]
    assert yaml.safe_load(expanded[-3].removeprefix("--recipe=")) == {
        "data": "fakd.data.scenes",
        "teacher": {"class_path": "fakd.models.load", "init_args": {"path": "runs/t"}},
        "student": {"class_path": "fakd.models.pspnet", "init_args": {"backbone": "resnet18"}},
        "distillation": PRESETS["cwd-fa"],
        "run": date(2026, 11, 22),
        "seeds": {1: 2},
    }


@pytest.mark.parametrize("text", ["data: {class_path: a.b}\nseeds: 2\n", "- 1", "a: [", ""])
def test_a_recipe_without_short_forms_is_left_to_the_parser(tmp_path, text):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(text)
    assert expand([f"--recipe={recipe}"], FLAGS) == [f"--recipe={recipe}"]
    assert expand(["--recipe", "gone.yaml"], FLAGS) == ["--recipe", "gone.yaml"]


def test_a_mistyped_builder_is_named():
    with pytest.raises(InputError, match="there is no psnet; did you mean pspnet"):
        expand(["--student=psnet"], FLAGS)


def test_an_unknown_flag_gets_the_nearest_known_one():
    known = ["schedule.steps", "run"]
    wrong = first_unknown(["--run=a", "--schedle.steps=5"], [], known)
    line = f"there is no {wrong}{nearest(wrong, known)}"
    assert line == "there is no schedle.steps; did you mean schedule.steps?"
