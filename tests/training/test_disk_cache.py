"""Decoded samples on disk: the same samples, made once, never half done or out of date."""

import json
import multiprocessing
import os
import pickle
import signal
from dataclasses import replace
from io import StringIO

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

import fakd
from fakd import signals
from fakd.data import Sample, SegmentationData, Split
from fakd.errors import InputError
from fakd.models import pspnet
from fakd.runs.folder import FINAL
from fakd.settings import IGNORE, Augmentation, Hardware, Intervals, Schedule
from fakd.signals import Interrupted
from fakd.training.disk_cache import cache_on_disk
from stand_ins import message


class Files(Split):
    """Samples of several sizes, some without labels, one broken; counts what is decoded."""

    labelled = True

    def __init__(self, log, state="first", broken=5):
        self.log, self.state, self.broken = log, state, broken

    def __len__(self):
        return 7

    def __getitem__(self, index):
        with self.log.open("a") as file:
            file.write(f"{index}\n")
        if index == self.broken:
            raise InputError("sample 5 is broken")
        draw = torch.Generator().manual_seed(index)
        image = torch.randint(256, (3, 4 + index, 6), generator=draw).to(torch.uint8)
        labels = torch.randint(IGNORE, 3, (4 + index, 6), generator=draw).to(torch.int16)
        return Sample(image, None if index == 2 else labels, f"sample {index}")

    def is_labelled(self, index):
        return index != 2

    def identity(self):
        yield self.state


@pytest.fixture
def data(tmp_path):
    return data_of(Files(tmp_path / "log"))


def data_of(split):
    names, palette = ("a", "b", "c"), ((1, 1, 1), (2, 2, 2), (3, 3, 3))
    return SegmentationData("made up", names, palette, split, split)


def opened(data, folder, cache=1.0, said=None):
    hardware = Hardware(cache=cache, cache_folder=str(folder))
    console = Console(file=said or StringIO(), width=200)
    return cache_on_disk(data, hardware, console)[0]


def reads(data):
    log = data.train.log
    count = len(log.read_text().splitlines()) if log.exists() else 0
    log.unlink(missing_ok=True)
    return count


def test_samples_are_the_same_and_decoded_once_for_all_processes(data, tmp_path):
    said = StringIO()
    split = opened(data, tmp_path / "cache", said=said)
    assert "decoding 7 samples" in said.getvalue()
    assert "GB in " in said.getvalue()
    assert reads(data)
    for each in (split, pickle.loads(pickle.dumps(split)), opened(data, tmp_path / "cache")):
        for index in (0, 1, 2, 3, 4, 6):
            one, other = each[index], data.train[index]
            assert torch.equal(one.image, other.image)
            assert one.name == other.name
            assert (one.labels is None) == (other.labels is None) == (not each.is_labelled(index))
            assert one.labels is None or torch.equal(one.labels, other.labels)
            one.image.zero_()  # changes the caller's copy alone
        assert reads(data) == 6
        with pytest.raises(InputError, match="sample 5 is broken"):
            each[5]
        assert reads(data) == 1
    assert len(split) == 7
    assert list(split.identity()) == ["first"]


def test_several_processes_at_once_decode_once(data, tmp_path):
    fork = multiprocessing.get_context("fork")
    others = [fork.Process(target=opened, args=(data, tmp_path / "cache")) for _ in range(3)]
    for each in others:
        each.start()
    for each in others:
        each.join()
    assert [each.exitcode for each in others] == [0, 0, 0]
    # Seven to estimate the size, and seven to keep.
    assert reads(data) == 14


def test_data_that_changed_are_decoded_anew(data, tmp_path):
    opened(data, tmp_path / "cache")
    reads(data)
    changed = data_of(Files(data.train.log, state="second"))
    opened(changed, tmp_path / "cache")
    assert reads(data) == 14


def the_folder(place):
    (folder,) = (each for each in place.iterdir() if each.is_dir())
    return folder


@pytest.mark.parametrize("file", ["index.json", "samples.bin"])
@pytest.mark.parametrize("how", ["cut", "gone"])
def test_what_is_not_whole_is_made_again(data, tmp_path, file, how):
    opened(data, tmp_path / "cache")
    path = the_folder(tmp_path / "cache") / file
    content = path.read_bytes()
    path.unlink()
    if how == "cut":
        path.write_bytes(content[:-3])
    reads(data)
    opened(data, tmp_path / "cache")
    assert reads(data) == 14
    assert path.read_bytes() == content


def test_a_sample_that_is_damaged_is_refused(data, tmp_path):
    split = opened(data, tmp_path / "cache")
    path = the_folder(tmp_path / "cache") / "samples.bin"
    content = bytearray(path.read_bytes())
    content[2] ^= 1
    path.write_bytes(content)
    said = message(lambda: split[0])
    assert "is damaged at sample 0" in said
    assert f"delete {path.parent}" in said
    assert split[1].name == "sample 1"


def test_no_more_is_kept_than_is_allowed(data, tmp_path):
    bytes_of_all = sum(5 * (4 + index) * 6 for index in (0, 1, 3, 4, 6)) + 3 * 6 * 6
    half = bytes_of_all / 2**30  # for both parts of the data
    split = opened(data, tmp_path / "cache", cache=half)
    assert (the_folder(tmp_path / "cache") / "samples.bin").stat().st_size <= bytes_of_all / 2
    reads(data)
    for index in (0, 1, 2, 3, 4, 6):
        assert torch.equal(split[index].image, Files(tmp_path / "other")[index].image)
    assert 0 < reads(data) < 6
    opened(data, tmp_path / "cache", cache=half / 2)
    assert reads(data) == 0
    opened(data, tmp_path / "cache", cache=half * 2)
    assert reads(data) == 14


def test_a_disk_without_room_is_refused(data, tmp_path, monkeypatch):
    from fakd.training import disk_cache as module

    usage = replace_free(0)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: usage)
    assert "has 0.0 GB free" in message(lambda: opened(data, tmp_path / "cache"))
    assert not [each for each in (tmp_path / "cache").iterdir() if each.is_dir()]


def replace_free(free):
    from collections import namedtuple

    return namedtuple("Usage", "total used free")(10, 10, free)


def test_a_signal_leaves_nothing_half_done(data, tmp_path):
    class Noting(Files):
        def __getitem__(self, index):
            if index == 6:
                os.kill(os.getpid(), signal.SIGUSR1)
            return super().__getitem__(index)

    with signals.listening(lambda number: None), pytest.raises(Interrupted):
        opened(data_of(Noting(data.train.log)), tmp_path / "cache")
    left = [each for each in (tmp_path / "cache").iterdir() if each.suffix != ".lock"]
    assert not left


def test_runs_on_decoded_images_end_in_the_same_weights(tmp_path):
    root = tmp_path / "data"
    for part in ("train", "val"):
        for number in range(4):
            for kind in ("images", "masks"):
                (root / part / kind).mkdir(parents=True, exist_ok=True)
            drawn = np.random.default_rng(number)
            image = drawn.integers(256, size=(40, 56, 3), dtype=np.uint8)
            Image.fromarray(image).save(root / part / "images" / f"{number}.png")
            mask = drawn.integers(2, size=(40, 56), dtype=np.uint8)
            Image.fromarray(mask).save(root / part / "masks" / f"{number}.png")
    (root / "dataset.yaml").write_text(
        "classes: [ground, sky]\n"
        "train: {images: 'train/images/{name}.png', masks: 'train/masks/{name}.png'}\n"
        "val: {images: 'val/images/{name}.png', masks: 'val/masks/{name}.png'}\n"
    )
    plain = Hardware(accelerator="cpu", threads=1)
    cached = replace(plain, cache_folder=str(tmp_path / "cache"))
    weights = []
    for name, hardware in (("plain", plain), ("decoded", cached), ("workers", cached)):
        torch.manual_seed(0)
        fakd.train(
            pspnet("mobilenetv3_small_050", 2, channels=16),
            root,
            tmp_path / name,
            Schedule(steps=2, batch_size=2, learning_rate=0.05),
            augmentation=Augmentation(crop=(32, 32)),
            hardware=replace(hardware, workers=int(name == "workers"), prefetch=1),
            intervals=Intervals(evaluate=2),
        )
        weights.append((tmp_path / name / FINAL).read_bytes())
    assert weights[0] == weights[1] == weights[2]
    folders = [each for each in (tmp_path / "cache").iterdir() if each.is_dir()]
    assert len(folders) == 2
    index = json.loads((folders[0] / "index.json").read_text())
    assert index["all"]
