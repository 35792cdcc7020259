"""The lines a made-up street keeps to."""

from dataclasses import dataclass
from random import Random


@dataclass(frozen=True)
class Plan:
    """The lines a street keeps to, in metres right of the camera."""

    lane: float
    """Width of one lane; the camera keeps to the middle of its own."""
    left: float
    right: float
    """Kerbs."""
    walks: tuple[float, float]
    """Width of the pavement on either side."""
    crossing: float | None
    """Where another street crosses, ahead; None if none does."""
    sun: int
    """Side from which the light comes: -1 left, 1 right."""
    dusk: bool


def draw_plan(dice: Random) -> Plan:
    """Draw the widths, the crossing and the light of a street."""
    lane = dice.uniform(2.9, 3.5)
    return Plan(
        lane=lane,
        left=-lane * dice.choice((0.5, 1.5, 1.5, 2.5)) - dice.uniform(0.3, 2.6),
        right=lane * dice.choice((0.5, 0.5, 0.5, 1.5)) + dice.uniform(0.1, 2.2),
        walks=(dice.uniform(1.4, 5.5), dice.uniform(1.4, 5.5)),
        crossing=dice.uniform(14, 45) if dice.random() < 0.4 else None,
        sun=dice.choice((-1, 1)),
        dusk=dice.random() < 0.16,
    )
