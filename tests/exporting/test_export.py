"""An exported file is as good as its student, is rejected where it is not, and runs without us."""

import json
import subprocess
import sys
from inspect import signature

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import fakd
from fakd import imports
from fakd.cli import main
from fakd.exporting import shipping, writing
from fakd.exporting.guarantee import Guarantee, measure_memory
from fakd.exporting.program import exportable_inference
from fakd.exporting.quantization import choose_calibration_images
from fakd.inference import inference_remark, predict_classes
from fakd.settings import Augmentation, Hardware
from foreign_networks import CLASSES, transformers_folder
from stand_ins import message

for library in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(library)

NET = """
import torch
from torch import nn

def net(classes=12):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, 4, 1), nn.ReLU(), nn.Conv2d(8, classes, 1))
"""
WITHOUT_TORCH = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "fakd"):
            raise ImportError(f"{name} is not on the device")

sys.meta_path.insert(0, Blocked())
import runpy
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def confident(network, data, steps=8):
    """Let a network of random weights prefer classes clearly, by a few steps."""
    images = torch.stack([data.train[i].image for i in range(4)]).float() / 255
    labels = torch.stack([data.train[i].labels for i in range(4)]).long()
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.5
    network.train()
    for _ in range(steps):
        logits = network(images).logits
        small = nn.functional.interpolate(labels[:, None].float(), logits.shape[-2:])[:, 0].long()
        optimizer.zero_grad()
        nn.functional.cross_entropy(logits, small, ignore_index=-1).backward()
        optimizer.step()
    return network.eval()


@pytest.fixture(scope="module")
def data():
    return fakd.data.scenes(train=8, val=3, size=(64, 96))


@pytest.fixture(autouse=True)
def unmeasured(monkeypatch):
    """Start no process to tell its memory, which takes seconds, but where a test is about that."""
    monkeypatch.setattr(shipping, "measure_memory", lambda *_: (None, None))


@pytest.fixture
def measured(unmeasured, monkeypatch):
    monkeypatch.setattr(shipping, "measure_memory", measure_memory)


@pytest.fixture
def student(data):
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, 4, 1), nn.ReLU(), nn.Conv2d(8, data.classes, 1)]
    half = (0.5, 0.5, 0.5)
    return confident(fakd.models.adapt(nn.Sequential(*layers), mean=half, std=half), data, 40)


@pytest.mark.parametrize(
    "form",
    [
        {},
        {"size": (64, 96), "output": "logits", "input": "unit", "order": "bgr"},
        pytest.param(
            {"size": (40, 50), "input": "normalised", "order": "bgr", "tolerance": 30.0},
            marks=pytest.mark.slow,
        ),
        {"output": "probabilities", "batch": 0, "inference": fakd.Inference(scale=0.7)},
        pytest.param(
            {"batch": 2, "inference": fakd.Inference(base=(48, 32))}, marks=pytest.mark.slow
        ),
    ],
)
def test_a_file_scores_as_its_student(form, student, data, tmp_path):
    made = fakd.export(student, "onnx", data, out=tmp_path / "x", **form)
    found = made["guarantee"]
    assert made["holds"]
    if form.get("size") != (40, 50):
        assert found["agreement"] > 99.9
    # PyTorch that does not export so unless asked fails at some, which are then traced.
    if signature(torch.onnx.export).parameters["dynamo"].default:
        assert made["exporter"] == writing.DYNAMO
    resized = form.get("inference", fakd.Inference())
    assert (made["size"] is None) == ("size" not in form and resized.base is None)
    again = fakd.evaluate(made["path"], data, accelerator="cpu")
    assert again["miou"] == found["file"]["miou"]
    assert {each.name for each in (tmp_path / "x").iterdir()} == {
        "adapted.onnx", "run.py", "card.md", "guarantee.json",
    }  # fmt: skip
    assert "The guarantee holds" in (tmp_path / "x/card.md").read_text()
    assert json.loads((tmp_path / "x/guarantee.json").read_text())["data"] == data.name


def takes_memory(side):
    """Its runner ran, where the system tells what that took."""
    if sys.platform == "linux":
        assert side["memory_mb"] > 10


@pytest.mark.slow
def test_torch_export_and_openvino(measured, student, data, tmp_path):
    made = fakd.export(student, "torch", data, out=tmp_path / "t")
    assert made["size"] is None
    assert made["guarantee"]["agreement"] > 99.9
    takes_memory(made["guarantee"]["file"])
    pytest.importorskip("openvino")
    made = fakd.export(student, "openvino", data, out=tmp_path / "o")
    assert made["guarantee"]["agreement"] > 99.9
    takes_memory(made["guarantee"]["file"])
    assert fakd.evaluate(made["path"], data)["miou"] == made["guarantee"]["file"]["miou"]


@pytest.fixture
def broken(monkeypatch):
    """Let the exporter write another network than it was given: two of its classes swapped."""
    right = shipping.export_graph

    def wrong(network, *arguments):
        last = network.get_submodule("network.2")
        kept = last.weight.data.clone()
        last.weight.data, last.bias.data = kept.flip(0), last.bias.data.flip(0)
        found = right(network, *arguments)
        last.weight.data, last.bias.data = kept, last.bias.data.flip(0)
        return found

    monkeypatch.setattr(shipping, "export_graph", wrong)


def test_a_broken_export_is_rejected(broken, student, data, tmp_path):
    made = fakd.export(student, "onnx", data, out=tmp_path / "x")
    assert not made["holds"]
    assert made["path"].endswith("adapted.onnx.rejected")
    assert {each.name for each in (tmp_path / "x").iterdir()} == {
        "adapted.onnx.rejected", "card.md.rejected", "guarantee.json.rejected",
    }  # fmt: skip
    assert "does NOT hold" in (tmp_path / "x/card.md.rejected").read_text()


def test_a_rejected_export_is_not_opened_by_mistake(broken, student, data, tmp_path):
    made = fakd.export(student, "onnx", data, out=tmp_path)
    file = tmp_path / "adapted.onnx"
    scores = [f"{made['guarantee'][side]['miou']:.2f}" for side in ("file", "student")]
    for word in (file, f"{file}.rejected"):
        said = message(lambda word=word: fakd.models.open_network(str(word)))
        assert f"it scores {scores[0]} mIoU and its student {scores[1]}" in said
        assert "rename it to adapted.onnx" in said
    (tmp_path / "guarantee.json.rejected").write_text("{")
    said = message(lambda: fakd.models.open_network(str(file)))
    assert "rejected when it was exported: its guarantee did not hold (see card.md.rejected" in said
    (tmp_path / "adapted.onnx.rejected").rename(file)
    assert fakd.models.open_network(str(file)).classes == 12


def test_of_a_student_of_one_class_the_guarantee_says_that_it_says_nothing(data, tmp_path, capsys):
    network = nn.Conv2d(3, 12, 1)
    with torch.no_grad():
        network.bias.copy_(100.0 * torch.arange(12))
    options = {"images": 1, "size": (64, 96)}
    made = fakd.export(fakd.models.adapt(network), "torch", data, out=tmp_path / "one", **options)
    assert made["holds"]
    said = "It says nothing about the file, because the student predicts one class everywhere"
    assert said in (tmp_path / "one/card.md").read_text()
    assert said in capsys.readouterr().out
    with torch.no_grad():
        network.bias.zero_()
        network.weight.mul_(100)
    made = fakd.export(fakd.models.adapt(network), "torch", data, out=tmp_path / "more", **options)
    assert made["guarantee"]["named"] > 1
    assert said not in made["verdict"]


def test_what_was_rejected_goes_once_an_export_holds(student, data, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(Guarantee, "holds", lambda *_: False)
        fakd.export(student, "torch", data, out=tmp_path, images=1, size=(64, 96))
    assert {each.suffix for each in tmp_path.iterdir()} == {".rejected"}
    fakd.export(student, "torch", data, out=tmp_path, images=1, size=(64, 96))
    assert {each.name for each in tmp_path.iterdir()} == {
        "adapted.pt2", "run.py", "card.md", "guarantee.json",
    }  # fmt: skip


def test_answers_that_are_no_numbers_leave_nothing(student, data, tmp_path, monkeypatch):
    def overflowing(file):
        model = onnx.load(file)
        for each in model.graph.initializer:
            if each.data_type == 1 and len(each.dims) == 4:
                array = onnx.numpy_helper.to_array(each) * np.float32("nan")
                each.CopyFrom(onnx.numpy_helper.from_array(array, each.name))
        onnx.save(model, file)

    import onnx

    monkeypatch.setattr(shipping, "to_half", overflowing)
    form = {"output": "logits", "precision": "fp16", "size": (64, 96)}
    said = message(lambda: fakd.export(student, "onnx", data, out=tmp_path, **form))
    assert "infinite or NaN in fp16; give --precision fp32" in said
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
def test_the_exit_code_says_whether_the_guarantee_holds(measured, tmp_path, monkeypatch, capsys):
    (tmp_path / "net.py").write_text(NET)
    flags = ["--data=scenes", "--data.train=4", "--data.val=2", "--data.size=[64,96]"]
    command = ["export", f"{tmp_path}/net.py:net", *flags, f"--out={tmp_path / 'y'}", "--to=onnx"]
    assert main(command) == 0
    found = json.loads((tmp_path / "y/guarantee.json").read_text())
    takes_memory(found["guarantee"]["file"])
    assert main(command) == 2
    monkeypatch.setattr(Guarantee, "holds", lambda *_: False)
    monkeypatch.setattr(shipping, "measure_memory", lambda *_: (None, None))
    command[-2] = f"--out={tmp_path / 'z'}"
    assert "with card.md and run.py" in capsys.readouterr().out
    assert main(command) == 1
    assert "with card.md.rejected" in capsys.readouterr().out
    assert not (tmp_path / "z/run.py").exists()


def test_the_older_exporter_follows_where_the_newer_is_wrong(student, data, tmp_path, monkeypatch):
    write = writing._write

    def failing(program, file, exporter, opset):
        if exporter == writing.DYNAMO:
            raise ValueError("it cannot")
        write(program, file, exporter, opset)

    monkeypatch.setattr(writing, "_write", failing)
    made = fakd.export(student, "onnx", data, out=tmp_path / "x")
    assert made["exporter"] == writing.TORCHSCRIPT
    assert made["guarantee"]["agreement"] > 99.9
    monkeypatch.setattr(writing, "_describe_errors", lambda *_: "it is wrong")
    said = message(lambda: fakd.export(student, "onnx", data, out=tmp_path / "z"))
    assert "dynamo at any size: it cannot; TorchScript at any size: it is wrong" in said
    assert not (tmp_path / "z").exists()


@pytest.mark.parametrize(
    ("form", "size"),
    [
        ({}, (50, 70)),
        pytest.param(
            {"size": (64, 96), "input": "normalised", "order": "bgr"},
            (50, 70),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {"output": "logits", "input": "unit", "batch": 2}, (64, 96), marks=pytest.mark.slow
        ),
    ],
)
def test_the_runner_needs_no_torch_and_is_equal_to_the_pixel(form, size, student, data, tmp_path):
    made = fakd.export(student, "onnx", data, out=tmp_path / "x", images=1, **form)
    photo = Image.fromarray(data.val[1].image.permute(1, 2, 0).numpy()).resize(size[::-1])
    photo.save(tmp_path / "photo.png")
    script = tmp_path / "x/run.py"
    command = [
        sys.executable,
        "-c",
        WITHOUT_TORCH,
        script,
        tmp_path / "photo.png",
        tmp_path / "m.png",
    ]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert "%" in ended.stdout
    assert len(script.read_text().splitlines()) <= 60
    for wrong in ([], [tmp_path / "none.png", "m.png"], [script, "m.png"]):
        ended = subprocess.run([*command[:4], *wrong], capture_output=True, text=True)
        assert ended.returncode != 0
        assert "Traceback" not in ended.stderr
    Image.fromarray(np.zeros((9, 9), np.uint16)).save(tmp_path / "deep.png")
    words = [*command[:4], tmp_path / "deep.png", tmp_path / "deep-mask.png"]
    assert "more than 8 bits" in subprocess.run(words, capture_output=True, text=True).stderr
    assert not (tmp_path / "deep-mask.png").exists()
    pixels = torch.from_numpy(np.array(photo)).permute(2, 0, 1)[None]
    network = fakd.load(made["path"])
    expected = predict_classes(network, pixels, fakd.Inference())[0]
    mask = Image.open(tmp_path / "m.png")
    assert np.array_equal(np.array(mask), expected.numpy())
    assert mask.getpalette()[:3] == list(data.palette[0])
    if made["size"] is None or tuple(made["size"]) == size:
        fakd.predict(made["path"], tmp_path / "photo.png", tmp_path / "p", accelerator="cpu")
        assert np.array_equal(np.array(Image.open(tmp_path / "p/masks/photo.png")), np.array(mask))


@pytest.mark.slow
def test_what_a_file_of_classes_cannot_do_is_said(student, data, tmp_path):
    file = fakd.export(student, "onnx", data, out=tmp_path / "x", images=1)["path"]
    flipped = fakd.Inference(flip=True)
    assert "--output logits" in message(lambda: fakd.evaluate(file, data, inference=flipped))
    new = nn.Conv2d(3, data.classes, 1)
    said = message(lambda: fakd.distill(file, new, data, tmp_path / "r"))
    assert "has no logits" in said
    said = message(lambda: fakd.export(file, "onnx", data, out=tmp_path / "y"))
    assert "cannot be exported (again)" in said
    options = {"output": "logits", "size": (64, 96)}
    file = fakd.export(student, "onnx", data, out=tmp_path / "l", images=1, **options)["path"]
    fakd.evaluate(file, data, inference=flipped)
    # The file resizes images itself, and says nothing of its training.
    assert inference_remark(fakd.models.open_network(file), flipped) is None
    schedule = fakd.Schedule(steps=1, batch_size=2)
    fakd.distill(
        file, "timm:mobilenetv3_small_050", data, tmp_path / "r", schedule=schedule,
        check_teacher=False, distillation=fakd.losses.ChannelKL(),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"batch": -1}, "at least 0, got -1"),
        ({"images": 0}, "at least 1"),
        ({"size": (0, 5)}, "at least 1"),
        ({"to": "torch", "precision": "int8"}, "leave it out"),
        ({"data": None}, "--data"),
        ({"out": None}, "--out"),
    ],
)
def test_impossible_exports_are_refused(given, expected, student, data, tmp_path):
    arguments = {"to": "onnx", "data": data, "out": tmp_path / "x", **given}
    assert expected in message(lambda: fakd.export(student, **arguments))
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("to", "missing", "extra"), [("onnx", "onnxscript", "export"), ("openvino",) * 3]
)
def test_a_missing_library_is_named_with_the_line_that_installs_it(
    to, missing, extra, student, data, tmp_path, monkeypatch
):
    there = imports.find_spec
    monkeypatch.setattr(imports, "find_spec", lambda name: None if name == missing else there(name))
    said = message(lambda: fakd.export(student, to, data, out=tmp_path / "x"))
    assert f"pip install 'fakd[{extra}]'" in said
    assert not any(tmp_path.iterdir())


def test_an_export_is_replaced_only_when_told(student, data, tmp_path):
    fakd.export(student, "torch", data, out=tmp_path, images=1, size=(64, 96))
    before = (tmp_path / "adapted.pt2").read_bytes()
    said = message(lambda: fakd.export(student, "torch", data, out=tmp_path))
    assert "--overwrite true" in said
    assert (tmp_path / "adapted.pt2").read_bytes() == before
    fakd.export(student, "torch", data, out=tmp_path, images=1, size=(64, 96), overwrite=True)


def test_images_smaller_than_a_program_takes_are_refused(student, tmp_path):
    tiny = fakd.data.scenes(train=2, val=1, size=(32, 48))
    said = message(lambda: fakd.export(student, "torch", tiny, out=tmp_path / "e"))
    assert "(1, 3, 32, 48)" in said
    assert "--size HEIGHT,WIDTH" in said
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_fewer_bits(precision, student, data, tmp_path):
    import onnx

    made = fakd.export(
        student, "onnx", data, out=tmp_path, precision=precision, tolerance=2.0, size=(64, 96)
    )
    nodes = onnx.load(made["path"]).graph.node
    kinds = {each.op_type for each in nodes}
    assert made["holds"]
    assert ("QuantizeLinear" in kinds) == (precision == "int8")
    assert made["float_layers"] == []


def test_layers_go_back_to_float_until_the_guarantee_holds(student, data, tmp_path, monkeypatch):
    asked = []

    def holds(self, tolerance):
        asked.append(tolerance)
        return len(asked) > 1

    monkeypatch.setattr(Guarantee, "holds", holds)
    made = fakd.export(student, "onnx", data, out=tmp_path, precision="int8", size=(64, 96))
    assert len(made["float_layers"]) == 1
    import onnx

    model = onnx.load(made["path"])
    layer = next(each for each in model.graph.node if each.name == made["float_layers"][0])
    weights = {each.name for each in model.graph.initializer if each.data_type == 1}
    assert layer.input[1] in weights
    assert made["float_layers"][0] in (tmp_path / "card.md").read_text()


def test_what_a_file_does_to_an_image_before_the_network():
    given = fakd.Inference(scale=0.5, scales=(0.5,), window=32, flip=True)
    assert exportable_inference(given) == fakd.Inference(scale=0.25)
    assert exportable_inference(fakd.Inference(scales=(0.5, 1.0))) == fakd.Inference()


def test_calibration_images_cover_the_classes(data):
    class Few(type(data.train)):
        """Ten images of one class and one of another, which is rare."""

        def __init__(self):
            self.labelled = True

        def __len__(self):
            return 11

        def is_labelled(self, index):
            return True

        def __getitem__(self, index):
            labels = torch.full((8, 8), 1 if index == 7 else 0, dtype=torch.int16)
            return replace_labels(data.train[0], labels)

    def replace_labels(sample, labels):
        return sample._replace(labels=labels)

    assert 7 in choose_calibration_images(Few(), 2, 2)
    assert len(set(choose_calibration_images(Few(), 11, 2))) == 11


PAPER = {
    f"{builder}-{backbone}": (builder, backbone)
    for builder, backbone in (
        ("pspnet", "resnet101"), ("fcn_hrnet", "hrnet_w48"), ("deeplabv3plus", "resnet101"),
        ("isanet", "resnet101"), ("pspnet", "resnet18"), ("pspnet", "resnet18b"),
        ("fcn_hrnet", "hrnet_w18s"), ("deeplabv3plus", "mobilenetv2"), ("isanet", "resnet18"),
    )
}  # fmt: skip
NARROW = {
    "pspnet": {"channels": 16},
    "fcn_hrnet": {"channels": 16},
    "deeplabv3plus": {"channels": 16, "detail": 8},
    "isanet": {"channels": 16, "attention_channels": 8},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PAPER)
def test_every_network_of_the_paper_is_exported(name, data, tmp_path):
    torch.manual_seed(0)
    builder, backbone = PAPER[name]
    network = getattr(fakd.models, builder)(backbone, data.classes, **NARROW[builder])
    network = confident(network, data, 2)
    made = fakd.export(network, "onnx", data, out=tmp_path, size=(64, 96))
    assert made["holds"]
    assert made["guarantee"]["agreement"] > 99.9
    stored = sum(each.numel() for each in network.state_dict().values())
    side = sum(each.numel() for each in (network.auxiliary_head or nn.Module()).parameters())
    assert made["guarantee"]["file"]["megabytes"] < 4.4e-6 * (stored - side) + 1


@pytest.mark.slow
@pytest.mark.parametrize("size", [None, (64, 96)])
@pytest.mark.parametrize("builder", NARROW)
def test_networks_of_any_size_are_exported(builder, size, data, tmp_path):
    torch.manual_seed(0)
    backbone = "hrnet_w18s" if builder == "fcn_hrnet" else "mobilenetv2"
    network = getattr(fakd.models, builder)(backbone, data.classes, **NARROW[builder])
    made = fakd.export(confident(network, data, 2), "onnx", data, out=tmp_path, size=size)
    assert made["holds"]
    assert made["size"] == (list(size) if size else None)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["Unet", "FPN", "DeepLabV3Plus"])
def test_students_of_smp_are_exported(name, data, tmp_path):
    pytest.importorskip("segmentation_models_pytorch")
    torch.manual_seed(0)
    word = f"smp:{name}?encoder_name=resnet18"
    network = confident(fakd.models.open_network(word, data.classes, trained=True), data, 2)
    made = fakd.export(network, "onnx", data, out=tmp_path)
    assert made["holds"]
    assert made["guarantee"]["agreement"] > 99.9


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["segformer", "mobilenet_v2"])
def test_students_of_transformers_are_exported(name, data, tmp_path):
    pytest.importorskip("transformers")
    transformers_folder(name, tmp_path / "saved")
    assert data.classes == CLASSES
    network = fakd.models.open_network(f"hf:{tmp_path / 'saved'}", data.classes, trained=True)
    network = confident(network, data, 2)
    made = fakd.export(network, "onnx", data, out=tmp_path / "x")
    assert made["holds"]
    assert made["guarantee"]["agreement"] > 99.9


@pytest.mark.slow
def test_a_student_that_learnt_with_rounding_is_exported_in_int8(data, tmp_path):
    torch.manual_seed(0)
    teacher, student = (
        confident(fakd.models.pspnet("mobilenetv3_small_050", data.classes, channels=16), data, 4)
        for _ in range(2)
    )
    fakd.distill(
        teacher, student, data, tmp_path / "run", int8=True, check_teacher=False,
        schedule=fakd.Schedule(steps=10, batch_size=2), hardware=Hardware(accelerator="cpu"),
        augmentation=Augmentation(crop=(64, 64)), intervals=fakd.Intervals(evaluate=10),
    )  # fmt: skip
    made = fakd.export(tmp_path / "run", "onnx", data, precision="int8", size=(64, 96))
    assert made["holds"]
    assert made["path"] == str(tmp_path / "run/onnx-int8/run.onnx")
