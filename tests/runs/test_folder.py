import csv
import errno
import json
import os

import numpy as np
import pytest

from fakd.errors import InputError
from fakd.models.files import FINISHED
from fakd.runs.curves import Curves
from fakd.runs.folder import (
    BEST,
    FORMAT,
    LAST,
    RESULT,
    RunFolder,
    differences,
    readable,
    write_json,
)
from fakd.runs.locks import lock
from full_disk import full_disk

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


def test_a_setting_that_losses_did_not_have_then_has_its_default(tmp_path):
    def recipe(**given):
        loss = {"class_path": "fakd.losses.ChannelKL", "init_args": {"strength": 1.0, **given}}
        both = {"class_path": "fakd.losses.WeightedSum", "init_args": {"losses": {"a": loss}}}
        return {**RECIPE, "distillation": both}

    RunFolder(tmp_path / "a", recipe())
    RunFolder(tmp_path / "a", recipe(strength_unit="lambda", classifier_gradient=True))
    with pytest.raises(InputError, match="strength_unit: lambda -> margin"):
        RunFolder(tmp_path / "a", recipe(strength_unit="margin"))


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
    assert [row["val/mIoU"] for row in read(tmp_path)] == ["", "30", ""]
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write("4")  # a row cut short by a kill
    continued = Curves(tmp_path, 2)
    continued.write(3, {"task": 0.25})
    assert [(row["step"], row["task"]) for row in read(tmp_path)] == [
        ("1", "2"),
        ("2", "1"),
        ("3", "0.25"),
    ]


def test_what_is_measured_again_comes_instead(tmp_path):
    """As an evaluation of the last step is, when a run was killed before it had its result."""
    curves = Curves(tmp_path, 0)
    for step in (1, 2, 3):
        curves.write(step, {"task": 1.0 / step})
    curves.write(3, {"val/mIoU": 30.0})
    Curves(tmp_path, 3).write(3, {"val/mIoU": 31.0})
    found = [(row["step"], row["task"], row["val/mIoU"]) for row in read(tmp_path)]
    assert found == [("1", "1", ""), ("2", "0.5", ""), ("3", "0.333333", "31")]


def test_what_a_long_run_has_logged_is_not_read_again(tmp_path, monkeypatch):
    curves = Curves(tmp_path, 0)
    curves.write(1, {"task": 1.0, "val/mIoU": 30.0})
    monkeypatch.setattr("fakd.runs.curves.read_curves", None)
    curves.write(2, {"task": 0.5})
    curves.write(2, {"val/mIoU": 31.25})
    curves.write(2, {"val/mIoU": 31.0})
    curves.write(3, {"task": 0.25})
    found = [(row["step"], row["task"], row["val/mIoU"]) for row in read(tmp_path)]
    assert found == [("1", "1", "30"), ("2", "0.5", "31"), ("3", "0.25", "")]


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


def test_a_second_process_is_told_who_is_at_work(tmp_path):
    recorded = {"data": "1"}
    with RunFolder(tmp_path / "a", RECIPE, fingerprints=recorded):
        for existing in ("refuse", "reuse", "overwrite", "extend"):
            with pytest.raises(
                InputError, match=rf"another process uses .*process {os.getpid()} on "
            ):
                RunFolder(tmp_path / "a", RECIPE, existing)
    RunFolder(tmp_path / "a", RECIPE)


def test_without_locks_a_run_begins_with_a_warning(tmp_path, monkeypatch, capsys):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    with RunFolder(tmp_path / "a", RECIPE):
        assert "cannot be locked (No locks available)" in capsys.readouterr().err


def recipe_of(root, network="n", **more):
    data = {"class_path": "fakd.data.folder", "init_args": {"root": root, **more}}
    return {**RECIPE, "data": data, "teacher": {"init_args": {"path": network}}}


def test_the_same_data_and_networks_by_other_paths_are_the_same_run(tmp_path):
    known = {"data": "1", "teacher": "2"}
    RunFolder(tmp_path / "a", recipe_of("d"), fingerprints=known)
    remarks = RunFolder(tmp_path / "a", recipe_of("/m/d", "/m/n"), fingerprints=known).remarks
    assert [each.partition(" from ")[0] for each in remarks] == [
        "uses the same data",
        "uses the same teacher",
    ]
    with pytest.raises(
        InputError, match=r"another recipe \(data.init_args.augmented: None -> True"
    ):
        RunFolder(tmp_path / "a", recipe_of("d", augmented=True), fingerprints=known)


def test_other_data_by_the_same_path_are_another_run(tmp_path):
    RunFolder(tmp_path / "a", recipe_of("d"), fingerprints={"data": "1", "teacher": "2"})
    with pytest.raises(InputError, match="the data have changed"):
        RunFolder(tmp_path / "a", recipe_of("d"), fingerprints={"data": "3", "teacher": "2"})
    with pytest.raises(InputError, match="the teacher has changed"):
        RunFolder(tmp_path / "a", recipe_of("d"), fingerprints={"data": "1", "teacher": "3"})


def test_a_run_of_another_version_is_named_with_it_and_the_first_difference(tmp_path):
    RunFolder(tmp_path / "a", RECIPE)
    file = tmp_path / "a" / "environment.json"
    recorded = json.loads(file.read_text())
    file.write_text(json.dumps(recorded | {"versions": {"fakd": "0.1.0"}}))
    with pytest.raises(InputError, match=r"steps: 10 -> 20; written by fakd 0\.1\.0"):
        RunFolder(tmp_path / "a", {**RECIPE, "schedule": {"steps": 20}})


def test_what_a_kill_left_half_written_is_swept_away(tmp_path):
    RunFolder(tmp_path / "a", RECIPE)
    for name in (".0123456789ab.tmp", ".tmpAb3dE6", ".mine"):
        (tmp_path / "a" / name).touch()
    RunFolder(tmp_path / "a", RECIPE)
    assert [path.name for path in (tmp_path / "a").glob(".*")] == [".mine"]


def test_a_damaged_row_of_curves_is_named(tmp_path):
    (tmp_path / "metrics.csv").write_bytes(b"step,task\n1,2.0\n2,\xff\n3,1.0\n")
    with pytest.raises(InputError, match=r"metrics.csv is damaged in line 3 .*; delete that line"):
        Curves(tmp_path, 5)


def test_a_full_disk_ends_the_curves_in_a_line(tmp_path):
    curves = Curves(tmp_path, 0)
    with full_disk(64), pytest.raises(InputError, match=r"could not write .*: File too large"):
        curves.write(1, {"task": 1.0})


def test_a_full_disk_leaves_no_folder_behind(tmp_path):
    RunFolder(tmp_path / "old", {"a": 1}).__exit__(None)
    kept = (tmp_path / "old" / "recipe.yaml").read_text()
    for name in ("new", "old"):
        said = r"could not write .*recipe.yaml: File too large"
        with full_disk(4), pytest.raises(InputError, match=said):
            RunFolder(tmp_path / name, {"a": 1})
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert (tmp_path / "old" / "recipe.yaml").read_text() == kept


def test_an_unknown_word_for_a_finished_run_overwrites_nothing(tmp_path):
    run = tmp_path / "run"
    with RunFolder(run, RECIPE):
        (run / "result.json").write_text("{}")
    with pytest.raises(Exception, match=r"existing to be one of|violates|Type-check"):
        RunFolder(run, RECIPE, existing="Reuse")
    assert (run / "result.json").is_file()


def test_what_a_run_reads_is_not_overwritten_by_it(tmp_path):
    folder = tmp_path / "a"
    RunFolder(folder, RECIPE).__exit__(None)
    (folder / BEST).write_text("mine")
    write_json(folder / RESULT, {"miou": 1})
    for content in ({"teacher": {"path": str(folder)}}, {"data": [str(folder / BEST)]}):
        with pytest.raises(InputError, match=r"would be overwritten, but the run reads .*"):
            RunFolder(folder, RECIPE | content | {"run": str(folder)}, "overwrite")
        assert (folder / BEST).read_text() == "mine"
        assert (folder / RESULT).is_file()
    RunFolder(folder, RECIPE | {"run": str(folder), "data": str(tmp_path)}, "overwrite")
    assert not (folder / BEST).exists()


def test_a_damaged_result_is_mended_by_going_on_where_that_can_be(tmp_path):
    folder = tmp_path / "a"
    RunFolder(folder, RECIPE).__exit__(None)
    (folder / RESULT).write_text('{"miou":')
    with pytest.raises(InputError, match=r"cannot be read .*--existing overwrite"):
        RunFolder(folder, RECIPE, "reuse")
    (folder / LAST).write_bytes(b"")
    with pytest.raises(InputError, match=r"delete result\.json there and repeat its command"):
        RunFolder(folder, RECIPE, "reuse")


def test_an_empty_file_of_a_run_is_named_in_one_line(tmp_path):
    (tmp_path / "images.npz").touch()
    with pytest.raises(InputError, match="EOFError"), readable(tmp_path):
        np.load(tmp_path / "images.npz")
