"""Recognition of a path: a described data set, one of the paper's, or undescribed files."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from fakd.data.dataset import SegmentationData
from fakd.data.description import Description, read_description
from fakd.data.folders import described_folder
from fakd.data.matching import Listing, listed
from fakd.data.published import read_published, recognised
from fakd.data.scan import files_below
from fakd.data.unlabelled import unlabelled_images
from fakd.errors import InputError, counted, some
from fakd.inspection.annotations import AFTER_MASKS, BEFORE_MASKS, annotations_in, draw_masks
from fakd.inspection.annotations.regions import Annotations
from fakd.inspection.grouping import LISTS
from fakd.inspection.proposal import ARCHIVES, Proposal, propose
from fakd.inspection.survey import Advance

SAVED = ("dataset.yaml", *LISTS.values(), "masks")
"""Files that a proposal may write."""
_PROPOSED = Path("the proposed dataset.yaml")


@dataclass
class Opened:
    """A data set with its file listing."""

    title: str
    origin: str
    """How it was recognised, for the user."""
    root: Path
    description: Description
    splits: list[Listing]
    proposal: Proposal | None = None
    """If there was no description."""
    remarks: Sequence[str] = ()
    """Notes about masks that were drawn."""


def open_path(
    path: Path,
    description: Path | None,
    save: Path | None = None,
    advance: Advance = lambda done, total: None,
) -> Opened:
    """Recognise what is at a path and list its files; draw masks if there are only annotations.

    Args:
        path: A folder or a .yaml file.
        description: The YAML file of a folder, if it is elsewhere.
        save: The folder for a description and masks.
        advance: Called with the number of masks drawn.

    Raises:
        InputError: there is no data set, or its description is wrong; masks have to be drawn and
            ``save`` is missing, or already contains files with these names.
    """
    path = path.expanduser()
    if path.is_file() and path.suffix.lower() in ARCHIVES:
        raise InputError(f"{path} is an archive; unpack it and give the folder")
    there = [] if save is None else [save / name for name in SAVED if (save / name).exists()]
    if there:
        raise InputError(f"{there[0]} exists; give --save another folder")
    opened = None
    if (found := described_folder(path, description)) is not None:
        opened = _described(*found, f"described by {found[1].path}")
    opened = opened or _published(path)
    if opened is not None and save is not None:
        raise InputError(
            f"--save writes a proposed dataset.yaml, but {opened.title} already has one; "
            "leave out --save"
        )
    return opened or _undescribed(path, save, advance)


def open_listed(data: SegmentationData) -> Opened:
    """Use a data set that is already open.

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
    listings = [Listing(name, [*split.pairs]) for name, split in splits.items()]
    readers = [pair.reader for listing in listings for pair in listing.pairs if pair.reader]
    if not readers:
        raise InputError(f"{data.name} has no masks to check; give labelled data")
    listings[0].remarks += data.remarks
    root, described = splits["train"].root, readers[0].description
    return Opened(data.name, "opened by its reader", root, described, listings)


def _described(root: Path, described: Description, origin: str) -> Opened:
    title = described.name or root.resolve().name
    splits = listed(root, described, lenient=True)
    train, val = splits
    try:
        images, left_out = unlabelled_images(described.unlabelled, root, train.pairs, val.pairs)
    except InputError as error:
        train.refusals.append(str(error))
    else:
        train.remarks += left_out
        if more := len(images) - len(train.pairs):
            said = counted(more, "additional training image has", "additional training images have")
            train.remarks.append(f"{said} no labels: fakd distill uses the teacher's")
    return Opened(title, origin, root, described, splits)


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
            "the additional training images (SBD) are missing, so train is VOC's own; train with "
            f"--data.augmented false, or get {described.source}"
        )
    return opened


def _undescribed(root: Path, save: Path | None, advance: Advance) -> Opened:
    files = cache(files_below)
    below = files(root)
    if (exported := annotations_in(root, below, BEFORE_MASKS)) is not None:
        return _drawn(exported, root, save, advance)
    try:
        proposal = propose(root, below)
    except InputError:
        if (exported := annotations_in(root, below, AFTER_MASKS)) is None:
            raise
        return _drawn(exported, root, save, advance)
    described = proposal.described(_PROPOSED if save is None else save / "dataset.yaml")
    splits = listed(root, described, lenient=True, chosen=proposal.chosen, files=files)
    origin = "no dataset.yaml; recognised by names and masks"
    return Opened(root.resolve().name, origin, root, described, splits, proposal)


def _drawn(exported: Annotations, root: Path, save: Path | None, advance: Advance) -> Opened:
    what = (
        f"{counted(len(exported.images), 'image')} annotated in the format of {exported.title}, "
        f"with {counted(len(exported.names), 'class', 'classes')} ({some(exported.names, 6)})"
    )
    if save is None:
        raise InputError(
            f"{root} holds {what}, but no masks; draw them with: fakd data check {root} --save "
            "NEWFOLDER"
        )
    draw_masks(exported, root, save, advance)
    opened = _described(save, read_description(save / "dataset.yaml"), f"drawn from {what}")
    opened.remarks = exported.remarks
    return opened
