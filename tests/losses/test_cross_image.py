"""How alike the pixels of a batch are, and the blockwise divergence it is computed with."""

import math

import pytest
import torch
import torch.nn.functional as F

from fakd.losses import blocks
from fakd.losses.blocks import normalise_channels, similarity_kl
from fakd.losses.cross_image import CrossImageSimilarity, cross_image_similarity
from fakd.types import LossInputs, Prediction


def drawn(student=(3, 4, 3, 2), teacher=(3, 5, 3, 2), seed=0):
    generator = torch.Generator().manual_seed(seed)
    return tuple(
        torch.randn(shape, generator=generator, dtype=torch.float64) for shape in (student, teacher)
    )


def inputs(student, teacher):
    batch, _, *grid = student.shape
    logits = torch.zeros(batch, 2, *grid, dtype=student.dtype)
    labels = torch.full((batch, *grid), -1)
    return LossInputs(Prediction(logits, student), Prediction(logits, teacher), labels)


def loop_cross_image(student, teacher, temperature):
    """One pair of images, one pixel, one similarity after the other."""
    units = [[_unit_pixels(image) for image in features] for features in (student, teacher)]
    batch, total = len(student), 0.0
    for i in range(batch):
        for j in range(batch):
            for u in range(len(units[0][i])):
                shares = []
                for images in units:
                    scores = [(images[i][u] * v).sum() / temperature for v in images[j]]
                    partition = sum(score.exp() for score in scores)
                    shares.append([score - partition.log() for score in scores])
                pairs = zip(*shares, strict=True)
                total = total + sum(t.exp() * (t - s) for s, t in pairs) / len(units[0][i])
    return total / batch**2


def _unit_pixels(image):
    _, rows, cols = image.shape
    pixels = [image[:, r, c] for r in range(rows) for c in range(cols)]
    return [pixel / (pixel**2).sum().sqrt() for pixel in pixels]


@pytest.mark.parametrize("block", [None, 1, 5, 18])
@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_value_and_gradient_equal_loops_whatever_the_block(block, temperature):
    student, teacher = drawn()
    student.requires_grad_()
    value = cross_image_similarity(student, teacher, temperature, block)
    expected = loop_cross_image(student, teacher, temperature)
    torch.testing.assert_close(value, expected, rtol=0, atol=1e-10)
    (gradient,) = torch.autograd.grad(3 * value, student)
    (expected_gradient,) = torch.autograd.grad(3 * expected, student)
    torch.testing.assert_close(gradient, expected_gradient, rtol=0, atol=1e-10)


def test_a_case_worked_out_by_hand():
    # Similarities 1 and 0 become shares of e : 1; the student sees no difference.
    teacher = torch.eye(2, dtype=torch.float64).view(1, 2, 1, 2)
    student = torch.ones(1, 1, 1, 2, dtype=torch.float64)
    share = math.e / (math.e + 1)
    expected = share * math.log(share) + (1 - share) * math.log(1 - share) + math.log(2)
    value = cross_image_similarity(student, teacher, temperature=1.0)
    assert value.item() == pytest.approx(expected, abs=1e-12)


def test_gradcheck_of_rows_and_columns_with_hidden_entries():
    rows, columns = torch.randn(5, 3).double(), torch.randn(2, 4, 3).double()
    other_rows, other_columns = torch.randn(5, 2).double(), torch.randn(2, 4, 2).double()
    hidden = torch.tensor([[False, True, False, False], [True, False, False, True]])

    def value(rows, columns):
        return similarity_kl(rows, other_rows, columns, other_columns, 0.7, hidden, block=2)

    assert torch.autograd.gradcheck(value, (rows.requires_grad_(), columns.requires_grad_()))
    shown = [
        similarity_kl(rows, other_rows, mine[None, ~out], theirs[None, ~out], 0.7)
        for mine, theirs, out in zip(columns, other_columns, hidden, strict=True)
    ]
    torch.testing.assert_close(value(rows, columns), sum(shown) / 2)


def test_no_memory_for_all_similarities_at_once(monkeypatch):
    largest = []
    shares = blocks._log_shares
    monkeypatch.setattr(blocks, "BLOCK_ENTRIES", 100)
    monkeypatch.setattr(
        blocks, "_log_shares", lambda *a: largest.append(shares(*a).numel()) or shares(*a)
    )
    student, teacher = drawn()
    value = cross_image_similarity(student, teacher)
    assert max(largest) <= 100
    assert len(largest) == 2 * math.ceil(18 / 5)
    torch.testing.assert_close(value, cross_image_similarity(student, teacher, block=18))


def test_the_teacher_gets_no_gradient():
    student, teacher = (tensor.requires_grad_() for tensor in drawn())
    cross_image_similarity(student, teacher).backward()
    assert student.grad.abs().sum() > 0
    assert teacher.grad is None


def test_lengths_and_orders_do_not_matter():
    student, teacher = drawn()
    value = cross_image_similarity(student, teacher)
    lengths = torch.rand(3, 1, 3, 2, dtype=torch.float64) + 0.5
    torch.testing.assert_close(cross_image_similarity(student * lengths, teacher / 7), value)
    torch.testing.assert_close(cross_image_similarity(student.flip(0), teacher.flip(0)), value)
    channels_last = [x.to(memory_format=torch.channels_last) for x in (student, teacher)]
    torch.testing.assert_close(cross_image_similarity(*channels_last), value)
    assert cross_image_similarity(teacher, teacher).item() == pytest.approx(0, abs=1e-14)


def test_a_teacher_on_another_grid_comes_to_the_students():
    student, teacher = drawn(teacher=(3, 5, 7, 4))
    resized = F.interpolate(teacher, (3, 2), mode="bilinear", align_corners=False)
    value = cross_image_similarity(student, teacher)
    torch.testing.assert_close(value, cross_image_similarity(student, resized))


def test_half_precision_and_autocast_are_computed_in_float32():
    student, teacher = (tensor.float() for tensor in drawn())
    expected = cross_image_similarity(student, teacher)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert cross_image_similarity(student, teacher).equal(expected)
        rounded = cross_image_similarity(student.bfloat16(), teacher.bfloat16())
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, expected, rtol=0.05, atol=0.02)


@pytest.mark.parametrize("shape", [(2, 4, 3, 2), (1, 4, 1, 1)])
@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e15])
def test_features_of_any_size_give_finite_values_and_gradients(shape, scale):
    student = (drawn(shape)[0].float() * scale).requires_grad_()
    value = cross_image_similarity(student, drawn(shape, shape)[1].float())
    value.backward()
    assert value.isfinite()
    assert student.grad.isfinite().all()


def test_a_pixel_of_zeros_is_no_more_than_unlike_all_others():
    student, teacher = drawn()
    student[0, :, 1, 1] = 0
    student.requires_grad_()
    cross_image_similarity(student, teacher).backward()
    assert student.grad[0, :, 1, 1].eq(0).all()
    assert student.grad.abs().max() < 10
    torch.testing.assert_close(normalise_channels(student), F.normalize(student, dim=1, eps=1e-12))


def test_the_module_averages_squares_before_it_compares():
    student, teacher = drawn((2, 4, 5, 3), (2, 6, 5, 3))
    pooled = CrossImageSimilarity(temperature=0.2, pool=2)
    by_hand = []
    for features in (student, teacher):
        small = torch.empty(*features.shape[:2], 3, 2, dtype=torch.float64)
        for r in range(3):
            for c in range(2):
                square = features[:, :, 2 * r : 2 * r + 2, 2 * c : 2 * c + 2]
                small[:, :, r, c] = square.mean((2, 3))
        by_hand.append(small)
    value = pooled(inputs(student, teacher))
    torch.testing.assert_close(value, cross_image_similarity(*by_hand, 0.2))
    plain = CrossImageSimilarity()(inputs(student, teacher))
    torch.testing.assert_close(plain, cross_image_similarity(student, teacher, 0.1))
    assert not pooled.state_dict()
    assert pooled.weight == 1.0


def test_impossible_settings_are_refused():
    with pytest.raises(ValueError, match="expected temperature above 0, got 0"):
        CrossImageSimilarity(temperature=0.0)
    with pytest.raises(ValueError, match="expected pool of at least 1, got 0"):
        CrossImageSimilarity(pool=0)
    with pytest.raises(ValueError, match="expected the teacher's features, got None"):
        CrossImageSimilarity()(inputs(drawn()[0], None))
