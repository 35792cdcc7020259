"""Evaluating and predicting through the real command line."""

import json
import os
import signal
from dataclasses import asdict

import numpy as np
import pytest
import tifffile
from PIL import Image

import fakd
from fakd import models
from fakd.cli import main
from fakd.inference import predict_classes
from fakd.metrics import Scores, confusion_matrix
from fakd.settings import Inference

DATA = ["--data=scenes", "--data.train=4", "--data.val=3", "--data.size=[32,48]"]


@pytest.fixture
def weights(tmp_path, tiny_network, tiny_data):
    path = tmp_path / "network.safetensors"
    names, palette = tiny_data.class_names, tiny_data.palette
    models.save(tiny_network, path, class_names=names, palette=palette)
    return path


def pixels(path):
    with Image.open(path) as picture:
        return np.array(picture)


OWN = """
import fakd

def mine(size: int):
    return fakd.data.scenes(train=4, val=3, size=(32, size))
"""


def test_data_may_be_a_function_in_a_file(weights, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_data.py").write_text(OWN)
    given = ["evaluate", f"--network={weights}"]
    assert main([*given, "--data=own_data.py:mine", "--data.size=48"]) == 0
    assert main([*given, *DATA]) == 0
    first, second = capsys.readouterr().out.split("mIoU")[1:]
    assert first.split()[0] == second.split()[0]
    assert main([*given, "--data=own_data.py:main"]) == 2
    assert "did you mean mine?" in capsys.readouterr().err


def test_evaluate_prints_and_writes_the_scores_of_one_matrix(weights, tmp_path, capsys):
    out = tmp_path / "scores.json"
    assert main(["evaluate", f"--network={weights}", *DATA, f"--out={out}"]) == 0
    network, data = fakd.load(weights), fakd.data.scenes(4, 3, (32, 48))
    matrix = sum(
        confusion_matrix(
            predict_classes(network, sample.image[None], Inference())[0], sample.labels, 12
        )
        for sample in data.val
    )
    written = json.loads(out.read_text())
    scores = Scores.from_matrix(matrix)
    assert written["miou"] == pytest.approx(100 * scores.miou, abs=1e-3)
    iou = [entry["iou"] for entry in written["classes"].values()]
    expected = [None if value != value else 100 * value for value in scores.iou.tolist()]
    assert iou == [pytest.approx(value, abs=1e-3) for value in expected]
    printed = capsys.readouterr().out
    assert "mIoU" in printed
    assert all(name in printed for name in data.class_names)


def test_predict_writes_masks_and_overlays_and_nothing_twice(weights, tmp_path, tiny_data, capsys):
    photos, out = tmp_path / "photos", tmp_path / "out"
    (photos / "trip").mkdir(parents=True)
    for name, sample in zip(("a.png", "trip/b.jpg"), tiny_data.val, strict=False):
        Image.fromarray(sample.image.permute(1, 2, 0).numpy()).save(photos / name)
    arguments = ["predict", f"--network={weights}", f"--images={photos}", f"--out={out}"]
    assert main(arguments) == 0
    with Image.open(out / "masks" / "a.png") as mask:
        assert mask.mode == "P"
        assert mask.getpalette()[:3] == list(tiny_data.palette[0])
    said = predict_classes(fakd.load(weights), tiny_data.val[0].image[None], Inference())[0]
    assert np.array_equal(pixels(out / "masks" / "a.png"), said.numpy())
    assert (out / "masks" / "trip" / "b.png").is_file()
    assert pixels(out / "overlays" / "trip" / "b.jpg").shape == (32, 48, 3)
    assert main(arguments) == 2
    assert "2 of 2 masks do" in capsys.readouterr().err
    assert main([*arguments, "--overwrite=true"]) == 0


@pytest.fixture
def shots(tmp_path, tiny_data):
    folder = tmp_path / "photos"
    folder.mkdir()
    for index, name in enumerate("abc"):
        image = tiny_data.train[index].image.permute(1, 2, 0).numpy()
        Image.fromarray(image).save(folder / f"{name}.png")
    return folder


def stopping(monkeypatch, number, after=1):
    """Let a signal come while the network sees an image; list what it saw."""
    seen = []

    def seeing(network, images, inference):
        seen.append(images)
        if len(seen) == after:
            os.kill(os.getpid(), number)
        return predict_classes(network, images, inference)

    monkeypatch.setattr("fakd.inference.predict_classes", seeing)
    return seen


def test_predict_goes_on_where_it_was_stopped(weights, tmp_path, shots, monkeypatch, capfd):
    out = tmp_path / "out"
    arguments = ["predict", f"--network={weights}", f"--images={shots}", f"--out={out}"]
    with monkeypatch.context() as patch:
        stopping(patch, signal.SIGTERM)
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
    assert stopped.value.code == 128 + signal.SIGTERM
    said = "stopped by SIGTERM after 1 of 3 images; the same command resumes there"
    assert said in capfd.readouterr().err
    assert [path.name for path in (out / "masks").iterdir()] == ["a.png"]
    # Others do not take what is there for theirs.
    for other, named in (("--inference.flip=true", "inference.flip"), ("--overlays=false", "over")):
        assert main([*arguments, other]) == 2
        assert f"made with {named}" in capfd.readouterr().err
    with monkeypatch.context() as patch:
        seen = stopping(patch, signal.SIGTERM, after=9)
        assert main(arguments) == 0
    assert len(seen) == 2
    assert "3 images segmented" in capfd.readouterr().out
    assert sorted(path.name for path in out.iterdir()) == ["masks", "overlays"]
    assert main(arguments) == 2
    assert main([*arguments[:-1], f"--out={tmp_path / 'whole'}"]) == 0
    for name in ("masks/a.png", "masks/b.png", "masks/c.png", "overlays/b.jpg"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_what_predict_overwrites_is_never_taken_for_done(weights, tmp_path, shots, monkeypatch):
    out = tmp_path / "out"
    arguments = ["predict", f"--network={weights}", f"--images={shots}", f"--out={out}"]
    assert main(arguments) == 0
    anew = [*arguments, "--overwrite=true", "--inference.flip=true"]
    with monkeypatch.context() as patch:
        stopping(patch, signal.SIGINT)
        assert main(anew) == 130
    with monkeypatch.context() as patch:
        seen = stopping(patch, signal.SIGINT, after=9)
        assert main(anew) == 0
    assert len(seen) == 2


def test_predict_reads_images_as_the_training_of_its_network_did(tiny_network, tmp_path, tiny_data):
    photo, twelve = tmp_path / "a.png", tmp_path / "b.tif"
    pixels_of = tiny_data.val[0].image.permute(1, 2, 0).numpy()
    Image.fromarray(pixels_of).save(photo)
    levels = fakd.data.layout.Levels(range=(0.0, 4095.0), bands=(3, 2, 1))
    tifffile.imwrite(twelve, pixels_of[..., ::-1].astype(np.uint16) * 16 + 7, photometric="rgb")
    plain, aware = tmp_path / "plain.safetensors", tmp_path / "aware.safetensors"
    models.save(tiny_network, plain, class_names=None, palette=None)
    models.save(
        tiny_network, aware, class_names=None, palette=None, extra={"levels": asdict(levels)}
    )
    flags = ["--levels.range=[0,4095]", "--levels.bands=[3,2,1]"]
    for out, *arguments in (
        ("photo", f"--network={plain}", f"--images={photo}"),
        ("known", f"--network={aware}", f"--images={twelve}"),
        ("given", f"--network={plain}", f"--images={twelve}", *flags),
        ("dark", f"--network={plain}", f"--images={twelve}"),
    ):
        assert main(["predict", *arguments, f"--out={tmp_path / out}"]) == 0
    photographed = pixels(tmp_path / "photo/masks/a.png")
    assert np.array_equal(pixels(tmp_path / "known/masks/b.png"), photographed)
    assert np.array_equal(pixels(tmp_path / "given/masks/b.png"), photographed)
    assert not np.array_equal(pixels(tmp_path / "dark/masks/b.png"), photographed)


def photos(folder, tiny_data, *names):
    for name, sample in zip(names, tiny_data.val, strict=False):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(sample.image.permute(1, 2, 0).numpy()).save(path, format="PNG")
    return folder


def test_predict_says_which_files_it_leaves_out(weights, tmp_path, tiny_data, capsys):
    folder = photos(tmp_path / "p", tiny_data, "a.png", "b.heic", ".trash/c.png", "[d].txt")
    arguments = ["predict", f"--network={weights}", f"--images={folder}", f"--out={tmp_path / 'o'}"]
    assert main(arguments) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "1 image segmented" in printed
    assert f"2 files of other kinds left out ({folder}/[d].txt, {folder}/b.heic)" in printed


def test_predict_does_all_images_but_those_it_cannot_read(weights, tmp_path, tiny_data, capsys):
    folder, out = photos(tmp_path / "p", tiny_data, "a.png", "b.png", "c.png"), tmp_path / "out"
    (folder / "b.png").write_bytes(b"")
    arguments = ["predict", f"--network={weights}", f"--images={folder}", f"--out={out}"]
    assert main(arguments) == 1
    said = capsys.readouterr()
    assert "2 images segmented" in said.out
    assert f"1 of 3 images left out: cannot decode {folder / 'b.png'}" in said.err
    assert sorted(path.name for path in out.rglob("*.*")) == ["a.jpg", "a.png", "c.jpg", "c.png"]


def test_batches_of_images_change_neither_scores_nor_masks(weights, tmp_path, tiny_data):
    """Images of two sizes in turns, one that cannot be read, and a last batch that is not full."""
    folder, scores = tmp_path / "p", []
    folder.mkdir()
    for number in range(7):
        image = tiny_data.val[number % len(tiny_data.val)].image[:, : 32 - 8 * (number % 2)]
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{number}.png")
    (folder / "4.png").write_bytes(b"")
    for count in (1, 3):
        more = [f"--network={weights}", f"--inference.batch_size={count}"]
        out = tmp_path / f"{count}.json"
        assert main(["evaluate", *more, *DATA, f"--out={out}"]) == 0
        scores.append(json.loads(out.read_text()))
        out = tmp_path / f"{count}"
        assert main(["predict", *more, f"--images={folder}", f"--out={out}"]) == 1
    assert scores[0]["miou"] == pytest.approx(scores[1]["miou"], abs=1e-3)
    names = sorted(path.name for path in (tmp_path / "1" / "masks").iterdir())
    assert names == [f"{number}.png" for number in (0, 1, 2, 3, 5, 6)]
    for name in names:
        one, three = (pixels(tmp_path / f"{count}" / "masks" / name) for count in (1, 3))
        assert one.shape == three.shape
        assert (one != three).sum() <= 2


@pytest.mark.parametrize("out", ["p/out", "p", "p/../p/x", "link/y", "."])
def test_predict_never_writes_among_the_images(weights, tmp_path, tiny_data, capsys, out):
    folder = photos(tmp_path / "p", tiny_data, "a.png")
    (tmp_path / "link").symlink_to(folder)
    if out == ".":
        folder = folder.rename(tmp_path / "masks")
    before = sorted(tmp_path.rglob("*"))
    arguments = ["predict", f"--network={weights}", f"--images={folder}", f"--out={tmp_path / out}"]
    assert main(arguments) == 2
    assert "is inside the images" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def test_predict_takes_names_of_any_bytes_and_of_full_length(weights, tmp_path, tiny_data):
    names = [os.fsdecode(b"caf\xe9.png"), "x" * 251 + ".png", "\u00e9" * 125 + ".png"]
    folder = photos(tmp_path / "p", tiny_data, *names)
    arguments = ["predict", f"--network={weights}", f"--images={folder}", f"--out={tmp_path / 'o'}"]
    assert main(arguments) == 0
    assert {path.name for path in (tmp_path / "o/masks").iterdir()} == set(names)


def test_predict_names_a_truncated_image(weights, tmp_path, tiny_data, capsys):
    photo = tmp_path / "cut.jpg"
    Image.fromarray(tiny_data.val[0].image.permute(1, 2, 0).numpy()).save(photo)
    photo.write_bytes(photo.read_bytes()[:400])
    assert main(["predict", f"--network={weights}", f"--images={photo}", f"--out={tmp_path}"]) == 2
    assert "cut.jpg" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["train", "distill", "evaluate", "predict", "demo"])
def test_help_teaches_every_command(command, capsys):
    assert main([command, "--help"]) == 0
    text = capsys.readouterr().out
    assert "--run" in text or "--network" in text
    assert "Args:" not in text


def test_the_overview_names_every_command(capsys):
    assert main([]) == 0
    text = capsys.readouterr().out
    assert all(word in text for word in ("demo", "train", "distill", "evaluate", "predict"))
    assert main(["--version"]) == 0
    assert fakd.__version__ in capsys.readouterr().out


def test_help_for_a_network_lists_its_flags(capsys):
    assert main(["distill", "--student.help", "pspnet"]) == 0
    text = capsys.readouterr().out
    assert "--student.backbone" in text
    assert "--student.classes" not in text


def test_print_config_is_a_recipe(capsys, tmp_path):
    arguments = ["train", "--network=pspnet", "--network.backbone=resnet18", *DATA, "--run=x"]
    with pytest.raises(SystemExit):
        main([*arguments, "--print_config"])
    text = capsys.readouterr().out
    assert "learning_rate: null" in text
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(SystemExit):
        main(["train", f"--recipe={tmp_path / 'r.yaml'}", "--print_config"])
    assert capsys.readouterr().out == text
