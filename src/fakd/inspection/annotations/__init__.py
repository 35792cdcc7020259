"""Conversion of exported annotations that are not masks to masks."""

import os
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import yaml
from PIL import Image

from fakd.data.dataset import default_palette
from fakd.data.layout import IMAGE_SUFFIXES
from fakd.data.names import tidy
from fakd.errors import InputError, count_noun, list_some
from fakd.files import make_folder, write_text, writing
from fakd.inspection.annotations.coco import coco
from fakd.inspection.annotations.labelme import labelme, labelme_folders
from fakd.inspection.annotations.regions import Annotations, annotation_errors, draw_regions
from fakd.inspection.annotations.supervisely import supervisely
from fakd.inspection.annotations.yolo import yolo
from fakd.inspection.classes import is_void_name
from fakd.inspection.proposal import divide, lists_text
from fakd.inspection.survey import Advance, read_header

BEFORE_MASKS = (supervisely, labelme_folders)
"""Formats whose files look like images and masks, but must be read by their own reader."""
AFTER_MASKS = (coco, labelme, yolo)
_PALETTE = [part for colour in default_palette(256) for part in colour]
"""For display; with fewer colours Pillow would use fewer bits than 255 needs."""
_UPRIGHT = "annotate it upright, or remove the orientation (exiftool -Orientation= FILE)"
_Reader = Callable[[Path, Sequence[str], Sequence[str]], Annotations | None]


def find_annotations(
    root: Path, files: Sequence[str], readers: Sequence[_Reader]
) -> Annotations | None:
    """Read annotations of a known format; None if there are none.

    Raises:
        InputError: they are damaged, or of an unknown version of the format.
    """
    images = [file for file in files if PurePosixPath(file).suffix.lower() in IMAGE_SUFFIXES]
    for reader in readers:
        with annotation_errors(root):
            if (found := reader(root, files, images)) is not None:
                break
    else:
        return None
    if not found.images and found.failed:
        raise InputError(f"no image in {root} could be drawn: {found.failed[0]}")
    if not found.names:
        raise InputError(
            f"the annotations in {root} ({found.title}) hold no outlines, and keypoints and boxes "
            "do not give pixels; export segmentation"
        )
    names = list(dict.fromkeys(tidy(name) for name in found.names if not is_void_name(name)))
    # Pixels in no region get their own class, unless an annotated class has that name.
    if found.beneath is not None:
        own = next((name for name in names if name.strip("_").lower() == found.beneath), None)
        found.beneath = own or found.beneath
        names = [found.beneath, *(name for name in names if name != found.beneath)]
    found.names = names
    return found


def draw_masks(found: Annotations, root: Path, folder: Path, advance: Advance) -> None:
    """Draw masks into a folder, and write a dataset.yaml and lists that locate the images.

    Raises:
        InputError: no image can be drawn, or the folder is not writable; nothing is left behind.
    """
    made = folder
    while not made.parent.exists():
        made = made.parent
    made = folder / "masks" if folder.exists() else made
    try:
        with annotation_errors(root):
            _draw(found, root, folder, advance)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise


def _draw(found: Annotations, root: Path, folder: Path, advance: Advance) -> None:
    common = os.path.commonpath([str(PurePosixPath(image).parent) for image in found.images])
    suffixes = {PurePosixPath(image).suffix for image in found.images}
    name_of = {
        image: str(PurePosixPath(image).relative_to(common).with_suffix(""))
        for image in found.images
    }
    twice = [name for name, times in Counter(name_of.values()).items() if times > 1]
    if twice:
        raise InputError(f"two images in {root} have the name {twice[0]}; rename one")
    ids: dict[str | None, int] = {name: number for number, name in enumerate(found.names)}
    ids[None] = 255 if len(found.names) <= 255 else 2**16 - 1
    failed = found.failed
    for done, (image, read) in enumerate(found.images.items(), start=1):
        try:
            size = read_header(root / image, upright=True).size
            with annotation_errors(found.sources[image]):
                drawing = read(size)
                if drawing.size not in (None, size):
                    annotated, own = ("{}x{}".format(*each) for each in (drawing.size, size))
                    said = f"the image is {own}, but was annotated at {annotated}"
                    if drawing.size == read_header(root / image, upright=False).size:
                        said += f", as its EXIF orientation is not applied; {_UPRIGHT}"
                    raise InputError(said)
                mask = draw_regions(drawing, size, ids, found.beneath)
        except InputError as error:
            failed.append(f"{image} ({found.sources[image]}): {error}")
            del name_of[image]
            continue
        path = folder / "masks" / f"{name_of[image]}.png"
        make_folder(path.parent)
        _save(path, mask, len(found.names))
        advance(done, len(found.images))
    if not name_of:
        raise InputError(f"no image in {root} could be drawn: {failed[0]}")
    if failed:
        found.remarks.append(f"{count_noun(len(failed), 'image')} left out: {list_some(failed, 2)}")
    up = Path(os.path.relpath(root.resolve() / common, folder.resolve())).as_posix()
    suffix = suffixes.pop() if len(suffixes) == 1 else ".*"
    layout = {"images": f"{up}/{{name}}{suffix}", "masks": "masks/{name}.png"}
    content = {
        "classes": found.names,
        **{split: {**layout, "list": f"{split}.txt"} for split in ("train", "val")},
    }
    for name, text in lists_text(_choose_splits(found, name_of)).items():
        write_text(folder / name, text)
    write_text(folder / "dataset.yaml", yaml.safe_dump(content, sort_keys=False, width=10**6))


def _save(path: Path, mask: np.ndarray, classes: int) -> None:
    image = Image.fromarray(mask if classes > 255 else mask.astype(np.uint8))
    if classes <= 255:
        image.putpalette(_PALETTE)
    with writing(path):
        image.save(path)


def _choose_splits(found: Annotations, name_of: Mapping[str, str]) -> dict[str, list[str]]:
    """Return the splits given by the export, or every fifth image for validation."""
    splits = {
        split: sorted(name_of[image] for image in images if image in name_of)
        for split, images in found.splits.items()
    }
    train, val = splits.get("train"), splits.get("val") or splits.get("test")
    if train and val:
        if rest := len(name_of) - len({*train, *val}):
            those = count_noun(rest, "image")
            found.remarks.append(f"{those} in neither train nor val drawn, but not used")
        return {"train": train, "val": val}
    found.remarks.append("no validation images are given, so every fifth image is used")
    return divide(sorted(name_of.values()))
