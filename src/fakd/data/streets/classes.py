"""The classes of the made-up streets."""

from fakd.data.dataset import Colour

CLASSES: tuple[tuple[str, Colour], ...] = (
    ("road", (128, 64, 128)),
    ("lane marking", (240, 240, 240)),
    ("pavement", (244, 35, 232)),
    ("building", (90, 90, 90)),
    ("fence", (190, 153, 153)),
    ("pole", (255, 160, 60)),
    ("sign", (250, 220, 0)),
    ("vegetation", (107, 142, 35)),
    ("sky", (70, 130, 180)),
    ("pedestrian", (220, 20, 60)),
    ("cyclist", (119, 230, 220)),
    ("car", (0, 0, 142)),
)
"""Name and colour in a picture of labels. Traffic lights are signs, vans and lorries are cars."""

ROAD, MARKING, PAVEMENT, BUILDING, FENCE, POLE = range(6)
SIGN, VEGETATION, SKY, PEDESTRIAN, CYCLIST, CAR = range(6, 12)
