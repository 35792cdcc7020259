"""Figures: masks, overlays, grids of examples, and charts, as files or as SVG in a page."""

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Integer, UInt8
from markupsafe import Markup, escape
from PIL import Image
from torch import Tensor

from fakd.comparing.verdict import Comparison, Tone, format_interval, format_signed, tone
from fakd.files import write_atomically
from fakd.report.measurements import calibration_error
from fakd.runs.naming import title_of
from fakd.runs.reading import Curve

Palette = Sequence[Sequence[int]]
COLOURS = ("#6b6b6b", "#2a8fcc", "#c65102", "#00805c", "#b07700", "#0063a3", "#b0578d")
"""Colours of methods, the first one grey; distinguishable with colour blindness."""
DASHES = ("", "6 3", "2 3", "8 3 2 3", "14 2")
"""Dash patterns, cycled along with the colours: 35 methods differ, and neighbours differ in both.

Among nine, any two whose colours look alike with deuteranopia have different patterns."""
MARKS: Mapping[Tone, str] = {
    "helped": ">",
    "hurt": "<",
    "standout": "D",
    "lagging": "D",
    "flat": "s",
    "unsure": "o",
}
"""Marker shapes by matplotlib's names; the page shows the same before each answer."""
INK, SOFT, EDGE, PAPER = "#1c2024", "#5c6670", "#d5dae0", "#ffffff"
TONES: Mapping[Tone, str] = {
    "helped": "#0a7a4f",
    "hurt": "#b3261e",
    "standout": "#0b5cad",
    "lagging": "#0b5cad",
    "flat": SOFT,
    "unsure": "#8a5a00",
}
# In a page, CSS variables replace these colours, so that light and dark mode work.
_VARIABLES = {
    **{colour: f"c{index}" for index, colour in enumerate(COLOURS)},
    **{INK: "ink", SOFT: "soft", EDGE: "edge", PAPER: "paper"},
    **{TONES["helped"]: "good", TONES["hurt"]: "bad", TONES["unsure"]: "unsure"},
    TONES["standout"]: "link",
}
_STYLE: dict[Any, Any] = {
    "text.parse_math": False,
    "axes.axisbelow": True,
    "lines.scale_dashes": False,
    "lines.solid_joinstyle": "round",
}
_PAGE_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 12,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.bottom": False,
    "ytick.left": False,
    "grid.color": EDGE,
    "grid.linewidth": 1,
    **{f"axes.spines.{side}": False for side in ("left", "right", "top", "bottom")},
}
POINTS = 150
"""Maximum number of points of a line; more would not be visible."""
LONGEST = 30
"""Maximum number of characters of a name next to a chart."""
_LEFT_OUT = ("images/s", "val/mAcc", "val/aAcc")
_LAST = ("learning_rate", "gradient_norm", "lambda", "augmentation", "margin_share")


def colour(
    classes: Integer[Tensor, "height width"], palette: Palette
) -> UInt8[Tensor, "3 height width"]:
    """Colour a class map with the palette; ignored pixels are black."""
    # The last row, black, is for IGNORE.
    table = torch.tensor([*palette, (0, 0, 0)], dtype=torch.uint8)
    return table[classes.long()].permute(2, 0, 1)


def overlay(
    image: UInt8[Tensor, "3 height width"],
    classes: Integer[Tensor, "height width"],
    palette: Palette,
    opacity: float = 0.55,
) -> UInt8[Tensor, "3 height width"]:
    """Blend an image with the colours of a class map."""
    mixed = image.float().lerp(colour(classes, palette).float(), opacity)
    return mixed.round().to(torch.uint8)


def shrink_size(size: tuple[int, int], longest: int) -> tuple[int, int]:
    """Compute width and height with the longer side reduced to ``longest``.

    >>> shrink_size((300, 200), 30), shrink_size((3, 2), 30)
    ((30, 20), (3, 2))
    """
    scale = min(1.0, longest / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def save_picture(path: Path, picture: UInt8[Tensor, "3 height width"]) -> None:
    """Write an RGB image in the format of its suffix."""
    _save(path, Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy()), quality=92)


def save_mask(path: Path, classes: Integer[Tensor, "height width"], palette: Palette) -> None:
    """Write a palette PNG: pixel values are class ids, shown in the classes' colours.

    With more than 256 classes it is a 16-bit grey PNG.
    """
    if len(palette) > 256:
        image = Image.fromarray(classes.numpy().astype(np.uint16))
    else:
        image = Image.fromarray(classes.to(torch.uint8).numpy(), mode="P")
        image.putpalette(np.array(palette, dtype=np.uint8).flatten().tolist())
    _save(path, image)


def _save(path: Path, image: Image.Image, **options: int) -> None:
    kind = "JPEG" if path.suffix == ".jpg" else "PNG"
    write_atomically(path, lambda file: image.save(file, format=kind, **options))


@contextmanager
def figure(width: float | int, height: float | int, page: bool = False) -> Iterator[Any]:
    """Create a figure of a size in inches, in the style of a file or of a page."""
    # Imported late, since it takes a second; without pyplot, which keeps all figures in memory.
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({**_STYLE, **(_PAGE_STYLE if page else {})}):
        yield Figure(figsize=(width, height), layout="constrained")


def save(drawn: Any, path: Path) -> None:
    """Write a figure as PNG."""
    write_atomically(path, lambda file: drawn.savefig(file, dpi=140, format="png"))


def save_grid(
    path: Path,
    rows: Sequence[Sequence[UInt8[Tensor, "3 height width"]]],
    titles: Sequence[str],
    legend: Mapping[str, Sequence[int]],
) -> None:
    """Draw pictures row by row under column titles, with a class legend below."""
    height, width = rows[0][0].shape[1:]
    inches = 2.1
    with figure(inches * len(titles), inches * height / width * len(rows) + 0.9) as drawn:
        show_pictures(drawn, rows, titles)
        class_legend(drawn, legend.items(), fontsize=7)
        save(drawn, path)


def show_pictures(
    drawn: Any, rows: Sequence[Sequence[UInt8[Tensor, "3 height width"]]], titles: Sequence[str]
) -> Any:
    """Fill a figure with pictures row by row under column titles; return its axes."""
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
    """Draw a class legend below a figure; ``others`` are additional patches."""
    from matplotlib.patches import Rectangle

    styles = [(name, {"color": [part / 255 for part in rgb]}) for name, rgb in colours]
    patches = [
        Rectangle((0, 0), 1, 1, label=name, **style) for name, style in (*styles, *others.items())
    ]
    if patches:
        place = {"loc": "outside lower center", "ncols": min(6, len(patches))}
        drawn.legend(handles=patches, fontsize=fontsize, frameon=False, **place)


class Chart(NamedTuple):
    """A drawing for a page, with title and note."""

    title: str
    drawing: Markup
    note: str = ""


def inline(drawn: Any, label: str) -> Markup:
    """Convert a figure to inline SVG, with a label for screen readers.

    An element whose `gid` is "named ..." shows that name as a tooltip.
    """
    text = StringIO()
    drawn.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    width, height = (72 * inches for inches in drawn.get_size_inches())
    svg = text.getvalue()
    svg = svg[svg.index(">", svg.index("<svg")) + 1 :]
    for pattern, replacement in (
        (r"<(metadata|defs)>.*?</\1>", ""),
        (r'<g id="named (.*?)">', r"<g><title>\1</title>"),
        (r' (id|clip-path)="[^"]*"', ""),
        (r"font: ([\d.]+px) [^;\"]*", r"font-size: \1"),
        (r"font-family: [^;\"]*; ?", ""),
        (r'<path d="[^"]*" style="fill: none"/>| transform="rotate\(-0 [^"]*"', ""),
        (r"\s+", " "),
    ):
        svg = re.sub(pattern, replacement, svg, flags=re.DOTALL)
    svg = re.sub(r' d="[^"]*"', lambda path: re.sub(r"\.(\d)\d+", r".\1", path[0]), svg)
    for rgb, name in _VARIABLES.items():
        svg = svg.replace(rgb, f"var(--{name})")
    opening = Markup('<svg viewBox="0 0 {:g} {:g}" role="img" aria-label="{}">')
    return opening.format(width, height, escape(label)) + Markup(svg)


class Line(NamedTuple):
    """One line of a chart."""

    name: str
    place: int
    """Index of its method, which determines colour and dashes."""
    points: Sequence[tuple[float, float]]


def panels(curves: Sequence[Mapping[str, Curve]]) -> list[str]:
    """List the quantities to draw: scores first, then losses, then varying settings."""
    names = {name: None for each in curves for name in each if name not in _LEFT_OUT}

    def rank(name: str) -> int:
        if name.startswith("val/"):
            return -1
        last = name.rpartition("/")[2]
        return _LAST.index(last) + 1 if last in _LAST else 0

    return sorted(names, key=rank)


def thin(points: Sequence[tuple[float, float]], most: int = POINTS) -> list[tuple[float, float]]:
    """Average neighbours until at most ``most`` points are left; the last step is kept."""
    size = -(-len(points) // most) or 1
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [(group[-1][0], sum(y for _, y in group) / len(group)) for group in groups]


def draw_lines(axis: Any, lines: Sequence[Line]) -> None:
    """Draw values over steps; a single point is drawn as a dot."""
    for line in lines:
        points = [each for each in thin(line.points) if all(map(math.isfinite, each))]
        colour = COLOURS[line.place % len(COLOURS)]
        style = {"color": colour, "label": line.name, "gid": f"named {line.name}"}
        if len(points) == 1:
            _dot(axis, points[0], 5, **style)
        elif points:
            pattern = DASHES[line.place % len(DASHES)]
            dashes = (0, [*map(int, pattern.split())]) if pattern else "-"
            axis.plot(*zip(*points, strict=True), linewidth=1.6, linestyle=dashes, **style)
    axis.grid(axis="y")
    axis.locator_params(nbins=5)


def _dot(axis: Any, point: Sequence[float | int], size: float | int, **style: Any) -> None:
    """Draw a point as a zero-length line with round ends."""
    x, y = point
    axis.plot([x, x], [y, y], linewidth=size, solid_capstyle="round", **style)


def _mark(axis: Any, mark: str, point: Sequence[float | int], **style: Any) -> None:
    """Draw a marker as its own path, since matplotlib's markers are shared by id."""
    from matplotlib.markers import MarkerStyle
    from matplotlib.patches import PathPatch
    from matplotlib.transforms import Affine2D, ScaledTranslation

    shape = MarkerStyle(mark)
    path = shape.get_path().transformed(shape.get_transform())
    place = Affine2D().scale(10) + ScaledTranslation(point[0], point[1], axis.transData)
    axis.add_patch(PathPatch(path, transform=place, linewidth=2, zorder=3, **style))
    axis.update_datalim([point])
    axis.autoscale_view()


def training_curves(title: str, lines: Sequence[Line]) -> Chart:
    """Draw values over steps."""
    with figure(5, 3.05, page=True) as drawn:
        axis = drawn.subplots()
        draw_lines(axis, lines)
        axis.margins(x=0)
        axis.set_xlim(left=0)
        for each in (axis.xaxis, axis.yaxis):
            each.set_major_formatter(lambda value, _: _number(value))
        last = [(line.name, line.points[-1][1]) for line in lines if line.points]
        said = ", ".join(f"{name} {_number(end)}" for name, end in last if math.isfinite(end))
        return Chart(title, inline(drawn, f"{title} over training steps; last values: {said}"))


def differences(title: str, compared: Sequence[Comparison]) -> Chart:
    """Draw differences as points with intervals, and a line at 0."""
    spoken = []
    with figure(5.8, 0.5 + 0.36 * len(compared), page=True) as drawn:
        axis = drawn.subplots()
        axis.axvline(0, color=SOFT, linewidth=1.4)
        names = [title_of(each.method) for each in compared]
        for row, (name, each) in enumerate(zip(names, compared, strict=True)):
            mean, interval = each.difference.mean, each.interval or each.difference.over_images
            colour = TONES[tone(each)]
            if interval is not None:
                axis.plot(interval, [row, row], color=colour, linewidth=3, solid_capstyle="butt")
            found = tone(each)
            inside = PAPER if found in ("lagging", "unsure") else colour
            style = {"facecolor": inside, "edgecolor": colour, "gid": f"named {name}"}
            _mark(axis, MARKS[found], (mean, row), **style)
            spoken.append(
                f"{name} {format_signed(mean)}"
                + (f" ({format_interval(interval)})" if interval else "")
            )
        axis.set_ylim(len(names) - 0.5, -0.5)
        axis.set_yticks(range(len(names)), [_shorten(name) for name in names])
        for label, name in zip(axis.get_yticklabels(), names, strict=True):
            label.set_gid(f"named {name}")
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:+g}" if value else "0")
        axis.locator_params(axis="x", nbins=5)
        axis.grid(axis="x")
        known = [each for each in compared if each.difference.any_interval]
        levels = sorted({100 * each.design.level(each.difference.seeds) for each in known})
        named = " or ".join(f"{level:.4g}" for level in levels)
        note = f"Lines are {named} % intervals." if known else "One seed only."
        return Chart(title, inline(drawn, f"{title}: {'; '.join(spoken)}"), note)


def reliability_diagram(title: str, bins: Float[Tensor, "3 bins"]) -> Chart:
    """Draw accuracy against confidence; a point's area is its bin's share of the pixels."""
    pixels, *sums = bins[:, bins[0] > 0]
    points = [*zip(*((each / pixels).tolist() for each in sums), strict=True)]
    shares = pixels.div(pixels.sum()).tolist()
    with figure(3.3, 3.3, page=True) as drawn:
        axis = drawn.subplots()
        axis.plot([0, 1], [0, 1], color=SOFT, linewidth=1.4)
        axis.plot(*zip(*points, strict=True), color=COLOURS[5])
        for point, share in zip(points, shares, strict=True):
            said = "confidence {:.0%}, right {:.0%}".format(*point) + f", {share:.1%} of the pixels"
            style = {"color": COLOURS[5], "alpha": 0.5, "gid": f"named {said}"}
            _dot(axis, point, 4 + 18 * math.sqrt(share), **style)
        ticks = (0, 0.5, 1)
        axis.set(xlim=(0, 1), ylim=(0, 1), xticks=ticks, yticks=ticks, aspect="equal")
        for each in (axis.xaxis, axis.yaxis):
            each.set_major_formatter(lambda value, _: f"{value:g}")
        axis.grid(axis="y")
        spoken = ", ".join("{:.0%} sure {:.0%} right".format(*point) for point in points)
        note = f"error {100 * calibration_error(bins):.2f} %"
        return Chart(title, inline(drawn, f"Reliability of {title}: {spoken}"), note)


def _number(value: float) -> str:
    """Format a tick label.

    >>> _number(40000.0), _number(0.25), _number(1200.0)
    ('40k', '0.25', '1.2k')
    """
    return f"{value / 1000:.3g}k" if abs(value) >= 1000 else f"{value:.3g}"


def _shorten(name: str) -> str:
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"
