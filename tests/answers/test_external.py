"""Answers that somebody else left: floats or 8 bits, logits, probabilities or masks."""

import numpy as np
import pytest
from PIL import Image

from fakd.answers import Stored, open_answers
from fakd.data import scenes
from fakd.data.dataset import Split
from stand_ins import message


class Named(Split):
    """Samples that have names and are never read."""

    labelled = True

    def __init__(self, *names):
        self.names = names

    def __len__(self):
        return len(self.names)

    def __getitem__(self, index):
        raise NotImplementedError

    def name(self, index):
        return self.names[index]

    def identity(self):
        return self.names


def logits(seed=0):
    return np.random.default_rng(seed).normal(size=(3, 4, 5)).astype(np.float32)


def softmax(values):
    powers = np.exp(values - values.max(0))
    return powers / powers.sum(0)


def save(path, **arrays):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **arrays)


def read(folder, name="a", classes=3, **options):
    answers = open_answers(Stored(folder, **options), classes)
    return answers.read("train", answers.find("train", Named(name))[0], (32, 40)).logits


def test_float_logits_are_taken_as_they_are(tmp_path):
    for kind in (np.float16, np.float32, np.float64):
        save(tmp_path / "a.npz", logits=logits().astype(kind))
        np.testing.assert_array_equal(read(tmp_path), logits().astype(kind).astype(np.float32))


def test_probabilities_become_their_logarithms(tmp_path):
    save(tmp_path / "a.npz", probabilities=softmax(logits()))
    np.testing.assert_allclose(np.exp(read(tmp_path)), softmax(logits()), rtol=1e-5)
    eight = np.rint(255 * softmax(logits())).astype(np.uint8)
    save(tmp_path / "a.npz", probabilities=eight)
    np.testing.assert_allclose(np.exp(read(tmp_path)), softmax(logits()), atol=0.01)


def test_8_bit_logits_are_scaled(tmp_path):
    levels = np.arange(60, dtype=np.uint8).reshape(3, 4, 5)
    scale, offset = np.array([0.5, 1, 2]), -3.0
    save(tmp_path / "a.npz", logits=levels, scale=scale, offset=offset)
    np.testing.assert_allclose(read(tmp_path), levels * scale[:, None, None] + offset)
    save(tmp_path / "a.npz", logits=levels)
    assert "need scale" in message(lambda: read(tmp_path))


def test_masks_become_shares_of_labels_smoothed_as_asked(tmp_path):
    mask = np.zeros((8, 8), np.uint8)
    mask[:4, 4:6], mask[4:, :4], mask[4:, 4:] = 1, 2, 255
    Image.fromarray(mask).save(tmp_path / "a.png")
    wanted = np.zeros((3, 2, 2))
    wanted[0, 0, 0], wanted[:2, 0, 1], wanted[2, 1, 0], wanted[:, 1, 1] = 1, 0.5, 1, 1 / 3
    np.testing.assert_allclose(np.exp(read(tmp_path)), wanted, atol=1e-5)
    smoothed = 0.9 * wanted + 0.1 / 3
    np.testing.assert_allclose(np.exp(read(tmp_path, smoothing=0.1)), smoothed, atol=1e-5)


def test_masks_mean_the_same_in_any_type_of_file(tmp_path):
    mask = np.array([[0, 1], [2, 2]], np.uint8).repeat(4, 0).repeat(4, 1)
    colours = np.array([[0, 0, 0], [200, 0, 0], [0, 0, 200]], np.uint8)
    Image.fromarray(mask).save(tmp_path / "a.png")
    wanted = read(tmp_path)
    described = "classes: [{name: x, color: [0, 0, 0]}, {name: y, color: [200, 0, 0]}, "
    (tmp_path / "dataset.yaml").write_text(described + "{name: z, color: [0, 0, 200]}]\n")
    Image.fromarray(colours[mask]).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read(tmp_path), wanted)
    # As programs write it that make files small: indices by how often a colour comes.
    palette = Image.fromarray(np.array([1, 2, 0], np.uint8)[mask], mode="P")
    palette.putpalette(colours[[2, 0, 1]].ravel().tolist())
    palette.save(tmp_path / "a.png")
    assert "say which counts with masks: colors" in message(lambda: read(tmp_path))
    with open(tmp_path / "dataset.yaml", "a") as file:
        file.write("masks: colors\n")
    np.testing.assert_array_equal(read(tmp_path, classes=None), wanted)
    (tmp_path / "dataset.yaml").unlink()
    Image.fromarray(colours[mask]).save(tmp_path / "b.png")
    assert "b.png holds colours" in message(lambda: read(tmp_path, "b"))


def test_palettes_that_differ_from_file_to_file_are_refused(tmp_path):
    for name, red in (("a", 200), ("b", 90)):
        mask = Image.fromarray(np.ones((8, 8), np.uint8), mode="P")
        mask.putpalette([0, 0, 0, red, 0, 0])
        mask.save(tmp_path / f"{name}.png")
    answers = open_answers(Stored(tmp_path), 3)
    assert "shows id 1 as [90, 0, 0]" in message(lambda: answers.find("train", Named("a", "b")))


def test_parts_lie_in_folders_or_together_and_may_be_in_names(tmp_path):
    save(tmp_path / "split" / "train" / "city" / "a.npz", logits=logits(1))
    save(tmp_path / "split" / "val" / "city" / "a.npz", logits=logits(2))
    save(tmp_path / "flat" / "city" / "a.npz", logits=logits(3))
    np.testing.assert_array_equal(read(tmp_path / "split", "city/a"), logits(1))
    np.testing.assert_array_equal(read(tmp_path / "flat", "city/a"), logits(3))
    np.testing.assert_array_equal(read(tmp_path / "split", "train/city/a"), logits(1))


def test_what_is_missing_or_extra_is_said_in_a_line(tmp_path):
    for name in ("a", "b", "c"):
        save(tmp_path / f"{name}.npz", logits=logits())
    answers = open_answers(Stored(tmp_path), 3)
    answers.find("train", Named("a", "b"))
    assert answers.remarks == (f"1 answer in {tmp_path} without an image: c.npz",)
    text = message(lambda: answers.find("train", Named("a", "d", "e")))
    assert "no answer for 2 of 3 train images: d, e" in text


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"logits": np.full((3, 2, 2), np.nan, np.float32)}, "infinite or NaN"),
        ({"logits": np.zeros((3, 2, 2), np.int64)}, "floating point or 8-bit"),
        ({"logits": np.zeros((2, 2), np.float32)}, "[classes, rows, cols]"),
        ({"scores": np.zeros((3, 2, 2), np.float32)}, "must hold logits or probabilities"),
        ({"probabilities": np.ones((3, 2, 2), np.float32)}, "sum to 1"),
        ({"probabilities": np.zeros((3, 2, 2), np.uint8)}, "sum to 1"),
        ({"logits": np.zeros((4, 2, 2), np.float32)}, "4 classes, but other files have 3"),
    ],
)
def test_a_file_that_cannot_be_right_is_named_before_training(tmp_path, arrays, said):
    save(tmp_path / "a.npz", logits=logits())
    save(tmp_path / "b.npz", **arrays)
    answers = open_answers(Stored(tmp_path), 3)
    text = message(lambda: answers.find("train", Named("a", "b")))
    assert said in text
    assert "b.npz" in text


def test_answers_of_other_classes_are_refused(tmp_path):
    save(tmp_path / "a.npz", logits=logits())
    assert "for 3 classes, but 5 are" in message(lambda: read(tmp_path, classes=5))
    Image.fromarray(np.full((8, 8), 7, np.uint8)).save(tmp_path / "a.png")
    assert "keep one of them" in message(lambda: read(tmp_path))
    (tmp_path / "a.npz").unlink()
    assert "holds id 7" in message(lambda: read(tmp_path))
    assert "number of classes is unknown" in message(lambda: read(tmp_path, classes=None))


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"PK not a zip")
    assert "a.npz is damaged" in message(lambda: read(tmp_path))


def test_smoothing_is_for_masks(tmp_path):
    save(tmp_path / "a.npz", logits=logits())
    assert "smoothing" in message(lambda: read(tmp_path, smoothing=0.1))
    assert "smoothing" in message(lambda: Stored(tmp_path, smoothing=1.0))


def test_other_files_make_another_fingerprint(tmp_path):
    save(tmp_path / "a.npz", logits=logits())
    first = open_answers(Stored(tmp_path), 3).fingerprint
    assert open_answers(Stored(tmp_path), 3).fingerprint == first
    save(tmp_path / "b.npz", logits=logits())
    assert open_answers(Stored(tmp_path), 3).fingerprint != first


def test_names_of_scenes_have_their_part_in_them(tmp_path):
    data = scenes(train=1, val=1, size=(32, 48))
    for split in (data.train, data.val):
        save(tmp_path / f"{split.name(0)}.npz", logits=logits())
    answers = open_answers(Stored(tmp_path), 3)
    assert answers.find("train", data.train) == ["train/00000.npz"]
    assert answers.find("val", data.val) == ["val/00000.npz"]
    assert answers.remarks == ()
