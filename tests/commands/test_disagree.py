"""Ranking images without labels by how much a run's teacher and its student differ."""

import csv
import json

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from fakd import cli
from fakd.data import scenes
from fakd.models import pspnet, save

SMALL = ["--schedule.steps=1", "--schedule.batch_size=2", "--augmentation.crop=[32, 48]"]
DATA = ["--data=scenes", "--data.train=4", "--data.val=2", "--data.size=[32, 48]"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = scenes(5, 1, (32, 48))
    for name, seed in (("t", 0), ("s", 1)):
        torch.manual_seed(seed)
        network = pspnet("mobilenetv3_small_050", 12, channels=16)
        # Sure of what it says, as a trained one is.
        network.classifier.weight.data *= 100
        names, palette = data.class_names, data.palette
        save(network, f"{name}.safetensors", class_names=names, palette=palette)
    (tmp_path / "photos" / "trip").mkdir(parents=True)
    for number in range(5):
        pixels = data.train[number].image.permute(1, 2, 0).numpy()
        place = "trip/" if number > 2 else ""
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{place}{number}.png")
    return tmp_path


def distill(teacher, *flags):
    student = ["--student=pspnet", "--student.backbone=mobilenetv3_small_050"]
    student += ["--student.channels=16", "--check_teacher=false", "--run=run"]
    return cli.main(["distill", f"--teacher={teacher}", *student, *DATA, *SMALL, *flags])


def disagree(*flags, run="run", out="next"):
    return cli.main(["disagree", run, "--images=photos", f"--out={out}", *flags])


def rows(folder, out="next"):
    with open(folder / out / "ranking.csv", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_runs_own_teacher_ranks_draws_and_lists(folder, capsys):
    assert distill("t.safetensors") == 0
    assert disagree("--first=2") == 0
    said = capsys.readouterr().out
    assert "5 images, mean score" in said
    assert "most often" in said
    found = rows(folder)
    scores = [float(row["score"]) for row in found]
    assert scores == sorted(scores, reverse=True)
    assert all(0 < score < 1 for score in scores)
    names = scenes(1, 1).class_names
    for row in found:
        assert row["teacher"] != row["student"]
        assert {row["teacher"], row["student"]} <= set(names)
        assert int(row["left"]) + int(row["width"]) <= 48
        assert float(row["region_score"]) >= float(row["score"])
    listed = (folder / "next" / "images.txt").read_text().splitlines()
    assert listed == [str(folder / "photos" / row["image"]) for row in found[:2]]
    tasks = json.loads((folder / "next" / "label-studio.json").read_text())
    place = f"/data/local-files/?d=photos/{found[0]['image']}"
    assert tasks[0] == {"data": {"image": place}}
    lines = (folder / "next" / "cvat.jsonl").read_text().splitlines()
    manifest = [json.loads(line) for line in lines]
    assert manifest[:2] == [{"version": "1.1"}, {"type": "images"}]
    stem = found[0]["image"].removesuffix(".png")
    assert manifest[2] == {"name": stem, "extension": ".png", "width": 48, "height": 32}
    assert len(manifest) == 4
    drawn = sorted((folder / "next" / "overlays").iterdir())
    assert [each.name for each in drawn] == ["0001.png", "0002.png"]


def test_a_network_does_not_differ_from_itself(folder):
    assert disagree("--teacher=s.safetensors", run="s.safetensors") == 0
    assert {float(row["score"]) for row in rows(folder)} == {0.0}
    assert {float(row["differing"]) for row in rows(folder)} == {0.0}
    assert {row["teacher"] for row in rows(folder)} == {""}


@pytest.mark.slow
def test_stored_mapped_and_several_teachers_say_what_the_network_does(folder):
    assert disagree("--teacher=t.safetensors", run="s.safetensors", out="live") == 0
    images = {"train": {"images": "photos/{name}.png"}, "root": "."}
    content = {"classes": list(scenes(1, 1).class_names), **images}
    (folder / "val" / "images").mkdir(parents=True)
    (folder / "val" / "masks").mkdir(parents=True)
    Image.new("RGB", (48, 32)).save(folder / "val" / "images" / "v.png")
    Image.new("L", (48, 32)).save(folder / "val" / "masks" / "v.png")
    (folder / "d.yaml").write_text(yaml.safe_dump(content))
    answer = ["answer", "--teacher=t.safetensors", "--data=d.yaml", "--format=float16"]
    assert cli.main([*answer, "--out=answers"]) == 0
    same = {"classes": {name: [i] for i, name in enumerate(content["classes"])}}
    (folder / "same.yaml").write_text(yaml.safe_dump(same))
    (folder / "two.yaml").write_text("teachers: [answers, t.safetensors]\n")
    assert disagree("--teacher=answers", run="s.safetensors", out="stored") == 0
    mapped = ["--teacher=t.safetensors", "--classes_from=same.yaml"]
    assert disagree(*mapped, run="s.safetensors", out="mapped") == 0
    assert disagree("--teacher=two.yaml", run="s.safetensors", out="two") == 0
    expected = {row["image"]: float(row["score"]) for row in rows(folder, "live")}
    for out in ("stored", "mapped", "two"):
        found = {row["image"]: float(row["score"]) for row in rows(folder, out)}
        assert found == pytest.approx(expected, abs=5e-3)


@pytest.mark.slow
def test_near_copies_wait_until_others_were_chosen(folder):
    assert disagree("--teacher=t.safetensors", run="s.safetensors", out="plain") == 0
    first = rows(folder, "plain")[0]["image"]
    pixels = np.array(Image.open(folder / "photos" / first))
    for number in range(3):
        Image.fromarray(pixels).save(folder / "photos" / f"copy{number}.png")
    assert disagree("--teacher=t.safetensors", run="s.safetensors", out="copies") == 0
    copies = {first, "copy0.png", "copy1.png", "copy2.png"}
    assert {row["image"] for row in rows(folder, "copies")[:4]} == copies
    flags = ["--teacher=t.safetensors", "--diverse", "--first=5"]
    assert disagree(*flags, run="s.safetensors", out="diverse") == 0
    chosen = [row["image"] for row in rows(folder, "diverse")]
    assert len(set(chosen)) == 8
    assert len(copies & set(chosen[:5])) == 1


def test_an_image_that_cannot_be_read_is_named_and_the_others_are_ranked(folder, capsys):
    (folder / "photos" / "1.png").write_bytes(b"no image")
    assert disagree("--teacher=t.safetensors", run="s.safetensors") == 1
    assert "1 of 5 images left out" in capsys.readouterr().err
    assert "1.png" not in [row["image"] for row in rows(folder)]
    assert len(rows(folder)) == 4


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([], "is not the folder of a run"),
        (["--teacher=t.safetensors", "--first=0"], "--first of at least 1"),
        (["--teacher=t.safetensors", "--temperature=0"], "temperature above 0"),
        (["--classes_from=map.yaml"], "--classes_from needs --teacher"),
        (["--teacher=gone"], "gone does not exist"),
        (["--teacher=t.safetensors", "--out=photos/next"], "inside the images"),
        (["--teacher=t.safetensors", "--out=taken"], "taken exists"),
        (["--teacher=t.safetensors", "--images=gone"], "gone does not exist"),
        (["--teacher=t.safetensors", "--images=empty"], "holds no file ending in"),
        (["--teacher=seven.safetensors"], "the teacher has 7 classes, the student 12"),
        (["--teacher=strange"], "has no answer for 5 of 5 train images"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_a_line(folder, capsys, flags, said):
    seven = pspnet("mobilenetv3_small_050", 7, channels=16)
    save(seven, "seven.safetensors", class_names=None, palette=None)
    for name in ("taken", "strange", "empty"):
        (folder / name).mkdir()
    (folder / "taken" / "mine.txt").write_text("mine")
    np.savez(folder / "strange" / "x.npz", logits=np.zeros((12, 4, 6), np.float32))
    before = sorted(folder.rglob("*"))
    assert disagree(*flags, run="s.safetensors") == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert sorted(folder.rglob("*")) == before
