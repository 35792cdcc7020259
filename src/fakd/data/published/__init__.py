"""The paper's four data sets, read as their publishers lay them out.

Each is described by a YAML file beside this one: classes, colours, ids, layout, official counts,
and the settings its published scores were measured with.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from fakd.data.dataset import SegmentationData
from fakd.data.description import Description, read_description
from fakd.data.folder import described_data
from fakd.data.published.location import located
from fakd.errors import InputError


def ade20k(root: str | Path) -> SegmentationData:
    """Open ADE20K, 150 classes: 20,210 training and 2,000 validation images.

    As published for scene parsing, ``images/{training,validation}`` and ``annotations/``.

    Args:
        root: ``ADEChallengeData2016`` or a folder that holds it.

    Raises:
        InputError: it is somewhere else, incomplete, or the full release with colour masks.
    """
    described = _described("ade20k")
    for folder in (Path(root).expanduser(), *Path(root).expanduser().glob("ADE20K_20*")):
        if any(folder.glob("index_ade20k.*")):
            raise InputError(
                f"{folder} is the full release of ADE20K, whose masks hold colours of 3,000 "
                f"classes; get {described.source}"
            )
    folders = ("ADEChallengeData2016", "ade/ADEChallengeData2016")
    marks = ("images/training", "annotations/training")
    return _opened("ade20k", described, root, folders, marks)


def cityscapes(root: str | Path) -> SegmentationData:
    """Open Cityscapes, 19 classes: 2,975 training and 500 validation images, finely annotated.

    Masks are ``gtFine/*/*_gtFine_labelTrainIds.png`` or, without them, ``*_labelIds.png``.

    Args:
        root: The folder of ``leftImg8bit`` and ``gtFine``, or one that holds it as ``cityscapes``.

    Raises:
        InputError: it is somewhere else or incomplete.
    """
    marks = ("leftImg8bit", "gtFine")
    return _opened("cityscapes", _described("cityscapes"), root, ("cityscapes",), marks)


def pascal_context(root: str | Path, classes: Literal[59, 60] = 59) -> SegmentationData:
    """Open PASCAL Context: 4,998 training and 5,105 validation images of VOC 2010.

    Masks are ``SegmentationClassContext/*.png`` of 0 to 59 or, without them, the label maps of 459
    classes as published, in ``SegmentationClassContext`` or ``trainval``.

    Args:
        root: ``VOCdevkit/VOC2010`` or a folder that holds it.
        classes: 59, all other pixels ignored, or 60, they being the class ``background``.

    Raises:
        InputError: it is somewhere else or incomplete.
    """
    if classes not in (59, 60):
        raise InputError(f"PASCAL Context has 59 classes, or 60 with background, got {classes}")
    marks = ("JPEGImages", "ImageSets/SegmentationContext")
    folders = ("VOC2010", "VOCdevkit/VOC2010")
    described = _described(f"pascal_context{classes}")
    return _opened("pascal_context", described, root, folders, marks, {"classes": classes})


def voc2012(root: str | Path, augmented: bool = True) -> SegmentationData:
    """Open PASCAL VOC 2012, 21 classes: 10,582 training and 1,449 validation images.

    The 9,118 images that SBD adds are those of ``ImageSets/Segmentation/aug.txt`` with masks in
    ``SegmentationClassAug``; without these, those of SBD itself (``benchmark_RELEASE`` in, beside
    or above ``VOC2012``) less VOC's own and its validation images.

    Args:
        root: ``VOCdevkit/VOC2012`` or a folder that holds it.
        augmented: Without, the 1,464 training images of VOC alone.

    Raises:
        InputError: it is somewhere else or incomplete.
    """
    described = _described("voc2012")
    if not augmented:
        described = replace(described, train=described.train[:1])
    marks = ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation")
    folders = ("VOC2012", "VOCdevkit/VOC2012")
    return _opened("voc2012", described, root, folders, marks, {"augmented": augmented})


def _described(name: str) -> Description:
    return read_description(Path(__file__).with_name(f"{name}.yaml"))


def _opened(
    function: str,
    described: Description,
    root: str | Path,
    inside: tuple[str, ...],
    marks: tuple[str, ...],
    settings: dict[str, Any] | None = None,
) -> SegmentationData:
    title, source = str(described.name), str(described.source)
    arguments = {"root": str(root), **(settings or {})}
    config = {"class_path": f"fakd.data.{function}", "init_args": arguments}
    return described_data(located(root, title, inside, marks, source), described, config)
