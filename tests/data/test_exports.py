"""Every export that the docs say is read: saved by one command, it trains at once.

Each format is written as its program writes it, of the same scenes: a box, a ball over it, and
where the format has it, a border of void around both.
"""

import base64
import io
import json
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fakd.cli import main
from fakd.data import folder

HEIGHT, WIDTH = 40, 56
BOX, BALL = (4, 6, 26, 22), (20, 12, 36, 30)
"""Left, top, right, bottom."""
COLOURS = np.array([(0, 0, 0), (250, 50, 83), (50, 183, 250), (224, 224, 192)], np.uint8)
VOID = 3
SHARED = Path(__file__).parents[2] / "../shared/data"


def scene(number: int, void: int | None = None) -> np.ndarray:
    """Paint 0 for background, 1 for the box, 2 for the ball, void around them where it is given."""
    classes = np.zeros((HEIGHT, WIDTH), np.uint8)
    for value, (left, top, right, bottom) in ((1, BOX), (2, BALL)):
        part = slice(top, bottom), slice(left + number, right + number)
        if void is not None:
            edge = slice(top - 1, bottom + 1), slice(left + number - 1, right + number + 1)
            classes[edge] = void
        classes[part] = value
    return classes


def corners(value: int, number: int) -> list[tuple[int, int]]:
    left, top, right, bottom = (BOX, BALL)[value - 1]
    left, right = left + number, right + number
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


class Export:
    """Writes files below a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def save(self, name: str, pixels: np.ndarray, palette: bool = False) -> None:
        image = Image.fromarray(pixels)
        if palette:
            image.putpalette(COLOURS.ravel().tolist())
        self.place(name).parent.mkdir(parents=True, exist_ok=True)
        image.save(self.place(name))

    def photo(self, name: str, number: int) -> None:
        shades = np.array([60, 140, 220])[scene(number)][..., None]
        noise = np.random.default_rng(number).normal(0, 12, (HEIGHT, WIDTH, 3))
        self.save(name, (shades + noise).clip(0, 255).astype(np.uint8))

    def text(self, name: str, *lines: str) -> None:
        self.place(name).parent.mkdir(parents=True, exist_ok=True)
        self.place(name).write_text("".join(f"{line}\n" for line in lines))

    def json(self, name: str, content: object) -> None:
        self.text(name, json.dumps(content))

    def place(self, name: str) -> Path:
        return self.root / name


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


NUMBERS = range(5)
NAMED = {"background": 0, "box": 1, "ball": 2}
UNNAMED = {"class0": 0, "class1": 1, "class2": 2}
BY_PLACE = ("background", "box", "ball")


def of_splits(*splits: str):
    """Number the scenes of each split."""
    return [(split, 3 * at + number) for at, split in enumerate(splits) for number in range(3)]


def cvat_masks(export) -> dict:
    for number in NUMBERS:
        export.photo(f"JPEGImages/f{number}.jpg", number)
        export.save(f"SegmentationClass/f{number}.png", COLOURS[scene(number)])
        export.save(f"SegmentationObject/f{number}.png", COLOURS[scene(number)])
    export.text("ImageSets/Segmentation/default.txt", *(f"f{number}" for number in NUMBERS))
    colours = [
        ":".join((name, ",".join(map(str, COLOURS[at])), "", "")) for name, at in NAMED.items()
    ]
    export.text("labelmap.txt", "# label:color_rgb:parts:actions", *colours)
    return NAMED


def cvat_camvid(export) -> dict:
    for number in NUMBERS:
        export.photo(f"default/f{number}.png", number)
        export.save(f"defaultannot/f{number}.png", COLOURS[scene(number)])
    export.text("default.txt", *(f"/default/f{n}.png /defaultannot/f{n}.png" for n in NUMBERS))
    lines = [f"{' '.join(map(str, COLOURS[at]))} {name}" for name, at in NAMED.items()]
    export.text("label_colors.txt", *lines)
    return NAMED


def voc(export) -> dict:
    for number in NUMBERS:
        mask = scene(number, VOID)
        mask[mask == VOID] = 255
        image = Image.fromarray(mask)
        image.putpalette([*COLOURS.ravel().tolist(), *[0] * 3 * 251, 224, 224, 192])
        export.photo(f"JPEGImages/f{number}.jpg", number)
        export.place("SegmentationClass").mkdir(exist_ok=True)
        image.save(export.place(f"SegmentationClass/f{number}.png"))
    export.text("ImageSets/Segmentation/train.txt", "f0", "f1", "f2")
    export.text("ImageSets/Segmentation/val.txt", "f3", "f4")
    return UNNAMED


def labelme2voc(export) -> dict:
    for number in NUMBERS:
        export.photo(f"JPEGImages/f{number}.jpg", number)
        export.save(f"SegmentationClassPNG/f{number}.png", scene(number), palette=True)
        export.photo(f"SegmentationClassVisualization/f{number}.jpg", number)
        np.save(export.place(f"SegmentationClass{number}.npy"), scene(number))
    export.text("class_names.txt", "_background_", "box", "ball")
    return NAMED


def labelme_json(export) -> dict:
    for number in NUMBERS:
        export.photo(f"f{number}.jpg", number)
        shapes = [
            {"label": name, "points": corners(NAMED[name], number), "shape_type": "polygon"}
            for name in ("box", "ball")
        ]
        size = {"imageHeight": HEIGHT, "imageWidth": WIDTH}
        export.json(f"f{number}.json", {"shapes": shapes, "imagePath": f"f{number}.jpg", **size})
    return NAMED


def labelme_folders(export) -> dict:
    for number in NUMBERS:
        export.photo(f"f{number}_json/img.png", number)
        export.save(f"f{number}_json/label.png", scene(number), palette=True)
        export.photo(f"f{number}_json/label_viz.png", number)
        export.text(f"f{number}_json/label_names.txt", "_background_", "box", "ball")
    return NAMED


def supervisely(export) -> dict:
    for number in NUMBERS:
        export.photo(f"ds/img/f{number}.jpg", number)
        bitmap = np.ones((BALL[3] - BALL[1], BALL[2] - BALL[0]), bool)
        data = base64.b64encode(zlib.compress(png(bitmap))).decode()
        box = {"exterior": corners(1, number), "interior": []}
        objects = [
            {"classTitle": "box", "geometryType": "polygon", "points": box},
            {
                "classTitle": "ball",
                "geometryType": "bitmap",
                "bitmap": {"origin": corners(2, number)[0], "data": data},
            },
        ]
        size = {"height": HEIGHT, "width": WIDTH}
        export.json(f"ds/ann/f{number}.jpg.json", {"size": size, "objects": objects})
    titles = [{"title": name, "shape": "any"} for name in ("box", "ball")]
    export.json("meta.json", {"classes": titles})
    return NAMED


def roboflow_masks(export) -> dict:
    for split, number in of_splits("train", "valid", "test"):
        stem = f"{split}/f{number}_jpg.rf.0a1b2c{number}"
        export.photo(f"{stem}.jpg", number)
        export.save(f"{stem}_mask.png", scene(number))
        export.text(
            f"{split}/_classes.csv", "Pixel Value, Class", "0, background", "1, box", "2, ball"
        )
    return NAMED


def coco(export, images: list[tuple[str, str, int]], file: str, runs: bool = False) -> None:
    entries, annotations = [], []
    for at, (path, name, number) in enumerate(images):
        export.photo(path, number)
        entries.append({"id": at, "file_name": name, "height": HEIGHT, "width": WIDTH})
        for category in (1, 2):
            outline = [float(each) for corner in corners(category, number) for each in corner]
            shape: object = [outline]
            if runs and category == 2:
                column = (scene(number) == 2).ravel(order="F")
                edges = np.flatnonzero(np.diff(column, prepend=False)).tolist()
                counts = np.diff([0, *edges, column.size]).tolist()
                shape = {"counts": counts, "size": [HEIGHT, WIDTH]}
            annotations.append(
                {"id": len(annotations), "image_id": at, "category_id": category, "iscrowd": 0,
                 "segmentation": shape}
            )  # fmt: skip
    categories = [{"id": 1, "name": "box"}, {"id": 2, "name": "ball"}]
    export.json(file, {"images": entries, "annotations": annotations, "categories": categories})


def coco_2017(export) -> dict:
    for split in ("train", "val"):
        images = [
            (f"{split}2017/{number:012}.jpg", f"{number:012}.jpg", number)
            for own, number in of_splits("train", "val")
            if own == split
        ]
        coco(export, images, f"annotations/instances_{split}2017.json", runs=True)
    return NAMED


def coco_roboflow(export) -> dict:
    for split in ("train", "valid"):
        images = [
            (f"{split}/f{number}.jpg", f"f{number}.jpg", number)
            for own, number in of_splits("train", "valid")
            if own == split
        ]
        coco(export, images, f"{split}/_annotations.coco.json")
    return NAMED


def coco_label_studio(export) -> dict:
    names = [(f"images/0f3a-f{number}.jpg", number) for number in NUMBERS]
    coco(export, [(path, path, number) for path, number in names], "result.json")
    return NAMED


def coco_panoptic(export) -> dict:
    entries, annotations = [], []
    for number in NUMBERS:
        export.photo(f"val2017/{number:012}.jpg", number)
        ids = np.array([0, 11, 12, 0])[scene(number, VOID)]
        pixels = np.stack([ids, 0 * ids, 0 * ids], -1).astype(np.uint8)
        # Background is a segment of its own, and void none.
        pixels[scene(number, VOID) == 0] = (0, 1, 0)
        export.save(f"annotations/panoptic_val2017/{number:012}.png", pixels)
        entries.append({"id": number, "file_name": f"{number:012}.jpg"})
        parts = [(256, 7), (11, 1), (12, 2)]
        segments = [{"id": one, "category_id": kind, "iscrowd": 0} for one, kind in parts]
        annotations.append(
            {"image_id": number, "file_name": f"{number:012}.png", "segments_info": segments}
        )
    categories = [
        {"id": number, "name": name} for number, name in ((1, "box"), (2, "ball"), (7, "ground"))
    ]
    content = {"images": entries, "annotations": annotations, "categories": categories}
    export.json("annotations/panoptic_val2017.json", content)
    return {"box": 1, "ball": 2, "ground": 0}


def outlines(number: int) -> list[str]:
    return [
        f"{value - 1} " + " ".join(f"{x / WIDTH} {y / HEIGHT}" for x, y in corners(value, number))
        for value in (1, 2)
    ]


def yolo_ultralytics(export) -> dict:
    for split, number in of_splits("train", "val"):
        export.photo(f"images/{split}/f{number}.jpg", number)
        export.text(f"labels/{split}/f{number}.txt", *outlines(number))
    export.text("data.yaml", "path: .", "train: images/train", "val: images/val",
                "names: {0: box, 1: ball}")  # fmt: skip
    return NAMED


def yolo_roboflow(export) -> dict:
    for split, number in of_splits("train", "valid"):
        export.photo(f"{split}/images/f{number}.jpg", number)
        export.text(f"{split}/labels/f{number}.txt", *outlines(number))
    export.text("data.yaml", "train: ../train/images", "val: ../valid/images", "nc: 2",
                "names: ['box', 'ball']")  # fmt: skip
    return NAMED


def yolo_label_studio(export) -> dict:
    for number in NUMBERS:
        export.photo(f"images/0f3a-f{number}.jpg", number)
        export.text(f"labels/0f3a-f{number}.txt", *outlines(number))
    export.text("classes.txt", "box", "ball")
    export.json("notes.json", {"categories": [{"id": 0, "name": "box"}, {"id": 1, "name": "ball"}]})
    return NAMED


def cityscapes_like(export) -> dict:
    for split, number in of_splits("train", "val"):
        stem = f"{split}/town/town_00000{number}_000019"
        export.photo(f"leftImg/{stem}_leftImg.png", number)
        export.save(f"gtCoarse/{stem}_gtCoarse_labelIds.png", scene(number))
        export.save(
            f"gtCoarse/{stem}_gtCoarse_instanceIds.png", scene(number).astype(np.uint16) * 999
        )
        export.save(f"gtCoarse/{stem}_gtCoarse_color.png", COLOURS[scene(number)])
    return UNNAMED


def ade_like(export) -> dict:
    for split, number in of_splits("training", "validation"):
        export.photo(f"pictures/images/{split}/p{number:08}.jpg", number)
        export.save(f"pictures/annotations/{split}/p{number:08}.png", scene(number))
    return UNNAMED


def mmsegmentation(export) -> dict:
    for split, number in of_splits("train", "val"):
        export.photo(f"img_dir/{split}/f{number}.jpg", number)
        export.save(f"ann_dir/{split}/f{number}.png", scene(number))
    return UNNAMED


def mapillary_like(export) -> dict:
    for split, number in of_splits("training", "validation"):
        export.photo(f"{split}/images/f{number}.jpg", number)
        export.save(f"{split}/labels/f{number}.png", scene(number), palette=True)
        export.save(f"{split}/instances/f{number}.png", scene(number).astype(np.uint16) * 256)
    return UNNAMED


def camvid_of_segnet(export) -> dict:
    for split, number in of_splits("train", "val", "test"):
        export.photo(f"{split}/f{number}.png", number)
        export.save(f"{split}annot/f{number}.png", scene(number, VOID))
    return UNNAMED


def camvid_of_kaggle(export) -> dict:
    for split, number in of_splits("train", "val", "test"):
        export.photo(f"{split}/f_{number:05}.png", number)
        export.save(f"{split}_labels/f_{number:05}_L.png", COLOURS[scene(number)])
    lines = [f"{name},{','.join(map(str, COLOURS[at]))}" for name, at in NAMED.items()]
    export.text("class_dict.csv", "name,r,g,b", *lines)
    return NAMED


def camvid_of_fastai(export) -> dict:
    for number in NUMBERS:
        export.photo(f"images/f{number}.png", number)
        export.save(f"labels/f{number}_P.png", scene(number, VOID))
    export.text("codes.txt", "background", "box", "ball", "Void")
    export.text("valid.txt", "f3.png", "f4.png")
    return NAMED


def deepglobe(export) -> dict:
    for number in NUMBERS:
        export.photo(f"train/{number}_sat.jpg", number)
        export.save(f"train/{number}_mask.png", COLOURS[scene(number)])
    lines = [f"{name},{','.join(map(str, COLOURS[at]))}" for name, at in NAMED.items()]
    export.text("class_dict.csv", "name,r,g,b", *lines)
    return NAMED


def pets(export) -> dict:
    for number in NUMBERS:
        export.photo(f"images/cat_{number}.jpg", number)
        # 1 for the pet, 2 for what is around it, 3 for the border.
        trimap = np.array([2, 1, 1, 3], np.uint8)[scene(number, VOID)]
        export.save(f"annotations/trimaps/cat_{number}.png", trimap)
    return {"class1": (1, 2), "class2": 0}


def black_and_white(export) -> dict:
    for number in NUMBERS:
        export.photo(f"images/f{number}.jpg", number)
        export.save(f"masks/f{number}.png", (scene(number) > 0).astype(np.uint8) * 255)
    return {"background": 0, "foreground": (1, 2)}


FORMATS = (
    cvat_masks, cvat_camvid, voc, labelme2voc, labelme_json, labelme_folders, supervisely,
    roboflow_masks, coco_2017, coco_roboflow, coco_label_studio, coco_panoptic, yolo_ultralytics,
    yolo_roboflow, yolo_label_studio, cityscapes_like, ade_like, mmsegmentation, mapillary_like,
    camvid_of_segnet, camvid_of_kaggle, camvid_of_fastai, deepglobe, pets, black_and_white,
)  # fmt: skip


def saved(root: Path, folder_of: Path) -> Path:
    """Save what is proposed for a folder."""
    place = folder_of / "saved"
    assert main(["data", "check", str(root), "--save", str(place), "--seconds=300"]) == 0
    return place


def train(data: Path, run: Path) -> None:
    network = ["--network=pspnet", "--network.backbone=mobilenetv3_small_050"]
    schedule = ["--schedule.steps=1", "--schedule.batch_size=2"]
    size = ["--network.channels=8", "--augmentation.crop=[32,48]", "--hardware.accelerator=cpu"]
    assert main(["train", *network, *schedule, *size, f"--data={data}", f"--run={run}"]) == 0


@pytest.mark.parametrize(
    "write",
    [
        pytest.param(write, marks=() if write in FORMATS[::5] else pytest.mark.slow)
        for write in FORMATS
    ],
    ids=lambda write: write.__name__,
)
def test_an_export_trains(write, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    export = Export(tmp_path / "raw")
    write(export)
    train(saved(export.root, tmp_path), tmp_path / "run")


@pytest.mark.parametrize("write", FORMATS, ids=lambda write: write.__name__)
def test_an_export_is_saved(write, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    export = Export(tmp_path / "raw")
    meanings = write(export)
    place = saved(export.root, tmp_path)
    said = capsys.readouterr().out
    data = folder(place)
    assert sorted(data.class_names) == sorted(meanings)
    # Scene 0 is the first, and all that it shows is what was painted.
    number, labels = next(
        (number, data.split(split)[at].labels.numpy())
        for split in ("train", "val")
        for at in range(len(data.split(split)))
        for number in [int("".join(filter(str.isdigit, data.split(split).name(at)))[-1])]
    )
    void = (labels == -1).any()
    painted = scene(number, VOID if void else None)
    for name, values in meanings.items():
        np.testing.assert_array_equal(
            labels == data.class_names.index(name), np.isin(painted, values), err_msg=name
        )
    assert void == ("is ignored" in said) or write is coco_panoptic


@pytest.mark.slow
@pytest.mark.parametrize(("name", "classes"), [("camvid", 11), ("ccp", 54)])
def test_a_set_of_people_is_saved_and_trains(name, classes, tmp_path, monkeypatch, capsys):
    if not (SHARED / name).exists():
        pytest.skip("needs the shared data")
    monkeypatch.chdir(tmp_path)
    place = saved(SHARED / name, tmp_path)
    assert folder(place).classes == classes
    void = "id 11 (3.5% of the pixels) has no name and lies along borders"
    assert (void in capsys.readouterr().out) == (name == "camvid")
    train(place, tmp_path / "run")
