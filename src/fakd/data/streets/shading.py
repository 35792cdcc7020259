"""Shading of a synthetic street: textures, windows, shadows, sky, fog, and camera defects."""

from random import Random

import numpy as np
from jaxtyping import Float32, Int16, UInt8
from PIL import Image, ImageFilter

from fakd.data.dataset import Colour
from fakd.data.streets.drawing import PART, PAVEMENT, ROAD, SKY, Canvas

# Colours of the sky at the zenith and at the horizon.
SKIES: tuple[tuple[Colour, Colour], ...] = (
    ((96, 146, 206), (196, 214, 228)), ((150, 160, 172), (196, 200, 204)),
    ((206, 210, 214), (222, 224, 224)), ((120, 130, 150), (214, 196, 172)),
)  # fmt: skip
DUSKS = ((34, 40, 70), (150, 104, 88)), ((22, 26, 44), (70, 70, 88))

Labels = Int16[np.ndarray, "rows cols"]
Picture = Float32[np.ndarray, "*shape 3"]
Vector = Float32[np.ndarray, " pixels"]
Levels = UInt8[np.ndarray, "rows cols 3"]


def shade(canvas: Canvas) -> tuple[Levels, Labels]:
    """Shade the parts of a canvas at half its size; return the image and its labels.

    Colours are averaged over two by two pixels, which softens edges; everything smoother is
    computed once for all four.
    """
    dice, noise = canvas.dice, np.random.default_rng(canvas.dice.getrandbits(64))
    table, every = np.array(canvas.parts, dtype=PART), np.asarray(canvas.numbers)
    numbers = every[1::2, 1::2]
    rows, columns = numbers.shape
    label, ahead = table["label"][numbers], table["ahead"][numbers]
    packed = np.full((len(table), 4), 255, dtype=np.uint8)
    packed[:, :3] = table["colour"]
    # A colour packed into 32 bits takes one lookup instead of three.
    image = packed.view(np.uint32)[:, 0][every].view(np.uint8).reshape(*every.shape, 4)
    pixels = np.asarray(Image.fromarray(image).reduce(2))[:, :, :3].astype(np.float32)
    # Slope of the viewing ray of each row (down) and each column (sideways), per metre ahead.
    y, x = (2 * np.arange(length, dtype=np.float32) + 1 for length in (rows, columns))
    down, across = (y[:, None] - canvas.horizon) / canvas.focal, (x - canvas.centre) / canvas.focal
    walls = np.nonzero((table["wall"]["open"] > 0)[numbers])
    # As a difference, so that pixels that are only partly wall keep the rest.
    rays = down[walls[0], 0], across[walls[1]]
    pixels[walls] += _windows(table[numbers[walls]], *rays, canvas.eye)

    fine = noise.random((rows, columns), dtype=np.float32) * 2 - 1
    coarse = _clumps(rows, columns, noise)
    texture = 1 + table["rough"][numbers] * (fine + coarse)
    floor = canvas.eye / np.maximum(down, 1e-3)
    # Joints between paving slabs, tracks worn into roads, and shadows.
    joints = (floor * 1.25 % 1 < 0.12) | (across * floor * 1.25 % 1 < 0.1)
    worn = joints * (label == PAVEMENT) * np.clip(2 / floor, 0, 0.22)
    worn += (np.abs(across * floor * 0.6 % 2 - 1) - 0.5) * (label == ROAD) * np.float32(0.08)
    sun = dice.uniform(0.25, 0.55) if dice.random() < 0.65 else dice.uniform(0.0, 0.12)
    shadows = np.asarray(canvas.shadows.reduce(2), dtype=np.float32) * (sun / 255)
    texture *= np.where(ahead == 0, (1 - shadows) * (1 - worn), 1)
    gain = dice.uniform(0.4, 0.62) if canvas.dusk else dice.uniform(0.78, 1.12)
    tint = np.array([gain * dice.uniform(0.92, 1.08) for _ in range(3)], dtype=np.float32)
    pixels *= texture[:, :, None] * tint

    zenith, low = np.array(dice.choice(DUSKS if canvas.dusk else SKIES), dtype=np.float32)
    fog = dice.uniform(0.012, 0.05) if dice.random() < 0.22 else dice.uniform(0.001, 0.006)
    pixels += (low - pixels) * (1 - np.exp(-fog * np.where(ahead == 0, floor, ahead)))[:, :, None]
    cover = np.clip(coarse * 1.6 + dice.uniform(-0.8, 0.6), 0, 1) * dice.uniform(0.2, 0.9)
    clear = zenith + (low - zenith) * np.clip(1 + down / -down[0], 0, 1)[:, :, None]
    cloudy = clear + (low * dice.uniform(0.8, 1.12) - clear) * cover[:, :, None]
    pixels[label == SKY] = cloudy[label == SKY]
    return _develop(pixels, dice, noise), label


def _clumps(rows: int, columns: int, noise: np.random.Generator) -> Float32[np.ndarray, "_ _"]:
    """Sum noise of increasingly fine grids, about -1 to 1."""
    total = np.zeros((rows, columns), dtype=np.float32)
    for cells, strength in ((5, 1.2), (14, 1.0), (40, 0.9)):
        grid = noise.random((cells * rows // columns + 2, cells), dtype=np.float32) - 0.5
        smooth = Image.fromarray(grid).resize((columns, rows), Image.Resampling.BILINEAR)
        total += strength * np.asarray(smooth)
    return total


def _windows(part: np.ndarray, down: Vector, across: Vector, eye: float) -> Picture:
    """Return how windows, bars and brick courses change the colours of wall pixels."""
    wall, plain = part["wall"], part["colour"]
    veer = np.where(np.abs(across) < 1e-3, np.float32(1e-3), across)
    # The depth of a wall along the street follows from its lateral distance; otherwise it is given.
    ahead = np.where(wall["aside"] == 0, part["ahead"], np.clip(wall["aside"] / veer, 1, 400))
    along, up = np.where(wall["aside"] == 0, veer * ahead, ahead), eye - down * ahead
    storey, bay = up / wall["storey"], along / wall["bay"]
    beside = np.maximum(np.abs(storey % 1 - 0.5), np.abs(bay % 1 - 0.5))
    # A hash of the window's position decides its brightness and whether it is lit.
    home = (np.floor(storey) * 0.37 + np.floor(bay) * 0.73 + wall["bay"] * 7) % 1
    glass = plain * 0.3 + (40 * home + 20)[:, None]
    glass[home < wall["lit"]] = (330, 270, 170)
    brick = (wall["bay"] * 10 // 1 % 3 * 0.1 * (up * 2.5 % 1 < 0.3))[:, None]
    change: Picture = np.where((beside < wall["open"] / 2)[:, None], glass - plain, -brick * plain)
    return change


def _develop(pixels: Picture, dice: Random, noise: np.random.Generator) -> Levels:
    """Blur, darken towards the corners, vary the contrast, and add sensor noise."""
    rows, columns, _ = pixels.shape
    if dice.random() < 0.4:
        sharp = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
        blurred = sharp.filter(ImageFilter.GaussianBlur(dice.uniform(0.3, 0.8)))
        pixels = np.asarray(blurred, dtype=np.float32)
    y = np.linspace(-1, 1, rows, dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, columns, dtype=np.float32)[None]
    corners = 1 - dice.uniform(0, 0.16) * (x * x + y * y)
    contrast, shift = dice.uniform(0.85, 1.15), dice.uniform(-10, 10)
    pixels = pixels * (corners * contrast)[:, :, None] + (118 * (1 - contrast) + shift)
    # The sum of two uniform draws is close enough to a normal one.
    first, second = noise.random((2, *pixels.shape), dtype=np.float32)
    pixels += (first + second - 1) * dice.uniform(3, 18)
    levels: np.ndarray = np.clip(pixels, 0, 255).astype(np.uint8)
    return levels
