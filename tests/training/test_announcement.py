"""What is said before a run."""

from io import StringIO

import pytest
import torch
from rich.console import Console

import fakd.training.start as module
from fakd.data import scenes
from fakd.errors import InputError
from fakd.losses import ChannelKL, WeightedSum
from fakd.settings import Hardware, Inference, Settings, Task
from fakd.training.objective import Distillation, Supervised
from fakd.training.start import advice, announce, start, unlike_published, weigh_classes
from fakd.training.task import TaskLoss, automatic_weights
from stand_ins import Shown

PROTOCOL = {"base": [520, 520], "window": 480, "stride": 320}


@pytest.fixture
def published():
    data = scenes(1, 1, (32, 48))
    data.protocol, data.remarks = PROTOCOL, ("train has 1 of [520] images",)
    return data


def test_published_settings_are_not_remarked_on(published):
    like = Inference(base=(520, 520), window=480, stride=320)
    assert unlike_published(published, like) is None
    assert unlike_published(scenes(1, 1, (32, 48)), Inference()) is None


def test_other_settings_are_named_as_flags(published):
    note = unlike_published(published, Inference(base=(520, 520)))
    assert "--inference.window '480' --inference.stride '320'" in note
    assert "base" not in note


@pytest.mark.parametrize(
    ("task", "classes", "pixels", "said"),
    [
        (Task(), 2, None, "there are two classes; if one is rare, start with --task.dice 1"),
        (Task(dice=1.0), 2, None, None),
        (Task(lovasz=1.0), 2, [99, 1], None),
        (Task(class_weights=(1.0, 2.0)), 2, [60, 40], None),
        (Task(class_weights=(1.0, 2.0)), 2, [96, 4], "96.0% of the labelled pixels are a; start"),
        (Task(), 3, None, None),
        (Task(class_weights="auto"), 3, [1, 198, 1], "99.0% of the labelled pixels are b; start"),
        (Task(class_weights="auto"), 3, [3, 95, 2], None),
    ],
)
def test_what_rare_classes_are_learnt_with_is_advised(task, classes, pixels, said):
    note = advice(task, "abc"[:classes], pixels)
    assert note == said if said is None else note.startswith(said)


@pytest.mark.parametrize("weights", ["auto", (1.0,) * 12 + (3.0,)])
def test_weighed_classes_that_never_occur_are_named(weights, monkeypatch):
    data, console = scenes(3, 1, (32, 48)), Console(file=StringIO(), width=200)
    seen = torch.stack([sample.labels for sample in data.train])
    data.class_names = (*data.class_names, "unicorn")
    task = TaskLoss(Task(class_weights=weights), data.classes)
    loss = ChannelKL(class_weights=weights)
    loss.prepare(Shown(2, data.classes), Shown(2, data.classes))
    objective = Supervised(task)
    objective.loss = WeightedSum({"only": loss})
    fabric = start(Hardware(accelerator="cpu"), 0)
    weigh_classes(fabric, console, objective, data, Settings(), None)
    expected = "class_weights: none of 3 training images contains unicorn\n"
    assert console.file.getvalue() == f"note: {expected}"
    if weights == "auto":
        counts = [int((seen == k).sum()) for k in range(data.classes)]
        found = torch.tensor(automatic_weights(counts))
        assert task.class_weights.equal(found)
        torch.testing.assert_close(loss.class_weights, found / found.mean())
    # Of many images, some are looked at where numbers are given, and all where they follow.
    monkeypatch.setattr(module, "_LOOKED_AT", 2)
    console = Console(file=StringIO(), width=200)
    weigh_classes(fabric, console, objective, data, Settings(), None)
    assert f"none of {3 if weights == 'auto' else 2} training" in console.file.getvalue()


def test_weights_without_a_label_to_follow_from_are_refused():
    with pytest.raises(InputError, match="auto is computed from labels, and no training image has"):
        Distillation(Shown(2, 3), Shown(2, 3), ChannelKL(class_weights="auto"))
    Distillation(Shown(2, 3), Shown(2, 3), ChannelKL(class_weights=[1.0, 2.0, 3.0]))


def test_remarks_are_printed_to_the_letter(published):
    console = Console(file=StringIO(), width=200)
    announce(console, published, Inference())
    printed = console.file.getvalue()
    assert "warning: train has 1 of [520] images" in printed
    assert "note: published scores on" in printed
