"""The ground of a made-up street: road, pavements, markings, and the skyline where it ends."""

from random import Random

from fakd.data.streets.canvas import FAR, NEAREST, Canvas, Part, mix, rectangle, tinted
from fakd.data.streets.classes import BUILDING, MARKING, PAVEMENT, ROAD, VEGETATION
from fakd.data.streets.paints import FACADES, LEAVES
from fakd.data.streets.plan import Plan


def draw_skyline(canvas: Canvas, dice: Random) -> None:
    """Draw the distant houses and trees behind everything."""
    x = 0.0
    while x < canvas.width:
        step = canvas.width * dice.uniform(0.04, 0.16)
        top = canvas.camera.horizon - canvas.height * dice.uniform(0.01, 0.14)
        green = dice.random() < 0.55
        colour = tinted(dice, dice.choice(LEAVES if green else FACADES))
        label = VEGETATION if green else BUILDING
        part = canvas.add(Part(label, colour, FAR * 0.6, grain=0.12, clump=0.25 if green else 0))
        shoulder = step * (0.3 if green else 0)
        foot = canvas.camera.horizon + 2
        canvas.flat(
            part, [(x, foot), (x + shoulder, top), (x + step - shoulder, top), (x + step, foot)]
        )
        x += step * dice.uniform(0.6, 1.0)


def draw_ground(canvas: Canvas, dice: Random, plan: Plan) -> None:
    """Draw yards, pavements, road and its markings."""
    grass = dice.random() < 0.5
    yard = tinted(dice, dice.choice(LEAVES[:3]) if grass else (150, 144, 136))
    label = VEGETATION if grass else PAVEMENT
    _strip(canvas, Part(label, yard, 0, 0.14, 0.2, on_ground=True), -400.0, 400.0, NEAREST, 900.0)
    slabs = tinted(dice, dice.choice(((150, 146, 140), (128, 118, 110), (112, 112, 114))))
    walk = Part(PAVEMENT, slabs, 0, 0.1, 0.12, on_ground=True)
    asphalt = tinted(dice, dice.choice(((92, 92, 95), (74, 75, 80), (118, 116, 112))), 14.0)
    road = Part(ROAD, asphalt, 0, 0.09, 0.14, on_ground=True)
    kerb = Part(PAVEMENT, mix(slabs, (236, 234, 230), 0.4), 0, on_ground=True)
    _strip(canvas, walk, plan.left - plan.walks[0], plan.right + plan.walks[1], NEAREST, FAR)
    _strip(canvas, kerb, plan.left - 0.18, plan.right + 0.18, NEAREST, FAR)
    number = _strip(canvas, road, plan.left, plan.right, NEAREST, FAR)
    paint = Part(MARKING, mix(asphalt, (236, 234, 222), dice.uniform(0.45, 1.0)), 0, 0.1, 0.2, True)
    if plan.crossing is not None:
        near, far = plan.crossing, plan.crossing + dice.uniform(7, 11)
        canvas.face(number, *rectangle(-200.0, 200.0, near, far))
    line = canvas.add(paint)
    if dice.random() < 0.85:
        _dashes(canvas, dice, line, plan, -plan.lane / 2)
    for edge in (plan.left + 0.5, plan.right - 0.4):
        if dice.random() < 0.35:
            canvas.face(line, *rectangle(edge, edge + 0.15, NEAREST, plan.crossing or 60.0))
    if dice.random() < (0.6 if plan.crossing else 0.2):
        _zebra(canvas, dice, line, plan)


def _strip(canvas: Canvas, part: Part, left: float, right: float, near: float, far: float) -> int:
    number = canvas.add(part)
    stops = [near * (far / near) ** (step / 12) for step in range(13)]
    outline = [(left, 0.0, ahead) for ahead in stops]
    canvas.face(number, *outline, *[(right, 0.0, ahead) for ahead in reversed(stops)])
    return number


def _dashes(canvas: Canvas, dice: Random, line: int, plan: Plan, right: float) -> None:
    dash, gap = dice.choice(((3.0, 4.5), (2.0, 3.0), (5.0, 0.0)))
    half = dice.uniform(0.07, 0.12)
    ahead = NEAREST + dice.uniform(0, dash)
    while ahead < (plan.crossing or 55) - dash:
        canvas.face(line, *rectangle(right - half, right + half, ahead, ahead + dash))
        ahead += dash + gap


def _zebra(canvas: Canvas, dice: Random, line: int, plan: Plan) -> None:
    near = (plan.crossing - 5) if plan.crossing else dice.uniform(7, 25)
    x = plan.left + 0.4
    while x < plan.right - 0.4:
        canvas.face(line, *rectangle(x, x + 0.5, near, near + 3.2))
        x += 1.0
