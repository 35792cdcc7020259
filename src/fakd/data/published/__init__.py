"""The paper's four data sets, read as their publishers lay them out.

Each is described by a YAML file beside this one: classes, colours, ids, layout, official counts,
and the settings its published scores were measured with.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from fakd.data.dataset import SegmentationData
from fakd.data.description import Description, read_description
from fakd.data.folders import described_data
from fakd.data.published.location import PLACES, located
from fakd.errors import InputError


def ade20k(root: str | Path) -> SegmentationData:
    """Open ADE20K, 150 classes: 20,210 training and 2,000 validation images.

    As published for scene parsing, ``images/{training,validation}`` and ``annotations/``.

    Args:
        root: ``ADEChallengeData2016`` or a folder that holds it.

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
    return _opened("ade20k", "ade20k", root)


def cityscapes(root: str | Path) -> SegmentationData:
    """Open Cityscapes, 19 classes: 2,975 training and 500 validation images, finely annotated.

    Masks are ``gtFine/*/*_gtFine_labelTrainIds.png`` or, without them, ``*_labelIds.png``.

    Args:
        root: The folder of ``leftImg8bit`` and ``gtFine``, or one that holds it as ``cityscapes``.

    Raises:
        InputError: it is somewhere else or incomplete.
    """
    return _opened("cityscapes", "cityscapes", root)


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
    return _opened("pascal_context", f"pascal_context{classes}", root, {"classes": classes})


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
    return _opened("voc2012", "voc2012", root, {"augmented": augmented}, augmented)


def read_published(name: str, augmented: bool = True) -> Description:
    """Read the description of a published set, with or without what is added to its training."""
    described = read_description(Path(__file__).with_name(f"{name}.yaml"))
    return described if augmented else replace(described, train=described.train[:1])


def _opened(
    function: str,
    name: str,
    root: str | Path,
    settings: dict[str, Any] | None = None,
    augmented: bool = True,
) -> SegmentationData:
    described = read_published(name, augmented)
    found = located(root, str(described.name), PLACES[name], str(described.source))
    arguments = {"root": str(root), **(settings or {})}
    config = {"class_path": f"fakd.data.{function}", "init_args": arguments}
    return described_data(found, described, config)
