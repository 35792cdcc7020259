import math
from dataclasses import replace

import pytest
import torch

from fakd.losses import PixelKL, difference_bound, joint_pixel_kl, pixel_kl, tilted_bound
from fakd.types import LossInputs, Prediction
from references import loop_difference_bound, loop_pixel_kl
from stand_ins import Shown


def drawn(shape=(2, 3, 3, 4), seed=0):
    generator = torch.Generator().manual_seed(seed)
    student, teacher = torch.randn(2, *shape, generator=generator, dtype=torch.float64) * 2
    variance = torch.rand(shape, generator=generator, dtype=torch.float64) * 3
    return student, teacher, variance


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_equals_loops(temperature):
    student, teacher, variance = drawn()
    plain = pixel_kl(student, teacher, temperature)
    expected = loop_pixel_kl(student, teacher, temperature, torch.zeros_like(variance))
    assert plain.item() == pytest.approx(expected, abs=1e-10)
    augmented = pixel_kl(student, teacher, temperature, variance)
    expected = loop_pixel_kl(student, teacher, temperature, variance)
    assert augmented.item() == pytest.approx(expected, abs=1e-10)


def test_reproduces_values_worked_out_by_hand():
    # The teacher gives odds of 3 to 1, the student none: log 2 - H(1/4) = 0.75 log 3 - log 2.
    teacher = torch.tensor([3.0, 1.0]).log().view(1, 2, 1, 1)
    student = torch.zeros(1, 2, 1, 1)
    expected = 0.75 * math.log(3) - math.log(2)
    assert pixel_kl(student, teacher).item() == pytest.approx(expected)
    # A variance of 2 log 3 turns the student's two terms into 3 and 1: log 2 becomes log 4.
    variance = torch.tensor([2 * math.log(3), 0.0]).view(1, 2, 1, 1)
    expected += math.log(2)
    assert pixel_kl(student, teacher, 1.0, variance).item() == pytest.approx(expected)
    # Temperature 2 halves the teacher's logits, so the odds are sqrt(3) to 1.
    q = math.sqrt(3) / (1 + math.sqrt(3))
    expected = 4 * (math.log(2) + q * math.log(q) + (1 - q) * math.log(1 - q))
    assert pixel_kl(student, teacher, 2.0).item() == pytest.approx(expected)


def test_is_zero_at_equality_and_blind_to_offsets():
    student, teacher, variance = drawn()
    assert pixel_kl(student, student).item() == pytest.approx(0, abs=1e-15)
    offset = torch.randn(2, 1, 3, 4, dtype=torch.float64)
    torch.testing.assert_close(
        pixel_kl(student + offset, teacher, 2.0, variance),
        pixel_kl(student, teacher - offset, 2.0, variance),
    )


def test_without_variance_it_is_the_plain_loss_to_the_last_bit():
    student, teacher, variance = (tensor.float() for tensor in drawn())
    zero = torch.zeros_like(variance)
    assert pixel_kl(student, teacher, 3.0, zero).equal(pixel_kl(student, teacher, 3.0))


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_difference_bound_equals_loops(temperature):
    student, teacher, _ = drawn()
    root = torch.randn(2, 3, 3, dtype=torch.float64)
    covariance = root @ root.mT
    labels = torch.randint(2, (2, 3, 4))
    labels[0, 0] = 255
    rows = labels.masked_fill(labels == 255, 2)
    target = (teacher / temperature).softmax(1)
    bound = difference_bound(student, target, covariance, rows)
    expected = loop_difference_bound(student, target, covariance, labels)
    torch.testing.assert_close(bound, expected, rtol=0, atol=1e-10)
    loss = joint_pixel_kl(student, teacher, temperature, covariance, rows, difference_bound)
    scaled = loop_difference_bound(
        student / temperature, target, covariance / temperature**2, labels
    )
    expected = temperature**2 * ((target * target.log()).sum(1) + scaled).mean()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-10)


@pytest.mark.parametrize("bound", [difference_bound, tilted_bound])
def test_bounds_without_noise_are_the_plain_loss(bound):
    student, teacher, _ = drawn()
    rows = torch.full((2, 3, 4), 2)  # past the end: no pixel has a class
    covariance = torch.ones(2, 3, 3, dtype=torch.float64)
    loss = joint_pixel_kl(student, teacher, 2.0, covariance, rows, bound)
    assert loss.item() == pytest.approx(pixel_kl(student, teacher, 2.0).item(), abs=1e-12)
    covariance, rows = torch.zeros(2, 3, 3, dtype=torch.float64), torch.zeros(2, 3, 4).long()
    loss = joint_pixel_kl(student, teacher, 2.0, covariance, rows, bound)
    assert loss.item() == pytest.approx(pixel_kl(student, teacher, 2.0).item(), abs=1e-12)


@pytest.mark.parametrize("bound", [difference_bound, tilted_bound])
def test_bounds_stay_finite_where_logits_lie_far_apart(bound):
    student = torch.tensor([1e4, -1e4, 0.0]).view(1, 3, 1, 1).requires_grad_()
    covariance = torch.eye(3)[None].repeat(2, 1, 1) * 10
    loss = joint_pixel_kl(student, -student, 1.0, covariance, torch.zeros(1, 1, 1).long(), bound)
    loss.backward()
    assert loss.item() == pytest.approx(2e4, rel=1e-2)
    assert student.grad.isfinite().all()


def labelled(student, teacher):
    """Some pixels of each class, and some without one."""
    labels = torch.arange(24).view(2, 3, 4) % 4 - 1
    return LossInputs(Prediction(student), Prediction(teacher), labels)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_pixels_count_as_the_weight_of_their_class_says(temperature):
    student, teacher, variance = drawn()
    inputs, weights = labelled(student, teacher), [0.5, 2.0, 4.0]
    found = PixelKL(temperature, class_weights=weights)(inputs)
    arguments = student, teacher, temperature
    expected = loop_pixel_kl(*arguments, variance * 0, inputs.labels, weights)
    assert found.item() == pytest.approx(expected, rel=1e-6)
    each = PixelKL(class_weights=weights).double()._pixel_weights(inputs)
    found = pixel_kl(*arguments, variance, pixel_weights=each)
    expected = loop_pixel_kl(*arguments, variance, inputs.labels, weights)
    assert found.item() == pytest.approx(expected, rel=1e-6)
    # Without any label the teacher names all classes.
    nothing = torch.full_like(inputs.labels, -1)
    found = PixelKL(temperature, class_weights=weights)(replace(inputs, labels=nothing))
    expected = loop_pixel_kl(*arguments, variance * 0, nothing, weights)
    assert found.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("equal", [[1.0] * 3, [0.1] * 3, [7.0] * 3, "auto"])
def test_equal_weights_are_none_to_the_last_bit(equal):
    found = []
    for weights in (None, equal):
        student, teacher, _ = (tensor.float() for tensor in drawn())
        loss = PixelKL(2.0, class_weights=weights, reduction="element_mean")
        loss.prepare(Shown(3, 3), Shown(3, 3))
        value = loss(labelled(student.requires_grad_(), teacher))
        found.append((value, *torch.autograd.grad(value, student)))
    assert all(ours.equal(theirs) for ours, theirs in zip(*found, strict=True))


def test_impossible_settings_are_refused():
    with pytest.raises(ValueError, match="expected temperature above 0, got 0"):
        PixelKL(temperature=0.0)
    with pytest.raises(ValueError, match="expected strength of at least 0, got -1"):
        PixelKL(strength=-1.0)
    with pytest.raises(ValueError, match="expected momentum between 0 and 1"):
        PixelKL(strength=1.0, momentum=1.0)
    with pytest.raises(ValueError, match="choose 'diagonal' or 'full'"):
        PixelKL(strength=1.0, covariance="logits", bound="tilted")


@pytest.mark.parametrize("name", ["pixel_mean", "element_mean", "sum_over_hw", "batch_mean"])
@pytest.mark.parametrize("t_squared", [True, False])
def test_reductions_of_other_code_bases(name, t_squared):
    generator = torch.Generator().manual_seed(3)
    student, teacher = torch.randn(2, 3, 5, 4, 6, generator=generator, dtype=torch.float64)
    total = 0.0
    for n in range(3):
        for row in range(4):
            for col in range(6):
                q = torch.softmax(teacher[n, :, row, col] / 2, 0)
                p = torch.softmax(student[n, :, row, col] / 2, 0)
                total += float((q * (q / p).log()).sum())
    divisor = {
        "pixel_mean": 3 * 4 * 6,
        "element_mean": 3 * 4 * 6 * 5,
        "sum_over_hw": 4 * 6,
        "batch_mean": 3,
    }
    expected = total / divisor[name] * (4 if t_squared else 1)
    found = pixel_kl(student, teacher, 2.0, reduction=name, t_squared=t_squared)
    assert float(found) == pytest.approx(expected, rel=1e-12)
    loss = PixelKL(2.0, reduction=name, t_squared=t_squared)
    inputs = LossInputs(Prediction(student), Prediction(teacher), torch.zeros(3, 4, 6).long())
    assert float(loss(inputs)) == pytest.approx(expected, rel=1e-12)
