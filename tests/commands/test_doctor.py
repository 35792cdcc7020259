"""`fakd check`: what is right is ready, and what is wrong is found before a long run."""

import copy
from itertools import permutations

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import nn

from fakd.cli import main
from fakd.commands.doctor import doctor
from fakd.errors import InputError
from fakd.models import adapt, pspnet
from fakd.settings import Augmentation, Hardware, Optimizer, Schedule, Task
from fakd.training.objective import Distillation
from fakd.training.teacher_check import best_class_order
from fakd.training.trial import is_transformer, typical_learning_rates
from foreign_networks import beit, segformer
from stand_ins import message

COLOURS = {"sky": (120, 160, 230), "road": (90, 90, 90), "car": (200, 30, 40)}
NET = """
from torch import nn

def net(classes, width=8):
    return nn.Sequential(nn.Conv2d(3, width, 3, 4, 1), nn.ReLU(), nn.Conv2d(width, classes, 1))
"""


@pytest.fixture
def data(tmp_path):
    """Noisy pictures of three colours, each a class."""
    draw = np.random.default_rng(0)
    folder = tmp_path / "data"
    for split, count in (("train", 4), ("val", 3)):
        for kind in ("images", "masks"):
            (folder / split / kind).mkdir(parents=True)
        for number in range(count):
            mask = np.zeros((53, 75), np.uint8)
            mask[26:] = 1
            mask[20:34, 10 + 9 * number : 30 + 9 * number] = 2
            pixels = np.array([*COLOURS.values()])[mask] + draw.integers(-15, 16, (53, 75, 3))
            image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
            image.save(folder / split / "images" / f"{number}.png")
            Image.fromarray(mask).save(folder / split / "masks" / f"{number}.png")
    (folder / "dataset.yaml").write_text(yaml.safe_dump({"classes": [*COLOURS]}))
    return folder


def nearest_colour():
    """A network that names the nearest colour, of images from 0 to 255: it is always right."""
    network = nn.Sequential(nn.Conv2d(3, 3, 1))
    colours = torch.tensor([*COLOURS.values()]).float()
    with torch.no_grad():
        network[0].weight.copy_(2 * colours[..., None, None] / 1e3)
        network[0].bias.copy_(-colours.square().sum(1) / 1e3)
    return network


def teacher(mean=(0.0,) * 3, std=(1 / 255,) * 3):
    return adapt(nearest_colour(), mean=mean, std=std)


def student():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, 4, 1), nn.ReLU(), nn.Conv2d(8, 3, 1)]
    return adapt(nn.Sequential(*layers), mean=(0.5,) * 3, std=(0.5,) * 3)


def checked(data, **given):
    given = {"teacher": teacher(), "student": student(), **given}
    schedule = given.pop("schedule", Schedule(steps=20, batch_size=4))
    return doctor(
        data,
        schedule=schedule,
        augmentation=Augmentation(crop=(45, 61)),
        hardware=Hardware(accelerator="cpu"),
        **given,
    )


def test_unlabelled_pixels_count_from_the_runs_confidence_on(tiny_data, monkeypatch):
    asked = []

    class Noting(Distillation):
        def __init__(self, *arguments):
            asked.append(arguments[-1])
            super().__init__(*arguments)

    monkeypatch.setattr("fakd.training.objective.Distillation", Noting)
    network = pspnet("mobilenetv3_small_050", tiny_data.classes, channels=8)
    given = {"teacher": network, "student": copy.deepcopy(network)}
    checked(tiny_data, **given, task=Task(confidence=0.9))
    assert asked == [0.9]


def texts(result, severity):
    return [each["text"] for each in result["change"] if each["severity"] == severity]


def test_what_is_right_is_ready_and_left_as_it_was(data, tmp_path, capsys):
    learner = student()
    before = {name: each.clone() for name, each in learner.state_dict().items()}
    result = checked(data, student=learner, out=tmp_path / "shown.png", run=tmp_path / "run")
    assert result["ready"]
    assert result["teacher_miou"] > 95
    assert {"task", "distillation"} <= result["terms"].keys()
    assert result["gradient_ratio"] > 0
    assert len(result["losses"]) == 8
    assert result["seconds"] > 20 * result["step_seconds"]
    assert not (tmp_path / "run").exists()
    with Image.open(tmp_path / "shown.png") as shown:
        assert shown.size[0] > 300
    for name, each in learner.state_dict().items():
        assert torch.equal(each, before[name])
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "ready"
    assert any(line.startswith(" loss terms     task ") for line in lines)


def test_the_gradients_are_those_of_either_kind_of_term(data):
    out = data.parent / "alone.png"
    alone = checked(data, teacher=None, student=None, network=student(), out=out)
    assert alone["picture"] == str(out)
    assert out.is_file()
    assert alone["gradient_ratio"] is None
    assert alone["terms"].keys() == {"task"}
    from fakd.losses import ChannelKL

    one, ten = (checked(data, distillation=ChannelKL(weight=weight)) for weight in (1.0, 10.0))
    assert ten["gradient_ratio"] == pytest.approx(10 * one["gradient_ratio"], rel=1e-4)
    assert ten["terms"]["task"] == one["terms"]["task"] == alone["terms"]["task"]
    swamped = checked(data, distillation=ChannelKL(weight=1e6))
    assert any(
        "dominates it; lower --distillation.weight" in each for each in texts(swamped, "harms")
    )


def test_a_teacher_that_is_fed_otherwise_than_it_was_trained(data):
    wrong = teacher((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    result = checked(data, teacher=wrong)
    assert not result["ready"]
    (first,) = texts(result, "stops")
    assert "if they are normalised to [0, 255]" in first
    assert "--teacher.mean '[0.0, 0.0, 0.0]'" in first
    assert "--teacher.std '[0.003922, 0.003922, 0.003922]'" in first
    assert wrong.normalize.std.flatten().tolist() == pytest.approx([0.229, 0.224, 0.225])


def test_classes_in_another_order_or_of_other_names(data):
    turned, renamed = teacher(), teacher()
    turned.class_names = ("road", "sky", "car")
    renamed.class_names = ("sky", "tarmac", "car")
    result = checked(data, teacher=turned)
    assert not result["ready"]
    assert "the data's classes in another order" in texts(result, "stops")[0]
    result = checked(data, teacher=renamed)
    assert result["ready"]
    assert "1 of 3 class names of the teacher differ" in texts(result, "harms")[0]


def test_red_and_blue_exchanged_and_classes_turned_are_seen_from_the_labels(data):
    """All at once: normalised, ordered in its channels and in its classes otherwise."""
    wrong = teacher((0.5,) * 3, (0.5,) * 3)
    layer = wrong.network[0]
    with torch.no_grad():
        layer.weight.copy_(layer.weight[[2, 0, 1]].flip(1))
        layer.bias.copy_(layer.bias[[2, 0, 1]].clone())
    result = checked(data, teacher=wrong)
    assert not result["ready"]
    fed, turned = texts(result, "stops")
    assert "normalised to [0, 255] and with red and blue swapped; give --teacher.mean" in fed
    assert fed.endswith("--teacher.order bgr")
    assert "the teacher's classes are in another order" in turned
    assert "100.0 if 3 classes are permuted" in turned
    assert "road is its class 2, sky is its class 1, car is its class 0" in turned
    assert wrong.order == "rgb"


def test_an_order_is_the_best_of_all_assignments():
    matrix = torch.randint(0, 50, (5, 5), generator=torch.Generator().manual_seed(3))
    matrix[3] = 0  # a class that no label shows
    counts = matrix.double()
    iou = counts / (counts.sum(1, keepdim=True) + counts.sum(0) - counts)

    def mean(order):
        return float(torch.stack([iou[i, order[i]] for i in (0, 1, 2, 4)]).mean())

    best, order = best_class_order(matrix)
    assert best == pytest.approx(max(map(mean, permutations(range(5)))))
    assert mean(order) == pytest.approx(best)


def test_too_little_memory_is_told_before_it_runs_out(data, monkeypatch):

    def refuse(*_):
        raise InputError("4 images at a time would take 9.0 GB")

    monkeypatch.setattr("fakd.training.trial.require_step_memory", refuse)
    result = checked(data)
    assert not result["ready"]
    assert "terms" not in result
    assert texts(result, "stops")[0] == "4 images at a time would take 9.0 GB"

    def fail(*_, **__):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried")

    monkeypatch.undo()
    monkeypatch.setattr("fakd.training.loop.Training.advance", fail)
    assert "memory ran out in a step" in texts(checked(data), "stops")[0]


def test_a_learning_rate_that_is_far_too_large(data):
    result = checked(data, schedule=Schedule(steps=20, batch_size=4, learning_rate=300.0))
    assert not result["ready"]
    assert "at learning rate 300 the loss of one batch rose" in texts(result, "stops")[0]
    assert "0.00063 to 0.01 is usual for SGD at 4 images" in texts(result, "stops")[0]
    small = checked(data, schedule=Schedule(steps=20, batch_size=4, learning_rate=1e-6))
    assert small["ready"]
    assert "learning rate 1e-06 is below the usual range" in texts(small, "harms")[0]
    warmed = Schedule(steps=20, batch_size=4, learning_rate=300.0, warmup=10)
    assert checked(data, schedule=warmed)["ready"]


def test_rates_follow_the_batch_and_transformers_are_told():
    assert (
        typical_learning_rates(Optimizer(kind="SGD"), 32)[1]
        == 2 * typical_learning_rates(Optimizer(), 16)[1]
    )
    adam = Optimizer(kind="AdamW")
    assert typical_learning_rates(adam, 64)[1] == pytest.approx(
        2 * typical_learning_rates(adam, 16)[1]
    )
    assert is_transformer(nn.Sequential(nn.LayerNorm(3), nn.Conv2d(3, 3, 1)))
    assert not is_transformer(nn.Sequential(nn.LayerNorm(3), nn.BatchNorm2d(3)))


@pytest.mark.slow
def test_a_transformer_is_to_be_trained_with_adamw(data):
    pytest.importorskip("transformers")
    result = checked(data, student=adapt(segformer(), 3, new_head=True))
    assert any(
        "--optimizer AdamW --schedule.learning_rate 6e-5 --schedule.warmup 2" in each
        for each in texts(result, "harms")
    )
    rate, adam = Schedule(steps=20, batch_size=4, learning_rate=1e-4), Optimizer(kind="AdamW")
    told = checked(data, student=adapt(beit(), 3, new_head=True), schedule=rate, optimizer=adam)
    assert not texts(told, "harms")


def test_the_command_takes_what_distil_and_train_take(data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(NET)
    torch.save(nearest_colour().state_dict(), "teacher.pth")
    (tmp_path / "near.py").write_text(
        "from torch import nn\n\ndef near(): return nn.Sequential(nn.Conv2d(3, 3, 1))\n"
    )
    given = [f"--data={data}", "--augmentation.crop=[45,61]", "--schedule.steps=3"]
    given += ["--schedule.batch_size=2", "--hardware.accelerator=cpu", "--run=run"]
    fed = ["--teacher=teacher.pth", "--teacher.network=near.py:near"]
    right = [*fed, "--teacher.mean=[0,0,0]", f"--teacher.std={[1 / 255] * 3}"]
    before = set(tmp_path.iterdir())
    assert main(["check", *right, "--student=net.py:net", *given]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "ready"
    assert main(["check", *fed, "--student=net.py:net", *given]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "not ready"
    assert main(["check", "--network=net.py:net", *given]) == 0
    assert {each for each in tmp_path.iterdir() if each.name != "__pycache__"} == before
    assert main(["distill", *right, "--student=net.py:net", *given]) == 0
    capsys.readouterr()
    assert main(["check", "--recipe=run/recipe.yaml", "--run=again"]) == 0
    assert main(["check", *right, "--student=net.py:net", *given]) == 2
    assert "run contains a finished run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"teacher": None}, "expected --teacher with --student"),
        ({"student": None}, "expected --student and --teacher"),
        ({"network": "pspnet"}, "expected --student and --teacher"),
        ({"out": "shown.jpg"}, "--out must end in .png"),
    ],
)
def test_what_cannot_be_checked_is_refused(data, tmp_path, given, said):
    if "out" in given:
        given = {"out": tmp_path / given["out"]}
    assert said in message(lambda: checked(data, **given))
