import hashlib

import numpy as np
import pytest
import torch

from fakd.data import Augmentation, scenes, training_batches
from fakd.errors import InputError

pytestmark = pytest.mark.usefixtures("scenes_drawn_anew")


def test_scenes_follow_from_seed_split_and_index():
    data, again = scenes(), scenes()
    sample = data.train[7]
    assert torch.equal(sample.image, again.train[7].image)
    assert torch.equal(sample.labels, again.train[7].labels)
    assert sample.name == "train/00007"
    for other in (data.train[8], data.val[7], scenes(seed=1).train[7]):
        assert not torch.equal(sample.labels, other.labels)
    assert torch.equal(scenes(train=9).train[7].labels, sample.labels)


def test_scenes_for_tests_are_further_ones():
    data = scenes(train=2, val=3, size=(32, 48))
    test = data.open_test()
    assert len(test) == 3
    assert test.name(1) == "test/00001"
    for other in (data.train, data.val):
        assert not any(torch.equal(test[0].image, other[i].image) for i in range(len(other)))


def test_labels_of_one_scene_are_kept_for_good():
    # From this implementation with Pillow 13; other numbers would silently be another data set.
    labels = scenes().train[0].labels.numpy()
    assert hashlib.sha256(labels.astype(np.uint8).tobytes()).hexdigest()[:16] == "4ee6cd10089b5d82"


def test_size_and_type():
    for height, width in ((33, 57), (16, 16), (200, 17)):
        sample = scenes(size=(height, width)).val[0]
        assert sample.image.shape == (3, height, width)
        assert sample.labels.shape == (height, width)
        assert (sample.image.dtype, sample.labels.dtype) == (torch.uint8, torch.int16)


def test_every_class_occurs_in_a_long_tail():
    data = scenes()
    assert data.classes == len(set(data.palette)) == len(set(data.class_names)) == 12
    counts = torch.zeros(13, dtype=torch.long)
    seen = torch.zeros(13, dtype=torch.long)
    for index in range(60):
        found = (data.train[index].labels + 1).flatten().bincount(minlength=13).roll(-1)
        counts += found
        seen += found > 0
    share = counts / counts.sum()
    assert 0.005 < share[12] < 0.03
    assert (seen[:12] >= 30).all()
    shares = share[:12].sort(descending=True).values
    assert shares[0] < 0.45
    assert 0.0005 < shares[-1] < 0.01
    assert (share[:12] < 0.01).sum() >= 3


def test_images_vary_and_are_neither_black_nor_white():
    means = torch.tensor([float(scenes().train[i].image.float().mean()) for i in range(30)])
    assert means.std() > 15
    assert means.min() > 20
    assert means.max() < 230


def test_images_show_what_labels_say():
    # Painted parts and labels come from one map: the sky is brighter than the road by day.
    data = scenes()
    brighter = 0
    for index in range(20):
        image, labels, _ = data.train[index]
        grey = image.float().mean(0)
        brighter += int(grey[labels == 8].mean() > grey[labels == 0].mean())
    assert brighter >= 17


def test_batches_of_scenes_do_not_depend_on_workers():
    settings = Augmentation(crop=(48, 64))
    train = scenes(train=6).train
    one, two = (
        list(training_batches(train, settings, 3, 0, 0, 2, workers=workers)) for workers in (0, 2)
    )
    for first, second in zip(one, two, strict=True):
        assert torch.equal(first.images, second.images)
        assert torch.equal(first.labels, second.labels)


def test_some_scenes_keep_their_labels_and_all_their_images():
    whole, some = scenes(6, 2, (32, 48)), scenes(6, 2, (32, 48), labelled=2)
    assert some.train.labelled_indices() == [0, 1]
    for index in range(6):
        sample, expected = some.train[index], whole.train[index]
        assert torch.equal(sample.image, expected.image)
        assert (sample.labels is None) == (index > 1)
        assert index > 1 or torch.equal(sample.labels, expected.labels)
    assert some.val[1].labels is not None
    assert [*some.train.identity()] != [*whole.train.identity()]
    assert some.config["init_args"]["labelled"] == 2
    assert "labelled" not in whole.config["init_args"]
    assert not scenes(6, 2, (32, 48), labelled=0).train.labelled


def test_impossible_scenes_are_refused():
    wrong = {"train": 0}, {"val": 0}, {"size": (8, 64)}, {"seed": -1}, {"train": 4, "labelled": 5}
    for settings in wrong:
        with pytest.raises(InputError, match="got"):
            scenes(**settings)
    with pytest.raises(IndexError):
        scenes(train=3).train[3]
