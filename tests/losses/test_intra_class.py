import math

import pytest
import torch
import torch.nn.functional as F

from fakd.errors import InputError
from fakd.losses.intra_class import IntraClassVariation, intra_class_variation
from fakd.types import LossInputs, Prediction
from stand_ins import Shown


def drawn(student=(3, 4, 3, 5), teacher=(3, 6, 3, 5), classes=4, seed=0):
    """Features of both, and labels with ignored and impossible ones, and with a lonely class."""
    generator = torch.Generator().manual_seed(seed)
    maps = [torch.randn(s, generator=generator, dtype=torch.float64) for s in (student, teacher)]
    labels = torch.randint(classes, (student[0], *student[2:]), generator=generator)
    labels[0, 0], labels[1, 1, 1], labels[-1, -1, -1] = 255, -1, 200
    return *maps, labels


def loop_typicality(features, labels):
    """One pixel after the other: its cosine with the mean over its class in its image."""
    batch, _, rows, cols = features.shape
    places = [(i, j) for i in range(rows) for j in range(cols)]
    found = torch.zeros(batch, rows, cols, dtype=features.dtype)
    for n in range(batch):
        for i, j in places:
            label, own = labels[n, i, j].item(), features[n, :, i, j]
            typical = own
            if 0 <= label < 255:
                members = [features[n, :, k, m] for k, m in places if labels[n, k, m] == label]
                typical = torch.stack(members).sum(0) / (len(members) + 1e-6)
            lengths = [v.norm().clamp(min=1e-8) for v in (own, typical)]
            found[n, i, j] = (own * typical).sum() / (lengths[0] * lengths[1])
    return found


def loop_intra_class_variation(student, teacher, labels, normalise="all"):
    total, pixels = torch.zeros((), dtype=student.dtype), 0
    ours, theirs = (loop_typicality(features, labels) for features in (student, teacher))
    for s, t, label in zip(ours.flatten(), theirs.flatten(), labels.flatten(), strict=True):
        if normalise == "all" or 0 <= label < 255:
            total, pixels = total + (s - t) ** 2, pixels + 1
    return total / max(pixels, 1)


@pytest.mark.parametrize("normalise", ["all", "valid"])
@pytest.mark.parametrize("seed", [0, 1])
def test_value_and_gradient_equal_loops(normalise, seed):
    student, teacher, labels = drawn(seed=seed)
    student.requires_grad_()
    value = intra_class_variation(student, teacher, labels, normalise)
    expected = loop_intra_class_variation(student, teacher, labels, normalise)
    torch.testing.assert_close(value, expected, rtol=0, atol=1e-10)
    (gradient,) = torch.autograd.grad(value, student)
    (expected,) = torch.autograd.grad(expected, student)
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-9)
    assert gradient.abs().sum() > 0


def test_norms_too_small_to_divide_by_equal_loops_too():
    student, teacher, labels = drawn()
    value = intra_class_variation(student * 3e-9, teacher, labels)
    expected = loop_intra_class_variation(student * 3e-9, teacher, labels)
    torch.testing.assert_close(value, expected, rtol=0, atol=1e-10)
    assert (value - intra_class_variation(student, teacher, labels)).abs() > 1e-3


def test_finite_differences_agree_with_the_gradient():
    student, teacher, labels = drawn((2, 3, 2, 2), (2, 2, 2, 2), 2)
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: intra_class_variation(s, teacher, labels), student)


def test_a_value_worked_out_by_hand():
    # Two orthogonal pixels lie at 45 degrees to their mean; the teacher's two are the same.
    student = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64).view(1, 2, 1, 2)
    teacher, labels = torch.ones(1, 3, 1, 2).double(), torch.full((1, 1, 2), 7)
    expected = (1 - math.sqrt(0.5)) ** 2
    assert intra_class_variation(student, teacher, labels).item() == pytest.approx(expected)
    # In a class of its own each pixel is typical.
    apart = torch.tensor([[[7, 8]]])
    assert intra_class_variation(student, teacher, apart).item() == pytest.approx(0, abs=1e-12)


def test_classes_are_those_of_one_image():
    student, teacher, labels = drawn()
    alone = [
        intra_class_variation(student[n : n + 1], teacher[n : n + 1], labels[n : n + 1])
        for n in range(3)
    ]
    together = intra_class_variation(student, teacher, labels)
    torch.testing.assert_close(together, torch.stack(alone).mean())
    backwards = intra_class_variation(student.flip(0), teacher.flip(0), labels.flip(0))
    torch.testing.assert_close(together, backwards, rtol=1e-12, atol=0)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_any_integers_will_do_as_labels(dtype):
    student, teacher, labels = drawn()
    labels = labels.where(labels >= 0, 255)
    expected = intra_class_variation(student, teacher, labels)
    assert intra_class_variation(student, teacher, labels.to(dtype)).equal(expected)


@pytest.mark.parametrize("normalise", ["all", "valid"])
def test_without_labels_there_is_nothing_to_learn(normalise):
    student, teacher, labels = drawn()
    student.requires_grad_()
    value = intra_class_variation(student, teacher, torch.full_like(labels, 255), normalise)
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-15)
    torch.testing.assert_close(student.grad, torch.zeros_like(student), rtol=0, atol=1e-15)


def test_ignored_pixels_count_in_the_mean_unless_told_not_to():
    student, teacher, labels = drawn()
    share = ((labels >= 0) & (labels < 255)).double().mean()
    everywhere = intra_class_variation(student, teacher, labels)
    labelled = intra_class_variation(student, teacher, labels, "valid")
    torch.testing.assert_close(everywhere, labelled * share)
    # A vector of zeros on one side is not even like itself: one of 45 pixels is off by 1.
    zero = student.clone()
    zero[0, :, 0, 0] = 0
    torch.testing.assert_close(
        intra_class_variation(zero, teacher, labels), everywhere + 1 / labels.numel()
    )
    assert intra_class_variation(zero, teacher, labels, "valid").equal(labelled)


@pytest.mark.parametrize("shape", [(2, 3, 4, 4), (1, 3, 1, 1)])
@pytest.mark.parametrize("scale", [0.0, 1e4])
def test_it_is_finite_for_zero_and_for_huge_features_and_for_single_pixels(shape, scale):
    generator = torch.Generator().manual_seed(0)
    student = (torch.randn(shape, generator=generator) * scale).requires_grad_()
    labels = torch.zeros(shape[0], *shape[2:], dtype=torch.int64)
    value = intra_class_variation(student, torch.randn(shape, generator=generator), labels)
    value.backward()
    assert value.isfinite()
    assert student.grad.isfinite().all()


def test_teacher_and_labels_come_to_the_grid_of_the_student():
    student, teacher, _ = drawn((2, 4, 3, 4), (2, 6, 6, 8))
    labels = torch.randint(3, (2, 12, 16), generator=torch.Generator().manual_seed(1))
    value = intra_class_variation(student, teacher, labels)
    here = F.interpolate(teacher, (3, 4), mode="bilinear", align_corners=False)
    torch.testing.assert_close(
        value, loop_intra_class_variation(student, here, labels[:, ::4, ::4]), rtol=0, atol=1e-10
    )


def test_float32_whatever_the_precision_and_the_memory_format():
    student, teacher, labels = drawn()
    exact = intra_class_variation(student, teacher, labels)
    half = student.bfloat16(), teacher.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = intra_class_variation(*half, labels)
    assert value.equal(intra_class_variation(half[0].float(), half[1].float(), labels))
    assert value.dtype == torch.float32
    torch.testing.assert_close(value.double(), exact, rtol=0.02, atol=0)
    last = (each.to(memory_format=torch.channels_last) for each in (student, teacher))
    torch.testing.assert_close(intra_class_variation(*last, labels), exact)


def test_the_module_computes_it_and_leaves_the_teacher_alone():
    student, teacher, labels = (each[:2] for each in drawn())
    student.requires_grad_()
    teacher.requires_grad_()
    logits = torch.zeros(2, 2, 3, 5).double()
    inputs = LossInputs(Prediction(logits, student), Prediction(logits, teacher), labels)
    for normalise in ("all", "valid"):
        loss = IntraClassVariation(normalise)
        loss.prepare(Shown(4), Shown(6))
        value = loss(inputs)
        expected = intra_class_variation(student, teacher, labels, normalise, classes=2)
        assert value.equal(expected)
        value.backward()
        assert not loss.state_dict()
    assert student.grad.abs().sum() > 0
    assert teacher.grad is None
    assert (IntraClassVariation().weight, IntraClassVariation().normalise) == (20.0, "all")


def test_impossible_demands_are_refused():
    with pytest.raises(InputError, match=r"IntraClassVariation compares features.*this teacher"):
        IntraClassVariation().prepare(Shown(4), Shown(None))
    with pytest.raises(InputError, match="this student"):
        IntraClassVariation().prepare(Shown(None), Shown(4))
