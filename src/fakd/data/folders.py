"""A folder of images and masks, described by its dataset.yaml."""

from collections.abc import Callable
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from fakd.data.dataset import SegmentationData
from fakd.data.decode import IMAGE_SUFFIXES, MASK_SUFFIXES, read_mask
from fakd.data.description import Description, read_description
from fakd.data.layout import Part, Pattern
from fakd.data.matching import Matcher
from fakd.data.pairs import PairedSplit
from fakd.data.scan import files_below
from fakd.errors import InputError
from fakd.scenes.dataset import scenes as scenes  # a stub imports from its own package only
from fakd.types import IGNORE


def folder(root: str | Path, description: str | Path | None = None) -> SegmentationData:
    """Open a data set of files: ``{train,val}/{images,masks}/*``, masks named as their images.

    Images may lie in subfolders. Training images without a ``masks`` folder are unlabelled. The
    description, a YAML file, names the classes, says how masks encode them and, for any other
    layout, where files lie; ``root`` may be that file itself.

    Args:
        root: The folder, or a description that stands in it. Where that says ``root:``, the
            files lie there instead.
        description: The YAML file; ``dataset.yaml`` in the folder by default.

    Raises:
        InputError: a file or folder is missing, or the description is wrong.
    """
    base = Path(root).expanduser()
    if description is None and base.suffix.lower() in (".yaml", ".yml") and not base.is_dir():
        described = read_description(base)
        base = described.root or base.parent
        _check_folder(base)
    else:
        _check_folder(base)
        described = _description(base, description)
        if description is None and described.root is not None:
            base = described.root
            _check_folder(base)
    given = None if description is None else str(description)
    return described_data(
        base,
        described,
        {
            "class_path": "fakd.data.folder",
            "init_args": {"root": str(root), "description": given},
        },
    )


def described_data(root: Path, described: Description, config: dict[str, Any]) -> SegmentationData:
    """Find the files of a data set below a folder.

    Raises:
        InputError: a file or folder is missing.
    """
    # One listing serves every part and both splits.
    listed = cache(files_below)
    train, remarks = _split(root, described, "train", described.train, listed)
    val, more_remarks = _split(root, described, "val", described.val, listed)
    return SegmentationData(
        name=described.name or root.resolve().name,
        class_names=described.class_names,
        palette=described.palette,
        train=train,
        val=val,
        config=config,
        remarks=(*remarks, *more_remarks),
        protocol=described.protocol,
        augmentation=described.augmentation,
    )


def _split(
    root: Path,
    described: Description,
    split: str,
    parts: tuple[Part, ...],
    listed: Callable[[Path], list[str]],
) -> tuple[PairedSplit, list[str]]:
    pairs, remarks = [], []
    for part in parts:
        matcher = Matcher(root, described, split, part, listed)
        found = matcher.pairs()
        if remark := matcher.remark(pair.name for pair in found):
            remarks.append(remark)
        pairs += found
    pairs.sort(key=lambda pair: (pair.name, pair.image))
    for first, second in pairwise(pairs):
        if first.image == second.image:
            raise InputError(
                f"{first.image} stands in two parts of {split} in {described.path}; take it out "
                "of one, for example with except:"
            )
    if len({pair.mask is None for pair in pairs}) > 1:
        raise InputError(
            f"{described.path}: some parts of {split} have masks and some have none; describe "
            "them as two data sets"
        )
    return PairedSplit(root, pairs), remarks


def image_files(path: Path) -> list[Path]:
    """List an image by itself, or the images of a folder and its subfolders by name.

    Raises:
        InputError: there is no such path, or no image in it.
    """
    if path.is_file():
        return [path]
    _check_folder(path)
    return _files(path, IMAGE_SUFFIXES)


def _check_folder(path: Path) -> None:
    if not path.is_dir():
        came = "is a file" if path.exists() else "does not exist"
        raise InputError(f"expected a folder of data, but {path} {came}; check the path")


def _description(root: Path, given: str | Path | None) -> Description:
    if given is not None:
        return read_description(Path(given).expanduser())
    path = root / "dataset.yaml"
    if not path.exists():
        raise InputError(
            f"no description of the classes at {path}; write that file, for example with the "
            f"line '{_suggestion(root)}', or name another file as the description"
        )
    return read_description(path)


def _suggestion(root: Path, looked_at: int = 8) -> str:
    """Infer the line of a minimal dataset.yaml from a few masks."""
    ids: set[int] = {0, 1}
    colours: set[tuple[int, ...]] = set()
    for split in ("train", "val"):
        try:
            for mask in _files(root / split / "masks", MASK_SUFFIXES)[:looked_at]:
                pixels = read_mask(mask)
                if pixels.ndim == 2:
                    ids.update(np.unique(pixels).tolist())
                else:
                    colours.update(map(tuple, np.unique(pixels.reshape(-1, 3), axis=0).tolist()))
        except InputError:
            continue
    if colours:
        entries = [
            f"{{name: class{number}, color: {list(colour)}}}"
            for number, colour in enumerate(sorted(colours))
        ]
    else:
        entries = [f"class{number}" for number in range(max(ids - {IGNORE}) + 1)]
    if len(entries) > 24:
        entries = [*entries[:2], "...", entries[-1]]
    return f"classes: [{', '.join(entries)}]"


def _files(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    found = Pattern("{name}.*").names(files_below(folder), suffixes)
    if not found:
        raise InputError(f"{folder} holds no file ending in {', '.join(suffixes)}; add some")
    return [folder / found[name] for name in sorted(found)]


def open_data(data: SegmentationData | str | Path) -> SegmentationData:
    """Open what a flag or a caller names: a data set, ``scenes``, a folder or its YAML file."""
    if isinstance(data, SegmentationData):
        return data
    return scenes() if data == "scenes" else folder(data)
