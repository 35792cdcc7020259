"""What lies at a path: a described data set, one of the paper's, or files to be described."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from fakd.data.dataset import SegmentationData
from fakd.data.description import Description
from fakd.data.folders import described_folder
from fakd.data.matching import Listing, listed
from fakd.data.published import read_published, recognised
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
    if (found := described_folder(path, description)) is not None:
        return _described(*found, f"described by {found[1].path}")
    return _published(path) or _undescribed(path)


def open_listed(data: SegmentationData) -> Opened:
    """Take a data set that is open already.

    Raises:
        InputError: it does not consist of files.
    """
    from fakd.data.samples import PairedSplit

    parts = {"train": data.train, "val": data.val}
    splits = {name: split for name, split in parts.items() if isinstance(split, PairedSplit)}
    if len(splits) < len(parts):
        raise InputError(
            f"{data.name} does not consist of files, so there is nothing to check; give a folder "
            "or a .yaml file"
        )
    listings = [Listing(name, split.pairs) for name, split in splits.items()]
    readers = [pair.reader for listing in listings for pair in listing.pairs if pair.reader]
    if not readers:
        raise InputError(f"{data.name} has no masks to check; give labelled data")
    listings[0].remarks += data.remarks
    root, described = splits["train"].root, readers[0].description
    return Opened(data.name, "opened by its reader", root, described, listings)


def _described(root: Path, described: Description, origin: str) -> Opened:
    title = described.name or root.resolve().name
    return Opened(title, origin, root, described, listed(root, described, lenient=True))


def _published(path: Path) -> Opened | None:
    if (found := recognised(path)) is None:
        return None
    name, root = found
    described = read_published(name)
    lists = [group for part in described.train[1:] for group in part.lists]
    whole = not lists or any(all((root / file).is_file() for file in group) for group in lists)
    if not whole:
        described = read_published(name, augmented=False)
    opened = _described(root, described, f"recognised by the folders in {root}")
    if not whole:
        opened.splits[0].remarks.append(
            "the additional training images (SBD) are not here, so train is VOC's own; train with "
            f"--data.augmented false, or get {described.source}"
        )
    return opened


def _undescribed(root: Path) -> Opened:
    files = cache(files_below)
    proposal = propose(root, files(root))
    described = proposal.description
    splits = listed(root, described, lenient=True, chosen=proposal.chosen, files=files)
    origin = "no dataset.yaml; judged by names and masks"
    return Opened(root.resolve().name, origin, root, described, splits, proposal)
