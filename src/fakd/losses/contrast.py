"""Memory-based distillation (CIRKD): match how alike pixels are to what was seen before."""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Integer
from torch import Tensor, nn

from fakd.errors import require_above_zero, require_at_least, require_choice
from fakd.losses.alignment import feature_channels, features_of
from fakd.losses.blocks import similarity_kl, unit
from fakd.losses.grid import labels_on_grid_of, on_grid_of, precise
from fakd.processes import gathered, shared_generator
from fakd.types import IGNORE, DistillationLoss, LossInputs, Segmenter, Weight

PixelSampling = Literal["class", "legacy"]


class Contrast(NamedTuple):
    """What pixels are compared with: rows of all classes, one class after the other."""

    entries: Float[Tensor, "entries channels"]
    written: Bool[Tensor, " entries"]
    """False where a row is still the random vector it started as."""


class ClassQueue(nn.Module):
    """A fixed number of slots for each class, filled with random unit vectors, then written to.

    A run of rows that reaches the end of its class's slots takes the last ones, and the next run
    starts at the first slot again.
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
        require_choice("pixel_sampling", pixel_sampling, PixelSampling)
        require_at_least(1, classes=classes, channels=channels, pixels_per_class=pixels_per_class)
        require_at_least(1, pixel_slots=pixel_slots, region_slots=region_slots)
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

        Images in order and, in each, classes in ascending order, one random permutation for each,
        drawn by the generator, the same on every process. Features may have any length; labels are
        class ids at the same positions.
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


def contrast_kl(
    student: Float[Tensor, "pixels channels"],
    teacher: Float[Tensor, "pixels channels"],
    entries: Float[Tensor, "entries channels"],
    temperature: float = 0.1,
    kd_temperature: float = 1.0,
    written: Bool[Tensor, " entries"] | None = None,
    block: int | None = None,
) -> Float[Tensor, ""]:
    r"""Match how similar each pixel is to remembered features of the teacher.

    .. math:: \frac{T^2}{R} \sum_i \mathrm{KL}\big(\mathrm{softmax}_e(t_i \cdot v_e / (\tau T))
        \,\|\, \mathrm{softmax}_e(s_i \cdot v_e / (\tau T))\big)

    The memory-based part of CIRKD (Yang et al., 2022, arXiv 2204.06986). Neither the teacher nor
    the entries get a gradient. No pixels give 0. All vectors are of unit length, the student's
    projected to the teacher's channels.

    Args:
        student: Pixels as the student sees them.
        teacher: The same pixels as the teacher sees them.
        entries: What they are compared with.
        temperature: Divides the similarities, :math:`\tau`.
        kd_temperature: Divides them once more, T.
        written: False leaves an entry out of the softmax; by default all count.
        block: How many pixels are compared at once; does not change the result.

    >>> pixels = torch.eye(2)
    >>> contrast_kl(pixels, pixels.flip(0), pixels, temperature=1.0)
    tensor(0.4621)
    """
    with torch.autocast(student.device.type, enabled=False):
        student = precise(student)
        columns = entries.detach().to(student.dtype)[None]
        teacher = teacher.detach().to(student.dtype)
        hidden = None if written is None else ~written[None]
        both = temperature * kd_temperature
        divergence = similarity_kl(student, teacher, columns, columns, both, hidden, block)
        return kd_temperature**2 * divergence


class MemoryContrast(DistillationLoss):
    """CIRKD across batches: the student compares pixels with a memory as the teacher does.

    The memory holds features of the teacher, single pixels and means over regions, of each class.
    Labels say which class a pixel is remembered for; pixels without a class are left out. The
    student's features pass through a small head that is trained with it and then thrown away.

    The memory takes ``classes * (pixel_slots + region_slots) * channels`` floats on every device
    and in every checkpoint: 0.9 GB for 19 classes and 512 channels, but 6.8 GB for 150 (ADE20K),
    6.1 GB of it pixels. CIRKD's authors use ``pixel_slots=2000`` for SegFormer. See `contrast_kl`
    and `PixelRegionMemory`.

    Args:
        temperature: Divides the similarities: the smaller, the more the nearest features count.
        kd_temperature: Softens teacher and student once more.
        pixel_slots: How many pixels of each class are remembered.
        region_slots: How many regions of each class are remembered.
        pixels_per_class: How many pixels of a class each image adds to the memory at most.
        contrast_pixels: With about how many remembered pixels, of all classes, each is compared.
        contrast_regions: With about how many remembered regions.
        pixel_sampling: Which pixels are remembered for a class: its own (class), or as in the
            authors' code, pixels from the top of the image, whatever their class (legacy).
        mask_unwritten: Leave out slots not written to; else they count, random, as in that code.
        weight: Factor beside the task's loss.
    """

    image_by_image = False

    def __init__(
        self,
        temperature: float = 0.1,
        kd_temperature: float = 1.0,
        pixel_slots: int = 20000,
        region_slots: int = 2000,
        pixels_per_class: int = 16,
        contrast_pixels: int = 4096,
        contrast_regions: int = 1024,
        pixel_sampling: PixelSampling = "class",
        mask_unwritten: bool = False,
        weight: Weight = 0.1,
    ) -> None:
        super().__init__(weight)
        remedy = "1 changes nothing"
        require_above_zero(remedy, temperature=temperature, kd_temperature=kd_temperature)
        require_at_least(1, pixel_slots=pixel_slots, region_slots=region_slots)
        require_at_least(1, contrast_pixels=contrast_pixels, contrast_regions=contrast_regions)
        require_at_least(1, pixels_per_class=pixels_per_class)
        self.temperature, self.kd_temperature = temperature, kd_temperature
        self.remembered = pixel_slots, region_slots, pixels_per_class, pixel_sampling
        self.contrast_pixels, self.contrast_regions = contrast_pixels, contrast_regions
        self.mask_unwritten = mask_unwritten
        self.head: nn.Sequential | None = None
        self.memory: PixelRegionMemory | None = None

    def prepare(self, student: Segmenter, teacher: Segmenter) -> None:
        """Build the student's head and a memory of random vectors."""
        own, channels = feature_channels(self, student, teacher)
        self.head = nn.Sequential(
            nn.Conv2d(own, channels, 1, bias=False),
            # Always on the batch's own statistics: the head is of no use once training is over.
            nn.BatchNorm2d(channels, track_running_stats=False),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 1, bias=False),
        )
        self.memory = PixelRegionMemory(student.classes, channels, *self.remembered)

    def forward(self, inputs: LossInputs) -> Float[Tensor, ""]:
        """Add up `terms`; like them, for one call in each step."""
        return torch.stack(list(self.terms(inputs).values())).sum()

    def terms(self, inputs: LossInputs) -> dict[str, Float[Tensor, ""]]:
        """Compare with remembered pixels and regions; in training mode, remember the batch first.

        With several processes, all of them must call this.
        """
        if self.head is None or self.memory is None:
            raise ValueError(
                "MemoryContrast expects the two networks before the first batch, got none; "
                "call prepare(student, teacher)"
            )
        student, teacher = features_of(inputs)
        labels = labels_on_grid_of(student, inputs.labels)
        with torch.autocast(student.device.type, enabled=False):
            teacher = unit(precise(on_grid_of(student, teacher.detach())))
            weight = next(self.head.parameters())
            student = unit(self.head(student.to(weight.dtype)))
            generator = shared_generator()
            if self.training:
                self.memory.enqueue(teacher, labels, generator)
            sampled = self.memory.sample(self.contrast_pixels, self.contrast_regions, generator)
            valid = labels != IGNORE
            pixels = student.movedim(1, -1)[valid], teacher.movedim(1, -1)[valid]
            temperatures = self.temperature, self.kd_temperature
            terms = {}
            for name, (entries, written) in zip(("pixel", "region"), sampled, strict=True):
                mask = written if self.mask_unwritten else None
                terms[name] = contrast_kl(*pixels, entries, *temperatures, mask)
            return terms
