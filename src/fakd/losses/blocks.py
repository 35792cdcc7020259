"""Divergence of softmaxed similarities, in blocks of rows to limit memory."""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable

BLOCK_ENTRIES = 2**24
"""Similarities held at once if no block is given: 64 MiB in float32, about five such tensors."""

# Finite, so that a hidden entry adds 0 to the divergence and not 0 * (inf - inf).
HIDDEN = -1e9


def normalise_channels(
    maps: Float[Tensor, "batch channels *pixels"],
) -> Float[Tensor, "batch channels *pixels"]:
    """Divide each pixel's channels by their Euclidean norm, at least 1e-12.

    A vector of zeros stays unchanged and gets no gradient, which would be 1e12 times that of a unit
    vector.
    """
    norm = torch.linalg.vector_norm(maps, dim=1, keepdim=True)
    return maps / torch.where(norm > 0, norm.clamp(min=1e-12), torch.inf)


def similarity_kl(
    student_rows: Float[Tensor, "rows student_channels"],
    teacher_rows: Float[Tensor, "rows teacher_channels"],
    student_columns: Float[Tensor, "groups entries student_channels"],
    teacher_columns: Float[Tensor, "groups entries teacher_channels"],
    temperature: float,
    hidden: Bool[Tensor, "groups entries"] | None = None,
    block: int | None = None,
) -> Float[Tensor, ""]:
    r"""Match the softmaxed similarities of each row to the entries of each group.

    .. math:: \frac{1}{R G} \sum_{r,g} \mathrm{KL}\big(\mathrm{softmax}_e(t_r \cdot t_{ge} / \tau)
        \,\|\, \mathrm{softmax}_e(s_r \cdot s_{ge} / \tau)\big)

    The gradient, which flows to both the student's rows and columns, is
    :math:`(p^s - p^t) / (\tau R G)` for each similarity. It is computed together with the value,
    so only the similarities of one block are in memory, ``block * groups * entries`` instead of
    ``rows * groups * entries``, and none is computed twice. There are no second derivatives.
    Without rows the result is 0. It is not multiplied by the temperature :math:`\tau` squared.

    ``hidden`` entries are excluded from the softmax; ``block`` is the number of rows computed at
    once, by default as many as fit `BLOCK_ENTRIES`.

    >>> rows, columns = torch.eye(2), torch.eye(2)[None]
    >>> similarity_kl(rows, rows.flip(0), columns, columns, temperature=1.0)
    tensor(0.4621)
    """
    if block is None:
        block = max(1, BLOCK_ENTRIES // max(1, student_columns.shape[:2].numel()))
    student, teacher = (student_rows, student_columns), (teacher_rows, teacher_columns)
    value: Tensor = _SimilarityKL.apply(*student, *teacher, temperature, hidden, block)
    return value


class _SimilarityKL(torch.autograd.Function):
    """Value and gradient of `similarity_kl`, both in the forward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        student_rows: Tensor,
        student_columns: Tensor,
        teacher_rows: Tensor,
        teacher_columns: Tensor,
        temperature: float,
        hidden: Tensor | None,
        block: int,
    ) -> Tensor:
        to_rows, to_columns = ctx.needs_input_grad[:2]
        flat = student_columns.flatten(0, 1)
        row_gradient = torch.zeros_like(student_rows) if to_rows else None
        column_gradient = torch.zeros_like(flat) if to_columns else None
        total = student_rows.new_zeros(())
        for start in range(0, len(student_rows), block):
            rows = student_rows[start : start + block]
            teacher = teacher_rows[start : start + block] / temperature
            log_target = _log_shares(teacher, teacher_columns, hidden)
            log_share = _log_shares(rows / temperature, student_columns, hidden)
            target = log_target.exp()
            total += log_target.sub_(log_share).mul_(target).sum()
            # From here on `log_share` holds the gradient of the similarities, up to a factor.
            pull = log_share.exp_().sub_(target).flatten(1)
            if row_gradient is not None:
                torch.mm(pull, flat, out=row_gradient[start : start + block])
            if column_gradient is not None:
                column_gradient.addmm_(pull.T, rows)
        pairs = max(1, len(student_rows) * len(student_columns))
        for gradient in (row_gradient, column_gradient):
            if gradient is not None:
                gradient /= temperature * pairs
        ctx.save_for_backward(row_gradient, column_gradient)
        ctx.columns = student_columns.shape
        return total / pairs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        to_rows, to_columns = ctx.saved_tensors
        return (
            None if to_rows is None else upstream * to_rows,
            None if to_columns is None else (upstream * to_columns).view(ctx.columns),
            *[None] * 5,
        )


def _log_shares(rows: Tensor, columns: Tensor, hidden: Tensor | None) -> Tensor:
    groups, entries, _ = columns.shape
    scores = (rows @ columns.flatten(0, 1).T).view(len(rows), groups, entries)
    if hidden is not None:
        scores.masked_fill_(hidden, HIDDEN)
    return scores.log_softmax(2)
