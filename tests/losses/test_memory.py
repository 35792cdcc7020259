"""What is remembered of the teacher, slot by slot."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
import torch.nn.functional as F

from fakd.losses.contrast import ClassQueue, PixelRegionMemory
from fakd.processes import shared_generator

CLASSES, CHANNELS = 4, 5


def drawn(seed=0, batch=4, size=6, dtype=torch.float64):
    """Features, and labels in blocks so that classes differ between images; some ignored."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(batch, CHANNELS, size, size, generator=generator, dtype=dtype)
    coarse = torch.randint(CLASSES + 1, (batch, size // 2, size // 2), generator=generator)
    labels = coarse.repeat_interleave(2, 1).repeat_interleave(2, 2)
    return features, labels.masked_fill(labels == CLASSES, -1)


def memory(seed=0, **settings):
    torch.manual_seed(seed)
    settings = {"pixel_slots": 10, "region_slots": 3, "pixels_per_class": 4, **settings}
    return PixelRegionMemory(CLASSES, CHANNELS, **settings).double()


class LoopMemory:
    """The text of the method, one vector at a time, starting from what a memory holds."""

    def __init__(self, start, sampling):
        self.pixels = start.pixels.rows.clone()
        self.regions = start.regions.rows.clone()
        self.pixel_pointer, self.region_pointer = [0] * CLASSES, [0] * CLASSES
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
        chosen = torch.randperm(self.pixels.shape[1]).tolist()[: pixels // CLASSES + 1]
        rows = [self.pixels[c, slot] for c in range(CLASSES) for slot in chosen]
        chosen = torch.randperm(self.regions.shape[1]).tolist()[: regions // CLASSES + 1]
        return rows, [self.regions[c, slot] for c in range(CLASSES) for slot in chosen]


def unit(vector):
    return vector / (vector**2).sum().sqrt()


@pytest.mark.parametrize("sampling", ["class", "legacy"])
@pytest.mark.parametrize("pixel_slots", [10, 3, 200])
def test_the_memory_is_what_the_text_says_draw_by_draw(sampling, pixel_slots):
    fast = memory(pixel_slots=pixel_slots, pixel_sampling=sampling)
    slow = LoopMemory(fast, sampling)
    for step in range(5):
        batch = drawn(step)
        torch.manual_seed(100 + step)
        fast.enqueue(*batch)
        sampled = fast.sample(17, 6)
        after = torch.rand(())
        torch.manual_seed(100 + step)
        slow.enqueue(*batch)
        expected = slow.sample(17, 6)
        assert torch.rand(()).equal(after)
        for contrast, rows in zip(sampled, expected, strict=True):
            torch.testing.assert_close(contrast.entries, torch.stack(rows), rtol=0, atol=1e-12)
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
    remembered.enqueue(drawn(batch=1)[0], labels)
    torch.manual_seed(1)
    pixels, regions = remembered.sample(1000, 1000)
    slots = torch.manual_seed(1) and torch.randperm(6)
    assert pixels.written.tolist() == [False] * 18 + (slots < 2).tolist()
    assert regions.written.sum() == 1
    assert len(pixels.entries) == 24
    remembered.enqueue(drawn(batch=1)[0], labels)
    remembered.enqueue(drawn(batch=1)[0], labels)
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
    remembered.enqueue(drawn()[0], torch.full((4, 6, 6), -1))
    assert all(value.equal(before[name]) for name, value in remembered.state_dict().items())
    remembered.enqueue(torch.zeros(4, CHANNELS, 6, 6), drawn()[1])
    assert remembered.pixels.rows.isfinite().all()
    assert remembered.regions.rows.isfinite().all()


def test_the_layout_of_the_features_and_autocast_do_not_matter():
    features, labels = drawn()
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
    torch.set_num_threads(1)
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
    features, labels = drawn(step)
    if step == 1:
        labels[2:] = -1  # one process without a single labelled pixel
    return features, labels


def test_two_processes_remember_what_one_does_with_the_whole_batch(tmp_path):
    multiprocessing.spawn(enqueue_in_process, (tmp_path,), nprocs=2)
    alone, sampled = memory(), None
    for step in range(3):
        torch.manual_seed(step)
        alone.enqueue(*batch_of_processes(step))
        sampled = alone.sample(20, 8)
    for rank in range(2):
        state, *contrasts = torch.load(tmp_path / f"{rank}.pt", weights_only=False)
        for name, value in alone.state_dict().items():
            torch.testing.assert_close(state[name], value, rtol=0, atol=1e-12)
        for contrast, expected in zip(contrasts, sampled, strict=True):
            torch.testing.assert_close(contrast.entries, expected.entries, rtol=0, atol=1e-12)


def test_impossible_settings_are_refused():
    with pytest.raises(ValueError, match="expected pixels_per_class of at least 1, got 0"):
        memory(pixels_per_class=0)
    with pytest.raises(ValueError, match="expected region_slots of at least 1, got -1"):
        memory(region_slots=-1)
