"""Exported networks: what they take and answer is found out; they teach and do not learn."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fakd
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
    assert any("nothing says how it normalises" in remark for remark in teacher.remarks)


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
def test_damaged_files_are_refused(name, tmp_path):
    if name == "net.onnx":
        pytest.importorskip("onnxruntime")
    (tmp_path / name).write_text("nothing of the kind")

    text = message(lambda: fakd.load(tmp_path / name))
    assert "cannot be opened as an exported network" in text
