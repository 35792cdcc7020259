import pytest
import torch
import torch.nn.functional as F

from fakd.losses.relational import Relational, relational
from fakd.types import LossInputs, Prediction


def drawn(student=(2, 4, 3, 4), teacher=(2, 4, 3, 4)):
    generator = torch.Generator().manual_seed(0)
    shapes = (student, teacher)
    return [torch.randn(s, generator=generator, dtype=torch.float64) * 2 for s in shapes]


def inputs_of(student, teacher):
    labels = torch.full((len(student), *student.shape[2:]), -1)
    return LossInputs(Prediction(student), Prediction(teacher), labels)


def loop_shares(logits, temperature):
    """One row of probabilities for each pixel of the batch."""
    pixels = [pixel for image in logits for pixel in image.flatten(1).T]
    terms = [[(value / temperature).exp() for value in pixel] for pixel in pixels]
    return [[term / sum(row) for term in row] for row in terms]


def loop_correlation(first, second):
    n = len(first)
    first, second = ([x - sum(row) / n for x in row] for row in (first, second))
    product = sum(a * b for a, b in zip(first, second, strict=True))
    norms = [sum(x**2 for x in row) ** 0.5 for row in (first, second)]
    return product / (norms[0] * norms[1] + 1e-8)


def loop_relational(student, teacher, temperature, inter, intra):
    rows = loop_shares(student, temperature), loop_shares(teacher, temperature)
    columns = [list(zip(*shares, strict=True)) for shares in rows]
    of_classes = [1 - loop_correlation(s, t) for s, t in zip(*rows, strict=True)]
    of_pixels = [1 - loop_correlation(s, t) for s, t in zip(*columns, strict=True)]
    return temperature**2 * (
        inter * sum(of_classes) / len(of_classes) + intra * sum(of_pixels) / len(of_pixels)
    )


@pytest.mark.parametrize(
    ("temperature", "inter", "intra"), [(1.0, 1.0, 1.0), (4.0, 2.0, 0.5), (0.5, 0.0, 1.0)]
)
def test_value_and_gradient_equal_loops(temperature, inter, intra):
    student, teacher = drawn()
    student.requires_grad_()
    value = relational(student, teacher, temperature, inter, intra)
    expected = loop_relational(student, teacher, temperature, inter, intra)
    torch.testing.assert_close(value, expected, rtol=0, atol=1e-10)
    (gradient,) = torch.autograd.grad(value, student)
    (expected,) = torch.autograd.grad(expected, student)
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-9)
    assert gradient.abs().sum() > 0


def test_finite_differences_agree_with_the_gradient():
    student, teacher = drawn((2, 3, 2, 2), (2, 3, 2, 2))
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: relational(s, teacher, 2.0, 1.0, 3.0), student)


def test_it_is_zero_at_equality_and_does_not_mind_how_sure_a_student_of_two_classes_is():
    teacher = drawn()[1]
    assert relational(teacher, teacher).item() == pytest.approx(0, abs=1e-6)
    two = teacher[:, :2]
    assert relational(5 * two, two, 1.0, 1.0, 0.0).item() == pytest.approx(0, abs=1e-6)
    assert relational(-two, two).item() == pytest.approx(4, abs=1e-5)


def test_pixels_are_ranked_over_the_whole_batch():
    student, teacher = drawn()
    alone = [relational(student[n : n + 1], teacher[n : n + 1]) for n in range(2)]
    assert not torch.allclose(relational(student, teacher), torch.stack(alone).mean())
    side_by_side = (torch.cat(list(each), 2)[None] for each in (student, teacher))
    torch.testing.assert_close(relational(*side_by_side), relational(student, teacher))
    backwards = relational(student.flip(0), teacher.flip(0))
    torch.testing.assert_close(backwards, relational(student, teacher), rtol=1e-12, atol=0)


def test_the_teacher_comes_to_the_grid_of_the_student():
    student, teacher = drawn(teacher=(2, 4, 6, 8))
    here = F.interpolate(teacher, (3, 4), mode="bilinear", align_corners=False)
    torch.testing.assert_close(
        relational(student, teacher), loop_relational(student, here, 1.0, 1.0, 1.0)
    )


def test_float32_whatever_the_precision_and_the_memory_format():
    student, teacher = drawn()
    exact = relational(student, teacher)
    last = (each.to(memory_format=torch.channels_last) for each in (student, teacher))
    torch.testing.assert_close(relational(*last), exact)
    half = student.bfloat16(), teacher.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = relational(*half)
    assert value.equal(relational(half[0].float(), half[1].float()))
    assert value.dtype == torch.float32
    torch.testing.assert_close(value.double(), exact, rtol=0.02, atol=0)


@pytest.mark.parametrize("shape", [(1, 3, 1, 1), (2, 3, 2, 2), (1, 1, 2, 2)])
@pytest.mark.parametrize("scale", [0.0, 1e4])
def test_it_is_finite_for_constant_and_for_huge_logits_and_for_single_pixels(shape, scale):
    generator = torch.Generator().manual_seed(0)
    student = (torch.randn(shape, generator=generator) * scale).requires_grad_()
    value = relational(student, torch.randn(shape, generator=generator))
    value.backward()
    assert value.isfinite()
    assert student.grad.isfinite().all()
    if scale == 0:
        assert value == 2
        assert student.grad.abs().max() < 1


def test_the_module_computes_it_and_leaves_the_teacher_alone():
    student, teacher = drawn()
    student.requires_grad_()
    teacher.requires_grad_()
    loss = Relational(2.0, inter=0.5, intra=3.0)
    value = loss(inputs_of(student, teacher))
    assert value.equal(relational(student, teacher, 2.0, 0.5, 3.0))
    value.backward()
    assert student.grad.abs().sum() > 0
    assert teacher.grad is None
    assert not loss.state_dict()
    plain = Relational()
    assert (plain.weight, plain.temperature, plain.inter, plain.intra) == (1, 1, 1, 1)


def test_impossible_settings_are_refused():
    with pytest.raises(ValueError, match=r"expected temperature above 0, got 0\.0"):
        Relational(temperature=0.0)
    for weights in [(-1.0, 2.0), (0.0, 0.0), (float("nan"), 1.0), (1.0, float("inf"))]:
        with pytest.raises(ValueError, match="expected inter and intra of at least 0"):
            Relational(inter=weights[0], intra=weights[1])
