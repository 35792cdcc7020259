"""Annotations that are no masks: each format is drawn as it should be."""

import base64
import io
import json
import shutil
import zlib

import numpy as np
import pytest
from PIL import Image

from fakd.cli import main
from fakd.data import folder
from fakd.errors import InputError
from fakd.inspection import inspect_data
from fakd.inspection.annotations.coco import run_lengths
from fakd.inspection.annotations.regions import Drawing, Region, draw_regions, fill_polygon

HEIGHT, WIDTH = 32, 48
BOX = [(4, 6), (20, 6), (20, 18), (4, 18)]
"""Columns 4 to 19 of rows 6 to 17."""
BALL = [(16, 10), (40, 10), (40, 30), (16, 30)]
NOTHING = -1


def expected(*painted) -> np.ndarray:
    """Classes painted as rectangles, (class, left, top, right, bottom), over class 0."""
    classes = np.zeros((HEIGHT, WIDTH), int)
    for number, left, top, right, bottom in painted:
        classes[top:bottom, left:right] = number
    return classes


BALL_OVER_BOX = expected((2, 4, 6, 20, 18), (1, 16, 10, 40, 30))
BOX_OVER_BALL = expected((1, 16, 10, 40, 30), (2, 4, 6, 20, 18))
"""Classes by name: background, ball, box."""


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path / "raw"


def photo(root, name: str, number: int = 0) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(number).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)


def write(root, name: str, content) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def saved(root):
    """Draw the masks; return the data."""
    place = root.parent / "new" / "saved"
    assert main(["data", "check", str(root), "--save", str(place)]) == 0
    return folder(place)


def labels(split) -> dict:
    return {split.name(index): split[index].labels.numpy() for index in range(len(split))}


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def coco_instances(root) -> None:
    flat = [float(each) for point in BOX for each in point]
    # Runs down the columns: what lies before row 10 of column 16, then 20 of every 32 pixels.
    runs = [16 * HEIGHT + 10, *([20, 12] * 24)[:-1], 2 + 8 * HEIGHT]
    crowd = [0, HEIGHT, HEIGHT * (WIDTH - 1)]
    images, annotations = [], []
    for number in range(5):
        name = f"{number:03}.jpg"
        photo(root, f"images/{name}", number)
        images.append({"id": number, "file_name": name, "height": HEIGHT, "width": WIDTH})
    for number in range(4):
        common = {"image_id": number, "iscrowd": 0}
        size = {"size": [HEIGHT, WIDTH]}
        annotations += [
            {**common, "category_id": 7, "segmentation": [flat]},
            {**common, "category_id": 3, "segmentation": {"counts": runs, **size}},
            {"image_id": number, "iscrowd": 1, "category_id": 3,
             "segmentation": {"counts": crowd, **size}},
        ]  # fmt: skip
    categories = [{"id": 7, "name": "box"}, {"id": 3, "name": "ball"}, {"id": 9, "name": "none"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    write(root, "annotations/instances_default.json", content)


def test_coco_draws_the_larger_first_and_leaves_crowds_out(root):
    coco_instances(root)
    data = saved(root)
    assert data.class_names == ("background", "ball", "box")
    true = BOX_OVER_BALL.copy()
    true[:, 0] = NOTHING
    np.testing.assert_array_equal(labels(data.train)["000"], true)
    # Listed without an annotation: nothing of any class is on it.
    assert (labels(data.val)["004"] == 0).all()


def test_boxes_of_coco_are_refused_where_there_are_no_outlines(root):
    photo(root, "a.jpg")
    image = {"id": 0, "file_name": "a.jpg", "height": HEIGHT, "width": WIDTH}
    box = {"image_id": 0, "category_id": 1, "bbox": [1, 2, 3, 4], "segmentation": []}
    categories = [{"id": 1, "name": "box"}]
    write(root, "a.json", {"images": [image], "annotations": [box], "categories": categories})
    with pytest.raises(
        InputError, match="keypoints and boxes do not give pixels; export segmentation"
    ):
        inspect_data(root)


def test_what_would_be_drawn_is_said_first(root):
    coco_instances(root)
    with pytest.raises(InputError, match=r"5 images .* COCO, with 3 classes .* --save NEWFOLDER"):
        inspect_data(root)


def test_coco_by_split_as_roboflow_exports_it(root):
    for split in ("train", "valid"):
        photo(root, f"{split}/a_{split}.jpg")
        content = {
            "images": [{"id": 0, "file_name": f"a_{split}.jpg", "height": HEIGHT, "width": WIDTH}],
            "annotations": [
                {"image_id": 0, "category_id": 1, "segmentation": [[4, 6, 20, 6, 20, 18, 4, 18]]}
            ],
            "categories": [{"id": 0, "name": "things"}, {"id": 1, "name": "box"}],
        }
        write(root, f"{split}/_annotations.coco.json", content)
    data = saved(root)
    assert data.class_names == ("background", "box")
    assert (len(data.train), len(data.val)) == (1, 1)
    np.testing.assert_array_equal(data.train[0].labels, expected((1, 4, 6, 20, 18)))


def test_coco_panoptic_maps_have_no_class_where_they_are_void(root):
    images, annotations = [], []
    for number in range(3):
        photo(root, f"val2017/{number}.jpg", number)
        ids = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        ids[6:18, 4:20] = [44, 1, 0]
        ids[10:30, 16:40] = [5, 0, 2]
        path = root / f"panoptic_val2017/{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(ids).save(path)
        size = {"height": HEIGHT, "width": WIDTH}
        images.append({"id": number, "file_name": f"{number}.jpg", **size})
        segments = [
            {"id": 300, "category_id": 2, "iscrowd": 0},
            {"id": 5 + 2 * 256**2, "category_id": 1, "iscrowd": 0},
        ]
        names = {"image_id": number, "file_name": f"{number}.png"}
        annotations.append({**names, "segments_info": segments})
    categories = [{"id": 1, "name": "ball"}, {"id": 2, "name": "box"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    write(root, "panoptic_val2017.json", content)
    data = saved(root)
    assert data.class_names == ("ball", "box")
    np.testing.assert_array_equal(data.train[0].labels, BALL_OVER_BOX - 1)


def labelme(root, *shapes, name="a", **more) -> None:
    photo(root, f"photos/{name}.jpg", len(name))
    size = {"imageHeight": HEIGHT, "imageWidth": WIDTH}
    write(
        root, f"photos/{name}.json", {"shapes": shapes, "imagePath": f"{name}.jpg", **size, **more}
    )


def shape(label: str, points, kind="polygon", **more) -> dict:
    return {"label": label, "points": points, "shape_type": kind, **more}


def test_labelme_draws_in_the_order_of_the_file(root):
    # A space by mistake makes no other class.
    for name, label in (("aa", "box"), ("bb", "box "), ("cc", " box")):
        labelme(root, shape(label, BOX), shape("ball", [BALL[0], BALL[2]], "rectangle"), name=name)
    bitmap = base64.b64encode(png(np.ones((12, 16), bool))).decode()
    mask = shape("box", [(4, 6), (19, 17)], "mask", mask=bitmap)
    labelme(root, shape("ball", BALL), mask, shape("box", [(1, 1)], "point"), name="dd")
    labelme(root, shape("ball", [(20, 16), (20, 6)], "circle"), shape("void", BOX), name="ee")
    photo(root, "photos/alone.jpg")
    data = saved(root)
    assert data.class_names == ("background", "ball", "box")
    drawn = labels(data.train) | labels(data.val)
    assert sorted(drawn) == ["aa", "bb", "cc", "dd", "ee"]
    for name in ("aa", "bb", "cc"):
        np.testing.assert_array_equal(drawn[name], BALL_OVER_BOX)
    np.testing.assert_array_equal(drawn["dd"], BOX_OVER_BALL)
    assert (drawn["ee"] == NOTHING).sum() == 16 * 12
    rows, columns = np.indices((HEIGHT, WIDTH)) + 0.5
    circle = ((rows - 16) ** 2 + (columns - 20) ** 2 < 100) & (drawn["ee"] != NOTHING)
    assert (circle != (drawn["ee"] == 1)).sum() <= 8


def test_labelmes_rectangles_may_be_rotated(root):
    labelme(root, shape("ball", BALL, "rotation"), shape("box", BOX), name="aa")
    labelme(root, shape("ball", BALL), shape("box", BOX), name="bb")
    data = saved(root)
    drawn = labels(data.train) | labels(data.val)
    np.testing.assert_array_equal(drawn["aa"], drawn["bb"])
    assert len(np.unique(drawn["aa"])) == 3


def test_labelmes_shapes_without_label_or_of_other_kinds_leave_their_image_out(root):
    for name in ("aa", "bb"):
        labelme(root, shape("box", BOX), name=name)
    labelme(root, shape("box", BOX), shape(None, BALL), name="cc")
    labelme(root, shape(" ", BALL), name="dd")
    labelme(root, shape("ball", BALL, "ellipse"), name="ee")
    inspection = inspect_data(root, save=root.parent / "saved")
    said = "\n".join(each.text for each in inspection.findings)
    assert "3 images left out" in said
    assert folder(root.parent / "saved").class_names == ("background", "box")


def test_what_cannot_be_drawn_is_left_out_and_said(root):
    for name in ("aa", "bb", "cc"):
        labelme(root, shape("box", BOX), shape("line", BOX, "line"), name=name)
    labelme(root, shape("box", BOX), name="other", imageWidth=640)
    inspection = inspect_data(root, save=root.parent / "saved")
    said = "\n".join(each.text for each in inspection.findings)
    assert "1 image left out: photos/other.jpg (photos/other.json): the image is 48x32" in said
    assert "3 points and lines left out" in said


def test_labelmes_folders_whose_ids_differ_are_brought_together(root):
    for number, names in enumerate((["ball", "box"], ["box"], ["ball"])):
        folder = root / f"{number}_json"
        photo(root, f"{number}_json/img.png", number)
        ids = np.zeros((HEIGHT, WIDTH), np.uint8)
        ids[6:18, 4:20] = 1
        Image.fromarray(ids).save(folder / "label.png")
        photo(root, f"{number}_json/label_viz.png", number)
        (folder / "label_names.txt").write_text("\n".join(["_background_", *names]))
    data = saved(root)
    assert data.class_names == ("background", "ball", "box")
    both = labels(data.train) | labels(data.val)
    seen = [sorted(np.unique(both[f"{number}_json/img"])) for number in range(3)]
    assert seen == [[0, 1], [0, 2], [0, 1]]


def test_supervisely_draws_polygons_with_holes_and_bitmaps(root):
    bitmap = base64.b64encode(zlib.compress(png(np.ones((20, 24), bool)))).decode()
    for number in range(3):
        photo(root, f"ds/img/{number}.jpg", number)
        (root / "ds/masks_machine").mkdir(exist_ok=True)
        Image.fromarray(np.full((HEIGHT, WIDTH), 9, np.uint8)).save(
            root / f"ds/masks_machine/{number}.png"
        )
        hole = [(6, 8), (10, 8), (10, 12), (6, 12)]
        objects = [
            {"classTitle": "ball", "geometryType": "bitmap",
             "bitmap": {"origin": [16, 10], "data": bitmap}},
            {"classTitle": "box", "geometryType": "polygon",
             "points": {"exterior": BOX, "interior": [hole]}},
        ]  # fmt: skip
        size = {"height": HEIGHT, "width": WIDTH}
        write(root, f"ds/ann/{number}.jpg.json", {"size": size, "objects": objects})
    titles = [{"title": title, "shape": "any"} for title in ("never", "box", "ball")]
    write(root, "meta.json", {"classes": titles})
    data = saved(root)
    assert data.class_names == ("background", "box", "ball")
    true = np.array([0, 2, 1])[BOX_OVER_BALL]
    true[8:12, 6:10] = 0
    np.testing.assert_array_equal(data.train[0].labels, true)


def yolo(root, line=None) -> None:
    def corners(points):
        return " ".join(f"{x / WIDTH} {y / HEIGHT}" for x, y in points)

    for split in ("train", "val"):
        for number in range(2):
            photo(root, f"images/{split}/{split}{number}.jpg", number)
            text = f"1 {corners(BOX)}\n0 {corners(BALL)}\n" if number else ""
            write(root, f"labels/{split}/{split}{number}.txt", line or text)
    write(root, "data.yaml", "train: images/train\nval: images/val\nnames: {0: ball, 1: box}\n")


def test_yolos_outlines(root):
    yolo(root)
    photo(root, "images/train/alone.jpg")
    data = saved(root)
    assert data.class_names == ("background", "ball", "box")
    np.testing.assert_array_equal(labels(data.train)["train/train1"], BOX_OVER_BALL)
    assert (labels(data.train)["train/train0"] == 0).all()
    assert len(data.train) == 2


def test_yolos_boxes_are_refused_and_nothing_is_left(root):
    yolo(root, "0 0.5 0.5 0.2 0.2\n")
    with pytest.raises(InputError, match=r"YOLO.*keypoints and boxes do not give pixels"):
        inspect_data(root, save=root.parent / "new" / "saved")
    assert not (root.parent / "new").exists()


def test_yolos_turned_boxes_are_no_outlines(root):
    middle, side = np.array([0.5, 0.4]), np.array([0.2, 0.1])
    across = np.array([-0.05, 0.1])
    corners = np.array([middle - side, middle - across, middle + side, middle + across])
    line = "1 " + " ".join(f"{each:.6f}" for each in corners.ravel()) + "\n"
    yolo(root, line)
    with pytest.raises(InputError, match="boxes do not give pixels"):
        inspect_data(root, save=root.parent / "saved")
    assert not (root.parent / "saved").exists()
    # Next to an outline of more corners than a box has, four corners are an outline, too.
    yolo(root, line + "0 0.1 0.1 0.3 0.1 0.4 0.2 0.3 0.3 0.1 0.2\n")
    assert saved(root).class_names == ("background", "ball", "box")


def test_nothing_is_left_of_masks_that_failed(root):
    labelme(root, shape("box", BOX), imageWidth=640)
    (root.parent / "saved").mkdir()
    for place in ("saved", "new/saved"):
        with pytest.raises(InputError, match=r"no image .* could be drawn"):
            inspect_data(root, save=root.parent / place)
    assert sorted(path.name for path in root.parent.iterdir() if path.name != "cache") == [
        "raw",
        "saved",
    ]
    assert not [*(root.parent / "saved").iterdir()]


def test_annotations_that_are_damaged_are_refused_in_one_line(root):
    photo(root, "a.jpg")
    write(root, "a.json", {"shapes": [{"label": "box"}], "imagePath": "a.jpg"})
    with pytest.raises(InputError, match=r"cannot read the annotations in a\.json .*KeyError"):
        inspect_data(root, save=root.parent / "saved")


def test_a_damaged_file_beside_a_sound_one_is_named(root):
    coco_instances(root)
    (root / "annotations/instances_val.json").write_text('{"images": [')
    with pytest.raises(InputError, match=r"instances_val\.json, which is no JSON; export them"):
        inspect_data(root, save=root.parent / "saved")


def test_suffixes_in_capitals_and_empty_outlines(root):
    coco_instances(root)
    file = root / "annotations/instances_default.json"
    content = json.loads(file.read_bytes())
    content["annotations"] += [
        {"image_id": 0, "category_id": 7, "segmentation": [[]]},
        {"image_id": 1, "category_id": 9, "segmentation": [[], [0, 0, 4, 0, 4, 4]]},
    ]
    file.unlink()
    write(root, "annotations/INSTANCES.JSON", content)
    drawn = labels(saved(root).train)
    assert sorted(drawn) == ["000", "001", "002", "003"]
    assert (drawn["001"] == 3).sum() > 0


def test_outlines_of_the_photo_as_stored_name_its_exif_orientation(root):
    turned = Image.Exif()
    turned[0x0112] = 6
    labelme(root, shape("box", BOX), name="a", imageWidth=WIDTH, imageHeight=HEIGHT)
    with Image.open(root / "photos/a.jpg") as image:
        image.save(root / "photos/a.jpg", exif=turned)
    with pytest.raises(InputError, match=r"EXIF orientation is not applied; .*exiftool -Orient"):
        inspect_data(root, save=root.parent / "saved")


def test_masks_keep_their_images_where_they_are_and_are_small(root):
    coco_instances(root)
    saved = root.parent / "saved"
    inspect_data(root, save=saved)
    assert "../raw/images/{name}.jpg" in (saved / "dataset.yaml").read_text()
    assert sorted(path.name for path in saved.iterdir()) == [
        "dataset.yaml", "masks", "train.txt", "val.txt"
    ]  # fmt: skip
    with Image.open(saved / "masks/000.png") as mask:
        assert mask.mode == "P"
    # Moved together, they still find each other.
    root.parent.joinpath("moved").mkdir()
    for path in (root, saved):
        path.rename(root.parent / "moved" / path.name)
    assert len(folder(root.parent / "moved" / "saved").train) == 4


def test_a_polygon_holds_the_pixels_whose_centres_it_holds():
    triangle = [(0.0, 0.0), (8.0, 0.0), (0.0, 8.0)]
    rows, columns = np.indices((8, 8)) + 0.5
    np.testing.assert_array_equal(fill_polygon(triangle, (8, 8)), rows + columns < 8)
    ring = [(0, 0), (8, 0), (8, 8), (0, 8), (0, 0), (2, 2), (6, 2), (6, 6), (2, 6), (2, 2)]
    assert fill_polygon(ring, (8, 8)).sum() == 64 - 16
    assert fill_polygon([(-5, -5), (50, -5), (50, 50), (-5, 50)], (8, 6)).all()


def test_bitmaps_that_reach_beyond_the_image_are_cut():
    ids = {"a": 1, None: 255}
    for corner, count in (((-1, -2), 3 * 2), ((6, 3), 2 * 3), ((90, 0), 0)):
        region = Region("a", bitmap=np.ones((4, 4), bool), corner=corner)
        assert (draw_regions(Drawing([region]), (8, 6), ids | {"b": 0}, "b") == 1).sum() == count


def test_run_lengths_are_those_of_pycocotools():
    # pycocotools.mask.encode of these masks, version 2.0.11.
    mask = np.zeros((7, 9), bool)
    mask[1:5, 2:7], mask[5, 5:], mask[3, 4] = True, True, False
    np.testing.assert_array_equal(
        run_lengths({"size": [7, 9], "counts": "?4300NNO24O04L00K"}), mask
    )
    plain = run_lengths({"size": [2, 3], "counts": [1, 2, 3]})
    assert plain.tolist() == [[False, True, False], [True, False, False]]


def test_more_classes_than_8_bits_hold_are_drawn_with_16(root):
    corners = [(number % WIDTH, number // WIDTH) for number in range(300)]
    shapes = [
        shape(f"c{number:03}", [(x, y), (x + 1, y + 1)], "rectangle")
        for number, (x, y) in enumerate(corners)
    ]
    for name in ("aa", "bb"):
        labelme(root, *shapes, name=name)
    data = saved(root)
    assert data.classes == 301
    read = labels(data.train)["aa"]
    assert [read[y, x] for x, y in corners] == list(range(1, 301))


SIZE = {"height": HEIGHT, "width": WIDTH}
SQUARE = [[4.0, 6, 20, 6, 20, 18, 4, 18]]


def coco(root, names, file="instances.json", shapes=None, **more) -> None:
    """Write annotations of images so called: the outline of a box, or the shapes given."""
    images = [{"id": at, "file_name": name, **SIZE} for at, name in enumerate(names)]
    shapes = shapes or [SQUARE] * len(names)
    annotations = [
        {"id": at, "image_id": at, "category_id": 1, "segmentation": each}
        for at, each in enumerate(shapes)
    ]
    content = {"images": images, "annotations": annotations}
    write(root, file, content | {"categories": [{"id": 1, "name": "box"}]} | more)


def refused(root) -> str:
    with pytest.raises(InputError) as error:
        inspect_data(root, save=root.parent / "saved")
    assert not (root.parent / "saved").exists()
    return str(error.value)


def said(root) -> str:
    return "\n".join(each.text for each in inspect_data(root, save=root.parent / "saved").findings)


def test_images_of_one_name_in_two_folders_are_told_apart_or_refused(root):
    for camera in ("left", "right"):
        photo(root, f"images/{camera}/0.jpg")
    coco(
        root, ["left/0.jpg", "images\\\\right\\\\0.jpg".replace("\\\\", "\\")], shapes=[SQUARE, []]
    )
    data = saved(root)
    drawn = labels(data.train) | labels(data.val)
    assert {name: each.max() for name, each in drawn.items()} == {"left/0": 1, "right/0": 0}


def test_a_name_that_several_images_have_is_refused(root):
    for camera in ("left", "right"):
        photo(root, f"images/{camera}/0.jpg")
    coco(root, ["0.jpg"])
    error = refused(root)
    assert "instances.json annotates 0.jpg, which may be images/left/0.jpg or images/right" in error


def test_an_image_that_is_annotated_twice_is_refused(root):
    for number in range(2):
        photo(root, f"images/{number}.jpg", number)
    coco(root, ["0.jpg", "1.jpg"], "a.json")
    coco(root, ["1.jpg"], "b.json")
    assert "images/1.jpg is annotated twice, in a.json and b.json" in refused(root)
    (root / "b.json").unlink()
    coco(root, ["0.jpg", "1.jpg", "1.jpg"], "a.json")
    assert "a.json annotates images/1.jpg twice" in refused(root)
    coco(
        root,
        ["0.jpg", "1.jpg"],
        "a.json",
        images=[{"id": 0, "file_name": f"{n}.jpg"} for n in "01"],
    )
    assert "a.json gives 0.jpg and 1.jpg the same id 0" in refused(root)


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ({"counts": [0, 20], "size": [4, 5]}, "the image is 48x32, but an object was annotated"),
        ({"counts": [0, 7], "size": [HEIGHT, WIDTH]}, "ValueError"),
        ([[4, 6, 20]], "ValueError"),
        ([[4, 6, float("nan"), 6, 20, 18]], "a corner that is not a number"),
        ([[0.1, 0.1, 0.6, 0.1, 0.6, 0.6]], "within the first pixel"),
    ],
)
def test_an_object_that_cannot_be_drawn_leaves_its_image_out_by_name(root, shape, words):
    for number in range(4):
        photo(root, f"{number}.jpg", number)
    coco(root, [f"{number}.jpg" for number in range(4)], shapes=[SQUARE, SQUARE, SQUARE, shape])
    text = said(root)
    assert "1 image left out: " in text
    assert "3.jpg" in text
    assert words in text


def test_a_bad_entry_of_coco_is_named_with_its_file(root):
    for number in range(3):
        photo(root, f"{number}.jpg", number)
    names = [f"{number}.jpg" for number in range(3)]
    entry = {"image_id": 0, "category_id": 1, "segmentation": SQUARE}
    for bad, words in (
        ({**entry, "category_id": 5}, "instances.json, of 0.jpg: an object is of category 5"),
        ({**entry, "image_id": 9}, "1 object left out, not in any listed image"),
    ):
        rest = [{**entry, "image_id": each} for each in (0, 1, 2)]
        coco(root, names, annotations=[*rest, bad])
        shutil.rmtree(root.parent / "saved", ignore_errors=True)
        assert words in said(root)
    coco(root, names, annotations=["x"])
    shutil.rmtree(root.parent / "saved")
    assert "cannot read the annotations in instances.json" in refused(root)


def test_one_damaged_file_of_many_is_left_out_by_name(root):
    for name in ("aa", "bb", "cc"):
        labelme(root, shape("box", BOX), name=name)
    (root / "photos/bb.json").write_text('{"shapes": [{"label": "box"')
    text = said(root)
    assert "1 image left out: cannot read the annotations in photos/bb.json" in text


def test_labelmes_equal_names_and_splits_are_kept(root):
    for split, label in (("train", "box"), ("val", "ball")):
        for number in range(2):
            photo(root, f"{split}/images/{number}.jpg")
            content = {"shapes": [shape(label, BOX)], "imagePath": f"..\\images\\{number}.jpg"}
            write(root, f"{split}/json/{number}.json", content)
    data = saved(root)
    assert sorted(labels(data.train)) == ["train/images/0", "train/images/1"]
    assert sorted(labels(data.val)) == ["val/images/0", "val/images/1"]
    assert labels(data.train)["train/images/0"].max() == 2
    assert labels(data.val)["val/images/0"].max() == 1


def test_keypoints_are_no_outlines(root):
    points = "0 0.5 0.5 0.4 0.4 0.4 0.4 1 0.5 0.5 0 0.6 0.6 1 0.4 0.6 1\n"
    yolo(root, points)
    assert "keypoints and boxes do not give pixels" in refused(root)
    yolo(root, points.replace("0 0.6", "2 0.6"))
    assert "keypoints and boxes do not give pixels" in refused(root)
    yolo(root)
    with (root / "data.yaml").open("a") as file:
        file.write("kpt_shape: [2, 3]\n")
    assert "keypoints and boxes do not give pixels" in refused(root)
    yolo(root, "0 4 6 20 6 20 18\n")
    assert "corners must be shares of width and height, got 4" in refused(root)


def test_classes_that_two_files_name_otherwise_are_refused(root):
    for split, names in (("train", ["box", "ball"]), ("valid", ["ball", "box"])):
        for number in range(2):
            photo(root, f"{split}/{number}.jpg", number)
            path = root / f"{split}/{number}_mask.png"
            Image.fromarray(BALL_OVER_BOX.astype(np.uint8)).save(path)
        rows = [
            "Pixel Value, Class",
            "0, background",
            *(f"{i}, {n}" for i, n in enumerate(names, 1)),
        ]
        write(root, f"{split}/_classes.csv", "\n".join(rows))
    error = refused(root)
    assert "valid/_classes.csv names other classes than" in error
    assert "train/_classes.csv" in error


def test_yolos_files_with_byte_order_marks_and_wrong_names(root):
    yolo(root)
    for file in root.glob("labels/*/*.txt"):
        file.write_text(file.read_text(), encoding="utf-8-sig")
    assert labels(saved(root).train)["train/train1"].max() == 2
    # An image with a known class alone is drawn; the one with an unknown class is named.
    write(root, "labels/train/train0.txt", "0 0.1 0.1 0.6 0.1 0.6 0.6 0.3 0.8\n")
    (root / "data.yaml").unlink()
    write(root, "classes.txt", "ball\n\nbox\n")
    inspection = inspect_data(root, save=root.parent / "blank")
    assert any("has class 1, which the names do not list" in f.text for f in inspection.findings)
    write(root, "data.yaml", "names: ball, box\n")
    assert "data.yaml: names must be a list of classes, got 'ball, box'" in refused(root)
    write(root, "data.yaml", "names: [ball]\n")
    inspection = inspect_data(root, save=root.parent / "one")
    assert any("has class 1, which the names do not list" in f.text for f in inspection.findings)
