"""Charts, drawn by matplotlib: files, and SVG within a page whose colours are the page's own."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

from jaxtyping import Float
from markupsafe import Markup, escape
from torch import Tensor

from fakd.comparing.verdict import Comparison, Tone, ends, signed, tone
from fakd.errors import InputError
from fakd.files import write_atomically
from fakd.runs.naming import title_of
from fakd.runs.reading import Curve

COLOURS = ("#6b6b6b", "#2a8fcc", "#c65102", "#00805c", "#b07700", "#0063a3", "#b0578d")
"""Those of methods, of which the first is grey; the colour-blind can tell them apart."""
DASHES = ("", "6 3", "2 3", "8 3 2 3")
"""Lines beyond the colours there are have a pattern of their own."""
INK, SOFT, EDGE = "#1c2024", "#5c6670", "#d5dae0"
TONES: Mapping[Tone, str] = {
    "helped": "#0a7a4f",
    "hurt": "#b3261e",
    "flat": SOFT,
    "unsure": "#8a5a00",
}
# In a page, its own variables take the place of these colours, and so its light and dark.
_VARIABLES = {
    **{colour: f"c{index}" for index, colour in enumerate(COLOURS)},
    **{INK: "ink", SOFT: "soft", EDGE: "edge"},
    **{TONES["helped"]: "good", TONES["hurt"]: "bad", TONES["unsure"]: "unsure"},
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
"""Of one line; more could not be told apart."""
LONGEST = 30
"""Letters of a name beside a chart."""
_LEFT_OUT = ("images/s", "val/mAcc", "val/aAcc")
_LAST = ("learning_rate", "lambda", "augmentation")


@contextmanager
def figure(width: float | int, height: float | int, page: bool = False) -> Iterator[Any]:
    """Begin a figure of so many inches, in the style of a file or of a page."""
    # Imported late, for it takes a second; without pyplot, which keeps figures for ever.
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({**_STYLE, **(_PAGE_STYLE if page else {})}):
        yield Figure(figsize=(width, height), layout="constrained")


def save(drawn: Any, path: Path) -> None:
    """Write a figure as PNG."""
    make_folder(path.parent)
    write_atomically(path, lambda file: drawn.savefig(file, dpi=140, format="png"))


def make_folder(path: Path) -> None:
    """Create a folder for pictures, unless it is there."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot create the folder {path}: {error.strerror}") from error


def inline(drawn: Any, label: str) -> Markup:
    """Write a figure as part of a page, described by a label for those who do not see it.

    What `named` was given shows its name under the pointer.
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
    svg = re.sub(
        "#[0-9a-f]{6}",
        lambda colour: f"var(--{_VARIABLES[colour[0]]})" if colour[0] in _VARIABLES else colour[0],
        svg,
    )
    opening = Markup('<svg viewBox="0 0 {:g} {:g}" role="img" aria-label="{}">')
    return opening.format(width, height, escape(label)) + Markup(svg)


def named(artist: Any, name: str) -> None:
    """Let a part of a figure show a name under the pointer, once it is in a page."""
    artist.set_gid(f"named {name}")


class Line(NamedTuple):
    """One line of a chart."""

    name: str
    place: int
    """Of its method, which decides colour and dashes."""
    points: Sequence[tuple[float, float]]


def panels(curves: Sequence[Mapping[str, Curve]]) -> list[str]:
    """List the quantities to draw: scores first, then losses, then settings that change."""
    names = {name: None for each in curves for name in each if name not in _LEFT_OUT}

    def rank(name: str) -> int:
        if name.startswith("val/"):
            return -1
        last = name.rpartition("/")[2]
        return _LAST.index(last) + 1 if last in _LAST else 0

    return sorted(names, key=rank)


def thinned(points: Sequence[tuple[float, float]], most: int = POINTS) -> list[tuple[float, float]]:
    """Average neighbours until no more than ``most`` points are left; the last step stays."""
    size = -(-len(points) // most) or 1
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [(group[-1][0], sum(y for _, y in group) / len(group)) for group in groups]


def draw_lines(axis: Any, lines: Sequence[Line]) -> None:
    """Draw values over steps, one point as a dot."""
    for line in lines:
        points = [each for each in thinned(line.points) if all(map(math.isfinite, each))]
        if len(points) == 1:
            _dot(axis, points[0], 5, COLOURS[line.place % len(COLOURS)], line.name)
        elif points:
            pattern = DASHES[line.place // len(COLOURS) % len(DASHES)]
            dashes = (0, [*map(int, pattern.split())]) if pattern else "-"
            colour = COLOURS[line.place % len(COLOURS)]
            (drawn,) = axis.plot(
                *zip(*points, strict=True),
                **{"color": colour, "linewidth": 1.6, "linestyle": dashes, "label": line.name},
            )
            named(drawn, line.name)
    axis.grid(axis="y")
    axis.locator_params(nbins=5)


def _dot(
    axis: Any, point: Sequence[float | int], size: float | int, colour: str, name: str
) -> None:
    """Draw a point: a line from it to itself, whose ends are round."""
    x, y = point
    style = {"color": colour, "linewidth": size, "solid_capstyle": "round", "label": name}
    (dot,) = axis.plot([x, x], [y, y], **style)
    named(dot, name)


def training_curves(title: str, lines: Sequence[Line]) -> Markup:
    """Draw values over steps."""
    with figure(5, 3.05, page=True) as drawn:
        axis = drawn.subplots()
        draw_lines(axis, lines)
        axis.margins(x=0)
        axis.set_xlim(left=0)
        for each in (axis.xaxis, axis.yaxis):
            each.set_major_formatter(lambda value, _: _number(value))
        last = ", ".join(
            f"{line.name} {_number(line.points[-1][1])}"
            for line in lines
            if line.points and math.isfinite(line.points[-1][1])
        )
        return inline(drawn, f"{title} over training steps; last values: {last}")


def differences(title: str, compared: Sequence[Comparison]) -> Markup:
    """Draw differences as points with their intervals about a line at 0."""
    spoken = []
    with figure(5.8, 0.5 + 0.36 * len(compared), page=True) as drawn:
        axis = drawn.subplots()
        axis.axvline(0, color=SOFT, linewidth=1.4)
        names = [title_of(each.method) for each in compared]
        for row, (name, each) in enumerate(zip(names, compared, strict=True)):
            mean, interval = each.difference.mean, each.difference.any_interval
            colour = TONES[tone(each.difference)]
            if interval is not None:
                axis.plot(interval, [row, row], color=colour, linewidth=3, solid_capstyle="butt")
            _dot(axis, (mean, row), 10, colour, name)
            spoken.append(f"{name} {signed(mean)}" + (f" ({ends(interval)})" if interval else ""))
        axis.set_ylim(len(names) - 0.5, -0.5)
        axis.set_yticks(range(len(names)), [_shortened(name) for name in names])
        for label, name in zip(axis.get_yticklabels(), names, strict=True):
            named(label, name)
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:+g}" if value else "0")
        axis.locator_params(axis="x", nbins=5)
        axis.grid(axis="x")
        return inline(drawn, f"{title}: {'; '.join(spoken)}")


def reliability_diagram(title: str, bins: Float[Tensor, "3 bins"]) -> Markup:
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
            _dot(axis, point, 4 + 18 * math.sqrt(share), COLOURS[5], said)
            axis.lines[-1].set_alpha(0.5)
        ticks = (0, 0.5, 1)
        axis.set(xlim=(0, 1), ylim=(0, 1), xticks=ticks, yticks=ticks, aspect="equal")
        for each in (axis.xaxis, axis.yaxis):
            each.set_major_formatter(lambda value, _: f"{value:g}")
        axis.grid(axis="y")
        spoken = ", ".join("{:.0%} sure {:.0%} right".format(*point) for point in points)
        return inline(drawn, f"Reliability of {title}: {spoken}")


def _number(value: float) -> str:
    """Write a tick shortly.

    >>> _number(40000), _number(0.25), _number(1200)
    ('40k', '0.25', '1.2k')
    """
    return f"{value / 1000:.3g}k" if abs(value) >= 1000 else f"{value:.3g}"


def _shortened(name: str) -> str:
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"
