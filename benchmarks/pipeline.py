"""Cost of a training sample: decoding and augmentation, against the usual order of operations.

The usual way resizes the whole image, crops it and jitters colours through 8-bit HSV, like
MMSegmentation; here it is implemented with NumPy and Pillow instead of OpenCV. Both variants read
the same JPEG and PNG files, use the same random draws, and end with a normalised float32 crop.
Whole batches from one loader process, not normalised, are timed separately.

A size is images, height, width, colours. Crops are 512 high and half as wide as the image, at least
512: those of ADE20K (683 x 512) and of Cityscapes (2048 x 1024).
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFilter

from common import SEED, Size, measure, parser, report
from fakd.data import Augmentation, Split, augment, folder, training_batches
from fakd.data.transforms import Distortion, draw_distortion

MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)
REDRAWS = 10


def write_images(root: Path, size: Size) -> None:
    """Draw smooth colours with noise and shapes, about as hard to decode as a photograph."""
    generator = np.random.default_rng(SEED)
    shape = (size.rows, size.cols)
    ids = ", ".join(f"c{index}" for index in range(size.classes))
    for split in ("train", "val"):
        for kind in ("images", "masks"):
            (root / split / kind).mkdir(parents=True)
        for index in range(size.batch):
            coarse = generator.integers(0, 256, (shape[0] // 32, shape[1] // 32, 3), dtype=np.uint8)
            smooth = Image.fromarray(coarse).resize(shape[::-1], Image.Resampling.BICUBIC)
            noisy = np.asarray(smooth) + generator.normal(0, 12, (*shape, 3))
            patches = generator.integers(
                0, size.classes, (shape[0] // 100, shape[1] // 100), dtype=np.uint8
            )
            mask = Image.fromarray(patches).resize(shape[::-1], Image.Resampling.NEAREST)
            noisy += np.asarray(mask)[:, :, None] * 37 % 64 - 32
            image = Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
            image = image.filter(ImageFilter.GaussianBlur(0.7))
            image.save(root / split / "images" / f"{index:03}.jpg", quality=92)
            mask.save(root / split / "masks" / f"{index:03}.png")
    (root / "dataset.yaml").write_text(f"classes: [{ids}]\n")


def usual(
    image_path: Path, mask_path: Path, augmentation: Augmentation, generator: torch.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Decode, resize the whole image, crop, flip, jitter colours, normalise and pad."""
    image = Image.open(image_path).convert("RGB")
    mask = Image.open(mask_path)
    draws = torch.rand(2 + 2 * (REDRAWS + 1), generator=generator, dtype=torch.float64).tolist()
    low, high = augmentation.scale
    factor = low + (high - low) * draws[0]
    base = augmentation.base or image.size
    long, short = int(max(base) * factor), int(min(base) * factor)
    fitted = min(long / max(image.size), short / min(image.size))
    shown = (int(image.width * fitted + 0.5), int(image.height * fitted + 0.5))
    pixels = np.array(image.resize(shown, Image.Resampling.BILINEAR))
    labels = np.array(mask.resize(shown, Image.Resampling.NEAREST))
    for down, right in zip(draws[2::2], draws[3::2], strict=True):
        top = int(down * (max(shown[1] - augmentation.crop[0], 0) + 1))
        left = int(right * (max(shown[0] - augmentation.crop[1], 0) + 1))
        place = np.s_[top : top + augmentation.crop[0], left : left + augmentation.crop[1]]
        found, counts = np.unique(labels[place], return_counts=True)
        counts = counts[found != 255]
        if len(counts) > 1 and counts.max() / counts.sum() < augmentation.largest_class:
            break
    pixels, labels = pixels[place], labels[place]
    if draws[1] < augmentation.flip:
        pixels, labels = pixels[:, ::-1], labels[:, ::-1]
    pixels = recoloured(pixels, draw_distortion(generator))
    normal = (pixels.astype(np.float32) - np.float32(MEAN)) / np.float32(STD)
    below = augmentation.crop[0] - normal.shape[0]
    beside = augmentation.crop[1] - normal.shape[1]
    normal = np.pad(normal, ((0, below), (0, beside), (0, 0)))
    labels = np.pad(labels, ((0, below), (0, beside)), constant_values=255)
    return np.ascontiguousarray(normal.transpose(2, 0, 1)), labels


def recoloured(pixels: np.ndarray, drawn: Distortion) -> np.ndarray:
    """Jitter colours in 8 bits after every step, saturation and hue through HSV."""

    def linear(values: np.ndarray, factor: float, shift: float) -> np.ndarray:
        return np.clip(values.astype(np.float32) * factor + shift, 0, 255).astype(np.uint8)

    if drawn.brightness:
        pixels = linear(pixels, 1, drawn.brightness)
    if drawn.contrast_first and drawn.contrast != 1:
        pixels = linear(pixels, drawn.contrast, 0)
    if drawn.saturation != 1:
        hsv = np.array(Image.fromarray(pixels).convert("HSV"))
        hsv[:, :, 1] = linear(hsv[:, :, 1], drawn.saturation, 0)
        pixels = np.array(Image.fromarray(hsv, "HSV").convert("RGB"))
    if drawn.hue:
        hsv = np.array(Image.fromarray(pixels).convert("HSV"))
        # Pillow divides the circle into 256 parts where OpenCV has 180.
        hsv[:, :, 0] = (hsv[:, :, 0].astype(int) + round(drawn.hue * 256 / 180)) % 256
        pixels = np.array(Image.fromarray(hsv, "HSV").convert("RGB"))
    if not drawn.contrast_first and drawn.contrast != 1:
        pixels = linear(pixels, drawn.contrast, 0)
    return pixels


def variants(
    root: Path, split: Split, augmentation: Augmentation, size: Size
) -> dict[str, Callable[[], Any]]:
    """Build a pass over all images for each variant; every pass draws anew, the same for both."""
    images, masks = (sorted((root / "train" / kind).iterdir()) for kind in ("images", "masks"))
    mean, std = (torch.tensor(value)[:, None, None] for value in (MEAN, STD))
    passes = dict.fromkeys(("usual", "fakd"), 0)

    def generators(name: str) -> list[torch.Generator]:
        passes[name] += 1
        seeds = range(passes[name] * size.batch, (passes[name] + 1) * size.batch)
        return [torch.Generator().manual_seed(seed) for seed in seeds]

    def as_usual() -> None:
        for pair in zip(images, masks, generators("usual"), strict=True):
            usual(pair[0], pair[1], augmentation, pair[2])

    def ours() -> None:
        for index, generator in enumerate(generators("fakd")):
            sample = augment(split[index], augmentation, generator)
            sample.image.float().sub_(mean).div_(std)

    return {"usual": as_usual, "fakd": ours}


def one_worker(split: Split, augmentation: Augmentation, size: Size) -> Callable[[], Any]:
    """Build a pass that takes as many images from a loader with one process."""
    loaded = iter(training_batches(split, augmentation, size.batch, SEED, 0, 10**6, workers=1))
    return lambda: next(loaded)


def main() -> None:
    flags = parser("pipeline", __doc__, ["16x512x683x150x3", "8x1024x2048x19x3"])
    chosen = flags.parse_args()
    torch.set_num_threads(chosen.threads)
    runs = []
    for size in chosen.sizes:
        augmentation = Augmentation(crop=(512, max(512, size.cols // 2)))
        with tempfile.TemporaryDirectory() as path:
            root = Path(path)
            write_images(root, size)
            split = folder(root).train
            ways = variants(root, split, augmentation, size)
            runs.append((size, measure(ways, chosen.device, chosen.repeats, "usual")))
            # Separately, since it would keep loading while another variant is timed.
            ways = {"fakd, one worker": one_worker(split, augmentation, size)}
            runs.append((size, measure(ways, chosen.device, chosen.repeats, "fakd, one worker")))
    report("pipeline", chosen, "usual", runs)


if __name__ == "__main__":
    main()
