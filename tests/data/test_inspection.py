"""Each finding provoked once on a miniature set, and absent from the sound one."""

import os
import subprocess
import sys

import numpy as np
import pytest
import yaml
from PIL import Image

from fakd.data import folder, scenes
from fakd.errors import InputError
from fakd.inspection import Severity, inspect_data, spread_evenly
from fakd.types import IGNORE

ROAD_CAR = np.tile(np.array([0, 1], np.uint8), (6, 4))


@pytest.fixture
def sound(made_up):
    """Two classes, four images a split, all different: nothing to fix."""
    random = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in "abcd":
            made_up.mask(f"{split}/masks/{split}_{name}.png", ROAD_CAR)
            pixels = random.integers(0, 255, (6, 8, 3), dtype=np.uint8)
            made_up.image(f"{split}/images/{split}_{name}.png", pixels)
        for kind in ("images", "masks"):
            (made_up.root / split / kind / "a.png").unlink()
    return made_up


def texts(data, severity=None, **options) -> list[str]:
    found = inspect_data(data.root, **options).findings
    assert all("\n" not in finding.text for finding in found)
    return [each.text for each in found if severity is None or each.severity is severity]


def single(data, *parts: str, severity=Severity.STOPS) -> str:
    """The one finding there is, which must hold all parts."""
    (finding,) = inspect_data(data.root).findings
    assert finding.severity is severity
    for part in parts:
        assert part in finding.text
    return finding.text


def test_a_sound_set_has_nothing_to_fix(sound):
    inspection = inspect_data(sound.root)
    assert inspection.findings == []
    assert inspection.usable
    train, val = inspection.splits
    assert (len(train.listing.pairs), train.looked_at, len(train.sample)) == (4, 4, 4)
    assert train.classes == {0: 96, 1: 96}
    assert train.class_images == {0: 4, 1: 4}
    assert (val.share(1), val.ignored) == (0.5, 0.0)


def test_an_image_without_a_mask(sound):
    (sound.root / "train/masks/train_b.png").unlink()
    single(sound, "train: 1 image without a mask", "train_b.png", "add the masks")
    assert not inspect_data(sound.root).usable


def test_a_mask_without_an_image(sound):
    (sound.root / "val/images/val_b.png").unlink()
    single(sound, "val: 1 mask without an image", "val/masks/val_b.png", severity=Severity.HARMS)
    assert inspect_data(sound.root).usable


def test_masks_of_the_other_split_are_not_alone(made_up):
    for split in ("train", "val"):
        made_up.image(f"photos/{split}/{split}1.png")
        made_up.mask(f"truth/{split}1.png", ROAD_CAR)
    made_up.mask("truth/nobody.png", ROAD_CAR)
    section = "{{images: 'photos/{0}/{{name}}.png', masks: 'truth/{{name}}.png'}}"
    made_up.describe(
        f"classes: [road, car]\ntrain: {section.format('train')}\nval: {section.format('val')}\n"
    )
    alone = [text for text in texts(made_up) if "without an image" in text]
    assert len(alone) == 1
    assert "nobody.png" in alone[0]


def test_a_truncated_image_is_found_though_it_is_not_in_the_sample(sound):
    path = sound.root / "train/images/train_c.png"
    noise = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    sound.image("train/images/train_c.png", noise)
    sound.mask("train/masks/train_c.png", np.tile(ROAD_CAR, (10, 10)))
    path.write_bytes(path.read_bytes()[:-2000])
    found = texts(sound, samples=1)
    assert any(str(path) in text and "damaged, incomplete" in text for text in found)


def test_a_file_that_is_no_image(sound):
    (sound.root / "val/masks/val_a.png").write_text("<html>")
    single(sound, "val: cannot decode", "val_a.png")


def test_a_link_to_nothing(sound):
    path = sound.root / "train/images/train_d.png"
    path.unlink()
    path.symlink_to(sound.root / "gone.png")
    single(sound, "cannot read", "train_d.png", "a broken link")


def test_a_mask_of_another_size(sound):
    sound.mask("train/masks/train_a.png", ROAD_CAR[:4])
    single(sound, "1 mask with another size", "is 8x4", "is 8x6", "train_a.png")


def test_an_id_that_nothing_describes(sound):
    sound.mask("val/masks/val_a.png", ROAD_CAR + 6)
    found = texts(sound, Severity.STOPS)
    assert len(found) == 1
    assert "val: masks hold ids 6, 7 unknown to" in found[0]
    assert "val_a.png" in found[0]
    assert "ignore:" in found[0]


def test_a_colour_that_nothing_describes(sound):
    sound.describe(
        "classes: [{name: road, color: [0, 0, 0]}, {name: car, color: [9, 0, 0]}]\nmasks: colors\n"
    )
    red = np.zeros((6, 8, 3), np.uint8)
    red[:, 4:] = [9, 0, 0]
    for split in ("train", "val"):
        for name in "abcd":
            sound.mask(f"{split}/masks/{split}_{name}.png", red)
    assert texts(sound) == []
    red[0, 0] = [1, 2, 3]
    sound.mask("val/masks/val_a.png", red)
    single(sound, "colour [1, 2, 3] unknown", "val_a.png", "palette:")


def test_binary_masks_whose_object_would_be_ignored(sound):
    for split in ("train", "val"):
        for name in "abcd":
            sound.mask(f"{split}/masks/{split}_{name}.png", ROAD_CAR * 255)
    found = texts(sound, Severity.STOPS)
    assert len(found) == 2
    assert "ids: {0: road, 255: car}" in found[0]
    sound.describe("classes: [road, car]\nids: {0: road, 255: car}\n")
    assert texts(sound) == []


def test_a_split_of_which_everything_is_ignored(sound):
    for name in "abcd":
        sound.mask(f"val/masks/val_{name}.png", np.full((6, 8), 7, np.uint8))
    sound.describe("classes: [road, car]\nignore: [7]\n")
    assert ["val: every pixel is ignored" in text for text in texts(sound)] == [True]


def test_much_that_is_ignored(sound):
    mostly = np.full((6, 8), 255, np.uint8)
    mostly[0] = ROAD_CAR[0]
    for name in "abcd":
        sound.mask(f"train/masks/train_{name}.png", mostly)
    single(sound, "train: 83% of the pixels are ignored", severity=Severity.HARMS)


def test_a_class_that_is_never_there_and_one_that_is_rare(sound):
    sound.describe("classes: [road, car, boat]\n")
    never = texts(sound)
    assert "train: class boat never seen; remove" in never[0]
    assert "val: class boat never seen; they do not count" in never[1]
    assert "in 1 of 4 masks" in texts(sound, samples=1)[0]
    big = np.tile(ROAD_CAR, (20, 20))
    big[0, 0] = 2
    for split in ("train", "val"):
        sound.pair(split, f"{split}_e", big)
    rare = [text for text in texts(sound) if "boat" in text]
    assert len(rare) == 1
    assert "train: class boat below 0.1% of the pixels" in rare[0]


def test_what_headers_tell(sound):
    sound.image("train/images/train_a.png", np.full((6, 8), 7, np.uint8))
    sound.image("train/images/train_b.png", np.full((6, 8, 4), 8, np.uint8))
    sound.mask("train/masks/train_c.png", ROAD_CAR.astype(np.uint16))
    found = texts(sound, Severity.TELLS)
    assert len(found) == 3
    for part, name in (("16 bits", "train_c"), ("in grey", "train_a"), ("transpar", "train_b")):
        assert any(part in text and name in text for text in found)


def test_masks_in_jpeg(sound):
    (sound.root / "val/masks/val_a.png").unlink()
    sound.mask("val/masks/val_a.jpg", ROAD_CAR)
    assert any("1 of 4 masks in JPEG" in text for text in texts(sound, Severity.STOPS))


def test_an_image_that_exif_turns(sound):
    path = sound.root / "train/images/train_a.jpg"
    (sound.root / "train/images/train_a.png").unlink()
    exif = Image.Exif()
    exif[0x0112] = 6
    # Stored 6 wide and 8 high, shown 8 wide and 6 high like its mask.
    Image.fromarray(np.full((8, 6, 3), 50, np.uint8)).save(path, exif=exif)
    single(sound, "rotated by EXIF", "train_a.jpg", severity=Severity.TELLS)


@pytest.mark.parametrize(("orientation", "size"), [(6, (8, 8)), (3, (6, 8)), (2, (6, 8))])
def test_an_image_that_exif_turns_into_its_own_size(sound, orientation, size):
    path = sound.root / "train/images/train_a.jpg"
    (sound.root / "train/images/train_a.png").unlink()
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.full((*size, 3), 50, np.uint8)).save(path, exif=exif)
    sound.mask("train/masks/train_a.png", np.resize(ROAD_CAR, size))
    single(sound, "train: 1 of 4 images are rotated by EXIF", "train_a.jpg", "exiftool")


def test_a_mask_of_a_photo_as_it_is_stored(sound):
    path = sound.root / "train/images/train_a.jpg"
    (sound.root / "train/images/train_a.png").unlink()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.full((6, 8, 3), 50, np.uint8)).save(path, exif=exif)
    found = texts(sound, Severity.STOPS)
    assert len(found) == 1
    assert "train_a.jpg is 6x8 after EXIF rotation); rotate the mask" in found[0]


def test_a_folder_of_masks_that_is_called_otherwise(sound):
    (sound.root / "train/masks").rename(sound.root / "train/labels")
    single(
        sound,
        "train has no masks",
        "holds images, labels",
        "if the masks are there",
        severity=Severity.HARMS,
    )
    (sound.root / "train/labels").rename(sound.root / "labels")
    single(
        sound, "train has no masks", "only fakd distill can train on it", severity=Severity.TELLS
    )


def test_masks_that_show_one_class_of_several(sound):
    for name in "abcd":
        sound.mask(f"train/masks/train_{name}.png", ROAD_CAR * 0)
    found = texts(sound, Severity.HARMS)
    assert "train: every labelled pixel is road" in found[0]


def test_images_in_both_splits(sound):
    source = (sound.root / "train/images/train_a.png").read_bytes()
    (sound.root / "val/images/val_a.png").write_bytes(source)
    single(
        sound,
        "1 image of val with an identical copy in train",
        "val_a.png",
        severity=Severity.HARMS,
    )


def test_names_in_both_splits(sound):
    for kind in ("images", "masks"):
        path = sound.root / "val" / kind / "val_a.png"
        path.rename(path.with_name("train_a.png"))
    single(sound, "1 name in both train and val (train_a)", severity=Severity.TELLS)


def test_an_image_listed_for_both_splits(made_up):
    made_up.image("photos/a.png")
    made_up.mask("truth/a.png", ROAD_CAR)
    section = "{images: 'photos/{name}.png', masks: 'truth/{name}.png'}"
    made_up.describe(f"classes: [road, car]\ntrain: {section}\nval: {section}\n")
    single(made_up, "1 image in both train and val", severity=Severity.HARMS)


def test_the_sample_is_even_and_as_large_as_asked(sound):
    assert sorted(spread_evenly(100)) == list(range(100))
    for count in (5, 10, 30):
        gaps = np.diff(sorted([-1, *spread_evenly(100)[:count], 100]))
        assert gaps.max() <= 3 * 100 / count
    assert spread_evenly(50, seed=1) != spread_evenly(50, seed=2)
    assert [len(split.sample) for split in inspect_data(sound.root, samples=2).splits] == [2, 2]


def test_time_ends_it_after_a_few(sound):
    for number in range(20):
        sound.pair("train", f"more{number}", ROAD_CAR)
    train, val = inspect_data(sound.root, seconds=1e-9).splits
    assert 8 <= len(train.sample) < 24
    assert len(val.sample) == 4


def test_values_mean_what_the_reader_says(sound):
    sound.describe("classes: [road, car]\nids: {3: car, 4: road}\nignore: [9]\nothers: road\n")
    pair = inspect_data(sound.root).splits[0].listing.pairs[0]
    values = [3, 4, 9, 255, 1000, (0, 0, 0)]
    assert [pair.reader.meaning(each) for each in values] == [1, 0, IGNORE, IGNORE, 0, None]


def proposed(root) -> dict:
    return yaml.safe_load(inspect_data(root).opened.proposal.text)


@pytest.fixture
def bare(tmp_path, made_up):
    """Writes pairs of any names into an empty folder."""
    made_up.root = tmp_path / "bare"

    def write(image: str, mask: str, ids: np.ndarray = ROAD_CAR):
        made_up.image(image, size=ids.shape[:2])
        made_up.mask(mask, ids)
        return made_up.root

    return write


def test_photos_and_masks_in_two_folders(bare):
    for number in range(10):
        root = bare(f"Photos/IMG_{number}.jpg", f"Masks/IMG_{number}.png", ROAD_CAR * 255)
    inspection = inspect_data(root)
    assert proposed(root) == {
        "classes": ["background", "foreground"],
        "ids": {0: "background", 255: "foreground"},
        "train": {
            "images": "Photos/{name}.jpg",
            "masks": "Masks/{name}.png",
            "list": "train.txt",
        },
        "val": {"images": "Photos/{name}.jpg", "masks": "Masks/{name}.png", "list": "val.txt"},
    }
    assert [len(split.listing.pairs) for split in inspection.splits] == [8, 2]
    assert not inspection.usable
    assert "there is no" in inspection.findings[0].text
    for name, content in inspection.opened.proposal.files(root).items():
        (root / name).write_text(content)
    assert [len(split) for split in (folder(root).train, folder(root).val)] == [8, 2]
    assert inspect_data(root).usable


def test_a_missing_mask_is_found_without_a_description_too(bare):
    for number in range(10):
        root = bare(f"photos/{number}.jpg", f"masks/{number}.png")
    (root / "masks/3.png").unlink()
    found = [finding.text for finding in inspect_data(root).findings]
    assert any("1 image without a mask" in text and "3.jpg" in text for text in found)


@pytest.mark.parametrize(
    ("image", "mask", "section"),
    [
        ("{0}/images/{1}.png", "{0}/masks/{1}.png", None),
        ("images/{0}/{1}.jpg", "labels/{0}/{1}.png", ("images/train/{name}.jpg", "labels/train/")),
        ("{0}/{1}_rgb.jpg", "{0}/{1}_mask.png", ("train/{name}_rgb.jpg", "train/{name}_mask")),
        ("{0}/img/i_{1}.jpg", "{0}/gt/m_{1}.png", ("train/img/i_{name}.jpg", "train/gt/m_{name}")),
        ("{0}/{1}.png", "{0}/{1}_gt.png", ("train/{name}.png", "train/{name}_gt.png")),
    ],
)
def test_arrangements_that_are_understood(bare, image, mask, section):
    for split in ("train", "val"):
        for number in (7, 18):
            root = bare(image.format(split, number), mask.format(split, number))
    content = proposed(root)
    if section is None:
        assert "train" not in content
    else:
        assert content["train"]["images"] == section[0]
        assert content["train"]["masks"].startswith(section[1])
    inspection = inspect_data(root)
    assert [len(split.listing.pairs) for split in inspection.splits] == [2, 2]
    assert not any("without" in finding.text for finding in inspection.findings)


def test_classes_from_ids_with_gaps_and_from_colours(bare, tmp_path):
    gaps = np.tile(np.array([1, 3, 7, 255], np.uint8), (6, 2))
    root = bare("photos/a1.jpg", "masks/a1.png", gaps)
    bare("photos/a2.jpg", "masks/a2.png", gaps)
    assert proposed(root)["ids"] == {1: "class1", 3: "class3", 7: "class7"}
    red = np.zeros((6, 8, 3), np.uint8)
    red[:, 4:] = [200, 0, 0]
    for name in ("a1", "a2"):
        bare(f"photos/{name}.jpg", f"masks/{name}.png", red)
    content = proposed(root)
    assert [entry["color"] for entry in content["classes"]] == [[0, 0, 0], [200, 0, 0]]
    assert content["masks"] == "colors"


def test_smooth_edges_are_no_classes(bare):
    for number in range(4):
        soft = np.zeros((60, 80, 3), np.uint8)
        soft[:, 40:] = [255, 0, 0]
        soft[:3, 40] = [[50 * number + shade, 0, 0] for shade in (10, 20, 30)]
        root = bare(f"photos/{number}.jpg", f"masks/{number}.png", soft)
    assert len(proposed(root)["classes"]) == 2
    assert any("smooth edges" in finding.text for finding in inspect_data(root).findings)


def test_masks_told_by_what_they_hold(made_up, bare):
    noise = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    for number in range(3):
        root = bare(f"one/{number}.png", f"two/{number}.png", np.tile(ROAD_CAR, (10, 10)))
        made_up.image(f"one/{number}.png", noise)
    assert proposed(root)["train"]["images"] == "one/{name}.png"


def test_folders_that_cannot_be_understood(bare, tmp_path):
    root = bare("photos/one.jpg", "masks/other.png")
    with pytest.raises(InputError, match="whose names have nothing in common"):
        inspect_data(root)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="found none"):
        inspect_data(tmp_path / "empty")
    with pytest.raises(InputError, match="does not exist"):
        inspect_data(tmp_path / "nowhere")
    with pytest.raises(InputError, match="does not consist of files"):
        inspect_data(scenes(train=2, val=2, size=(32, 48)))


def test_a_set_that_is_open_already(sound):
    inspection = inspect_data(folder(sound.root))
    assert inspection.usable
    assert [len(split.sample) for split in inspection.splits] == [4, 4]


def test_the_papers_sets_are_recognised(bare):
    for split, short in (("training", "train"), ("validation", "val")):
        name = f"{split}/ADE_{short}_00000001"
        root = bare(
            f"ADEChallengeData2016/images/{name}.jpg",
            f"ADEChallengeData2016/annotations/{name}.png",
        )
    inspection = inspect_data(root)
    assert inspection.opened.title == "ADE20K"
    assert any("1 of ADE20K's 20210" in finding.text for finding in inspection.findings)
    assert any("whether the copy of" in finding.text for finding in inspection.findings)


def test_cityscapes_is_recognised(bare):
    for split in ("train", "val"):
        stem = f"{split}/ulm/ulm_000000_000019"
        root = bare(f"leftImg8bit/{stem}_leftImg8bit.png", f"gtFine/{stem}_gtFine_labelIds.png")
    assert inspect_data(root).opened.title == "Cityscapes"


@pytest.mark.parametrize(
    ("year", "masks", "lists", "title"),
    [
        (2012, "SegmentationClass", "Segmentation", "Pascal VOC 2012"),
        (2010, "SegmentationClassContext", "SegmentationContext", "Pascal Context 59"),
    ],
)
def test_voc_and_context_are_recognised(made_up, bare, year, masks, lists, title):
    for split in ("train", "val"):
        base, name = f"VOCdevkit/VOC{year}", f"2008_00{len(split):04}"
        root = bare(f"{base}/JPEGImages/{name}.jpg", f"{base}/{masks}/{name}.png")
        made_up.list(f"{base}/ImageSets/{lists}/{split}.txt", name)
    inspection = inspect_data(root)
    assert inspection.opened.title == title
    assert inspection.usable
    assert any("SBD" in each.text for each in inspection.findings) == (year == 2012)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_folders_work(sound):
    for path in (sound.root, *sound.root.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        assert inspect_data(sound.root).findings == []
    finally:
        for path in (sound.root, *sound.root.rglob("*")):
            path.chmod(0o755)


def test_colours_where_ids_are_described(sound):
    red = np.zeros((6, 8, 3), np.uint8)
    red[:, 4:] = [200, 0, 0]
    sound.mask("val/masks/val_a.png", red)
    single(sound, "colours [0, 0, 0], [200, 0, 0]", "save class ids")


def test_a_png_that_exif_turns(sound):
    exif = Image.Exif()
    exif[0x0112] = 8
    path = sound.root / "val/images/val_a.png"
    Image.fromarray(np.full((8, 6, 3), 50, np.uint8)).save(path, exif=exif)
    single(sound, "rotated by EXIF", "val_a.png", severity=Severity.TELLS)


def test_a_mask_with_an_orientation_of_its_own(sound):
    path = sound.root / "val/masks/val_a.png"
    for code in (3, 1):
        exif = Image.Exif()
        exif[0x0112] = code
        with Image.open(path) as mask:
            pixels = mask.copy()
        pixels.save(path, exif=exif)
        if code == 3:
            single(sound, "val_a.png is a mask with an EXIF orientation of its own", "exiftool")
    assert texts(sound, Severity.STOPS) == []


def test_mistakes_are_found_before_pytorch_is_imported(sound):
    (sound.root / "train/masks/train_b.png").unlink()
    code = f"""
import sys
from pathlib import Path
from fakd.data import folder
from fakd.errors import InputError
from fakd.inspection import inspect_data
try:
    folder({str(sound.root)!r})
except InputError as error:
    print(error)
print(inspect_data(Path({str(sound.root)!r})).findings[0].text)
print("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    refusal, finding, imported = done.stdout.splitlines()
    assert refusal.startswith("no mask ")
    assert "1 image without a mask" in finding
    assert imported == "False"


def test_a_root_named_in_the_description_is_where_files_are_looked_for(sound, tmp_path):
    (tmp_path / "described").mkdir()
    text = "root: ../data\nclasses: [road, car]\n"
    (tmp_path / "described" / "dataset.yaml").write_text(text)
    inspection = inspect_data(tmp_path / "described")
    assert inspection.findings == []
    assert inspection.opened.root.resolve() == sound.root.resolve()


def test_all_that_is_wrong_with_the_parts_of_a_split_is_said_at_once(sound):
    sound.describe(
        """
classes: [road, car]
train:
  - {images: "train/images/{name}.png", masks: "train/masks/{name}.png"}
  - {images: "train/images/{name}.png"}
  - {images: "gone/{name}.png", masks: "gone/{name}_ids.png"}
val: {images: "val/images/{name}.png", masks: "val/masks/{name}.png", list: gone.txt}
"""
    )
    stops = texts(sound, Severity.STOPS)
    for part in (
        "train_a.png is in two parts of train",
        "expected a folder",
        "expected a list of images",
    ):
        assert any(part in text for text in stops)


def test_a_list_that_is_no_text_is_said_once(sound):
    where = "images: 'train/images/{name}.png', masks: 'train/masks/{name}.png', list: l.txt"
    sound.describe(f"classes: [road, car]\ntrain: {{{where}}}\n")
    (sound.root / "l.txt").write_bytes(b"\xff\xfe\x00")
    stops = [text for text in texts(sound, Severity.STOPS) if "l.txt" in text]
    assert len(stops) == 1
    assert "it is not text" in stops[0]


def test_images_none_of_which_has_a_mask_are_said_once(sound):
    for name in "abcd":
        (sound.root / f"val/masks/val_{name}.png").unlink()
    single(sound, "val: 4 images without a mask", "val_a.png")


def test_a_mask_whose_name_differs_in_case_is_named(sound):
    mask = sound.root / "val/masks/val_b.png"
    mask.rename(mask.with_name("VAL_B.PNG"))
    found = texts(sound, Severity.STOPS)
    assert any("VAL_B.PNG differs from val_b in upper and lower case" in text for text in found)
