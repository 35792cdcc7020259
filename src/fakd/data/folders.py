"""A data set of image and mask files described by its dataset.yaml."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from fakd.data.dataset import SegmentationData, Split
from fakd.data.description import (
    PER_CLASS,
    TABLE,
    Description,
    check_labelled,
    read_description,
    read_unlabelled,
)
from fakd.data.labelled import without_labels
from fakd.data.layout import IMAGE_SUFFIXES, Pattern
from fakd.data.levels import describe_unused_range
from fakd.data.masks import Pair
from fakd.data.matching import list_splits
from fakd.data.names import is_list, none_ending_in
from fakd.data.scan import files_below
from fakd.data.unlabelled import TrainingImages, find_copies, training_images
from fakd.errors import InputError, count_noun, list_some
from fakd.files import expand_user

SCENES = "scenes"
"""The name of the built-in data, as given to ``--data``."""


def folder(
    root: str | Path,
    description: str | Path | None = None,
    unlabelled: str | list[str] | None = None,
    labelled: int | float | str | None = None,
    exclude: str | list[str] | None = None,
) -> SegmentationData:
    """Open a data set of files: ``{train,val}/{images,masks}/*``, masks named like their images.

    Images may be in subfolders. Training images without a ``masks`` folder are unlabelled. The
    description, a YAML file, lists the classes, the encoding of masks and, for any other layout,
    the locations of files; ``root`` may be that file itself.

    Args:
        root: The folder, or a description inside it. If the description has ``root:``, the files
            are there instead.
        description: The YAML file; ``dataset.yaml`` in the folder by default.
        unlabelled: Folders of additional training images without labels, for which the teacher
            supplies the classes; or patterns, lists of paths (.txt), and other sources.
        labelled: How many training images keep their labels, which share of them, how many per
            class ("10 per class"), or a file of their names; the others count as unlabelled.
            Smaller subsets are contained in larger ones.
        exclude: Training images to exclude, labelled or not: a file name, a pattern such as
            "*_blurred", or a file of names.

    Raises:
        InputError: a file or folder is missing, or the description is wrong.
    """
    base = Path(root).expanduser()
    if (found := described_folder(base, description)) is None:
        raise InputError(
            f"no description of the classes at {base / 'dataset.yaml'}; write that file, or let "
            f"'fakd data check {base} --save NEWFOLDER' propose one"
        )
    given = None if description is None else str(description)
    arguments: dict[str, Any] = {"root": str(root), "description": given}
    place, described = found
    if unlabelled is not None:
        # Unlike those of the description, these are relative to the working directory.
        entries = [unlabelled] if isinstance(unlabelled, str) else unlabelled
        absolute = [_absolute(entry) for entry in entries]
        more = read_unlabelled({"unlabelled": absolute}, described.path)
        described = replace(described, unlabelled=(*described.unlabelled, *more))
        arguments["unlabelled"] = unlabelled
    if exclude is not None:
        entries = [exclude] if isinstance(exclude, str) else exclude
        here = [_absolute(entry) if is_list(entry) else entry for entry in entries]
        described = replace(described, exclude=(*described.exclude, *here))
        arguments["exclude"] = exclude
    if check_labelled(labelled) is not None:
        names = isinstance(labelled, str) and not PER_CLASS.fullmatch(labelled)
        kept = str(expand_user(str(labelled)).absolute()) if names else labelled
        described = replace(described, labelled=kept)
        arguments["labelled"] = labelled
    return described_data(
        place, described, {"class_path": "fakd.data.folder", "init_args": arguments}
    )


def described_folder(
    path: Path, description: str | Path | None = None
) -> tuple[Path, Description] | None:
    """Find the folder of a data set and its description; None if a folder has none.

    Raises:
        InputError: the folder does not exist, or the description is wrong.
    """
    if description is not None:
        _check_folder(path)
        return path, read_description(Path(description).expanduser())
    file = path
    if path.is_dir() or path.suffix.lower() not in (".yaml", ".yml"):
        _check_folder(path)
        file = path / "dataset.yaml"
        if not file.exists():
            return None
    described = read_description(file)
    root = described.root or file.parent
    _check_folder(root, f"check root: in {file}")
    return root, described


def described_data(root: Path, described: Description, config: dict[str, Any]) -> SegmentationData:
    """Find the files of a data set below a folder.

    Raises:
        InputError: a file or folder is missing.
    """
    train, val = list_splits(root, described)
    images, left_out = training_images(root, described, train.pairs, val.pairs)
    if described.labelled is not None:
        if not train.labelled:
            raise InputError(f"labelled: train of {root} has no masks at all; remove labelled")
        images.pairs = without_labels(images.pairs, described.labelled, described, root)
    if both := sorted({pair.image for pair in images.pairs} & {pair.image for pair in val.pairs}):
        train.doubts.append(
            f"{count_noun(len(both), 'image is', 'images are')} in both train and val "
            f"({list_some(both, 2)}): scores are too high"
        )
    train.remarks += left_out
    faint = describe_unused_range(images, described.levels)
    # Errors in the files are reported before PyTorch is imported.
    from fakd.data.samples import PairedSplit

    return SegmentationData(
        name=described.name or root.resolve().name,
        class_names=described.class_names,
        palette=described.palette,
        train=PairedSplit(root, images),
        val=PairedSplit(root, val.pairs, described.group),
        config=config,
        remarks=(*train.doubts, *train.remarks, *val.doubts, *val.remarks, *filter(None, [faint])),
        protocol=described.protocol,
        augmentation=described.augmentation,
        levels=described.levels,
        worthwhile=described.worthwhile,
        test=partial(_open_test, root, described, images, val.pairs) if described.test else None,
    )


def _open_test(
    root: Path, described: Description, train: TrainingImages, val: Sequence[Pair]
) -> Split:
    from fakd.data.samples import PairedSplit

    (test,) = list_splits(root, described, splits=["test"])
    sizes = {pair.image.stat().st_size for pair in test.pairs}
    if again := find_copies(test.pairs, [*train.pairs, *train.of_sizes(sizes), *val]):
        raise InputError(
            f"{count_noun(len(again), 'test image is', 'test images are')} in train or val too "
            f"({list_some(again, 2)}), as the same file or an identical copy; remove them from one"
        )
    return PairedSplit(root, test.pairs, described.group)


def image_files(path: Path) -> list[Path]:
    """List a single image, or the images of a folder and its subfolders by name.

    Raises:
        InputError: the path does not exist, or contains no image.
    """
    if path.is_file():
        return [path]
    _check_folder(path)
    return _files(path, IMAGE_SUFFIXES)


def _absolute(entry: str) -> str:
    scheme = TABLE if entry.startswith(TABLE) else ""
    return scheme + str(expand_user(entry.removeprefix(scheme)).absolute())


def _check_folder(path: Path, remedy: str = "check the path") -> None:
    if not path.is_dir():
        came = "is a file" if path.exists() else "does not exist"
        raise InputError(f"expected a folder of data, but {path} {came}; {remedy}")


def _files(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    files = files_below(folder)
    found = Pattern("{name}.*").names(files, suffixes)
    if not found:
        raise InputError(f"{folder} holds {none_ending_in(suffixes, files)}")
    return [folder / found[name] for name in sorted(found)]


def open_data(data: SegmentationData | str | Path) -> SegmentationData:
    """Open a data set given as an object, ``scenes``, a folder or its YAML file."""
    if isinstance(data, SegmentationData):
        return data
    from fakd.data.streets.dataset import scenes

    return scenes() if data == SCENES else folder(data)
