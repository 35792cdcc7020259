"""Tiled cross-entropy against the enlarged map, which it never makes."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from fakd import bilinear
from fakd.settings import Task
from fakd.training.task import TaskLoss, cross_entropy
from fakd.training.upsampled import label_losses, summed_cross_entropy
from fakd.types import IGNORE, Prediction

SIZES = [
    ((4, 4), (16, 16)),
    ((3, 5), (17, 31)),
    ((1, 1), (9, 7)),
    ((1, 6), (8, 6)),
    ((7, 2), (7, 200)),
    ((33, 2), (100, 3)),
    ((9, 9), (8, 300)),
    ((12, 10), (5, 3)),
    ((6, 6), (6, 6)),
]


@pytest.fixture(autouse=True)
def _small_tiles(monkeypatch):
    """Many tiles of several rows, even where maps are small."""
    monkeypatch.setattr(bilinear, "TILE_WIDTH", 16)
    monkeypatch.setattr(bilinear, "TILE_NUMBERS", {"cpu": 5 * 16 * 3})


def drawn(size, shown, classes=5, dtype=torch.float64):
    generator = torch.Generator().manual_seed(sum(size) + sum(shown))
    logits = 4 * torch.randn(2, classes, *size, generator=generator, dtype=dtype)
    labels = torch.randint(IGNORE, classes, (2, *shown), generator=generator)
    return logits.requires_grad_(), labels


def plain(logits, labels, weights=None, smoothing=0.0, counted=None, align_corners=False):
    size = labels.shape[-2:]
    shown = F.interpolate(logits, size, mode="bilinear", align_corners=align_corners)
    if counted is not None:
        labels = labels.masked_fill(~counted, IGNORE)
    options = {"ignore_index": IGNORE, "label_smoothing": smoothing, "reduction": "sum"}
    return F.cross_entropy(shown, labels, weights, **options)


def value_and_gradient(function, logits, *given):
    value = function(logits, *given)
    (gradient,) = torch.autograd.grad(0.7 * value, logits)
    return value.detach(), gradient


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weighed", [False, True])
@pytest.mark.parametrize(("size", "shown"), SIZES)
def test_as_of_the_enlarged_map(size, shown, weighed, smoothing, align_corners):
    logits, labels = drawn(size, shown)
    weights = torch.tensor([0.5, 2.0, 0.0, 1.0, 3.0], dtype=torch.float64) if weighed else None
    some = torch.rand(labels.shape, generator=torch.Generator().manual_seed(1)) < 0.5
    for counted in (None, some):
        given = labels, weights, smoothing, counted, align_corners
        found, expected = (
            value_and_gradient(each, logits, *given) for each in (summed_cross_entropy, plain)
        )
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_the_gradient_is_that_of_the_value():
    logits, labels = drawn((3, 2), (5, 9))
    weights = torch.tensor([0.5, 2.0, 0.0, 1.0, 3.0], dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda x: summed_cross_entropy(x, labels, weights, 0.1), [logits]
    )


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(("size", "shown"), SIZES)
def test_losses_of_pixels(size, shown, align_corners):
    logits, labels = drawn(size, shown)
    enlarged = F.interpolate(logits, shown, mode="bilinear", align_corners=align_corners)
    expected = F.cross_entropy(enlarged, labels, ignore_index=IGNORE, reduction="none").detach()
    found = label_losses(logits, labels, align_corners)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_likely_and_unlikely_pixels_keep_their_digits():
    logits, labels = drawn((3, 3), (12, 12), dtype=torch.float32)
    logits = (100 * logits).detach().requires_grad_()
    found, expected = (
        value_and_gradient(each, logits, labels) for each in (summed_cross_entropy, plain)
    )
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_short_numbers_are_computed_in_float32_and_get_gradients_of_their_kind(kind):
    logits, labels = drawn((4, 4), (16, 20))
    short = logits.detach().to(kind).requires_grad_()
    exact = short.detach().float().requires_grad_()
    expected, slope = value_and_gradient(plain, exact, labels)
    with torch.autocast("cpu", torch.bfloat16):
        found, gradient = value_and_gradient(summed_cross_entropy, short, labels)
    assert (found.dtype, gradient.dtype) == (torch.float32, kind)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient, slope.to(kind), rtol=0.01, atol=1e-3)


def test_memory_format_and_other_label_types_make_no_difference():
    logits, labels = drawn((4, 6), (16, 20))
    last = logits.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    expected = value_and_gradient(summed_cross_entropy, logits, labels)
    found = value_and_gradient(summed_cross_entropy, last, labels.to(torch.int16))
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-13)
    assert found[1].is_contiguous()


def test_nothing_labelled_gives_nothing():
    logits, labels = drawn((3, 3), (9, 9))
    nothing = torch.full_like(labels, IGNORE)
    value, gradient = value_and_gradient(cross_entropy, logits, nothing)
    assert value == 0
    assert not gradient.any()
    assert not label_losses(logits, nothing).any()


def test_a_class_that_there_is_not_is_refused():
    logits, labels = drawn((3, 3), (9, 9))
    labels[0, 0, 0] = 5
    with pytest.raises(RuntimeError, match="out of bounds"):
        summed_cross_entropy(logits, labels)


@pytest.mark.parametrize("hardest", [None, 0.7, 1e-9])
@pytest.mark.parametrize("average", ["valid", "all"])
def test_the_tasks_loss_is_the_same_as_of_enlarged_logits(hardest, average):
    logits, labels = drawn((4, 5), (16, 25))
    weights = torch.tensor([0.5, 2.0, 0.0, 1.0, 3.0], dtype=torch.float64)
    enlarged = F.interpolate(logits, labels.shape[-2:], mode="bilinear")
    given = labels, average, weights, 0.1, hardest
    expected = cross_entropy(enlarged, *given)
    (slope,) = torch.autograd.grad(expected, logits)
    found = cross_entropy(logits, *given)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    (gradient,) = torch.autograd.grad(found, logits)
    torch.testing.assert_close(gradient, slope, rtol=1e-12, atol=1e-14)


class Largest(TorchDispatchMode):
    """Remembers how many numbers the largest new tensor had."""

    numbers = 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        made = function(*arguments, **(options or {}))
        for each in made if isinstance(made, (tuple, list)) else [made]:
            if isinstance(each, torch.Tensor):
                self.numbers = max(self.numbers, each.numel())
        return made


@pytest.mark.parametrize(
    "settings",
    [
        Task(),
        Task(hardest=0.7, label_smoothing=0.1),
    ],
)
@pytest.mark.slow
def test_what_is_held_does_not_grow_with_the_labels_but_for_them(settings, monkeypatch):
    monkeypatch.setattr(bilinear, "TILE_NUMBERS", {"cpu": 50 * 16})
    found = []
    for scale in (8, 32):
        logits, labels = drawn((4, 4), (4 * scale, 4 * scale), classes=50)
        task = TaskLoss(settings, 50)
        with Largest() as largest:
            terms = task(Prediction(logits, None, logits * 2), labels)
            torch.stack(list(terms.values())).sum().backward()
        assert largest.numbers < 50 * labels.numel() / 10
        found.append((largest.numbers, labels.numel()))
    # The logits, or one number for each pixel.
    assert all(numbers <= max(2 * 50 * 4 * 4, pixels) for numbers, pixels in found)
