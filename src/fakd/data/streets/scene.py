"""What stands and moves on a made-up street, drawn from far to near."""

from collections.abc import Callable
from functools import partial
from random import Random
from typing import NamedTuple

from fakd.data.streets.canvas import FAR, NEAREST, Camera, Canvas, Part
from fakd.data.streets.classes import SKY
from fakd.data.streets.ground import draw_ground, draw_skyline
from fakd.data.streets.plan import Plan, draw_plan
from fakd.data.streets.roadside import bin_or_box, building, fence, hedge, pole, tree
from fakd.data.streets.traffic import cyclist, pedestrian, vehicle


class Thing(NamedTuple):
    """Something yet to be drawn, before or after others by its depth."""

    ahead: float
    draw: Callable[[], None]


def draw_street(width: int, height: int, dice: Random) -> tuple[Canvas, Plan]:
    """Draw the parts of one street as they are seen from a car on it."""
    camera = Camera(
        focal=width * dice.uniform(0.72, 1.05),
        centre=width * dice.uniform(0.38, 0.62),
        horizon=height * dice.uniform(0.4, 0.56),
        height=dice.uniform(1.3, 2.1),
        bend=dice.uniform(-0.0016, 0.0016) if dice.random() < 0.5 else 0.0,
    )
    canvas = Canvas(width, height, camera)
    canvas.add(Part(SKY, (0, 0, 0), FAR, grain=0))
    plan = draw_plan(dice)
    draw_skyline(canvas, dice)
    draw_ground(canvas, dice, plan)
    things: list[Thing] = []
    for side in (-1, 1):
        things += _frontage(canvas, dice, plan, side)
        things += _furniture(canvas, dice, plan, side)
    things += _movers(canvas, dice, plan)
    for thing in sorted(things, key=lambda thing: -thing.ahead):
        thing.draw()
    return canvas, plan


def _frontage(canvas: Canvas, dice: Random, plan: Plan, side: int) -> list[Thing]:
    """Line one side with buildings, fences, hedges and trees; return each with its depth."""
    things: list[Thing] = []
    edge = plan.left - plan.walks[0] if side < 0 else plan.right + plan.walks[1]
    green = dice.uniform(0.05, 0.6)
    near = dice.uniform(-6, 4)
    while near < 100:
        far = near + dice.uniform(7, 24)
        if plan.crossing and near < plan.crossing + 9 and far > plan.crossing - 2:
            far = plan.crossing - 2
            if far - near < 3:
                near = plan.crossing + 10
                continue
        at = edge + side * dice.uniform(0, 2.5)
        start = max(near, NEAREST)
        if far <= start:
            near = far
            continue
        if dice.random() < green:
            for _ in range(dice.randint(1, 3)):
                spot, x = dice.uniform(start + 2, far + 2), at + side * dice.uniform(1, 9)
                things.append(Thing(spot, partial(tree, canvas, dice, x, spot)))
            screen = dice.choice((fence, fence, hedge))
            things.append(Thing(start, partial(screen, canvas, dice, edge, start, far)))
        else:
            house = partial(building, canvas, dice, plan, at, side, start, far)
            things.append(Thing(start, house))
            if dice.random() < 0.3:
                things.append(Thing(start - 0.1, partial(fence, canvas, dice, edge, start, far)))
        near = far + (dice.uniform(2, 8) if dice.random() < 0.3 else 0)
    return things


def _furniture(canvas: Canvas, dice: Random, plan: Plan, side: int) -> list[Thing]:
    """Stand poles, trees, bins and people on one pavement; return each with its depth."""
    things: list[Thing] = []
    kerb, walk = (plan.left, plan.walks[0]) if side < 0 else (plan.right, plan.walks[1])
    ahead, step = dice.uniform(4, 12), dice.uniform(9, 22.0)
    leafy = dice.random() < 0.3
    while ahead < 75:
        x = kerb + side * dice.uniform(0.3, 0.6)
        stands = tree if leafy and dice.random() < 0.7 else pole
        things.append(Thing(ahead, partial(stands, canvas, dice, x, ahead)))
        ahead += step * dice.uniform(0.7, 1.3)
    for _ in range(dice.randint(0, 6)):
        x, ahead = kerb + side * dice.uniform(0.4, walk), 4 + 26 * dice.uniform(0, 1)
        stands = bin_or_box if dice.random() < 0.12 else pedestrian
        things.append(Thing(ahead, partial(stands, canvas, dice, x, ahead)))
    return things


def _movers(canvas: Canvas, dice: Random, plan: Plan) -> list[Thing]:
    """Put vehicles, cyclists and people on the road; return each with its depth."""
    things: list[Thing] = []
    lanes = [(0.0, False, 8.0)]
    if plan.left < -1.3 * plan.lane:
        lanes.append((-plan.lane, True, 6.0))
    if plan.left < -2.2 * plan.lane and dice.random() < 0.6:
        lanes.append((plan.left + 1.05, True, 5.0))
    if plan.right > 2.9:
        lanes.append((plan.right - 1.0, False, 4.0))
    for middle, oncoming, first in lanes:
        ahead = first + dice.uniform(0, 14.0)
        while ahead < 70:
            if plan.crossing is None or not plan.crossing - 6 < ahead < plan.crossing + 9:
                x = middle + dice.uniform(-0.25, 0.25)
                things.append(Thing(ahead, partial(vehicle, canvas, dice, x, ahead, oncoming)))
            ahead += 5.5 + dice.uniform(0, 1) ** 2 * 34
    for _ in range(dice.choice((0, 1, 1, 2, 2))):
        x = dice.choice((plan.left + 0.8, plan.right - 0.7)) + dice.uniform(-0.5, 0.5)
        ahead = dice.uniform(4.5, 20)
        things.append(Thing(ahead, partial(cyclist, canvas, dice, x, ahead)))
    if dice.random() < 0.45:
        where = plan.crossing - 3.5 if plan.crossing else dice.uniform(8, 25)
        for _ in range(dice.randint(1, 3)):
            x = dice.uniform(plan.left, plan.right)
            things.append(Thing(where, partial(pedestrian, canvas, dice, x, where)))
    return things
