"""Whatever moves in a made-up street: vehicles, pedestrians, cyclists."""

from random import Random

from fakd.data.streets.canvas import Canvas, Part, mix, rectangle, tinted
from fakd.data.streets.classes import CAR, CYCLIST, PEDESTRIAN
from fakd.data.streets.paints import BLACK, CLOTHES, PAINTS, SKIN


def vehicle(canvas: Canvas, dice: Random, right: float, ahead: float, oncoming: bool) -> None:
    """Draw a car, now and then a van or a lorry, whose middle is ``right`` of the camera."""
    tall = dice.random() < 0.18
    width = dice.uniform(1.95, 2.4) if tall else dice.uniform(1.65, 1.9)
    length = dice.uniform(5, 9) if tall else dice.uniform(3.6, 4.8)
    roof = dice.uniform(2.1, 3.3) if tall else dice.uniform(1.38, 1.62)
    waist = roof * (0.5 if tall else 0.6)
    inset = 0.06 if tall else 0.2
    paint = tinted(dice, dice.choice(PAINTS))
    left, side = right - width / 2, right + width / 2
    far = ahead + length
    canvas.shadow(0.75, *rectangle(left - 0.2, side + 0.2, ahead, far))

    body = canvas.add(Part(CAR, paint, ahead))
    flank = canvas.add(Part(CAR, mix(paint, BLACK, dice.uniform(0.1, 0.4)), ahead))
    top = canvas.add(Part(CAR, mix(paint, (240, 244, 250), 0.3), ahead))
    glass = canvas.add(Part(CAR, tinted(dice, (48, 58, 68)), ahead))
    dark = canvas.add(Part(CAR, BLACK, ahead))
    hood = ahead if tall else ahead + length * 0.14
    near_flank = left if left > 0 else side
    if left > 0 or side < 0:
        inner = near_flank + (inset if left > 0 else -inset)
        canvas.face(
            flank,
            (near_flank, 0.25, ahead), (near_flank, waist, ahead),
            (near_flank, waist, far), (near_flank, 0.25, far),
        )  # fmt: skip
        canvas.face(
            glass,
            (near_flank, waist, hood), (inner, roof, hood + inset * 2),
            (inner, roof, far - inset * 2), (near_flank, waist, far),
        )  # fmt: skip
        for wheel in (ahead + length * 0.2, ahead + length * 0.8):
            canvas.disc(dark, near_flank, 0.32, wheel, 0.32, squash=0.5)
    canvas.face(
        top,
        (left, waist, ahead), (side, waist, ahead), (side, waist, far), (left, waist, far),
    )  # fmt: skip
    canvas.face(
        top,
        (left + inset, roof, hood), (side - inset, roof, hood),
        (side - inset, roof, far), (left + inset, roof, far),
    )  # fmt: skip
    canvas.face(
        body if tall else flank,
        (left, waist, hood), (left + inset, roof, hood),
        (side - inset, roof, hood), (side, waist, hood),
    )  # fmt: skip
    canvas.face(
        glass,
        (left + 0.12, waist, hood), (left + inset + 0.08, roof - 0.1, hood),
        (side - inset - 0.08, roof - 0.1, hood), (side - 0.12, waist, hood),
    )  # fmt: skip
    for x in (left + 0.02, side - 0.27):
        canvas.upright(dark, x, x + 0.25, 0.0, 0.4, ahead)
    canvas.upright(body, left, side, 0.22, waist, ahead)
    canvas.upright(dark, left + 0.1, side - 0.1, 0.2, 0.34, ahead)
    lamp = canvas.add(Part(CAR, (236, 232, 214) if oncoming else (176, 24, 20), ahead, grain=0))
    for x in (left + 0.05, side - 0.35):
        canvas.upright(lamp, x, x + 0.3, waist * 0.68, waist * 0.86, ahead)


def pedestrian(canvas: Canvas, dice: Random, right: float, ahead: float) -> None:
    """Draw someone who walks or stands."""
    tall = dice.uniform(1.5, 1.92)
    build = dice.uniform(0.36, 0.56)
    canvas.shadow(0.5, *rectangle(right - 0.3, right + 0.3, ahead - 0.1, ahead + 0.5))
    legs = canvas.add(Part(PEDESTRIAN, tinted(dice, dice.choice(CLOTHES)), ahead))
    coat = canvas.add(Part(PEDESTRIAN, tinted(dice, dice.choice(CLOTHES)), ahead))
    skin = canvas.add(Part(PEDESTRIAN, tinted(dice, dice.choice(SKIN)), ahead))
    stride = dice.uniform(0.02, 0.3)
    hip = tall * dice.uniform(0.38, 0.52)
    for foot in (-stride, stride):
        canvas.stroke(legs, (right, hip, ahead), (right + foot, 0.0, ahead), 0.17)
    shoulder = tall * 0.83
    canvas.face(
        coat,
        (right - build * 0.4, hip - 0.1, ahead), (right - build / 2, shoulder, ahead),
        (right + build / 2, shoulder, ahead), (right + build * 0.4, hip - 0.1, ahead),
    )  # fmt: skip
    swing = dice.uniform(-0.25, 0.25)
    canvas.stroke(coat, (right, shoulder, ahead), (right + swing, hip, ahead), 0.13)
    canvas.disc(skin, right, tall - 0.12, ahead, 0.13, squash=0.85)


def cyclist(canvas: Canvas, dice: Random, right: float, ahead: float) -> None:
    """Draw someone on a bicycle, from behind or from the side."""
    turn = dice.choice((0.12, 0.2, 0.6, 1.0))
    way = dice.choice((-1, 1))
    frame = canvas.add(Part(CYCLIST, tinted(dice, dice.choice((*PAINTS, BLACK))), ahead))
    tyre = canvas.add(Part(CYCLIST, BLACK, ahead))
    jersey = canvas.add(Part(CYCLIST, tinted(dice, dice.choice(CLOTHES)), ahead))
    legs = canvas.add(Part(CYCLIST, tinted(dice, dice.choice(CLOTHES)), ahead))
    head = canvas.add(Part(CYCLIST, tinted(dice, dice.choice((*SKIN, *PAINTS))), ahead))
    base = 0.52 * turn
    canvas.shadow(0.5, *rectangle(right - base - 0.2, right + base + 0.2, ahead - 0.1, ahead + 0.4))
    for wheel in (-base, base):
        canvas.ring(tyre, right + wheel, 0.34, ahead, 0.34, squash=max(turn, 0.2))
    saddle, bar = right - 0.2 * turn * way, right + 0.42 * turn * way
    canvas.stroke(frame, (saddle, 0.9, ahead), (right, 0.35, ahead), 0.07)
    canvas.stroke(frame, (right, 0.35, ahead), (bar, 0.95, ahead), 0.07)
    canvas.stroke(frame, (saddle, 0.8, ahead), (bar, 0.85, ahead), 0.07)
    canvas.stroke(legs, (saddle, 1.0, ahead), (right + 0.15 * turn * way, 0.3, ahead), 0.2)
    shoulder = right + 0.18 * turn * way
    canvas.stroke(jersey, (saddle, 0.95, ahead), (shoulder, 1.5, ahead), 0.42 - 0.1 * turn)
    canvas.stroke(jersey, (shoulder, 1.42, ahead), (bar, 1.0, ahead), 0.12)
    canvas.disc(head, shoulder + 0.1 * turn * way, 1.68, ahead, 0.14)
