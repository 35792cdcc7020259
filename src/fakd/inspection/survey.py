"""Reads headers of all files and pixels of an even sample within a time limit."""

import hashlib
import math
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from itertools import zip_longest
from typing import Any, NamedTuple, TypeVar

from PIL import Image

from fakd.data.decoding import SIDEWAYS, decode_raw, decode_rgb
from fakd.data.layout import NEAREST
from fakd.data.masks import MaskReader, MaskValue, Pair, Pixels
from fakd.data.matching import Listing
from fakd.data.packed import Place
from fakd.errors import InputError
from fakd.settings import IGNORE

LEAST = 8
"""Minimum number of pairs to decode per split, regardless of time."""
_AGAIN = 32
"""Number of masks that are decoded again to locate their values."""
_GOLDEN = (math.sqrt(5) - 1) / 2
_ALIKE = 4
"""Number of files to remember for each unknown value."""
_WIDTH, _HEIGHT, _ORIENTATION = 0x0100, 0x0101, 0x0112
_ENDS = {"PNG": b"IEND", "JPEG": b"\xff\xd9"}
_KEPT = 4096
"""Number of most frequent values to keep per mask; more come from compression or smooth edges."""
_TAIL = 64
"""Bytes at the end of a file that contain the end marker; some programs append a few."""
_Result = TypeVar("_Result")
Advance = Callable[[int, int], None]
"""Called with the number of steps done, and the total."""


class Header(NamedTuple):
    """Header of an image file."""

    size: tuple[int, int]
    """Width and height after applying the EXIF orientation."""
    format: str
    mode: str
    turned: bool
    """Whether EXIF rotates the image."""
    stored: tuple[int, int]
    """Width and height before that."""
    transparent: bool
    length: int
    """File size in bytes."""

    @property
    def kind(self) -> str:
        """Format and mode, such as ``PNG P``."""
        return f"{self.format} {self.mode}"


@dataclass
class SplitFacts:
    """The facts about one split, as far as it was read."""

    listing: Listing
    headers: dict[Place, Header] = field(default_factory=dict)
    looked_at: int = 0
    """Number of pairs whose headers were read."""
    unreadable: dict[Place, str] = field(default_factory=dict)
    sample: list[Pair] = field(default_factory=list)
    """Pairs that were decoded."""
    counts: list[dict[MaskValue, int]] = field(default_factory=list)
    """Pixels of each value in each mask of the sample; empty for unreadable ones."""
    pixels: Counter[MaskValue] = field(default_factory=Counter)
    """Pixels of each value in the sample's masks."""
    classes: Counter[int] = field(default_factory=Counter)
    """Pixels of each class in the sample's masks, `IGNORE` included."""
    class_images: Counter[int] = field(default_factory=Counter)
    near: int = 0
    """Pixels with undescribed values that count as the nearest described one."""
    unknown: dict[MaskValue, list[Place]] = field(default_factory=dict)
    """Unknown values, and masks that contain them."""

    @property
    def mismatched(self) -> list[tuple[Pair, Header, Header]]:
        """Pairs whose image and mask differ in size."""
        found = []
        for pair in self.listing.pairs:
            image = self.headers.get(pair.image)
            mask = None if pair.mask is None else self.headers.get(pair.mask)
            if image is not None and mask is not None and image.size != mask.size:
                found.append((pair, image, mask))
        return found

    @property
    def image_headers(self) -> dict[Place, Header]:
        """Headers of the images that could be read."""
        return self._read(pair.image for pair in self.listing.pairs)

    @property
    def mask_headers(self) -> dict[Place, Header]:
        """Headers of the masks that could be read."""
        return self._read(pair.mask for pair in self.listing.pairs)

    def _read(self, paths: Iterable[Place | None]) -> dict[Place, Header]:
        return {path: self.headers[path] for path in paths if path in self.headers}

    @property
    def known_pixels(self) -> int:
        """Pixels of the sample with a known value, ignored ones included."""
        return sum(self.classes.values())

    @property
    def ignored(self) -> float:
        """Share of ignored pixels among those known."""
        return self.classes[IGNORE] / max(1, self.known_pixels)

    def masks(self) -> Iterator[Pixels]:
        """Decode some of the sample's masks again."""
        for pair, counts in zip(self.sample[:_AGAIN], self.counts, strict=False):
            if counts and pair.reader is not None and pair.mask is not None:
                yield pair.reader.read_values(pair.mask)

    def share(self, number: int) -> float:
        """Share of a class among the labelled pixels."""
        return self.classes[number] / max(1, self.known_pixels - self.classes[IGNORE])


class Budget:
    """A time limit.

    Args:
        seconds: From now; None for no limit.
        workers: Threads that read files; 0 and 1 are the same.
    """

    def __init__(self, seconds: float | None, workers: int) -> None:
        self._began = time.monotonic()
        self._seconds = math.inf if seconds is None else seconds
        self.workers = max(1, workers)

    def left(self, share: float = 1.0) -> bool:
        """Return whether less than this share of the time has passed."""
        return time.monotonic() - self._began < share * self._seconds

    def spent(
        self,
        share: float,
        work: Callable[[Pair], _Result],
        items: Sequence[tuple[SplitFacts, Pair]],
        least: int,
        advance: Advance,
    ) -> Iterator[tuple[SplitFacts, Pair, _Result]]:
        """Process pairs in batches until a share of the time has passed."""
        size = 4 * self.workers
        with ThreadPoolExecutor(self.workers) as pool:
            for start in range(0, len(items), size):
                if start >= least and not self.left(share):
                    return
                batch = items[start : start + size]
                results = pool.map(work, (pair for _, pair in batch))
                for done, ((split, pair), result) in enumerate(
                    zip(batch, results, strict=True), start=start + 1
                ):
                    yield split, pair, result
                    advance(done, len(items))


def spread_evenly(count: int, seed: int = 0) -> list[int]:
    """Order indices so that every prefix of the order is spread evenly.

    >>> spread_evenly(5)
    [0, 3, 1, 4, 2]
    """
    if not count:
        return []
    offset = (seed * math.sqrt(2)) % 1
    # Multiples of the golden ratio fall into gaps between earlier ones; taking ranks makes the
    # order a permutation.
    places = [(offset + _GOLDEN * index) % 1 for index in range(count)]
    ranks = {index: rank for rank, index in enumerate(sorted(range(count), key=places.__getitem__))}
    return [ranks[index] for index in range(count)]


def read_headers(splits: Sequence[SplitFacts], budget: Budget, advance: Advance) -> None:
    """Read the headers of all images and masks, in an even order, within half of the time."""
    work, least = _in_turn(splits), LEAST * len(splits)
    for split, _, (headers, failed) in budget.spent(0.5, _headers, work, least, advance):
        split.looked_at += 1
        split.headers.update(headers)
        split.unreadable.update(failed)


def read_pixels(
    splits: Sequence[SplitFacts], budget: Budget, samples: int | None, advance: Advance
) -> None:
    """Decode an even sample of each split and count its mask values.

    Args:
        splits: Those whose headers were read.
        budget: The time limit; at least `LEAST` pairs of each split are decoded in any case.
        samples: Pairs of each split, regardless of time; None for as many as it allows.
        advance: Called with the progress.
    """
    work = _in_turn(splits, samples)
    least = len(work) if samples is not None else LEAST * len(splits)
    # The rest of the time is for hashes and a picture.
    for split, pair, (values, failed) in budget.spent(0.9, _values, work, least, advance):
        split.sample.append(pair)
        split.counts.append(values)
        split.unreadable.update(failed)


def read_with(split: SplitFacts, reader: MaskReader) -> None:
    """Replace the mask reader of a split."""
    split.listing.pairs = [pair._replace(reader=reader) for pair in split.listing.pairs]
    split.sample = [pair._replace(reader=reader) for pair in split.sample]


def _in_turn(
    splits: Sequence[SplitFacts], most: int | None = None
) -> list[tuple[SplitFacts, Pair]]:
    """Alternate between the splits, each in an even order."""
    orders = [spread_evenly(len(split.listing.pairs))[:most] for split in splits]
    return [
        (split, split.listing.pairs[index])
        for turn in zip_longest(*orders)
        for split, index in zip(splits, turn, strict=True)
        if index is not None
    ]


def _headers(pair: Pair) -> tuple[dict[Place, Header], dict[Place, str]]:
    """Read a pair's headers; return errors by file."""
    headers: dict[Place, Header] = {}
    failed: dict[Place, str] = {}
    for path in (pair.image, pair.mask):
        if path is None or path.suffix.lower() == ".mat":
            continue
        try:
            headers[path] = read_header(path, upright=path == pair.image)
        except InputError as error:
            failed[path] = str(error)
    return headers, failed


def _values(pair: Pair) -> tuple[dict[MaskValue, int], dict[Place, str]]:
    """Decode a pair; return the pixels of each mask value, and errors by file."""
    values: dict[MaskValue, int] = {}
    failed: dict[Place, str] = {}
    try:
        decode_rgb(pair.image, pair.levels)
    except InputError as error:
        failed[pair.image] = str(error)
    if pair.mask is not None and pair.reader is not None:
        try:
            values = dict(Counter(pair.reader.count_values(pair.mask)).most_common(_KEPT))
        except InputError as error:
            failed[pair.mask] = str(error)
    return values, failed


def map_values(split: SplitFacts) -> None:
    """Map the values of the sample's masks to classes, and collect unknown values."""
    meaning = cache(lambda reader, value: (reader.meaning(value), reader.is_exact(value)))
    for pair, values in zip(split.sample, split.counts, strict=True):
        if pair.reader is None or pair.mask is None:
            continue
        seen: set[int] = set()
        for value, pixels in values.items():
            split.pixels[value] += pixels
            target, exact = meaning(pair.reader, value)
            if target is None:
                files = split.unknown.setdefault(value, [])
                if len(files) < _ALIKE:
                    files.append(pair.mask)
            else:
                split.near += 0 if exact or pair.reader.encoding.others != NEAREST else pixels
                split.classes[target] += pixels
                seen.add(target)
        split.class_images.update(seen)


def read_header(path: Place, upright: bool) -> Header:
    """Read the header of an image or, if not ``upright``, of a mask.

    A file without an end marker is decoded to check whether pixels are missing.

    Raises:
        InputError: the file is damaged, incomplete, missing or not an image.
    """
    try:
        length = path.stat().st_size
        with path.open("rb") as file, Image.open(file) as image:
            size, kind, mode = image.size, str(image.format), image.mode
            transparent = mode in ("LA", "PA", "RGBA") or "transparency" in image.info
            # If EXIF is not at a PNG's beginning, reading it would decode the image. TIFF
            # orientation applies to masks too, and some Pillow versions return the rotated size.
            has_exif = upright and (kind != "PNG" or "exif" in image.info)
            if kind == "TIFF":
                tags: Any = image
                size = tags.tag_v2[_WIDTH], tags.tag_v2[_HEIGHT]
            code = image.getexif().get(_ORIENTATION, 1) if has_exif or kind == "TIFF" else 1
            file.seek(max(0, length - _TAIL))
            tail = file.read()
    # Pillow's parsers raise any exception on a damaged file.
    except Exception:
        # Use the reader's error message, or its result if Pillow does not know the format.
        held = decode_raw(path, upright)
        bands = held.pixels.shape[2] if held.pixels.ndim == 3 else 1
        size, kind, code = held.size_before, path.suffix[1:].upper(), held.orientation
        mode, length = f"{held.pixels.dtype} x {bands}", path.stat().st_size
        transparent = held.transparent
    else:
        if _ENDS.get(kind, b"") not in tail:
            decode_raw(path, upright)
    shown = (size[1], size[0]) if code in SIDEWAYS else size
    kind = "JPEG" if kind == "MPO" else kind
    return Header(shown, kind, mode, code not in (0, 1), size, transparent, length)


def find_identical(splits: Sequence[SplitFacts], budget: Budget) -> list[tuple[Place, Place]]:
    """Find images of one split that are byte-identical to images of the next.

    Only files of equal size are read.
    """
    first, second = (_by_length(split) for split in splits)
    found = []
    for length in sorted(first.keys() & second.keys()):
        if not budget.left():
            break
        known = {_digest(path): path for path in first[length]}
        for path in second[length]:
            twin = known.get(_digest(path))
            if twin is not None and twin != path:
                found.append((twin, path))
    return found


def _by_length(split: SplitFacts) -> dict[int, list[Place]]:
    grouped: defaultdict[int, list[Place]] = defaultdict(list)
    for path, header in split.image_headers.items():
        grouped[header.length].append(path)
    return grouped


def _digest(path: Place) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()
