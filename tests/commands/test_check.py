"""`fakd data check` prints what it found, draws it, and writes nothing beside the data."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fakd.cli import main
from fakd.commands.check import check
from fakd.data import folder
from fakd.errors import InputError

HALVES = np.tile(np.array([0, 1, 1, 255], np.uint8), (30, 10))


def write(root, split: str, count: int = 5, mask: np.ndarray = HALVES) -> None:
    random = np.random.default_rng(len(split))
    for number in range(count):
        for kind, pixels in (
            ("images", random.integers(0, 255, (30, 40, 3), dtype=np.uint8)),
            ("masks", mask),
        ):
            path = root / split / kind / f"{split}{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("FAKD_CACHE", "off")
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "da[ta]"
    for split in ("train", "val"):
        write(root, split)
    (root / "dataset.yaml").write_text("classes: [road, '[/b] car']\n")
    return root


def state(root) -> dict:
    return {path: path.stat().st_mtime_ns for path in root.rglob("*")}


def test_a_sound_set(root, tmp_path, capsys):
    before = state(root)
    result = check(root)
    printed = capsys.readouterr().out
    assert printed.rstrip().endswith("nothing to fix")
    assert "da[ta]" in printed
    assert "[/b] car" in printed
    assert "33.33%" in printed
    assert "25.0%" in printed
    assert state(root) == before
    assert result["usable"]
    assert result["fix"] == []
    assert result["splits"]["train"]["classes"] == {"road": 1 / 3, "[/b] car": 2 / 3}
    assert json.loads(json.dumps(result)) == result
    with Image.open(tmp_path / "data-check.png") as picture:
        assert picture.format == "PNG"
        assert picture.width > 1000


def test_problems_are_listed_by_importance(root, tmp_path, capsys):
    (root / "val/masks/val1.png").unlink()
    (root / "train/images/train0.png").unlink()
    result = check(root, out=tmp_path / "new" / "p.png")
    printed = capsys.readouterr().out
    assert not result["usable"]
    assert [each["severity"] for each in result["fix"]] == ["stops", "harms"]
    assert printed.index("val1.png") < printed.index("train0.png")
    assert (tmp_path / "new" / "p.png").is_file()


def test_no_picture_among_the_data_unless_asked(root, monkeypatch, capsys):
    monkeypatch.chdir(root)
    before = state(root)
    assert check(root)["picture"] is None
    assert "--out" in capsys.readouterr().out
    assert state(root) == before
    assert check(root, out=root / "here.png")["picture"] == str(root / "here.png")


def test_a_proposed_description_can_be_saved_and_used(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FAKD_CACHE", "off")
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "raw", "all", count=10)
    result = check(tmp_path / "raw", save=tmp_path / "described")
    printed = capsys.readouterr().out
    assert "classes: [class0, class1]" in printed
    assert "classes: [class0, class1]" in result["proposal"]
    data = folder(tmp_path / "described" / "dataset.yaml")
    assert (len(data.train), len(data.val)) == (8, 2)
    assert check(tmp_path / "described" / "dataset.yaml")["usable"]
    assert not (tmp_path / "raw" / "dataset.yaml").exists()


def test_findings_are_about_the_data_as_it_is_saved(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FAKD_CACHE", "off")
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "raw", "all", count=10)
    assert "dataset.yaml" in check(tmp_path / "raw")["fix"][0]["text"]
    result = check(tmp_path / "raw", save=tmp_path / "described")
    assert result["usable"]
    assert not [each for each in result["fix"] if each["severity"] == "stops"]
    assert "every fifth image is proposed" in capsys.readouterr().out


def test_where_to_save_is_looked_at_before_anything_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr("fakd.inspection.opening.open_path", None)
    for name in ("dataset.yaml", "val.txt"):
        (tmp_path / name).write_text("mine")
        with pytest.raises(InputError, match=f"{name} exists; give --save another folder"):
            check(tmp_path / "raw", save=tmp_path)
        (tmp_path / name).unlink()


def test_saving_what_is_described_already_is_refused(root, tmp_path):
    with pytest.raises(InputError, match="already has one"):
        check(root, save=tmp_path / "x")


def test_values_that_cannot_be(root, tmp_path):
    with pytest.raises(InputError, match=r"must end in \.png"):
        check(root, out=tmp_path / "x.jpg")
    with pytest.raises(InputError, match="--seconds must be above 0"):
        check(root, seconds=0.0)
    with pytest.raises(InputError, match="--samples must be at least 1"):
        check(root, samples=0)
    with pytest.raises(InputError, match="does not exist"):
        check(tmp_path / "nowhere")


def test_everything_is_read_however_long_it_takes(root):
    write(root, "train", count=30)
    assert check(root, seconds=1e-9)["splits"]["train"]["decoded"] < 30
    result = check(root, seconds=1e-9, everything=True, workers=2)
    assert result["splits"]["train"]["decoded"] == 30


def test_pictures_are_taken_from_both_splits(root):
    from fakd.inspection import inspect_data
    from fakd.report.dataset import save_overlays

    write(root, "val", count=2)
    for number in range(2, 5):
        for kind in ("images", "masks"):
            (root / "val" / kind / f"val{number}.png").unlink()
    assert save_overlays(root.parent / "p.png", inspect_data(root)) == 7


def test_the_picture_shows_masks_in_the_colours_of_the_legend(root, tmp_path):
    (root / "dataset.yaml").write_text(
        "classes: [{name: road, color: [10, 200, 30]}, {name: car, color: [90, 20, 220]}]\n"
        "masks: ids\n"
    )
    check(root, out=tmp_path / "p.png")
    with Image.open(tmp_path / "p.png") as picture:
        pixels = np.array(picture.convert("RGB")).reshape(-1, 3)
    for colour, share in (([10, 200, 30], 1 / 8), ([90, 20, 220], 2 / 8)):
        assert (pixels == colour).all(1).mean() > share / 2


ROOT = Path(__file__).parents[2]
REAL = [ROOT / up / "shared" / "data" for up in ("", "..", "../..")]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["camvid", "ccp"])
def test_what_is_saved_of_real_data_trains_at_once(name, tmp_path, monkeypatch):
    found = [each / name for each in REAL if (each / name).is_dir()]
    if not found:
        pytest.skip(f"{name} is not on this machine")
    monkeypatch.chdir(tmp_path)
    assert main(["data", "check", str(found[0]), "--save", "described"]) == 0
    network = "--network pspnet --network.backbone mobilenetv3_small_050 --network.channels 8"
    sizes = "--augmentation.crop 32,48 --inference.scale 0.1"
    steps = "--schedule.steps 1 --schedule.batch_size 2 --run run --data described"
    assert main(["train", *f"{network} {sizes} {steps}".split()]) == 0
    assert (tmp_path / "run" / "result.json").is_file()
