"""What a mask file says in class ids, by the data set's description."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Integer, UInt8
from torch import Tensor

from fakd.data.decode import palette_colours, read_mask
from fakd.data.description import Description
from fakd.data.encoding import Encoding
from fakd.data.matlab import read_matlab_mask
from fakd.errors import InputError
from fakd.types import IGNORE

_UNKNOWN = -1


class MaskReader:
    """Mask files to class ids through lookup tables made once.

    Args:
        description: Classes and colours.
        encoding: What ids mean; the description's by default.
    """

    def __init__(self, description: Description, encoding: Encoding | None = None) -> None:
        self.encoding = encoding or description.encoding
        self.description = description
        others = self.encoding.others
        self._classes = np.full(2**16, _UNKNOWN if others is None else others, dtype=np.int16)
        for raw, target in self.encoding.ids.items():
            self._classes[raw] = target
        palette = [*description.palette, *description.ignored_colours]
        targets = [*range(len(description.palette))] + [IGNORE] * len(description.ignored_colours)
        codes = _codes(np.array(palette, dtype=np.uint8)[:, None, :])[:, 0]
        order = np.argsort(codes)
        self._colours = codes[order]
        self._colour_targets = np.array(targets, dtype=np.int16)[order]

    def __call__(self, path: Path) -> UInt8[Tensor, "height width"]:
        """Decode a mask and look up the class of each pixel, `IGNORE` where it has none.

        Raises:
            InputError: an id or a colour that the description does not know.
        """
        return torch.from_numpy(self._labels(path).astype(np.uint8))

    def raw(
        self, path: Path
    ) -> Integer[np.ndarray, "height width"] | UInt8[np.ndarray, "height width 3"]:
        """Decode a mask to what it holds: ids, whatever they mean, or RGB colours."""
        if path.suffix.lower() == ".mat":
            return read_matlab_mask(path)
        return palette_colours(path) if self.description.masks == "colors" else read_mask(path)

    def _labels(self, path: Path) -> Integer[np.ndarray, "height width"]:
        pixels = self.raw(path)
        if pixels.ndim == 2:
            return self._from_ids(pixels, path)
        if self.description.masks != "ids" and self.description.has_palette:
            return self._from_colours(pixels, path)
        if (pixels == pixels[:, :, :1]).all():
            return self._from_ids(pixels[:, :, 0], path)
        source = self.description.source
        if self.description.masks == "ids":
            raise InputError(
                f"{path} holds colours, where {self.description.path} expects class ids; "
                + (f"use the masks of {source}" if source else "save ids, or leave out masks: ids")
            )
        raise InputError(
            f"{path} holds colours, but {self.description.path} gives none to its classes; "
            "add palette: [[r, g, b], ...], one per class"
        )

    def _from_ids(
        self, ids: Integer[np.ndarray, "height width"], path: Path
    ) -> Integer[np.ndarray, "height width"]:
        if path.suffix.lower() in (".jpg", ".jpeg"):
            raise InputError(
                f"{path} is a JPEG, whose compression changes class ids; save masks as PNG"
            )
        if ids.min() < 0 or ids.max() >= 2**16:
            strange = ids.min() if ids.min() < 0 else ids.max()
            raise InputError(f"{path} holds id {strange}; save masks with ids of 0 to 65535")
        labels: np.ndarray = self._classes.take(ids)
        if labels.min() == _UNKNOWN:
            unknown = np.unique(ids[labels == _UNKNOWN]).tolist()
            raise InputError(
                f"{path} holds {_listed('id', unknown)}, which {self.description.path} does not "
                f"know ({self._known()}); map with ids: or leave out with ignore: there"
            )
        return labels

    def _known(self) -> str:
        ids = [raw for raw, target in self.encoding.ids.items() if target != IGNORE]
        return f"{len(self.description.class_names)} classes, from id {min(ids, default=0)}"

    def _from_colours(
        self, pixels: UInt8[np.ndarray, "height width 3"], path: Path
    ) -> Integer[np.ndarray, "height width"]:
        codes = _codes(pixels)
        nearest = np.searchsorted(self._colours, codes).clip(max=len(self._colours) - 1)
        unknown = self._colours[nearest] != codes
        if unknown.any():
            strange = np.unique(pixels[unknown], axis=0).tolist()
            remedy = (
                "JPEG compression changes colours: save masks as PNG"
                if path.suffix.lower() != ".png"
                else "add to palette: or ignore_colors: there"
            )
            raise InputError(
                f"{path} holds {_listed('colour', strange)}, which {self.description.path} does "
                f"not know; {remedy}"
            )
        labels: np.ndarray = self._colour_targets[nearest]
        return labels


def _codes(
    pixels: UInt8[np.ndarray, "height width 3"],
) -> Integer[np.ndarray, "height width"]:
    red, green, blue = np.moveaxis(pixels.astype(np.int32), -1, 0)
    codes: np.ndarray = red << 16 | green << 8 | blue
    return codes


def _listed(noun: str, values: list, most: int = 5) -> str:
    text = ", ".join(str(value) for value in values[:most])
    more = f" and {len(values) - most} more" if len(values) > most else ""
    return f"{noun}{'s' if len(values) > 1 else ''} {text}{more}"
