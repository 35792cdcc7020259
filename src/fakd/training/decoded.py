"""Decoded samples on disk, made once and shared by all processes, runs and seeds."""

import json
import shutil
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from fakd import signals
from fakd.data import Sample, SegmentationData, Split
from fakd.data.dataset import hashed
from fakd.data.samples import KeptSplit
from fakd.errors import InputError
from fakd.files import expanded, make_folder, replace_folder, writing
from fakd.runs.folder import read_json
from fakd.runs.locks import lock
from fakd.settings import Hardware
from fakd.signals import Interrupted
from fakd.training.interruption import agreed
from fakd.training.progress import StepProgress

_FORMAT = 1
"""Raised whenever the same files are decoded to something else."""
_INDEX, _SAMPLES = "index.json", "samples.bin"
_LOOKED_AT = 8
"""Samples whose size stands for that of all."""


class DecodedSplit(KeptSplit):
    """Another split whose samples lie decoded in a folder; those that do not are decoded.

    Args:
        split: the other one.
        folder: has one file of images, 8 bits, each with its labels, 16 bits, behind it.
        samples: for each sample where it begins there, its height and width, whether it has
            labels, a checksum and its name; or None.
    """

    def __init__(self, split: Split, folder: Path, samples: Sequence[Any]) -> None:
        super().__init__(split)
        self._folder, self._samples = folder, samples

    def __getitem__(self, index: int) -> Sample:
        if (known := self._samples[index]) is None:
            return self._split[index]
        start, height, width, labelled, checksum, name = known
        size = height * width * (5 if labelled else 3)
        path = self._folder / _SAMPLES
        remedy = f"delete {self._folder}, and it is made anew"
        try:
            # Mapped, so that all processes read the same pages; copied, as it is written to later.
            content = np.array(np.memmap(path, np.uint8, "r", start, (size,)))
        except (OSError, ValueError) as error:
            raise InputError(f"{path} cannot be read ({error}); {remedy}") from error
        if zlib.crc32(content.data) != checksum:
            raise InputError(f"{path} is damaged at {name}; {remedy}")
        pixels = 3 * height * width
        image = torch.from_numpy(content[:pixels]).view(3, height, width)
        labels = None
        if labelled:
            labels = torch.from_numpy(content[pixels:].view(np.int16)).view(height, width)
        return Sample(image, labels, name)


def decoded(data: SegmentationData, hardware: Hardware, console: Console) -> list[Split]:
    """Find data decoded in `hardware.cache_folder`, or decode them there, one process at a time.

    A split has a folder of its own there, named by the hash of its identity, so that data that have
    changed are decoded anew. Together they take at most `hardware.cache`, each by its share of the
    samples; what does not fit, or cannot be decoded, is left to the split.

    Raises:
        InputError: the folder cannot be written, or the disk has no room.
        Interrupted: a signal asks to stop; nothing half done is left.
    """
    splits = (data.train, data.val)
    place = expanded(hardware.cache_folder or "")
    total = hardware.cache * 2**30 / sum(len(split) for split in splits)
    found: list[Split] = []
    for split in splits:
        key, limit = hashed((f"decoded {_FORMAT}", *split.identity())), int(total * len(split))
        folder = place / key
        with lock(place / f"{key}.lock", wait=True):
            samples = _known(folder, len(split), limit)
            if samples is None and not signals.noted():
                samples = _fill(split, folder, limit, console)
        found.append(DecodedSplit(split, folder, samples or [None] * len(split)))
    if number := agreed():
        raise Interrupted(number)
    return found


def _known(folder: Path, count: int, limit: int) -> list[Any] | None:
    """Read what lies in a folder; None if it is not whole, or holds less than there is room for."""
    try:
        index = read_json(folder / _INDEX)
        whole = (folder / _SAMPLES).stat().st_size == index["bytes"]
        enough = index["all"] or index["limit"] >= limit
        samples: list[Any] = index["samples"]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return samples if whole and enough and len(samples) == count else None


def _fill(split: Split, folder: Path, limit: int, console: Console) -> list[Any] | None:
    """Decode a split into a folder, and tell how much that will be before; None if interrupted."""
    needed = min(_estimate(split), limit)
    make_folder(folder.parent)
    free = shutil.disk_usage(folder.parent).free
    if needed > free:
        raise InputError(
            f"hardware.cache_folder {folder.parent} has {free / 1e9:.1f} GB left, and decoded "
            f"samples take {needed / 1e9:.1f} GB; choose another, or give --hardware.cache less"
        )
    console.print(
        f"decoding {len(split)} samples, once for all runs: some {needed / 1e9:.2f} GB in {folder}",
        soft_wrap=True,
    )
    samples: list[Any] = []

    def write(temporary: Path) -> bool:
        make_folder(temporary)
        end, complete = 0, True
        with (
            writing(folder),
            (temporary / _SAMPLES).open("wb") as file,
            StepProgress(console, "decoding", len(split)) as display,
        ):
            for index in range(len(split)):
                if signals.noted():
                    return False
                entry, content = _encoded(split, index)
                if end + len(content) > limit:
                    entry, content, complete = None, b"", False
                samples.append(entry and (end, *entry))
                file.write(content)
                end += len(content)
                display.advance(index + 1)
        known = {"samples": samples, "bytes": end, "all": complete, "limit": limit}
        (temporary / _INDEX).write_text(json.dumps(known), encoding="utf-8")
        return True

    replace_folder(folder, write)
    return samples if len(samples) == len(split) else None


def _encoded(split: Split, index: int) -> tuple[tuple[Any, ...] | None, bytes]:
    """Decode a sample to what the index says of it, and bytes; nothing of what is broken."""
    try:
        image, labels, name = split[index]
    except InputError:
        # Whoever draws it is told, or leaves it out.
        return None, b""
    content = image.contiguous().numpy().tobytes()
    content += b"" if labels is None else labels.contiguous().numpy().tobytes()
    height, width = image.shape[1:]
    return (height, width, labels is not None, zlib.crc32(content), name), content


def _estimate(split: Split) -> int:
    """Extrapolate the bytes of all samples from some."""
    count = min(_LOOKED_AT, len(split))
    sizes = [len(_encoded(split, place * len(split) // count)[1]) for place in range(count)]
    return sum(sizes) * len(split) // max(count, 1)
