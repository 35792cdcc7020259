"""Pictures: masks, overlays, grids of examples, training curves."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Integer, UInt8
from PIL import Image
from torch import Tensor

from fakd.errors import InputError
from fakd.files import write_atomically
from fakd.report.curves import read_curves

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


def save_picture(path: Path, picture: UInt8[Tensor, "3 height width"]) -> None:
    """Write an RGB picture in the format its name asks for."""
    image = Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy())
    _save(path, image, quality=92)


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
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot create the folder {path.parent}: {error.strerror}") from error
    write_atomically(path, lambda file: image.save(file, format=kind, **options))


def save_grid(
    path: Path,
    rows: Sequence[Sequence[UInt8[Tensor, "3 height width"]]],
    titles: Sequence[str],
    legend: Mapping[str, Sequence[int]],
) -> None:
    """Draw pictures row by row under column titles, with the classes' colours below."""
    plt = _pyplot()
    height, width = rows[0][0].shape[1:]
    inches = 2.1
    figure, axes = plt.subplots(
        len(rows),
        len(titles),
        figsize=(inches * len(titles), inches * height / width * len(rows) + 0.9),
        squeeze=False,
        layout="constrained",
    )
    for line, pictures in zip(axes, rows, strict=True):
        for axis, picture in zip(line, pictures, strict=True):
            axis.imshow(picture.permute(1, 2, 0).numpy())
            axis.set_axis_off()
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=9)
    patches = [
        plt.Rectangle((0, 0), 1, 1, color=[value / 255 for value in rgb]) for rgb in legend.values()
    ]
    figure.legend(
        patches, list(legend), loc="outside lower center", ncols=6, fontsize=7, frameon=False
    )
    _save_figure(figure, path)


def save_curves(path: Path, runs: Mapping[str, Path]) -> None:
    """Plot validation mIoU and every training term over steps from the runs' metrics.csv.

    Args:
        path: picture to write.
        runs: name and ``metrics.csv`` of each run.
    """
    plt = _pyplot()
    tables = {name: read_curves(file) for name, file in runs.items()}
    skipped = ("step", "learning_rate", "images/s", "val/mAcc", "val/aAcc")
    names = [name for table in tables.values() for name in table if name not in skipped]
    panels = list(dict.fromkeys(sorted(names, key=lambda name: not name.startswith("val/"))))
    figure, axes = plt.subplots(
        1, len(panels), figsize=(3.4 * len(panels), 3), squeeze=False, layout="constrained"
    )
    for axis, panel in zip(axes[0], panels, strict=True):
        for index, (name, table) in enumerate(tables.items()):
            if panel in table:
                axis.plot(
                    *zip(*table[panel], strict=True), label=name, linewidth=1.2, color=f"C{index}"
                )
        axis.set_title(panel.removeprefix("val/"), fontsize=9)
        axis.set_xlabel("step", fontsize=8)
        axis.tick_params(labelsize=7)
        axis.grid(alpha=0.3)
    axes[0, 0].legend(fontsize=7)
    _save_figure(figure, path)


def _pyplot() -> Any:
    # Imported late: it takes a second, and only pictures need it.
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def _save_figure(figure: Any, path: Path) -> None:
    write_atomically(path, lambda file: figure.savefig(file, dpi=140, format="png"))
    _pyplot().close(figure)
