import os
import unicodedata

import numpy as np
import pytest

from fakd.data import folder
from fakd.data.layout import Pattern
from fakd.inspection import Severity, inspect_data
from stand_ins import message

IDS = np.array([[0, 1], [1, 255]], np.uint8)


@pytest.fixture
def own(made_up):
    """Photos and masks of two towns side by side, and a list of names per split."""
    made_up.image("photos/north/1_rgb.jpg", size=(2, 2))
    made_up.mask("truth/north/1_ids.png", IDS)
    made_up.image("photos/south/2_rgb.jpg", size=(2, 2))
    made_up.mask("truth/south/2_ids.png", 1 - IDS.clip(0, 1))
    made_up.list("learn.txt", "north/1")
    made_up.list("test.txt", "south/2", "", "  ")
    made_up.describe(LAYOUT)
    return made_up


LAYOUT = """
classes: [road, car]
train: {images: "photos/{name}_rgb.jpg", masks: "truth/{name}_ids.png", list: learn.txt}
val: {images: "photos/{name}_rgb.jpg", masks: "truth/{name}_ids.png", list: test.txt}
"""


@pytest.mark.parametrize(
    ("pattern", "files", "expected"),
    [
        ("a/b/{name}.png", ["x.png", "c/y.png", "z.PNG", "w.jpg"], ["c/y", "x"]),
        ("a/{name}_leftImg8bit.png", ["q/1_leftImg8bit.png", "q/1_color.png"], ["q/1"]),
        ("img_{name}.*", ["img_1.JPG", "img_2.tif", "mask_1.png"], ["1"]),
        ("{name}/image.png", ["s1/image.png", "s1/mask.png", "/image.png"], ["s1"]),
    ],
)
def test_patterns(pattern, files, expected):
    assert sorted(Pattern(pattern).names(files, (".png", ".jpg"))) == expected


def test_an_own_layout_with_lists(own):
    data = folder(own.root)
    assert [pair.name for pair in data.train.pairs] == ["north/1"]
    assert [pair.name for pair in data.val.pairs] == ["south/2"]
    assert data.train[0].labels.tolist() == [[0, 1], [1, -1]]
    pair = data.train.pairs[0]
    assert pair.reader.read_values(pair.mask).tolist() == IDS.tolist()
    assert pair.reader.encoding.ids == {255: -1, 65535: -1, 0: 0, 1: 1}
    assert data.remarks == ()
    assert data.protocol is None
    lines = list(data.train.identity())
    assert lines[1].startswith("photos/north/1_rgb.jpg ")


def test_parts_are_joined_and_sorted_and_lists_exclude(own):
    own.describe(
        LAYOUT.replace(
            'train: {images: "photos/{name}_rgb.jpg", masks: "truth/{name}_ids.png", '
            "list: learn.txt}",
            """
train:
  - {images: "photos/south/{name}_rgb.jpg", masks: "truth/south/{name}_ids.png"}
  - images: "photos/{name}_rgb.jpg"
    masks: "truth/{name}_ids.png"
    list: [[none.txt], [test.txt, learn.txt]]
    exclude: [test.txt]
""",
        )
    )
    assert [pair.name for pair in folder(own.root).train.pairs] == ["2", "north/1"]
    (own.root / "test.txt").write_text("north/1\n")
    assert "leaves no image" in message(lambda: folder(own.root))


def test_lists_exclude_from_all_that_match_and_may_lie_beside_the_description(own, tmp_path):
    elsewhere = tmp_path / "described"
    elsewhere.mkdir()
    described = elsewhere / "dataset.yaml"
    described.write_text(LAYOUT.replace("list: learn.txt", "exclude: [held-out.txt]"))
    (elsewhere / "held-out.txt").write_text("south/2\n")
    assert [pair.name for pair in folder(own.root, described).train.pairs] == ["north/1"]
    # What lies among the data comes first.
    (own.root / "held-out.txt").write_text("north/1\n")
    assert [pair.name for pair in folder(own.root, described).train.pairs] == ["south/2"]
    (own.root / "held-out.txt").write_text("north/1\nsouth/2\n")
    assert "held-out.txt leaves no image to use" in message(lambda: folder(own.root, described))
    (own.root / "held-out.txt").write_text("north/1\nnorth/l\n")
    said = message(lambda: folder(own.root, described))
    assert "exclude: held-out.txt names north/l, but no image has that name; " in said
    assert "names look like north/1" in said
    (own.root / "held-out.txt").write_text("north/1.JPG\n")
    assert [pair.name for pair in folder(own.root, described).train.pairs] == ["south/2"]
    for entries, left in (("north/*", ["south/2"]), ("[south/2.jpg]", ["north/1"])):
        described.write_text(LAYOUT.replace("list: learn.txt", f"exclude: {entries}"))
        assert [pair.name for pair in folder(own.root, described).train.pairs] == left
    described.write_text(LAYOUT.replace("list: learn.txt", "exclude: nroth*"))
    said = message(lambda: folder(own.root, described))
    assert "exclude: nroth* matches no image; names look like north/1" in said
    assert f"change train in {described}" in said
    described.write_text(LAYOUT.replace("list: learn.txt", "exclude: [held-out.txt]"))
    (own.root / "held-out.txt").unlink()
    (elsewhere / "held-out.txt").unlink()
    assert "held-out.txt" in message(lambda: folder(own.root, described))


def test_an_image_in_two_parts_is_refused(own):
    part = '{images: "photos/{name}_rgb.jpg", masks: "truth/{name}_ids.png"}'
    own.describe(f"classes: [a, b]\ntrain: [{part}, {part}]\nval: {part}")
    text = message(lambda: folder(own.root))
    assert "two parts of train" in text
    assert "1_rgb.jpg" in text


def test_the_first_complete_place_of_masks_holds_with_its_own_ids(own):
    description = """
classes: [road, car]
train:
  images: "photos/{name}_rgb.jpg"
  masks:
    - "better/{name}.png"
    - {files: "truth/{name}_ids.png", ids: {0: car}, others: road}
val: {images: "photos/{name}_rgb.jpg", masks: "truth/{name}_ids.png"}
"""
    own.describe(description)
    assert folder(own.root).train[0].labels.tolist() == [[1, 0], [0, -1]]
    own.mask("better/north/1.png", IDS)
    assert folder(own.root).train[0].labels.tolist() == [[1, 0], [0, -1]]
    own.mask("better/south/2.png", IDS)
    assert folder(own.root).train[0].labels.tolist() == [[0, 1], [1, -1]]
    (own.root / "truth/north/1_ids.png").unlink()
    (own.root / "better/north/1.png").unlink()
    text = message(lambda: folder(own.root))
    assert "no mask" in text
    assert "north/1" in text


def test_a_layout_without_masks_is_unlabelled_as_a_whole_or_in_part(own):
    description = LAYOUT.replace('masks: "truth/{name}_ids.png", list: learn', "list: learn")
    own.describe(description)
    assert not folder(own.root).train.labelled
    assert folder(own.root).train[0].labels is None
    own.describe(
        """
classes: [road, car]
train:
  - {images: "photos/{name}_rgb.jpg", list: learn.txt}
  - {images: "photos/{name}_rgb.jpg", masks: "truth/{name}_ids.png", list: test.txt}
val: {images: "photos/{name}_rgb.jpg", masks: "truth/{name}_ids.png"}
"""
    )
    train = folder(own.root).train
    assert 0 < len(train.labelled_indices()) < len(train)


def test_class_ids_others_settings_and_shared_colours(own):
    own.describe(
        """
classes: [{name: road, id: 1, color: [9, 9, 9]}, {name: car, id: 5, color: [9, 9, 9]}]
masks: ids
others: car
protocol: {base: [520, 500], window: 480, stride: 320}
augmentation: {base: [520, 520]}
train: {images: "photos/{name}_rgb.jpg", masks: "truth/{name}_ids.png", list: learn.txt}
val: {images: "photos/{name}_rgb.jpg", masks: "truth/{name}_ids.png", list: test.txt}
"""
    )
    data = folder(own.root)
    assert data.train[0].labels.tolist() == [[1, 0], [0, -1]]
    assert data.protocol == {"base": [520, 500], "window": 480, "stride": 320}
    assert data.augmentation == {"base": [520, 520]}
    own.mask("truth/north/1_ids.png", np.array([[[1, 2, 3]] * 2] * 2, np.uint8))
    text = message(lambda: folder(own.root).train[0])
    assert "holds colours" in text
    assert "expects class ids" in text


def test_what_is_missing_is_named(own):
    root = own.root

    def says(*words):
        text = message(lambda: folder(root))
        for word in words:
            assert word in text, text

    own.list("learn.txt", "north/1", "north/7", "north/8")
    says("learn.txt names north/7", "photos/north/7_rgb.jpg", "1 more like it")
    for line in (
        "north/1 masks/1.png",
        "north\\1",
        "north/1,2",
        '"north/1"',
        "photos/north/1",
        "./photos/north/1.jpg",
    ):
        own.list("learn.txt", line)
        says("learn.txt names", "the name in photos/{name}_rgb.jpg alone: write north/1")
    (root / "learn.txt").unlink()
    says("expected a list", "learn.txt", "test.txt", "change train in")
    own.list("learn.txt", "north/1")
    (root / "truth/north/1_ids.png").rename(root / "truth/north/1_colors.png")
    says("no mask", "1_ids.png", "1_colors.png exists, but holds colours")
    (root / "truth/north/1_colors.png").rename(root / "truth/north/1_IDS.PNG")
    says("no mask", "1_IDS.PNG exists, but has another name")
    (root / "truth/north/1_IDS.PNG").rename(root / "truth/north/1.png")
    says("1.png exists, but has another name")
    (root / "truth/north/1.png").rename(root / "truth/north/10_ids.png")
    assert "exists, but" not in message(lambda: folder(root))
    (root / "truth").rename(root / "moved")
    says("expected a folder", "truth", "holds", "moved", "dataset.yaml")
    own.describe(LAYOUT.replace("photos/", "pictures/"))
    says("expected a folder", "pictures", "photos")
    own.describe(LAYOUT.replace("_rgb.jpg", "_rgb.png"))
    says("photos holds no file like photos/{name}_rgb.png")
    (root / "learn.txt").write_bytes(b"\0\1")
    own.describe(LAYOUT)
    says("cannot read the list", "learn.txt", "not UTF-8 text; save it as UTF-8")


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (2, ["val has 1 of town's 2 images (test.txt)", "the others are missing in", "test.txt"]),
        (1, []),
    ],
)
def test_counts_are_remarked(own, count, words):
    own.describe(
        f"name: town\n{LAYOUT}".replace("list: test.txt", f"list: test.txt, count: {count}")
    )
    remarks = folder(own.root).remarks
    assert len(remarks) == bool(words)
    assert all(word in remarks[0] for word in words)


@pytest.mark.parametrize(
    ("names", "count", "words"),
    [
        (["im_01", "im_03"], 3, ["2 of the described's 3", "for example, im_02.png"]),
        (["im_02", "im_03"], 3, ["for example, im_01.png"]),
        (["im_01", "im_02"], 4, ["for example, im_03.png"]),
        (["im_01", "x"], 3, ["the others should be in"]),
        (["im_01", "im_02"], 1, ["2 images", "more than", "1;"]),
    ],
)
def test_numbered_images_that_are_missing_are_named(made_up, names, count, words):
    for name in names:
        made_up.pair("train", f"n/{name}", IDS)
    made_up.describe(
        "classes: [a, b]\ntrain: {images: 'train/images/n/{name}.png', masks: "
        f"'train/masks/n/{{name}}.png', count: {count}}}"
    )
    (remark,) = folder(made_up.root).remarks
    for word in words:
        assert word in remark


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("train: [x]", ["train must say where", "images/{name}.jpg"]),
        ("train: []", ["train must say where"]),
        ("train: {image: 'a/{name}.jpg'}", ["'image'", "'images'"]),
        ("train: {masks: 'a/{name}.jpg'}", ["has no key images"]),
        ("train: {images: a/*.jpg}", ["{name}", "a/*.jpg"]),
        ("train: {images: 'a/{name}'}", ["suffix", "a/{name}"]),
        ("train: {images: '{name}/{name}.jpg'}", ["once"]),
        ("train: {images: 'a/{name}.jpg', masks: 3}", ["masks must be a path", "3"]),
        ("train: {images: 'a/{name}.jpg', masks: [{file: x}]}", ["'file'", "'files'"]),
        ("train: {images: 'a/{name}.jpg', list: 3}", ["list must be a list"]),
        ("train: {images: 'a/{name}.jpg', list: []}", ["list must name files"]),
        ("train: {images: 'a/{name}.jpg', count: many}", ["count", "'many'"]),
        ("val: {images: 'a/{name}.jpg'}", ["val needs masks"]),
        ("others: rod", ["others maps to 'rod'", "'road'"]),
        ("source: 3", ["source must be text"]),
        ("protocol: 3", ["protocol must hold settings"]),
        ("protocol: {sride: 3}", ["'sride'", "'stride'"]),
        ("protocol: {base: 3}", ["base must be two numbers", "3"]),
        ("protocol: {window: 0}", ["window must be a number", "0"]),
        ("augmentation: {base: [3, x]}", ["base must be two numbers"]),
    ],
)
def test_mistakes_in_the_layout_are_explained(made_up, text, words):
    path = made_up.describe(f"classes: [road, car]\n{text}\n")
    said = message(lambda: folder(made_up.root))
    for word in [str(path), *words]:
        assert word in said


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("classes: [{name: a, id: 1}, b]", ["1 of 2 classes have an id"]),
        ("classes: [{name: a, id: 1}, {name: b, id: 1}]", ["same id"]),
        ("classes: [{name: a, id: 1}]\nids: {1: a}", ["both classes and ids"]),
        ("classes: [{name: a, id: 1}]\nignore: [1]", ["both classes and ignore"]),
        (
            "classes: [box, ball]\nignore: [0]\nothers: ignore",
            ["id 0", "'box'", "position", "id: 1"],
        ),
        ("classes: [a]\nids: {3: a}\nignore: [[3]]", ["65535", "[3]"]),
        (
            "classes: [{name: a, color: [1, 2, 3]}]\nignore_colors: [[1, 2, 3]]",
            ["[1, 2, 3]", "class"],
        ),
        ("classes: [{name: a, id: x}]", ["65535", "'x'"]),
    ],
)
def test_mistakes_in_class_ids_are_explained(made_up, text, words):
    made_up.describe(text)
    said = message(lambda: folder(made_up.root))
    for word in words:
        assert word in said


def beside(made_up, *names, image="all/{}.png", mask="all/{}_mask.png"):
    """Images and masks of those names, described alike for both splits."""
    for name in names:
        made_up.image(image.format(name), size=(2, 2))
        made_up.mask(mask.format(name), IDS)
    part = f'{{images: "{image.format("{name}")}", masks: "{mask.format("{name}")}"}}'
    made_up.describe(f"classes: [road, car]\ntrain: {part}\nval: {part}\n")
    return made_up.root


def names(split):
    return [pair.name for pair in split.pairs]


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("all/{}.png", "all/{}_mask.png"),
        ("all/{}_rgb.png", "all/{}.png"),
        ("all/{}.png", "all/masks/{}.png"),
        ("all/{}.*", "all/m_{}.png"),
    ],
)
def test_masks_beside_images_are_no_images(made_up, image, mask):
    root = beside(made_up, "face_mask", "7", image=image.replace("*", "png"), mask=mask)
    description = (root / "dataset.yaml").read_text().replace("{name}.png", "{name}.*", 1)
    made_up.describe(description if "*" in image else (root / "dataset.yaml").read_text())
    assert names(folder(root).train) == ["7", "face_mask"]
    (listing, _) = inspect_data(root).opened.splits
    assert listing.masks_alone == []
    (root / image.replace("*", "png").format("7")).unlink()
    assert names(folder(root).train) == ["face_mask"]
    assert inspect_data(root).opened.splits[0].masks_alone == [root / mask.format("7")]


def test_an_image_beside_masks_that_has_none_is_still_missed(made_up):
    root = beside(made_up, "1", "2", image="all/{}_rgb.png", mask="all/{}.png")
    (root / "all/2.png").unlink()
    assert "2_rgb.png" in message(lambda: folder(root))


def test_an_image_is_never_its_own_mask(made_up):
    root = beside(made_up, "a", image="all/{}.png", mask="all/{}.png")
    assert "matches both images: and masks:" in message(lambda: folder(root))
    made_up.list("list.txt", "a")
    made_up.describe((root / "dataset.yaml").read_text().replace("}\n", ", list: list.txt}\n"))
    assert "matches both images: and masks:" in message(lambda: folder(root))


def test_pictures_that_no_pattern_takes_are_counted_and_said(made_up):
    root = beside(made_up, "a", image="photos/{}.jpg", mask="truth/{}.png")
    made_up.image("photos/a.png")
    made_up.image("photos/b.JPG")
    made_up.mask("truth/b.png", IDS)
    assert folder(root).remarks[0] == (
        f"train leaves out 1 image ({root}/photos/b.JPG), since photos/{{name}}.jpg does not match "
        ".JPG; end it in .* for any suffix"
    )
    found = [each for each in inspect_data(root).findings if each.severity is Severity.HARMS]
    assert "leaves out 1 image" in found[0].text
    assert not any("without an image" in each.text for each in found), "b.png has its image"
    (root / "photos/b.JPG").rename(root / "photos/b.heic")
    assert "does not match .heic; save them as PNG" in folder(root).remarks[0]
    (root / "photos/b.heic").rename(root / "photos/b.txt")
    assert not any("leaves out" in each for each in folder(root).remarks)


def test_pictures_of_another_part_are_not_left_out(made_up):
    made_up.image("all/a.jpg", size=(2, 2))
    made_up.image("all/b.png", size=(2, 2))
    for name in "ab":
        made_up.mask(f"truth/{name}.png", IDS)
    parts = [
        f'{{images: "all/{{name}}.{end}", masks: "truth/{{name}}.png"}}' for end in ("jpg", "png")
    ]
    made_up.describe(f"classes: [x, y]\ntrain: {parts[0]}\nval: {parts[1]}\n")
    assert folder(made_up.root).remarks == ()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le-bom"])
@pytest.mark.parametrize("forms", [("NFC", "NFD", "NFC"), ("NFD", "NFC", "NFD")])
def test_lists_and_files_match_in_any_encoding_and_unicode_form(made_up, encoding, forms):
    image, mask, listed = (unicodedata.normalize(form, "caf\u00e9") for form in forms)
    beside(made_up, image=f"{image}/{{}}.jpg", mask=f"{mask}-truth/{{}}.png")
    made_up.image(f"{listed}/{image}.jpg", size=(2, 2))
    made_up.mask(f"{listed}-truth/{mask}.png", IDS)
    made_up.image(f"{listed}/x .jpg", size=(2, 2))
    made_up.mask(f"{listed}-truth/x .png", IDS)
    text = (made_up.root / "dataset.yaml").read_text()
    made_up.describe(text.replace('.png"}', f'.png", list: {mask}.txt}}'))
    content = f"{listed}  \r\n\r\nx \r\n"
    coded = (
        b"\xff\xfe" + content.encode("utf-16-le") if "bom" in encoding else content.encode(encoding)
    )
    (made_up.root / f"{image}.txt").write_bytes(coded)
    data = folder(made_up.root)
    assert names(data.train) == ["caf\u00e9", "x "]
    assert data.train[0].labels is not None


def test_names_of_any_bytes(made_up):
    raw = os.fsdecode(b"caf\xe9")
    root = beside(made_up, raw, "x" * 246, "line\x0bor\x85line")
    text = (root / "dataset.yaml").read_text()
    made_up.describe(text.replace("_mask.png", '_mask.png", list: "list.txt', 1))
    (root / "list.txt").write_bytes(b"caf\xe9\n" + b"x" * 246 + "\nline\x0bor\x85line".encode())
    data = folder(root)
    assert sorted(names(data.train)) == sorted([raw, "x" * 246, "line\x0bor\x85line"])
    assert names(data.train) == names(data.val)
    assert len(data.fingerprint()) == 16
    (root / "list.txt").write_bytes(b"fa\xe7ade\n")
    assert "save the list as UTF-8" in message(lambda: folder(root))


def test_the_fingerprint_does_not_follow_the_unicode_form(made_up, tmp_path):
    prints = []
    for form in ("NFC", "NFD"):
        made_up.root = tmp_path / form
        root = beside(made_up, unicodedata.normalize(form, "\u00e9"))
        prints.append(folder(root).fingerprint())
    assert prints[0] == prints[1]


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "../photos/north/1"])
def test_names_in_lists_that_leave_the_folder_are_refused(own, name):
    own.list("learn.txt", name)
    assert f"names {name}, but there is no" in message(lambda: folder(own.root))


def test_a_pattern_may_be_absolute(own):
    own.describe(LAYOUT.replace('"photos', f'"{own.root}/photos'))
    assert len(folder(own.root).fingerprint()) == 16


def test_a_place_of_masks_keeps_the_ids_of_the_classes(own):
    own.describe(
        """
classes: [{name: road, id: 1}, {name: car, id: 0}]
train:
  images: "photos/{name}_rgb.jpg"
  masks: {files: "truth/{name}_ids.png", others: ignore}
val: {images: "photos/{name}_rgb.jpg", masks: "truth/{name}_ids.png"}
"""
    )
    assert folder(own.root).train[0].labels.tolist() == [[1, 0], [0, -1]]
