"""Headers of all files and pixels of an even sample, read as far as the time goes: no judgement."""

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

from fakd.data.decoding import SIDEWAYS, decoded, stored
from fakd.data.layout import NEAREST
from fakd.data.masks import MaskReader, MaskValue, Pair, Pixels
from fakd.data.matching import Listing
from fakd.data.packed import Place
from fakd.errors import InputError
from fakd.settings import IGNORE

LEAST = 8
"""Pairs of a split that are decoded however long it takes."""
_AGAIN = 32
"""Masks that are decoded twice, to see where their values lie."""
_GOLDEN = (math.sqrt(5) - 1) / 2
_ALIKE = 4
"""Files that a finding remembers of each unknown value."""
_WIDTH, _HEIGHT, _ORIENTATION = 0x0100, 0x0101, 0x0112
_ENDS = {"PNG": b"IEND", "JPEG": b"\xff\xd9"}
_KEPT = 4096
"""Values that are kept of a mask, the most frequent; more are compression or smooth edges."""
_TAIL = 64
"""Bytes at the end of a file in which its end is marked; some programs add a few more."""
_Result = TypeVar("_Result")
Advance = Callable[[int, int], None]
"""Takes how many steps are done, and of how many."""


class Header(NamedTuple):
    """The beginning of an image file and its last bytes."""

    size: tuple[int, int]
    """Width and height once turned upright."""
    format: str
    mode: str
    turned: bool
    """Whether EXIF says that the picture is to be turned."""
    stored: tuple[int, int]
    """Width and height before that."""
    transparent: bool
    length: int
    """Bytes."""

    @property
    def kind(self) -> str:
        """Name format and mode, such as ``PNG P``."""
        return f"{self.format} {self.mode}"


@dataclass
class SplitFacts:
    """One split, as far as it was looked at."""

    listing: Listing
    headers: dict[Place, Header] = field(default_factory=dict)
    looked_at: int = 0
    """Pairs whose headers were read."""
    unreadable: dict[Place, str] = field(default_factory=dict)
    sample: list[Pair] = field(default_factory=list)
    """Pairs that were decoded."""
    counts: list[dict[MaskValue, int]] = field(default_factory=list)
    """Pixels of each value in each of their masks; empty for one that could not be read."""
    pixels: Counter[MaskValue] = field(default_factory=Counter)
    """Pixels of each value in the sample's masks."""
    classes: Counter[int] = field(default_factory=Counter)
    """Pixels of each class in the sample's masks, `IGNORE` included."""
    class_images: Counter[int] = field(default_factory=Counter)
    near: int = 0
    """Pixels whose value means the class of the nearest one that is described."""
    unknown: dict[MaskValue, list[Place]] = field(default_factory=dict)
    """Values that the description does not know, and masks that hold them."""

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
        """Pixels of the sample that mean a class or nothing."""
        return sum(self.classes.values())

    @property
    def ignored(self) -> float:
        """Share of ignored pixels among those known."""
        return self.classes[IGNORE] / max(1, self.known_pixels)

    def masks(self) -> Iterator[Pixels]:
        """Decode some of the sample's masks again."""
        for pair, counts in zip(self.sample[:_AGAIN], self.counts, strict=False):
            if counts and pair.reader is not None and pair.mask is not None:
                yield pair.reader.stored(pair.mask)

    def share(self, number: int) -> float:
        """Share of a class among the labelled pixels."""
        return self.classes[number] / max(1, self.known_pixels - self.classes[IGNORE])


class Budget:
    """Time that may be spent.

    Args:
        seconds: From now on; None for as long as it takes.
        workers: Threads that read files; 0 and 1 are the same.
    """

    def __init__(self, seconds: float | None, workers: int) -> None:
        self._began = time.monotonic()
        self._seconds = math.inf if seconds is None else seconds
        self.workers = max(1, workers)

    def left(self, share: float = 1.0) -> bool:
        """Tell whether less than this share of the time has passed."""
        return time.monotonic() - self._began < share * self._seconds

    def spent(
        self,
        share: float,
        work: Callable[[Pair], _Result],
        items: Sequence[tuple[SplitFacts, Pair]],
        least: int,
        advance: Advance,
    ) -> Iterator[tuple[SplitFacts, Pair, _Result]]:
        """Work through pairs in batches until a share of the time is over."""
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


def spread(count: int, seed: int = 0) -> list[int]:
    """Order indices so that any beginning of the order is spread evenly.

    >>> spread(5)
    [0, 3, 1, 4, 2]
    """
    if not count:
        return []
    offset = (seed * math.sqrt(2)) % 1
    # Multiples of the golden ratio fill the gaps of those before them; dividing by their rank makes
    # the order a permutation.
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
    """Decode an even sample of each split and count what its masks hold.

    Args:
        splits: What headers were read of.
        budget: The time; at least `LEAST` of each split are decoded even when it is over.
        samples: Pairs of each split, whatever the time; None for as many as it allows.
        advance: Is told how far it is.
    """
    work = _in_turn(splits, samples)
    least = len(work) if samples is not None else LEAST * len(splits)
    # What others take of the time afterwards: hashes and a picture.
    for split, pair, (values, failed) in budget.spent(0.9, _values, work, least, advance):
        split.sample.append(pair)
        split.counts.append(values)
        split.unreadable.update(failed)


def read_with(split: SplitFacts, reader: MaskReader) -> None:
    """Let another reader say what the masks of a split mean."""
    split.listing.pairs = [pair._replace(reader=reader) for pair in split.listing.pairs]
    split.sample = [pair._replace(reader=reader) for pair in split.sample]


def _in_turn(
    splits: Sequence[SplitFacts], most: int | None = None
) -> list[tuple[SplitFacts, Pair]]:
    """Take pairs of the splits by turns, each in an even order."""
    orders = [spread(len(split.listing.pairs))[:most] for split in splits]
    return [
        (split, split.listing.pairs[index])
        for turn in zip_longest(*orders)
        for split, index in zip(splits, turn, strict=True)
        if index is not None
    ]


def _headers(pair: Pair) -> tuple[dict[Place, Header], dict[Place, str]]:
    """Read a pair's headers, and name files whose header cannot be read."""
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
    """Decode a pair: pixels of each value of its mask, and files that could not be decoded."""
    values: dict[MaskValue, int] = {}
    failed: dict[Place, str] = {}
    try:
        decoded(pair.image, pair.levels)
    except InputError as error:
        failed[pair.image] = str(error)
    if pair.mask is not None and pair.reader is not None:
        try:
            values = dict(Counter(pair.reader.counted(pair.mask)).most_common(_KEPT))
        except InputError as error:
            failed[pair.mask] = str(error)
    return values, failed


def tell_meanings(split: SplitFacts) -> None:
    """Say which classes the values of the sample's masks mean, and which values mean nothing."""
    meaning = cache(lambda reader, value: (reader.meaning(value), reader.exact(value)))
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
    """Read the header of an image or, where ``upright`` is false, of a mask, whose EXIF is moot.

    A file that lacks the mark of its end is decoded to see whether pixels are missing.

    Raises:
        InputError: the file is damaged, incomplete, no image or not there.
    """
    try:
        length = path.stat().st_size
        with path.open("rb") as file, Image.open(file) as image:
            size, kind, mode = image.size, str(image.format), image.mode
            transparent = mode in ("LA", "PA", "RGBA") or "transparency" in image.info
            # Asked for EXIF that is not at its beginning, a PNG would be decoded.
            # TIFF is turned as it says, masks too, and its size is told turned by some Pillow.
            has_exif = upright and (kind != "PNG" or "exif" in image.info)
            if kind == "TIFF":
                tags: Any = image
                size = tags.tag_v2[_WIDTH], tags.tag_v2[_HEIGHT]
            code = image.getexif().get(_ORIENTATION, 1) if has_exif or kind == "TIFF" else 1
            file.seek(max(0, length - _TAIL))
            tail = file.read()
    # Pillow raises whatever its parsers stumble over in a damaged file.
    except Exception:
        # The reader's own words, or its success where Pillow knows no such kind.
        held = stored(path, upright)
        bands = held.pixels.shape[2] if held.pixels.ndim == 3 else 1
        size, kind, code = held.size_before, path.suffix[1:].upper(), held.orientation
        mode, length = f"{held.pixels.dtype} x {bands}", path.stat().st_size
        transparent = held.transparent
    else:
        if _ENDS.get(kind, b"") not in tail:
            stored(path)
    shown = (size[1], size[0]) if code in SIDEWAYS else size
    kind = "JPEG" if kind == "MPO" else kind
    return Header(shown, kind, mode, code not in (0, 1), size, transparent, length)


def identical(splits: Sequence[SplitFacts], budget: Budget) -> list[tuple[Place, Place]]:
    """Find images of one split that are byte for byte those of the next.

    Only files of equal length are read.
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
