"""A folder of images and masks, described by its dataset.yaml."""

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from fakd.data.dataset import Sample, SegmentationData, Split
from fakd.data.decode import IMAGE_SUFFIXES, MASK_SUFFIXES, read_image, read_mask
from fakd.data.description import Description, read_description
from fakd.data.masks import MaskReader
from fakd.errors import InputError
from fakd.types import IGNORE


class FolderSplit(Split):
    """The images under ``images`` of a folder with their masks, by name, under ``masks``."""

    def __init__(self, folder: Path, description: Description, *, needs_masks: bool) -> None:
        self.labelled = needs_masks or (folder / "masks").is_dir()
        self._folder = folder
        self._images = _files(folder / "images", IMAGE_SUFFIXES)
        self._masks = self._matching_masks() if self.labelled else {}
        self._names = sorted(self._images)
        self._read_mask = MaskReader(description)
        self._ids = description.ids

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> Sample:
        name = self._names[index]
        path = self._images[name]
        image = read_image(path)
        if not self.labelled:
            return Sample(image, None, name)
        labels = self._read_mask(self._masks[name])
        if labels.shape != image.shape[1:]:
            mask_size = "x".join(str(side) for side in reversed(labels.shape))
            image_size = "x".join(str(side) for side in reversed(image.shape[1:]))
            raise InputError(
                f"{self._masks[name]} is {mask_size} but its image {path} is {image_size} "
                "(width x height); export the mask at the size of the image"
            )
        return Sample(image, labels, name)

    def identity(self) -> Iterable[str]:
        """Yield each file's name, size and time of change, and how mask ids map to classes."""
        yield str(sorted(self._ids.items()))
        for name in self._names:
            for path in (self._images[name], self._masks.get(name)):
                if path is not None:
                    state = path.stat()
                    relative = path.relative_to(self._folder).as_posix()
                    yield f"{relative} {state.st_size} {state.st_mtime_ns}"

    def _matching_masks(self) -> dict[str, Path]:
        masks = _files(self._folder / "masks", MASK_SUFFIXES)
        missing = sorted(self._images.keys() - masks.keys())
        if missing:
            more = f" (and {len(missing) - 1} more images have none)" if missing[1:] else ""
            raise InputError(
                f"no mask {self._folder / 'masks' / missing[0]}.png for image "
                f"{self._images[missing[0]]}{more}; masks match images by name, so add, rename or "
                "link it, or remove the image"
            )
        return masks


def folder(root: str | Path, description: str | Path | None = None) -> SegmentationData:
    """Open a data set of files: ``{train,val}/{images,masks}/*``, masks named as their images.

    Images may lie in subfolders. Training images without a ``masks`` folder are unlabelled. The
    description, a YAML file, names the classes and says how masks encode them; ``root`` may be
    that file itself.

    Args:
        root: The folder, or a description that stands in it or names it with ``root:``.
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
    return SegmentationData(
        name=described.name or base.resolve().name,
        class_names=described.class_names,
        palette=described.palette,
        train=FolderSplit(base / "train", described, needs_masks=False),
        val=FolderSplit(base / "val", described, needs_masks=True),
        config={
            "class_path": "fakd.data.folder",
            "init_args": {
                "root": str(root),
                "description": None if description is None else str(description),
            },
        },
    )


def image_files(path: Path) -> list[Path]:
    """List an image by itself, or the images of a folder and its subfolders by name.

    Raises:
        InputError: there is no such path, or no image in it.
    """
    if path.is_file():
        return [path]
    _check_folder(path)
    return [file for _, file in sorted(_files(path, IMAGE_SUFFIXES).items())]


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
            masks = _files(root / split / "masks", MASK_SUFFIXES)
            for name in sorted(masks)[:looked_at]:
                pixels = read_mask(masks[name])
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


def _files(folder: Path, suffixes: tuple[str, ...]) -> dict[str, Path]:
    """Find files below a folder by their relative path without suffix, hidden ones left out."""
    if not folder.is_dir():
        raise InputError(
            f"expected a folder {folder}; lay the data out as train/images, train/masks, "
            "val/images, val/masks"
        )
    found: dict[str, Path] = {}
    # pathlib's rglob follows no links to folders before Python 3.13.
    for directory, _, names in os.walk(folder, followlinks=True):
        for name in names:
            path = Path(directory, name)
            if name.startswith(".") or path.suffix.lower() not in suffixes:
                continue
            key = path.relative_to(folder).with_suffix("").as_posix()
            if key in found:
                raise InputError(f"{found[key]} and {path} have the same name; keep one of them")
            found[key] = path
    if not found:
        raise InputError(f"{folder} holds no file ending in {', '.join(suffixes)}; add some")
    return found
