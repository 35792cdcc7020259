"""A store: written shard by shard, continued, and never taken for another's or for whole."""

import copy

import numpy as np
import pytest
import torch

from fakd.answers import Stored, open_answers
from fakd.answers.maps import Lookup, Maps
from fakd.answers.store import Record, Store, images_of
from fakd.data import scenes
from fakd.data.dataset import Split
from fakd.data.transforms import Augmentation, augment
from stand_ins import message

DATA = scenes(train=5, val=2, size=(32, 48))
NAMES = ("a", "b", "c")


class Some(Split):
    """Some samples of another split, in another order."""

    def __init__(self, split, indices):
        self.labelled, self.split, self.indices = split.labelled, split, indices

    def __len__(self):
        return len(self.indices)

    def __getitem__(self, index):
        return self.split[self.indices[index]]

    def name(self, index):
        return self.split.name(self.indices[index])

    def stamp(self, index):
        return self.split.stamp(self.indices[index])

    def identity(self):
        return self.split.identity()


def content(**settings):
    teacher = {"fingerprint": "t", "classes": 3, "class_names": NAMES, "palette": None}
    given = {"format": "float16", "k": None, "channels": None, "stride": None, **settings}
    parts = {"train": 5, "val": 2}
    return {
        "teacher": teacher,
        "data": images_of(DATA),
        "settings": given,
        "parts": parts,
        "shard": 2,
    }


def maps(part, index, channels=None):
    dice = np.random.default_rng([part == "val", index])
    logits = dice.normal(size=(3, 4, 6)).astype(np.float16).astype(np.float32)
    features = dice.normal(size=(channels or 1, 4, 6)).astype(np.float16).astype(np.float32)
    return Maps(logits, features if channels else None)


def fill(store, shards=None, channels=None):
    for part, number in store.unwritten() if shards is None else shards:
        split = getattr(DATA, part)
        store.write(
            part,
            number,
            [
                Record(split.name(i), split.stamp(i), None, (32, 48), maps(part, i, channels))
                for i in store.indices(part, number)
            ],
        )


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "answers"


def test_every_image_gets_its_own_answer_back(folder):
    fill(Store.begin(folder, content(channels=2)), channels=2)
    store = open_answers(Stored(folder), 3)
    assert (store.classes, store.channels, store.class_names) == (3, 2, NAMES)
    for part in ("val", "train"):
        places = store.find(part, getattr(DATA, part))
        for index in reversed(range(len(places))):
            found = store.read(part, places[index], (32, 48))
            for ours, theirs in zip(found, maps(part, index, 2), strict=True):
                np.testing.assert_array_equal(ours, theirs)


def test_images_are_found_by_name_whatever_their_order(folder):
    fill(Store.begin(folder, content()))
    assert list(Store.open(folder).find("train", Some(DATA.train, [4, 0, 3]))) == [4, 0, 3]


def test_views_are_cut_as_their_image_is(folder):
    store = Store.begin(folder, content())
    fill(store)
    lookup = Lookup(store, "train", store.find("train", DATA.train), 8)
    whole = Augmentation(crop=(32, 48), scale=(1.0, 1.0), flip=1.0, photometric=False)
    view = augment(DATA.train[3], whole, torch.Generator().manual_seed(0))
    (found,) = lookup(3, view.geometry)
    np.testing.assert_allclose(found, maps("train", 3).logits[:, :, ::-1], atol=1e-5)


def test_a_store_is_continued_where_it_was_left(folder):
    store = Store.begin(folder, content())
    fill(store, [("train", 1), ("val", 0)])
    again = Store.begin(folder, content())
    assert again.unwritten() == [("train", 0), ("train", 2)]
    assert again.fingerprint == store.fingerprint
    fill(again)
    assert not again.unwritten()


def test_a_store_that_is_not_finished_is_never_read(folder):
    fill(Store.begin(folder, content()), [("train", 0)])
    text = message(lambda: open_answers(Stored(folder), 3))
    assert "1 of 4 shards" in text
    assert "to continue" in text


@pytest.mark.parametrize(
    ("key", "change", "said"),
    [
        ("teacher", {"fingerprint": "u"}, "another teacher (fingerprint t there, u now)"),
        ("data", {"fingerprint": "u"}, "other images"),
        ("settings", {"format": "int8"}, "other settings (format float16 there, int8 now)"),
    ],
)
def test_a_store_of_something_else_is_refused_by_name(folder, key, change, said):
    Store.begin(folder, content())
    other = copy.deepcopy(content())
    other[key] |= change
    assert said in message(lambda: Store.begin(folder, other))


def test_a_folder_of_other_files_is_not_written_into(tmp_path):
    (tmp_path / "mine.txt").write_text("kept")
    assert "holds files" in message(lambda: Store.begin(tmp_path, content()))
    assert "is a file" in message(lambda: Store.begin(tmp_path / "mine.txt", content()))
    assert [each.name for each in tmp_path.iterdir()] == ["mine.txt"]


def test_other_images_under_the_same_names_are_refused(folder):
    fill(Store.begin(folder, content()))
    store = Store.open(folder)
    others = scenes(train=5, val=2, size=(32, 48), seed=1)
    assert "another train image train/00000" in message(lambda: store.find("train", others.train))
    assert "is of 32x48" not in message(lambda: store.read("train", 0, (16, 48)))
    more = scenes(train=6, val=2, size=(32, 48))
    text = message(lambda: store.find("train", more.train))
    assert "no answer for 1 of 6 train images: train/00005" in text


def test_a_damaged_shard_is_named(folder):
    store = Store.begin(folder, content())
    fill(store)
    path = store.path("train", 1)
    path.write_bytes(path.read_bytes()[:-10])
    assert str(path) in message(lambda: store.find("train", DATA.train))
    path.unlink()
    assert str(path) in message(lambda: store.find("train", DATA.train))


def test_a_store_made_anew_is_read_anew(folder):
    for classes in (3, 2):
        store = Store.begin(folder, content())
        store.write(
            "train", 0, [Record("a", "", None, (8, 8), Maps(maps("train", classes).logits))]
        )
        found = store.read("train", 0, (8, 8)).logits
        np.testing.assert_array_equal(found, maps("train", classes).logits)


def test_a_store_of_another_version_is_refused(folder):
    Store.begin(folder, content())
    text = (folder / "manifest.json").read_text()
    (folder / "manifest.json").write_text(text.replace('"format": 1', '"format": 9'))
    assert "got 9" in message(lambda: Store.open(folder))
    (folder / "manifest.json").write_text("{")
    assert "not a manifest" in message(lambda: Store.open(folder))


def test_answers_of_other_classes_are_refused(folder):
    fill(Store.begin(folder, content()))
    assert "--classes_from" in message(lambda: open_answers(Stored(folder), 4))
    assert "smoothing" in message(lambda: open_answers(Stored(folder, smoothing=0.1), 3))


def test_the_images_of_a_data_set_are_told_from_others_and_not_by_their_labels():
    assert images_of(DATA) == images_of(scenes(train=5, val=2, size=(32, 48)))
    assert images_of(DATA) != images_of(scenes(train=5, val=2, size=(32, 48), seed=1))
