"""What a loss remembers of the teacher: rows of each class, in queues of fixed length."""

from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Bool, Float, Int, Integer
from torch import Tensor, nn

from fakd.losses.blocks import unit
from fakd.losses.grid import precise
from fakd.processes import gathered
from fakd.types import IGNORE

PixelSampling = Literal["class", "legacy"]


def check_settings(pixel_sampling: PixelSampling, **counts: int) -> None:
    """Refuse settings that no memory can work with.

    Raises:
        ValueError: names the setting, its value and what would work.
    """
    for name, number in counts.items():
        if number < 1:
            raise ValueError(f"expected {name} of at least 1, got {number}")
    if pixel_sampling not in get_args(PixelSampling):
        raise ValueError(
            f"expected pixel_sampling to be one of {get_args(PixelSampling)}, "
            f"got {pixel_sampling!r}"
        )


class Contrast(NamedTuple):
    """What pixels are compared with: rows of all classes, one class after the other."""

    entries: Float[Tensor, "entries channels"]
    written: Bool[Tensor, " entries"]
    """False where a row is still the random vector it started as."""


class ClassQueue(nn.Module):
    """A fixed number of slots for each class, filled with random unit vectors, then written to.

    A run of rows that reaches the end of its class's slots takes the last ones, and the next run
    starts at the first slot again.

    Args:
        classes: How many classes there are.
        slots: How many rows of each are kept.
        channels: The length of a row.
    """

    rows: Float[Tensor, "classes slots channels"]
    pointer: Int[Tensor, " classes"]
    written: Int[Tensor, " classes"]

    def __init__(self, classes: int, slots: int, channels: int) -> None:
        super().__init__()
        self.slots = slots
        rows = torch.randn(classes, slots, channels)
        # In place, as this may be gigabytes.
        rows /= torch.linalg.vector_norm(rows, dim=2, keepdim=True)
        self.register_buffer("rows", rows)
        self.register_buffer("pointer", torch.zeros(classes, dtype=torch.int64))
        self.register_buffer("written", torch.zeros(classes, dtype=torch.int64))

    def write(self, runs: list[tuple[int, int]], rows: Float[Tensor, "rows channels"]) -> None:
        """Write runs of rows in order; each run is a class and how many of the rows it takes."""
        pointer, written = torch.stack([self.pointer, self.written]).tolist()
        # By slot, so that of two rows for one slot the later one stays, in one parallel write.
        source: dict[int, int] = {}
        taken = 0
        for label, number in runs:
            start = pointer[label]
            pointer[label] = written_to = start + number
            if written_to >= self.slots:
                start, pointer[label], written_to = self.slots - number, 0, self.slots
            written[label] = max(written[label], written_to)
            first = label * self.slots + start
            source |= {first + offset: taken + offset for offset in range(number)}
            taken += number
        if source:
            places = torch.tensor([list(source), list(source.values())], device=rows.device)
            self.rows.flatten(0, 1)[places[0]] = rows[places[1]].to(self.rows.dtype)
            self.pointer.copy_(torch.tensor(pointer))
            self.written.copy_(torch.tensor(written))

    def draw(self, number: int, generator: torch.Generator | None = None) -> Contrast:
        """Draw slots, the same ones for all classes; no more than there are."""
        drawn = torch.randperm(self.slots, generator=generator)[:number].to(self.rows.device)
        written = drawn < self.written[:, None]
        return Contrast(self.rows[:, drawn].flatten(0, 1), written.flatten())


class PixelRegionMemory(nn.Module):
    """Teacher features of past batches by class: single pixels, and means over regions.

    The memory of CIRKD (Yang et al., 2022, arXiv 2204.06986). Every image leaves, for each class
    that it shows, the mean of the class's pixels and a few of the pixels, all of unit length.

    Args:
        classes: How many classes the labels have.
        channels: Channels of the teacher's features.
        pixel_slots: How many pixels of each class are kept.
        region_slots: How many regions of each class are kept.
        pixels_per_class: How many pixels of a class an image adds at most.
        pixel_sampling: Which ones: random pixels of the class, or (legacy) as CIRKD's public code
            does it, random ones of as many pixels at the top of the image as the class has,
            whatever their class.
    """

    def __init__(
        self,
        classes: int,
        channels: int,
        pixel_slots: int = 20000,
        region_slots: int = 2000,
        pixels_per_class: int = 16,
        pixel_sampling: PixelSampling = "class",
    ) -> None:
        super().__init__()
        check_settings(
            pixel_sampling,
            classes=classes,
            channels=channels,
            pixel_slots=pixel_slots,
            region_slots=region_slots,
            pixels_per_class=pixels_per_class,
        )
        self.classes, self.pixel_sampling = classes, pixel_sampling
        self.pixels_per_class = min(pixels_per_class, pixel_slots)
        self.pixels = ClassQueue(classes, pixel_slots, channels)
        self.regions = ClassQueue(classes, region_slots, channels)

    @torch.no_grad()
    def enqueue(
        self,
        teacher_features: Float[Tensor, "batch channels rows cols"],
        labels: Integer[Tensor, "batch rows cols"],
        generator: torch.Generator | None = None,
    ) -> None:
        """Take in one batch; with several processes, all of them call this and keep the same.

        Images in order and, in each, classes in ascending order, one random permutation for each.

        Args:
            teacher_features: Of the teacher, of any length.
            labels: Class ids at the same positions.
            generator: Draws the pixels, the same on every process.
        """
        with torch.autocast(labels.device.type, enabled=False):
            # Rows, because processes exchange contiguous memory only.
            rows = unit(precise(teacher_features)).flatten(2).mT.contiguous()
            images, owners = gathered(rows), gathered(labels.flatten(1).contiguous())
            # Waits for the device, for the batch and not for each class: the labels decide how
            # many rows are written.
            present = owners.cpu()
            regions, region_runs = [images[:0, 0]], []
            pixels, pixel_runs = [images[:0, 0]], []
            for image, owner, here in zip(images, owners, present, strict=True):
                classes = [label for label in here.unique().tolist() if label != IGNORE]
                chosen = []
                for label in classes:
                    drawn = self._drawn((here == label).nonzero()[:, 0], generator)
                    chosen.append(drawn)
                    pixel_runs.append((label, len(drawn)))
                    region_runs.append((label, 1))
                if classes:
                    own = owner == torch.tensor(classes, device=owner.device)[:, None]
                    regions.append(own.to(image.dtype) @ image / own.sum(1, keepdim=True))
                    pixels.append(image[torch.cat(chosen).to(image.device)])
            self.regions.write(region_runs, unit(torch.cat(regions)))
            self.pixels.write(pixel_runs, unit(torch.cat(pixels)))

    def _drawn(self, own: Tensor, generator: torch.Generator | None) -> Tensor:
        drawn = torch.randperm(len(own), generator=generator)[: self.pixels_per_class]
        return drawn if self.pixel_sampling == "legacy" else own[drawn]

    def sample(
        self,
        contrast_pixels: int = 4096,
        contrast_regions: int = 1024,
        generator: torch.Generator | None = None,
    ) -> tuple[Contrast, Contrast]:
        """Draw about so many pixels and regions in all, equally many of each class."""
        return (
            self.pixels.draw(contrast_pixels // self.classes + 1, generator),
            self.regions.draw(contrast_regions // self.classes + 1, generator),
        )
