"""A cache of decoded samples on disk, shared by all processes, runs and seeds."""

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
from fakd.data.dataset import hash_lines
from fakd.data.samples import WrappedSplit
from fakd.errors import InputError
from fakd.files import expand_user, make_folder, replace_folder, writing
from fakd.runs.folder import read_json
from fakd.runs.locks import lock
from fakd.settings import Hardware
from fakd.signals import Interrupted
from fakd.training.interruption import agreed_signal
from fakd.training.progress import StepProgress

_FORMAT = 1
"""Increased whenever decoding of the same files changes."""
_INDEX, _SAMPLES = "index.json", "samples.bin"
_LOOKED_AT = 8
"""Number of samples from which the total size is estimated."""


class DecodedSplit(WrappedSplit):
    """A split whose samples are read from a cache folder; samples not in it are decoded.

    Args:
        split: the original split.
        folder: contains one file of 8-bit images, each followed by its 16-bit labels.
        samples: for each sample its offset in that file, height, width, whether it has labels, a
            checksum and its name; or None.
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
        remedy = f"delete {self._folder}; it is then rebuilt"
        try:
            # Mapped, so that processes share the pages; copied, since augmentation writes to it.
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


def cache_on_disk(data: SegmentationData, hardware: Hardware, console: Console) -> list[Split]:
    """Read decoded data from `hardware.cache_folder`, or decode them into it, under a lock.

    Each split has its own folder there, named by the hash of its identity, so that changed data are
    decoded again. Together they take at most `hardware.cache`, divided by number of samples.
    Samples that do not fit, or cannot be decoded, are left to the original split.

    Raises:
        InputError: the folder cannot be written, or the disk is too full.
        Interrupted: a signal asked to stop; no incomplete folder is left.
    """
    splits = (data.train, data.val)
    place = expand_user(hardware.cache_folder or "")
    total = hardware.cache * 2**30 / sum(len(split) for split in splits)
    found: list[Split] = []
    for split in splits:
        key, limit = hash_lines((f"decoded {_FORMAT}", *split.identity())), int(total * len(split))
        folder = place / key
        with lock(place / f"{key}.lock", wait=True):
            samples = _read_index(folder, len(split), limit)
            if samples is None and not signals.received_signal():
                samples = _fill(split, folder, limit, console)
        found.append(DecodedSplit(split, folder, samples or [None] * len(split)))
    if number := agreed_signal():
        raise Interrupted(number)
    return found


def _read_index(folder: Path, count: int, limit: int) -> list[Any] | None:
    """Read a folder's index; None if it is incomplete, or was limited to less than ``limit``."""
    try:
        index = read_json(folder / _INDEX)
        whole = (folder / _SAMPLES).stat().st_size == index["bytes"]
        enough = index["all"] or index["limit"] >= limit
        samples: list[Any] = index["samples"]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return samples if whole and enough and len(samples) == count else None


def _fill(split: Split, folder: Path, limit: int, console: Console) -> list[Any] | None:
    """Decode a split into a folder, after printing its estimated size; None if interrupted."""
    needed = min(_estimate(split), limit)
    make_folder(folder.parent)
    free = shutil.disk_usage(folder.parent).free
    if needed > free:
        raise InputError(
            f"hardware.cache_folder {folder.parent} has {free / 1e9:.1f} GB free, and decoded "
            f"samples take {needed / 1e9:.1f} GB; choose another folder, or lower --hardware.cache"
        )
    console.print(
        f"decoding {len(split)} samples once for all runs: about {needed / 1e9:.2f} GB in {folder}",
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
                if signals.received_signal():
                    return False
                entry, content = _encode(split, index)
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


def _encode(split: Split, index: int) -> tuple[tuple[Any, ...] | None, bytes]:
    """Decode a sample to its index entry and its bytes; None and no bytes if it is broken."""
    try:
        image, labels, name = split[index]
    except InputError:
        # The original split raises the error again when the sample is drawn.
        return None, b""
    content = image.contiguous().numpy().tobytes()
    content += b"" if labels is None else labels.contiguous().numpy().tobytes()
    height, width = image.shape[1:]
    return (height, width, labels is not None, zlib.crc32(content), name), content


def _estimate(split: Split) -> int:
    """Estimate the bytes of all samples from a few."""
    count = min(_LOOKED_AT, len(split))
    sizes = [len(_encode(split, place * len(split) // count)[1]) for place in range(count)]
    return sum(sizes) * len(split) // max(count, 1)
