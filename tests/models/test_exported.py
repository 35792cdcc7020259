"""Exported networks: what they take and answer is found out; they teach and do not learn."""

from inspect import signature
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

import fakd
from fakd.cli import main
from fakd.models import adapt, open_network
from foreign_networks import onnx_file
from stand_ins import message


class Net(nn.Module):
    def __init__(self, classes=12):
        super().__init__()
        self.trunk = nn.Conv2d(3, 8, 3, 4, 1)
        self.last = nn.Conv2d(8, classes, 1)

    def forward(self, images):
        return self.last(self.trunk(images).relu())


@pytest.fixture
def original():
    torch.manual_seed(0)
    return Net().eval()


def test_an_onnx_file_with_channels_last_and_one_size(original, tmp_path):
    file = onnx_file(tmp_path / "net.onnx", original)
    wrong = message(lambda: adapt(fakd.models.open_exported(file), side=64))
    assert "takes 33x33 pixels, got side [64, 64]" in wrong
    half = (0.5, 0.5, 0.5)
    teacher = adapt(fakd.models.open_exported(file), mean=half, std=half).eval()
    images = torch.rand(2, 3, 53, 75)

    prediction = teacher(images)

    shown = F.interpolate(images * 2 - 1, (33, 33), mode="bilinear", antialias=True)
    torch.testing.assert_close(prediction.logits, original(shown), rtol=0, atol=1e-5)
    assert prediction.features is None
    assert teacher.probe.sizes == "33x33, to which images are resized"
    assert teacher.remarks == ()


def test_an_onnx_file_of_any_size(original, tmp_path):
    teacher = fakd.load(onnx_file(tmp_path / "net.onnx", original, last=False))
    images = torch.rand(2, 3, 53, 75)

    expected = original(teacher.normalize(images))
    torch.testing.assert_close(teacher(images).logits, expected, rtol=0, atol=1e-5)
    assert teacher.probe.sizes == "any"
    assert any("its normalisation of images is unknown" in remark for remark in teacher.remarks)


def test_an_onnx_file_that_takes_bytes_is_given_the_pixels(original, tmp_path):
    teacher = fakd.load(onnx_file(tmp_path / "net.onnx", original, kind="UINT8"))
    images = torch.randint(0, 256, (1, 3, 33, 33), dtype=torch.uint8)

    expected = original(images.float())
    torch.testing.assert_close(teacher(images / 255).logits, expected, rtol=1e-5, atol=1e-4)
    assert teacher.remarks == ()
    assert teacher.probe.told_by == "its input of bytes"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("kind", ["TorchScript", "torch.export", "program", "script"])
def test_exported_programs_answer_as_the_original(kind, original, tmp_path):
    images = torch.rand(2, 3, 53, 75)
    if kind in ("TorchScript", "script"):
        program = torch.jit.trace(original, images)
        program.save(str(tmp_path / "net.pt"))
        given = tmp_path / "net.pt" if kind == "TorchScript" else program
    else:
        sides = dict.fromkeys((0, 2, 3), torch.export.Dim.AUTO)
        program = torch.export.export(original, (images,), dynamic_shapes=(sides,))
        torch.export.save(program, tmp_path / "net.pt2")
        given = tmp_path / "net.pt2" if kind == "torch.export" else program
    teacher = open_network(given).eval()

    expected = original(teacher.normalize(images))
    torch.testing.assert_close(teacher(images).logits, expected, rtol=0, atol=1e-5)
    assert "cannot be trained" in message(lambda: open_network(given, 12, trained=True))


class Enlarged(Net):
    """Answers at the size of the images, with channels last if it takes them so."""

    def __init__(self, last):
        super().__init__()
        self.channels_last = last

    def forward(self, images):
        images = images.permute(0, 3, 1, 2) if self.channels_last else images
        logits = F.interpolate(super().forward(images), images.shape[-2:], mode="bilinear")
        return logits.permute(0, 2, 3, 1) if self.channels_last else logits


def exported(network, kind, shape, free, path):
    """Write a network as an exporter of PyTorch does; the axes of its images in `free` are free."""
    images = torch.rand(shape)
    if kind == "onnx-script":
        options = {"input_names": ["images"], "dynamic_axes": {"images": [*free]}}
        torch.onnx.export(network, (images,), path, dynamo=False, **options)
    elif kind == "onnx-dynamo":
        axes = (dict.fromkeys(free, torch.export.Dim.DYNAMIC),) if free else None
        torch.onnx.export(network, (images,), path, dynamic_shapes=axes, verbose=False)
    else:
        axes = (dict.fromkeys(free, torch.export.Dim.AUTO),) if free else None
        torch.export.save(torch.export.export(network, (images,), dynamic_shapes=axes), path)
    return path


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("last", [pytest.param(False, marks=pytest.mark.slow), True])
@pytest.mark.parametrize(
    ("shape", "free"),
    [((1, 65, 97), ()), ((2, 65, 97), ()), ((2, 65, 97), (0,)), ((2, 64, 96), "all")],
)
@pytest.mark.parametrize("kind", ["onnx-script", "onnx-dynamo", "export"])
def test_what_pytorch_exports_answers_as_the_original(kind, shape, free, last, tmp_path):
    if kind == "onnx-dynamo" and not signature(torch.onnx.export).parameters["dynamo"].default:
        pytest.skip("this PyTorch does not export so unless asked, and fails at free axes")
    if kind.startswith("onnx"):
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript" if kind == "onnx-dynamo" else "onnx")
    torch.manual_seed(0)
    network = Enlarged(last).eval()
    count, height, width = shape
    whole = (count, height, width, 3) if last else (count, 3, height, width)
    every = (0, 1, 2) if last else (0, 2, 3)
    path = tmp_path / ("net.pt2" if kind == "export" else "net.onnx")
    teacher = fakd.load(exported(network, kind, whole, every if free == "all" else free, path))
    images = torch.rand(3, 3, 53, 75)

    logits = teacher(images).logits

    shown = teacher.feed(images)
    if free != "all":
        assert teacher.probe.sizes.startswith("65x97,")
        shown = F.interpolate(shown, (65, 97), mode="bilinear", antialias=True)
    expected = network(shown.movedim(1, -1)).movedim(-1, 1) if last else network(shown)
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_an_exported_network_of_one_size_is_evaluated_predicts_and_teaches(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exported(Enlarged(last=False).eval(), "export", (2, 3, 65, 97), (), Path("net.pt2"))
    drawn = fakd.data.scenes(train=2, val=1, size=(53, 75)).train
    Path("photos").mkdir()
    for index in range(2):
        Image.fromarray(drawn[index].image.movedim(0, -1).numpy()).save(f"photos/{index}.png")
    data = ["--data=scenes", "--data.train=4", "--data.val=3", "--data.size=[53,75]"]
    assert main(["evaluate", "--network=net.pt2", *data]) == 0
    assert main(["predict", "--network=net.pt2", "--images=photos", "--out=out"]) == 0
    assert len([*Path("out").rglob("*.png")]) >= 2
    short = ["--schedule.steps=2", "--schedule.batch_size=3", "--augmentation.crop=[48,64]"]
    student = ["--student=timm:mobilenetv3_small_050", "--check_teacher=false", "--run=run"]
    assert main(["distill", "--teacher=net.pt2", *student, *data, *short]) == 0


def test_an_open_session_is_a_network(original, tmp_path):
    file = onnx_file(tmp_path / "net.onnx", original)
    session = pytest.importorskip("onnxruntime").InferenceSession(file)

    assert adapt(session).classes == 12


def test_an_onnx_teacher_distils(original, tmp_path):
    file = onnx_file(tmp_path / "net.onnx", original)
    data = fakd.data.scenes(train=4, val=2, size=(53, 75))
    student = "timm:mobilenetv3_small_050"
    schedule = fakd.Schedule(steps=2, batch_size=2)
    options = {"check_teacher": False, "schedule": schedule, "existing": "reuse"}
    result = fakd.distill(file, student, data, tmp_path / "run", **options)

    assert np.isfinite(result["final"]["miou"])
    assert fakd.distill(file, student, data, tmp_path / "run", **options) == result


@pytest.mark.parametrize("name", ["net.onnx", "net.pt2", "net.ts"])
def test_damaged_files_are_refused(name, tmp_path, capfd):
    if name == "net.onnx":
        pytest.importorskip("onnxruntime")
    (tmp_path / name).write_text("nothing of the kind")

    text = message(lambda: fakd.load(tmp_path / name))
    assert "cannot be opened as an exported network" in text
    assert "Traceback" not in capfd.readouterr().err
