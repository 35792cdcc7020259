import math

import pytest
import torch

from fakd.errors import InputError
from fakd.losses import ChannelKL, PixelKL, channel_kl, pixel_kl
from fakd.types import LossInputs, Prediction
from references import loop_channel_kl
from stand_ins import Shown

WEIGHTS = [0.5, 2.0, 4.0]


def inputs(student, teacher):
    labels = torch.zeros(student[:, 0].shape, dtype=torch.int64)
    return LossInputs(Prediction(student), Prediction(teacher), labels)


def drawn(shape=(2, 3, 3, 4), seed=0):
    generator = torch.Generator().manual_seed(seed)
    student, teacher = torch.randn(2, *shape, generator=generator, dtype=torch.float64) * 2
    variance = torch.rand(shape, generator=generator, dtype=torch.float64) * 3
    return student, teacher, variance


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_equals_loops(temperature):
    student, teacher, variance = drawn()
    plain = channel_kl(student, teacher, temperature)
    expected = loop_channel_kl(student, teacher, temperature, torch.zeros_like(variance))
    assert plain.item() == pytest.approx(expected, abs=1e-10)
    augmented = channel_kl(student, teacher, temperature, variance)
    expected = loop_channel_kl(student, teacher, temperature, variance)
    assert augmented.item() == pytest.approx(expected, abs=1e-10)


def test_reproduces_values_worked_out_by_hand():
    # The teacher sees the class at one place with odds of 3 to 1, the student has no opinion.
    teacher = torch.tensor([3.0, 1.0]).log().view(1, 1, 1, 2)
    student = torch.zeros(1, 1, 1, 2)
    expected = 0.75 * math.log(3) - math.log(2)
    assert channel_kl(student, teacher).item() == pytest.approx(expected)
    # A variance of 2 log 3 turns the student's two terms into 3 and 1: log 2 becomes log 4.
    variance = torch.tensor([2 * math.log(3), 0.0]).view(1, 1, 1, 2)
    assert channel_kl(student, teacher, 1.0, variance).item() == pytest.approx(
        expected + math.log(2)
    )


def test_is_the_pixel_loss_with_positions_and_classes_exchanged():
    student, teacher, variance = drawn((1, 6, 2, 3))
    exchanged = [tensor.view(1, 6, 6).mT.reshape(1, 6, 2, 3) for tensor in drawn((1, 6, 2, 3))]
    torch.testing.assert_close(
        channel_kl(student, teacher, 2.0, variance),
        pixel_kl(exchanged[0], exchanged[1], 2.0, exchanged[2]),
    )


def test_is_zero_at_equality_and_blind_to_offsets():
    student, teacher, variance = drawn()
    assert channel_kl(student, student).item() == pytest.approx(0, abs=1e-15)
    offset = torch.randn(2, 3, 1, 1, dtype=torch.float64)
    torch.testing.assert_close(
        channel_kl(student + offset, teacher, 2.0, variance),
        channel_kl(student, teacher - offset, 2.0, variance),
    )


def test_without_variance_it_is_the_plain_loss_to_the_last_bit():
    student, teacher, variance = (tensor.float() for tensor in drawn())
    zero = torch.zeros_like(variance)
    assert channel_kl(student, teacher, 3.0, zero).equal(channel_kl(student, teacher, 3.0))


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_each_classs_map_counts_as_its_weight_says(temperature):
    student, teacher, variance = drawn()
    found = ChannelKL(temperature, class_weights=WEIGHTS)(inputs(student, teacher))
    expected = loop_channel_kl(student, teacher, temperature, variance * 0, WEIGHTS)
    assert found.item() == pytest.approx(expected, rel=1e-6)
    weights = torch.tensor(WEIGHTS, dtype=torch.float64) / (sum(WEIGHTS) / 3)
    found = channel_kl(student, teacher, temperature, variance, weights)
    expected = loop_channel_kl(student, teacher, temperature, variance, WEIGHTS)
    assert found.item() == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("equal", [[1.0] * 3, [0.1] * 3, [7.0] * 3, "auto"])
def test_equal_weights_are_none_to_the_last_bit(equal):
    found = []
    for weights in (None, equal):
        student, teacher, _ = (tensor.float() for tensor in drawn())
        loss = ChannelKL(2.0, class_weights=weights)
        loss.prepare(Shown(3, 3), Shown(3, 3))
        value = loss(inputs(student.requires_grad_(), teacher))
        found.append((value, *torch.autograd.grad(value, student)))
    assert all(ours.equal(theirs) for ours, theirs in zip(*found, strict=True))


def test_impossible_settings_are_refused():
    with pytest.raises(ValueError, match="expected temperature above 0, got nan"):
        ChannelKL(temperature=math.nan)
    with pytest.raises(ValueError, match="expected strength of at least 0, got inf"):
        ChannelKL(strength=math.inf)
    with pytest.raises(ValueError, match="expected momentum between 0 and 1"):
        ChannelKL(strength=1.0, momentum=0.0)
    for weights in ([1.0, -1.0], [0.0, 0.0], [1.0, math.inf]):
        with pytest.raises(InputError, match="expected class_weights of at least 0, not all 0"):
            ChannelKL(class_weights=weights)
    for loss in (ChannelKL(class_weights=WEIGHTS), PixelKL(class_weights=WEIGHTS)):
        with pytest.raises(InputError, match=rf"of {type(loss).__name__} .* 4 classes, got 3"):
            loss.prepare(Shown(3, 4), Shown(3, 4))
