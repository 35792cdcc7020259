"""The paper's four data sets, read in their publishers' layout.

Each is described by a YAML file in this folder: classes, colours, ids, layout, official counts, and
the settings of its published scores.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from fakd.data.dataset import SegmentationData
from fakd.data.description import Description, read_description
from fakd.data.folders import described_data
from fakd.errors import InputError, list_some

_OF_TOOLS = ("labelmap.txt", "label_colors.txt")
"""Files in which annotation tools list classes beside folders of these names."""


class _Place(NamedTuple):
    """How to recognise the folder of a data set."""

    inside: tuple[str, ...]
    """Paths of the folder relative to a parent."""
    marks: tuple[str, ...]
    """Folders that a complete copy contains."""
    image: str
    """A pattern of its images: exports of annotation tools use the same folders."""

    def count_marks(self, folder: Path) -> int:
        """Count which of its folders are in this folder."""
        return sum((folder / mark).is_dir() for mark in self.marks)

    def is_complete(self, folder: Path) -> bool:
        """Return whether a complete copy is in this folder."""
        own = any((folder / file).is_file() for file in _OF_TOOLS)
        complete = self.count_marks(folder) == len(self.marks)
        return complete and not own and any(folder.glob(self.image))


_SIX = 6 * "[0-9]"
_OF_VOC = f"JPEGImages/20[01][0-9]_{_SIX}.jpg"
_VOC2010 = _Place(
    ("VOC2010", "VOCdevkit/VOC2010"), ("JPEGImages", "ImageSets/SegmentationContext"), _OF_VOC
)
# The order matters: VOC 2010 contains the folders of VOC 2012 too.
_PLACES: Mapping[str, _Place] = {
    "ade20k": _Place(
        ("ADEChallengeData2016", "ade/ADEChallengeData2016"),
        ("images/training", "annotations/training"),
        "images/*/ADE_*.jpg",
    ),
    "cityscapes": _Place(
        ("cityscapes",),
        ("leftImg8bit", "gtFine"),
        f"leftImg8bit/*/*/*_{_SIX}_{_SIX}_leftImg8bit.png",
    ),
    "pascal_context59": _VOC2010,
    "pascal_context60": _VOC2010,
    "voc2012": _Place(
        ("VOC2012", "VOCdevkit/VOC2012"),
        ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"),
        _OF_VOC,
    ),
}
"""By the name of the YAML file; where two share a folder, the first is meant."""
PUBLISHED = ("ade20k", "cityscapes", "pascal_context", "voc2012")
"""The names of their readers, as given to ``--data``."""


def ade20k(root: str | Path) -> SegmentationData:
    """Open ADE20K, 150 classes: 20,210 training and 2,000 validation images.

    As published for scene parsing, ``images/{training,validation}`` and ``annotations/``.

    Args:
        root: ``ADEChallengeData2016`` or a parent of it.

    Raises:
        InputError: it is somewhere else, incomplete, or the full release with colour masks.
    """
    source = read_published("ade20k").source
    for folder in (Path(root).expanduser(), *Path(root).expanduser().glob("ADE20K_20*")):
        if any(folder.glob("index_ade20k.*")):
            raise InputError(
                f"{folder} is the full release of ADE20K, whose masks hold colours of 3,000 "
                f"classes; get {source}"
            )
    return _open("ade20k", "ade20k", root)


def cityscapes(root: str | Path) -> SegmentationData:
    """Open Cityscapes, 19 classes: 2,975 training and 500 validation images, finely annotated.

    Masks are ``gtFine/*/*_gtFine_labelTrainIds.png`` or, without them, ``*_labelIds.png``.

    Args:
        root: The folder that contains ``leftImg8bit`` and ``gtFine``, or its parent if it is named
            ``cityscapes``.

    Raises:
        InputError: it is somewhere else or incomplete.
    """
    return _open("cityscapes", "cityscapes", root)


def pascal_context(root: str | Path, classes: Literal[59, 60] = 59) -> SegmentationData:
    """Open PASCAL Context: 4,998 training and 5,105 validation images of VOC 2010.

    Masks are ``SegmentationClassContext/*.png`` of 0 to 59 or, without them, the published label
    maps of 459 classes, in ``SegmentationClassContext`` or ``trainval``.

    Args:
        root: ``VOCdevkit/VOC2010`` or a parent of it.
        classes: 59 ignores all other pixels; 60 makes them the class ``background``.

    Raises:
        InputError: it is somewhere else or incomplete.
    """
    if classes not in (59, 60):
        raise InputError(f"PASCAL Context has 59 classes, or 60 with background, got {classes}")
    return _open("pascal_context", f"pascal_context{classes}", root, {"classes": classes})


def voc2012(root: str | Path, augmented: bool = True) -> SegmentationData:
    """Open PASCAL VOC 2012, 21 classes: 10,582 training and 1,449 validation images.

    The 9,118 images added by SBD are those of ``ImageSets/Segmentation/aug.txt`` with masks in
    ``SegmentationClassAug``; if these are missing, those of SBD itself (``benchmark_RELEASE`` in,
    next to or above ``VOC2012``) without VOC's own and its validation images.

    Args:
        root: ``VOCdevkit/VOC2012`` or a parent of it.
        augmented: If false, only the 1,464 training images of VOC.

    Raises:
        InputError: it is somewhere else or incomplete.
    """
    return _open("voc2012", "voc2012", root, {"augmented": augmented}, augmented)


def read_published(name: str, augmented: bool = True) -> Description:
    """Read the description of a published set, with or without its additional training images."""
    described = read_description(Path(__file__).with_name(f"{name}.yaml"))
    return described if augmented else replace(described, train=described.train[:1])


def recognise(path: Path) -> tuple[str, Path] | None:
    """Recognise a published set by the folders at or below a path; return its name and root."""
    for inside in (False, True):
        for name, place in _PLACES.items():
            for root in [path / folder for folder in place.inside] if inside else [path]:
                if place.is_complete(root):
                    return name, root
    return None


def _open(
    function: str,
    name: str,
    root: str | Path,
    settings: dict[str, Any] | None = None,
    augmented: bool = True,
) -> SegmentationData:
    described = read_published(name, augmented)
    found = _locate(root, str(described.name), _PLACES[name], str(described.source))
    arguments = {"root": str(root), **(settings or {})}
    config = {"class_path": f"fakd.data.{function}", "init_args": arguments}
    return described_data(found, described, config)


def _locate(root: str | Path, title: str, place: _Place, source: str) -> Path:
    """Find the publisher's folder.

    Args:
        root: The folder itself or a parent.
        title: The data set's name.
        place: How to recognise it.
        source: Where to get it.

    Raises:
        InputError: it is neither; the message names a nearby folder that would be right.
    """
    base = Path(root).expanduser()
    if not base.is_dir():
        came = "is a file" if base.exists() else "does not exist"
        raise InputError(f"expected the folder of {title}, but {base} {came}; check the path")
    # The most complete copy; the first in a tie.
    folders = [base, *(base / path for path in place.inside)]
    if place.count_marks(best := max(folders, key=place.count_marks)):
        return best
    entries = sorted(entry.name for entry in base.iterdir() if not entry.name.startswith("."))
    near = next(
        (path for path in _nearby_folders(base, place.inside) if place.is_complete(path)), None
    )
    remedy = f"get {source}" if near is None else f"use {near}, which has them"
    raise InputError(
        f"{base} is not {title}: expected {' and '.join(place.marks)} in it or in its "
        f"{' or '.join(place.inside)}, but it holds {list_some(entries, 6) or 'nothing'}; {remedy}"
    )


def _nearby_folders(base: Path, inside: tuple[str, ...]) -> Iterator[Path]:
    """Yield folders a few levels up, then one level down."""
    parents = list(base.absolute().parents)[:3]
    children = sorted(entry for entry in base.iterdir() if entry.is_dir())[:100]
    for folder in (*parents, *children):
        yield folder
        yield from (folder / path for path in inside)
