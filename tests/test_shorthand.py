import inspect
import json
import re

import pytest
import yaml

from fakd.cli import parse
from fakd.data import folder
from fakd.errors import InputError
from fakd.losses import PRESETS
from fakd.settings import Hardware, Schedule
from fakd.shorthand import MOVED, PACKAGES, first_unknown, gather, require_existing_path
from fakd.specs import nearest

FLAGS = ["data", "teacher", "student", "run"]


def specs_of(given, flags=FLAGS):
    """Collect what a command line asks to have built, and the other flags."""
    arguments, _ = gather(given, flags)
    pairs = [each.removeprefix("--").split("=", 1) for each in arguments]
    return {name: json.loads(value) if name in PACKAGES else value for name, value in pairs}


def spec(class_path, /, **arguments):
    return {"class_path": class_path, **({"init_args": arguments} if arguments else {})}


@pytest.mark.parametrize(
    ("given", "key", "expected"),
    [
        (["--student", "pspnet"], "student", spec("fakd.models.pspnet")),
        (["--data=scenes"], "data", spec("fakd.data.scenes")),
        (["--data", "a/b"], "data", spec("fakd.data.folder", root="a/b")),
        (["--data=my.yaml"], "data", spec("fakd.data.folder", root="my.yaml")),
        (["--data", "2024"], "data", spec("fakd.data.folder", root="2024")),
        (["--teacher=x.pth"], "teacher", spec("fakd.models.load", path="x.pth")),
        (["--teacher", "runs/t"], "teacher", spec("fakd.models.load", path="runs/t")),
        (["--teacher.weights", "a/t.pth"], "teacher", spec("fakd.models.load", path="a/t.pth")),
        (["--student", "my.package.net"], "student", spec("my.package.net")),
        (["--run", "scenes", "--run", "a"], "run", "a"),
    ],
)
def test_names_and_paths_are_written_out(given, key, expected):
    found = specs_of(given)[key]
    assert (found if isinstance(found, str) else {k: v for k, v in found.items() if v}) == expected


def test_an_existing_path_wins_over_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scenes").mkdir()
    assert specs_of(["--data=scenes"])["data"] == spec("fakd.data.folder", root="scenes")


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
    found = specs_of([*given, "--run", "r"], [*FLAGS, "distillation"])
    assert yaml.safe_load(found.pop("recipe")) == {"run": "2026-11-22", "seeds": {1: 2}}
    assert found == {
        "data": spec("fakd.data.scenes", **{}) | {"init_args": {}},
        "teacher": spec("fakd.models.load", path="runs/t"),
        "student": spec("fakd.models.pspnet", backbone="resnet18"),
        "distillation": PRESETS["cwd-fa"],
        "run": "r",
    }


def test_what_a_recipe_says_nothing_about_is_the_default(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("schedule:\nhardware: {workers: null}\nseed: null\nrun: r\ndata: scenes\n")
    read = parse("train", [str(recipe), "--network=pspnet", "--network.backbone=resnet18"])
    assert (read["schedule"], read["hardware"], read["seed"]) == (Schedule(), Hardware(), 0)


def test_a_mistyped_builder_is_named():
    with pytest.raises(InputError, match="there is no psnet; did you mean pspnet"):
        gather(["--student=psnet"], FLAGS)


def test_a_path_may_begin_at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "r.yaml").write_text("out: ~/masks\n")
    read = parse("predict", ["--recipe=~/r.yaml", "--network=~/net.pth", "--images=~/a"])
    assert (read["images"], read["out"]) == (tmp_path / "a", tmp_path / "masks")


def test_an_unknown_flag_gets_the_nearest_known_one():
    known = ["schedule.steps", "run"]
    wrong = first_unknown(["--run=a", "--schedle.steps=5"], [], known)
    line = f"there is no {wrong}{nearest(wrong, known)}"
    assert line == "there is no schedle.steps; did you mean schedule.steps?"


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("chanel", "ChannelKL"),
        ("channel_kl", "ChannelKL"),
        ("fakd.losses.ChanelKL", "ChannelKL"),
        ("cwd+fa", "cwd-fa"),
        ("cirdk", "cirkd"),
    ],
)
def test_a_loss_that_is_misspelt_is_suggested_by_the_name_that_works(wrong, right):
    with pytest.raises(InputError, match=f"there is no {re.escape(wrong)}; did you mean {right}"):
        gather([f"--distillation={wrong}"], ["distillation"])
    assert gather([f"--distillation={right}"], ["distillation"])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--unlabelled", "photos"], "there is no unlabelled; give data.unlabelled instead"),
        (["--unlabeled=photos"], "there is no unlabeled; give data.unlabelled instead"),
        (["--augmentation.crop", "224x160"], "several numbers, such as 224,160, got 224x160"),
        (["--augmentation.crop", "64"], "several numbers, such as 64,64, got 64"),
        (
            ["--seed", "1", "runs/t"],
            "unexpected argument runs/t; give it as --NAME VALUE, or before all",
        ),
    ],
)
def test_a_near_miss_is_answered_with_what_works(given, said):
    with pytest.raises(InputError, match=re.escape(said)):
        parse("train", ["--network", "pspnet", "--data", "scenes", *given])


def test_what_is_looked_for_by_another_name_is_there():
    arguments = inspect.signature(folder).parameters
    named = [now.removeprefix("data.") for now in MOVED.values() if now.startswith("data.")]
    assert {"unlabelled", "exclude"} <= {*named} <= arguments.keys()


def test_a_path_that_is_not_there_says_where_it_was_looked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "mine").mkdir(parents=True)
    with pytest.raises(InputError, match=r"data.mine does not exist; did you mean data/mine\?"):
        require_existing_path("data", spec("fakd.data.folder", root="data\\mine"))
    with pytest.raises(InputError, match=re.escape(f"my does not exist in {tmp_path}; give a")):
        require_existing_path("data", spec("fakd.data.folder", root="my"))
    with pytest.raises(InputError, match=r"/my does not exist; give a"):
        require_existing_path("data", spec("fakd.data.folder", root=str(tmp_path / "my")))
    require_existing_path("data", spec("fakd.data.folder", root="data/mine"))
