"""The objects of a synthetic street."""

from collections.abc import Iterator, Sequence
from itertools import compress, pairwise
from math import copysign, cos, pi, sin
from random import Random
from typing import Any

from fakd.data.dataset import Colour
from fakd.data.streets import drawing
from fakd.data.streets.drawing import NEAREST, Canvas, Stroke

BLACK, WHITE = (22, 22, 26), (236, 234, 226)
GREYS = (150, 146, 140), (112, 106, 98), (62, 66, 66), (116, 88, 62), (196, 194, 186)
LIGHTS = (250, 60, 40), (250, 190, 60), (60, 230, 150)
SIGNS = (196, 32, 36), (30, 72, 170), (226, 226, 220), (224, 188, 40)
SKIN = (224, 178, 148), (186, 132, 98), (120, 80, 56), (84, 58, 44)
LEAVES = (62, 92, 40), (44, 72, 38), (96, 112, 46), (76, 84, 62), (130, 116, 48), (148, 92, 44)
FACADES = (
    (142, 72, 56), (168, 150, 124), (128, 126, 124), (206, 200, 188), (190, 166, 104),
    (96, 104, 112), (120, 136, 150), (158, 112, 90), (112, 120, 96),
)  # fmt: skip
PAINTS = (
    (118, 118, 122), (70, 72, 78), (185, 188, 192), (228, 228, 226), (30, 31, 36), (150, 40, 34),
    (40, 62, 126), (72, 98, 66), (190, 160, 60), (122, 92, 70), (214, 110, 40),
)  # fmt: skip

LANE, FAR = 3.2, 160.0
"""Width of a lane, the camera being in the middle of one, and the end of the street, in metres."""

Things = Iterator[tuple[Any, ...]]
"""Objects to be drawn: metres ahead, the function that draws it, metres right, and settings."""


def mix(first: Colour, second: Colour, share: float) -> Colour:
    """Blend two colours; ``share`` is the weight of the second."""
    red, green, blue = (int(a + (b - a) * share) for a, b in zip(first, second, strict=True))
    return red, green, blue


def pick(dice: Random, colours: Sequence[Colour]) -> Colour:
    """Choose a colour and vary its brightness and, less, its hue."""
    shift = dice.uniform(-16, 16)
    red, green, blue = (int(value + shift + dice.uniform(-6, 6)) for value in dice.choice(colours))
    return max(red, 0), max(green, 0), max(blue, 0)


def draw_street(canvas: Canvas) -> None:
    """Draw the parts of one street as seen from a car on it."""
    dice = canvas.dice
    left = -LANE * dice.choice((0.5, 1.5, 1.5, 2.5)) - dice.uniform(0.3, 2.6)
    right = LANE * dice.choice((0.5, 0.5, 0.5, 1.5)) + dice.uniform(0.1, 2.2)
    walk = dice.uniform(1.4, 5.5)
    # Distance of a crossing; beyond FAR there is none.
    crossing = dice.uniform(14, 45) if dice.random() < 0.4 else 2 * FAR
    _draw_ground(canvas, left, right, walk, crossing)
    things = [*_traffic(dice, left, right, crossing)]
    things += _roadside(dice, left, left - walk, crossing)
    things += _roadside(dice, right, right + walk, crossing)
    for ahead, draw, x, *more in sorted(things, key=lambda thing: -thing[0]):
        draw(canvas, x, ahead, *more)


def _draw_ground(canvas: Canvas, left: float, right: float, walk: float, crossing: float) -> None:
    """Draw the background: sky and skyline, yards, pavements, roads and markings."""
    dice = canvas.dice
    canvas.part(drawing.SKY, BLACK, FAR)
    for _ in range(14):
        x, ahead, wide = dice.uniform(-80, 80), dice.uniform(90, 150), dice.uniform(6, 20)
        house = pick(dice, FACADES), 0.0, 0.0, 0.0, dice.uniform(3, 19), wide
        tree = pick(dice, LEAVES), 0.0, 2.0, 0.0, 2.0, wide
        label, shape = dice.choice(((drawing.BUILDING, house), (drawing.VEGETATION, tree)))
        canvas.figure(label, x, ahead, shape, rough=0.2)
    slabs, asphalt = pick(dice, GREYS[:2]), pick(dice, [(92, 92, 95)])
    label, colours = dice.choice(((drawing.VEGETATION, LEAVES[:3]), (drawing.PAVEMENT, GREYS[:2])))
    yard = canvas.part(label, pick(dice, colours), rough=0.16)
    pavement = canvas.part(drawing.PAVEMENT, slabs, rough=0.11)
    kerb = canvas.part(drawing.PAVEMENT, mix(slabs, WHITE, 0.4))
    road = canvas.part(drawing.ROAD, asphalt, rough=0.11)
    line = canvas.part(drawing.MARKING, mix(asphalt, WHITE, dice.uniform(0.45, 1.0)), rough=0.14)
    canvas.ground(yard, -400.0, 400.0, NEAREST, 900.0)
    for part, wide in ((pavement, walk), (kerb, 0.18), (road, 0.0)):
        canvas.ground(part, left - wide, right + wide, NEAREST, FAR)
    if crossing < FAR:
        canvas.ground(road, -200.0, 200.0, crossing, crossing + dice.uniform(7, 11))
    dashes, solid = dice.choice(((3.0, 4.5), (2.0, 3.0), (5.0, 0.0))), (9.0, 0.0)
    places = (-LANE / 2, 0.85, dashes), (left + 0.5, 0.35, solid), (right - 0.4, 0.35, solid)
    for x, share, (dash, gap) in places:
        end = min(crossing, 60) - dash if dice.random() < share else 0.0
        ahead, wide = NEAREST + dice.uniform(0, dash + gap) / 2, dice.uniform(0.12, 0.22)
        while ahead < end:
            canvas.ground(line, x, x + wide, ahead, ahead + dash)
            ahead += dash + gap
    zebra, chance = (crossing - 5, 0.6) if crossing < FAR else (dice.uniform(7, 25), 0.2)
    for x in range(int(right - left) if dice.random() < chance else 0):
        canvas.ground(line, left + 0.3 + x, left + 0.8 + x, zebra, zebra + 3.2)


def _traffic(dice: Random, left: float, right: float, crossing: float) -> Things:
    """Place vehicles, cyclists and people on the road."""
    lanes = [(0.0, 8.0), (-LANE, 6.0), (right - 1.0, 4.0), (left + 1.0, 5.0)]
    used = True, left < -1.3 * LANE, right > 2.9, left < -2.2 * LANE and dice.random() < 0.6
    for middle, first in compress(lanes, used):
        ahead = first + dice.uniform(0, 14)
        while ahead < 70:
            if not crossing - 6 < ahead < crossing + 9:
                yield ahead, _draw_vehicle, middle + dice.uniform(-0.25, 0.25), middle < 0
            ahead += 5.5 + dice.random() ** 2 * 34
    for _ in range(dice.choice((0, 1, 1, 2, 2))):
        x = dice.choice((left + 0.8, right - 0.7)) + dice.uniform(-0.5, 0.5)
        yield dice.uniform(4.5, 20), _draw_cyclist, x
    where = crossing - 3.5 if crossing < FAR else dice.uniform(8, 25)
    for _ in range(dice.choice((0, 0, 0, 1, 2, 3))):
        yield where, _draw_pedestrian, dice.uniform(left, right)


def _roadside(dice: Random, kerb: float, edge: float, crossing: float) -> Things:
    """Line one side with buildings, fences, hedges and trees; place objects on its pavement."""
    green, side = dice.uniform(0.05, 0.6), copysign(1, edge)
    for near, end in ((NEAREST, min(crossing - 2, 110.0)), (crossing + 9, 110.0)):
        while near < end:
            far, wild = min(near + dice.uniform(4, 24), end), dice.random() < green
            for _ in range(dice.randint(1, 3) if wild else 0):
                yield dice.uniform(near, far) + 2, _draw_tree, edge + side * dice.uniform(1, 11)
            if wild or dice.random() < 0.3:
                yield near - 0.1, _draw_screen, edge, far
            if not wild:
                yield near, _draw_building, edge + side * dice.uniform(0, 2.5), far
            near = far + (dice.uniform(2, 8) if dice.random() < 0.25 else 0)
    ahead, step, leafy = dice.uniform(4, 12), dice.uniform(9, 22), dice.choice((0, 0, 0.7))
    while ahead < 75:
        draw = _draw_tree if dice.random() < leafy else _draw_pole
        yield ahead, draw, kerb + side * dice.uniform(0.3, 0.6)
        ahead += step * dice.uniform(0.7, 1.3)
    for _ in range(dice.randint(0, 6)):
        yield dice.uniform(4, 30), _draw_pedestrian, dice.uniform(kerb, edge)


def _draw_building(canvas: Canvas, at: float, near: float, far: float) -> None:
    """Draw a house: the end that faces the camera, and its long side along the street."""
    dice, side, middle = canvas.dice, copysign(1, at), (near + far) / 2
    high = dice.uniform(4, 8) if dice.random() < 0.35 else dice.uniform(8, 24)
    deep, colour = at + side * dice.uniform(8, 20), pick(dice, FACADES)
    # The wall along the street is lit if the sun is on the other side, otherwise the end is.
    faces = [mix(colour, (255, 246, 224), 0.12), mix(colour, BLACK, 0.3)]
    if canvas.sun == side:
        faces.reverse()
        canvas.shadow(0.8, at, at - side * high * dice.uniform(0.2, 0.7), near, far + 2)
    wall = dice.uniform(2.7, 3.8), dice.uniform(1.6, 4.2), dice.uniform(0.35, 0.75)
    lit, aside = 0.45 if canvas.dusk else 0.03, at + canvas.bend * middle * middle
    end = canvas.part(drawing.BUILDING, faces[1], near, 0.08, (*wall, lit, 0.0))
    canvas.face(end, (at, 0.0, near), (at, high, near), (deep, high, near), (deep, 0.0, near))
    flank = canvas.part(drawing.BUILDING, faces[0], middle, 0.08, (*wall, lit, aside))
    canvas.along(flank, at, 0.0, high, near, far)


def _draw_screen(canvas: Canvas, right: float, near: float, far: float) -> None:
    """Draw a hedge, or railings; gaps between them count as fence."""
    dice, high, middle = canvas.dice, canvas.dice.uniform(0.9, 2.0), (near + far) / 2
    hedge = canvas.part(drawing.VEGETATION, pick(dice, LEAVES), middle, 0.33)
    rails = high, dice.uniform(0.3, 0.9), dice.uniform(0.5, 0.8), 0.0, right
    fence = canvas.part(drawing.FENCE, pick(dice, GREYS), middle, 0.04, rails)
    canvas.along(dice.choice((fence, fence, fence, hedge)), right, 0.0, high, near, far)


def _draw_tree(canvas: Canvas, right: float, ahead: float) -> None:
    dice, high = canvas.dice, canvas.dice.uniform(3.5, 9)
    spread, leaf = high * dice.uniform(0.22, 0.36), pick(dice, LEAVES)
    shapes = [((74, 60, 48), 0.0, 0.0, 0.0, high * 0.6, dice.uniform(0.18, 0.4))]
    for _ in range(dice.randint(4, 8)):
        shade = mix(leaf, dice.choice((BLACK, (200, 210, 120))), dice.uniform(0, 0.25))
        x, y = spread * dice.uniform(-0.7, 0.7), high * 0.68 + spread * dice.uniform(-0.6, 0.8)
        shapes.append((shade, x, y, x, y, spread * dice.uniform(0.8, 1.6)))
    canvas.figure(drawing.VEGETATION, right, ahead, *shapes, rough=0.33)
    canvas.shadow(0.6, right - spread, right + spread, ahead - spread, ahead + spread)


def _draw_pole(canvas: Canvas, right: float, ahead: float) -> None:
    """Draw a lamp post, or a post that carries a traffic light or signs."""
    dice, metal, high = canvas.dice, pick(canvas.dice, GREYS), canvas.dice.uniform(2.6, 3.8)
    kind, wide = dice.choice(("lamp", "sign", "sign", "light")), dice.uniform(0.12, 0.26)
    top, reach = (2.2 * high, dice.uniform(1.0, 2.8)) if kind == "lamp" else (high, 0.0)
    arm = metal, 0.0, top, -copysign(reach, right), top, 0.12
    canvas.figure(drawing.POLE, right, ahead, (metal, 0.0, 0.0, 0.0, top, wide), arm)
    shapes: list[Stroke] = []
    if kind == "light":
        on = dice.randrange(3)
        y = high - 0.25 - 0.3 * on
        shapes.append(((34, 38, 34), 0.0, high - 1.1, 0.0, high, 0.4))
        shapes.append((LIGHTS[on], 0.0, y, 0.0, y, 0.28))
    for y in (high - 0.4, high - 1.25)[: dice.randint(1, 2) if kind == "sign" else 0]:
        colour, wide, square = pick(dice, SIGNS), dice.uniform(0.6, 1.0), dice.choice((0, 0.5))
        shapes.append((colour, 0.0, y - square * wide, 0.0, y + square * wide, wide))
        shapes.append((dice.choice((WHITE, colour, BLACK)), 0.0, y, 0.0, y, wide / 2))
    canvas.figure(drawing.SIGN, right, ahead, *shapes)


def _draw_vehicle(canvas: Canvas, right: float, ahead: float, oncoming: bool) -> None:
    """Draw a car, sometimes a van or a lorry, whose centre is ``right`` of the camera."""
    dice, tall = canvas.dice, canvas.dice.random() < 0.18
    spans = ((0.97, 1.2), (5, 9), (2.1, 3.3)) if tall else ((0.82, 0.95), (3.6, 4.8), (1.4, 1.6))
    half, long, roof = (dice.uniform(*span) for span in spans)
    waist, inset = (roof * 0.5, 0.06) if tall else (roof * 0.6, 0.2)
    far, paint, pane = ahead + long, pick(dice, PAINTS), pick(dice, [(54, 62, 70)])
    shade, lamp = mix(paint, BLACK, 0.3), WHITE if oncoming else (176, 24, 20)
    side, top, glass = (canvas.part(drawing.CAR, look, ahead) for look in (shade, paint, pane))
    canvas.shadow(0.75, right - half - 0.2, right + half + 0.2, ahead, far)
    # The side towards the camera; directly behind the car it is covered by what follows.
    x, y = right - copysign(half, right), right - copysign(half - inset, right)
    canvas.along(side, x, 0.25, waist, ahead, far)
    canvas.face(glass, (x, waist, ahead), (y, roof, ahead), (y, roof, far - 0.5), (x, waist, far))
    for wheel in (ahead + 0.2 * long, ahead + 0.8 * long):
        canvas.figure(drawing.CAR, x, wheel, (BLACK, 0.0, 0.32, 0.0, 0.32, 0.6))
    canvas.ground(top, right + inset - half, right - inset + half, ahead, far - 0.5, roof)
    low, high, end, cabin = waist * 0.68, waist * 0.86, half - 0.2, 2 * (half - inset)
    canvas.figure(
        drawing.CAR, right, ahead,
        (BLACK, -end, 0.0, -end, 0.4, 0.25), (BLACK, end, 0.0, end, 0.4, 0.25),
        (paint, 0.0, 0.22, 0.0, waist, 2 * half), (shade, 0.0, waist, 0.0, roof, cabin),
        (pane, 0.0, waist, 0.0, roof - 0.1, cabin - 0.2), (BLACK, -end, 0.27, end, 0.27, 0.14),
        (lamp, -end, low, -end, high, 0.3), (lamp, end, low, end, high, 0.3),
    )  # fmt: skip


def _draw_pedestrian(canvas: Canvas, right: float, ahead: float) -> None:
    dice, tall, stride = canvas.dice, canvas.dice.uniform(1.5, 1.92), canvas.dice.uniform(0.02, 0.3)
    hip, neck, face = tall * dice.uniform(0.38, 0.52), tall * 0.83, tall - 0.12
    legs, coat, skin = (pick(dice, look) for look in (PAINTS, PAINTS, SKIN))
    canvas.shadow(0.5, right - 0.3, right + 0.3, ahead - 0.1, ahead + 0.5)
    canvas.figure(
        drawing.PEDESTRIAN, right, ahead,
        (legs, 0.0, hip, -stride, 0.0, 0.17), (legs, 0.0, hip, stride, 0.0, 0.17),
        (coat, 0.0, hip, 0.0, neck, dice.uniform(0.34, 0.54)),
        (coat, 0.0, neck, dice.uniform(-0.25, 0.25), hip, 0.13), (skin, 0.0, face, 0.0, face, 0.25),
    )  # fmt: skip


def _draw_cyclist(canvas: Canvas, right: float, ahead: float) -> None:
    """Draw someone on a bicycle, from behind or from the side."""
    dice, turn = canvas.dice, canvas.dice.choice((0.12, 0.2, 0.6, 1.0))
    half, way = 0.52 * turn, turn * dice.choice((-1, 1))
    back, front, knee, head = -0.2 * way, 0.42 * way, 0.15 * way, 0.28 * way
    frame, jersey, legs, skin = (pick(dice, look) for look in (PAINTS, PAINTS, PAINTS, SKIN))
    canvas.shadow(0.5, right - half - 0.2, right + half + 0.2, ahead - 0.1, ahead + 0.4)
    rim = [(0.32 * turn * cos(pi * k / 3), 0.34 + 0.32 * sin(pi * k / 3)) for k in range(7)]
    tyres = [(hub, *ends) for hub in (-half, half) for ends in pairwise(rim)]
    canvas.figure(
        drawing.CYCLIST, right, ahead,
        *((BLACK, hub + x, y, hub + u, v, 0.06) for hub, (x, y), (u, v) in tyres),
        (frame, back, 0.9, 0.0, 0.35, 0.07), (frame, 0.0, 0.35, front, 0.95, 0.07),
        (frame, back, 0.8, front, 0.85, 0.07), (legs, back, 1.0, knee, 0.3, 0.2),
        (jersey, back, 0.95, knee, 1.5, 0.42 - 0.1 * turn), (jersey, knee, 1.42, front, 1.0, 0.12),
        (skin, head, 1.68, head, 1.68, 0.28),
    )  # fmt: skip
