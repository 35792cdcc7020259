"""A data set that was looked over: tables of what is in it, and a picture of its masks."""

from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.table import Table

from fakd.data.dataset import Colour
from fakd.data.masks import Pair
from fakd.data.samples import read_image
from fakd.errors import InputError
from fakd.inspection import Header, Inspection, SplitFacts
from fakd.report.charts import figure, save
from fakd.report.figures import class_legend, overlay, shrunk
from fakd.types import IGNORE

OVERLAYS = 8
_SIDE = 480
"""Pixels that a picture's longer side is reduced to."""
_STRIPES = 8
"""Width in pixels of the stripes of ignored pixels."""
_ENTRIES = 48
"""Classes in the legend."""


def file_table(inspection: Inspection) -> Table:
    """List what each split consists of: pairs, files that stand alone, sizes and formats."""
    table = Table(box=None, header_style="bold")
    table.add_column("")
    for split in inspection.splits:
        table.add_column(split.listing.split, overflow="fold")
    for title, cell in (
        ("images with masks", _pairs),
        ("images without masks", lambda split: _number(len(split.listing.images_alone))),
        ("masks without images", lambda split: _number(len(split.listing.masks_alone))),
        ("headers read", lambda split: _of(split.looked_at, split)),
        ("decoded", lambda split: _of(len(split.sample), split)),
        ("image sizes", _sizes),
        ("image formats", lambda split: _formats(split.image_headers)),
        ("mask formats", lambda split: _formats(split.mask_headers)),
        ("ignored pixels", lambda split: f"{split.ignored:.1%}" if split.pixels else "-"),
    ):
        table.add_row(title, *(cell(split) for split in inspection.splits))
    return table


def class_histogram(inspection: Inspection) -> Table:
    """List each class: mask ids, share of the labelled pixels, in how many decoded masks."""
    described = inspection.opened.description
    table = Table(box=None, header_style="bold")
    table.add_column("ids", justify="right")
    table.add_column("class")
    for split in inspection.splits:
        table.add_column(f"{split.listing.split} pixels", justify="right")
        table.add_column("masks", justify="right")
    by_colour = described.has_palette and described.masks == "colors"
    for number, name in enumerate(described.class_names):
        ids = described.palette[number] if by_colour else _ids(inspection, number)
        cells = []
        for split in inspection.splits:
            seen = split.classes[number] > 0
            cells += [f"{split.share(number):.2%}" if seen else "-"]
            cells += [f"{split.class_images[number]:,}"]
        table.add_row(str(list(ids)).strip("[]"), name, *cells)
    return table


def _ids(inspection: Inspection, number: int) -> list[int]:
    """Collect the mask ids of a class; parts of a set may have ids of their own."""
    readers = {
        id(pair.reader): pair.reader
        for split in inspection.splits
        for pair in split.listing.pairs
        if pair.reader is not None
    }
    ids: set[int] = set()
    for reader in readers.values():
        ids |= {raw for raw, target in reader.encoding.ids.items() if target == number}
    return sorted(ids)


def _number(value: int) -> str:
    return f"{value:,}" if value else "-"


def _of(value: int, split: SplitFacts) -> str:
    total = len(split.listing.pairs)
    return f"all {total:,}" if value == total else f"{value:,} of {total:,}"


def _pairs(split: SplitFacts) -> str:
    text = f"{len(split.listing.pairs):,}"
    return text if split.listing.labelled or not split.listing.pairs else f"{text}, unlabelled"


def _sizes(split: SplitFacts) -> str:
    sizes = [header.size for header in split.image_headers.values()]
    if not sizes:
        return "-"
    different = len(set(sizes))
    if different == 1:
        return f"all {sizes[0][0]}x{sizes[0][1]}"
    ordered = sorted(sizes, key=lambda size: size[0] * size[1])
    middle = f"{median(w for w, _ in sizes):.0f}x{median(h for _, h in sizes):.0f}"
    ends = [f"{width}x{height}" for width, height in (ordered[0], ordered[-1])]
    return f"{ends[0]} to {ends[1]}, median {middle}, {different:,} different"


def _formats(headers: dict[Path, Header]) -> str:
    counts = Counter(header.kind for header in headers.values())
    return ", ".join(f"{kind} {number:,}" for kind, number in counts.most_common()) or "-"


def save_overlays(path: Path, inspection: Inspection) -> int:
    """Draw images tinted with their classes, ignored pixels striped, and a legend below.

    Returns:
        How many there are; without one that can be drawn, no file is written.
    """
    described = inspection.opened.description
    tiles = _tiles(inspection.splits, described.palette)
    if not tiles:
        return 0
    present = sorted({number for *_, classes in tiles for number in classes} - {IGNORE})
    columns = min(4, len(tiles))
    lines = -(-len(tiles) // columns)
    entries = [(_shortened(described.class_names[n], 22), described.palette[n]) for n in present]
    others: dict[str, dict[str, Any]] = {}
    if any(IGNORE in classes for *_, classes in tiles):
        others["(ignored)"] = {"facecolor": "white", "edgecolor": "black", "hatch": "////"}
    if len(entries) > _ENTRIES:
        others[f"and {len(entries) - _ENTRIES} more classes"] = {"color": "none"}
    legend_lines = -(-(len(entries[:_ENTRIES]) + 2) // 6)
    ratio = max(picture.height / picture.width for _, picture, _ in tiles)
    height = lines * (3.2 * ratio + 0.3) + 0.2 * legend_lines + 0.3
    with figure(3.2 * columns, height) as drawn:
        for index, (title, picture, _) in enumerate(tiles, start=1):
            axis = drawn.add_subplot(lines, columns, index)
            axis.imshow(np.asarray(picture))
            axis.set_title(title, fontsize=8)
            axis.set_axis_off()
        class_legend(drawn, entries[:_ENTRIES], others)
        save(drawn, path)
    return len(tiles)


_Tile = tuple[str, Image.Image, set[int]]
"""Title, picture and the classes in it."""


def _tiles(splits: Sequence[SplitFacts], palette: Sequence[Colour]) -> list[_Tile]:
    """Take as many pictures of each split, or more of one that the other lacks."""
    tiles = (
        filter(None, (_tile(split.listing.split, pair, palette) for pair in split.sample))
        for split in splits
    )
    first, second = (list(islice(each, OVERLAYS)) for each in tiles)
    half = OVERLAYS // 2
    return [
        *first[: max(half, OVERLAYS - len(second))],
        *second[: max(half, OVERLAYS - len(first))],
    ]


def _tile(split: str, pair: Pair, palette: Sequence[Colour]) -> _Tile | None:
    if pair.mask is None or pair.reader is None:
        return None
    try:
        image, labels = read_image(pair.image), pair.reader(pair.mask)
    except InputError:
        # Said among what to fix.
        return None
    if image.shape[1:] != labels.shape:
        return None
    photo = Image.fromarray(image.permute(1, 2, 0).numpy())
    size = shrunk(photo.size, _SIDE)
    photo = photo.resize(size)
    small = Image.fromarray(labels).resize(size, Image.Resampling.NEAREST)
    pixels = torch.from_numpy(np.array(photo)).permute(2, 0, 1)
    classes = torch.from_numpy(np.array(small))
    tinted = overlay(pixels, classes, palette).permute(1, 2, 0).numpy()
    ignored = (classes == IGNORE).numpy()
    rows, columns = np.indices(ignored.shape)
    light = (rows + columns) // _STRIPES % 2 == 0
    # Stripes over the untinted photo, which tell unlabelled from a black class.
    striped = np.where(light[:, :, None], 255, np.array(photo) // 2).astype(np.uint8)
    picture = np.where(ignored[:, :, None], striped, tinted)
    title = f"{split}: {_shortened(pair.name, 36)}"
    return title, Image.fromarray(picture), set(np.unique(classes.numpy()).tolist())


def _shortened(text: str, most: int) -> str:
    return text if len(text) <= most else f"…{text[1 - most :]}"
