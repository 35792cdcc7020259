import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fakd.cli import main
from fakd.data import folder, open_data, scenes
from fakd.errors import InputError
from fakd.types import IGNORE
from stand_ins import message

IDS = np.array([[0, 1, 2, 255], [2, 1, 0, 0]], np.uint8)
EXPECTED = torch.from_numpy(IDS.astype(np.int16)).where(torch.from_numpy(IDS) < 255, IGNORE)
PALETTE = [[10, 20, 30], [200, 0, 0], [0, 200, 0]]
COLOURED = f"classes: [road, car, sky]\npalette: {PALETTE}\nignore_colors: [[0, 0, 0]]\n"
COLOURS = np.array([*PALETTE, *([[0, 0, 0]] * 253)], np.uint8)[IDS]


def first_labels(made_up, description, mask):
    made_up.describe(description)
    made_up.pair("val", "a", IDS) if mask is None else made_up.pair("val", "a", mask)
    return folder(made_up.root).val[0].labels


def test_reads_pairs_by_name_with_subfolders_links_and_any_case(made_up):
    made_up.image("train/images/town/b.JPG")
    made_up.mask("train/masks/town/b.png", np.zeros((6, 8), np.uint8))
    made_up.image("elsewhere/c.webp")
    made_up.mask("elsewhere/masks/c.png", np.ones((6, 8), np.uint8))
    (made_up.root / "train/images/far").mkdir()
    (made_up.root / "train/images/far/c.webp").symlink_to(made_up.root / "elsewhere/c.webp")
    (made_up.root / "train/masks/far").symlink_to(made_up.root / "elsewhere/masks")
    (made_up.root / "train/images/.DS_Store").write_bytes(b"")
    (made_up.root / "train/images/._a.png").write_bytes(b"")

    data = folder(made_up.root)

    assert [data.train[i].name for i in range(len(data.train))] == ["a", "far/c", "town/b"]
    assert data.classes == 2
    assert data.class_names == ("road", "car")
    assert data.name == "data"
    assert data.train.labelled
    sample = data.train[1]
    assert sample.image.shape == (3, 6, 8)
    assert sample.image.dtype == torch.uint8
    assert sample.labels.unique().tolist() == [1]


def test_grey_palette_and_16_bit_masks_keep_their_ids(made_up):
    description = "classes: [road, car, sky]\n"
    assert torch.equal(first_labels(made_up, description, IDS), EXPECTED)
    assert torch.equal(first_labels(made_up, description, IDS.astype(np.uint16)), EXPECTED)
    assert torch.equal(first_labels(made_up, description, np.stack([IDS] * 3, 2)), EXPECTED)
    palette_image = Image.fromarray(IDS).convert("L")
    palette_image.putpalette([255 - value for value in range(256) for _ in range(3)])
    palette_image.save(made_up.root / "val/masks/a.png")
    with Image.open(made_up.root / "val/masks/a.png") as saved:
        assert saved.mode == "P"
    assert torch.equal(folder(made_up.root).val[0].labels, EXPECTED)


def test_one_bit_masks(made_up):
    labels = first_labels(made_up, "classes: [road, car]\n", IDS == 1)
    assert torch.equal(labels, (EXPECTED == 1).short())


def test_colours_are_found_by_palette(made_up):
    assert torch.equal(first_labels(made_up, COLOURED, COLOURS), EXPECTED)
    with_alpha = np.dstack([COLOURS, np.full(IDS.shape, 7, np.uint8)])
    assert torch.equal(first_labels(made_up, COLOURED, with_alpha), EXPECTED)
    assert folder(made_up.root).palette[1] == (200, 0, 0)


def test_colours_in_the_class_list_and_in_a_palette_png(made_up):
    entries = ", ".join(f"{{name: c{i}, color: {colour}}}" for i, colour in enumerate(PALETTE))
    made_up.describe(f"classes: [{entries}]\nmasks: colors\nignore_colors: [[0, 0, 0]]\n")
    made_up.pair("val", "a", IDS)
    Image.fromarray(COLOURS).quantize(8).save(made_up.root / "val/masks/a.png")
    assert torch.equal(folder(made_up.root).val[0].labels, EXPECTED)


def test_palette_pngs_keep_indices_although_colours_are_known(made_up):
    assert torch.equal(first_labels(made_up, COLOURED, IDS), EXPECTED)
    as_ids = COLOURED + "masks: ids\n"
    assert torch.equal(first_labels(made_up, as_ids, np.stack([IDS] * 3, 2)), EXPECTED)


def test_ids_and_ignore_map_what_masks_say(made_up):
    description = "classes: [road, car]\nids: {7: road, 300: 1, 9: car}\nignore: [0]\n"
    mask = np.array([[0, 7, 300], [9, 255, 7]], np.uint16)
    labels = first_labels(made_up, description, mask)
    assert labels.tolist() == [[-1, 0, 1], [1, -1, 0]]


def test_ids_may_give_255_a_class(made_up):
    mask = np.array([[0, 255]], np.uint8)
    labels = first_labels(made_up, "classes: [back, front]\nids: {0: 0, 255: 1}\n", mask)
    assert labels.tolist() == [[0, 1]]


def test_training_images_may_be_unlabelled_but_not_validation(made_up):
    shutil.rmtree(made_up.root / "train/masks")
    data = folder(made_up.root)
    assert not data.train.labelled
    assert data.train[0].labels is None
    assert "train has no masks: there is no" in data.remarks[0]
    assert "holds images; without them only fakd distill" in data.remarks[0]
    shutil.rmtree(made_up.root / "val/masks")
    assert "expected a folder" in (text := message(lambda: folder(made_up.root)))
    assert str(made_up.root / "val/masks") in text


def test_the_description_may_be_the_root_or_stand_elsewhere(made_up, tmp_path):
    other = made_up.describe("name: town\nroot: ../data\nclasses: [x, y, z]\n", "../other/d.yaml")
    for opened in (folder(other), open_data(str(other)), folder(made_up.root, other)):
        assert opened.class_names == ("x", "y", "z")
        assert opened.name == "town"
        assert len(opened.val) == 1
    inside = made_up.describe("root: ../data\nclasses: [x, y, z]\n", "../other/dataset.yaml")
    assert len(folder(inside.parent).val) == 1
    moved = shutil.copytree(made_up.root, tmp_path / "moved")
    made_up.pair("val", "b", np.zeros((2, 2), np.uint8))
    assert len(folder(other).val) == 2
    assert len(folder(moved, other).val) == 1


def test_the_test_split_is_listed_only_when_asked_for_and_stands_apart(made_up):
    before = folder(made_up.root).fingerprint()
    with pytest.raises(InputError, match=r"val/masks, test/images, test/masks$"):
        folder(made_up.root).open_test()
    made_up.describe(
        "classes: [road, car]\n"
        "test: {images: 'later/{name}.png', masks: 'later_ids/{name}.png', list: later.txt}\n"
    )
    data = folder(made_up.root)
    assert data.fingerprint() == before
    with pytest.raises(InputError, match="later"):
        data.open_test()
    made_up.image("later/b.png", np.full((6, 8, 3), 50, np.uint8))
    made_up.image("later/c.png", np.full((6, 8, 3), 60, np.uint8))
    made_up.mask("later_ids/b.png", np.ones((6, 8), np.uint8))
    made_up.list("later.txt", "b")
    test = data.open_test()
    assert [test.name(index) for index in range(len(test))] == ["b"]
    assert test[0].labels.unique().tolist() == [1]
    assert data.fingerprint() == folder(made_up.root).fingerprint() == before
    # A copy under another name is the same image.
    shutil.copy(made_up.root / "val/images/a.png", made_up.root / "later/b.png")
    with pytest.raises(InputError, match=r"1 test image is in train or val too \(.*b.png\)"):
        data.open_test()
    made_up.describe(
        "classes: [road, car]\n"
        "val: {images: 'val/images/{name}.png', masks: 'val/masks/{name}.png'}\n"
    )
    with pytest.raises(InputError, match="data has no test split; describe one under test:"):
        folder(made_up.root).open_test()
    made_up.describe("classes: [road, car]\ntest: {images: 'later/{name}.png'}\n")
    with pytest.raises(InputError, match="test needs masks"):
        folder(made_up.root)


def test_read_only_folders_work_and_nothing_is_written(made_up):
    before = sorted(made_up.root.rglob("*"))
    folders = [path for path in [made_up.root, *before] if path.is_dir()]
    for path in folders:
        path.chmod(0o555)
    try:
        data = folder(made_up.root)
        data.val[0]
        data.fingerprint()
    finally:
        for path in folders:
            path.chmod(0o755)
    assert sorted(made_up.root.rglob("*")) == before


def test_fingerprint_follows_files_and_classes(made_up):
    mask = made_up.root / "val/masks/a.png"
    halves = np.repeat(np.eye(2, dtype=np.uint8), 3, axis=0)
    made_up.pair("val", "a", halves)
    size = mask.stat().st_size
    prints = [folder(made_up.root).fingerprint()]
    assert len(prints[0]) == 16
    made_up.pair("val", "a", 1 - halves)
    assert mask.stat().st_size == size, "this is to be the change that no size shows"
    prints.append(folder(made_up.root).fingerprint())
    image = made_up.root / "train/images/a.png"
    image.write_bytes(image.read_bytes() + b"more")
    prints.append(folder(made_up.root).fingerprint())
    made_up.describe("classes: [road, bus]\n")
    prints.append(folder(made_up.root).fingerprint())
    made_up.describe("classes: [road, bus]\nignore: [9]\n")
    prints.append(folder(made_up.root).fingerprint())
    assert len(set(prints)) == 5


def test_fingerprint_is_the_same_for_a_copy(made_up, tmp_path):
    first = folder(made_up.root).fingerprint()
    copy = tmp_path / "elsewhere"
    shutil.copytree(made_up.root, copy)
    os.utime(copy / "val/masks/a.png", ns=(0, 0))
    assert folder(copy).fingerprint() == first


def test_open_data(made_up):
    data = folder(made_up.root)
    assert open_data(data) is data
    assert open_data(made_up.root).class_names == ("road", "car")
    assert open_data("scenes").fingerprint() == scenes().fingerprint()


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"", "cannot decode"),
        (b"not an image", "cannot decode"),
        ("half", "cannot decode"),
    ],
)
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp"])
def test_damaged_images_are_named(made_up, suffix, content, named):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 48, 3), dtype=np.uint8)
    path = made_up.image(f"val/images/b.{suffix}", pixels)
    made_up.mask("val/masks/b.png", np.zeros((64, 48), np.uint8))
    whole = folder(made_up.root).val[1].image
    assert whole.shape == (3, 64, 48)
    path.write_bytes(
        path.read_bytes()[: path.stat().st_size // 2] if content == "half" else content
    )
    text = message(lambda: folder(made_up.root).val[1])
    assert named in text
    assert str(path) in text


def test_a_jpeg_that_lacks_its_last_bytes_is_damaged(made_up):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 48, 3), dtype=np.uint8)
    path = made_up.image("val/images/b.jpg", pixels)
    made_up.mask("val/masks/b.png", np.zeros((64, 48), np.uint8))
    path.write_bytes(path.read_bytes()[:-40])
    assert "cannot decode" in message(lambda: folder(made_up.root).val[1])


def test_images_of_every_kind_become_8_bit_rgb(made_up):
    grey = np.array([[0, 1000, 65535]], np.uint16)
    made_up.mask("val/masks/b.png", np.zeros((1, 3), np.uint8))
    path = made_up.mask("val/images/b.png", grey)
    assert folder(made_up.root).val[1].image.tolist() == [[[0, 3, 255]]] * 3
    made_up.mask("val/images/b.png", np.array([[[9, 8, 7, 0]] * 3], np.uint8))
    assert folder(made_up.root).val[1].image[:, 0, 0].tolist() == [9, 8, 7]
    path.unlink()
    made_up.image("val/images/b.bmp", np.array([[[9, 8, 7]] * 3], np.uint8))
    assert folder(made_up.root).val[1].image[:, 0, 0].tolist() == [9, 8, 7]


def test_images_are_turned_upright(made_up):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = made_up.root / "val/images/b.jpg"
    Image.fromarray(np.zeros((4, 10, 3), np.uint8)).save(path, exif=exif)
    made_up.mask("val/masks/b.png", np.zeros((10, 4), np.uint8))
    assert folder(made_up.root).val[1].image.shape == (3, 10, 4)


def test_a_mask_of_a_photo_as_it_is_stored_is_recognised(made_up):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = made_up.root / "val/images/b.jpg"
    Image.fromarray(np.zeros((4, 10, 3), np.uint8)).save(path, exif=exif)
    made_up.mask("val/masks/b.png", np.zeros((4, 10), np.uint8))
    text = message(lambda: folder(made_up.root).val[1])
    assert "is 10x4" in text
    assert "b.jpg is 4x10 after EXIF rotation; rotate the mask" in text
    made_up.mask("val/masks/b.png", np.zeros((5, 10), np.uint8))
    assert "EXIF" not in message(lambda: folder(made_up.root).val[1])


def test_what_is_wrong_with_files_is_said_in_one_line(made_up):
    root = made_up.root

    def says(*words):
        text = message(lambda: [folder(root).train[i] for i in range(len(folder(root).train))])
        for word in words:
            assert word in text
        return text

    made_up.mask("train/masks/a.png", np.zeros((5, 9), np.uint8))
    says("train/masks/a.png", "9x5", "8x6", "train/images/a.png", "export")
    made_up.mask("train/masks/a.png", np.tile(np.arange(8, dtype=np.uint8), (6, 1)))
    says("train/masks/a.png", "ids 2, 3, 4, 5, 6 and 1 more", "2 classes", "ids:", "ignore:")
    made_up.mask("train/masks/a.png", np.full((6, 8), 70, np.uint16))
    says("id 70,")
    made_up.mask("train/masks/a.png", np.tile(np.array([1, 2, 3], np.uint8), (6, 8, 1)))
    says("holds colours", "palette:")
    (root / "train/masks/a.png").unlink()
    made_up.mask("train/masks/a.jpg", np.zeros((6, 8), np.uint8))
    says("train/masks/a.jpg", "JPEG", "PNG")
    made_up.image("train/images/b.png")
    made_up.image("train/images/c.png")
    says("train/masks/b.png", "1 more", "the name of its image")
    made_up.image("train/images/b.jpg")
    says("b.png", "b.jpg", "same name")


def test_unknown_colours_are_named_and_jpeg_blamed(made_up):
    made_up.describe(COLOURED)
    made_up.mask("val/masks/a.png", np.full((6, 8, 3), 50, np.uint8))
    text = message(lambda: folder(made_up.root).val[0])
    assert "val/masks/a.png" in text
    assert "colour [50, 50, 50]" in text
    assert "ignore_colors" in text
    (made_up.root / "val/masks/a.png").unlink()
    made_up.mask("val/masks/a.jpg", np.full((6, 8, 3), 50, np.uint8))
    assert "JPEG compression" in message(lambda: folder(made_up.root).val[0])


def test_missing_and_empty_folders(made_up, tmp_path):
    assert "does not exist" in message(lambda: folder(tmp_path / "nowhere"))
    assert "is a file" in message(lambda: folder(made_up.root / "train/images/a.png"))
    (made_up.root / "val/images/a.png").unlink()
    text = message(lambda: folder(made_up.root))
    assert "val/images holds no file ending in .png" in text
    assert text.endswith("; add some")
    (made_up.root / "val/images/a.avif").touch()
    text = message(lambda: folder(made_up.root))
    assert "but 1 in .avif, which is not read; convert them" in text
    shutil.rmtree(made_up.root / "train/images")
    assert "expected a folder" in message(lambda: folder(made_up.root))


def test_a_missing_description_is_what_data_check_proposes(made_up, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (made_up.root / "dataset.yaml").unlink()
    text = message(lambda: folder(made_up.root))
    command = text.split("'")[1].replace("NEWFOLDER", str(tmp_path / "new")).split()
    assert main(command[1:]) == 0
    assert folder(tmp_path / "new").classes == 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("clases: [a, b]", ["clases", "'classes'"]),
        ("classes: [a]\nfoo: 1", ["'foo'", "keys are", "ignore"]),
        ("ignore: [0]", ["has no classes", "classes: [road, car]"]),
        ("ids: {0: sky, 1: tree, 7: tree}", ["has no classes", "classes: [sky, tree]"]),
        ("classes: road", ["classes must be a list", "'road'"]),
        ("classes: []", ["1 to 32767", "got 0"]),
        ("classes: [a, no]", ["needs a name", "False", "quotes"]),
        ("classes: [a, a]", ["'a' twice"]),
        ("classes: [{name: a, colour: [1, 2, 3]}]", ["'colour'", "'color'"]),
        ("classes: [{name: a, color: [1, 2, 3]}, b]", ["1 of 2", "all or none"]),
        ("classes: [{name: a, color: [1, 2, 3]}]\npalette: [[1, 2, 3]]", ["both", "keep one"]),
        ("classes: [a, b]\npalette: [[1, 2, 3]]", ["1 colours for 2 classes"]),
        ("classes: [a]\npalette: [[1, 2, 300]]", ["0 to 255", "300"]),
        ("classes: [a, b]\npalette: [[1, 2, 3], [1, 2, 3]]", ["[1, 2, 3]", "change one"]),
        ("classes: [a]\nignore: 0", ["ignore must be a list"]),
        ("classes: [a]\nignore: [x]", ["ignore", "'x'"]),
        ("classes: [a]\nids: [0]", ["ids must map"]),
        ("classes: [road]\nids: {3: raod}", ["'raod'", "'road'"]),
        ("classes: [road]\nids: {3: 1}", ["not a class", "ignore"]),
        ("classes: [road]\nids: {70000: 0}", ["65535", "70000"]),
        ("classes: [road]\nids: {3: 0}\nignore: [3]", ["both ids and ignore"]),
        ("classes: [a]\nmasks: rgb", ["'ids' or 'colors'", "'rgb'"]),
        ("classes: [a]\nmasks: colors", ["palette"]),
        ("classes: [a]\nname: 3", ["name must be text"]),
        ("classes: [a", ["not valid YAML"]),
        ("- a", ["must contain", "list"]),
    ],
)
def test_mistakes_in_the_description_are_explained(made_up, text, words):
    path = made_up.describe(text)
    said = message(lambda: folder(made_up.root))
    for word in [str(path), *words]:
        assert word in said


CAMVID = Path(__file__).parents[2] / "../shared/data/camvid"


@pytest.mark.skipif(not CAMVID.is_dir(), reason="CamVid is not on this machine")
def test_camvid_opens_with_its_recipe():
    data = folder(CAMVID, Path(__file__).parents[2] / "recipes/camvid/dataset.yaml")
    assert (len(data.train), len(data.val), data.classes) == (367, 101, 11)
    counts = torch.zeros(256, dtype=torch.long)
    for index in range(0, 367, 30):
        counts += (data.train[index].labels + 1).flatten().bincount(minlength=256)
    assert counts[:12].all()
    assert counts[12:].sum() == 0
