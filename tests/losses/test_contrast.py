"""Pixels against a memory of the teacher: the divergence, and the loss with head and memory."""

import doctest
import math

import pytest
import torch
import torch.nn.functional as F

from fakd.errors import InputError
from fakd.losses import contrast
from fakd.losses.contrast import MemoryContrast, contrast_kl
from fakd.types import LossInputs, Prediction
from stand_ins import Shown

CLASSES, STUDENT, TEACHER = 3, 4, 5
SMALL = {"pixel_slots": 12, "region_slots": 5, "contrast_pixels": 16, "contrast_regions": 7}


def prepared(seed=0, **settings):
    torch.manual_seed(seed)
    loss = MemoryContrast(**{**SMALL, **settings})
    loss.prepare(Shown(STUDENT, CLASSES), Shown(TEACHER, CLASSES))
    return loss.double()


def drawn(seed=0, batch=2, grid=(4, 3), dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    student = torch.randn(batch, STUDENT, *grid, generator=generator, dtype=dtype)
    teacher = torch.randn(batch, TEACHER, *grid, generator=generator, dtype=dtype)
    labels = torch.randint(CLASSES, (batch, *grid), generator=generator)
    labels[0, 0] = -1
    return student, teacher, labels


def inputs(student, teacher, labels):
    logits = torch.zeros(len(student), CLASSES, *student.shape[2:], dtype=student.dtype)
    return LossInputs(Prediction(logits, student), Prediction(logits, teacher), labels)


def rows(count, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(count, TEACHER, generator=generator, dtype=dtype), dim=1)


def loop_contrast(student, teacher, entries, temperature, kd_temperature, written=None):
    """One pixel and one remembered feature after the other."""
    shown = [v for i, v in enumerate(entries) if written is None or written[i]]
    total = 0.0
    for pair in zip(student, teacher, strict=True):
        shares = []
        for pixel in pair:
            scores = [(pixel * v).sum() / temperature / kd_temperature for v in shown]
            partition = sum(score.exp() for score in scores)
            shares.append([(score.exp() / partition) for score in scores])
        total = total + sum(t * (t.log() - s.log()) for s, t in zip(*shares, strict=True))
    return kd_temperature**2 * total / len(student)


@pytest.mark.parametrize("kd_temperature", [1.0, 2.5])
@pytest.mark.parametrize("block", [None, 1, 4])
@pytest.mark.parametrize("masked", [False, True])
def test_value_and_gradient_equal_loops(kd_temperature, block, masked):
    student, teacher, entries = rows(7).requires_grad_(), rows(7, 1), rows(9, 2)
    written = torch.arange(9) % 3 > 0 if masked else None
    value = contrast_kl(student, teacher, entries, 0.3, kd_temperature, written, block)
    expected = loop_contrast(student, teacher, entries, 0.3, kd_temperature, written)
    torch.testing.assert_close(value, expected, rtol=0, atol=1e-10)
    gradient, wanted = (torch.autograd.grad(each, student)[0] for each in (value, expected))
    torch.testing.assert_close(gradient, wanted, rtol=0, atol=1e-10)


def test_only_the_student_gets_a_gradient():
    student, teacher, entries = (rows(6, seed).requires_grad_() for seed in range(3))
    contrast_kl(student, teacher, entries).backward()
    assert student.grad.abs().sum() > 0
    assert teacher.grad is None
    assert entries.grad is None
    assert contrast_kl(teacher, teacher, entries).item() == pytest.approx(0, abs=1e-14)


def test_no_pixels_and_nothing_written_give_zero():
    student, entries = rows(6).requires_grad_(), rows(4)
    for value in (
        contrast_kl(student[:0], rows(6)[:0], entries),
        contrast_kl(student, rows(6, 1), entries, written=torch.zeros(4, dtype=torch.bool)),
    ):
        student.grad = None
        value.backward()
        assert value.item() == 0
        assert student.grad.eq(0).all()


def test_half_precision_and_autocast_are_computed_in_float32():
    student, teacher, entries = (rows(6, seed, torch.float32) for seed in range(3))
    expected = contrast_kl(student, teacher, entries)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert contrast_kl(student, teacher, entries).equal(expected)
        rounded = contrast_kl(student.bfloat16(), teacher.bfloat16(), entries)
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, expected, rtol=0.05, atol=0.02)


def by_hand(loss, student, teacher, labels):
    """One step of the text, from the memory as it is after the step and the drawn slots."""
    first, _, _, last = loss.head
    hidden = torch.einsum("oi,bihw->bohw", first.weight[:, :, 0, 0], student)
    mean = hidden.mean((0, 2, 3), keepdim=True)
    variance = ((hidden - mean) ** 2).mean((0, 2, 3), keepdim=True)
    hidden = ((hidden - mean) / (variance + 1e-5).sqrt()).clamp(min=0)
    projected = torch.einsum("oi,bihw->bohw", last.weight[:, :, 0, 0], hidden)
    kept = [
        (b, r, c)
        for b in range(len(labels))
        for r in range(labels.shape[1])
        for c in range(labels.shape[2])
        if labels[b, r, c] != -1
    ]
    pairs = [
        torch.stack([maps[b, :, r, c] / maps[b, :, r, c].norm() for b, r, c in kept])
        for maps in (projected, teacher)
    ]
    terms = {}
    for name, queue, number in (
        ("pixel", loss.memory.pixels, 16 // CLASSES + 1),
        ("region", loss.memory.regions, 7 // CLASSES + 1),
    ):
        slots = torch.randperm(queue.rows.shape[1])[:number]
        entries = [queue.rows[c, slot] for c in range(CLASSES) for slot in slots]
        terms[name] = loop_contrast(*pairs, entries, loss.temperature, loss.kd_temperature)
    return terms


def test_a_step_is_what_the_text_says():
    loss, parts = prepared(temperature=0.2, kd_temperature=1.5), drawn()
    student, _, labels = parts
    student.requires_grad_()
    torch.manual_seed(7)
    terms = loss.terms(inputs(*parts))
    # The same draws: one for each class of each image, then the slots.
    torch.manual_seed(7)
    for image in labels:
        for label in range(CLASSES):
            torch.randperm(int((image == label).sum()))
    expected = by_hand(loss, *parts)
    learnt = [student, *loss.head.parameters()]
    for name in ("pixel", "region"):
        torch.testing.assert_close(terms[name], expected[name], rtol=0, atol=1e-10)
        gradients = torch.autograd.grad(terms[name], learnt, retain_graph=True)
        wanted = torch.autograd.grad(expected[name], [student], retain_graph=True)
        torch.testing.assert_close(gradients[0], wanted[0], rtol=0, atol=1e-10)
        assert all(gradient.abs().sum() > 0 for gradient in gradients)


def test_the_loss_is_the_sum_of_its_terms_and_remembers_the_batch_once():
    seen = inputs(*drawn())
    values = []
    for loss in (prepared(), prepared()):
        torch.manual_seed(1)
        values.append(sum(loss.terms(seen).values()) if values else loss(seen))
        assert loss.memory.regions.pointer.tolist() == [2, 2, 2]
    torch.testing.assert_close(*values)


def test_in_evaluation_nothing_is_remembered():
    loss, parts = prepared().eval(), drawn()
    seen = inputs(*parts)
    before = {name: value.clone() for name, value in loss.state_dict().items()}
    torch.manual_seed(0)
    value = loss(seen)
    assert all(held.equal(before[name]) for name, held in loss.state_dict().items())
    torch.manual_seed(0)
    torch.testing.assert_close(value, sum(by_hand(loss, *parts).values()), rtol=0, atol=1e-10)


def test_unwritten_slots_can_be_left_out():
    student, teacher, _ = drawn(batch=1)
    labels = torch.full((1, 4, 3), 1)
    loss = prepared(mask_unwritten=True, region_slots=4, contrast_regions=12)
    terms = loss.terms(inputs(student, teacher, labels))
    # A single region is written: one entry, which has all of both softmaxes.
    assert terms["region"].item() == pytest.approx(0, abs=1e-14)
    assert terms["pixel"] > 0


@pytest.mark.parametrize("mask", [False, True])
def test_a_batch_without_labels_gives_zero_and_a_graph(mask):
    loss, (student, teacher, labels) = prepared(mask_unwritten=mask), drawn()
    student.requires_grad_()
    value = loss(inputs(student, teacher, torch.full_like(labels, -1)))
    value.backward()
    assert value.item() == 0
    assert student.grad.eq(0).all()
    assert all(parameter.grad.eq(0).all() for parameter in loss.parameters())


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e15])
@pytest.mark.parametrize("grid", [(4, 3), (1, 1)])
def test_features_of_any_size_give_finite_values_and_gradients(scale, grid):
    loss, (student, teacher, labels) = prepared().float(), drawn(grid=grid, dtype=torch.float32)
    student = (student * scale).requires_grad_()
    value = loss(inputs(student, teacher * scale, labels.clamp(max=1)))
    value.backward()
    assert value.isfinite()
    assert student.grad.isfinite().all()


def test_layout_precision_and_autocast_do_not_matter():
    loss, (student, teacher, labels) = prepared().float().eval(), drawn(dtype=torch.float32)

    def value(student, teacher):
        torch.manual_seed(0)
        return loss(inputs(student, teacher, labels))

    expected = value(student, teacher)
    channels_last = (x.to(memory_format=torch.channels_last) for x in (student, teacher))
    torch.testing.assert_close(value(*channels_last), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(value(student, teacher), expected, rtol=1e-6, atol=0)
        rounded = value(student.bfloat16(), teacher.bfloat16())
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, expected, rtol=0.1, atol=0.05)
    torch.testing.assert_close(value(student.double(), teacher.double()), expected)


def test_the_teacher_gets_no_gradient():
    student, teacher, labels = drawn()
    teacher.requires_grad_()
    loss = prepared()
    loss(inputs(student.requires_grad_(), teacher, labels)).backward()
    assert teacher.grad is None
    assert not any(buffer.requires_grad for buffer in loss.buffers())


def test_head_and_memory_survive_a_round_trip():
    before = prepared()
    before(inputs(*drawn(1)))
    after = prepared(seed=5)
    after.load_state_dict(before.state_dict())
    values = []
    for loss in (before, after):
        torch.manual_seed(0)
        values.append([loss(inputs(*drawn(seed))) for seed in (2, 3)])
    assert values[0] == values[1]
    assert prepared(seed=5).state_dict().keys() == before.state_dict().keys()
    assert len(list(before.parameters())) == 4


def test_impossible_settings_and_networks_are_refused():
    with pytest.raises(ValueError, match="expected temperature above 0, got nan"):
        MemoryContrast(temperature=math.nan)
    with pytest.raises(ValueError, match="expected contrast_pixels of at least 1, got 0"):
        MemoryContrast(contrast_pixels=0)
    with pytest.raises(ValueError, match="call prepare"):
        MemoryContrast()(inputs(*drawn()))
    with pytest.raises(InputError, match=r"MemoryContrast compares features.*this teacher shows"):
        MemoryContrast().prepare(Shown(STUDENT, CLASSES), Shown(None, CLASSES))
    assert MemoryContrast.default_weight == 0.1


def test_examples_in_the_docstrings_run():
    result = doctest.testmod(contrast)
    assert result.attempted > 0
    assert result.failed == 0
