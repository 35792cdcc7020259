"""What lies at a path: a described data set, one of the paper's, or files to be described."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from fakd.data.dataset import SegmentationData
from fakd.data.description import Description, read_description
from fakd.data.folders import SCENES, described_folder
from fakd.data.matching import Listing, listed
from fakd.data.published import PUBLISHED, read_published, recognised
from fakd.data.scan import files_below
from fakd.data.unlabelled import training_images
from fakd.errors import InputError, counted, some
from fakd.inspection.annotations import AFTER_MASKS, BEFORE_MASKS, annotations_in, draw_masks
from fakd.inspection.annotations.regions import Annotations
from fakd.inspection.grouping import LISTS
from fakd.inspection.proposal import ARCHIVES, Proposal, propose
from fakd.inspection.survey import Advance

SAVED = ("dataset.yaml", *LISTS.values(), "masks")
"""What may be written to the folder of a proposal."""
_PROPOSED = Path("the proposed dataset.yaml")


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
    remarks: Sequence[str] = ()
    """What the user should know of masks that were drawn."""


def open_path(
    path: Path,
    description: Path | None,
    save: Path | None = None,
    advance: Advance = lambda done, total: None,
) -> Opened:
    """Recognise what lies at a path and list its files; draw masks if only annotations are there.

    Args:
        path: A folder or a .yaml file.
        description: The YAML file of a folder, if it does not stand in it.
        save: The folder that a description, and masks, are for.
        advance: Is told how many masks are drawn.

    Raises:
        InputError: there is nothing of the kind, or its description is wrong; masks would have to
            be drawn and ``save`` is not given, or it has what would be written.
    """
    path = path.expanduser()
    _refuse_built_in(path)
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
            f"--save writes a proposed dataset.yaml, but {opened.title} is described already; "
            "leave it out"
        )
    return opened or _undescribed(path, save, advance)


def _refuse_built_in(path: Path) -> None:
    """Say what to do with a word that other commands take as --data."""
    word = str(path)
    if path.exists() or word not in (SCENES, *PUBLISHED):
        return
    if word == SCENES:
        raise InputError(
            f"{word} are drawn by fakd itself, so there is nothing to check: train with --data "
            f"{word}; here, give a folder of your own"
        )
    raise InputError(
        f"{word} is a reader, and what it reads is elsewhere: give the folder that holds the data, "
        "which is recognised by what is in it"
    )


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
        images, left_out = training_images(root, described, train.pairs, val.pairs)
    except InputError as error:
        train.refusals.append(str(error))
    else:
        train.pairs = images.pairs
        train.remarks += left_out
        if more := len(images) - len(train.pairs):
            said = counted(more, "further training image has", "further training images have")
            train.remarks.append(f"{said} no labels: fakd distill takes the teacher's")
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
            "the additional training images (SBD) are not here, so train is VOC's own; train with "
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
    origin = "no dataset.yaml; judged by names and masks"
    return Opened(root.resolve().name, origin, root, described, splits, proposal)


def _drawn(exported: Annotations, root: Path, save: Path | None, advance: Advance) -> Opened:
    what = (
        f"{counted(len(exported.images), 'image')} annotated in the form of {exported.title}, of "
        f"{counted(len(exported.names), 'class', 'classes')} ({some(exported.names, 6)})"
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
