"""The largest student within a budget: read, chosen, used, and said."""

import json

import pytest
import torch
import yaml

import fakd
from fakd import fitting
from fakd.budget import read_budget
from fakd.cli import main
from fakd.errors import InputError
from fakd.fitting import Conditions, check_against, propose
from fakd.models import open_network, pspnet
from fakd.runs.folder import read_environment
from fakd.settings import Inference
from fakd.timing import Timing, time_network

WORDS = [
    "timm:lcnet_035?channels=48&output_stride=16",
    "timm:mobilenetv3_small_050?channels=32",
    "timm:lcnet_050?channels=48",
]
"""By their parameters."""
SIZES = [0.349e6, 0.432e6, 0.541e6]
CONDITIONS = Conditions((64, 96), 12, Inference(), torch.device("cpu"))


@pytest.mark.parametrize(
    ("text", "limits"),
    [
        ("latency<15ms", {"torch": 15}),
        ("latency<0.5s", {"torch": 500}),
        ("latency < 15", {"torch": 15}),
        ("compile<7.5ms", {"compile": 7.5}),
        ("Parameters<2M,GFLOPs<5", {"parameters": 2e6, "gflops": 5}),
        ("parameters<300k", {"parameters": 3e5}),
        ("parameters<1e6,latency<=3ms", {"parameters": 1e6, "torch": 3}),
    ],
)
def test_limits_are_read(text, limits):
    assert read_budget(text) == limits


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "expected limits such as"),
        ("latency>15ms", "got 'latency>15ms'"),
        ("latency<15ms,", "expected limits such as"),
        ("15ms", "expected limits such as"),
        ("latnecy<15ms", "no latnecy; did you mean latency"),
        ("speed<3", "choose from latency, parameters, gflops"),
        ("latency<15M", "expected latency in ms or s"),
        ("parameters<2ms", "expected parameters in k or m"),
        ("latency<0ms", "above 0"),
        ("latency<1.2.3ms", "1.2.3 is not a number"),
        ("latency<5ms,torch<4ms", "torch has two limits"),
    ],
)
def test_what_is_no_limit_is_refused_before_anything_is_opened(text, said, capsys):
    assert main(["distill", "--teacher=pspnet", f"--fit={text}", "--data=scenes", "--run=r"]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


@pytest.fixture(autouse=True)
def few(monkeypatch):
    """Three students, the largest not the last."""
    monkeypatch.setattr(fitting, "installed", lambda: [WORDS[2], WORDS[0], WORDS[1]])


@pytest.mark.parametrize(("limit", "place"), [("0.6M", 2), ("0.5M", 1), ("432k", 0), ("0.36M", 0)])
def test_the_largest_within_is_chosen(limit, place):
    found = propose(f"parameters<{limit}", CONDITIONS)
    assert found.student == WORDS[place]
    assert found.costs["parameters"] == pytest.approx(SIZES[place], rel=0.01)
    assert found.holds
    assert found.looked_at == 3 - place


def test_operations_are_those_at_the_size_the_network_sees():
    small = Conditions((64, 96), 12, Inference(scale=0.5), torch.device("cpu"))
    costs = [propose("gflops<50", each).costs["gflops"] for each in (CONDITIONS, small)]
    assert costs[0] == pytest.approx(4 * costs[1], rel=0.1)
    between = (costs[0] + costs[1]) / 2
    assert propose(f"gflops<{between}", small).student == WORDS[2]
    assert propose(f"gflops<{between}", CONDITIONS).student != WORDS[2]


@pytest.fixture
def times(monkeypatch):
    """Latencies in ms by parameters, and what was timed."""
    known, seen = {SIZES[0]: 5.0, SIZES[1]: 20.0, SIZES[2]: 10.0}, []

    def made_up(network, size, device, *, runtimes, inference):
        count = sum(each.numel() for each in network.parameters())
        near = min(known, key=lambda each: abs(each - count))
        seen.append((near, size, runtimes, inference))
        if known[near] is None:
            yield Timing("", runtimes[0], size, "", problem="no compiler")
        yield Timing("", runtimes[0], size, "", median=known[near])

    monkeypatch.setattr(fitting, "time_network", made_up)
    return known, seen


def test_what_is_slow_though_small_is_passed_over(times):
    assert propose("latency<15ms", CONDITIONS).student == WORDS[2]
    assert propose("latency<15ms,parameters<0.5M", CONDITIONS).student == WORDS[0]
    # What has too many parameters was not timed.
    assert [near for near, *_ in times[1]] == [SIZES[2], SIZES[1], SIZES[0]]
    assert times[1][0][1:] == ((64, 96), ["torch"], Inference())


def test_limits_may_be_of_any_runtime(times):
    assert propose("latency<15ms,onnx<12ms", CONDITIONS).student == WORDS[2]
    assert [runtimes for _, _, runtimes, _ in times[1]] == [["torch"], ["onnx"]]


def test_nothing_that_fits_is_a_sentence(times):
    with pytest.raises(InputError) as error:
        propose("latency<1ms", CONDITIONS)
    said = str(error.value)
    assert "none of the 3 ready-made students is within it" in said
    assert f"the smallest, {WORDS[0]}, has 0.35 M parameters, 5.00 ms in torch" in said


def test_a_runtime_that_does_not_run_is_told(times):
    times[0].update(dict.fromkeys(SIZES))
    with pytest.raises(InputError, match="does not run in compile: no compiler"):
        propose("compile<1s", CONDITIONS)
    with pytest.raises(InputError, match="does not run in compile: no compiler"):
        check_against("compile<1s", pspnet("mobilenetv3_small_050", 3, channels=8), "x", CONDITIONS)


def test_weights_that_are_here_are_taken(monkeypatch):
    monkeypatch.setattr(fitting, "imagenet_location", lambda _: "here")
    assert propose("parameters<0.36M", CONDITIONS).student == f"{WORDS[0]}&weights=imagenet"


def test_latency_is_that_of_fakd_latency():
    found = propose("latency<100s", CONDITIONS)
    (timing,) = time_network(open_network(WORDS[2], 12), (64, 96), torch.device("cpu"))
    assert 0.2 < found.costs["torch"] / timing.median < 5
    assert found.measured == f"one image of 64 x 96, {timing.device}"


@pytest.fixture
def distilled(tmp_path):
    """Distils two steps with the flags given; the exit code, and the run."""
    teacher = tmp_path / "teacher.safetensors"
    torch.manual_seed(1)
    fakd.models.save(
        pspnet("mobilenetv3_small_050", 12, channels=8), teacher, class_names=None, palette=None
    )

    def run(*flags, name="student"):
        given = [f"--teacher={teacher}", "--data=scenes", "--data.train=4", "--data.val=2"]
        given += ["--data.size=32,48", f"--run={tmp_path / name}", "--check_teacher=false"]
        given += ["--schedule.steps=2", "--schedule.batch_size=2", "--augmentation.crop=32,48"]
        return main(["distill", *given, *flags]), tmp_path / name

    return run


def test_the_choice_is_trained_and_said(distilled, capsys):
    code, run = distilled("--fit=parameters<0.5M")
    assert code == 0
    assert f"largest ready-made student within it is {WORDS[1][:20]}" in " ".join(
        capsys.readouterr().out.split()
    )
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    assert recipe["fit"] == "parameters<0.5M"
    assert recipe["student"]["init_args"]["backbone"] == "timm/mobilenetv3_small_050"
    noted = read_environment(run)
    assert noted["fit"]["student"] == WORDS[1]
    assert noted["fit"]["sentence"] in noted["wiring"]["between"]
    # It begins, and so ends, as if it had been named.
    code, named = distilled(f"--student={WORDS[1]}", name="named")
    assert code == 0
    results = [json.loads((each / "result.json").read_text())["final"] for each in (run, named)]
    assert results[0] == results[1]
    assert (run / "final.safetensors").read_bytes() == (named / "final.safetensors").read_bytes()


def test_a_run_that_goes_on_keeps_its_student(distilled, monkeypatch):
    assert distilled("--fit=parameters<0.5M")[0] == 0
    monkeypatch.setattr(fitting, "propose", None)
    assert distilled("--fit=parameters<0.5M", "--schedule.steps=3", "--existing=extend")[0] == 0


def test_a_run_does_not_name_code_for_its_student(distilled, monkeypatch, tmp_path):
    code, run = distilled("--fit=parameters<0.5M")
    file = run / "environment.json"
    (tmp_path / "evil.py").write_text("raise SystemExit('ran')")
    noted = json.loads(file.read_text())
    noted["fit"]["student"] = f"{tmp_path / 'evil.py'}:net"
    file.write_text(json.dumps(noted))
    more = distilled("--fit=parameters<0.5M", "--schedule.steps=3", "--existing=extend")
    assert (code, more[0]) == (0, 0)
    assert read_environment(run)["fit"]["student"] == WORDS[1]


def test_a_student_that_was_given_is_kept_and_held_to_the_budget(distilled, capsys):
    assert distilled("--fit=parameters<0.1M", f"--student={WORDS[0]}")[0] == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "warning: --fit parameters<0.1M: the given student is NOT within it, 0.35 M" in text
    code, run = distilled("--fit=parameters<0.4M", f"--student={WORDS[0]}", name="within")
    assert code == 0
    noted = read_environment(run)["fit"]
    assert (noted["holds"], noted["given"]) == (True, True)
    assert "warning" not in capsys.readouterr().out


def test_what_does_not_fit_leaves_nothing_behind(distilled, capsys):
    code, run = distilled("--fit=parameters<1k")
    assert code == 2
    assert "none of the 3 ready-made students" in capsys.readouterr().err
    assert not run.exists()


def test_a_student_or_a_budget_is_needed(distilled, capsys):
    assert distilled()[0] == 2
    assert "give --student, or a budget such as --fit" in capsys.readouterr().err


def test_several_devices_choose_nothing(distilled, capsys):
    assert distilled("--fit=parameters<1M", "--hardware.devices=2")[0] == 2
    assert "cannot choose with several processes" in capsys.readouterr().err


def test_a_check_chooses_too(tmp_path, capsys):
    given = ["check", "--teacher=pspnet", "--teacher.backbone=timm/lcnet_050", "--data=scenes"]
    given += ["--data.train=4", "--data.val=2", "--data.size=32,48", "--augmentation.crop=32,48"]
    given += ["--schedule.batch_size=2", "--schedule.steps=2", "--fit=parameters<0.5M"]
    assert main(given) in (0, 1)
    text = " ".join(capsys.readouterr().out.split())
    assert "--fit parameters<0.5M: the largest ready-made student within it is" in text
