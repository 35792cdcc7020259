from dataclasses import replace
from itertools import chain

import numpy as np
import pytest
import torch

from fakd.data import (
    Augmentation,
    CachedSplit,
    Sample,
    Split,
    cache_in_memory,
    cut_like,
    evaluation_samples,
    folder,
    training_batches,
)
from fakd.data.seeds import hash_seed
from fakd.errors import InputError
from fakd.settings import Hardware
from fakd.types import IGNORE

SETTINGS = Augmentation(crop=(16, 20))
PLAIN = Augmentation((4, 4), (1.0, 1.0), 0.0, False, 1.0)


class Partly(Split):
    """Images that say which they are, every other one without labels."""

    labelled = False

    def __len__(self):
        return 6

    def __getitem__(self, index):
        image = torch.full((3, 20, 30), index, dtype=torch.uint8)
        return Sample(image, None if index % 2 else image[0].short(), str(index))

    def identity(self):
        return []


class Numbered(Split):
    """Images whose every value is their index, or noise that follows from it."""

    labelled = True

    def __init__(self, length, noisy=False, broken=None):
        self.length, self.noisy, self.read = length, noisy, []
        self.broken = broken if isinstance(broken, set) else {broken}

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        self.read.append(index)
        if index in self.broken:
            raise InputError(f"image {index} is broken; mend it")
        if self.noisy:
            generator = torch.Generator().manual_seed(index)
            image = torch.randint(0, 256, (3, 24, 30), generator=generator).byte()
            return Sample(image, image[0].short() % 3, str(index))
        image = torch.full((3, 4, 4), index, dtype=torch.uint8)
        return Sample(image, image[0].short(), str(index))

    def identity(self):
        return [str(self.length)]


def batches(split=None, first=0, last=4, **options):
    split = split or Numbered(7, noisy=True)
    options = {"batch_size": 4, "seed": 3, **options}
    return list(training_batches(split, SETTINGS, first_step=first, last_step=last, **options))


def equal(first, second):
    return len(first) == len(second) and all(
        torch.equal(one.images, two.images)
        and torch.equal(one.labels, two.labels)
        and one.skipped == two.skipped
        for one, two in zip(first, second, strict=True)
    )


def order(length, batch_size, steps, seed=0):
    found = training_batches(Numbered(length), PLAIN, batch_size, seed, 0, steps)
    return [batch.images[:, 0, 0, 0].tolist() for batch in found]


def test_shapes_and_types():
    batch = batches(last=1)[0]
    assert batch.images.shape == (4, 3, 16, 20)
    assert batch.labels.shape == (4, 16, 20)
    assert (batch.images.dtype, batch.labels.dtype) == (torch.uint8, torch.int16)


def test_workers_change_nothing():
    assert equal(batches(), batches(workers=2))


def test_resuming_changes_nothing():
    assert equal(batches()[2:], batches(first=2))
    assert batches(first=4, last=4) == []


def test_ranks_share_the_same_batch():
    ranks = [batches(rank=rank, world=2) for rank in range(2)]
    for step, whole in enumerate(batches()):
        for name in ("images", "labels"):
            parts = [getattr(rank[step], name) for rank in ranks]
            assert torch.equal(torch.cat(parts), getattr(whole, name))


def test_every_epoch_holds_every_sample_once_in_its_own_order():
    drawn = list(chain(*order(10, 4, 10)))
    epochs = [drawn[start : start + 10] for start in range(0, 40, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert order(10, 4, 2) != order(10, 4, 2, seed=1)


def test_the_order_of_a_seed_is_kept_for_good():
    # From this implementation: a change would silently alter every resumed run.
    assert order(10, 5, 2) == [[8, 6, 1, 9, 3], [7, 5, 0, 2, 4]]


def test_splits_smaller_than_a_batch():
    drawn = list(chain(*order(3, 8, 3)))
    assert [sorted(drawn[start : start + 3]) for start in range(0, 24, 3)] == [[0, 1, 2]] * 8
    assert order(1, 2, 1) == [[0, 0]]


def test_the_same_image_is_augmented_differently_in_each_slot():
    batch = batches(Numbered(1, noisy=True), last=2)
    views = [view for step in batch for view in step.images]
    assert not any(torch.equal(views[i], views[j]) for i in range(len(views)) for j in range(i))
    assert not equal(batches(), batches(seed=4))


def test_seeds_of_neighbours_share_nothing_even_in_32_bits():
    seeds = {
        hash_seed(seed, purpose, step, slot) % 2**32
        for seed in range(3)
        for purpose in (1, 2)
        for step in range(50)
        for slot in range(50)
    }
    assert len(seeds) > 15000 - 5
    assert hash_seed(1, 2) != hash_seed(2, 1) != hash_seed(1, 2, 0)
    # Sebastiano Vigna's splitmix64 with state 0 starts with this number.
    assert hash_seed(0) == 0xE220A8397B1DCDAF


def test_batches_must_be_shared_out_evenly():
    with pytest.raises(InputError, match=r"multiple of the 3 processes, got 4; choose 3"):
        batches(world=3)
    with pytest.raises(InputError, match="got 0"):
        batches(batch_size=0)


@pytest.mark.parametrize("workers", [0, 2])
def test_errors_reach_the_caller_as_they_were(workers):
    with pytest.raises(InputError) as caught:
        list(training_batches(Numbered(4, broken=2), PLAIN, 2, 0, 0, 4, workers=workers))
    expected = "image 2 is broken; mend it, or leave it out with --broken skip"
    assert str(caught.value) == expected
    with pytest.raises(InputError) as caught:
        list(evaluation_samples(Numbered(4, broken=2), workers=workers))
    assert str(caught.value) == "image 2 is broken; mend it"


def test_the_next_of_the_same_order_takes_the_place_of_a_broken_sample():
    def drawn(broken):
        found = training_batches(Numbered(10, broken=broken), PLAIN, 5, 0, 0, 2, broken="skip")
        return [(batch.images[:, 0, 0, 0].tolist(), batch.skipped) for batch in found]

    # The order of this seed is 8 6 1 9 3, 7 5 0 2 4.
    whole = [([8, 6, 1, 9, 3], ()), ([7, 5, 0, 2, 4], ())]
    assert drawn(set()) == whole
    said = [f"image {index} is broken; mend it" for index in range(10)]
    assert drawn({6}) == [([8, 1, 1, 9, 3], (said[6],)), whole[1]]
    # A run of broken ones is passed over, and the last of an order is followed by its first.
    assert drawn({1, 9, 4}) == [
        ([8, 6, 3, 3, 3], (said[1], said[9], said[9])),
        ([7, 5, 0, 2, 8], (said[4],)),
    ]


def test_skipping_does_not_depend_on_workers_resumption_or_ranks():
    split = Numbered(7, noisy=True, broken={2, 5})
    whole = batches(split, broken="skip")
    assert sum(len(batch.skipped) for batch in whole) > 2
    assert equal(whole, batches(split, broken="skip", workers=2))
    assert equal(whole[2:], batches(split, broken="skip", first=2))
    assert equal(whole, batches(CachedSplit(split, 2**20), broken="skip"))
    ranks = [batches(split, broken="skip", rank=rank, world=2) for rank in range(2)]
    for batch, *parts in zip(whole, *ranks, strict=True):
        assert torch.equal(torch.cat([part.images for part in parts]), batch.images)
        assert parts[0].skipped + parts[1].skipped == batch.skipped


def test_samples_that_can_be_read_are_augmented_as_if_none_were_broken():
    whole, skipping = batches(), batches(Numbered(7, noisy=True, broken=3), broken="skip")
    changed = [
        not torch.equal(one, two)
        for first, second in zip(whole, skipping, strict=True)
        for one, two in zip(first.images, second.images, strict=True)
    ]
    assert sum(changed) == sum(len(batch.skipped) for batch in skipping) > 0


@pytest.mark.parametrize("workers", [0, 2])
def test_nothing_but_broken_samples_ends_with_an_error(workers):
    split = Numbered(3, broken={0, 1, 2})
    expected = r"none of 3 training samples can be read; the last one: image \d is broken; mend it"
    with pytest.raises(InputError, match=expected):
        batches(split, broken="skip", workers=workers)


def test_files_that_break_while_training_are_named_once_each(made_up):
    for name in "cdefgh":
        made_up.image(f"train/images/{name}.jpg", size=(60, 80))
        made_up.mask(f"train/masks/{name}.png", np.zeros((60, 80), dtype=np.uint8))
    path = made_up.root / "train/images/d.jpg"
    path.write_bytes(path.read_bytes()[:-400])
    split = folder(made_up.root).train
    found = batches(split, last=2, batch_size=len(split), broken="skip")
    assert [len(batch.skipped) for batch in found] == [1, 1]
    assert str(path) in found[0].skipped[0]
    with pytest.raises(InputError, match=r"d\.jpg.*leave it out with --broken skip"):
        batches(split, last=2, batch_size=len(split))


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_keeps_order_sizes_and_missing_labels(made_up, workers):
    made_up.image("train/images/b.png", size=(9, 5))
    made_up.root.joinpath("train/masks").rename(made_up.root / "aside")
    samples = list(evaluation_samples(folder(made_up.root).train, workers))
    assert [sample.name for sample in samples] == ["a", "b"]
    assert [tuple(sample.image.shape) for sample in samples] == [(3, 6, 8), (3, 9, 5)]
    assert all(isinstance(sample, Sample) and sample.labels is None for sample in samples)
    part = evaluation_samples(Numbered(9), workers, indices=range(1, 9, 4))
    assert [sample.name for sample in part] == ["1", "5"]


def test_the_cache_keeps_what_fits_and_changes_nothing():
    split = Numbered(3)
    # Three bytes of image and two of label to a pixel.
    kept = CachedSplit(split, limit=2 * 5 * 16)
    for _ in range(2):
        assert [int(kept[index].image[0, 0, 0]) for index in range(3)] == [0, 1, 2]
    assert split.read == [0, 1, 2, 2]
    assert len(kept) == 3
    assert kept.labelled
    assert list(kept.identity()) == list(split.identity())
    noisy = Numbered(7, noisy=True)
    assert equal(batches(noisy), batches(CachedSplit(noisy, 2**20)))


@pytest.mark.parametrize(("workers", "devices"), [(0, 1), (4, 1), (0, 2), (3, 2)])
def test_a_run_shares_its_cache_out_among_its_processes(workers, devices):
    train, val = Numbered(30), Numbered(10)
    cached = 30 if workers else 40
    bytes_of_all = cached * 5 * 16
    processes = devices * max(1, workers)
    hardware = Hardware(workers=workers, devices=devices, cache=processes * bytes_of_all / 2**30)
    for _ in range(2):
        kept = cache_in_memory(train, val, replace(hardware, cache=hardware.cache / 2))
        for split in kept:
            for index in chain(range(len(split)), range(len(split))):
                split[index]
    # Half of each split is kept, and the other half is decoded twice, in each of two rounds; the
    # workers of an evaluation end with it, so that there nothing is kept.
    assert (len(train.read), len(val.read)) == (2 * 45, 2 * (20 if workers else 15))
    everything = cache_in_memory(train, val, hardware)
    train.read.clear()
    for index in chain(range(30), range(30)):
        everything[0][index]
    assert len(train.read) == 30


def test_a_cache_of_nothing_keeps_nothing_and_a_negative_one_is_refused():
    split = Numbered(2)
    kept, _ = cache_in_memory(split, split, Hardware(cache=0.0))
    assert [kept[0].name, kept[0].name] == ["0", "0"]
    assert split.read == [0, 0]
    with pytest.raises(InputError, match=r"hardware\.cache of at least 0, got -1"):
        Hardware(cache=-1.0)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_knows_its_samples_and_what_each_image_shows(workers):
    split = Numbered(7, noisy=True, broken={3})
    still = replace(SETTINGS, photometric=False)
    for batch in training_batches(split, still, 4, 3, 0, 4, workers=workers, broken="skip"):
        assert batch.indices.dtype == torch.int64
        assert 3 not in batch.indices
        assert batch.labelled.all()
        for image, index, geometry in zip(
            batch.images, batch.indices.tolist(), batch.geometries, strict=True
        ):
            error = (cut_like(split[index].image.float(), geometry) - image.float()).abs()
            assert error[:, : geometry.rows.length, : geometry.columns.length].max() < 0.51


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_may_mix_samples_with_and_without_labels(workers):
    seen = set()
    for batch in training_batches(Partly(), PLAIN, 4, 0, 0, 6, workers=workers):
        for index, labelled, image, labels in zip(
            batch.indices.tolist(), batch.labelled.tolist(), batch.images, batch.labels, strict=True
        ):
            assert (image == index).all()
            assert labelled == (index % 2 == 0)
            assert (labels == (index if labelled else IGNORE)).all()
        seen.add(int(batch.labelled.sum()))
    assert seen & {1, 2, 3}


def test_labels_of_another_type_are_refused_before_they_are_misread():
    class Bytes(Numbered):
        def __getitem__(self, index):
            sample = super().__getitem__(index)
            return sample._replace(labels=sample.labels.byte())

    for read in (batches, lambda split: list(evaluation_samples(split))):
        with pytest.raises(
            InputError, match=r"torch\.int16 with -1 where .* got torch\.uint8 for \d"
        ):
            read(Bytes(4, noisy=True))


class Coloured(Split):
    """Blocks of classes, the image saying at every pixel which sample and label it shows."""

    labelled = False

    def __len__(self):
        return 7

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        labels = torch.randint(0, 6, (3, 4), generator=generator).short()
        labels = labels.repeat_interleave(6, 0).repeat_interleave(6, 1)
        image = torch.stack([labels * 40, torch.full_like(labels, index), labels]).byte()
        return Sample(image, None if index == 3 else labels, str(index))

    def identity(self):
        return []


def mixing(kind, batch_size=5, last=8, **options):
    still = Augmentation((18, 24), (1.0, 1.0), 0.0, False, 1.0)
    if kind is not None:
        still = replace(still, mix=kind, mix_probability=0.8)
    split = options.pop("split", Coloured())
    return list(training_batches(split, still, batch_size, 3, 0, last, **options))


@pytest.mark.parametrize("kind", ["cutmix", "classmix"])
def test_images_and_labels_are_mixed_alike(kind):
    mixed_images = 0
    for plain, batch in zip(mixing(None), mixing(kind), strict=True):
        assert torch.equal(batch.labelled, plain.labelled)
        for slot, geometry in enumerate(batch.geometries):
            beside = slot + 1 if slot % 2 == 0 else slot - 1
            beside = 0 if beside == 5 else beside
            # By the pixels, whose second channel says which sample they are of.
            names = plain.indices[[slot, beside]].tolist()
            pasted = batch.images[slot, 1] == names[1]
            assert (pasted | (batch.images[slot, 1] == names[0])).all()
            for row in range(18):
                for column in range(24):
                    source = beside if pasted[row, column] else slot
                    for found, whole in (
                        (batch.labels, plain.labels),
                        (batch.images, plain.images),
                    ):
                        here = found[slot, ..., row, column]
                        assert torch.equal(here, whole[source, ..., row, column])
            if geometry is None:
                mixed_images += 1
                if names[0] != names[1]:
                    check_region(kind, pasted, plain.labels[beside])
            elif names[0] != names[1]:
                assert not pasted.any()
    assert 20 < mixed_images < 38


def check_region(kind, pasted, labels):
    if kind == "cutmix":
        rows, columns = pasted.any(1).nonzero(), pasted.any(0).nonzero()
        height, width = len(rows), len(columns)
        assert pasted.sum() == height * width
        assert abs(height / 18 - width / 24) < 0.06
        return
    classes = {label for label in labels.unique().tolist() if label != IGNORE}
    taken = {label for label in classes if pasted[labels == label].all()}
    assert len(taken) == len(classes) // 2
    assert pasted.sum() == sum(int((labels == label).sum()) for label in taken)


def test_the_area_that_cutmix_pastes_is_uniform():
    areas = []
    for batch in mixing("cutmix", batch_size=40, last=10):
        for image, index, geometry in zip(
            batch.images, batch.indices.tolist(), batch.geometries, strict=True
        ):
            if geometry is None:
                areas.append(float((image[1] != index).float().mean()))
    areas = np.array([area for area in areas if area > 0])
    assert abs(areas.mean() - 0.5) < 0.06
    assert np.abs(np.quantile(areas, [0.25, 0.75]) - [0.25, 0.75]).max() < 0.08


@pytest.mark.parametrize("kind", ["cutmix", "classmix"])
@pytest.mark.parametrize("world", [2, 3, 6])
def test_mixing_does_not_depend_on_workers_ranks_or_resumption(kind, world):
    whole = mixing(kind, batch_size=6)
    assert equal(whole, mixing(kind, batch_size=6, workers=2))
    assert not equal(whole, mixing(None, batch_size=6))
    ranks = [mixing(kind, batch_size=6, rank=rank, world=world) for rank in range(world)]
    for batch, *parts in zip(whole, *ranks, strict=True):
        for name in ("images", "labels", "labelled"):
            joined = torch.cat([getattr(part, name) for part in parts])
            assert torch.equal(joined, getattr(batch, name))
        assert [each for part in parts for each in part.geometries] == batch.geometries


def test_skipped_partners_are_counted_once():
    settings = {"batch_size": 4, "split": Numbered(7, broken={2, 5}), "broken": "skip"}
    whole = mixing("cutmix", **settings)
    ranks = [mixing("cutmix", **settings, rank=rank, world=4) for rank in range(4)]
    for batch, *parts in zip(whole, *ranks, strict=True):
        assert sum((part.skipped for part in parts), ()) == batch.skipped
    assert any(batch.skipped for batch in whole)


def test_an_image_has_none_to_be_mixed_with_in_a_batch_of_one():
    with pytest.raises(InputError, match=r"augmentation\.mix needs .* batch_size of at least 2"):
        mixing("cutmix", batch_size=1)


def test_workers_change_nothing_about_an_extra_transform():
    blur = {"class_path": "torchvision.transforms.v2.GaussianBlur", "init_args": {"kernel_size": 5}}
    settings = replace(SETTINGS, extra=blur, rotation=20.0)
    found = [
        list(training_batches(Numbered(7, noisy=True), settings, 4, 3, 0, 4, workers=workers))
        for workers in (0, 2)
    ]
    assert equal(*found)
    assert not equal(found[0], batches())
