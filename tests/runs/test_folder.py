import csv
import json

import pytest

from fakd.errors import InputError
from fakd.models.files import FINISHED
from fakd.runs.curves import Curves
from fakd.runs.folder import BEST, FORMAT, RESULT, RunFolder, differences, write_json
from fakd.runs.locks import lock

RECIPE = {"schedule": {"steps": 10}, "seed": 0, "run": "a", "hardware": {"workers": 0}}


def test_a_finished_run_is_refused_reused_or_overwritten(tmp_path):
    RunFolder(tmp_path / "a", RECIPE)
    write_json(tmp_path / "a" / RESULT, {"miou": 1})
    before = sorted(path.name for path in (tmp_path / "a").iterdir())
    with pytest.raises(InputError, match=r"finished run.*--existing overwrite"):
        RunFolder(tmp_path / "a", RECIPE)
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == before
    assert RunFolder(tmp_path / "a", RECIPE, "reuse").result == {"miou": 1}
    assert RunFolder(tmp_path / "a", RECIPE, "overwrite").result is None
    assert not (tmp_path / "a" / RESULT).exists()


def test_another_recipe_is_refused_and_named(tmp_path):
    RunFolder(tmp_path / "a", RECIPE)
    with pytest.raises(InputError, match=r"another recipe \(schedule.steps: 10 -> 20\)"):
        RunFolder(tmp_path / "a", {**RECIPE, "schedule": {"steps": 20}})


def test_another_seed_is_another_recipe(tmp_path):
    RunFolder(tmp_path / "a", RECIPE)
    with pytest.raises(InputError, match=r"another recipe \(seed: 0 -> 1\)"):
        RunFolder(tmp_path / "a", {**RECIPE, "seed": 1})


def test_hardware_may_change_between_sittings(tmp_path):
    RunFolder(tmp_path / "a", RECIPE)
    RunFolder(tmp_path / "a", {**RECIPE, "hardware": {"workers": 4}})


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "photo.jpg").write_text("mine")
    for existing in ("refuse", "reuse", "overwrite"):
        with pytest.raises(InputError, match="not a run"):
            RunFolder(tmp_path, RECIPE, existing)
    assert [path.name for path in tmp_path.iterdir()] == ["photo.jpg"]


def test_overwriting_keeps_what_the_user_put_there(tmp_path):
    RunFolder(tmp_path / "a", RECIPE)
    (tmp_path / "a" / "notes.txt").write_text("mine")
    RunFolder(tmp_path / "a", RECIPE, "overwrite")
    assert (tmp_path / "a" / "notes.txt").read_text() == "mine"


def test_differences_look_into_mappings():
    assert differences({"a": {"b": 1, "c": 2}}, {"a": {"b": 1}, "d": 3}) == [
        "a.c: 2 -> None",
        "d: None -> 3",
    ]


def test_the_environment_is_recorded(tmp_path):
    RunFolder(tmp_path / "a", RECIPE)
    recorded = json.loads((tmp_path / "a" / "environment.json").read_text())
    assert {"command", "versions", "processors", "gpus"} <= recorded.keys()


def test_a_run_of_another_format_is_not_continued(tmp_path):
    RunFolder(tmp_path / "a", RECIPE)
    file = tmp_path / "a" / "environment.json"
    recorded = json.loads(file.read_text())
    assert recorded["format"] == FORMAT
    file.write_text(json.dumps(recorded | {"format": FORMAT + 1}))
    with pytest.raises(InputError, match=r"written by fakd .* in format 2.*use that version"):
        RunFolder(tmp_path / "a", RECIPE)
    RunFolder(tmp_path / "a", RECIPE, "overwrite")


def test_the_best_network_is_where_a_run_is_loaded_from():
    assert BEST == FINISHED


def read(path):
    with (path / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_curves_grow_columns_and_forget_what_came_after_a_checkpoint(tmp_path):
    curves = Curves(tmp_path, 0)
    curves.write(1, {"task": 2.0})
    curves.write(2, {"task": 1.0, "val/mIoU": 30.0})
    curves.write(3, {"task": 0.5})
    curves.close()
    assert [row["val/mIoU"] for row in read(tmp_path)] == ["", "30", ""]
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write("4")  # a row cut short by a kill
    continued = Curves(tmp_path, 2)
    continued.write(3, {"task": 0.25})
    continued.close()
    assert [(row["step"], row["task"]) for row in read(tmp_path)] == [
        ("1", "2"),
        ("2", "1"),
        ("3", "0.25"),
    ]


def test_a_lock_has_one_holder(tmp_path):
    with lock(tmp_path / "a") as first, lock(tmp_path / "a") as second:
        assert first is not None
        assert second is None
    with lock(tmp_path / "a") as third:
        assert third is not None


def test_a_folder_is_abandoned_only_if_it_is_new_and_nothing_is_saved(tmp_path):
    run = RunFolder(tmp_path / "run", {"a": 1})
    run.abandon()
    assert not (tmp_path / "run").exists()
    run = RunFolder(tmp_path / "run", {"a": 1})
    (tmp_path / "run" / "notes.txt").write_text("mine")
    run.abandon()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["notes.txt"]
    (tmp_path / "run" / "notes.txt").unlink()
    run = RunFolder(tmp_path / "run", {"a": 1})
    run.last.touch()
    run.abandon()
    assert (run.path / "recipe.yaml").is_file()
    run.last.unlink()
    RunFolder(tmp_path / "run", {"a": 1}).abandon()
    assert (run.path / "recipe.yaml").is_file(), "it was there before"
