"""The task's loss against slow, obvious references."""

import math

import pytest
import torch

import fakd.training.task as module
from fakd.commands.train import train
from fakd.errors import InputError
from fakd.models import pspnet
from fakd.settings import Augmentation, Schedule, Task
from fakd.training.task import (
    TaskLoss,
    automatic_weights,
    cross_entropy,
    dice_loss,
    lovasz_softmax,
)
from fakd.types import IGNORE, Prediction

CLASSES = 4


@pytest.fixture
def maps():
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(2, CLASSES, 5, 6, generator=generator, dtype=torch.float32)
    labels = torch.randint(0, CLASSES - 1, (2, 5, 6), generator=generator)
    labels[0, :2] = IGNORE
    return logits, labels


def labelled_pixels(logits, labels):
    for image, truth in zip(logits, labels, strict=True):
        for row in range(truth.shape[0]):
            for col in range(truth.shape[1]):
                if truth[row, col] != IGNORE:
                    scores = [float(x) for x in image[:, row, col]]
                    total = sum(math.exp(x) for x in scores)
                    yield [math.exp(x) / total for x in scores], int(truth[row, col])


def test_weights_smoothing_and_both_divisors(maps):
    logits, labels = maps
    weights, smoothing = [0.5, 2.0, 0.0, 1.0], 0.2
    total = divisor = 0.0
    for chances, own in labelled_pixels(logits, labels):
        total -= (1 - smoothing) * weights[own] * math.log(chances[own])
        spread = [w * math.log(p) for w, p in zip(weights, chances, strict=True)]
        total -= smoothing / CLASSES * sum(spread)
        divisor += weights[own]
    given = {"class_weights": torch.tensor(weights), "label_smoothing": smoothing}
    valid = cross_entropy(logits, labels, **given)
    assert float(valid) == pytest.approx(total / divisor, rel=1e-5)
    every = cross_entropy(logits, labels, "all", **given)
    assert float(every) == pytest.approx(total / labels.numel(), rel=1e-5)


@pytest.mark.parametrize("limit", [0.9, 0.3, 1e-9])
def test_only_the_hardest_pixels_count(maps, limit):
    logits, labels = maps
    pixels = sorted(chances[own] for chances, own in labelled_pixels(logits, labels))
    border = max(limit, pixels[len(pixels) // 16])
    kept = [chance for chance in pixels if chance < border]
    expected = -sum(math.log(chance) for chance in kept) / len(kept)
    found = cross_entropy(logits, labels, hardest=limit)
    assert float(found) == pytest.approx(expected, rel=1e-5)
    assert len(kept) >= len(pixels) // 16


def test_dice_by_loops(maps):
    logits, labels = maps
    losses = []
    for k in range(CLASSES):
        pixels = list(labelled_pixels(logits, labels))
        truth = sum(own == k for _, own in pixels)
        said = sum(chances[k] for chances, _ in pixels)
        both = sum(chances[k] for chances, own in pixels if own == k)
        if truth:
            losses.append(1 - (2 * both + 1) / (said + truth + 1))
    assert len(losses) == CLASSES - 1
    assert float(dice_loss(logits, labels)) == pytest.approx(sum(losses) / len(losses), rel=1e-5)


def jaccard_loss(wrong, truth):
    """One minus the IoU of a class if the pixels in ``wrong`` are wrong."""
    missed = len(truth & wrong)
    union = len(truth | wrong)
    return 1 - (len(truth) - missed) / union if union else 0.0


def test_lovasz_by_its_definition(maps):
    """The sorted errors times what each pixel adds to the loss of the set before it."""
    logits, labels = maps
    pixels = list(labelled_pixels(logits, labels))
    losses = []
    for k in range(CLASSES):
        truth = {i for i, (_, own) in enumerate(pixels) if own == k}
        if not truth:
            continue
        errors = [abs((i in truth) - chances[k]) for i, (chances, _) in enumerate(pixels)]
        order = sorted(range(len(pixels)), key=lambda i: -errors[i])
        loss, wrong = 0.0, set()
        for i in order:
            loss += errors[i] * (jaccard_loss(wrong | {i}, truth) - jaccard_loss(wrong, truth))
            wrong.add(i)
        losses.append(loss)
    expected = sum(losses) / len(losses)
    assert float(lovasz_softmax(logits, labels)) == pytest.approx(expected, rel=1e-5)


def test_lovasz_of_hard_answers_is_one_minus_the_iou():
    labels = torch.tensor([[[0, 0, 1, 1, 1, IGNORE]]])
    said = torch.tensor([[[0, 1, 1, 1, 0, 0]]])
    logits = 100.0 * torch.nn.functional.one_hot(said, 2).movedim(-1, 1)
    expected = 1 - (1 / 3 + 2 / 4) / 2
    assert float(lovasz_softmax(logits, labels)) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("loss", [dice_loss, lovasz_softmax])
def test_losses_of_regions_have_right_gradients_and_survive_a_batch_without_labels(loss, maps):
    logits, labels = maps
    logits = logits.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loss(x, labels), [logits], atol=1e-4)
    nothing = loss(logits, torch.full_like(labels, IGNORE))
    assert nothing == 0
    nothing.backward()
    assert torch.isfinite(logits.grad).all()


def test_terms_are_named_and_weighted(maps):
    logits, labels = maps
    settings = Task(dice=2.0, lovasz=3.0, auxiliary_weight=0.5, class_weights=(1.0,) * CLASSES)
    terms = TaskLoss(settings, CLASSES)(Prediction(logits, None, 2 * logits), labels)
    assert list(terms) == ["task", "dice", "lovasz", "auxiliary"]
    torch.testing.assert_close(terms["task"], cross_entropy(logits, labels))
    torch.testing.assert_close(terms["dice"], 2 * dice_loss(logits, labels))
    torch.testing.assert_close(terms["lovasz"], 3 * lovasz_softmax(logits, labels))
    torch.testing.assert_close(terms["auxiliary"], 0.5 * cross_entropy(2 * logits, labels))


def test_automatic_weights_come_from_the_counted_pixels():
    loss = TaskLoss(Task(class_weights="auto"), 2)
    assert loss.class_weights.tolist() == [1.0, 1.0]
    loss.weigh(automatic_weights([300, 100]))
    raw = [1 / math.log(1.02 + share) for share in (0.75, 0.25)]
    assert loss.class_weights.tolist() == pytest.approx([2 * each / sum(raw) for each in raw])
    assert "class_weights" in loss.state_dict()
    with pytest.raises(InputError, match="needs labelled pixels"):
        automatic_weights([0, 0])


@pytest.mark.parametrize(
    "wrong",
    [
        {"auxiliary_weight": -1.0},
        {"label_smoothing": 1.0},
        {"hardest": 0.0},
        {"dice": math.inf},
        {"class_weights": (0.0, 0.0)},
        {"class_weights": (1.0, -1.0)},
    ],
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(InputError, match=f"task.{next(iter(wrong))}"):
        Task(**wrong)


def test_as_many_weights_as_classes():
    with pytest.raises(InputError, match="each of 3 classes, got 2"):
        TaskLoss(Task(class_weights=(1.0, 2.0)), 3)


@pytest.mark.parametrize("settings", [Task(), Task(hardest=0.7), Task(dice=1.0, lovasz=1.0)])
@pytest.mark.parametrize("size", [(5, 6), (10, 12), (3, 4)])
def test_logits_are_enlarged_as_the_network_means_them_to_be(maps, settings, size):
    logits, _ = maps
    labels = torch.randint(0, CLASSES, (2, *size), generator=torch.Generator().manual_seed(1))
    options = {"mode": "bilinear", "align_corners": True}
    whole = torch.nn.functional.interpolate(logits, size, **options)
    found = TaskLoss(settings, CLASSES, align_corners=True)(Prediction(logits), labels)
    expected = TaskLoss(settings, CLASSES)(Prediction(whole), labels)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)
    if size != (5, 6):
        other = TaskLoss(settings, CLASSES)(Prediction(logits), labels)
        assert (other["task"] - found["task"]).abs() > 1e-3


def test_training_takes_the_networks_way_of_enlarging(tiny_data, tmp_path, monkeypatch):
    asked = []

    class Watched(TaskLoss):
        def __init__(self, settings, classes, align_corners=False, triton=False):
            super().__init__(settings, classes, align_corners, triton)
            asked.append(align_corners)

    monkeypatch.setattr(module, "TaskLoss", Watched)
    for aligned in (False, True):
        network = pspnet("mobilenetv3_small_050", 12, channels=8, align_corners=aligned)
        settings = {
            "schedule": Schedule(steps=1, batch_size=2),
            "augmentation": Augmentation(crop=(32, 32)),
        }
        train(network, tiny_data, tmp_path / str(aligned), **settings)
    assert asked == [False, True]


def test_every_term_is_computed_in_32_bits_under_autocast():
    logits = torch.randn(2, 3, 8, 8)
    labels = torch.randint(0, 3, (2, 32, 32))
    loss = TaskLoss(Task(dice=1.0, lovasz=1.0), 3)
    expected = loss(Prediction(logits, auxiliary=logits), labels)
    with torch.autocast("cpu", torch.bfloat16):
        found = loss(Prediction(logits, auxiliary=logits), labels)
    for name, term in found.items():
        assert term.dtype == torch.float32, name
        assert torch.equal(term, expected[name]), name
