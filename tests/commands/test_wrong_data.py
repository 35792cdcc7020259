"""Data that teach or test nothing: refused before the first step, by every command alike."""

import numpy as np
import pytest
import torch
from PIL import Image

from fakd import models
from fakd.cli import main
from fakd.data import folder
from fakd.errors import InputError
from fakd.inspection.readiness import require_labels

NETWORK = [".backbone=mobilenetv3_small_050", ".channels=8"]
MASK = np.repeat(np.arange(3, dtype=np.uint8), 16 * 16).reshape(48, 16)


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Four images to train on and two for validation, of three classes."""
    monkeypatch.setenv("FAKD_CACHE", "off")
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 2)):
        for number in range(count):
            pixels = random.integers(0, 255, (*MASK.shape, 3), dtype=np.uint8)
            for kind, content in (("images", pixels), ("masks", MASK)):
                path = tmp_path / "data" / split / kind / f"{split}{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(content).save(path)
    (tmp_path / "data/dataset.yaml").write_text("classes: [road, car, tree]\n")
    return tmp_path / "data"


@pytest.fixture
def teacher(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "teacher.safetensors"
    network = models.pspnet("mobilenetv3_small_050", 3, channels=8)
    models.save(network, path, class_names=None, palette=None)
    return path


def run(command, teacher, *more):
    settings = [
        *("--schedule.steps=2", "--schedule.batch_size=2", "--augmentation.crop=[16,16]"),
        *("--hardware.accelerator=cpu", "--data=data", "--run=run", *more),
    ]
    arguments = {
        "train": ["--network=pspnet", *(f"--network{each}" for each in NETWORK), *settings],
        "evaluate": [f"--network={teacher}", "--data=data", "--accelerator=cpu", *more],
    }
    student = ["--student=pspnet", *(f"--student{each}" for each in NETWORK)]
    arguments["distill"] = [f"--teacher={teacher}", *student, "--check_teacher=false", *settings]
    arguments["compare"] = [f"--teacher={teacher}", *student, *settings]
    return main([command, *arguments[command]])


def refused(capsys, command, teacher, *more):
    assert run(command, teacher, *more) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("fakd: error: ")
    assert "\n" not in error
    return error


def masks(data, split, pixels):
    for path in (data / split / "masks").iterdir():
        Image.fromarray(pixels).save(path)


def test_sound_labels_raise_no_doubt(data):
    assert require_labels(folder(data)) == []


def test_a_misnamed_folder_of_masks_is_named(data, teacher, capsys):
    (data / "train/masks").rename(data / "train/labels")
    for command in ("train", "compare"):
        error = refused(capsys, command, teacher)
        assert "train has no masks" in error
        assert "data/train/masks" in error
        assert "holds images, labels" in error
    assert "train has no masks" in refused(capsys, "evaluate", teacher, "--split=train")
    assert not (data.parent / "run").exists()
    assert run("distill", teacher) == 0
    printed = capsys.readouterr().out
    assert "warning: train has no masks: there is no data/train/masks" in printed
    assert "images, labels" in printed


@pytest.mark.parametrize("split", ["train", "val"])
def test_labels_that_are_all_ignored_are_refused(data, teacher, capsys, split):
    masks(data, split, np.full_like(MASK, 255))
    for command in ("train", "distill", "compare"):
        error = refused(capsys, command, teacher)
        assert f"{split} of data: every pixel is ignored" in error
        assert f"{split}0.png and" in error
    assert "every pixel is ignored" in refused(capsys, "evaluate", teacher, f"--split={split}")
    assert not (data.parent / "run").exists()


@pytest.mark.parametrize("split", ["train", "val"])
def test_black_and_white_masks_are_refused_until_it_is_said_what_white_means(data, split, capsys):
    masks(data, split, np.where(MASK > 1, 255, 0).astype(np.uint8))
    with pytest.raises(InputError, match=r"'ids: \{0: road, 255: tree\}'.*'ignore: \[255\]'"):
        require_labels(folder(data))
    (data / "dataset.yaml").write_text("classes: [road, car, tree]\nignore: [255]\n")
    (doubt,) = require_labels(folder(data))
    assert doubt.startswith(f"{split}: every labelled pixel is road")
    (data / "dataset.yaml").write_text(
        "classes: [road, car, tree]\nids: {0: 0, 1: 1, 255: 2, 2: 2}"
    )
    assert require_labels(folder(data)) == []


def test_labels_of_one_class_are_doubted(data, teacher, capsys):
    masks(data, "val", np.zeros_like(MASK))
    assert run("evaluate", teacher) == 0
    assert "warning: val: every labelled pixel is road" in capsys.readouterr().out
    (data / "dataset.yaml").write_text("classes: [road]\nothers: ignore\n")
    assert require_labels(folder(data)) == []


def test_few_masks_are_read_where_they_are_as_they_should_be(data, monkeypatch):
    opened, read = folder(data), []
    for split in (opened.train, opened.val):
        reader = split.pairs[0].reader
        counted = reader.count_values
        monkeypatch.setattr(
            reader, "count_values", lambda path, of=counted: read.append(path) or of(path)
        )
    require_labels(opened)
    assert len(read) == 2


def test_a_rare_class_is_found_however_late_it_comes(data):
    masks(data, "train", np.zeros_like(MASK))
    Image.fromarray(MASK).save(data / "train/masks/train2.png")
    assert require_labels(folder(data)) == []


def test_broken_files_are_left_to_training_where_it_skips_them(data):
    for path in (data / "train/masks").iterdir():
        if path.name != "train3.png":
            path.write_bytes(b"")
    assert require_labels(folder(data), skip=True) == []
    with pytest.raises(InputError, match="cannot decode"):
        require_labels(folder(data))


def test_a_split_of_the_users_own_is_looked_at_too(tiny_data):
    assert require_labels(tiny_data) == []


def test_a_run_that_is_refused_before_it_saves_leaves_no_folder(data, teacher, capsys):
    # Of four masks the first to be looked at is sound.
    for number in (1, 2, 3):
        Image.fromarray(MASK + 9).save(data / f"train/masks/train{number}.png")
    error = refused(capsys, "train", teacher)
    assert "train/masks/train" in error
    assert "does not know" in error
    assert not (data.parent / "run").exists()
