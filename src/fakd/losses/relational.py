"""Relational distillation (DIST): match correlations of scores, independent of their scale."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from fakd.errors import require_above_zero
from fakd.losses.grid import on_grid_of, to_float32
from fakd.types import DistillationLoss, LossInputs, Weight


def relational(
    student_logits: Float[Tensor, "batch classes rows cols"],
    teacher_logits: Float[Tensor, "batch classes _rows _cols"],
    temperature: float = 1.0,
    inter: float = 1.0,
    intra: float = 1.0,
) -> Float[Tensor, ""]:
    r"""Match how the classes rank at each pixel, and how the pixels rank for each class.

    .. math:: \frac{\beta T^2}{N} \sum_i \big( 1 - \rho(p_{i \cdot}, q_{i \cdot}) \big)
        + \frac{\gamma T^2}{C} \sum_c \big( 1 - \rho(p_{\cdot c}, q_{\cdot c}) \big), \quad
        p_i = \mathrm{softmax}_c(s_i / T), \; q_i = \mathrm{softmax}_c(t_i / T)

    :math:`\rho` is Pearson's correlation: over the classes at each of the N pixels, and over all
    pixels of all images for each class. The student's confidence may differ from the teacher's
    without penalty. Huang et al., 2022, "Knowledge Distillation from a Stronger Teacher"
    (arXiv 2205.10536). As in the authors' code, 1e-8 is added to the product of the two norms. A
    constant input, such as a map of one pixel, has no correlation: its loss is 1 and its gradient
    0, where the formula would give 1e8 times the teacher's deviation. All pixels are used, labelled
    or not. The teacher gets no gradient; its logits are resampled to the student's grid. ``inter``
    is :math:`\beta`, the weight of the ranking of the classes, ``intra`` :math:`\gamma`, that of
    the pixels.

    >>> teacher = torch.tensor([[2.0, 0.0], [0.0, 1.0]]).view(1, 2, 1, 2)
    >>> relational(torch.zeros(1, 2, 1, 2), teacher)
    tensor(2.)
    >>> round(relational(-teacher, teacher).item(), 4)
    4.0
    """
    with torch.autocast(student_logits.device.type, enabled=False):
        teacher_logits = on_grid_of(student_logits, teacher_logits.detach())
        student = (to_float32(student_logits) / temperature).softmax(1)
        teacher = (to_float32(teacher_logits) / temperature).softmax(1)
        of_classes = 1 - _correlation(student, teacher, (1,)).mean()
        of_pixels = 1 - _correlation(student, teacher, (0, 2, 3)).mean()
        return temperature**2 * (inter * of_classes + intra * of_pixels)


def _correlation(
    student: Float[Tensor, "batch classes rows cols"],
    teacher: Float[Tensor, "batch classes rows cols"],
    dims: tuple[int, ...],
) -> Float[Tensor, "..."]:
    """Compute Pearson's correlation over ``dims``."""
    student = student - student.mean(dims, keepdim=True)
    teacher = teacher - teacher.mean(dims, keepdim=True)
    lengths = [torch.linalg.vector_norm(each, dim=dims) for each in (student, teacher)]
    norms = lengths[0] * lengths[1]
    return (student * teacher).sum(dims) / torch.where(norms > 0, norms + 1e-8, torch.inf)


class Relational(DistillationLoss):
    """DIST: the student learns how the teacher ranks classes and pixels, not its confidence.

    Designed for teachers much stronger than the student. Needs neither labels nor features, and
    has no trained parameters. See `relational`.

    Args:
        temperature: Softens teacher and student: above 1, unlikely classes count more.
        inter: Weight of the ranking of the classes at each pixel.
        intra: Weight of the ranking of all pixels of the batch for each class.
        weight: Weight of both relative to the task loss.
    """

    image_by_image = False

    def __init__(
        self,
        temperature: float = 1.0,
        inter: float = 1.0,
        intra: float = 1.0,
        weight: Weight = 1.0,
    ) -> None:
        super().__init__(weight)
        require_above_zero("1 leaves logits unchanged", temperature=temperature)
        if not (min(inter, intra) >= 0 and 0 < inter + intra < math.inf):
            raise ValueError(
                f"expected inter and intra of at least 0, one of them above 0, got {inter} and "
                f"{intra}; the authors use 1 and 1"
            )
        self.temperature, self.inter, self.intra = temperature, inter, intra
        self.determines_classes = inter > 0

    def forward(self, inputs: LossInputs) -> Float[Tensor, ""]:
        """Compute both parts."""
        logits = inputs.student.logits, inputs.teacher.logits
        return relational(*logits, self.temperature, self.inter, self.intra)
