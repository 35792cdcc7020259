"""Data as people have it: what is proposed for it."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from fakd.cli import main
from fakd.data import folder
from fakd.errors import InputError
from fakd.inspection import inspect_data
from fakd.inspection.classes import read_names

SIZE = (32, 48)
COLOURS = np.array([(0, 0, 0), (250, 50, 83), (50, 183, 250)], np.uint8)
OBJECTS = np.array([(0, 0, 0), (128, 0, 0), (0, 128, 0)], np.uint8)


class Export:
    """Writes photos and the masks that go with them."""

    def __init__(self, root):
        self.root = root

    def classes(self, number: int, count: int = 3) -> np.ndarray:
        classes = np.zeros(SIZE, np.uint8)
        classes[4:20, 4 + number : 20 + number] = 1
        if count > 2:
            classes[12:30, 24:40] = 2
        return classes

    def photo(self, name: str, number: int) -> None:
        shades = np.array([60, 140, 220])[self.classes(number)][..., None]
        noise = np.random.default_rng(number).normal(0, 12, (*SIZE, 3))
        self.save(name, (shades + noise).clip(0, 255).astype(np.uint8))

    def save(self, name: str, pixels: np.ndarray, **options) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path, **options)

    def text(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.fixture
def export(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Export(tmp_path / "raw")


def content(export) -> dict:
    return yaml.safe_load(inspect_data(export.root).opened.proposal.text)


def notes(export) -> str:
    return "\n".join(each.text for each in inspect_data(export.root).findings)


def saved(export):
    """Save what is proposed; return the data."""
    place = export.root.parent / "saved"
    assert main(["data", "check", str(export.root), "--save", str(place)]) == 0
    return folder(place)


def voc(export, photos="JPEGImages", count=6):
    for number in range(count):
        classes = export.classes(number)
        if photos:
            export.photo(f"{photos}/f{number}.jpg", number)
        export.save(f"SegmentationClass/f{number}.png", COLOURS[classes])
        export.save(f"SegmentationObject/f{number}.png", OBJECTS[classes])
    names = "".join(f"f{number}\n" for number in range(count))
    export.text("ImageSets/Segmentation/default.txt", names)


def test_cvats_export_is_not_voc_and_takes_its_names_from_the_label_map(export):
    voc(export)
    export.text(
        "labelmap.txt",
        "# label:color_rgb:parts:actions\nbackground:0,0,0::\nbox:250,50,83::\nball:50,183,250::\n",
    )
    found = content(export)
    assert found["train"]["images"] == "JPEGImages/{name}.jpg"
    assert found["train"]["masks"] == "SegmentationClass/{name}.png"
    assert [entry["name"] for entry in found["classes"]] == ["background", "box", "ball"]
    data = saved(export)
    assert data.class_names == ("background", "box", "ball")
    np.testing.assert_array_equal(data.train[0].labels, export.classes(0))


def test_masks_of_objects_are_no_photos(export):
    voc(export, photos="images")
    assert content(export)["train"]["images"] == "images/{name}.jpg"


def test_photos_that_are_missing_are_said_to_be(export):
    voc(export, photos="")
    with pytest.raises(InputError, match=r"6 masks in SegmentationClass.* and no photos; add"):
        inspect_data(export.root)


def test_masks_of_classes_that_are_missing_are_said_to_be(export):
    voc(export)
    for path in (export.root / "SegmentationClass").iterdir():
        path.unlink()
    with pytest.raises(
        InputError, match=r"and no masks of classes; export semantic masks, .*--data.unlabelled"
    ):
        inspect_data(export.root)


def test_palette_masks_of_labelme2voc_take_their_names_by_id(export):
    for number in range(5):
        export.photo(f"JPEGImages/{number}.jpg", number)
        mask = Image.fromarray(export.classes(number))
        mask.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
        path = export.root / f"SegmentationClass/{number}.png"
        path.parent.mkdir(exist_ok=True)
        mask.save(path)
        export.photo(f"SegmentationClassVisualization/{number}.jpg", number)
    export.text("class_names.txt", "_background_\ncat\nvoid\n")
    found = content(export)
    assert found["classes"] == ["background", "cat"]
    assert found["ignore"] == [2]
    assert found["train"]["images"] == "JPEGImages/{name}.jpg"
    assert "void (id 2) is ignored" in notes(export)
    assert saved(export).train[0].labels.min() == -1


def test_lists_of_names_are_followed(export):
    voc(export)
    export.text("ImageSets/Segmentation/train.txt", "f0\nf1.png\nimages/f2.jpg\n")
    export.text("ImageSets/Segmentation/val.txt", "f4\nf5\n")
    export.text("ImageSets/Segmentation/test.txt", "f3\nof no mask\n")
    splits = inspect_data(export.root).splits
    names = [[pair.name for pair in split.listing.pairs] for split in splits]
    assert names == [["f0", "f1", "f2"], ["f4", "f5"]]
    assert "every fifth" not in notes(export)
    test = saved(export).open_test()
    assert [test.name(index) for index in range(len(test))] == ["f3"]


@pytest.mark.parametrize(
    ("file", "line", "encoding"),
    [
        ("{}.txt", "images/{}.jpg masks/{}.png", "utf-8"),
        ("{}.txt", "images\\{}.jpg", "utf-8-sig"),
        ("{}.txt", "{}.jpg", "utf-16"),
        ("{}.csv", "images/{}.jpg,masks/{}.png", "utf-8"),
        ("splits/{}_list.txt", "/elsewhere/set/images/{}.jpg", "utf-8"),
    ],
)
def test_lists_as_other_programs_write_them(export, file, line, encoding):
    voc(export)
    for split, names in {"train": "image f0 f1 f2 f3", "val": "f4 f5"}.items():
        lines = [line.replace("{}", name) for name in names.split()]
        path = export.root / file.format(split)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes("\r\n".join(lines).encode(encoding))
    splits = inspect_data(export.root).splits
    names = [[pair.name for pair in split.listing.pairs] for split in splits]
    assert names == [["f0", "f1", "f2", "f3"], ["f4", "f5"]]
    assert "every fifth" not in notes(export)


@pytest.mark.parametrize(
    ("image", "mask", "lists"),
    [
        ("images/{ing}/{name}.jpg", "annotations/{ing}/{name}.png", None),
        ("JPEGImages/{name}.jpg", "SegmentationClassContext/{name}.png", "SegmentationContext"),
        (
            "leftImg8bit/{split}/lab/lab_00000{name}_000019_leftImg8bit.png",
            "gtFine/{split}/lab/lab_00000{name}_000019_gtFine_labelIds.png",
            None,
        ),
    ],
)
def test_own_data_in_the_folders_of_a_published_set_are_not_that_set(export, image, mask, lists):
    for number in range(6):
        split, ing = ("train", "training") if number < 4 else ("val", "validation")
        export.photo(image.format(split=split, ing=ing, name=number), number)
        export.save(mask.format(split=split, ing=ing, name=number), export.classes(number))
    if lists:
        export.text(f"ImageSets/{lists}/train.txt", "0\n1\n2\n3\n")
        export.text(f"ImageSets/{lists}/val.txt", "4\n5\n")
    export.text("label_colors.txt", "0 0 0 ground\n128 0 0 box\n0 128 0 ball\n")
    data = saved(export)
    assert data.class_names == ("ground", "box", "ball")
    assert (len(data.train), len(data.val)) == (4, 2)


THREE = {0: "ground", 1: "box", 7: "ball"}
SHADES = {0: (0, 0, 0), 1: (128, 0, 0), 7: (0, 128, 0)}


@pytest.mark.parametrize(
    ("file", "text", "coloured"),
    [
        ("labels.txt", "0 ground\n1 box\n7 ball", False),
        ("labels.txt", "ground 0\nbox 1\nball 7", False),
        ("_classes.csv", "Class,Pixel Value\nball,7\nbox,1\nground,0", False),
        ("class_dict.csv", "id,name,r,g,b\n0,ground,0,0,0\n1,box,128,0,0\n7,ball,0,128,0", True),
        ("classes.csv", "class;id;r;g;b\nball;7;0;128;0\nground;0;0;0;0\nbox;1;128;0;0", True),
    ],
)
def test_files_of_class_names_are_read_in_any_order_of_columns(tmp_path, file, text, coloured):
    for encoding in ("utf-8-sig", "utf-16"):
        (tmp_path / file).write_text(text, encoding=encoding)
        named = read_names(tmp_path, [file])
        assert (named.names, named.by_place) == (THREE, False)
        assert named.colours == (SHADES if coloured else {})


@pytest.mark.parametrize(
    "text",
    [
        "name,r,g,b\nground,0,0,0\nbox,128,0,0\nball,0,128,0",
        '"name","r","g","b"\n"ground","0","0","0"\n"box","128","0","0"\n"ball","0","128","0"',
        "r;g;b;name\n0;0;0;ground\n128;0;0;box\n0;128;0;ball",
        "ground 0 0 0\nbox 128 0 0\nball 0 128 0",
        "ground #000000\nbox #800000\nball #008000",
    ],
)
def test_colours_beside_class_names_are_read_in_any_form(tmp_path, text):
    (tmp_path / "class_dict.csv").write_text(text)
    named = read_names(tmp_path, ["class_dict.csv"])
    assert [*named.names.values()] == [*THREE.values()]
    assert [*named.colours.values()] == [*SHADES.values()]


def test_numbers_within_class_names_are_no_ids(tmp_path):
    names = ["lane 1", "lane 2", "2 wheeler", "4 wheeler"]
    for chosen in (names[:2], names[2:], ["sky", "2 wheeler", "4 door"]):
        (tmp_path / "classes.txt").write_text("\n".join(chosen))
        assert [*read_names(tmp_path, ["classes.txt"]).names.values()] == chosen
    (tmp_path / "classes.txt").write_bytes("Straße\nbox".encode("latin-1"))
    with pytest.raises(InputError, match=r"classes\.txt is not UTF-8 text; save it as UTF-8"):
        read_names(tmp_path, ["classes.txt"])


def test_roboflows_masks_beside_photos_are_named_by_its_csv(export):
    for split, first in (("train", 0), ("valid", 3), ("test", 6)):
        for number in range(first, first + 3):
            export.photo(f"{split}/{split}{number}.jpg", number)
            export.save(f"{split}/{split}{number}_mask.png", export.classes(number))
        export.text(f"{split}/_classes.csv", "Pixel Value, Class\n0, background\n1, box\n2, ball\n")
    data = saved(export)
    assert data.class_names == ("background", "box", "ball")
    assert (len(data.train), len(data.val), len(data.open_test())) == (3, 3, 3)
    assert "no masks" not in notes(export)


def test_masks_of_ids_are_told_from_those_of_objects_and_colours_beside_them(export):
    for number in range(4):
        for split in ("train", "val"):
            stem = f"{split}/x{number}"
            export.photo(f"photos/{stem}_leftImg.png", number)
            classes = export.classes(number)
            export.save(f"gt/{stem}_labelIds.png", classes + 4)
            export.save(f"gt/{stem}_instanceIds.png", classes.astype(np.uint16) * 1000)
            export.save(f"gt/{stem}_color.png", COLOURS[classes])
    found = content(export)
    assert found["train"]["masks"] == "gt/train/{name}_labelIds.png"
    assert found["ids"] == {4: "class4", 5: "class5", 6: "class6"}
    assert len(saved(export).train) == 4


def test_a_number_of_classes_without_names_is_pointed_out(export):
    for number in range(4):
        export.photo(f"images/{number}.png", number)
        export.save(f"masks/{number}.png", export.classes(number))
    assert "id 0, 1, 2 has no name: write the class names" in notes(export)
    assert "under ignore:" in notes(export)


def test_classes_come_from_all_masks_and_not_from_some(export):
    for number in range(60):
        export.photo(f"images/{number}.png", number % 3)
        mask = export.classes(number % 3)
        mask[0, 0] = number
        export.save(f"masks/{number}.png", mask)
    assert len(content(export)["classes"]) == 60
    assert not any("unknown" in each.text for each in inspect_data(export.root).findings)


def test_images_without_masks_are_left_out_and_said(export):
    for number in range(6):
        export.photo(f"images/{number}.png", number)
        export.save(f"masks/{number}.png", export.classes(number))
    export.photo("images/alone.png", 7)
    for number in range(3):
        export.photo(f"unlabelled/{number}.png", number)
    assert "1 image without a mask (images/alone.png)" in notes(export)
    assert "3 images in unlabelled without masks, not used" in notes(export)
    assert len(saved(export).train) == 5


@pytest.mark.parametrize("kind", ["resized", "jpeg"])
def test_black_and_white_with_smooth_edges_is_two_classes(export, kind):
    for number in range(5):
        export.photo(f"images/{number}.png", number)
        mask = export.classes(number, 2) * 255
        if kind == "jpeg":
            export.save(f"masks/{number}.jpg", mask, quality=60)
        else:
            small = Image.fromarray(mask).rotate(7).resize((20, 13), Image.Resampling.BILINEAR)
            export.save(f"masks/{number}.png", np.array(small.resize((48, 32))))
    found = content(export)
    assert found["classes"] == ["background", "foreground"]
    assert found["others"] == "nearest"
    assert "probably from smooth edges or compression" in notes(export)
    data = saved(export)
    suffix = ".jpg" if kind == "jpeg" else ".png"
    with Image.open(export.root / f"masks/0{suffix}") as mask:
        np.testing.assert_array_equal(data.train[0].labels, np.array(mask) >= 128)


def test_colours_with_smooth_edges_are_as_many_classes(export):
    for number in range(5):
        large = export.classes(number).repeat(6, 0).repeat(6, 1)
        export.save(f"images/{number}.png", COLOURS[large] // 2)
        export.save(f"masks/{number}.jpg", COLOURS[large], quality=80)
    assert len(content(export)["classes"]) == 3
    # The colours in order are black, blue, red.
    true = np.array([0, 2, 1])[export.classes(0).repeat(6, 0).repeat(6, 1)]
    assert (saved(export).train[0].labels.numpy() == true).mean() > 0.99


@pytest.mark.parametrize(
    ("word", "said"),
    [
        (
            "scenes",
            "generated by fakd itself, so there is nothing to check; train with --data scenes",
        ),
        ("voc2012", "voc2012 is the name of a reader, .*; give the folder that holds the data"),
        ("ade20k", "ade20k is the name of a reader"),
    ],
)
def test_words_for_data_say_what_can_be_checked(tmp_path, monkeypatch, word, said):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=said):
        inspect_data(Path(word))
    # A folder of that name is a folder.
    (tmp_path / word).mkdir()
    with pytest.raises(InputError, match="expected images and PNG masks"):
        inspect_data(Path(word))


def test_archives_are_to_be_unpacked(export):
    export.text("set.zip", "")
    for path in (export.root, export.root / "set.zip"):
        with pytest.raises(InputError, match="unpack"):
            inspect_data(path)


def test_classes_that_leave_background_out_are_named_from_one_on(export):
    for number in range(5):
        export.photo(f"images/{number}.png", number)
        export.save(f"masks/{number}.png", export.classes(number))
    export.text("classes.txt", "box\nball\n")
    assert content(export)["classes"] == ["background", "box", "ball"]
    assert "becomes background, since classes.txt does not name it" in notes(export)
    export.text("classes.txt", "ground\nbox\nball\n")
    assert content(export)["classes"] == ["ground", "box", "ball"]


def test_camvid_as_kaggle_has_it(export):
    for split, count in (("train", 3), ("val", 2), ("test", 2)):
        for number in range(count):
            name = f"{split}{number:04}_{30 * number:05}"
            export.photo(f"{split}/{name}.png", number)
            export.save(f"{split}_labels/{name}_L.png", COLOURS[export.classes(number)])
    rows = [
        f"{name},{','.join(map(str, c))}" for name, c in zip("abc", COLOURS.tolist(), strict=True)
    ]
    export.text("class_dict.csv", "\n".join(["name,r,g,b", *rows]))
    found = content(export)
    assert found["classes"] == [
        {"name": name, "color": c} for name, c in zip("abc", COLOURS.tolist(), strict=True)
    ]
    assert found["train"] == {"images": "train/{name}.png", "masks": "train_labels/{name}_L.png"}
    assert found["val"] == {"images": "val/{name}.png", "masks": "val_labels/{name}_L.png"}
    assert found["test"] == {"images": "test/{name}.png", "masks": "test_labels/{name}_L.png"}


def bordered(export, number: int, void: int) -> np.ndarray:
    """Draw a box and a ball, with void along their borders."""
    mask = export.classes(number)
    edge = np.zeros(SIZE, bool)
    edge[1:] |= mask[1:] != mask[:-1]
    edge[:, 1:] |= mask[:, 1:] != mask[:, :-1]
    return np.where(edge, void, mask).astype(np.uint8)


@pytest.mark.parametrize("kind", ["ids", "colours"])
def test_what_has_no_name_and_lies_along_borders_is_void(export, kind):
    palette = np.array([(9, 200, 9), (250, 50, 83), (50, 183, 250), (0, 0, 0)], np.uint8)
    for number in range(5):
        export.photo(f"images/{number}.png", number)
        mask = bordered(export, number, 3)
        export.save(f"masks/{number}.png", mask if kind == "ids" else palette[mask])
    found = content(export)
    assert len(found["classes"]) == 3
    assert found["ignore" if kind == "ids" else "ignore_colors"] == [
        3 if kind == "ids" else [0, 0, 0]
    ]
    assert "has no name and lies along borders of the others like void" in notes(export)
    # Where it has one, it is a class like the others, and so is the last of sound masks.
    rows = [f"{name} {' '.join(map(str, c))}" for name, c in zip("abcd", palette, strict=True)]
    names = "a\nb\nc\nd" if kind == "ids" else "\n".join(f"{r[2:]} {r[0]}" for r in rows)
    export.text("classes.txt" if kind == "ids" else "label_colors.txt", names)
    assert len(content(export)["classes"]) == 4
    assert "void" not in notes(export)


def test_void_after_the_named_classes_does_not_move_their_names(export):
    for number in range(5):
        export.photo(f"images/{number}.png", number)
        export.save(f"masks/{number}.png", bordered(export, number, 3))
    export.text("classes.txt", "ground\nbox\nball\n")
    found = content(export)
    assert (found["classes"], found["ignore"]) == (["ground", "box", "ball"], [3])


def test_an_id_that_the_file_of_names_leaves_out_is_no_class_and_said(export):
    for number in range(5):
        export.photo(f"images/{number}.png", number)
        export.save(f"masks/{number}.png", export.classes(number) * 3 + 1)
    export.text("classes.csv", "id,name\n1,ground\n4,box\n")
    found = content(export)
    assert found["ids"] == {1: "ground", 4: "box"}
    assert found["ignore"] == [7]
    assert "id 7 (18.8% of the pixels) has no name in classes.csv, so it is ignored" in (
        notes(export)
    )
