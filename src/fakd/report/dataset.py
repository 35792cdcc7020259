"""Report of a data set check: tables of its contents, and a picture of its masks."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.table import Table

from fakd.data.masks import Pair
from fakd.data.names import printable
from fakd.data.packed import Place
from fakd.data.samples import read_image
from fakd.errors import InputError
from fakd.inspection import Header, Inspection, SplitFacts
from fakd.report.figures import Palette, class_legend, colour, figure, save, shrink_size
from fakd.types import IGNORE

OVERLAYS = 8
_SIDE = 480
"""Longer side of a drawn image in pixels."""
_STRIPES = 8
"""Width in pixels of the stripes of ignored pixels."""
_PORTRAIT = 0.6
"""Aspect ratio of an image next to its mask from which four fit in a row."""
_ENTRIES = 48
"""Maximum number of classes in the legend."""


def file_table(inspection: Inspection) -> Table:
    """List the contents of each split: pairs, unpaired files, sizes and formats."""
    facts = [_facts(split) for split in inspection.splits]
    table = Table(box=None, header_style="bold")
    table.add_column("")
    for split in inspection.splits:
        table.add_column(split.listing.split, overflow="fold")
    for title in facts[0]:
        table.add_row(title, *(each[title] for each in facts))
    return table


def _facts(split: SplitFacts) -> dict[str, str]:
    listing, pairs = split.listing, len(split.listing.pairs)
    alone = [len(files) for files in (listing.images_alone, listing.masks_alone)]
    unlabelled = ", unlabelled" if pairs and not listing.labelled else ""
    looked_at = (split.looked_at, len(split.sample))
    read = [f"all {n:,}" if n == pairs else f"{n:,} of {pairs:,}" for n in looked_at]
    return {
        "images with masks": f"{pairs:,}{unlabelled}",
        "images without masks": f"{alone[0]:,}" if alone[0] else "-",
        "masks without images": f"{alone[1]:,}" if alone[1] else "-",
        "headers read": read[0],
        "decoded": read[1],
        "image sizes": _sizes([header.size for header in split.image_headers.values()]),
        "image formats": _formats(split.image_headers),
        "mask formats": _formats(split.mask_headers),
        "ignored pixels": f"{split.ignored:.1%}" if split.pixels else "-",
    }


def _sizes(sizes: Sequence[tuple[int, int]]) -> str:
    if not sizes:
        return "-"
    ordered = sorted(sizes, key=math.prod)
    low, high = ("{}x{}".format(*size) for size in (ordered[0], ordered[-1]))
    if (different := len(set(sizes))) == 1:
        return f"all {low}"
    middle = "x".join(f"{median(sides):.0f}" for sides in zip(*sizes, strict=True))
    return f"{low} to {high}, median {middle}, {different:,} different"


def _formats(headers: Mapping[Place, Header]) -> str:
    counts = Counter(header.kind for header in headers.values())
    return ", ".join(f"{kind} {number:,}" for kind, number in counts.most_common()) or "-"


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
    # Parts of a data set may have their own ids.
    pairs = (pair for split in inspection.splits for pair in split.listing.pairs)
    readers = {id(pair.reader): pair.reader for pair in pairs if pair.reader is not None}
    coded = {code for reader in readers.values() for code in reader.encoding.ids.items()}
    for number, name in enumerate(described.class_names):
        own = sorted(raw for raw, target in coded if target == number)
        ids = list(described.palette[number]) if by_colour else own
        cells = []
        for split in inspection.splits:
            share = f"{split.share(number):.2%}" if split.classes[number] > 0 else "-"
            cells += [share, f"{split.class_images[number]:,}"]
        table.add_row(str(ids).strip("[]"), name, *cells)
    return table


def save_overlays(path: Path, inspection: Inspection) -> int:
    """Draw images next to their masks with a legend; ignored pixels are striped.

    Lines in the image show class borders, so that misaligned masks are visible.

    Returns:
        Number of images; no file is written if none can be drawn.
    """
    described = inspection.opened.description
    tiles = _tiles(inspection.splits, described.palette)
    if not tiles:
        return 0
    present = {number for *_, classes in tiles for number in classes}
    entries = [
        (_shorten(name, 22), described.palette[number])
        for number, name in enumerate(described.class_names)
        if number in present
    ]
    others: dict[str, dict[str, Any]] = {}
    if IGNORE in present:
        others["(ignored)"] = {"facecolor": "white", "edgecolor": "black", "hatch": "////"}
    if len(entries) > _ENTRIES:
        others[f"and {len(entries) - _ENTRIES} more classes"] = {"color": "none"}
    ratio = max(picture.height / picture.width for _, picture, _ in tiles)
    most, width = (2, 6.4) if ratio < _PORTRAIT else (4, 3.2)
    columns = min(most, len(tiles))
    lines, legend_lines = -(-len(tiles) // columns), -(-(min(len(entries), _ENTRIES) + 2) // 6)
    height = lines * (width * ratio + 0.3) + 0.2 * legend_lines + 0.3
    with figure(width * columns, height) as drawn:
        for index, (title, picture, _) in enumerate(tiles, start=1):
            axis = drawn.add_subplot(lines, columns, index)
            axis.imshow(picture)
            axis.set_title(title, fontsize=8, parse_math=False)
            axis.set_axis_off()
        class_legend(drawn, entries[:_ENTRIES], others)
        save(drawn, path)
    return len(tiles)


_Tile = tuple[str, Image.Image, set[int]]
"""Title, picture and the classes in it."""


def _tiles(splits: Sequence[SplitFacts], palette: Palette) -> list[_Tile]:
    """Draw the same number of pictures for each split, or more of one if the other has too few."""
    tiles = (
        filter(None, (_tile(split.listing.split, pair, palette) for pair in split.sample))
        for split in splits
    )
    first, second = (list(islice(each, OVERLAYS)) for each in tiles)
    half = OVERLAYS // 2
    return first[: max(half, OVERLAYS - len(second))] + second[: max(half, OVERLAYS - len(first))]


def _tile(split: str, pair: Pair, palette: Palette) -> _Tile | None:
    if pair.mask is None or pair.reader is None:
        return None
    try:
        image, labels = read_image(pair.image, pair.levels), pair.reader(pair.mask)
    except InputError:
        # Reported as a finding.
        return None
    if image.shape[1:] != labels.shape:
        return None
    photo = Image.fromarray(image.permute(1, 2, 0).numpy())
    size = shrink_size(photo.size, _SIDE)
    pixels = np.array(photo.resize(size))
    classes = np.array(Image.fromarray(labels).resize(size, Image.Resampling.NEAREST))
    rows, columns = np.indices(classes.shape)
    light = (rows + columns) // _STRIPES % 2 == 0
    # Stripes distinguish unlabelled pixels from a black class.
    striped = np.where(light[..., None], 255, pixels // 2).astype(np.uint8)
    colours = colour(torch.from_numpy(classes), palette).permute(1, 2, 0).numpy()
    mask = np.where((classes == IGNORE)[..., None], striped, colours)
    meeting = np.zeros(classes.shape, dtype=bool)
    meeting[1:] |= classes[1:] != classes[:-1]
    meeting[:, 1:] |= classes[:, 1:] != classes[:, :-1]
    pixels[meeting] = 255
    picture = np.concatenate([pixels, mask], axis=1)
    title = f"{split}: {_shorten(printable(pair.name), 36)}"
    return title, Image.fromarray(picture), set(np.unique(classes).tolist())


def _shorten(text: str, most: int) -> str:
    return text if len(text) <= most else f"…{text[1 - most :]}"
