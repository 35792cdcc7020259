import pytest
import torch
import torch.nn.functional as F

from fakd.errors import InputError
from fakd.losses.feature import (
    FeatureChannelKL,
    FeatureDistance,
    feature_channel_kl,
    feature_distance,
)
from fakd.types import LossInputs, Prediction
from stand_ins import Shown

every_kind = pytest.mark.parametrize("kind", ["l2", "cosine"])


def drawn(student=(2, 3, 3, 4), teacher=(2, 3, 3, 4)):
    generator = torch.Generator().manual_seed(0)
    shapes = (student, teacher)
    return [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]


def inputs_of(student, teacher):
    logits = torch.zeros(len(student), 2, *student.shape[2:], dtype=student.dtype)
    labels = torch.full((len(student), *student.shape[2:]), -1)
    return LossInputs(Prediction(logits, student), Prediction(logits, teacher), labels)


def drawn_twice_as_large(*shapes, **named):
    return [2 * each for each in drawn(*shapes, **named)]


def prepared(student_channels, teacher_channels, make=FeatureDistance, **settings):
    torch.manual_seed(0)
    loss = make(**settings)
    loss.prepare(Shown(student_channels), Shown(teacher_channels))
    return loss.double()


def loop_feature_distance(student, teacher, kind):
    """One pixel after the other."""
    batch, channels, rows, cols = student.shape
    total = torch.zeros((), dtype=student.dtype)
    for n in range(batch):
        for i in range(rows):
            for j in range(cols):
                s, t = student[n, :, i, j], teacher[n, :, i, j]
                if kind == "l2":
                    total = total + sum((s[d] - t[d]) ** 2 for d in range(channels)) / channels
                else:
                    total = total + 1 - (s @ t) / ((s @ s).sqrt() * (t @ t).sqrt())
    return total / (batch * rows * cols)


@every_kind
def test_value_and_gradient_equal_loops(kind):
    student, teacher = drawn()
    student.requires_grad_()
    value = feature_distance(student, teacher, kind)
    expected = loop_feature_distance(student, teacher, kind)
    torch.testing.assert_close(value, expected, rtol=0, atol=1e-10)
    (gradient,) = torch.autograd.grad(value, student)
    (expected,) = torch.autograd.grad(expected, student)
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-9)
    assert gradient.abs().sum() > 0


def test_scale_matters_to_l2_and_not_to_cosine():
    student, teacher = drawn()
    l2, cosine = feature_distance(student, teacher), feature_distance(student, teacher, "cosine")
    torch.testing.assert_close(feature_distance(3 * student, 3 * teacher), 9 * l2)
    torch.testing.assert_close(feature_distance(3 * student, teacher, "cosine"), cosine)
    assert feature_distance(teacher, teacher).item() == 0
    assert feature_distance(3 * teacher, teacher, "cosine").item() == pytest.approx(0, abs=1e-14)
    assert feature_distance(-teacher, teacher, "cosine").item() == pytest.approx(2)


@every_kind
def test_the_teacher_comes_to_the_grid_of_the_student(kind):
    student, teacher = drawn(teacher=(2, 3, 6, 8))
    here = F.interpolate(teacher, (3, 4), mode="bilinear", align_corners=False)
    value = feature_distance(student, teacher, kind)
    expected = loop_feature_distance(student, here, kind)
    torch.testing.assert_close(value, expected, rtol=0, atol=1e-10)


@every_kind
@pytest.mark.parametrize("alignment", ["conv", "conv-bias", "conv-bn-relu"])
def test_the_module_aligns_and_leaves_the_teacher_alone(kind, alignment):
    student, teacher = drawn((2, 2, 3, 4), (2, 6, 3, 4))
    student.requires_grad_()
    teacher.requires_grad_()
    loss = prepared(2, 6, kind=kind, alignment=alignment)
    value = loss(inputs_of(student, teacher))
    assert value.equal(feature_distance(loss.align(student), teacher, kind))
    value.backward()
    assert student.grad.abs().sum() > 0
    assert all(weight.grad is not None for weight in loss.parameters())
    assert next(loss.parameters()).grad.abs().sum() > 0
    assert teacher.grad is None


@every_kind
def test_equal_channels_need_no_alignment(kind):
    student, teacher = drawn()
    loss = prepared(3, 3, kind=kind, alignment="none")
    value = loss(inputs_of(student, teacher))
    assert value.equal(feature_distance(student, teacher, kind))
    assert not loss.state_dict()
    backwards = loss(inputs_of(student.flip(0), teacher.flip(0)))
    torch.testing.assert_close(value, backwards, rtol=1e-12, atol=0)


@every_kind
def test_finite_differences_agree_with_the_gradient_of_the_module(kind):
    student, teacher = drawn((2, 2, 2, 2), (2, 3, 2, 2))
    loss = prepared(2, 3, kind=kind)
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: loss(inputs_of(s, teacher)), student)


def test_a_checkpoint_brings_the_alignment_back():
    student, teacher = drawn((2, 2, 3, 4), (2, 6, 3, 4))
    loss, again = prepared(2, 6), prepared(2, 6)
    with torch.no_grad():
        next(loss.parameters()).mul_(1.5)
    assert not again(inputs_of(student, teacher)).equal(loss(inputs_of(student, teacher)))
    again.load_state_dict(loss.state_dict())
    assert again(inputs_of(student, teacher)).equal(loss(inputs_of(student, teacher)))


@every_kind
def test_float32_whatever_the_precision_and_the_memory_format(kind):
    student, teacher = drawn((2, 2, 3, 4), (2, 6, 3, 4))
    loss = prepared(2, 6, kind=kind)
    exact = loss(inputs_of(student, teacher))
    last = (each.to(memory_format=torch.channels_last) for each in (student, teacher))
    torch.testing.assert_close(loss(inputs_of(*last)), exact)
    loss, half = loss.float(), (student.bfloat16(), teacher.bfloat16())
    expected = loss(inputs_of(*(each.float() for each in half)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(inputs_of(*half))
    assert value.equal(expected)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value.double(), exact, rtol=0.02, atol=0)


@every_kind
def test_the_function_alone_computes_in_float32(kind):
    half = [each.bfloat16() for each in drawn()]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = feature_distance(*half, kind)
    assert value.equal(feature_distance(half[0].float(), half[1].float(), kind))
    assert value.dtype == torch.float32


@every_kind
@pytest.mark.parametrize("scale", [0.0, 1e4])
@pytest.mark.parametrize("grid", [(1, 1), (2, 3)])
def test_it_is_finite_for_zero_and_for_huge_features_and_for_single_pixels(kind, scale, grid):
    student, teacher = (each.float() for each in drawn((1, 2, *grid), (1, 2, *grid)))
    student = (student * scale).requires_grad_()
    value = feature_distance(student, teacher, kind)
    value.backward()
    assert value.isfinite()
    assert student.grad.isfinite().all()
    if kind == "cosine" and scale == 0:
        assert value == 1
        assert not student.grad.any()


def test_impossible_demands_are_refused():
    with pytest.raises(ValueError, match=r"pass Alignment\(2, 6\)\(features\)"):
        feature_distance(*drawn((2, 2, 3, 4), (2, 6, 3, 4)))
    with pytest.raises(InputError, match=r"FeatureDistance compares features.*this student"):
        FeatureDistance().prepare(Shown(None), Shown(2))
    with pytest.raises(ValueError, match="prepare"):
        FeatureDistance()(inputs_of(*drawn()))


def test_defaults():
    loss = FeatureDistance()
    assert (loss.weight, loss.kind, loss.alignment) == (1.0, "l2", "conv")


def loop_feature_channel_kl(student, teacher, temperature):
    """One channel of one image after the other, one position after the other."""
    total = torch.zeros((), dtype=student.dtype)
    for s_map, t_map in zip(student.flatten(0, 1), teacher.flatten(0, 1), strict=True):
        s_terms = [(value / temperature).exp() for value in s_map.flatten()]
        t_terms = [(value / temperature).exp() for value in t_map.flatten()]
        for s, t in zip(s_terms, t_terms, strict=True):
            q, p = t / sum(t_terms), s / sum(s_terms)
            total = total + q * (q / p).log()
    return temperature**2 * total / (student.shape[0] * student.shape[1])


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_channels_value_and_gradient_equal_loops(temperature):
    student, teacher = drawn_twice_as_large()
    student.requires_grad_()
    value = feature_channel_kl(student, teacher, temperature)
    expected = loop_feature_channel_kl(student, teacher, temperature)
    torch.testing.assert_close(value, expected, rtol=0, atol=1e-10)
    (gradient,) = torch.autograd.grad(value, student)
    (expected,) = torch.autograd.grad(expected, student)
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-9)
    assert gradient.abs().sum() > 0


def test_channels_the_teacher_comes_to_the_grid_of_the_student():
    student, teacher = drawn_twice_as_large(teacher=(2, 3, 6, 8))
    here = F.interpolate(teacher, (3, 4), mode="bilinear", align_corners=False)
    value = feature_channel_kl(student, teacher, 2.0)
    torch.testing.assert_close(
        value, loop_feature_channel_kl(student, here, 2.0), rtol=0, atol=1e-10
    )


@pytest.mark.parametrize("divisor", ["teacher", "student"])
@pytest.mark.parametrize("alignment", ["conv", "conv-bias", "conv-bn-relu"])
def test_channels_the_module_aligns_and_divides_as_told(alignment, divisor):
    student, teacher = drawn_twice_as_large((2, 2, 3, 4), (2, 6, 3, 4))
    student.requires_grad_()
    teacher.requires_grad_()
    loss = prepared(2, 6, FeatureChannelKL, temperature=2.0, alignment=alignment, divisor=divisor)
    value = loss(inputs_of(student, teacher))
    expected = loop_feature_channel_kl(loss.align(student), teacher.detach(), 2.0)
    factor = 3 if divisor == "student" else 1
    torch.testing.assert_close(value, factor * expected, rtol=0, atol=1e-10)
    value.backward()
    assert student.grad.abs().sum() > 0
    assert all(weight.grad is not None for weight in loss.parameters())
    assert next(loss.parameters()).grad.abs().sum() > 0
    assert teacher.grad is None


def test_channels_finite_differences_agree_with_the_gradient_of_the_module():
    student, teacher = drawn_twice_as_large((2, 2, 2, 2), (2, 3, 2, 2))
    loss = prepared(2, 3, FeatureChannelKL, divisor="student")
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: loss(inputs_of(s, teacher)), student)


def test_channels_as_many_need_no_alignment():
    student, teacher = drawn_twice_as_large()
    loss = prepared(3, 3, FeatureChannelKL, alignment="none")
    value = loss(inputs_of(student, teacher))
    assert value.equal(feature_channel_kl(student, teacher, 4.0))
    assert not loss.state_dict()
    backwards = loss(inputs_of(student.flip(0), teacher.flip(0)))
    torch.testing.assert_close(value, backwards, rtol=1e-12, atol=0)


def test_channels_a_checkpoint_brings_the_alignment_back():
    student, teacher = drawn_twice_as_large((2, 2, 3, 4), (2, 6, 3, 4))
    loss = prepared(2, 6, FeatureChannelKL, alignment="conv-bn-relu")
    with torch.no_grad():
        next(loss.parameters()).mul_(1.5).add_(0.1)
    again = prepared(2, 6, FeatureChannelKL, alignment="conv-bn-relu")
    assert not again(inputs_of(student, teacher)).equal(loss(inputs_of(student, teacher)))
    again.load_state_dict(loss.state_dict())
    assert again(inputs_of(student, teacher)).equal(loss(inputs_of(student, teacher)))


def test_channels_float32_whatever_the_precision_and_the_memory_format():
    student, teacher = drawn_twice_as_large((2, 2, 3, 4), (2, 6, 3, 4))
    loss = prepared(2, 6, FeatureChannelKL)
    exact = loss(inputs_of(student, teacher))
    last = (each.to(memory_format=torch.channels_last) for each in (student, teacher))
    torch.testing.assert_close(loss(inputs_of(*last)), exact)
    loss, half = loss.float(), (student.bfloat16(), teacher.bfloat16())
    expected = loss(inputs_of(*(each.float() for each in half)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(inputs_of(*half))
    assert value.equal(expected)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value.double(), exact, rtol=0.02, atol=0)


@pytest.mark.parametrize("scale", [0.0, 1e4])
@pytest.mark.parametrize("grid", [(1, 1), (2, 3)])
def test_channels_it_is_finite_for_zero_and_for_huge_features_and_for_single_pixels(scale, grid):
    student, teacher = (
        each.float() * scale for each in drawn_twice_as_large((1, 2, *grid), (1, 2, *grid))
    )
    student.requires_grad_()
    value = feature_channel_kl(student, teacher.flip(1))
    value.backward()
    assert value.isfinite()
    assert student.grad.isfinite().all()


def test_channels_impossible_demands_are_refused():
    with pytest.raises(ValueError, match=r"expected temperature above 0, got 0\.0"):
        FeatureChannelKL(temperature=0.0)
    with pytest.raises(ValueError, match=r"pass Alignment\(2, 6\)\(features\)"):
        feature_channel_kl(*drawn_twice_as_large((2, 2, 3, 4), (2, 6, 3, 4)))
    with pytest.raises(InputError, match=r"FeatureChannelKL compares features.*this teacher"):
        FeatureChannelKL().prepare(Shown(2), Shown(None))
    with pytest.raises(ValueError, match="prepare"):
        FeatureChannelKL()(inputs_of(*drawn_twice_as_large()))


def test_channels_defaults():
    loss = FeatureChannelKL()
    assert loss.weight == 50.0
    assert (loss.temperature, loss.alignment, loss.divisor) == (4.0, "conv", "teacher")
