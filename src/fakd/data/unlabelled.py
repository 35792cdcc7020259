"""Training images without labels, from additional folders and other sources."""

import hashlib
import os
from abc import ABC, abstractmethod
from array import array
from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from fakd.data.description import FRAMES, LIST, SHARDS, TABLE, Description
from fakd.data.layout import IMAGE_SUFFIXES, Levels, Pattern
from fakd.data.masks import Pair
from fakd.data.names import find_as_stored, list_file, read_names, resolve_excluded, to_nfc
from fakd.data.packed import Packed, Place
from fakd.data.scan import files_below
from fakd.errors import InputError, count_noun, list_some


class Block(ABC):
    """Compact list of many images without masks from one source; picklable."""

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of images."""

    @abstractmethod
    def name(self, place: int) -> str:
        """Return an image's name, unique within the block."""

    @abstractmethod
    def image(self, place: int) -> Place:
        """Return the location of an image."""

    @abstractmethod
    def stamp(self, place: int) -> str:
        """Identify the version of an image, equal in copies: its size in bytes, if known."""

    def lines(self, root: Path) -> Iterator[str]:
        """Yield a line that identifies each image, equal in every copy of the data."""
        for place in range(len(self)):
            yield f"{to_nfc(self.name(place))} {self.stamp(place)}"


def _names(block: Block) -> Iterator[str]:
    return map(block.name, range(len(block)))


class _BlockWithout(Block):
    """A block without some of its images."""

    def __init__(self, block: Block, out: Iterable[int]) -> None:
        self._block, self._out = block, sorted(out)
        self._before = [place - number for number, place in enumerate(self._out)]
        """Number of images kept before each one that is left out."""

    def __len__(self) -> int:
        return len(self._block) - len(self._out)

    def _place(self, place: int) -> int:
        return place + bisect_right(self._before, place)

    def name(self, place: int) -> str:
        """Return an image's name."""
        return self._block.name(self._place(place))

    def image(self, place: int) -> Place:
        """Return the location of an image."""
        return self._block.image(self._place(place))

    def stamp(self, place: int) -> str:
        """Identify the version of an image."""
        return self._block.stamp(self._place(place))

    def lines(self, root: Path) -> Iterator[str]:
        """Yield a line that identifies each image that is kept."""
        out = {*self._out}
        lines = enumerate(self._block.lines(root))
        return (line for place, line in lines if place not in out)


class TrainingImages(Sequence[Pair]):
    """Pairs, followed by images without masks, of which little more than names is stored.

    A million files take about 50 MB, shared by all loader processes.

    Args:
        pairs: Those that are stored as they are.
        levels: How values of the other images are interpreted.
    """

    def __init__(self, pairs: Sequence[Pair], levels: Levels = Levels()) -> None:
        self.pairs, self._levels = list(pairs), levels
        self._blocks: list[Block] = []
        self._starts = [len(self.pairs)]

    def add(self, block: Block) -> None:
        """Append the images of one source."""
        self._blocks.append(block)
        self._starts.append(self._starts[-1] + len(block))

    def remove(self, images: Collection[Place]) -> None:
        """Remove images without masks, given as by `of_sizes`."""
        stamps, blocks = {str(image.stat().st_size) for image in images}, self._blocks
        self._blocks, self._starts = [], [len(self.pairs)]
        for block in blocks:
            alike = (place for place in range(len(block)) if block.stamp(place) in stamps)
            out = [place for place in alike if block.image(place) in images]
            self.add(_BlockWithout(block, out) if out else block)

    def names(self) -> set[str]:
        """Collect the names of all images, with and without masks."""
        return {pair.name for pair in self.pairs}.union(*map(_names, self._blocks))

    def exclude(self, out: Collection[str]) -> None:
        """Remove images by name, with and without masks.

        Raises:
            InputError: none is left.
        """
        if len(out) == len(self):
            raise InputError("exclude leaves no training image; exclude fewer")
        blocks, self._blocks = self._blocks, []
        self.pairs = [pair for pair in self.pairs if pair.name not in out]
        self._starts = [len(self.pairs)]
        for block in blocks:
            those = [place for place, name in enumerate(_names(block)) if name in out]
            self.add(_BlockWithout(block, those) if those else block)

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        if index < len(self.pairs):
            return self.pairs[index]
        return self._pair(*self._place(index))

    def _place(self, index: int) -> tuple[Block, int]:
        number = bisect_right(self._starts, index) - 1
        return self._blocks[number], index - self._starts[number]

    def _pair(self, block: Block, place: int) -> Pair:
        return Pair(block.name(place), block.image(place), levels=self._levels)

    def stamp(self, index: int) -> str:
        """Return an image's size in bytes; without a mask, the size when it was listed."""
        if index < len(self.pairs):
            return str(self.pairs[index].image.stat().st_size)
        block, place = self._place(index)
        return block.stamp(place)

    def of_sizes(self, sizes: Iterable[int]) -> list[Pair]:
        """List the images without masks that have one of these sizes in bytes."""
        stamps = {str(size) for size in sizes}
        return [
            self._pair(block, place)
            for block in self._blocks
            for place in range(len(block))
            if block.stamp(place) in stamps
        ]

    def lines(self, root: Path) -> Iterator[str]:
        """Yield a line that identifies each image without a mask, for `Split.identity`."""
        for block in self._blocks:
            yield from block.lines(root)


class _Folder(Block):
    """The files of a folder that match a pattern; each is accessed once."""

    def __init__(self, path: Path, pattern: Pattern, files: Iterable[str]) -> None:
        self.path, self._pattern = path, pattern
        self._text, self._ends = bytearray(), array("q", [0])
        self._sizes, self.identities = array("q"), array("q")
        self.taken: frozenset[int] = frozenset()
        """Those with the name of another training image; their names start with the folder."""
        above = os.fspath(path)
        for file in files:
            self._text += file.encode(errors="surrogateescape")
            self._ends.append(len(self._text))
            state = os.stat(f"{above}/{file}")
            self._sizes.append(state.st_size)
            self.identities.append(_identity(state))

    def __len__(self) -> int:
        return len(self._sizes)

    def _file(self, place: int) -> str:
        text = self._text[self._ends[place] : self._ends[place + 1]]
        return text.decode(errors="surrogateescape")

    def name(self, place: int) -> str:
        """Return a file's name in the pattern, preceded by its folder where that name is taken."""
        name = next(iter(self._pattern.names([self._file(place)], IMAGE_SUFFIXES)))
        return f"{Path(self._pattern.folder).as_posix()}/{name}" if place in self.taken else name

    def image(self, place: int) -> Path:
        """Return a file's path."""
        return self.path / self._file(place)

    def stamp(self, place: int) -> str:
        """Return the size of a file in bytes."""
        return str(self._sizes[place])

    def lines(self, root: Path) -> Iterator[str]:
        """Yield paths relative to the root if the folder is below it, or else names."""
        folder, root = self.path.absolute(), root.absolute()
        if not folder.is_relative_to(root):
            yield from super().lines(root)
            return
        below = folder.relative_to(root).as_posix()
        for place, size in enumerate(self._sizes):
            yield f"{to_nfc(f'{below}/{self._file(place)}'.removeprefix('./'))} {size}"


def _identity(state: os.stat_result) -> int:
    """Identify a file regardless of links to it."""
    return hash((state.st_dev, state.st_ino))


def _read_list(file: Path, root: Path) -> tuple[Pattern, list[str]]:
    """Read a list of image paths, relative to the list, as files of their common folder."""
    paths = [
        find_as_stored(Path(os.path.abspath(file.parent / line))) for line in read_names(file, ())
    ]
    if not paths:
        raise InputError(f"{file} names no image; write one image path per line")
    images = (path.suffix.lower() in IMAGE_SUFFIXES and path.is_file() for path in paths)
    if wrong := [path for path, sound in zip(paths, images, strict=True) if not sound]:
        raise InputError(
            f"{file} names {list_some(wrong, 2)}, but no image is there; paths are relative to "
            f"{file.parent}"
        )
    folder = Path(os.path.commonpath([path.parent for path in paths]))
    root = root.absolute()
    below = folder.relative_to(root) if folder.is_relative_to(root) else folder
    files = [path.relative_to(folder).as_posix() for path in paths]
    return Pattern((below / "{name}.*").as_posix()), files


def unlabelled_images(
    patterns: Iterable[Pattern], root: Path, train: Sequence[Pair], val: Sequence[Pair]
) -> tuple[TrainingImages, list[str]]:
    """List additional images after the training images; report those left out.

    An image keeps its name, unless another training image has it; then its folder becomes part of
    it. Left out are files that are also in training or validation, or earlier in this list, and
    copies of validation images: training on them would inflate scores.

    Raises:
        InputError: a folder is missing or holds only such images.
    """
    images = TrainingImages(train, train[0].levels if train else Levels())
    patterns = list(patterns)
    if not patterns:
        return images, []
    remarks: list[str] = []
    parts = {"train": train, "val": val}
    known = {
        hash(image) if isinstance(image, Packed) else _identity(image.stat()): part
        for part, pairs in parts.items()
        for image in (pair.image for pair in pairs)
    }
    taken = {pair.name for pair in train}
    below = cache(files_below)
    for number, pattern in enumerate(patterns, 1):
        if (block := _open_packed(pattern.text, root)) is not None:
            images.add(block)
            continue
        listed = None
        if pattern.text.endswith(LIST):
            pattern, listed = _read_list(find_as_stored(root / pattern.text), root)
        path = find_as_stored(root / pattern.folder)
        if not path.is_dir():
            raise InputError(f"there is no folder of unlabelled images {path}; check the path")
        files = pattern.names(below(path) if listed is None else listed, IMAGE_SUFFIXES)
        if not files:
            raise InputError(f"{path} holds no file like {pattern.text}; add unlabelled images")
        names = sorted(files)
        folder = _Folder(path, pattern, (files[name] for name in names))
        there = {
            place: part
            for place, identity in enumerate(folder.identities)
            if (part := known.get(identity)) is not None
        }
        if len(there) == len(folder):
            raise InputError(
                f"{folder.image(0)} is in both {there[0]} and unlabelled, like all other images of "
                f"{path}; remove the folder from unlabelled"
            )
        folder.taken = frozenset(place for place, name in enumerate(names) if name in taken)
        if number < len(patterns):
            taken.update(names)
            known |= dict.fromkeys(folder.identities, "unlabelled")
        folder.identities = array("q")
        images.add(_BlockWithout(folder, there) if there else folder)
        for part in dict.fromkeys(there.values()):
            those = [folder.image(place) for place, other in there.items() if other == part]
            remarks.append(_left_out_text(those, f"also in {part}"))
    again = find_copies(images.of_sizes({pair.image.stat().st_size for pair in val}), val)
    images.remove(again)
    if again:
        remarks.append(_left_out_text(again, "identical to images of val"))
    return images, remarks


def training_images(
    root: Path, described: Description, train: Sequence[Pair], val: Sequence[Pair]
) -> tuple[TrainingImages, list[str]]:
    """List all training images that the description does not exclude; report those left out.

    Raises:
        InputError: a folder or list is missing, or an entry of either matches no image.
    """
    images, remarks = unlabelled_images(described.unlabelled, root, train, val)
    if described.exclude:

        def read(file: str) -> list[str]:
            return read_names(list_file(file, root, described.path), names)

        names = images.names()
        out = resolve_excluded(described.exclude, names, read)
        images.exclude(out)
        them = count_noun(len(out), "training image is", "training images are")
        remarks.append(f"{them} left out by exclude ({list_some(sorted(out), 2)})")
    return images, remarks


def _left_out_text(images: Sequence[Place], where: str) -> str:
    them = count_noun(len(images), "unlabelled image is", "unlabelled images are")
    return f"{them} left out, {where} ({list_some(images, 2)})"


def _open_packed(text: str, root: Path) -> Block | None:
    """Open images that are not files: shards, a table, or a video; None for a folder."""
    if text.endswith(SHARDS):
        # Imported here because a folder of files needs none of them.
        from fakd.data.shards import Shards

        return Shards(root, text)
    if text.startswith(TABLE):
        from fakd.data.tables import Table

        return Table(root / text.removeprefix(TABLE))
    if (frames := FRAMES.fullmatch(text)) is not None:
        from fakd.data.video import Frames

        return Frames(root / frames["file"], int(frames["every"]))
    return None


def find_copies(pairs: Sequence[Pair], others: Sequence[Pair]) -> list[Place]:
    """Find images that are byte-identical to another; only files of equal size are read."""
    sizes = {each.image: each.image.stat().st_size for each in (*pairs, *others)}
    shared = {sizes[each.image] for each in pairs} & {sizes[each.image] for each in others}

    @cache
    def content(image: Place) -> bytes:
        return hashlib.sha256(image.read_bytes()).digest()

    known = {content(each.image) for each in others if sizes[each.image] in shared}
    alike = (each.image for each in pairs if sizes[each.image] in shared)
    return [image for image in alike if content(image) in known]
