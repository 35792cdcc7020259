"""Miniature copies of the four sets, laid out as their publishers lay them out."""

import os
import shutil

import numpy as np
import pytest
from PIL import Image
from scipy import io

from fakd.data import ade20k, cityscapes, open_data, pascal_context, voc2012
from fakd.types import IGNORE
from stand_ins import message

VOID = 255


def mask(*ids: int) -> np.ndarray:
    return np.array([ids, ids], np.uint8 if max(ids) < 256 else np.uint16)


def labels(split) -> dict[str, list[int]]:
    return {sample.name: sample.labels[0].tolist() for sample in split}


def place(data, image: str, mask_name: str, ids: np.ndarray) -> None:
    data.image(image, size=ids.shape)
    data.mask(mask_name, ids)


@pytest.fixture
def parent(made_up, tmp_path):
    """Writes below a folder that holds nothing yet."""
    shutil.rmtree(made_up.root)
    made_up.root.mkdir()
    return made_up


@pytest.fixture
def ade(parent):
    parent.root = parent.root / "ADEChallengeData2016"
    for split, short in (("training", "train"), ("validation", "val")):
        for number in (1, 3):
            name = f"{split}/ADE_{short}_{number:08d}"
            place(parent, f"images/{name}.jpg", f"annotations/{name}.png", mask(0, 1, 150, number))
    return parent


@pytest.fixture
def city(parent):
    parent.root = parent.root / "cityscapes"
    for split, town in (("train", "aachen"), ("train", "ulm"), ("val", "lindau")):
        stem = f"{split}/{town}/{town}_000000_000019"
        parent.image(f"leftImg8bit/{stem}_leftImg8bit.png", size=(2, 4))
        parent.mask(f"gtFine/{stem}_gtFine_labelIds.png", mask(7, 33, 0, 29))
        colours = np.full((2, 4, 4), 128, np.uint8)
        parent.mask(f"gtFine/{stem}_gtFine_color.png", colours)
        parent.mask(f"gtFine/{stem}_gtFine_instanceIds.png", mask(7, 33000, 0, 29))
        parent.list(f"gtFine/{stem}_gtFine_polygons.json", "{}")
    return parent


@pytest.fixture
def voc(parent):
    parent.root = parent.root / "VOCdevkit/VOC2012"
    for name, ids in (("2007_000032", mask(0, 1, VOID)), ("2007_000033", mask(0, 20, VOID))):
        parent.image(f"JPEGImages/{name}.jpg", size=ids.shape)
        indexed = Image.fromarray(ids).convert("P")
        indexed.putpalette([value for value in range(256) for _ in range(3)])
        (parent.root / "SegmentationClass").mkdir(exist_ok=True)
        indexed.save(parent.root / f"SegmentationClass/{name}.png")
    for name in ("2008_000002", "2008_000003", "2011_test"):
        parent.image(f"JPEGImages/{name}.jpg", size=(2, 3))
    parent.list("ImageSets/Segmentation/train.txt", "2007_000032")
    parent.list("ImageSets/Segmentation/val.txt", "2007_000033")
    return parent


@pytest.fixture
def augmented(voc):
    voc.list("ImageSets/Segmentation/aug.txt", "2008_000002", "2008_000003")
    # The popular archive also holds coarser masks of VOC's own images, which are not for use.
    for name in ("2008_000002", "2008_000003", "2007_000032", "2007_000033"):
        voc.mask(f"SegmentationClassAug/{name}.png", mask(5, 5, 5))
    return voc


@pytest.fixture
def context(parent):
    parent.root = parent.root / "VOCdevkit/VOC2010"
    for name, split in (("2008_000008", "train"), ("2008_000009", "val")):
        parent.image(f"JPEGImages/{name}.jpg", size=(2, 3))
        parent.mask(f"SegmentationClassContext/{name}.png", mask(0, 1, 59))
        parent.list(f"ImageSets/SegmentationContext/{split}.txt", name)
    return parent


def save_sbd(path, ids: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # As SBD stores it: a 1 x 1 struct array among whose fields is the map.
    io.savemat(path, {"GTcls": {"Segmentation": ids, "CategoriesPresent": [1]}})


def test_ade20k(ade):
    data = ade20k(ade.root)
    assert (data.classes, data.class_names[0], data.class_names[149]) == (150, "wall", "flag")
    assert data.palette[:2] == ((120, 120, 120), (180, 120, 120))
    assert labels(data.train) == {
        "ADE_train_00000001": [IGNORE, 0, 149, 0],
        "ADE_train_00000003": [IGNORE, 0, 149, 2],
    }
    assert len(data.val) == 2
    assert data.protocol == data.augmentation == {"base": [2048, 512]}
    train, val = data.remarks
    assert "train has 2 of ADE20K's 20210 images" in train
    assert "missing, for example, ADE_train_00000002.jpg" in train
    assert "val has 2 of ADE20K's 2000 images" in val


def test_cityscapes_from_the_archive_and_as_its_scripts_make_it(city):
    data = cityscapes(city.root)
    name = "lindau/lindau_000000_000019"
    assert labels(data.val) == {name: [0, 18, IGNORE, IGNORE]}
    assert [pair.name.partition("/")[0] for pair in data.train.pairs] == ["aachen", "ulm"]
    assert data.class_names[8] == "vegetation"
    assert data.palette[18] == (119, 11, 32)
    assert data.protocol == {"base": [2048, 1024]}
    assert "train has 2 of Cityscapes's 2975 images" in data.remarks[0]
    assert str(city.root / "leftImg8bit/train") in data.remarks[0]
    assert "val has 1 of Cityscapes's 500 images" in data.remarks[1]
    city.mask(f"gtFine/val/{name}_gtFine_labelTrainIds.png", mask(18, 5, 0, VOID))
    assert labels(cityscapes(city.root).val) == {name: [18, 5, 0, IGNORE]}
    assert labels(cityscapes(city.root).train)["ulm/ulm_000000_000019"] == [0, 18, IGNORE, IGNORE]


def test_every_label_id_of_cityscapes_is_known(city):
    name = "lindau/lindau_000000_000019"
    ids = np.array([[*range(34), 255]], np.uint8)
    place(
        city,
        f"leftImg8bit/val/{name}_leftImg8bit.png",
        f"gtFine/val/{name}_gtFine_labelIds.png",
        ids,
    )
    found = cityscapes(city.root).val[0].labels[0]
    assert found[found != IGNORE].tolist() == list(range(19))
    assert found[7:9].tolist() == [0, 1]
    assert found[[-1, 29, 30, 0]].unique().tolist() == [IGNORE]


def test_voc_keeps_the_indices_of_palette_masks(augmented):
    data = voc2012(augmented.root)
    assert labels(data.train) == {
        "2007_000032": [0, 1, IGNORE],
        "2008_000002": [5, 5, 5],
        "2008_000003": [5, 5, 5],
    }
    assert labels(data.val) == {"2007_000033": [0, 20, IGNORE]}
    assert (data.classes, data.class_names[20]) == (21, "tvmonitor")
    assert data.palette[20] == (0, 64, 128)
    assert data.protocol == {"base": [2048, 512]}
    assert [remark.partition(" images")[0] for remark in data.remarks] == [
        "train has 1 of Pascal VOC 2012's 1464",
        "train has 2 of Pascal VOC 2012's 9118",
        "val has 1 of Pascal VOC 2012's 1449",
    ]
    assert "ImageSets/Segmentation/aug.txt" in data.remarks[1]


def test_voc_alone(voc):
    data = voc2012(voc.root, augmented=False)
    assert list(labels(data.train)) == ["2007_000032"]
    assert data.config["init_args"] == {"root": str(voc.root), "augmented": False}
    text = message(lambda: voc2012(voc.root))
    assert "ImageSets/Segmentation/aug.txt" in text
    assert "benchmark_RELEASE/dataset/train.txt with" in text
    assert "benchmark.tgz" in text


@pytest.mark.parametrize("below", [".", "..", "../.."])
def test_voc_with_the_masks_and_lists_of_sbd(voc, below):
    dataset = (voc.root / below).resolve() / "benchmark_RELEASE/dataset"
    for name in ("2008_000002", "2008_000003", "2007_000032", "2007_000033"):
        save_sbd(dataset / f"cls/{name}.mat", mask(7, 8, 0))
    # SBD splits otherwise: its training images may be VOC's validation images.
    (dataset / "train.txt").write_text("2008_000002\n2007_000033\n")
    (dataset / "val.txt").write_text("2008_000003\n2007_000032\n")
    data = voc2012(voc.root)
    assert labels(data.train) == {
        "2007_000032": [0, 1, IGNORE],
        "2008_000002": [7, 8, 0],
        "2008_000003": [7, 8, 0],
    }
    data.fingerprint()
    voc.list("ImageSets/Segmentation/aug.txt", "2008_000003")
    assert list(labels(voc2012(voc.root).train)) == ["2007_000032", "2008_000003"]


def test_pascal_context(context):
    data = pascal_context(context.root)
    assert labels(data.train) == {"2008_000008": [IGNORE, 0, 58]}
    assert (data.classes, data.class_names[0], data.class_names[58]) == (59, "aeroplane", "wood")
    assert data.palette[0] == (180, 120, 120)
    assert data.protocol == {"base": [520, 520], "window": 480, "stride": 320}
    assert data.augmentation == {"base": [520, 520]}
    assert "train has 1 of Pascal Context 59's 4998" in data.remarks[0]
    assert "val has 1 of Pascal Context 59's 5105" in data.remarks[1]


def test_pascal_context_with_background(context):
    data = pascal_context(context.root, classes=60)
    assert labels(data.train) == {"2008_000008": [0, 1, 59]}
    assert (data.classes, data.class_names[:2]) == (60, ("background", "aeroplane"))
    assert data.palette[0] == (120, 120, 120)
    assert data.class_names[1:] == pascal_context(context.root).class_names


@pytest.mark.parametrize("place_of_maps", ["SegmentationClassContext", "trainval", "../trainval"])
def test_pascal_context_from_maps_of_459_classes(context, place_of_maps):
    shutil.rmtree(context.root / "SegmentationClassContext")
    (context.root / place_of_maps).mkdir(parents=True)
    # aeroplane, wood, table and three that are not among the 59, one of them numbered as void is.
    ids = np.array([[2, 458, 397, 1, 255, 459]], np.uint16)
    for name in ("2008_000008", "2008_000009"):
        context.image(f"JPEGImages/{name}.jpg", size=ids.shape)
        io.savemat(context.root / place_of_maps / f"{name}.mat", {"LabelMap": ids})
    expected = [0, 58, 49, IGNORE, IGNORE, IGNORE]
    assert labels(pascal_context(context.root).train) == {"2008_000008": expected}
    expected = [1, 59, 50, 0, 0, 0]
    assert labels(pascal_context(context.root, classes=60).val) == {"2008_000009": expected}


def test_damaged_and_strange_matlab_files(voc, tmp_path):
    voc.list("ImageSets/Segmentation/aug.txt", "2008_000002")
    path = voc.root / "benchmark_RELEASE/dataset/cls/2008_000002.mat"
    save_sbd(path, mask(1, 2, 3))
    whole = path.read_bytes()

    def says(*words):
        text = message(lambda: labels(voc2012(voc.root).train))
        for word in (str(path), *words):
            assert word in text

    for part in (b"", b"junk", whole[:150], whole[: len(whole) // 2], whole[:-5]):
        path.write_bytes(part)
        says("2008_000002.mat")
    io.savemat(path, {"other": mask(1, 2, 3)})
    says("neither LabelMap nor GTcls.Segmentation")
    io.savemat(path, {"GTcls": {"Boundaries": mask(1, 2, 3)}})
    says("neither LabelMap nor GTcls.Segmentation")
    io.savemat(path, {"LabelMap": np.array([[0.5]])})
    says("not a map of class ids")
    io.savemat(path, {"LabelMap": np.array([[-1, 2, 3]], np.int16)})
    says("id -1", "0 to 65535")
    save_sbd(path, mask(1, 2, 21))
    says("id 21")


@pytest.mark.parametrize("levels", [0, 1, 2])
@pytest.mark.parametrize("name", ["ade", "city", "augmented", "context"])
def test_a_parent_that_holds_the_folder_will_do(name, levels, request):
    opener = {"ade": ade20k, "city": cityscapes, "augmented": voc2012, "context": pascal_context}
    root = request.getfixturevalue(name).root
    if levels == 2 and name in ("ade", "city"):
        pytest.skip("no archive unpacks so deep")
    for _ in range(levels):
        root = root.parent
    data = opener[name](root)
    assert len(data.val) > 0
    assert data.config["class_path"] == f"fakd.data.{opener[name].__name__}"
    assert data.config["init_args"]["root"] == str(root)
    assert open_data(data) is data


@pytest.mark.parametrize(
    ("opener", "name", "below"),
    [
        (ade20k, "ade", "images"),
        (ade20k, "ade", "annotations/training"),
        (cityscapes, "city", "leftImg8bit/train"),
        (voc2012, "augmented", "JPEGImages"),
        (pascal_context, "context", "ImageSets/SegmentationContext"),
    ],
)
def test_a_wrong_root_names_the_right_one_nearby(opener, name, below, request):
    root = request.getfixturevalue(name).root
    assert f"use {root}," in message(lambda: opener(root / below))


def test_a_wrong_root_says_what_is_there(ade, tmp_path):
    deep = tmp_path / "disk"
    (deep / "sets").mkdir(parents=True)
    ade.root.parent.rename(deep / "sets/mine")
    text = message(lambda: ade20k(deep))
    assert f"{deep} is not ADE20K: expected images/training and annotations/training" in text
    assert "it holds sets" in text
    assert "get ADEChallengeData2016.zip" in text
    right = deep / "sets/mine/ADEChallengeData2016"
    assert f"use {right}," in message(lambda: ade20k(deep / "sets"))
    assert "does not exist" in message(lambda: ade20k(deep / "nothing"))
    file = next(right.glob("images/training/*"))
    assert "is a file" in message(lambda: ade20k(file))


def test_the_full_release_of_ade20k_is_refused(parent):
    parent.root = parent.root / "ADE20K_2021_17_01"
    parent.image("images/ADE/training/home/attic/ADE_train_00000001.jpg")
    parent.mask("images/ADE/training/home/attic/ADE_train_00000001_seg.png", mask(1, 2))
    parent.list("index_ade20k.pkl")
    for root in (parent.root, parent.root.parent):
        text = message(lambda root=root: ade20k(root))
        assert "full release" in text
        assert "ADEChallengeData2016.zip" in text


def test_half_unpacked_archives(ade):
    name = "ADE_val_00000001"
    (ade.root / f"annotations/validation/{name}.png").unlink()
    text = message(lambda: ade20k(ade.root))
    assert f"no mask {ade.root}/annotations/validation/{name}.png" in text
    assert "more" not in text
    (ade.root / "annotations/validation/ADE_val_00000003.png").unlink()
    text = message(lambda: ade20k(ade.root))
    assert "(and 1 more like it)" in text
    assert "ADEChallengeData2016.zip" in text
    shutil.rmtree(ade.root / "annotations/validation")
    text = message(lambda: ade20k(ade.root))
    assert f"expected a folder {ade.root}/annotations/validation" in text
    assert f"{ade.root}/annotations holds training" in text
    shutil.rmtree(ade.root / "annotations")
    assert "expected a folder" in message(lambda: ade20k(ade.root))
    shutil.rmtree(ade.root / "images/training")
    assert "is not ADE20K" in message(lambda: ade20k(ade.root))


def test_cityscapes_with_colours_only(city):
    for path in city.root.rglob("*_labelIds.png"):
        path.unlink()
    text = message(lambda: cityscapes(city.root))
    stem = "aachen/aachen_000000_000019_gtFine"
    assert f"no mask {city.root}/gtFine/train/{stem}_labelTrainIds.png" in text
    assert f"nor gtFine/train/{stem}_labelIds.png" in text
    assert "1 more like it" in text
    assert "_color.png exists, but holds colours, not ids" in text
    assert "gtFine_trainvaltest.zip" in text
    for path in city.root.rglob("*_color.png"):
        path.rename(str(path).replace("_color", "_labelIds"))
    Image.fromarray(np.tile(np.array([1, 2, 3], np.uint8), (2, 4, 1))).save(
        city.root / f"gtFine/val/{stem.replace('aachen', 'lindau')}_labelIds.png"
    )
    text = message(lambda: labels(cityscapes(city.root).val))
    assert "holds colours" in text
    assert "gtFine_trainvaltest.zip" in text


def test_unknown_ids_and_sizes(ade):
    ade.mask("annotations/validation/ADE_val_00000001.png", mask(0, 1, 151, 200))
    text = message(lambda: ade20k(ade.root).val[0])
    assert "ids 151, 200" in text
    assert "150 classes, from id 1" in text
    ade.mask("annotations/validation/ADE_val_00000001.png", mask(0, 1))
    text = message(lambda: ade20k(ade.root).val[0])
    assert "2x2" in text
    assert "4x2" in text


def test_listed_images_and_lists_that_are_missing(augmented):
    (augmented.root / "JPEGImages/2008_000003.jpg").unlink()
    text = message(lambda: voc2012(augmented.root))
    assert "aug.txt names 2008_000003, but there is no" in text
    assert "VOCtrainval_11-May-2012.tar" in text
    (augmented.root / "ImageSets/Segmentation/val.txt").unlink()
    assert "Segmentation/val.txt" in message(lambda: voc2012(augmented.root, augmented=False))


def test_context_without_its_lists(context):
    shutil.rmtree(context.root / "ImageSets")
    text = message(lambda: pascal_context(context.root))
    assert "ImageSets/SegmentationContext/train.txt" in text
    assert "pascal-context" in text


def test_links_and_read_only_folders(ade, tmp_path):
    linked = tmp_path / "linked"
    linked.mkdir()
    for name in ("images", "annotations"):
        (linked / name).symlink_to(ade.root / name)
    before = sorted(ade.root.rglob("*"))
    folders = [path for path in (linked, ade.root, *before) if path.is_dir()]
    for path in folders:
        os.chmod(path, 0o555)
    try:
        data = ade20k(linked)
        assert len(data.train) == 2
        data.fingerprint()
    finally:
        for path in folders:
            os.chmod(path, 0o755)
    assert sorted(ade.root.rglob("*")) == before
