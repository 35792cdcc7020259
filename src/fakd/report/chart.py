"""Charts as inline SVG: curves, differences with their intervals, reliability diagrams.

Colours are variables of the page, so that one chart serves light and dark.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup, escape

COLOURS = 7
"""How many there are; beyond them lines are dashed."""
_WIDTH, _HEIGHT = 360, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 8, 8, 26
_LONGEST, _LETTER = 30, 7
"""The most letters of a name beside a chart, and the room for one at the style's 12 pixels."""
Point = tuple[float, float]


class Line(NamedTuple):
    """One line of a chart."""

    name: str
    colour: int
    """Place of its method, which decides colour and dashes."""
    points: Sequence[Point]


class Bar(NamedTuple):
    """A difference and where it lies with 95 % confidence, if that is known."""

    name: str
    mean: float
    interval: tuple[float, float] | None
    tone: str


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Choose about ``count`` round numbers between two values.

    >>> ticks(0, 10), ticks(0.13, 0.31)
    ([0.0, 5.0, 10.0], [0.15, 0.2, 0.25, 0.3])
    """
    rough = (high - low) / count
    if not math.isfinite(rough) or rough <= 0:
        return [low]
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * each for each in (1, 2, 5, 10) if power * each >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    digits = max(0, -math.floor(math.log10(step)))
    return [round(i * step, digits) for i in range(first, last + 1)]


def curves(title: str, lines: Sequence[Line]) -> Markup:
    """Draw values over steps."""
    finite = [
        line._replace(points=[each for each in line.points if all(map(math.isfinite, each))])
        for line in lines
    ]
    drawn = [line for line in finite if line.points]
    xs = [x for line in drawn for x, _ in line.points] or [0.0]
    ys = [y for line in drawn for _, y in line.points] or [0.0]
    frame = _Frame((min(0.0, *xs), max(xs)), _padded(min(ys), max(ys)))
    body = [frame.axes()]
    for line in drawn:
        if len(line.points) == 1:
            x, y = frame.place(line.points[0])
            body.append(
                Markup(
                    '<circle cx="{}" cy="{}" r="2.5" style="fill:var(--c{})">{}</circle>'
                ).format(x, y, line.colour % COLOURS, _titled(line.name))
            )
            continue
        path = "M" + "L".join(f"{x} {y}" for x, y in map(frame.place, line.points))
        body.append(
            Markup('<path class="line" d="{}" style="stroke:var(--c{})"{}>{}</path>').format(
                path, line.colour % COLOURS, dashes(line.colour), _titled(line.name)
            )
        )
    last = ", ".join(f"{line.name} {_number(line.points[-1][1])}" for line in drawn)
    return _svg(f"{title} over training steps; last values: {last}", body, _WIDTH, _HEIGHT)


def dashes(colour: int) -> Markup:
    """Give lines beyond the colours there are a pattern of their own."""
    patterns = ("", "6 3", "2 3", "8 3 2 3")
    pattern = patterns[colour // COLOURS % len(patterns)]
    return Markup(' stroke-dasharray="{}"').format(pattern) if pattern else Markup("")


def differences(title: str, bars: Sequence[Bar]) -> Markup:
    """Draw differences as points with their intervals about a line at 0."""
    ends = [end for bar in bars for end in (bar.mean, *(bar.interval or ()))]
    low, high = _padded(min(0.0, *ends), max(0.0, *ends))
    row, top = 26, 6
    left = min(max((len(bar.name) for bar in bars), default=0), _LONGEST) * _LETTER + 20
    width, height = 420, top + row * len(bars) + 24
    scale = (width - left - 12) / (high - low)

    def place(value: float) -> float:
        return round(left + (value - low) * scale, 1)

    body = [
        Markup('<line class="grid" x1="{0}" x2="{0}" y1="{1}" y2="{2}"/>').format(
            place(tick), top, height - 22
        )
        + _text(place(tick), height - 6, f"{tick:+g}" if tick else "0", "middle")
        for tick in ticks(low, high, 5)
    ]
    body.append(
        Markup('<line class="zero" x1="{0}" x2="{0}" y1="{1}" y2="{2}"/>').format(
            place(0.0), top, height - 22
        )
    )
    for index, bar in enumerate(bars):
        y = top + row * (index + 0.5)
        body.append(
            Markup("<g>{}{}</g>").format(
                _titled(bar.name), _text(left - 8, y + 4, _shortened(bar.name), "end")
            )
        )
        if bar.interval is not None:
            body.append(
                Markup('<line class="interval {}" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(
                    bar.tone, *map(place, bar.interval), y, y
                )
            )
        body.append(
            Markup('<circle class="mean {}" cx="{}" cy="{}" r="5"/>').format(
                bar.tone, place(bar.mean), y
            )
        )
    spoken = "; ".join(f"{bar.name} {_spoken(bar)}" for bar in bars)
    return _svg(f"{title}: {spoken}", body, width, height)


def reliability_diagram(title: str, points: Sequence[tuple[float, float, float]]) -> Markup:
    """Draw accuracy against confidence; a point's area is its bin's share of the pixels.

    Args:
        title: whose they are.
        points: confidence, accuracy and share of every bin that has pixels.
    """
    frame = _Frame((0.0, 1.0), (0.0, 1.0), 240, 240)
    (x0, y0), (x1, y1) = frame.place((0.0, 0.0)), frame.place((1.0, 1.0))
    body = [
        frame.axes(),
        Markup('<line class="zero" x1="{}" y1="{}" x2="{}" y2="{}"/>').format(x0, y0, x1, y1),
        Markup('<path class="line" d="M{}" style="stroke:var(--c5)"/>').format(
            "L".join("{} {}".format(*frame.place((x, y))) for x, y, _ in points)
        ),
    ]
    for confidence, accuracy, share in points:
        x, y = frame.place((confidence, accuracy))
        said = f"confidence {confidence:.0%}, right {accuracy:.0%}, {share:.1%} of the pixels"
        body.append(
            Markup('<circle class="bin" cx="{}" cy="{}" r="{}">{}</circle>').format(
                x, y, round(2 + 9 * math.sqrt(share), 1), _titled(said)
            )
        )
    spoken = ", ".join(f"{x:.0%} sure {y:.0%} right" for x, y, _ in points)
    return _svg(f"Reliability of {title}: {spoken}", body, 240, 240)


class _Frame:
    """Axes of a chart, and where a point lies in it."""

    def __init__(self, x: Point, y: Point, width: int = _WIDTH, height: int = _HEIGHT) -> None:
        self.x, self.y, self.width, self.height = x, y, width, height

    def place(self, point: Point) -> Point:
        across = (point[0] - self.x[0]) / ((self.x[1] - self.x[0]) or 1)
        up = (point[1] - self.y[0]) / ((self.y[1] - self.y[0]) or 1)
        x = _LEFT + across * (self.width - _LEFT - _RIGHT)
        return round(x, 1), round(self.height - _BOTTOM - up * (self.height - _TOP - _BOTTOM), 1)

    def axes(self) -> Markup:
        parts = []
        for tick in ticks(*self.y):
            x, y = self.place((self.x[0], tick))
            parts.append(
                Markup('<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(
                    x, self.width - _RIGHT, y, y
                )
            )
            parts.append(_text(x - 6, y + 4, _number(tick), "end"))
        for tick in ticks(*self.x):
            x, _ = self.place((tick, self.y[0]))
            anchor = "end" if x > self.width - 24 else "middle"
            parts.append(_text(x, self.height - 8, _number(tick), anchor))
        return Markup("").join(parts)


def _padded(low: float, high: float) -> Point:
    room = 0.06 * (high - low) or max(abs(high), 1.0) * 0.1
    return low - (room if low else 0), high + room


def _number(value: float) -> str:
    """Write a tick shortly.

    >>> _number(40000), _number(0.25), _number(1200)
    ('40k', '0.25', '1.2k')
    """
    return f"{value / 1000:.3g}k" if abs(value) >= 1000 else f"{value:.3g}"


def _shortened(name: str) -> str:
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"


def _spoken(bar: Bar) -> str:
    interval = bar.interval
    return f"{bar.mean:+.2f}" + (f" ({interval[0]:+.2f} to {interval[1]:+.2f})" if interval else "")


def _text(x: float | int, y: float | int, text: str, anchor: str) -> Markup:
    return Markup('<text x="{}" y="{}" text-anchor="{}">{}</text>').format(
        round(x, 1), round(y, 1), anchor, text
    )


def _titled(text: str) -> Markup:
    return Markup("<title>{}</title>").format(text)


def _svg(label: str, body: Sequence[Markup], width: int, height: int) -> Markup:
    return Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        width, height, escape(label), Markup("").join(body)
    )
