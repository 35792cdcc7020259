import numpy as np
import pytest

from fakd.data import folder
from fakd.data.layout import Pattern
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
    assert pair.reader.stored(pair.mask).tolist() == IDS.tolist()
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
    except: [test.txt]
""",
        )
    )
    assert [pair.name for pair in folder(own.root).train.pairs] == ["2", "north/1"]
    (own.root / "test.txt").write_text("north/1\n")
    assert "names no image" in message(lambda: folder(own.root))


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


def test_a_layout_without_masks_is_unlabelled_but_not_half(own):
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
    assert "two data sets" in message(lambda: folder(own.root))


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
    (root / "learn.txt").unlink()
    says("expected a list", "learn.txt", "test.txt", "change train in")
    own.list("learn.txt", "north/1")
    (root / "truth/north/1_ids.png").rename(root / "truth/north/1_colors.png")
    says("no mask", "1_ids.png", "1_colors.png is there, but holds colours")
    (root / "truth/north/1_colors.png").rename(root / "truth/north/1.png")
    says("1.png is there, but is named otherwise")
    (root / "truth/north/1.png").rename(root / "truth/north/10_ids.png")
    assert "is there" not in message(lambda: folder(root))
    (root / "truth").rename(root / "moved")
    says("expected a folder", "truth", "holds", "moved", "dataset.yaml")
    own.describe(LAYOUT.replace("photos/", "pictures/"))
    says("expected a folder", "pictures", "photos")
    own.describe(LAYOUT.replace("_rgb.jpg", "_rgb.png"))
    says("photos holds no file like photos/{name}_rgb.png")
    (root / "learn.txt").write_bytes(b"\xff\xfe")
    own.describe(LAYOUT)
    says("cannot read the list", "learn.txt", "no text")


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
        (["im_01", "x"], 3, ["the others should lie under"]),
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
        ("train: {masks: 'a/{name}.jpg'}", ["lacks images"]),
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
        ("classes: [{name: a, id: x}]", ["65535", "'x'"]),
    ],
)
def test_mistakes_in_class_ids_are_explained(made_up, text, words):
    made_up.describe(text)
    said = message(lambda: folder(made_up.root))
    for word in words:
        assert word in said
