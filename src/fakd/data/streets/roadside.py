"""Whatever stands beside a made-up street: buildings, fences, hedges, trees, poles and signs."""

from random import Random

from fakd.data.streets.canvas import Canvas, Part, Wall, mix, rectangle, tinted
from fakd.data.streets.classes import BUILDING, FENCE, POLE, SIGN, VEGETATION
from fakd.data.streets.paints import BLACK, FACADES, LEAVES, PAINTS, SIGNS
from fakd.data.streets.plan import Plan
from fakd.types import IGNORE


def pole(canvas: Canvas, dice: Random, right: float, ahead: float) -> None:
    """Draw a lamp post, or a post that carries signs or a traffic light."""
    kind = dice.choice(("lamp", "sign", "sign", "light"))
    high = dice.uniform(5.5, 8.5) if kind == "lamp" else dice.uniform(2.6, 3.8)
    metal = tinted(
        dice, dice.choice(((104, 108, 110), (62, 66, 66), (150, 152, 150), (84, 74, 60)))
    )
    post = canvas.add(Part(POLE, metal, ahead))
    width = dice.uniform(0.09, 0.2)
    canvas.upright(post, right - width / 2, right + width / 2, 0.0, high, ahead)
    inwards = -1 if right > 0 else 1
    if kind == "lamp" or (kind == "light" and dice.random() < 0.4):
        reach = right + inwards * dice.uniform(1.0, 2.8)
        canvas.stroke(post, (right, high, ahead), (reach, high + 0.15, ahead), 0.12)
        if kind == "light":
            _traffic_light(canvas, dice, reach, high - 0.5, ahead)
    if kind == "light":
        _traffic_light(canvas, dice, right, high - 0.6, ahead)
    if kind == "sign":
        middle = high - 0.4
        for _ in range(dice.randint(1, 2)):
            _sign(canvas, dice, right, middle, ahead)
            middle -= 0.85


def tree(canvas: Canvas, dice: Random, right: float, ahead: float) -> None:
    """Draw a trunk and a crown of overlapping clumps of leaves."""
    high = dice.uniform(3.5, 9)
    spread = high * dice.uniform(0.22, 0.36)
    trunk = canvas.add(Part(VEGETATION, tinted(dice, (74, 60, 48)), ahead, grain=0.2))
    girth = dice.uniform(0.18, 0.4)
    canvas.upright(trunk, right - girth / 2, right + girth / 2, 0.0, high * 0.6, ahead)
    leaf = tinted(dice, dice.choice(LEAVES), 14.0)
    for _ in range(dice.randint(4, 8)):
        shade = mix(leaf, dice.choice((BLACK, (200, 210, 120))), dice.uniform(0, 0.25))
        part = canvas.add(Part(VEGETATION, shade, ahead, grain=0.3, clump=0.4))
        canvas.disc(
            part,
            right + dice.uniform(-0.7, 0.7) * spread,
            high * 0.68 + dice.uniform(-0.6, 0.8) * spread,
            ahead,
            spread * dice.uniform(0.4, 0.75),
            squash=dice.uniform(0.8, 1.4),
        )
    canvas.shadow(0.6, *rectangle(right - spread, right + spread, ahead - spread, ahead + spread))


def hedge(canvas: Canvas, dice: Random, right: float, near: float, far: float) -> None:
    """Draw a hedge along the street."""
    high = dice.uniform(0.8, 2.2)
    leaf = tinted(dice, dice.choice(LEAVES), 14.0)
    part = canvas.add(Part(VEGETATION, leaf, (near + far) / 2, grain=0.3, clump=0.35))
    _screen(canvas, part, right, near, far, high)


def fence(canvas: Canvas, dice: Random, right: float, near: float, far: float) -> None:
    """Draw boards or railings along the street; what shows between them counts as fence."""
    colour = tinted(
        dice,
        dice.choice(((116, 88, 62), (96, 98, 98), (196, 194, 186), (58, 66, 58), (140, 132, 118))),
    )
    gap = dice.choice((mix(colour, BLACK, 0.5), (60, 78, 48), mix(colour, (128, 124, 118), 0.7)))
    pattern = canvas.wall(
        Wall(
            sideways=True,
            at=right,
            storey=9,
            spacing=dice.uniform(0.3, 0.9),
            window_width=dice.uniform(0.35, 0.7),
            window_height=0.95,
            glass=gap,
            lit=0,
            bricks=0,
        )
    )
    high = dice.uniform(0.9, 1.9)
    boards = canvas.add(Part(FENCE, colour, (near + far) / 2, wall=pattern))
    _screen(canvas, boards, right, near, far, high)
    rail = canvas.add(Part(FENCE, mix(colour, BLACK, 0.15), (near + far) / 2))
    _screen(canvas, rail, right, near, far, high, low=high - 0.12)


def bin_or_box(canvas: Canvas, dice: Random, right: float, ahead: float) -> None:
    """Draw a thing that belongs to no class."""
    part = canvas.add(Part(IGNORE, tinted(dice, dice.choice(PAINTS)), ahead))
    half, high = dice.uniform(0.25, 0.6), dice.uniform(0.7, 1.5)
    canvas.upright(part, right - half, right + half, 0.0, high, ahead)


def building(
    canvas: Canvas, dice: Random, plan: Plan, at: float, side: int, near: float, far: float
) -> None:
    """Draw a house: its long side along the street, and the end that looks at the camera."""
    high = dice.uniform(4, 8) if dice.random() < 0.35 else dice.uniform(8, 24)
    colour = tinted(dice, dice.choice(FACADES), 22.0)
    middle = (near + far) / 2
    pattern = Wall(
        sideways=True,
        at=at + canvas.camera.bend * middle * middle,
        storey=dice.uniform(2.7, 3.8),
        spacing=dice.uniform(1.6, 4.2),
        window_width=dice.uniform(0.3, 0.8),
        window_height=dice.uniform(0.35, 0.7),
        glass=tinted(dice, dice.choice(((58, 66, 76), (44, 46, 50), (128, 146, 164)))),
        lit=0.45 if plan.dusk else 0.03,
        bricks=dice.choice((0.0, 0.1, 0.22)),
    )
    flank, front = canvas.wall(pattern), canvas.wall(pattern._replace(sideways=False, at=near))
    # The side towards the sun is the one that looks away from it across the street.
    light, shade = mix(colour, (255, 246, 224), 0.12), mix(colour, BLACK, 0.3)
    faces = (shade, light) if plan.sun == side else (light, shade)
    long = canvas.add(Part(BUILDING, faces[0], middle, 0.08, 0.08, wall=flank))
    short = canvas.add(Part(BUILDING, faces[1], near, 0.08, 0.08, wall=front))
    cornice = canvas.add(Part(BUILDING, mix(colour, BLACK, dice.uniform(0.2, 0.6)), middle))
    deep = at + side * dice.uniform(8, 20)
    if plan.sun == side:
        reach = at - side * high * dice.uniform(0.2, 0.7)
        canvas.shadow(
            0.8, (at, 0.0, near), (reach, 0.0, near + 2), (reach, 0.0, far + 2), (at, 0.0, far)
        )
    canvas.face(short, (at, 0.0, near), (at, high, near), (deep, high, near), (deep, 0.0, near))
    canvas.face(long, (at, 0.0, near), (at, high, near), (at, high, far), (at, 0.0, far))
    if dice.random() < 0.6:
        canvas.face(
            cornice,
            (at, high - 0.5, near), (at, high, near), (at, high, far), (at, high - 0.5, far),
        )  # fmt: skip


def _traffic_light(canvas: Canvas, dice: Random, right: float, middle: float, ahead: float) -> None:
    case = canvas.add(Part(SIGN, tinted(dice, (34, 38, 34), 8.0), ahead))
    canvas.upright(case, right - 0.2, right + 0.2, middle - 0.5, middle + 0.5, ahead)
    colour, up = dice.choice((((250, 60, 40), 0.3), ((250, 190, 60), 0), ((60, 230, 150), -0.3)))
    canvas.disc(canvas.add(Part(SIGN, colour, 0, grain=0)), right, middle + up, ahead, 0.14)


def _sign(canvas: Canvas, dice: Random, right: float, middle: float, ahead: float) -> None:
    colour = tinted(dice, dice.choice(SIGNS), 10.0)
    plate = canvas.add(Part(SIGN, colour, ahead, grain=0.02))
    inside = canvas.add(Part(SIGN, dice.choice(((236, 236, 230), colour, BLACK)), ahead, grain=0))
    half = dice.uniform(0.3, 0.5)
    shape = dice.choice(("disc", "board", "triangle"))
    if shape == "disc":
        canvas.disc(plate, right, middle, ahead, half)
        canvas.disc(inside, right, middle, ahead, half * 0.55)
    elif shape == "board":
        canvas.upright(plate, right - half, right + half, middle - half, middle + half, ahead)
        canvas.upright(inside, right - half / 2, right + half / 2, middle, middle + half / 2, ahead)
    else:
        canvas.face(
            plate,
            (right - half, middle - half * 0.8, ahead), (right, middle + half, ahead),
            (right + half, middle - half * 0.8, ahead),
        )  # fmt: skip


def _screen(
    canvas: Canvas, part: int, right: float, near: float, far: float, high: float, low: float = 0.0
) -> None:
    canvas.face(
        part, (right, low, near), (right, high, near), (right, high, far), (right, low, far)
    )
