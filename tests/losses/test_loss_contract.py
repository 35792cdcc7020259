"""What every loss of the package owes its caller, whatever its settings."""

import doctest
import importlib
from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from fakd.covariance import ClassCovariance, LogitStatistics
from fakd.losses import ChannelKL, PixelKL
from fakd.types import IGNORE, LossInputs, Prediction

CLASSES, CHANNELS = 4, 3
AUGMENTED = [
    *(
        partial(PixelKL, bound=bound, strength=0.7)
        for bound in ("marginal", "difference", "tilted")
    ),
    partial(PixelKL, bound="difference", strength=0.7, covariance="full", spare_own_class=True),
    partial(PixelKL, bound="tilted", strength=0.7, covariance="full", temperature=2.0),
    partial(PixelKL, strength=0.7, covariance="full", spare_own_class=True),
    partial(PixelKL, strength=0.7, covariance="logits"),
    partial(ChannelKL, strength=0.7),
    partial(ChannelKL, strength=0.7, covariance="full", spare_own_class=True, temperature=2.0),
    partial(ChannelKL, strength=0.7, covariance="logits"),
]
LOSSES = [PixelKL, ChannelKL, *AUGMENTED]
NAMES = [
    " ".join([str(getattr(f, "func", f).__name__), str(getattr(f, "keywords", ""))]) for f in LOSSES
]


def tensors(dtype=torch.float64, scale=1.0):
    generator = torch.Generator().manual_seed(0)
    draw = partial(torch.randn, generator=generator, dtype=dtype)
    labels = torch.randint(CLASSES, (2, 3, 2), generator=generator)
    labels[0, 0] = IGNORE
    features, weight = draw(2, CHANNELS, 3, 2), draw(CLASSES, CHANNELS, 1, 1)
    teacher = draw(2, CLASSES, 3, 2) * scale
    return features * scale, weight, teacher, labels


def inputs_for(loss, features, weight, teacher, labels, covariance=None):
    logits = F.conv2d(features, weight)
    student, statistics = Prediction(logits, features), None
    if loss.covariance is not None:
        fed = logits if loss.covariance == "logits" else features
        if covariance is None:
            covariance = ClassCovariance(CLASSES, fed.shape[1], loss.covariance, None, IGNORE)
            covariance.to(torch.promote_types(features.dtype, torch.float32))
            covariance.update(fed, labels)
        statistics = LogitStatistics(covariance, weight, labels)
    return LossInputs(student, Prediction(teacher), labels, statistics, progress=0.8)


every_loss = pytest.mark.parametrize("make", LOSSES, ids=NAMES)


@every_loss
def test_gradients_are_right_and_reach_features_and_classifier_only(make):
    loss, (features, weight, teacher, labels) = make(), tensors()
    statistics = inputs_for(loss, features, weight, teacher, labels).statistics
    covariance = statistics and statistics.covariance
    for tensor in (features, weight, teacher):
        tensor.requires_grad_()

    def value(features, weight):
        return loss(inputs_for(loss, features, weight, teacher, labels, covariance))

    # The tilted bound takes its tilt as given, finite differences do not; see test_augmentation.
    if getattr(loss, "bound", None) != "tilted":
        assert torch.autograd.gradcheck(value, (features, weight))
    value(features, weight).backward()
    assert features.grad.abs().sum() > 0
    assert weight.grad.abs().sum() > 0
    assert teacher.grad is None
    assert covariance is None or not any(buffer.requires_grad for buffer in covariance.buffers())


@every_loss
def test_the_order_of_the_batch_does_not_matter(make):
    loss, (*parts, labels) = make(), tensors()
    features, weight, teacher = parts
    forward = loss(inputs_for(loss, features, weight, teacher, labels))
    backward = loss(inputs_for(loss, features.flip(0), weight, teacher.flip(0), labels.flip(0)))
    torch.testing.assert_close(backward, forward, rtol=1e-12, atol=0)


@every_loss
def test_the_memory_format_does_not_matter(make):
    loss, (features, weight, teacher, labels) = make(), tensors()
    expected = loss(inputs_for(loss, features, weight, teacher, labels))
    features, teacher = (x.to(memory_format=torch.channels_last) for x in (features, teacher))
    torch.testing.assert_close(loss(inputs_for(loss, features, weight, teacher, labels)), expected)


@every_loss
def test_autocast_and_half_precision_inputs_are_computed_in_float32(make):
    loss, cast = make(), [tensor.bfloat16() for tensor in tensors()[:3]]
    inputs = inputs_for(loss, *(tensor.float() for tensor in cast), tensors()[3])
    expected = loss(inputs)
    assert expected.dtype == torch.float32
    half = replace(
        inputs,
        student=Prediction(inputs.student.logits.bfloat16()),
        teacher=Prediction(cast[2]),
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert loss(inputs).equal(expected)
        rounded = loss(half)
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, expected, rtol=0.05, atol=0.02)


@every_loss
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_extreme_logits_give_finite_losses_and_gradients(make, dtype):
    loss, (features, weight, teacher, labels) = make(), tensors(torch.float32)
    inputs = inputs_for(loss, features, weight, teacher, labels)
    logits = (teacher.roll(1, 1).sign() * 1e4).to(dtype).requires_grad_()
    extreme = replace(
        inputs,
        student=Prediction(logits),
        teacher=Prediction((teacher.sign() * 1e4).to(dtype)),
    )
    value = loss(extreme)
    value.backward()
    assert value.isfinite()
    assert value > 100
    assert logits.grad.isfinite().all()


@every_loss
def test_a_loss_keeps_no_state_and_learns_nothing(make):
    assert not make().state_dict()


def test_default_weights_and_settings():
    assert (ChannelKL.default_weight, PixelKL.default_weight) == (5.0, 1.0)
    for make in (ChannelKL, PixelKL):
        assert make().covariance is None
        assert make(strength=1.0).covariance == "diagonal"
        assert make(strength=1.0, covariance="full", momentum=0.9).momentum == 0.9


@pytest.mark.parametrize("name", ["augmentation", "channel", "pixel"])
def test_examples_in_the_docstrings_run(name):
    module = importlib.import_module(f"fakd.losses.{name}")
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0
