"""How fast networks are: what is timed, what it takes, and how it is shown."""

import json
import time
import warnings

import pytest
import torch
from PIL import Image

import fakd
from fakd import timing
from fakd.cli import main
from fakd.exporting.shipping import processor_name
from fakd.inference import resolve_inference
from fakd.models import pspnet, save, students
from fakd.report.latency import save_latency
from fakd.settings import Inference
from fakd.timing import Timing, time_network

CPU = torch.device("cpu")
SMALL = "pspnet?backbone=timm/lcnet_035&channels=8"
OTHER = "pspnet?backbone=timm/lcnet_050&channels=8"


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr("fakd.report.measurements._REPEATS", 4)


class Slow(fakd.Segmenter):
    """Takes memory and time that are known."""

    classes, classifier = 3, None

    def __init__(self, megabytes=0.0, milliseconds=0.0):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(250_000))
        self.megabytes, self.milliseconds = megabytes, milliseconds
        self.calls = 0

    def forward(self, images):
        self.calls += 1
        time.sleep(self.milliseconds / 1e3)
        taken = torch.ones(int(self.megabytes * 250_000))
        return fakd.Prediction(images * taken[:1].sum().clamp(1, 1))


def test_times_and_memory_are_those_of_the_network():
    (found,) = time_network(Slow(milliseconds=40), (32, 48), CPU)
    assert 40 <= found.median <= found.p90 < 400
    (found,) = time_network(Slow(megabytes=120), (32, 48), CPU)
    assert found.parameters == 250_000
    assert (found.runtime, found.size, found.network) == ("torch", (32, 48), "Slow")
    assert found.device == f"{processor_name()}, 1 thread"
    (light,) = time_network(Slow(), (32, 48), CPU)
    assert found.memory - light.memory == pytest.approx(120, abs=15)
    assert 1 <= light.memory < 20  # its weights are one MB


def test_what_a_system_does_not_say_is_left_open(monkeypatch):
    monkeypatch.setattr(timing.sys, "platform", "darwin")
    (found,) = time_network(Slow(), (8, 8), CPU)
    assert found.memory is None
    assert found.median is not None


def test_the_auxiliary_head_is_left_out_and_the_network_left_alone():
    network = pspnet("mobilenetv3_small_050", 3, channels=8)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    seen = []
    network.auxiliary_head.register_forward_hook(lambda *_: seen.append(1))
    (found,) = time_network(network, (64, 64), CPU)
    assert found.median is not None
    assert not seen
    assert network.auxiliary_head is not None
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_a_network_is_shown_images_as_it_will_be():
    network = Slow()
    sizes = []
    network.register_forward_hook(lambda _, given, __: sizes.append(tuple(given[0].shape[-2:])))
    list(time_network(network, (40, 60), CPU, inference=Inference(scale=0.5)))
    assert set(sizes) == {(20, 30)}
    sizes.clear()
    network.extra = {"inference": {"window": 20, "stride": 20, "scales": [1.0], "new": 1}}
    list(time_network(network, (40, 60), CPU))
    assert set(sizes) == {(20, 20)}
    assert resolve_inference(network) == Inference(window=20, stride=20)


def test_a_score_of_other_inference_settings_is_not_shown():
    network = Slow()
    network.extra = {"inference": {"scale": 0.5}, "miou": 40.0}
    for given, score in ((None, 40.0), ({"scale": 0.5}, 40.0), ({"scale": 1.0}, None)):
        (found,) = time_network(network, (40, 60), CPU, inference=given)
        assert found.miou == score


def test_what_does_not_run_says_why():
    class Broken(Slow):
        def compile(self):
            raise RuntimeError("no compiler\nat all")

        def forward(self, images):
            raise RuntimeError("cannot\never")

    (found,) = time_network(Broken(), (8, 8), CPU)
    assert found.problem == "cannot"
    assert found.median is None


@pytest.mark.slow
def test_compiled_networks_are_timed_or_say_why_not():
    first, second = time_network(SMALL, (64, 64), CPU, runtimes=["torch", "compile"], classes=3)
    assert [first.runtime, second.runtime] == ["torch", "compile"]
    assert (second.median is None) == bool(second.problem)


def test_files_run_in_their_own_runtime(tmp_path):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    file = tmp_path / "net.onnx"
    network = torch.nn.Conv2d(3, 4, 3, padding=1)
    options = {"dynamic_axes": {"x": {2: "h", 3: "w"}}, "dynamo": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network, (torch.rand(1, 3, 8, 8),), str(file), input_names=["x"], **options
        )
    (found,) = time_network(file, (32, 48), CPU, runtimes=["torch", "compile"])
    assert found.runtime == "onnx"
    assert found.parameters is None
    assert found.median > 0


@pytest.mark.slow
def test_known_scores_stand_beside_times(made_up, tmp_path):
    network = pspnet("mobilenetv3_small_050", 5, channels=8)
    run = made_up.run(tmp_path / "run", "cwd", 0, [0.9] * 5)
    file = tmp_path / "alone.safetensors"
    for path, extra in ((run / "best.safetensors", {}), (file, {"miou": 42.5})):
        save(network, path, class_names=None, palette=None, extra=extra)
    assert [next(time_network(each, (32, 32), CPU)).miou for each in (run, file)] == [1.0, 42.5]
    assert next(time_network(network, (32, 32), CPU)).miou is None


@pytest.mark.parametrize(
    ("scores", "label"), [((40.0, 50.0), "mIoU (%)"), ((40.0, None), "million parameters")]
)
def test_the_picture_has_scores_where_all_are_known(scores, label, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("fakd.report.latency.save", lambda figure, _: drawn.append(figure))
    names = ("a", "b")
    timings = [
        Timing(name, "torch", (8, 8), "here", 10**6, 5.0, 6.0, miou=score)
        for name, score in zip(names, scores, strict=True)
    ]
    failed = Timing("c", "onnx", (8, 8), "here", problem="does not run")
    assert save_latency(tmp_path / "l.png", [*timings, failed])
    (axis,) = drawn[0].axes
    assert axis.get_ylabel() == label
    assert [each.get_text() for each in axis.texts] == ["a", "b"]
    assert not save_latency(tmp_path / "l.png", [failed])


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_networks_run_as_files(runtime):
    for library in timing.LIBRARIES[runtime]:
        pytest.importorskip(library)
    options = {"runtimes": [runtime], "classes": 3, "inference": Inference(scale=0.5)}
    (found,) = time_network(SMALL, (96, 128), CPU, **options)
    assert (found.runtime, found.problem) == (runtime, "")
    assert 0 < found.median <= found.p90
    assert found.memory > 1
    windows = {**options, "inference": Inference(window=64, stride=32)}
    (found,) = time_network(SMALL, (96, 128), CPU, **windows)
    assert found.problem == "windows, flips and several scales cannot be exported"


def test_what_cannot_be_exported_says_why(monkeypatch):
    for library in timing.LIBRARIES["onnx"]:
        pytest.importorskip(library)

    def refuse(*_):
        raise fakd.InputError("the network cannot be exported")

    monkeypatch.setattr(timing, "export_graph", refuse)
    first, second = time_network(Slow(), (8, 8), CPU, runtimes=["onnx", "torch"])
    assert first.problem == "the network cannot be exported"
    assert second.median is not None


def test_runtimes_are_those_installed(monkeypatch):
    missing = "openvino"
    monkeypatch.setattr(timing, "find_spec", lambda name: None if name == missing else "there")
    assert timing.available() == ["torch", "compile", "onnx"]
    missing = "onnxruntime"
    assert timing.available() == ["torch", "compile"]
    monkeypatch.setattr("fakd.imports.find_spec", lambda name: None)
    with pytest.raises(fakd.InputError, match=r"pip install 'fakd\[export\]'"):
        timing.require_runtimes(["torch", "onnx"])


def test_networks_side_by_side(tmp_path, capsys):
    out, picture = tmp_path / "l.json", tmp_path / "l.png"
    given = ["latency", SMALL, OTHER, "--size", "32,48", "--runtimes=torch", "--classes=3"]
    assert main([*given, "--threads=1", f"--out={out}", f"--picture={picture}"]) == 0
    text = capsys.readouterr().out
    assert f"one image of 32 x 48, bytes to classes; {processor_name()}, 1 thread" in text
    assert "problem" not in text
    found = json.loads(out.read_text())
    assert [each["network"] for each in found] == [SMALL, OTHER]
    assert all(each["size"] == [32, 48] for each in found)
    with Image.open(picture) as drawn:
        assert drawn.size[0] > 500


def test_data_and_runs_say_size_and_classes(monkeypatch):
    seen = []

    def record(given, size, device, **options):
        seen.append((given, size, options["classes"], options["inference"]))
        yield Timing(given, "torch", size, "processor", 1, 1.0, 1.0)

    monkeypatch.setattr(timing, "time_network", record)
    data = ["--data=scenes", "--data.train=2", "--data.val=2", "--data.size=64,96"]
    assert main(["latency", "a", *data, "--inference.scale=0.5"]) == 0
    assert main(["latency", "a"]) == 0
    assert seen == [
        ("a", (64, 96), 12, {"scale": 0.5}),
        ("a", (512, 512), 19, None),
    ]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([], "networks"),
        (["gone.safetensors"], "where there is no gone.safetensors"),
        ([SMALL, "--runtimes=tensorrt"], "there is no runtime tensorrt; choose from torch"),
        ([SMALL, "--out=a.txt"], "must end in .json"),
        ([SMALL, "--picture=a.jpg"], "must end in .png"),
        ([SMALL, "--size=0,4"], "at least 1"),
        ([SMALL, "--runtimes=torch", "--size=32,32", "--sort=speed"], "there is no column speed"),
    ],
)
def test_what_cannot_be_is_refused(flags, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["latency", *flags]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not [*tmp_path.iterdir()]


@pytest.mark.slow
def test_students_are_timed_by_the_same_code(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(students, "installed", lambda: [SMALL, OTHER])
    out = tmp_path / "s.json"
    given = ["students", "--measure", "--size=32,48", "--classes=3", "--threads=1"]
    assert main([*given, "--sort=ms", f"--out={out}"]) == 0
    times = [row["ms"] for row in json.loads(out.read_text())]
    assert times == sorted(times)
    assert all(each > 0 for each in times)
    assert f"bytes to classes, in torch; {processor_name()}, 1 thread" in capsys.readouterr().out
    assert main(["students", "--runtime=tpu"]) == 2
    assert "there is no runtime tpu" in capsys.readouterr().err
