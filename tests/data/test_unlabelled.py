"""Images with and without labels in one training split."""

import os
from collections import Counter
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image

from fakd.data import Augmentation, folder, training_batches
from fakd.data.rare import ClassOccurrence, RareDraw, class_probabilities
from fakd.errors import InputError
from fakd.inspection import inspect_data
from fakd.settings import IGNORE

CROP = Augmentation(crop=(16, 16), scale=(1.0, 1.0), photometric=False)


def draw(path, seed, size=(24, 20)):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)


@pytest.fixture
def root(tmp_path):
    """Ten labelled training images, three for validation, and six without labels."""
    root = tmp_path / "data"
    for split, number, first in (("train", 10, 0), ("val", 3, 100)):
        for each in range(number):
            draw(root / split / "images" / f"{each}.png", first + each)
            mask = root / split / "masks" / f"{each}.png"
            mask.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((20, 24), each % 3, np.uint8)).save(mask)
    for each in range(6):
        draw(root / "more" / "a" / f"{each + 6}.png", 200 + each, (30 + each, 18))
    (root / "dataset.yaml").write_text("classes: [a, b, c]\n")
    return root


def described(root, text):
    (root / "dataset.yaml").write_text(f"classes: [a, b, c]\n{text}\n")
    return folder(root)


def drawn(split, share, batch_size=4, steps=range(30), **more):
    batches = training_batches(
        split, CROP, batch_size, 0, steps.start, steps.stop, unlabelled_share=share, **more
    )
    return [each for batch in batches for each in batch.indices.tolist()]


def test_folders_without_labels_join_the_training_images(root):
    data = described(root, "unlabelled: more")
    assert len(data.train) == 16
    assert data.train.labelled
    assert data.train.labelled_indices() == list(range(10))
    names = [data.train.name(index) for index in range(16)]
    assert len(set(names)) == 16
    assert names[10:] == ["a/10", "a/11", "a/6", "a/7", "a/8", "a/9"]
    assert data.train[10].labels is None
    assert data.train[0].labels is not None


@pytest.mark.parametrize("text", ["unlabelled: more/a", "unlabelled: ['more/{name}.png']"])
def test_a_name_that_is_taken_gets_its_folder(root, text):
    names = {described(root, text).train.name(index) for index in range(16)}
    assert len(names) == 16
    assert {str(each) for each in range(10)} < names


def test_a_flag_names_folders_from_where_the_command_runs(root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = folder("data", unlabelled="data/more/a")
    assert len(data.train) == 16
    assert data.config["init_args"]["unlabelled"] == "data/more/a"
    assert data.fingerprint() == described(root, "unlabelled: more/a").fingerprint()
    assert data.fingerprint() != folder(root, labelled=9).fingerprint()


@pytest.mark.parametrize(("labelled", "number"), [(3, 3), (0.25, 3), (0.3, 3), (10, 10)])
def test_so_many_masks_are_kept(root, labelled, number):
    data = folder(root, labelled=labelled)
    assert len(data.train) == 10
    assert len(data.train.labelled_indices()) == number


def test_fewer_labels_are_among_more(root):
    kept = [set(folder(root, labelled=number).train.labelled_indices()) for number in range(1, 11)]
    assert all(fewer < more for fewer, more in pairwise(kept))


def test_so_many_images_of_each_class_keep_their_masks(root):
    masks = [np.full((50, 60), each % 3, np.uint8) for each in range(10)]
    masks[4][:25] = 2  # shows two classes
    masks[7][0, :2] = 0  # of 3000 pixels, too few to show one
    for each, mask in enumerate(masks):
        draw(root / f"train/images/{each}.png", each, (60, 50))
        Image.fromarray(mask).save(root / f"train/masks/{each}.png")
    numbers = (1, 2, 3, 10)
    kept = [
        set(folder(root, labelled=f"{number} per class").train.labelled_indices())
        for number in numbers
    ]
    assert kept[0] < kept[1] <= kept[2] <= kept[3] == set(range(10))
    assert len(kept[0]) <= 3
    for label in range(3):
        shows = {each for each, mask in enumerate(masks) if (mask == label).mean() >= 1e-3}
        assert all(
            len(shows & chosen) >= min(number, len(shows))
            for number, chosen in zip(numbers, kept, strict=True)
        )
    again = described(root, "labelled: 1 per class").train
    assert set(again.labelled_indices()) == kept[0]


@pytest.mark.parametrize("labelled", [0, 1.5, -1])
def test_what_is_no_number_of_labels_is_refused(root, labelled):
    with pytest.raises(InputError, match="such as '10 per class'"):
        folder(root, labelled=labelled)


def test_a_list_names_the_labelled(root, tmp_path):
    (root / "few.txt").write_text("3\n7\n")
    assert described(root, "labelled: few.txt").train.labelled_indices() == [3, 7]
    with pytest.raises(InputError, match=r"'10 per class', or a file of names, .*10 pro class"):
        folder(root, labelled="10 pro class")
    (root / "few.txt").write_text("3\n77\n")
    with pytest.raises(InputError, match=r"few.txt names 77, which are not images of train"):
        folder(root)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("unlabelled: nowhere", "there is no folder of unlabelled images .*nowhere"),
        ("unlabelled: train/images", "0.png is in both train and unlabelled"),
        ("unlabelled: val/images", "0.png is in both val and unlabelled"),
        ("unlabelled: [more, more/a]", "is in both unlabelled and unlabelled"),
        ("unlabelled: 3", "must name a folder"),
        ("unlabelled: [3]", "must be a list of folders, got 3"),
        ("unlabelled: gone.txt", "cannot read the list .*gone.txt"),
        ("unlabelled: empty.txt", "empty.txt names no image; write one image path per line"),
        (
            "unlabelled: wrong.txt",
            r"wrong.txt names .*more/a/66.png, .*empty.txt, .*are relative to",
        ),
        ("exclude: 3", "exclude must be a list, got 3"),
        (
            "exclude: '77*'\nunlabelled: more",
            r"exclude: 77\* matches no image; names look like 0",
        ),
        ("exclude: 77.png", "exclude: 77.png names 77, but no image has that name"),
        ("exclude: gone.txt", "cannot read the list .*gone.txt"),
        ("exclude: '*'", "exclude leaves no training image"),
        ("except: a", "unknown key 'except'; did you mean 'exclude'"),
        ("labelled: 0", "labelled must be a number of images"),
        ("labelled: 1.5", "labelled must be a number of images"),
        ("labelled: 11", "labelled asks for 11 images, but train has 10"),
        ("labelled: true", "labelled must be a number of images"),
    ],
)
def test_what_cannot_be_is_refused(root, text, reason):
    (root / "empty.txt").write_text("\n")
    (root / "wrong.txt").write_text("more/a/6.png\nmore/a/66.png\nempty.txt\n")
    with pytest.raises(InputError, match=reason):
        described(root, text)


def names_of(data):
    return [data.train.name(index) for index in range(len(data.train))]


@pytest.mark.parametrize(
    ("exclude", "out"),
    [
        ("'a/*'", {"a/10", "a/11", "a/6", "a/7", "a/8", "a/9"}),
        ("a/7.png", {"a/7"}),
        ("['*1*', bad.txt]", {"1", "a/10", "a/11", "3", "a/9"}),
    ],
)
def test_single_training_images_are_left_out_with_and_without_labels(root, exclude, out):
    (root / "bad.txt").write_text("3.png\na/9\n")
    whole = described(root, "unlabelled: more")
    data = described(root, f"unlabelled: more\nexclude: {exclude}")
    assert set(names_of(whole)) - set(names_of(data)) == out
    assert names_of(data) == [name for name in names_of(whole) if name not in out]
    (remark,) = data.remarks
    assert f"{len(out)} training image" in remark
    assert "left out by exclude" in remark
    assert data.fingerprint() != whole.fingerprint()
    assert len(data.val) == len(whole.val)
    kept = described(root, f"unlabelled: more\nexclude: {exclude}\nlabelled: 5").train
    assert len(kept.labelled_indices()) == 5
    found = inspect_data(root).findings
    assert any("left out by exclude" in each.text for each in found)


def test_a_flag_leaves_out_what_it_names_from_where_the_command_runs(root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.txt").write_text("a/6\n")
    data = folder("data", unlabelled="data/more", exclude=["*8.png", "bad.txt"])
    assert {"8", "a/8", "a/6"}.isdisjoint(names_of(data))
    assert len(data.train) == 13
    assert data.config["init_args"]["exclude"] == ["*8.png", "bad.txt"]


def test_a_list_names_the_files_without_labels(root, tmp_path, monkeypatch):
    (root / "more" / "keep.txt").write_text("a/9.png\n./a/6.png\n\n")
    assert names_of(described(root, "unlabelled: more/keep.txt"))[10:] == ["more/a/6", "more/a/9"]
    draw(root / "more" / "b" / "x.png", 5)
    (root / "more" / "keep.txt").write_text(f"{root / 'more/a/9.png'}\nb/x.png\n")
    assert names_of(described(root, "unlabelled: more/keep.txt"))[10:] == ["a/9", "b/x"]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.txt").write_text("data/more/a/10.png\n")
    assert names_of(folder("data", unlabelled="mine.txt"))[10:] == ["a/9", "b/x", "10"]


def test_images_of_both_splits_are_named(root):
    section = "{images: 'train/images/{name}.png', masks: 'train/masks/{name}.png'}"
    data = described(root, f"val: {section}")
    assert any("10 images are in both train and val" in each for each in data.remarks)
    assert not any("both train and val" in each for each in described(root, "").remarks)


def test_copies_of_validation_images_and_files_of_other_parts_are_left_out_and_said(root):
    before = described(root, "unlabelled: more")
    names = [before.train.name(index) for index in range(len(before.train))]
    assert not before.remarks
    copy = root / "more" / "a" / "copy.png"
    copy.write_bytes((root / "val/images/1.png").read_bytes())
    (root / "more" / "aa.png").symlink_to(root / "val" / "images" / "0.png")
    (root / "more" / "zz.png").symlink_to(root / "train" / "images" / "3.png")
    data = described(root, "unlabelled: more")
    assert [data.train.name(index) for index in range(len(data.train))] == names
    assert data.fingerprint() == before.fingerprint()
    assert data.remarks == (
        f"1 unlabelled image is left out, also in val ({root / 'more/aa.png'})",
        f"1 unlabelled image is left out, also in train ({root / 'more/zz.png'})",
        f"1 unlabelled image is left out, identical to images of val ({copy})",
    )


@pytest.mark.parametrize("share", [0.0, 0.125, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_the_share_is_exact_and_each_kind_comes_evenly(root, share, batch_size):
    split = described(root, "unlabelled: more").train
    steps = range(240 // batch_size)
    indices = drawn(split, share, batch_size, steps)
    unlabelled = [index for index in indices if index >= 10]
    assert len(unlabelled) == int(240 * Fraction(str(share)))
    for kind, size in (([i for i in indices if i < 10], 10), (unlabelled, 6)):
        counts = Counter(kind)
        assert not kind or len(counts) == size
        assert not kind or max(counts.values()) - min(counts.values()) <= 1
    flags = np.array([index >= 10 for index in indices]).cumsum()
    assert np.abs(flags - share * np.arange(1, 241)).max() < 1


def test_ranks_workers_and_resumption_change_nothing(root):
    split = described(root, "unlabelled: more").train
    whole = drawn(split, 0.3)
    assert drawn(split, 0.3, workers=2) == whole
    assert drawn(split, 0.3, steps=range(7, 30)) == whole[28:]
    ranks = [drawn(split, 0.3, rank=rank, world=2) for rank in range(2)]
    joined = [ranks[(place // 2) % 2][place // 4 * 2 + place % 2] for place in range(120)]
    assert joined == whole


def test_without_a_share_all_images_are_alike(root):
    split = described(root, "unlabelled: more").train
    assert sorted(drawn(split, None, steps=range(4))) == list(range(16))


def test_nothing_changes_where_all_are_labelled(root):
    split = folder(root).train
    assert drawn(split, None) == drawn(split, 0.0)
    with pytest.raises(InputError, match=r"unlabelled_share 0.5 needs unlabelled training images"):
        drawn(split, 0.5)


def test_an_unlabelled_image_has_no_label_in_a_batch(root):
    split = described(root, "unlabelled: more").train
    (batch,) = training_batches(split, CROP, 8, 0, 0, 1, unlabelled_share=0.5)
    assert batch.labelled.tolist() == [index < 10 for index in batch.indices]
    assert all(
        (batch.labels[place] == IGNORE).all() for place in range(8) if not batch.labelled[place]
    )
    assert not (batch.labels[batch.labelled] == IGNORE).any()
    assert isinstance(batch.labels, torch.Tensor)


def shown(split):
    """Class 0 in every image, 1 in a few, 2 in one of each kind."""
    shows = np.zeros((len(split), 3), bool)
    shows[:, 0] = True
    shows[[1, 4, 11], 1] = True
    shows[[7, 13], 2] = True
    return ClassOccurrence(shows, np.array([[8000, 1500, 500], [7000, 2000, 1000]]))


@pytest.mark.parametrize("temperature", [0.1, 1.0])
@pytest.mark.parametrize(
    ("among", "rows"), [(range(16), [0, 1]), (range(10), [1]), (range(10, 16), [0])]
)
def test_rare_classes_come_as_often_as_their_formula_says(among, rows, temperature):
    given, total = shown(range(16)), 4000
    draw = RareDraw(given, temperature, 0, {1: (np.array(among), rows)})
    drawn = (draw.order(1, number) for number in range(total))
    counts = Counter(images[place] for images, place in drawn)
    pixels = given.pixels[rows].sum(0)
    weights = np.exp((1 - pixels / pixels.sum()) / temperature)
    expected = np.zeros(16)
    for chance, column in zip(weights / weights.sum(), given.shows.T, strict=True):
        members = [each for each in among if column[each]]
        expected[members] += chance / len(members)
    assert counts.keys() <= set(among)
    for index in among:
        error = 4 * np.sqrt(expected[index] * (1 - expected[index]) / total) + 1e-9
        assert counts[index] / total == pytest.approx(expected[index], abs=error)


def test_the_smaller_the_temperature_the_more_of_the_rarest():
    pixels = np.array([900, 90, 10])
    even, sharp = (class_probabilities(pixels, each) for each in (100.0, 0.01))
    assert even == pytest.approx([1 / 3] * 3, abs=0.01)
    assert sharp[2] > 0.999


def test_ranks_workers_and_resumption_change_no_rare_draw(root):
    split = described(root, "unlabelled: more").train
    rare = shown(split), 0.1
    whole = drawn(split, 0.25, steps=range(12), rare=rare)
    later = drawn(split, 0.25, steps=range(5, 12), workers=2, rare=rare)
    assert later == whole[20:]
    ranks = [drawn(split, 0.25, steps=range(12), rank=r, world=2, rare=rare) for r in (0, 1)]
    joined = [ranks[r][2 * step + i] for step in range(12) for r in (0, 1) for i in (0, 1)]
    assert joined == whole


def test_files_are_looked_at_once(root, monkeypatch):
    counted, stat = Counter(), os.stat

    def counting(path, **options):
        counted[str(path)] += 1
        return stat(path, **options)

    monkeypatch.setattr(os, "stat", counting)
    data = described(root, "unlabelled: more")
    data.fingerprint()
    data.train.stamp(12)
    assert {counted[str(root / "more" / "a" / f"{each + 6}.png")] for each in range(6)} == {1}


def test_what_is_kept_of_many_files_is_what_pairs_say(root):
    (root / "more" / "b").mkdir()
    draw(root / "more" / "b" / "\u00e9.png", 1)
    draw(root / "other" / "0.png", 2)
    train = described(root, "unlabelled: [more, other]").train
    names = [train.name(index) for index in range(len(train))]
    expected = ["a/10", "a/11", "a/6", "a/7", "a/8", "a/9", "b/\u00e9", "other/0"]
    assert names[10:] == expected
    assert [pair.image for pair in train.pairs[16:]] == [
        root / "more" / "b" / "\u00e9.png",
        root / "other" / "0.png",
    ]
    lines = list(train.identity())
    assert lines[-1] == f"other/0.png {(root / 'other' / '0.png').stat().st_size}"
    assert lines[-8].startswith("more/a/10.png ")
