"""A folder of stored answers: a manifest, and shards that are written atomically."""

import hashlib
import json
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from fakd.answers.encoding import Encoding
from fakd.answers.maps import Answers, Maps, Size, missing_answers
from fakd.answers.sources import MANIFEST, Stored
from fakd.data.dataset import SegmentationData, Split
from fakd.errors import InputError
from fakd.files import write_atomically, write_text

FORMAT = 1
"""Version of the folder's format; incremented when old readers would misread it."""
PARTS = ("train", "val")
_CHECKED = 16
"""About how many files of a part are read to compare them with those of the answers."""
_MEANINGS = {"teacher": "another teacher", "data": "other images", "settings": "other settings"}
"""The parts of a manifest in which two stores may differ, in words."""


class Record(NamedTuple):
    """The answer for one image, with the image's name, version and `Split.checksum`."""

    name: str
    stamp: str
    checksum: str | None
    size: Size
    maps: Maps


class Store(Answers):
    """Answers written, completely or partly, by `fakd answer`.

    Args:
        folder: Their folder.
        content: The manifest's content.
    """

    def __init__(self, folder: Path, content: Mapping[str, Any]) -> None:
        self.folder, self.content, self.title = folder, content, str(folder)
        teacher, settings = content["teacher"], content["settings"]
        self.classes, self.channels = teacher["classes"], settings["channels"]
        names, palette = teacher["class_names"], teacher["palette"]
        self.class_names = None if names is None else tuple(names)
        self.palette = None if palette is None else tuple(tuple(each) for each in palette)
        self.encoding = Encoding(settings["format"], settings["k"] or 1)
        # Features have no most likely classes.
        self.feature_encoding = Encoding("int8" if settings["format"] == "int8" else "float16")
        self.shard: int = content["shard"]
        text = json.dumps(content, sort_keys=True)
        self.fingerprint = hashlib.sha256(text.encode()).hexdigest()[:16]

    @classmethod
    def open(cls, folder: Path) -> "Store":
        """Open a store, complete or not.

        Raises:
            InputError: the manifest cannot be read, or is of another version.
        """
        path = folder / MANIFEST
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            version = content["format"]
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise InputError(
                f"{path} is not a manifest of stored answers ({error}); give fakd answer another "
                "--out"
            ) from error
        if version != FORMAT:
            raise InputError(
                f"{path} must have format {FORMAT}, got {version}; it was written by another "
                "version of fakd, so use that one"
            )
        return cls(folder, content)

    @classmethod
    def begin(cls, folder: Path, content: Mapping[str, Any]) -> "Store":
        """Create a store, or continue one with the same teacher, images and settings.

        Raises:
            InputError: it is a file, or contains other files or a store that differs.
        """
        content = json.loads(json.dumps({"format": FORMAT, **content}))
        path = folder / MANIFEST
        if folder.is_file():
            raise InputError(f"{folder} is a file; choose another --out")
        if not path.is_file():
            if folder.exists() and any(each.name[0] != "." for each in folder.iterdir()):
                raise InputError(f"{folder} holds files but no {MANIFEST}; choose another --out")
            write_text(path, json.dumps(content, indent=1) + "\n")
        store = cls.open(folder)
        for key, meaning in _MEANINGS.items():
            if (there := store.content[key]) != (now := content[key]):
                raise InputError(
                    f"{folder} holds answers with {meaning} ({_difference(there, now)}); choose "
                    "another --out, or remove it"
                )
        return store

    def shards(self) -> list[tuple[str, int]]:
        """List all shards, by part and number."""
        counts = {part: self.content["parts"][part] for part in PARTS}
        return [(part, i) for part in PARTS for i in range(-(-counts[part] // self.shard))]

    def indices(self, part: str, number: int) -> range:
        """Return the sample indices of a shard."""
        first = number * self.shard
        return range(first, min(first + self.shard, self.content["parts"][part]))

    def path(self, part: str, number: int) -> Path:
        """Return a shard's path; the file exists once the shard is complete."""
        return self.folder / part / f"{number:06d}.safetensors"

    def unwritten(self) -> list[tuple[str, int]]:
        """List the shards that are not written yet."""
        return [shard for shard in self.shards() if not self.path(*shard).is_file()]

    def write(self, part: str, number: int, records: Iterable[Record]) -> int:
        """Write a shard; return its size in bytes."""
        metadata: dict[str, list[str | None]] = {"names": [], "stamps": [], "checksums": []}
        sizes, chunks = [], []
        for record in records:
            metadata["names"].append(record.name)
            metadata["stamps"].append(record.stamp)
            metadata["checksums"].append(record.checksum)
            sizes.append([*record.size, *record.maps.logits.shape[1:]])
            chunks += self.encode(record.maps)
        path = self.path(part, number)
        tensors: dict[str, np.ndarray] = {
            "data": np.frombuffer(b"".join(chunks), np.uint8),
            "ends": np.cumsum([len(chunk) for chunk in chunks], dtype=np.int64),
            "sizes": np.array(sizes, np.int32),
        }
        # One entry, since safetensors does not keep order, and equal shards should be
        # byte-identical.
        entry = {"fakd": json.dumps(metadata)}
        write_atomically(path, lambda file: save_file(tensors, file, metadata=entry))
        return path.stat().st_size

    def encode(self, maps: Maps) -> list[bytes]:
        """Encode the maps of one image."""
        chunks = [self.encoding.encode(maps.logits)]
        if maps.features is not None:
            chunks.append(self.feature_encoding.encode(maps.features))
        return chunks

    def find(self, part: str, split: Split) -> Sequence[int]:
        """Look up names in the shards' headers; compare all file sizes, and some files' bytes."""
        known = self._records(part, [i for each, i in self.shards() if each == part])
        names = [split.name(index) for index in range(len(split))]
        if lacking := [name for name in names if name not in known]:
            remedy = "run fakd answer with these data and another --out"
            raise missing_answers(self.title, part, lacking, len(names), remedy)
        self._compare_images(part, split, range(len(names)), known)
        # A compact array, since every loader process has a copy.
        return array("q", [known[name][0] for name in names])

    def require_same_images(self, data: SegmentationData) -> None:
        """Compare some files with those of the shards that are written.

        Raises:
            InputError: a file has changed.
        """
        left = {*self.unwritten()}
        for part in PARTS:
            written = [i for each, i in self.shards() if each == part and (part, i) not in left]
            answered = [index for i in written for index in self.indices(part, i)]
            self._compare_images(part, getattr(data, part), answered, self._records(part, written))

    def _records(self, part: str, numbers: Iterable[int]) -> dict[str, tuple[int, str, str | None]]:
        """Read place, stamp and checksum of each name from shards' headers."""
        known: dict[str, tuple[int, str, str | None]] = {}
        for number in numbers:
            with _errors_naming(self.path(part, number)) as shard:
                metadata = shard().metadata
            # Shards of earlier versions have none.
            none = [None] * len(metadata["names"])
            sums: Sequence[str | None] = metadata.get("checksums", none)
            lines = zip(metadata["names"], metadata["stamps"], sums, strict=True)
            for place, (name, stamp, checksum) in enumerate(lines, number * self.shard):
                known[name] = place, stamp, checksum
        return known

    def _compare_images(
        self,
        part: str,
        split: Split,
        indices: Sequence[int],
        known: Mapping[str, tuple[int, str, str | None]],
    ) -> None:
        for index in indices:
            _, then, _ = known[name := split.name(index)]
            if (stamp := split.stamp(index)) != then:
                self._refuse_image(part, name, then, stamp)
        # Files without compression are all of one size.
        for index in indices[:: max(1, len(indices) // _CHECKED)]:
            _, _, before = known[name := split.name(index)]
            if before is not None and (now := split.checksum(index)) not in (None, before):
                self._refuse_image(part, name, f"checksum {before}", f"{now}")

    def _refuse_image(self, part: str, name: str, then: str, now: str) -> NoReturn:
        raise InputError(
            f"{self.title} was made from another {part} image {name} ({then} then, {now} now); run "
            "fakd answer with these data and another --out"
        )

    def read(self, part: str, place: int, size: Size) -> Maps:
        """Read one image's maps, without reading the rest of the shard."""
        number, row = divmod(int(place), self.shard)
        with _errors_naming(self.path(part, number)) as opened:
            shard = opened()
            height, width, rows, cols = shard.sizes[row].tolist()
            if (height, width) != size:
                raise InputError(
                    f"{self.title} was made from an image of {width}x{height}, but this one is "
                    f"{size[1]}x{size[0]} (width x height); run fakd answer with these data and "
                    "another --out"
                )
            counts = [self.classes, self.channels]
            depth = [each for each in counts if each is not None]
            encodings = [self.encoding, self.feature_encoding]
            first = row * len(depth)
            bounds = [0, *shard.ends.tolist()][first : first + len(depth) + 1]
            maps = [
                encoding.decode(shard.data[begin:end].tobytes(), (channels, rows, cols))
                for encoding, channels, begin, end in zip(
                    encodings, depth, bounds, bounds[1:], strict=False
                )
            ]
        return Maps(*maps)


class _Shard(NamedTuple):
    data: Any
    """Can be sliced without reading the rest."""
    ends: np.ndarray
    sizes: np.ndarray
    metadata: Mapping[str, list[str]]


@lru_cache(maxsize=256)
def _open_shard(path: Path, state: tuple[int, int]) -> _Shard:
    content: Any = safe_open(path, framework="np")
    metadata = json.loads(content.metadata()["fakd"])
    ends, sizes = content.get_tensor("ends"), content.get_tensor("sizes")
    return _Shard(content.get_slice("data"), ends, sizes, metadata)


@contextmanager
def _errors_naming(path: Path) -> Iterator[Callable[[], _Shard]]:
    """Open a shard; turn any error of the libraries into a message that names the file."""

    def shard() -> _Shard:
        # A store may replace another one at the same path.
        state = path.stat()
        return _open_shard(path.absolute(), (state.st_ino, state.st_mtime_ns))

    try:
        yield shard
    except (SafetensorError, OSError, ValueError, LookupError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{path} is damaged or missing ({' '.join(str(error).split())}); remove it, and run "
            "the same fakd answer command to write it again"
        ) from error


def _difference(there: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    key = next(key for key in {**there, **now} if there.get(key) != now.get(key))
    return f"{key} {there.get(key)} there, {now.get(key)} now"


def images_of(data: SegmentationData) -> dict[str, Any]:
    """Identify the images of a data set, regardless of labels: a manifest's ``data``."""
    digest = hashlib.sha256()
    for part in PARTS:
        split = getattr(data, part)
        for index in range(len(split)):
            digest.update(f"{part} {split.name(index)} {split.stamp(index)}\n".encode())
    return {"name": data.name, "fingerprint": digest.hexdigest()[:16]}


def open_answers(source: Stored, classes: int | None) -> Answers:
    """Open the answers of a source.

    Args:
        source: A folder.
        classes: Expected number of classes; None if a class map follows.

    Raises:
        InputError: the store is incomplete, or has other classes.
    """
    # Imported here because a store does not need it.
    from fakd.answers.external import ExternalAnswers

    answers: Answers
    if (source.path / MANIFEST).is_file():
        if source.smoothing:
            raise InputError("teacher.smoothing is for .png masks; leave it out for stored answers")
        answers = store = Store.open(source.path)
        if left := store.unwritten():
            count = len(store.shards())
            raise InputError(
                f"{source.path} is not complete: {count - len(left)} of {count} shards exist; run "
                "the same fakd answer command to continue"
            )
    else:
        answers = ExternalAnswers(source.path, source.smoothing, classes)
    if classes is not None and answers.classes != classes:
        raise InputError(
            f"{source.path} holds answers for {answers.classes} classes, but {classes} are "
            "expected; map them with --classes_from MAP.yaml"
        )
    return answers
