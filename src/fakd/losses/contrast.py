"""Memory-based distillation (CIRKD): match similarities of pixels to features of past batches."""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Integer
from torch import Tensor, nn

from fakd.errors import require_above_zero, require_at_least, require_choice
from fakd.losses.alignment import feature_channels, features_of
from fakd.losses.blocks import normalise_channels, similarity_kl
from fakd.losses.grid import labels_on_grid_of, on_grid_of, to_float32
from fakd.processes import all_gather, shared_generator
from fakd.types import IGNORE, DistillationLoss, LossInputs, Segmenter, Weight

PixelSampling = Literal["class", "legacy"]


class Contrast(NamedTuple):
    """Memory entries that pixels are compared with, grouped by class in class order."""

    entries: Float[Tensor, "entries channels"]
    written: Bool[Tensor, " entries"]
    """False where an entry is still its initial random vector."""


class ClassQueue(nn.Module):
    """A ring buffer with a fixed number of slots per class, initialised with random unit vectors.

    A run of rows that would reach the end of its class's slots is written to the last slots, and
    the next run starts at the first slot again.
    """

    rows: Float[Tensor, "classes slots channels"]
    pointer: Int[Tensor, " classes"]
    written: Int[Tensor, " classes"]

    def __init__(self, classes: int, slots: int, channels: int) -> None:
        super().__init__()
        self.slots = slots
        rows = torch.randn(classes, slots, channels)
        # In place, as this may take gigabytes.
        rows /= torch.linalg.vector_norm(rows, dim=2, keepdim=True)
        self.register_buffer("rows", rows)
        self.register_buffer("pointer", torch.zeros(classes, dtype=torch.int64))
        self.register_buffer("written", torch.zeros(classes, dtype=torch.int64))

    def write(self, runs: list[tuple[int, int]], rows: Float[Tensor, "rows channels"]) -> None:
        """Write runs of rows in order; each run is a class and its number of rows."""
        pointer, written = torch.stack([self.pointer, self.written]).tolist()
        # Keyed by slot, so that the later of two rows for a slot wins, in one parallel write.
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
        """Draw up to ``number`` slots, the same ones for all classes."""
        drawn = torch.randperm(self.slots, generator=generator)[:number].to(self.rows.device)
        written = drawn < self.written[:, None]
        return Contrast(self.rows[:, drawn].flatten(0, 1), written.flatten())


class PixelRegionMemory(nn.Module):
    """Teacher features of past batches by class: single pixels, and means over regions.

    The memory of CIRKD (Yang et al., 2022, arXiv 2204.06986). For each class it contains, an image
    adds the mean of the class's pixels (a region) and a few of the pixels, all of unit length.

    Args:
        classes: Number of classes of the labels.
        channels: Channels of the teacher's features.
        pixel_slots: Number of pixels stored per class.
        region_slots: Number of regions stored per class.
        pixels_per_class: Maximum number of pixels that an image adds per class.
        pixel_sampling: Which pixels are added: random pixels of the class (class), or as in CIRKD's
            public code (legacy), random ones of the image's first n pixels, whatever their class,
            where n is the number of pixels of the class.
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
        """Add one batch; with several processes, all must call this, and all store the same.

        Images are added in order, the classes of each in ascending order, with one random
        permutation for each. The generator must be in the same state on every process. Features may
        have any norm; labels are class ids at the same positions.
        """
        with torch.autocast(labels.device.type, enabled=False):
            # Contiguous rows, because processes can exchange contiguous memory only.
            rows = normalise_channels(to_float32(teacher_features)).flatten(2).mT.contiguous()
            images, owners = all_gather(rows), all_gather(labels.flatten(1).contiguous())
            # Synchronises with the device, once per batch instead of once per class: the labels
            # determine how many rows are written.
            present = owners.cpu()
            regions, region_runs = [images[:0, 0]], []
            pixels, pixel_runs = [images[:0, 0]], []
            for image, owner, here in zip(images, owners, present, strict=True):
                classes = [label for label in here.unique().tolist() if label != IGNORE]
                chosen = []
                for label in classes:
                    drawn = self._draw_pixels((here == label).nonzero()[:, 0], generator)
                    chosen.append(drawn)
                    pixel_runs.append((label, len(drawn)))
                    region_runs.append((label, 1))
                if classes:
                    own = owner == torch.tensor(classes, device=owner.device)[:, None]
                    regions.append(own.to(image.dtype) @ image / own.sum(1, keepdim=True))
                    pixels.append(image[torch.cat(chosen).to(image.device)])
            self.regions.write(region_runs, normalise_channels(torch.cat(regions)))
            self.pixels.write(pixel_runs, normalise_channels(torch.cat(pixels)))

    def _draw_pixels(self, own: Tensor, generator: torch.Generator | None) -> Tensor:
        drawn = torch.randperm(len(own), generator=generator)[: self.pixels_per_class]
        return drawn if self.pixel_sampling == "legacy" else own[drawn]

    def sample(
        self,
        contrast_pixels: int = 4096,
        contrast_regions: int = 1024,
        generator: torch.Generator | None = None,
    ) -> tuple[Contrast, Contrast]:
        """Draw about this many pixels and regions in total, equally many of each class."""
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
    r"""Match the similarities of each pixel to stored features of the teacher.

    .. math:: \frac{T^2}{R} \sum_i \mathrm{KL}\big(\mathrm{softmax}_e(t_i \cdot v_e / (\tau T))
        \,\|\, \mathrm{softmax}_e(s_i \cdot v_e / (\tau T))\big)

    The memory-based part of CIRKD (Yang et al., 2022, arXiv 2204.06986). Neither the teacher nor
    the entries get a gradient. Without pixels the loss is 0. All vectors are of unit length, the
    student's already projected to the teacher's channels.

    Args:
        student: The student's features of R pixels.
        teacher: The teacher's features of the same pixels.
        entries: Memory entries v that both are compared with.
        temperature: Divides the similarities, :math:`\tau`.
        kd_temperature: Divides them again, T.
        written: False excludes an entry from the softmax; by default all are included.
        block: Number of pixels compared at once; does not change the result.

    >>> pixels = torch.eye(2)
    >>> contrast_kl(pixels, pixels.flip(0), pixels, temperature=1.0)
    tensor(0.4621)
    """
    with torch.autocast(student.device.type, enabled=False):
        student = to_float32(student)
        columns = entries.detach().to(student.dtype)[None]
        teacher = teacher.detach().to(student.dtype)
        hidden = None if written is None else ~written[None]
        both = temperature * kd_temperature
        divergence = similarity_kl(student, teacher, columns, columns, both, hidden, block)
        return kd_temperature**2 * divergence


class MemoryContrast(DistillationLoss):
    """CIRKD across batches: pixels relate to a memory of features as they do for the teacher.

    The memory holds the teacher's features, single pixels and means over regions, of each class.
    Labels determine the class a pixel is stored for; pixels without a class are ignored. The
    student's features pass through a small head that is trained with it and then discarded.

    The memory takes ``classes * (pixel_slots + region_slots) * channels`` floats on every device
    and in every checkpoint: 0.9 GB for 19 classes and 512 channels, but 6.8 GB for 150 (ADE20K),
    6.1 GB of it pixels. CIRKD's authors use ``pixel_slots=2000`` for SegFormer. See `contrast_kl`
    and `PixelRegionMemory`.

    Args:
        temperature: Divides the similarities: the smaller, the more the nearest features count.
        kd_temperature: Divides them again, which softens teacher and student.
        pixel_slots: Number of pixels stored per class.
        region_slots: Number of regions stored per class.
        pixels_per_class: Maximum number of pixels that an image adds per class.
        contrast_pixels: Approximate number of stored pixels, over all classes, that each pixel is
            compared with.
        contrast_regions: Approximate number of stored regions that each pixel is compared with.
        pixel_sampling: Which pixels are stored for a class: its own (class), or as in the
            authors' code, pixels from the top of the image, whatever their class (legacy).
        mask_unwritten: Exclude slots that still hold their initial random vector; the authors' code
            includes them.
        weight: Weight relative to the task loss.
    """

    determines_classes = False
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
        remedy = "1 has no effect"
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
            # Always batch statistics: the head is discarded after training.
            nn.BatchNorm2d(channels, track_running_stats=False),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 1, bias=False),
        )
        self.memory = PixelRegionMemory(student.classes, channels, *self.remembered)

    def forward(self, inputs: LossInputs) -> Float[Tensor, ""]:
        """Sum `terms`; call it once per step."""
        return torch.stack(list(self.terms(inputs).values())).sum()

    def terms(self, inputs: LossInputs) -> dict[str, Float[Tensor, ""]]:
        """Compare with stored pixels and regions; in training mode, store the batch first.

        With several processes, all must call this.
        """
        if self.head is None or self.memory is None:
            raise ValueError(
                "expected a prepared loss, got one without a memory; "
                "call prepare(student, teacher) first, as Distillation does"
            )
        student, teacher = features_of(inputs)
        labels = labels_on_grid_of(student, inputs.labels)
        with torch.autocast(student.device.type, enabled=False):
            teacher = normalise_channels(to_float32(on_grid_of(student, teacher.detach())))
            weight = next(self.head.parameters())
            student = normalise_channels(self.head(student.to(weight.dtype)))
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
