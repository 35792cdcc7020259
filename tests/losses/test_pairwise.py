import math

import pytest
import torch

from fakd.errors import InputError
from fakd.losses.grid import on_grid_of
from fakd.losses.pairwise import PairwiseSimilarity, pairwise_similarity
from fakd.models import pspnet
from fakd.types import LossInputs, Prediction


def drawn(student=(2, 3, 5, 4), teacher=(2, 5, 5, 4), dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(s, generator=generator, dtype=dtype) for s in (student, teacher)]


def inputs_of(student, teacher):
    labels = torch.full((len(student), *student.shape[2:]), -1)
    logits = torch.zeros_like(student)
    return LossInputs(Prediction(logits, student), Prediction(logits, teacher), labels)


def block_maxima(image, kernel):
    """The vectors of an image's blocks, one block after the other; the last ones may be cut."""
    channels, rows, cols = image.shape
    vectors = []
    for top in range(0, rows, kernel[0]):
        for left in range(0, cols, kernel[1]):
            down = range(top, min(top + kernel[0], rows))
            across = range(left, min(left + kernel[1], cols))
            vector = [max(image[c, i, j] for i in down for j in across) for c in range(channels)]
            vectors.append(torch.stack(vector))
    return vectors


def loop_pairwise(student, teacher, kernel, detach_norm=False):
    """Section by section of the formula; the norm is a constant where it is detached."""
    total = 0.0
    for image_s, image_t in zip(student, teacher, strict=True):
        similarities = []
        for image in (image_s, image_t):
            nodes = block_maxima(image, kernel)
            norms = [sum(x * x for x in node).sqrt() for node in nodes]
            if detach_norm:
                norms = [norm.detach() + 1e-8 for norm in norms]
            units = [node / norm for node, norm in zip(nodes, norms, strict=True)]
            similarities.append([[sum(a * b) for b in units] for a in units])
        nodes = len(similarities[0])
        for m in range(nodes):
            for other in range(nodes):
                difference = similarities[1][m][other] - similarities[0][m][other]
                total = total + difference**2 / (len(student) * nodes**2)
    return total


@pytest.mark.parametrize("detach_norm", [False, True])
@pytest.mark.parametrize("kernel", [(1, 1), (2, 2), (3, 2), (2, 3), (5, 4), (9, 9)])
def test_value_and_gradient_equal_loops(kernel, detach_norm):
    student, teacher = drawn()
    student.requires_grad_()
    expected = loop_pairwise(student, teacher, kernel, detach_norm)
    (slope,) = torch.autograd.grad(expected, student)
    value = pairwise_similarity(student, teacher, kernel, detach_norm)
    torch.testing.assert_close(value, expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(torch.autograd.grad(value, student)[0], slope, rtol=0, atol=1e-10)


def test_gradient_is_right():
    student, teacher = drawn()
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: pairwise_similarity(s, teacher), (student,))


def test_the_radial_gradient_is_what_the_detached_norm_adds():
    student, teacher = drawn()
    student.requires_grad_()
    slopes = {}
    for detach_norm in (False, True):
        value = pairwise_similarity(student, teacher, (1, 1), detach_norm)
        (slopes[detach_norm],) = torch.autograd.grad(value, student)
        # The closed form: 4 / (N M^2) sum_n (S^s_mn - S^t_mn) x_n / |x_m|, radial part and all.
    units = [f / f.norm(dim=1, keepdim=True) for f in (student.detach(), teacher)]
    s, t = (f.flatten(2) for f in units)
    gap = s.mT @ s - t.mT @ t
    closed = 4 / (2 * 20**2) * (s @ gap).view(student.shape) / student.detach().norm(dim=1)[:, None]
    # Up to the 1e-8 that the detached norm adds.
    torch.testing.assert_close(slopes[True], closed, rtol=1e-6, atol=1e-9)
    radial = (closed * units[0]).sum(1, keepdim=True) * units[0]
    torch.testing.assert_close(slopes[False], closed - radial, rtol=0, atol=1e-10)


def test_reproduces_a_value_worked_out_by_hand():
    # Two regions, at right angles to the teacher, at 60 degrees to the student: (1/4) * 2 * 0.5^2.
    student = torch.tensor([[1.0, 0.5], [0.0, math.sqrt(0.75)]]).view(1, 2, 1, 2)
    teacher = torch.tensor([[3.0, 0.0], [0.0, 2.0]]).view(1, 2, 1, 2)
    assert pairwise_similarity(student, teacher, (1, 1)).item() == pytest.approx(0.125)


def test_compares_directions_within_each_image_only():
    student, teacher = drawn()
    expected = pairwise_similarity(student, teacher, (1, 1))
    lengths = torch.rand(2, 1, 5, 4, dtype=torch.float64) + 0.5
    torch.testing.assert_close(pairwise_similarity(lengths * student, teacher, (1, 1)), expected)
    torch.testing.assert_close(
        pairwise_similarity(student.flip(0), teacher.flip(0), (1, 1)), expected
    )
    rotation, _ = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))
    turned = torch.einsum("dc,nchw->ndhw", rotation, student)
    torch.testing.assert_close(pairwise_similarity(turned, teacher, (1, 1)), expected)
    assert pairwise_similarity(student, student * 2).item() == pytest.approx(0, abs=1e-15)


def test_the_teacher_comes_to_the_students_grid():
    student, teacher = drawn(teacher=(2, 5, 9, 7))
    expected = pairwise_similarity(student, on_grid_of(student, teacher))
    assert pairwise_similarity(student, teacher).equal(expected)
    assert PairwiseSimilarity()(inputs_of(student, on_grid_of(student, teacher))).equal(expected)


def test_the_teacher_gets_no_gradient():
    student, teacher = (each.requires_grad_() for each in drawn())
    for detach_norm in (False, True):
        pairwise_similarity(student, teacher, detach_norm=detach_norm).backward()
    assert student.grad.abs().sum() > 0
    assert teacher.grad is None


@pytest.mark.parametrize(
    ("size", "scale", "kernel"),
    [
        ((65, 65), 0.5, (32, 32)),
        ((64, 96), 0.5, (32, 48)),
        ((5, 3), 0.1, (1, 1)),
        ((7, 4), 1.0, (7, 4)),
    ],
)
def test_scale_is_a_share_of_the_map_rounded_down(size, scale, kernel):
    student, teacher = drawn((1, 2, *size), (1, 3, *size))
    value = PairwiseSimilarity(scale=scale)(inputs_of(student, teacher))
    assert value.equal(pairwise_similarity(student, teacher, kernel))
    # A kernel of 32 leaves the last row and column of 65 as blocks of their own.
    if size == (65, 65):
        assert len(block_maxima(student[0], kernel)) == 9


@pytest.mark.parametrize("detach_norm", [False, True])
@pytest.mark.parametrize("shape", [(2, 3, 1, 1), (1, 1, 1, 5), (2, 3, 4, 4)])
def test_zero_features_and_the_smallest_maps_are_finite(shape, detach_norm):
    student, teacher = torch.zeros(shape, requires_grad=True), torch.ones(shape)
    value = pairwise_similarity(student, teacher, detach_norm=detach_norm)
    value.backward()
    assert value.isfinite()
    assert student.grad.isfinite().all()


def test_a_region_without_features_gets_no_gradient():
    student, teacher = drawn(dtype=torch.float32)
    student[0, :, 0, 0] = 0
    student.requires_grad_()
    pairwise_similarity(student, teacher, (1, 1)).backward()
    assert not student.grad[0, :, 0, 0].any()
    assert student.grad.abs().max() < 10


def test_half_precision_autocast_and_memory_format():
    student, teacher = (each.bfloat16() for each in drawn(dtype=torch.float32))
    expected = pairwise_similarity(student.float(), teacher.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = pairwise_similarity(student, teacher)
    assert value.dtype == torch.float32
    assert value.equal(expected)
    last = [each.float().to(memory_format=torch.channels_last) for each in (student, teacher)]
    torch.testing.assert_close(pairwise_similarity(*last), expected)


def test_settings():
    assert PairwiseSimilarity().weight == 10.0
    loss = PairwiseSimilarity([3, 2], None, True)
    assert (loss.kernel, loss.scale, loss.detach_norm) == ((3, 2), None, True)
    assert not loss.state_dict()
    student, teacher = drawn()
    expected = pairwise_similarity(student, teacher, (3, 2), True)
    assert loss(inputs_of(student, teacher)).equal(expected)
    for wrong in ((2,), (0, 2), (2, 2, 2)):
        with pytest.raises(ValueError, match="expected kernel to be two numbers of at least 1"):
            PairwiseSimilarity(wrong)
    for wrong in (0.0, 1.5, math.nan):
        with pytest.raises(ValueError, match="expected scale above 0 and at most 1"):
            PairwiseSimilarity(scale=wrong)


def test_networks_without_features_are_refused():
    shown = pspnet("mobilenetv3_small_050", 2, channels=8)

    class Hidden(type(shown)):
        classifier = None

    hidden = Hidden.__new__(Hidden)
    for pair in ((shown, hidden), (hidden, shown)):
        with pytest.raises(InputError, match="PairwiseSimilarity compares features"):
            PairwiseSimilarity().prepare(*pair)
    PairwiseSimilarity().prepare(shown, shown)
