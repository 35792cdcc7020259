"""The cells of a grid as processes, with a stand-in for `fakd` that starts at once."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import yaml
from rich.console import Console

from fakd.comparing.cell import Cell, attempt, measure, trial_of, with_minutes
from fakd.comparing.engines import LocalEngine, environments
from fakd.comparing.grid import Grid, merged
from fakd.comparing.methods import network, resolve_methods, resolve_pairs, resolve_seeds
from fakd.comparing.work import GridProgress, work
from fakd.errors import InputError
from fakd.losses import PRESETS
from fakd.settings import Hardware

# Understands `-m fakd COMMAND --recipe FILE --existing reuse` and does what the recipe says.
STAND_IN = """#!{python} -S
import json, pathlib, sys, time
recipe = json.loads(pathlib.Path(sys.argv[sys.argv.index("--recipe") + 1]).read_text())
run = pathlib.Path(recipe["run"])
print("the stand-in works", flush=True)
with open(run.parent / (run.name + ".starts"), "a") as file:
    file.write("started\\n")
run.mkdir(parents=True, exist_ok=True)
if recipe.get("fail"):
    sys.exit("fakd: failed: " + recipe["fail"])
rows = "step,images/s\\n"
for step in range(4, 20, 4):
    rows += f"{{step}},{{recipe['schedule']['batch_size'] / recipe.get('pace', 0.01)}}\\n"
    (run / "metrics.csv").write_text(rows)
time.sleep(recipe.get("seconds", 0.0))
(run / "result.json").write_text(json.dumps({{"final": {{"miou": 50.0}}}}))
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    script = tmp_path / "python"
    script.write_text(STAND_IN.format(python=sys.executable))
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    # Every JSON is YAML; the stand-in must not wait for a YAML reader.
    monkeypatch.setattr("fakd.files.yaml_text", json.dumps)
    return script


def cell(folder, method="cwd", seed=0, **recipe):
    place = folder / "pair" / method / f"seed-{seed}"
    place.parent.mkdir(parents=True, exist_ok=True)
    recipe = {"run": str(place), "schedule": {"steps": 16, "batch_size": 2}, **recipe}
    return Cell("train", place, recipe, f"pair {method} seed {seed}")


def starts(each):
    return each.sibling(".starts").read_text().count("started")


def run(cells, parallel=1, function=attempt):
    with open(os.devnull, "w") as nowhere:
        display = GridProgress(Console(file=nowhere), "runs", cells)
        engine = LocalEngine(Hardware(accelerator="cpu"), parallel)
        failed = work(function, cells, engine, display, poll=0.01)
        engine.close()
    return failed


def test_a_failure_is_recorded_with_its_last_line_and_stops_nobody(tmp_path, stand_in):
    cells = [cell(tmp_path, "a", fail="no luck"), cell(tmp_path, "b")]
    assert run(cells) == [cells[0]]
    assert cells[0].failure == "exit code 1: fakd: failed: no luck"
    assert cells[1].finished
    assert cells[1].failure is None
    assert cells[1].sibling(".log").read_text() == "the stand-in works\n"


def test_finished_cells_are_left_alone_and_failed_ones_tried_again(tmp_path, stand_in):
    cells = [cell(tmp_path, "a", fail="no luck"), cell(tmp_path, "b")]
    run(cells)
    assert run(cells) == [cells[0]]
    assert [starts(each) for each in cells] == [2, 1]
    mended = [cell(tmp_path, "a"), cells[1]]
    assert run(mended) == []
    assert mended[0].failure is None


def test_a_run_that_says_nothing_or_is_killed_is_named_so(tmp_path, stand_in):
    silent = stand_in.with_name("silent")
    silent.write_text("#!/bin/sh\nkill -9 $$\n")
    silent.chmod(0o755)
    each = cell(tmp_path)
    sys.executable = str(silent)
    run([each])
    assert each.failure == "killed by SIGKILL: no output"


def test_two_drivers_share_a_grid_without_doing_anything_twice(tmp_path, stand_in):
    cells = [cell(tmp_path, "a", seed, seconds=0.1) for seed in range(6)]
    cells.append(cell(tmp_path, "b", fail="no luck"))
    failed = {}
    drivers = [
        threading.Thread(target=lambda name=name: failed.update({name: run(cells, parallel=2)}))
        for name in range(2)
    ]
    for driver in drivers:
        driver.start()
    for driver in drivers:
        driver.join()
    assert all(each.finished for each in cells[:6])
    assert [starts(each) for each in cells[:6]] == [1] * 6
    # Whoever came second to the failed one may have tried it once more, not for ever.
    assert starts(cells[6]) <= 2
    assert failed == {0: [cells[6]], 1: [cells[6]]}


def test_a_run_stays_locked_while_it_lives_though_its_driver_was_killed(tmp_path, stand_in):
    each = cell(tmp_path, seconds=2.0)
    driver = f"""
import sys
from pathlib import Path
sys.executable = {str(stand_in)!r}
import json
import fakd.comparing.cell as cell
import fakd.files as files
files.yaml_text = json.dumps
cell.attempt(cell.Cell("train", Path({str(each.folder)!r}), {dict(each.recipe)!r}, "x"), {{}})
"""
    python = stand_in.read_text().split()[0][2:]
    process = subprocess.Popen([python, "-c", driver])
    while not each.folder.exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert each.busy()
    assert run([each]) == []
    assert starts(each) == 1


def test_an_interrupt_ends_the_runs_and_records_no_failure(tmp_path, stand_in):
    cells = [cell(tmp_path, seed=seed, seconds=60.0) for seed in range(2)]

    def interrupt():
        while not cells[0].step:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    began = time.monotonic()
    threading.Thread(target=interrupt).start()
    with pytest.raises(SystemExit) as ended:
        run(cells)
    assert ended.value.code == 128 + signal.SIGTERM
    assert time.monotonic() - began < 20
    assert not any(each.finished or each.failure or each.busy() for each in cells)
    assert not cells[1].folder.exists()


def test_a_call_that_the_engine_loses_is_a_failure(tmp_path):
    def broken(*_):
        raise RuntimeError("the node is gone\n")

    each = cell(tmp_path)
    assert run([each], function=broken) == [each]
    assert each.failure == "RuntimeError: the node is gone"


def test_equal_minutes_give_each_method_the_steps_it_has_time_for(tmp_path, stand_in):
    for method, pace, steps in (("fast", 0.02, 3000), ("slow", 0.06, 1000)):
        intervals = {"log": 1, "save": 1, "evaluate": 1}
        each = cell(tmp_path, method, pace=pace, seconds=60.0, intervals=intervals)
        trial = trial_of(each)
        assert run([trial], function=measure) == []
        assert with_minutes(each, 1.0, trial).recipe["schedule"]["steps"] == steps
        assert not trial.folder.exists()
        run([trial], function=measure)
        assert starts(trial) == 1, "a measurement is kept"


def test_what_cannot_be_timed_says_why(tmp_path, stand_in):
    trial = trial_of(cell(tmp_path, fail="no luck", intervals={}))
    assert run([trial], function=measure) == [trial]
    assert "no luck" in trial.failure


STUDENT = {"class_path": "pspnet", "init_args": {"backbone": "resnet18"}}
SHARED = {"data": "d", "schedule": {"steps": 4, "warmup": 0}, "check_teacher": True}


def grid(folder, methods="cwd", seeds=(0,), minutes=None, **shared):
    pairs = resolve_pairs({"p": {"teacher": "runs/teacher", "student": STUDENT}})
    settings = {**SHARED, **shared}
    return Grid(folder / "g", pairs, resolve_methods(methods), list(seeds), settings, minutes)


def test_the_student_alone_is_always_among_the_methods():
    assert list(resolve_methods("cwd, cwd+fa")) == ["alone", "cwd", "cwd-fa"]
    assert list(resolve_methods(["pd", "alone"])) == ["alone", "pd"]
    assert resolve_methods("cwd")["alone"] == {"distillation": None}
    rounded = resolve_methods({"cwd-int8": {"distillation": "cwd", "int8": True}})["cwd-int8"]
    assert rounded == resolve_methods("cwd")["cwd"] | {"int8": True}
    for alone in ({"alone": {"int8": True}}, {"bare": {"distillation": None, "int8": True}}):
        with pytest.raises(InputError, match=r"int8: not available for the student alone"):
            resolve_methods(alone)


def test_a_method_may_differ_in_any_setting(tmp_path):
    own = {"class_path": "ChannelKL", "init_args": {"strength": 2.0, "weight": 3.0}}
    methods = {"own": {"distillation": own, "schedule": {"warmup": 1}}, "pd": None}
    cells = {each.folder.parent.name: each for each in grid(tmp_path, methods).cells()}
    assert cells["own"].recipe["schedule"] == {"steps": 4, "warmup": 1}
    given = cells["own"].recipe["distillation"]["init_args"]
    assert (given["strength"], given["weight"]) == (2.0, 3.0)
    assert cells["pd"].recipe["schedule"] == {"steps": 4, "warmup": 0}
    assert cells["alone"].command == "train"
    assert cells["alone"].recipe["network"] == cells["pd"].recipe["student"]
    assert "check_teacher" not in cells["alone"].recipe


def test_a_method_may_have_a_relative_strength(tmp_path):
    spared = {"strength": 0.1, "strength_unit": "margin", "classifier_gradient": False}
    methods = {"share": {"distillation": {"class_path": "ChannelKL", "init_args": spared}}}
    cells = {each.folder.parent.name: each for each in grid(tmp_path, methods).cells()}
    given = cells["share"].recipe["distillation"]["init_args"]
    assert {name: given[name] for name in spared} == spared


def test_a_method_may_start_from_another_student(tmp_path):
    methods = {"big-alone": {"distillation": None, "student": "runs/big"}}
    last = grid(tmp_path, methods).cells()[-1]
    assert (last.command, last.recipe["network"]["init_args"]["path"]) == ("train", "runs/big")


@pytest.mark.parametrize(
    ("methods", "expected"),
    [
        ("cwdd", "did you mean cwd?"),
        ({"a": {"distillation": "cwd", "schedul": {}}}, "did you mean schedule?"),
        ({"a": {"distillation": "cwd", "schedule": {"stepz": 1}}}, "did you mean steps?"),
        ({"a": {"distillation": {"class_path": "ChannelKL", "init_args": {"tau": 1}}}}, "n.tau"),
        ({"a": {"distillation": {"class_path": "ChanelKL"}}}, "ChanelKL"),
        ({"a": {"distillation": "cwd", "student": {"class_path": "pspnt"}}}, "pspnt"),
        ({"alone": {"distillation": "cwd"}}, "alone"),
        ({"a": 3}, "expected a mapping"),
    ],
)
def test_a_wrong_method_is_named(methods, expected):
    with pytest.raises(InputError, match=expected.replace("?", r"\?")):
        resolve_methods(methods)


def test_every_preset_can_be_compared():
    methods = resolve_methods(list(PRESETS))
    assert len(methods) == len(PRESETS) + 1
    assert resolve_methods(yaml.safe_load(yaml.safe_dump(methods))) == methods


def test_networks_are_written_out_in_full_however_they_were_given():
    assert network(STUDENT, "student")["class_path"] == "fakd.models.pspnet"
    assert network("runs/a", "teacher")["init_args"]["path"] == "runs/a"
    full = network(STUDENT, "student")
    assert full["init_args"]["dropout"] == 0.1
    assert network(full, "student") == full
    with pytest.raises(InputError, match=r"did you mean student\.backbone"):
        network({"class_path": "pspnet", "init_args": {"bakbone": "a"}}, "student")
    with pytest.raises(InputError, match="pspnet needs backbone"):
        network("pspnet", "student")


def test_one_pair_or_several():
    pairs = resolve_pairs(None, "runs/teacher", STUDENT)
    assert list(pairs) == ["pspnet-resnet18"]
    for wrong in ((None, "t", None), ({"a": {"teacher": "t"}}, None, None), ({}, "t", STUDENT)):
        with pytest.raises(InputError):
            resolve_pairs(*wrong)


def test_a_weight_beside_a_methods_loss_is_refused():
    own = {"distillation": {"class_path": "ChannelKL"}, "weight": 3.0}
    expected = r"methods\.own: weight is no longer .* distillation\.init_args\.weight: 3\.0"
    with pytest.raises(InputError, match=expected):
        resolve_methods({"own": own})


def test_a_grid_may_grow_but_not_change(tmp_path):
    grid(tmp_path).open()
    grid(tmp_path).open()
    grid(tmp_path, "cwd,pd", seeds=(0, 5)).open()
    written = yaml.safe_load((tmp_path / "g" / "grid.yaml").read_text())
    assert (list(written["methods"]), written["seeds"]) == (["alone", "cwd", "pd"], [0, 5])
    for changed, expected in (
        (grid(tmp_path, "cwd", seeds=(0, 5)), "methods: without pd"),
        (grid(tmp_path, "cwd,pd"), "seeds: without 5"),
        (grid(tmp_path, "cwd,pd", (0, 5), data="e"), "data: d -> e"),
        (grid(tmp_path, "cwd,pd", (0, 5), minutes=1.0), "minutes: None -> 1.0"),
        (
            grid(tmp_path, {"cwd": {"task": {"average": "all"}}, "pd": None}, (0, 5)),
            "task: None -> ",
        ),
    ):
        with pytest.raises(InputError, match=expected):
            changed.open()
    assert yaml.safe_load((tmp_path / "g" / "grid.yaml").read_text()) == written


def test_a_grid_does_not_move_into_a_folder_of_something_else(tmp_path):
    (tmp_path / "g").mkdir()
    (tmp_path / "g" / "thesis.tex").touch()
    with pytest.raises(InputError, match="contains no grid"):
        grid(tmp_path).open()


@pytest.mark.parametrize("wrong", [{"seeds": ()}, {"seeds": (1, 1)}, {"minutes": 0.0}])
def test_seeds_and_minutes_that_mean_nothing_are_refused(tmp_path, wrong):
    with pytest.raises(InputError):
        grid(tmp_path, **wrong)


def test_settings_are_merged_inside_out():
    assert merged({"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"c": 4}}) == {
        "a": {"b": 1, "c": 4},
        "d": 3,
    }


def test_a_machine_is_divided_among_its_runs(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    one, two = Hardware(), Hardware(devices=2)
    assert environments(one, None, [], 8) == [{"OMP_NUM_THREADS": "8"}]
    assert environments(one, 3, [], 8) == [{"OMP_NUM_THREADS": "2"}] * 3
    gpus = [each["CUDA_VISIBLE_DEVICES"] for each in environments(one, None, ["0", "3"], 8)]
    assert gpus == ["0", "3"]
    pairs = [each["CUDA_VISIBLE_DEVICES"] for each in environments(two, None, list("0123"), 8)]
    assert pairs == ["0,1", "2,3"]
    shared = [each["CUDA_VISIBLE_DEVICES"] for each in environments(one, 3, ["0", "1"], 8)]
    assert shared == ["0", "1", "0"]
    with pytest.raises(InputError, match=r"hardware\.devices"):
        environments(two, None, ["0"], 8)


@pytest.mark.parametrize(
    ("given", "expected"),
    [(2, [0, 1]), ([4, 1], [4, 1]), ("3, 5", [3, 5]), ("7", [7]), ((2,), [2])],
)
def test_seeds_are_counted_or_named(given, expected):
    assert resolve_seeds(given) == expected


@pytest.mark.parametrize("given", ["", "3,", "1.5", "a"])
def test_seeds_that_are_no_numbers_are_refused(given):
    with pytest.raises(InputError, match="expected --seeds"):
        resolve_seeds(given)
