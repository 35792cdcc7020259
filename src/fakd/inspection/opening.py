"""What lies at a path: a described data set, one of the paper's, or files to be described."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from fakd.data.dataset import SegmentationData
from fakd.data.description import Description, read_description
from fakd.data.matching import Listing, listed
from fakd.data.published import PLACES, read_published
from fakd.data.scan import files_below
from fakd.errors import InputError
from fakd.inspection.proposal import Proposal, propose


@dataclass
class Opened:
    """A data set whose files are listed."""

    title: str
    origin: str
    """How it was recognised, for people."""
    root: Path
    description: Description
    splits: list[Listing]
    proposal: Proposal | None = None
    """Where there was no description."""


def open_path(path: Path, description: Path | None) -> Opened:
    """Recognise what lies at a path and list its files.

    Raises:
        InputError: there is nothing of the kind, or its description is wrong.
    """
    path = path.expanduser()
    if description is None and path.suffix.lower() in (".yaml", ".yml") and not path.is_dir():
        described = read_description(path)
        return _described(described.root or path.parent, described, f"described by {path}")
    if not path.is_dir():
        came = "is a file" if path.exists() else "does not exist"
        raise InputError(f"expected a folder of data or its .yaml file, but {path} {came}")
    if description is not None:
        file = description.expanduser()
        return _described(path, read_description(file), f"described by {file}")
    if (file := path / "dataset.yaml").exists():
        return _described(path, read_description(file), f"described by {file}")
    return _published(path) or _undescribed(path)


def open_listed(data: SegmentationData) -> Opened:
    """Take a data set that is open already.

    Raises:
        InputError: it does not consist of files.
    """
    from fakd.data.samples import PairedSplit

    splits = []
    for name, split in (("train", data.train), ("val", data.val)):
        if not isinstance(split, PairedSplit):
            raise InputError(
                f"{data.name} does not consist of files, so there is nothing to check; give a "
                "folder or a .yaml file"
            )
        splits.append((Listing(name, split.pairs), split))
    readers = [pair.reader for listing, _ in splits for pair in listing.pairs if pair.reader]
    if not readers:
        raise InputError(f"{data.name} has no masks to check; give labelled data")
    splits[0][0].remarks += data.remarks
    origin = "opened by its reader"
    root, described = splits[0][1].root, readers[0].description
    return Opened(data.name, origin, root, described, [listing for listing, _ in splits])


def _described(root: Path, described: Description, origin: str) -> Opened:
    if not root.is_dir():
        raise InputError(f"expected a folder of data, but {root} is none; check root: in {origin}")
    title = described.name or root.resolve().name
    return Opened(title, origin, root, described, listed(root, described, lenient=True))


def _published(path: Path) -> Opened | None:
    # The folder itself comes before what lies in it.
    for inside in (False, True):
        for name, place in PLACES.items():
            for root in [path / folder for folder in place.inside] if inside else [path]:
                if place.whole_in(root):
                    return _recognised(name, root)
    return None


def _recognised(name: str, root: Path) -> Opened:
    described = read_published(name)
    note = None
    extra = described.train[1:]
    if extra and not any(_all_there(root, group) for part in extra for group in part.lists):
        described = read_published(name, augmented=False)
        note = (
            "the additional training images (SBD) are not here, so train is VOC's own; train with "
            "--data.augmented false, or get " + str(described.source)
        )
    opened = _described(root, described, f"recognised by the folders in {root}")
    if note:
        opened.splits[0].remarks.append(note)
    return opened


def _all_there(root: Path, files: Sequence[str]) -> bool:
    return all((root / file).is_file() for file in files)


def _undescribed(root: Path) -> Opened:
    files = cache(files_below)
    proposal = propose(root, files(root))
    described = proposal.description
    splits = listed(root, described, lenient=True, chosen=proposal.chosen, files=files)
    origin = "no dataset.yaml; judged by names and masks"
    return Opened(root.resolve().name, origin, root, described, splits, proposal)
