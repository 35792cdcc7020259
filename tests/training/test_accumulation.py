"""A step in parts has the gradients of the whole step."""

import pytest
import torch
from torch import nn

from fakd.data import Batch
from fakd.errors import InputError
from fakd.losses import (
    PRESETS,
    ChannelKL,
    FeatureChannelKL,
    FeatureDistance,
    IntraClassVariation,
    PairwiseSimilarity,
    PixelKL,
    preset,
)
from fakd.settings import Schedule, Task
from fakd.training.objective import Distillation, Supervised, scale_terms
from fakd.training.task import TaskLoss
from fakd.types import IGNORE, Prediction, Segmenter
from training.test_loop import training
from training.test_teacher import network

CLASSES = 3


class Small(Segmenter):
    """Two convolutions without norms: each image by itself."""

    classes = CLASSES

    def __init__(self):
        super().__init__()
        self.feature, self.final = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, CLASSES, 1)

    def forward(self, images):
        features = self.feature(images).tanh()
        return Prediction(self.final(features), features)

    @property
    def classifier(self):
        return self.final


def batch():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (4, 3, 8, 10), generator=generator).byte()
    labels = torch.randint(0, CLASSES, (4, 8, 10), generator=generator)
    labels[0, :6], labels[3, :2] = IGNORE, IGNORE
    return Batch(
        images, labels.short(), torch.arange(4), torch.ones(4, dtype=torch.bool), [None] * 4
    )


def gradients(loss, task, parts):
    torch.manual_seed(0)
    student, teacher = Small().double(), Small().double()
    by_labels = TaskLoss(task, CLASSES).double()
    objective = Supervised(by_labels)
    if loss is not None:
        objective = Distillation(teacher, student, loss, task=by_labels)
    pieces = batch().parts(parts)
    shares = by_labels.shares([piece.labels for piece in pieces])
    totals = {}
    for piece, share in zip(pieces, shares, strict=True):
        images = piece.images.double() / 255
        with torch.no_grad():
            answer = teacher(images)
        outcome = objective(student(images), piece.labels, piece.labelled, 0.5, answer, share)
        terms = scale_terms(outcome.terms, 1 / parts)
        sum(terms.values()).backward()
        totals = {name: totals.get(name, 0) + term.item() for name, term in terms.items()}
    return totals, [parameter.grad for parameter in student.parameters()]


@pytest.mark.parametrize("parts", [2, 4])
@pytest.mark.parametrize(
    "loss",
    [
        None,
        PixelKL(),
        ChannelKL(),
        FeatureDistance(alignment="none"),
        FeatureDistance("cosine", alignment="none"),
        FeatureChannelKL(alignment="none"),
        IntraClassVariation(),
        PairwiseSimilarity(),
    ],
    ids=["alone", "pd", "cwd", "l2", "cosine", "features", "intra", "pairwise"],
)
@pytest.mark.parametrize(
    "task",
    [
        Task(),
        Task(average="all"),
        Task(class_weights=(1.0, 2.0, 0.5), label_smoothing=0.1),
    ],
    ids=["valid", "all", "weighted"],
)
def test_parts_add_up_to_the_whole(loss, task, parts):
    whole, expected = gradients(loss, task, 1)
    pieces, found = gradients(loss, task, parts)
    assert pieces == pytest.approx(whole, rel=1e-6)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-9)


def test_class_statistics_are_those_of_the_whole():
    counts, margins = [], []
    for parts in (1, 4):
        torch.manual_seed(0)
        student = Small().double()
        loss = ChannelKL(strength=0.3, strength_unit="margin")
        objective = Distillation(student, student, loss).double()
        for piece in batch().parts(parts):
            images = piece.images.double() / 255
            objective(student(images), piece.labels, piece.labelled, 0.5, student(images))
        counts.append(objective.covariance)
        margins.append(objective.margin.counts)
    assert margins[0].sum() > 0
    assert torch.equal(*margins)
    assert torch.equal(counts[0].count, counts[1].count)
    torch.testing.assert_close(counts[0].mean, counts[1].mean, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(counts[0].value, counts[1].value, rtol=1e-6, atol=1e-9)


def test_parts_that_do_not_divide_a_batch_are_refused(tiny_data):
    with pytest.raises(InputError, match=r"multiple of 3.*got 4"):
        training(tiny_data, schedule=Schedule(batch_size=4, accumulate=3, learning_rate=0.1))


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_losses_that_need_the_whole_batch_are_refused_in_parts(tiny_data, name):
    """Which presets those are is written out here; what is let through is tested above."""
    loss = preset(name)
    whole = {"cirkd", "cirkd-voc", "dist", "cwd-td-all", "cwd-cirkd"}
    whole |= {each for each in PRESETS if each.startswith(("skds", "ifvd"))}
    assert loss.image_by_image == (name not in whole)
    if not loss.image_by_image:
        objective = Distillation(network(0), network(1), loss)
        schedule = Schedule(steps=1, batch_size=4, accumulate=2, learning_rate=0.1)
        with pytest.raises(InputError, match="mean over images"):
            training(tiny_data, schedule=schedule, objective=objective)


def test_shares_follow_class_weights_and_copy_them_once(monkeypatch):
    loss, labels = TaskLoss(Task(class_weights="auto"), 2), torch.tensor([[[0, 0, 1, IGNORE]]])
    copies, copy = [], torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda tensor: copies.append(1) or copy(tensor))
    parts = [labels, labels.masked_fill(labels == 0, 1)]
    for _ in range(3):
        assert loss.shares(parts) == [1.0, 1.0]
    assert len(copies) == 1
    # Whatever changes them: counted labels, a checkpoint, a move.
    loss.weigh([0.5, 1.5])
    assert loss.shares(parts) == pytest.approx([2 * 2.5 / 7, 2 * 4.5 / 7])
    loss.load_state_dict({"class_weights": torch.tensor([1.0, 2.0])})
    assert loss.shares(parts) == pytest.approx([2 * 4 / 10, 2 * 6 / 10])
    loss.double()
    assert loss.shares(parts) == pytest.approx([2 * 4 / 10, 2 * 6 / 10])
    assert len(copies) == 4


def test_a_run_in_parts_learns(tiny_data):
    schedule = Schedule(steps=3, batch_size=4, accumulate=2, learning_rate=0.05)
    result = training(tiny_data, schedule=schedule).run()
    assert result["steps"] == 3
