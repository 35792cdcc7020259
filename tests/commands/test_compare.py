"""`fakd compare` through the real command line, on made-up data."""

import contextlib
import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
import yaml
from safetensors.torch import load_file

import fakd
from fakd.cli import main
from fakd.commands.evaluate import evaluate
from fakd.comparing.cell import Cell, attempt
from fakd.comparing.engines import open_engine
from fakd.data import SegmentationData, scenes
from fakd.runs.folder import read_yaml
from fakd.settings import Hardware
from fakd.signals import Interrupted

DATA = ["--data=scenes", "--data.train=8", "--data.val=4", "--data.size=[32,48]"]
SETTINGS = [
    *DATA, "--augmentation.crop=[32,48]", "--schedule.batch_size=2", "--intervals.log=1",
    "--hardware.accelerator=cpu", "--hardware.threads=1",
]  # fmt: skip


def student(flag="student", channels=8):
    return [
        f"--{flag}=pspnet",
        f"--{flag}.backbone=mobilenetv3_small_050",
        f"--{flag}.channels={channels}",
    ]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "teacher"
    arguments = ["train", *student("network", 16), *SETTINGS, "--schedule.steps=4"]
    assert main([*arguments, f"--run={run}"]) == 0
    return run


def compare(teacher, run, *more, steps=2):
    return main(
        ["compare", f"--teacher={teacher}", *student(), *SETTINGS, f"--schedule.steps={steps}",
         "--check_teacher=false", f"--run={run}", *more]
    )  # fmt: skip


@pytest.fixture
def in_process(monkeypatch):
    """Run the cells in this process: starting one takes seconds. Gives the recipes it ran."""
    ran = []

    class Child(subprocess.Popen):
        def __init__(self, command, *, stdout, **_):
            self._child_created = False
            assert command[1:3] == ["-m", "fakd"]
            ran.append(command[command.index("--recipe") + 1])
            with (
                os.fdopen(os.dup(stdout.fileno()), "w") as log,
                contextlib.redirect_stdout(log),
                contextlib.redirect_stderr(log),
            ):
                self.returncode = main(command[3:])

        def poll(self):
            return self.returncode

    monkeypatch.setattr("fakd.comparing.cell.subprocess.Popen", Child)
    return ran


def cell(run, method, seed=0):
    (pair,) = (path for path in run.iterdir() if path.is_dir())
    return pair / method / f"seed-{seed}"


def first_row(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return next(csv.DictReader(file))


@pytest.mark.slow
def test_a_grid_of_real_processes(teacher, tmp_path, capsys):
    run = tmp_path / "grid"
    assert compare(teacher, run, "--methods=cwd", "--seeds=1") == 0
    printed = capsys.readouterr().out
    assert "2 of 2 done" in printed
    # Nobody is waited for who has no terminal of his own.
    log = cell(run, "cwd").with_name("seed-0.log").read_text()
    assert "val mIoU" in log
    alone, cwd = (cell(run, method) for method in ("alone", "cwd"))
    assert json.loads((alone / "result.json").read_text())["steps"] == 2
    assert "teacher" in yaml.safe_load((cwd / "recipe.yaml").read_text())
    # Same initial weights, same batch: the first task loss is that of the student alone.
    assert first_row(alone)["task"] == first_row(cwd)["task"]
    assert first_row(alone).get("distillation") is None


def test_teachers_of_other_classes_are_mapped_in_every_run(teacher, tmp_path, in_process, capsys):
    ours = scenes(1, 1).class_names
    content = {"classes": {name: [(i + 1) % 12] for i, name in enumerate(ours)}, "rest": "ignore"}
    (tmp_path / "map.yaml").write_text(yaml.safe_dump(content))
    run, mapped = tmp_path / "grid", f"--classes_from={tmp_path / 'map.yaml'}"
    assert compare(teacher, run, "--methods=cwd", "--seeds=1", mapped, steps=1) == 0
    alone, cwd = (read_yaml(cell(run, method) / "recipe.yaml") for method in ("alone", "cwd"))
    assert cwd["classes_from"] == content
    assert "classes_from" not in alone
    assert main(["compare", str(run / "grid.yaml")]) == 0
    assert len(in_process) == 2
    (tmp_path / "map.yaml").write_text("classes: [road]\n")
    capsys.readouterr()
    assert compare(teacher, tmp_path / "x", "--methods=cwd", mapped) == 2
    assert "classes must give the teacher classes" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_what_is_new_in_a_grid_is_run_and_nothing_else(teacher, tmp_path, in_process, capsys):
    run = tmp_path / "grid"
    assert compare(teacher, run, "--methods=cwd", "--seeds=1") == 0
    assert len(in_process) == 2
    assert compare(teacher, run, "--methods=cwd,cwd+fa", "--seeds=2") == 0
    assert sorted(path.split("/")[-2:] for path in in_process[2:]) == [
        ["alone", "seed-1.yaml"],
        ["cwd", "seed-1.yaml"],
        ["cwd-fa", "seed-0.yaml"],
        ["cwd-fa", "seed-1.yaml"],
    ]
    capsys.readouterr()
    assert main(["compare", str(run / "grid.yaml")]) == 0
    assert len(in_process) == 6, "the file of a grid is the command that made it"
    printed = capsys.readouterr().out
    assert "6 finished" in printed
    assert "mIoU" in printed
    tasks = {first_row(cell(run, method, 1))["task"] for method in ("alone", "cwd", "cwd-fa")}
    assert len(tasks) == 1
    assert first_row(cell(run, "alone", 0))["task"] not in tasks
    assert compare(teacher, run, "--methods=cwd,cwd+fa", "--seeds=2", steps=3) == 2
    assert "schedule.steps: 2 -> 3" in capsys.readouterr().err
    for other, reason in (("alone", "another distillation"), ("cwd", "has seed 0")):
        place = cell(run, "cwd", 1)
        shutil.rmtree(place)
        shutil.copytree(cell(run, other, 1 if other == "alone" else 0), place)
        assert compare(teacher, run, "--methods=cwd,cwd+fa", "--seeds=2") == 1
        streams = capsys.readouterr()
        assert "cannot be used" in streams.err
        assert reason in streams.err
        assert "CWD, seed 1, failed" in streams.out


def test_runs_on_changed_data_are_not_added_to_finished_ones(
    teacher, tmp_path, in_process, monkeypatch, capsys
):
    run = tmp_path / "grid"
    assert compare(teacher, run, "--methods=cwd", "--seeds=1") == 0
    assert compare(teacher, run, "--methods=cwd", "--seeds=1") == 0
    monkeypatch.setattr(SegmentationData, "fingerprint", lambda self: "another")
    assert compare(teacher, run, "--methods=cwd", "--seeds=1") == 0, "its verdict can still be read"
    before = (run / "grid.yaml").read_bytes()
    assert compare(teacher, run, "--methods=cwd", "--seeds=2") == 2
    assert "the data have changed since" in capsys.readouterr().err
    assert len(in_process) == 2
    assert (run / "grid.yaml").read_bytes() == before


def test_a_failure_is_shown_last_and_the_others_are_finished(teacher, tmp_path, in_process, capsys):
    grid = tmp_path / "grid.yaml"
    broken = {"distillation": "cwd", "schedule": {"warmup": 9}}
    grid.write_text(yaml.safe_dump({"methods": {"broken": broken, "cwd": None}, "seeds": 1}))
    run = tmp_path / "run"
    assert compare(teacher, run, f"--recipe={grid}") == 1
    streams = capsys.readouterr()
    assert "fakd: failed: 1 of 3 runs failed" in streams.err
    assert "expected schedule.warmup" in streams.err
    assert "broken" in streams.out
    assert (cell(run, "cwd") / "result.json").is_file()
    failure = cell(run, "broken").with_name("seed-0.failed").read_text()
    assert failure.startswith("exit code 2: fakd: error: expected schedule.warmup")


def test_equal_minutes(teacher, tmp_path, in_process, monkeypatch, capsys):
    def timed(trial, *_):
        seconds = 0.02 if trial.command == "train" else 0.03
        trial.outcome.parent.mkdir(parents=True, exist_ok=True)
        trial.outcome.write_text(json.dumps({"seconds_per_step": seconds}))

    monkeypatch.setattr("fakd.comparing.work.measure", timed)
    run = tmp_path / "grid"
    assert compare(teacher, run, "--methods=cwd", "--seeds=1", "--minutes=0.002") == 0
    assert "not trained for the same number of steps: from" in capsys.readouterr().out
    steps = [
        json.loads((cell(run, method) / "result.json").read_text())["steps"]
        for method in ("alone", "cwd")
    ]
    assert steps == [6, 4]


UNDECIDED = ["--methods=cwd", "--worthwhile=0.00001", "--until_decided"]


def test_looks_train_the_seeds_they_add_and_keep_those_that_were_named(
    teacher, tmp_path, in_process, monkeypatch, capsys
):
    # The steps of a method are timed by a process that is ended from without.
    monkeypatch.setattr("fakd.commands.compare.expected_seconds", lambda *_: 9.0)
    run = tmp_path / "grid"
    given = [*UNDECIDED, "--seeds=3,5,7", "--most=4"]
    assert compare(teacher, run, *given) == 0
    assert capsys.readouterr().out.count("CWD: cannot tell") == 2
    order = [int(path.split("seed-")[1].removesuffix(".yaml")) for path in in_process]
    assert order == [3, 3, 5, 5, 7, 7, 8, 8]
    assert json.loads((run / "looks.json").read_text()) == {"seeds": [3, 4]}
    assert compare(teacher, run, *given) == 0
    assert main(["compare", str(run / "grid.yaml")]) == 0
    assert capsys.readouterr().out.count("4 of 4 seeds") == 2
    assert len(in_process) == 8
    assert compare(teacher, run, *UNDECIDED, "--seeds=5", "--most=4") == 2
    assert "expected --seeds of no more than --most 4, got 5" in capsys.readouterr().err


def test_the_test_split_is_opened_once(teacher, tmp_path, in_process, monkeypatch, capsys):
    run = tmp_path / "grid"
    broken = ["--methods={cwd: null, broken: {distillation: cwd, schedule: {warmup: 9}}}"]
    assert compare(teacher, run, "--seeds=2", *broken, "--final") == 1
    error = capsys.readouterr().err
    assert "the same command retries them and opens the test split without those that" in error
    assert not (run / "test.json").exists()
    assert compare(teacher, run, "--seeds=2", *broken, "--final") == 1
    printed = capsys.readouterr().out
    assert "on scenes, test split" in printed
    kept = json.loads((run / "test.json").read_text())
    assert kept["images"] == 4
    pair = cell(run, "cwd").parents[1].name
    assert list(kept["runs"]) == [f"{pair}/{m}/seed-{s}" for m in ("alone", "cwd") for s in (0, 1)]
    network = fakd.load(cell(run, "cwd") / "final.safetensors")
    scores = evaluate(network, scenes(8, 4, (32, 48)), "test", accelerator="cpu")
    assert kept["runs"][f"{pair}/cwd/seed-0"]["miou"] == pytest.approx(scores["miou"], abs=1e-3)
    assert main(["evaluate", f"--network={cell(run, 'cwd')}", *DATA, "--split=test"]) == 0
    assert "(4 images of scenes, test)" in capsys.readouterr().out

    monkeypatch.setattr("fakd.report.final.validate_images", None)
    ran = len(in_process)
    assert main(["compare", str(run / "grid.yaml"), "--final"]) == 1
    assert f"test split opened {kept['opened']} by {kept['command']}" in capsys.readouterr().out
    assert json.loads((run / "test.json").read_text()) == kept
    # What failed is tried again, and no longer scored.
    assert {path.split("/")[-2] for path in in_process[ran:]} == {"broken"}
    assert compare(teacher, run, "--seeds=3", *broken) == 2
    error = capsys.readouterr().err
    assert "was opened (test.json), so no runs may be added, and seed 2 is new" in error
    assert main(["report", str(run), f"--out={tmp_path / 'page.html'}", "--images=0"]) == 0
    page = (tmp_path / "page.html").read_text()
    assert "On the test split" in page
    assert f"4 images used neither for training nor for selection, opened {kept['opened']}" in page


def test_scoring_that_was_stopped_goes_on(teacher, tmp_path, in_process, monkeypatch):
    from fakd.report import final

    run, scored, score = tmp_path / "grid", [], final.validate_images

    def once(*given):
        if len(scored) == 1:
            raise Interrupted(signal.SIGTERM)
        scored.append(given)
        return score(*given)

    monkeypatch.setattr(final, "validate_images", once)
    with pytest.raises(Interrupted):
        compare(teacher, run, "--methods=cwd", "--seeds=1", "--final")
    first = json.loads((run / "test.json").read_text())
    assert [each is None for each in first["runs"].values()] == [False, True]
    monkeypatch.setattr(final, "validate_images", score)
    assert compare(teacher, run, "--methods=cwd", "--seeds=1", "--final") == 0
    kept = json.loads((run / "test.json").read_text())
    assert kept["opened"] == first["opened"]
    assert None not in kept["runs"].values()


@pytest.mark.slow
def test_a_comparison_stopped_in_its_second_look_goes_on_there(teacher, tmp_path):
    run = tmp_path / "grid"
    command = [
        "compare", f"--teacher={teacher}", *student(), *SETTINGS, "--schedule.steps=2",
        "--check_teacher=false", f"--run={run}", *UNDECIDED, "--most=4",
    ]  # fmt: skip
    process = subprocess.Popen([sys.executable, "-m", "fakd", *command], stderr=subprocess.PIPE)
    while not [*run.glob("*/alone/seed-3")]:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert b"the same command resumes" in process.communicate()[1]
    assert not (cell(run, "cwd", 3) / "result.json").exists()
    before = (cell(run, "cwd", 2) / "result.json").stat().st_mtime_ns
    assert main(command) == 0
    assert (cell(run, "cwd", 3) / "result.json").is_file()
    assert (cell(run, "cwd", 2) / "result.json").stat().st_mtime_ns == before
    assert json.loads((run / "looks.json").read_text()) == {"seeds": [3, 4]}


@pytest.mark.slow
def test_a_step_is_timed_by_the_command_itself(teacher, tmp_path):
    run = tmp_path / "grid"
    assert compare(teacher, run, "--methods=alone", "--seeds=1", "--minutes=0.02") == 0
    measured = json.loads(cell(run, "alone").with_name("calibration.json").read_text())
    result = json.loads((cell(run, "alone") / "result.json").read_text())
    assert result["steps"] == max(1, round(1.2 / measured["seconds_per_step"]))
    assert 0.3 < result["train_seconds"] < 5


@pytest.mark.slow
def test_a_stopped_grid_continues_to_the_same_weights(teacher, tmp_path):
    """Interrupt the command in the midst of a run, and give it again."""
    more = ["--methods=cwd", "--seeds=1", "--intervals.save=5"]
    assert compare(teacher, tmp_path / "whole", *more, steps=60) == 0
    command = [
        "compare", f"--teacher={teacher}", *student(), *SETTINGS, "--schedule.steps=60",
        "--check_teacher=false", f"--run={tmp_path / 'stopped'}", *more,
    ]  # fmt: skip
    process = subprocess.Popen([sys.executable, "-m", "fakd", *command], stderr=subprocess.PIPE)
    pair = "pspnet-mobilenetv3_small_050"
    last = tmp_path / "stopped" / pair / "cwd" / "seed-0" / "last.safetensors"
    while not last.exists():
        assert process.poll() is None
        time.sleep(0.005)
    process.terminate()
    assert b"stopped by SIGTERM; the same command resumes" in process.communicate()[1]
    assert process.returncode == 128 + signal.SIGTERM
    assert not last.with_name("result.json").exists()
    assert not last.parent.with_name("seed-0.failed").exists()
    assert main(command) == 0
    assert "continuing at step" in last.parent.with_name("seed-0.log").read_text()
    whole, stopped = (
        load_file(cell(tmp_path / name, "cwd") / "final.safetensors")
        for name in ("whole", "stopped")
    )
    assert all(torch.equal(whole[name], stopped[name]) for name in whole)


@pytest.mark.slow
def test_a_local_ray_cluster(teacher, tmp_path):
    pytest.importorskip("ray")
    run = tmp_path / "grid"
    more = ["--methods=cwd", "--seeds=1", "--on=ray", "--cluster={num_cpus: 1}"]
    assert compare(teacher, run, *more) == 0
    assert (cell(run, "cwd") / "result.json").is_file()


@pytest.mark.slow
def test_submitit_on_this_machine(teacher, tmp_path):
    pytest.importorskip("submitit")
    run = tmp_path / "grid"
    more = ["--methods=alone", "--seeds=1", "--on=slurm", "--cluster={cluster: local}"]
    assert compare(teacher, run, *more) == 0


@pytest.mark.slow
def test_a_job_whose_time_is_over_saves_and_is_queued_again(teacher, tmp_path):
    pytest.importorskip("submitit")
    recipe = read_yaml(teacher / "recipe.yaml")
    run = tmp_path / "seed-0"
    schedule = {**recipe["schedule"], "steps": 120}
    recipe |= {"run": str(run), "schedule": schedule}
    recipe["intervals"] = {"log": 1, "save": 1000, "evaluate": 1000}
    work = Cell("train", run, recipe, "x")
    cluster = {"cluster": "local"}
    engine = open_engine("slurm", Hardware(), 1, cluster, str(tmp_path / "jobs"))
    job = engine.submit(attempt, work)
    while work.step < 5:
        time.sleep(0.02)
    listed = subprocess.run(["ps", "-ewwo", "pid,args"], capture_output=True, text=True).stdout
    mine = [
        line for line in listed.splitlines() if "core._submit" in line and str(tmp_path) in line
    ]
    assert mine
    for line in mine:
        os.kill(int(line.split()[0]), signal.SIGUSR2)
    job.result()
    log = work.sibling(".log").read_text()
    assert "stopped by SIGTERM after step" in log
    assert "continuing at step" in log
    assert work.finished
    assert work.failure is None


@pytest.mark.parametrize(("place", "library"), [("ray", "ray"), ("slurm", "submitit")])
def test_a_missing_extra_is_named(teacher, tmp_path, monkeypatch, capsys, place, library):
    monkeypatch.setitem(sys.modules, library, None)
    assert compare(teacher, tmp_path / "grid", f"--on={place}") == 2
    assert f"pip install 'fakd[{place}]'" in capsys.readouterr().err
    assert not (tmp_path / "grid").exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--methods=cwdd"], "did you mean cwd"),
        (["--seeds=0"], "seeds"),
        (["--seeds=some"], "as 3,4,5, got 'some'"),
        (["--seeds=3,"], "as 3,4,5, got '3,'"),
        (["--parallel=0"], "parallel"),
        (["--student.bakbone=a"], "student.backbone"),
        (["--pairs={a: {teacher: b, student: c}}"], "choose one"),
        (["gird.yaml"], "gird.yaml"),
    ],
)
def test_mistakes(teacher, tmp_path, capsys, arguments, expected):
    assert compare(teacher, tmp_path / "grid", *arguments) == 2
    error = capsys.readouterr().err
    assert expected in error
    assert error.count("\n") == 1
    assert not (tmp_path / "grid").exists()
