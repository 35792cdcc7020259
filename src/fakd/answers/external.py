"""Answers written by another program: one .npz or .png file per image, with its name."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from jaxtyping import Float32

from fakd.answers.maps import Answers, Maps, Size, missing_answers
from fakd.answers.sources import SUFFIXES
from fakd.answers.store import PARTS
from fakd.data.dataset import Split
from fakd.data.description import description_of, read_description
from fakd.data.masks import MaskReader
from fakd.data.scan import files_below
from fakd.errors import InputError, count_noun, list_some
from fakd.types import IGNORE

_LOOKED_AT = 500
"""Number of files per part that are checked before training, evenly spread; all are when used."""
_CELL = 4
"""Side in pixels of a cell of mask labels that become one answer: their shares."""
_LEAST = 1e-6
"""Smallest probability."""
_SUM = 0.02
"""Allowed deviation of a sum of probabilities from 1."""


class ExternalAnswers(Answers):
    """A folder of answers, in ``train`` and ``val`` like the data, or all in one folder.

    A file holds ``logits`` or ``probabilities``, ``[classes, rows, cols]`` on any grid, as floating
    point or in 8 bits (probabilities times 255; logits with ``scale`` and ``offset``, as numbers or
    one per class). Or it is a mask of class ids; for other masks a ``dataset.yaml`` in the folder
    describes the encoding, as for data.

    Args:
        folder: The folder; hidden files are skipped.
        smoothing: Share of a mask's label that is spread evenly over all classes.
        classes: Number of classes, if known; masks do not contain it.
    """

    def __init__(self, folder: Path, smoothing: float, classes: int | None) -> None:
        self.folder, self.title = folder, str(folder)
        files = [file for file in files_below(folder) if Path(file).suffix in SUFFIXES]
        if not files:
            raise InputError(
                f"{folder} holds no answers; expected files ending in {' or '.join(SUFFIXES)}"
            )
        self._smoothing = smoothing
        self._files: dict[str, str] = {}
        for file in files:
            name = file.rpartition(".")[0]
            if name in self._files:
                raise InputError(f"{folder} holds {self._files[name]} and {file}; keep one of them")
            self._files[name] = file
        self._used: set[str] = set()
        self._reader: MaskReader | None = None
        if masks := [file for file in files if file.endswith(".png")]:
            self._reader = _reader(folder, masks[0], classes)
            self.classes = len(self._reader.description.class_names)
        else:
            if smoothing:
                raise InputError(
                    f"teacher.smoothing is for .png masks, but {folder} holds logits or "
                    "probabilities; leave it out"
                )
            self.classes = len(self._logits(files[0]))
        digest = hashlib.sha256(str(smoothing).encode())
        for file in files:
            digest.update(f"{file} {(folder / file).stat().st_size}\n".encode())
        if self._reader and self._reader.description.path.is_file():
            digest.update(self._reader.description.path.read_bytes())
        self.fingerprint = digest.hexdigest()[:16]

    @property
    def remarks(self) -> tuple[str, ...]:  # type: ignore[override]
        """Report answers without an image."""
        extra = [file for name, file in self._files.items() if name not in self._used]
        if not extra:
            return ()
        return (
            f"{count_noun(len(extra), 'answer')} in {self.folder} without an image: "
            f"{list_some(extra, 3)}",
        )

    def find(self, part: str, split: Split) -> Sequence[str]:
        """Look up names in the part's folder, or else in the folder itself."""
        inner = any(name.startswith(f"{each}/") for name in self._files for each in PARTS)
        names = [split.name(index) for index in range(len(split))]
        # Names of some data sets start with their part.
        keys = [name if not inner or name in self._files else f"{part}/{name}" for name in names]
        if lacking := [key for key in keys if key not in self._files]:
            remedy = "an answer has the name of its image, so add or rename them"
            raise missing_answers(self.title, part, lacking, len(names), remedy)
        found = [self._files[key] for key in keys]
        self._used |= set(keys)
        looked_at = min(len(found), _LOOKED_AT)
        for place in range(looked_at):
            self._logits(found[place * len(found) // looked_at])
        return found

    def read(self, part: str, place: str, size: Size) -> Maps:
        """Read one file, for an image of any size."""
        return Maps(self._logits(place))

    def _logits(self, file: str) -> Float32[np.ndarray, "classes rows cols"]:
        path = self.folder / file
        reader = self._reader if path.suffix == ".png" else None
        logits = self._from_mask(path, reader) if reader else self._from_arrays(path)
        if len(logits) != getattr(self, "classes", len(logits)):
            raise InputError(
                f"{path} has {len(logits)} classes, but other files have {self.classes}; write it "
                "again"
            )
        return logits

    def _from_arrays(self, path: Path) -> Float32[np.ndarray, "classes rows cols"]:
        try:
            with np.load(path, allow_pickle=False) as content:
                arrays: dict[str, Any] = {key: content[key] for key in content.files}
        except (OSError, ValueError, BadZipFile, AttributeError) as error:
            raise InputError(
                f"{path} is damaged or not a .npz file ({error}); write it again"
            ) from error
        keys = [key for key in ("logits", "probabilities") if key in arrays]
        if len(keys) != 1 or arrays[keys[0]].ndim != 3 or not arrays[keys[0]].size:
            shapes = {key: array.shape for key, array in arrays.items()}
            raise InputError(
                f"{path} must hold logits or probabilities [classes, rows, cols], got {shapes}"
            )
        values = arrays[keys[0]]
        narrow = values.dtype in (np.uint8, np.int8)
        if not narrow and not np.issubdtype(values.dtype, np.floating):
            raise InputError(
                f"{path}: {keys[0]} must be floating point or 8-bit, got {values.dtype}"
            )
        result: np.ndarray = values.astype(np.float32)
        if keys[0] == "logits" and narrow:
            result = self._dequantised(result, arrays, path)
        if not np.isfinite(result).all():
            raise InputError(f"{path} holds values that are infinite or NaN; write it again")
        if keys[0] == "logits":
            return result
        sums = result.sum(0)
        unsound = result.min() < 0 or (
            abs(sums - 1).max() > _SUM if not narrow else sums.min() <= 0
        )
        if unsound:
            raise InputError(
                f"{path}: probabilities must be at least 0 and sum to 1 at each position, got sums "
                f"from {sums.min():.3g} to {sums.max():.3g}; if they are logits, name them logits"
            )
        logs: np.ndarray = np.log(np.maximum(result / sums, _LEAST))
        return logs

    def _dequantised(
        self, values: Float32[np.ndarray, "classes rows cols"], arrays: dict[str, Any], path: Path
    ) -> Float32[np.ndarray, "classes rows cols"]:
        if "scale" not in arrays:
            raise InputError(f"{path}: 8-bit logits need scale, a number or one per class")
        try:
            scale, offset = (
                np.broadcast_to(np.asarray(each, np.float32), (len(values),))[:, None, None]
                for each in (arrays["scale"], arrays.get("offset", 0))
            )
        except ValueError as error:
            raise InputError(
                f"{path}: scale and offset must be numbers or one per class"
            ) from error
        scaled: np.ndarray = values * scale + offset
        return scaled

    def _from_mask(
        self, path: Path, reader: MaskReader
    ) -> Float32[np.ndarray, "classes rows cols"]:
        labels = reader(path)
        height, width = labels.shape
        rows, cols = (max(1, round(side / _CELL)) for side in labels.shape)
        cell = (np.arange(height) * rows // height)[:, None] * cols + np.arange(
            width
        ) * cols // width
        named = labels != IGNORE
        index = labels.astype(np.int64)[named] * (rows * cols) + cell[named]
        counts = np.bincount(index, minlength=self.classes * rows * cols)
        counts = counts.reshape(self.classes, rows, cols)
        total = counts.sum(0)
        # Cells without labels get equal probabilities.
        shares = np.where(total > 0, counts / np.maximum(total, 1), 1 / self.classes)
        shares = (1 - self._smoothing) * shares + self._smoothing / self.classes
        return np.log(np.maximum(shares, _LEAST)).astype(np.float32)


def _reader(folder: Path, first: str, classes: int | None) -> MaskReader:
    """Return the reader of the masks: by a description in the folder, or by ids from 0."""
    path = folder / "dataset.yaml"
    if path.is_file():
        return MaskReader(read_description(path))
    if classes is None:
        raise InputError(
            f"{folder}: the number of classes is unknown, as masks such as {first} do not contain "
            "it; list the class names in the class map, as teacher: [...]"
        )
    return MaskReader(description_of({"classes": [str(each) for each in range(classes)]}, path))
