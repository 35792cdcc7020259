"""What is remembered of the teacher, the divergence from it, and the loss with its head."""

import math

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F

from fakd.errors import InputError
from fakd.losses.contrast import ClassQueue, MemoryContrast, PixelRegionMemory, contrast_kl
from fakd.processes import shared_generator
from fakd.types import LossInputs, Prediction
from forked import together
from stand_ins import Shown

CLASSES, STUDENT, TEACHER = 3, 4, 5
REMEMBERED, CHANNELS = 4, 5
SMALL = {"pixel_slots": 12, "region_slots": 5, "contrast_pixels": 16, "contrast_regions": 7}


def drawn_maps(seed=0, batch=4, size=6, dtype=torch.float64):
    """Features, and labels in blocks so that classes differ between images; some ignored."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(batch, CHANNELS, size, size, generator=generator, dtype=dtype)
    coarse = torch.randint(REMEMBERED + 1, (batch, size // 2, size // 2), generator=generator)
    labels = coarse.repeat_interleave(2, 1).repeat_interleave(2, 2)
    return features, labels.masked_fill(labels == REMEMBERED, -1)


def memory(seed=0, **settings):
    torch.manual_seed(seed)
    settings = {"pixel_slots": 10, "region_slots": 3, "pixels_per_class": 4, **settings}
    return PixelRegionMemory(REMEMBERED, CHANNELS, **settings).double()


class LoopMemory:
    """The text of the method, one vector at a time, starting from what a memory holds."""

    def __init__(self, start, sampling):
        self.pixels = start.pixels.rows.clone()
        self.regions = start.regions.rows.clone()
        self.pixel_pointer, self.region_pointer = [0] * REMEMBERED, [0] * REMEMBERED
        self.sampling, self.most = sampling, start.pixels_per_class

    def enqueue(self, features, labels):
        for image, owner in zip(features, labels, strict=True):
            vectors = [unit(image[:, r, c]) for r in range(6) for c in range(6)]
            flat = owner.flatten().tolist()
            for label in sorted(set(flat) - {-1}):
                own = [i for i in range(36) if flat[i] == label]
                mean = sum(vectors[i] for i in own) / len(own)
                self.regions[label, self.region_pointer[label]] = unit(mean)
                slots = self.regions.shape[1]
                self.region_pointer[label] = (self.region_pointer[label] + 1) % slots
                self.write_pixels(label, vectors, own)

    def write_pixels(self, label, vectors, own):
        permutation = torch.randperm(len(own)).tolist()
        slots, pointer = self.pixels.shape[1], self.pixel_pointer[label]
        taken = permutation[: min(len(own), self.most, slots)]
        if self.sampling == "class":
            taken = [own[i] for i in taken]
        if pointer + len(taken) >= slots:
            first, self.pixel_pointer[label] = slots - len(taken), 0
        else:
            first, self.pixel_pointer[label] = pointer, pointer + len(taken)
        for offset, i in enumerate(taken):
            self.pixels[label, first + offset] = unit(vectors[i])

    def sample(self, pixels, regions):
        chosen = torch.randperm(self.pixels.shape[1]).tolist()[: pixels // REMEMBERED + 1]
        rows = [self.pixels[c, slot] for c in range(REMEMBERED) for slot in chosen]
        chosen = torch.randperm(self.regions.shape[1]).tolist()[: regions // REMEMBERED + 1]
        return rows, [self.regions[c, slot] for c in range(REMEMBERED) for slot in chosen]


def unit(vector):
    return vector / (vector**2).sum().sqrt()


@pytest.mark.parametrize("sampling", ["class", "legacy"])
@pytest.mark.parametrize("pixel_slots", [10, 3, 200])
def test_the_memory_is_what_the_text_says_draw_by_draw(sampling, pixel_slots):
    fast = memory(pixel_slots=pixel_slots, pixel_sampling=sampling)
    slow = LoopMemory(fast, sampling)
    for step in range(5):
        batch = drawn_maps(step)
        torch.manual_seed(100 + step)
        fast.enqueue(*batch)
        sampled = fast.sample(17, 6)
        after = torch.rand(())
        torch.manual_seed(100 + step)
        slow.enqueue(*batch)
        expected = slow.sample(17, 6)
        assert torch.rand(()).equal(after)
        for drawn, rows in zip(sampled, expected, strict=True):
            torch.testing.assert_close(drawn.entries, torch.stack(rows), rtol=0, atol=1e-12)
        torch.testing.assert_close(fast.pixels.rows, slow.pixels, rtol=0, atol=1e-12)
        torch.testing.assert_close(fast.regions.rows, slow.regions, rtol=0, atol=1e-12)
        assert fast.pixels.pointer.tolist() == slow.pixel_pointer
        assert fast.regions.pointer.tolist() == slow.region_pointer


def test_a_class_remembers_its_own_pixels_and_legacy_those_at_the_top():
    features = torch.zeros(1, CHANNELS, 6, 6)
    features[:, 0, :3], features[:, 1, 3:] = 1.0, 1.0
    labels = torch.full((1, 6, 6), -1)
    labels[:, 3:] = 2
    for sampling, channel in (("class", 1), ("legacy", 0)):
        remembered = memory(pixel_sampling=sampling)
        remembered.enqueue(features, labels)
        assert remembered.pixels.rows[2, :4].argmax(1).tolist() == [channel] * 4
        assert remembered.pixels.rows[2, :4].sum(1).tolist() == [1.0] * 4
        assert remembered.regions.rows[2, 0].tolist() == [0.0, 1.0, 0.0, 0.0, 0.0]
        assert remembered.pixels.pointer.tolist() == [0, 0, 4, 0]


def test_a_full_queue_takes_its_last_slots_and_starts_anew():
    queue = ClassQueue(2, 5, 1)
    for first in (0, 3, 6):
        queue.write([(1, 3)], torch.arange(first, first + 3.0)[:, None])
    # Slots 0-2, then the last three because two are not enough, then 0-2 again.
    assert queue.rows[1, :, 0].tolist() == [6, 7, 8, 4, 5]
    assert queue.pointer.tolist() == [0, 3]
    assert queue.written.tolist() == [0, 5]
    # Runs of one batch that meet in the same slots leave the later one.
    queue.write([(0, 4), (1, 1), (0, 4)], torch.arange(9.0)[:, None])
    assert queue.rows[0, 1:, 0].tolist() == [5, 6, 7, 8]
    assert queue.rows[1, 3, 0] == 4


def test_slots_that_were_never_written_are_told_apart():
    remembered = memory(pixel_slots=6, pixels_per_class=2)
    labels = torch.full((1, 6, 6), 3)
    remembered.enqueue(drawn_maps(batch=1)[0], labels)
    torch.manual_seed(1)
    pixels, regions = remembered.sample(1000, 1000)
    slots = torch.manual_seed(1) and torch.randperm(6)
    assert pixels.written.tolist() == [False] * 18 + (slots < 2).tolist()
    assert regions.written.sum() == 1
    assert len(pixels.entries) == 24
    remembered.enqueue(drawn_maps(batch=1)[0], labels)
    remembered.enqueue(drawn_maps(batch=1)[0], labels)
    assert remembered.pixels.written.tolist() == [0, 0, 0, 6]


def test_it_starts_with_random_unit_vectors():
    start, again = memory(seed=3), memory(seed=3)
    for queue in (start.pixels, start.regions):
        lengths = queue.rows.norm(dim=2)
        torch.testing.assert_close(lengths, torch.ones_like(lengths), rtol=1e-6, atol=0)
    assert start.pixels.rows.equal(again.pixels.rows)
    assert start.pixels.rows.flatten(0, 1).unique(dim=0).shape == (40, CHANNELS)


def test_nothing_labelled_changes_nothing_and_zero_features_stay_finite():
    remembered = memory()
    before = {name: value.clone() for name, value in remembered.state_dict().items()}
    remembered.enqueue(drawn_maps()[0], torch.full((4, 6, 6), -1))
    assert all(value.equal(before[name]) for name, value in remembered.state_dict().items())
    remembered.enqueue(torch.zeros(4, CHANNELS, 6, 6), drawn_maps()[1])
    assert remembered.pixels.rows.isfinite().all()
    assert remembered.regions.rows.isfinite().all()


def test_the_layout_of_the_features_and_autocast_do_not_matter():
    features, labels = drawn_maps()
    expected, other = memory(), memory()
    torch.manual_seed(0)
    expected.enqueue(features, labels)
    torch.manual_seed(0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        other.enqueue(features.to(memory_format=torch.channels_last), labels.int())
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], value)
    assert F.cosine_similarity(expected.regions.rows, other.regions.rows, dim=2).min() > 0.999


def enqueue_in_process(rank, folder):
    """Feed one of two processes its half of every batch, and save what it then remembers."""
    dist.init_process_group("gloo", f"file://{folder}/rendezvous", rank=rank, world_size=2)
    remembered, sampled = memory(), None
    for step in range(3):
        features, labels = batch_of_processes(step)
        own = slice(2 * rank, 2 * rank + 2)
        torch.manual_seed(1000 * rank + step)
        generator = shared_generator()
        layout = torch.contiguous_format if step else torch.channels_last
        own_features = features[own].to(memory_format=layout)
        remembered.enqueue(own_features, labels[own], generator)
        sampled = remembered.sample(20, 8, generator)
    torch.save((remembered.state_dict(), *sampled), folder / f"{rank}.pt")
    dist.destroy_process_group()


def batch_of_processes(step):
    features, labels = drawn_maps(step)
    if step == 1:
        labels[2:] = -1  # one process without a single labelled pixel
    return features, labels


def test_two_processes_remember_what_one_does_with_the_whole_batch(tmp_path):
    together(enqueue_in_process, tmp_path)
    alone, sampled = memory(), None
    for step in range(3):
        torch.manual_seed(step)
        alone.enqueue(*batch_of_processes(step))
        sampled = alone.sample(20, 8)
    for rank in range(2):
        state, *contrasts = torch.load(tmp_path / f"{rank}.pt", weights_only=False)
        for name, value in alone.state_dict().items():
            torch.testing.assert_close(state[name], value, rtol=0, atol=1e-12)
        for drawn, expected in zip(contrasts, sampled, strict=True):
            torch.testing.assert_close(drawn.entries, expected.entries, rtol=0, atol=1e-12)


def test_impossible_memories_are_refused():
    with pytest.raises(ValueError, match="expected pixels_per_class of at least 1, got 0"):
        memory(pixels_per_class=0)
    with pytest.raises(ValueError, match="expected region_slots of at least 1, got -1"):
        memory(region_slots=-1)


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
    with pytest.raises(
        InputError, match=r"MemoryContrast compares features.*this teacher provides"
    ):
        MemoryContrast().prepare(Shown(STUDENT, CLASSES), Shown(None, CLASSES))
    assert MemoryContrast().weight == 0.1
