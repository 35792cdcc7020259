"""Where publishers lay their data sets, and finding one at, or near, the folder a user names."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from fakd.errors import InputError


class Place(NamedTuple):
    """How to know the folder of a data set."""

    inside: tuple[str, ...]
    """Where a parent holds the folder."""
    marks: tuple[str, ...]
    """Folders inside it, of which a whole copy has all."""

    def whole_in(self, folder: Path) -> bool:
        """Tell whether a whole copy is in this very folder."""
        return all((folder / mark).is_dir() for mark in self.marks)


_VOC2010 = Place(("VOC2010", "VOCdevkit/VOC2010"), ("JPEGImages", "ImageSets/SegmentationContext"))
# In this order: VOC 2010 has the folders of VOC 2012 too.
PLACES: Mapping[str, Place] = {
    "ade20k": Place(
        ("ADEChallengeData2016", "ade/ADEChallengeData2016"),
        ("images/training", "annotations/training"),
    ),
    "cityscapes": Place(("cityscapes",), ("leftImg8bit", "gtFine")),
    "pascal_context59": _VOC2010,
    "pascal_context60": _VOC2010,
    "voc2012": Place(
        ("VOC2012", "VOCdevkit/VOC2012"),
        ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"),
    ),
}
"""By the name of the YAML file that describes the set; of those in one place the first is meant."""


def located(root: str | Path, title: str, place: Place, source: str) -> Path:
    """Find the publisher's folder.

    Args:
        root: The folder itself or one that holds it.
        title: What the set is called.
        place: How to know it.
        source: Where to get it.

    Raises:
        InputError: it is neither; the message names a folder nearby that would be right.
    """
    inside, marks = place
    base = Path(root).expanduser()
    if not base.is_dir():
        came = "is a file" if base.exists() else "does not exist"
        raise InputError(f"expected the folder of {title}, but {base} {came}; check the path")
    # A whole copy anywhere comes before half of one.
    for enough in (len(marks), 1):
        for folder in (base, *(base / path for path in inside)):
            if sum((folder / mark).is_dir() for mark in marks) >= enough:
                return folder
    entries = sorted(entry.name for entry in base.iterdir() if not entry.name.startswith("."))
    more = f" and {len(entries) - 6} more" if len(entries) > 6 else ""
    holds = f"{', '.join(entries[:6]) or 'nothing'}{more}"
    near = next((path for path in _near(base, inside) if place.whole_in(path)), None)
    remedy = f"get {source}" if near is None else f"give {near}, which has them"
    raise InputError(
        f"{base} is not {title}: expected {' and '.join(marks)} in it or in its "
        f"{' or '.join(inside)}, but it holds {holds}; {remedy}"
    )


def _near(base: Path, inside: tuple[str, ...]) -> Iterator[Path]:
    """Walk up a few levels, then one down."""
    parents = list(base.absolute().parents)[:3]
    children = sorted(entry for entry in base.iterdir() if entry.is_dir())[:100]
    for folder in (*parents, *children):
        yield folder
        yield from (folder / path for path in inside)
