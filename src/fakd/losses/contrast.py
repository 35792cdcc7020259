"""Memory-based distillation (CIRKD): match how alike pixels are to what was seen before."""

import math
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from fakd.losses.blocks import similarity_kl, unit
from fakd.losses.features import feature_channels, features_of
from fakd.losses.grid import labels_on_grid_of, on_grid_of, precise
from fakd.losses.memory import Contrast, PixelRegionMemory, PixelSampling, check_settings
from fakd.processes import shared_generator
from fakd.types import IGNORE, DistillationLoss, LossInputs, Segmenter


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
    the entries get a gradient. No pixels give 0.

    Args:
        student: Pixels as the student sees them, of unit length, projected to the teacher's
            channels.
        teacher: The same pixels as the teacher sees them, of unit length.
        entries: What they are compared with, of unit length.
        temperature: Divides the similarities.
        kd_temperature: Divides them once more; the result is scaled back by its square.
        written: False leaves an entry out of the softmax; by default all count.
        block: How many pixels are compared at once; by default what fits a few hundred MiB. Does
            not change the result.

    >>> pixels = torch.eye(2)
    >>> contrast_kl(pixels, pixels.flip(0), pixels, temperature=1.0)
    tensor(0.4621)
    """
    with torch.autocast(student.device.type, enabled=False):
        student = precise(student)
        columns = entries.detach().to(student.dtype)[None]
        divergence = similarity_kl(
            student,
            teacher.detach().to(student.dtype),
            columns,
            columns,
            temperature * kd_temperature,
            None if written is None else ~written[None],
            block,
        )
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
        temperature: Divides the similarities, which lie between -1 and 1: the smaller, the more
            the nearest features count.
        kd_temperature: Softens teacher and student once more.
        pixel_slots: How many pixels of each class are remembered.
        region_slots: How many regions of each class are remembered.
        pixels_per_class: How many pixels of a class each image adds to the memory at most.
        contrast_pixels: With about how many remembered pixels, of all classes, every pixel of a
            step is compared.
        contrast_regions: With about how many remembered regions.
        pixel_sampling: Which pixels are remembered for a class: its own (class), or as in the
            authors' code, pixels from the top of the image, whatever their class (legacy).
        mask_unwritten: Leave out slots that have not been written to. By default they count, with
            the random vectors they started as, as in the authors' code.
    """

    default_weight: ClassVar[float] = 0.1

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
    ) -> None:
        super().__init__()
        for name, value in (("temperature", temperature), ("kd_temperature", kd_temperature)):
            if not 0 < value < math.inf:
                raise ValueError(f"expected {name} above 0, got {value}; 1 changes nothing")
        check_settings(
            pixel_sampling,
            pixel_slots=pixel_slots,
            region_slots=region_slots,
            pixels_per_class=pixels_per_class,
            contrast_pixels=contrast_pixels,
            contrast_regions=contrast_regions,
        )
        self.temperature, self.kd_temperature = temperature, kd_temperature
        self.pixel_slots, self.region_slots = pixel_slots, region_slots
        self.pixels_per_class, self.pixel_sampling = pixels_per_class, pixel_sampling
        self.contrast_pixels, self.contrast_regions = contrast_pixels, contrast_regions
        self.mask_unwritten = mask_unwritten
        self.head: nn.Sequential | None = None
        self.memory: PixelRegionMemory | None = None

    def prepare(self, student: Segmenter, teacher: Segmenter) -> None:
        """Build the student's head and a memory of random vectors."""
        own = feature_channels(student, "student", "MemoryContrast")
        channels = feature_channels(teacher, "teacher", "MemoryContrast")
        self.head = nn.Sequential(
            nn.Conv2d(own, channels, 1, bias=False),
            # Always on the batch's own statistics: the head is of no use once training is over.
            nn.BatchNorm2d(channels, track_running_stats=False),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 1, bias=False),
        )
        self.memory = PixelRegionMemory(
            student.classes,
            channels,
            self.pixel_slots,
            self.region_slots,
            self.pixels_per_class,
            self.pixel_sampling,
        )

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
            return {
                name: self._contrast(*pixels, contrast)
                for name, contrast in zip(("pixel", "region"), sampled, strict=True)
            }

    def _contrast(self, student: Tensor, teacher: Tensor, contrast: Contrast) -> Tensor:
        return contrast_kl(
            student,
            teacher,
            contrast.entries,
            self.temperature,
            self.kd_temperature,
            contrast.written if self.mask_unwritten else None,
        )
