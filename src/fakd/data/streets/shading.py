"""Light on a made-up street: textures, windows, shadows, sky, fog, and the camera's own faults."""

from random import Random

import numpy as np
from jaxtyping import Float32, Int32, UInt8, UInt32
from PIL import Image, ImageFilter

from fakd.data.dataset import Colour
from fakd.data.streets.canvas import Canvas, Part, Wall
from fakd.data.streets.classes import PAVEMENT, ROAD, SKY

_SKIES: tuple[tuple[Colour, Colour], ...] = (
    ((96, 146, 206), (196, 214, 228)),
    ((150, 160, 172), (196, 200, 204)),
    ((206, 210, 214), (222, 224, 224)),
    ((120, 130, 150), (214, 196, 172)),
)
_DUSKS: tuple[tuple[Colour, Colour], ...] = (
    ((34, 40, 70), (150, 104, 88)),
    ((22, 26, 44), (70, 70, 88)),
)

Field = Float32[np.ndarray, "rows cols"]
Picture = Float32[np.ndarray, "rows cols 3"]
Down = Float32[np.ndarray, "rows 1"]
Across = Float32[np.ndarray, "1 cols"]
Numbers = Int32[np.ndarray, "rows cols"]


def shade(canvas: Canvas, dusk: bool, dice: Random) -> UInt8[np.ndarray, "rows cols 3"]:
    """Paint the parts of a canvas, at half its size.

    Colours are averaged over two by two pixels, which softens edges; everything smoother is
    computed once for the four.
    """
    part = _table(canvas.parts)
    pixels = _halved(np.take(_packed(canvas.parts), canvas.numbers))
    numbers = canvas.numbers[1::2, 1::2]
    label, ground = part["label"][numbers], part["on_ground"][numbers]
    noise = np.random.default_rng(dice.getrandbits(64))
    fine = noise.random(numbers.shape, dtype=np.float32) * 2 - 1
    coarse = _octaves(numbers.shape, noise)
    texture = 1 + part["grain"][numbers] * fine + part["clump"][numbers] * coarse

    camera = canvas.camera
    drop = (
        2 * np.arange(numbers.shape[0], dtype=np.float32)[:, None] + 1 - np.float32(camera.horizon)
    )
    across = (
        2 * np.arange(numbers.shape[1], dtype=np.float32)[None, :] + 1 - np.float32(camera.centre)
    )
    floor = np.float32(camera.focal * camera.height) / np.maximum(drop, 1)
    ahead = np.where(ground, floor, part["ahead"][numbers])
    sun = dice.uniform(0.25, 0.55) if dice.random() < 0.65 else dice.uniform(0.0, 0.12)
    soft = canvas.shadows.resize(numbers.shape[::-1], Image.Resampling.BOX)
    sunlight = 1 - np.asarray(soft, dtype=np.float32) * np.float32(sun / 255)
    right = across * (floor / np.float32(camera.focal))
    texture *= np.where(ground, sunlight * _paving(label, floor, right), 1)
    _add_windows(canvas, part, numbers, pixels, drop, across)
    pixels *= texture[:, :, None]

    zenith, low = dice.choice(_DUSKS if dusk else _SKIES)
    gain = dice.uniform(0.4, 0.62) if dusk else dice.uniform(0.78, 1.12)
    pixels *= np.array([gain * dice.uniform(0.92, 1.08) for _ in range(3)], dtype=np.float32)
    fog = dice.uniform(0.012, 0.05) if dice.random() < 0.22 else dice.uniform(0.001, 0.006)
    haze = np.array(low, dtype=np.float32)
    pixels += (haze - pixels) * (1 - np.exp(ahead * np.float32(-fog)))[:, :, None]
    seen = label == SKY
    pixels[seen] = _sky(zenith, low, 1 + drop / np.float32(camera.horizon), coarse, dice)[seen]
    return _developed(pixels, dice, noise)


def _table(parts: list[Part]) -> dict[str, np.ndarray]:
    columns = dict(zip(Part._fields, zip(*parts, strict=True), strict=True))
    kinds = {"label": np.int32, "on_ground": np.bool_, "wall": np.int32}
    return {
        name: np.array(column, dtype=kinds.get(name, np.float32))
        for name, column in columns.items()
    }


def _packed(parts: list[Part]) -> UInt32[np.ndarray, " parts"]:
    """Put each part's colour into one 32-bit number, which is looked up in one go."""
    colours = np.array([(*part.colour, 255) for part in parts], dtype=np.uint8)
    return colours.view(np.uint32)[:, 0]


def _halved(packed: UInt32[np.ndarray, "height width"]) -> Picture:
    image = Image.fromarray(packed.view(np.uint8).reshape(*packed.shape, 4)).reduce(2)
    return np.asarray(image)[:, :, :3].astype(np.float32)


def _octaves(shape: tuple[int, ...], noise: np.random.Generator) -> Field:
    """Sum noise of ever finer grids, about -1 to 1."""
    height, width = shape
    total = np.zeros(shape, dtype=np.float32)
    for cells, strength in ((5, 0.6), (14, 0.5), (40, 0.45)):
        grid = noise.random((cells * height // width + 2, cells), dtype=np.float32)
        smooth = Image.fromarray(grid).resize((width, height), Image.Resampling.BILINEAR)
        total += np.float32(strength) * (2 * np.asarray(smooth) - 1)
    return total


def _paving(label: Numbers, ahead: Down, right: Field) -> Field:
    """Joints between the slabs of pavements and tracks worn into roads, in perspective."""
    joint = (np.mod(ahead * 1.25, 1) < 0.12) | (np.mod(right * 1.25, 1) < 0.1)
    joints = joint * (label == PAVEMENT) * np.clip(2 / ahead, 0, 0.22)
    tracks = (np.abs(np.mod(right * 0.6, 2) - 1) - 0.5) * ((label == ROAD) * np.float32(0.08))
    shade: Field = 1 - joints - tracks
    return shade


def _add_windows(
    canvas: Canvas,
    part: dict[str, np.ndarray],
    numbers: Numbers,
    pixels: Picture,
    drop: Down,
    across: Across,
) -> None:
    """Paint windows, boards and courses of brick where walls are seen, in their perspective."""
    y, x = np.nonzero(part["wall"][numbers])
    if not len(y):
        return
    shown = numbers[y, x]
    place = part["wall"][shown] - 1
    columns = dict(zip(Wall._fields, zip(*canvas.walls, strict=True), strict=True))
    wall = {name: np.array(column, dtype=np.float32) for name, column in columns.items()}
    camera, focal = canvas.camera, np.float32(canvas.camera.focal)
    aside = across[0, x]
    aside = np.where(np.abs(aside) < 0.5, np.float32(0.5), aside)
    at = wall["at"][place]
    sideways = wall["sideways"][place] > 0
    ahead = np.where(sideways, np.clip(focal * at / aside, 1, 400), at)
    along = np.where(sideways, ahead, aside * at / focal)
    up = np.float32(camera.height) - drop[y, 0] * ahead / focal
    storey, post = up / wall["storey"][place], along / wall["spacing"][place]
    floor, bay = np.floor(storey), np.floor(post)
    inside = (np.abs(post - bay - 0.5) < wall["window_width"][place] / 2) & (
        np.abs(storey - floor - 0.5) < wall["window_height"][place] / 2
    )
    # A hash of the window's place says how bright it is and whether somebody is at home.
    home = np.mod(floor * 0.37 + bay * 0.73 + place * 0.11, 1).astype(np.float32)
    glass = wall["glass"][place] * (0.8 + 0.4 * home)[:, None]
    glass[home < wall["lit"][place]] = (330, 270, 170)
    plain = part["colour"][shown]
    course = (wall["bricks"][place] * (np.mod(up * 2.5, 1) < 0.3))[:, None]
    # As a difference, so that pixels which are only partly wall keep their other part.
    pixels[y, x] += np.where(inside[:, None], glass - plain, -course * plain)


def _sky(zenith: Colour, low: Colour, height: Down, coarse: Field, dice: Random) -> Picture:
    """Blend from the zenith to the horizon, with clouds."""
    top, bottom = (np.array(colour, dtype=np.float32) for colour in (zenith, low))
    clear = top + (bottom - top) * np.clip(height, 0, 1)[:, :, None]
    cover = np.clip(coarse * np.float32(1.6) + np.float32(dice.uniform(-0.8, 0.6)), 0, 1)
    cover *= np.float32(dice.uniform(0.2, 0.9))
    cloud = bottom * np.float32(dice.uniform(0.8, 1.12))
    clouded: Picture = clear + (cloud - clear) * cover[:, :, None]
    return clouded


def _developed(
    pixels: Picture, dice: Random, noise: np.random.Generator
) -> UInt8[np.ndarray, "rows cols 3"]:
    """Blur, darken towards the corners, vary the contrast, and add the noise of a sensor."""
    rows, columns, _ = pixels.shape
    if dice.random() < 0.4:
        sharp = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
        blurred = sharp.filter(ImageFilter.GaussianBlur(dice.uniform(0.3, 0.8)))
        pixels = np.asarray(blurred, dtype=np.float32)
    y = np.linspace(-1, 1, rows, dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, columns, dtype=np.float32)[None, :]
    corners = 1 - np.float32(dice.uniform(0, 0.16)) * (x * x + y * y)
    contrast, shift = np.float32(dice.uniform(0.85, 1.15)), np.float32(dice.uniform(-10, 10))
    pixels = pixels * (corners * contrast)[:, :, None] + (118 * (1 - contrast) + shift)
    # The sum of two uniform draws is near enough to a normal one.
    first, second = noise.random((2, *pixels.shape), dtype=np.float32)
    pixels += (first + second - 1) * np.float32(dice.uniform(3, 18))
    levels: np.ndarray = np.clip(pixels, 0, 255).astype(np.uint8)
    return levels
