"""Figures on disk: masks, overlays, grids of examples, training curves."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Integer, UInt8
from PIL import Image
from torch import Tensor

from fakd.files import write_atomically
from fakd.report.charts import Line, draw_lines, figure, make_folder, panels, save
from fakd.runs.folder import read_curves
from fakd.runs.reading import curves_of

Palette = Sequence[Sequence[int]]


def colour(
    classes: Integer[Tensor, "height width"], palette: Palette
) -> UInt8[Tensor, "3 height width"]:
    """Paint a class map in the classes' colours; ignored pixels stay black."""
    # The last row, which is black, is that of IGNORE.
    table = torch.tensor([*palette, (0, 0, 0)], dtype=torch.uint8)
    return table[classes.long()].permute(2, 0, 1)


def overlay(
    image: UInt8[Tensor, "3 height width"],
    classes: Integer[Tensor, "height width"],
    palette: Palette,
    opacity: float = 0.55,
) -> UInt8[Tensor, "3 height width"]:
    """Tint an image with the colours of a class map."""
    mixed = image.float().lerp(colour(classes, palette).float(), opacity)
    return mixed.round().to(torch.uint8)


def shrunk(size: tuple[int, int], longest: int) -> tuple[int, int]:
    """Tell width and height of a picture whose longer side is reduced to ``longest``.

    >>> shrunk((300, 200), 30), shrunk((3, 2), 30)
    ((30, 20), (3, 2))
    """
    scale = min(1.0, longest / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def save_picture(path: Path, picture: UInt8[Tensor, "3 height width"]) -> None:
    """Write an RGB picture in the format its name asks for."""
    _save(path, Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy()), quality=92)


def save_mask(path: Path, classes: Integer[Tensor, "height width"], palette: Palette) -> None:
    """Write a palette PNG: pixel values are class ids, shown in the classes' colours.

    Where there are more than 256 classes it is a grey PNG of 16 bits.
    """
    if len(palette) > 256:
        image = Image.fromarray(classes.numpy().astype(np.uint16))
    else:
        image = Image.fromarray(classes.to(torch.uint8).numpy(), mode="P")
        image.putpalette(np.array(palette, dtype=np.uint8).flatten().tolist())
    _save(path, image)


def _save(path: Path, image: Image.Image, **options: int) -> None:
    kind = "JPEG" if path.suffix == ".jpg" else "PNG"
    make_folder(path.parent)
    write_atomically(path, lambda file: image.save(file, format=kind, **options))


def save_grid(
    path: Path,
    rows: Sequence[Sequence[UInt8[Tensor, "3 height width"]]],
    titles: Sequence[str],
    legend: Mapping[str, Sequence[int]],
) -> None:
    """Draw pictures row by row under column titles, with the classes' colours below."""
    height, width = rows[0][0].shape[1:]
    inches = 2.1
    with figure(inches * len(titles), inches * height / width * len(rows) + 0.9) as drawn:
        show_pictures(drawn, rows, titles)
        class_legend(drawn, legend.items(), fontsize=7)
        save(drawn, path)


def show_pictures(
    drawn: Any, rows: Sequence[Sequence[UInt8[Tensor, "3 height width"]]], titles: Sequence[str]
) -> Any:
    """Fill a figure with pictures row by row under column titles, and return its axes."""
    axes = drawn.subplots(len(rows), len(titles), squeeze=False)
    for line, pictures in zip(axes, rows, strict=True):
        for axis, picture in zip(line, pictures, strict=True):
            axis.imshow(picture.permute(1, 2, 0).numpy())
            axis.set_axis_off()
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=9)
    return axes


def class_legend(
    drawn: Any,
    colours: Iterable[tuple[str, Sequence[int]]],
    others: Mapping[str, Mapping[str, Any]] = {},
    fontsize: int = 8,
) -> None:
    """Show below a figure which colour is which class; ``others`` are patches that are no class."""
    from matplotlib.patches import Rectangle

    styles = [(name, {"color": [part / 255 for part in rgb]}) for name, rgb in colours]
    patches = [
        Rectangle((0, 0), 1, 1, label=name, **style) for name, style in (*styles, *others.items())
    ]
    if patches:
        place = {"loc": "outside lower center", "ncols": min(6, len(patches))}
        drawn.legend(handles=patches, fontsize=fontsize, frameon=False, **place)


def save_curves(path: Path, runs: Mapping[str, Path]) -> None:
    """Plot validation mIoU and every training term over steps, of each run's ``metrics.csv``."""
    found = {name: curves_of(read_curves(file)) for name, file in runs.items()}
    names = [name for name in panels([*found.values()]) if name != "learning_rate"]
    with figure(3.4 * len(names), 3) as drawn:
        axes = drawn.subplots(1, len(names), squeeze=False)[0]
        for axis, name in zip(axes, names, strict=True):
            curves = enumerate(found.items())
            draw_lines(axis, [Line(run, i, each.get(name, [])) for i, (run, each) in curves])
            axis.set_title(name.removeprefix("val/"), fontsize=9)
            axis.set_xlabel("step", fontsize=8)
            axis.tick_params(labelsize=7)
        axes[0].legend(fontsize=7)
        save(drawn, path)
