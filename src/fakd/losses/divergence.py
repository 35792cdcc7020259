"""Divergence of two softmaxed maps, value and gradient together, in cache-sized blocks."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from fakd.losses.grid import to_float32

BLOCK_NUMBERS = {"cpu": 2**20}
"""Number of logits per block, but at least one image; 2^26 on other devices."""


def divergence(
    student: Float[Tensor, "batch classes *positions"],
    teacher: Float[Tensor, "batch classes *positions"],
    temperature: float,
    variance: Float[Tensor, "batch classes *positions"] | None,
    dim: int,
) -> Float[Tensor, "..."]:
    r"""Compute :math:`\sum_k q_k (\log q_k - z_k / T) + \log \sum_k \exp(z_k / T + v_k / (2 T^2))`.

    ``q`` is the teacher's softmax over ``dim``, which is summed out; without variance, this is the
    KL divergence. With P the softmax of the student's exponents, the gradients are
    :math:`(P - q) / T` for the student and :math:`P / (2 T^2)` for the variance. They are computed
    together with the value, so that each map is read once; there are no second derivatives. All in
    at least float32.
    """
    value: Tensor = _Divergence.apply(student, teacher, temperature, variance, dim)
    return value


class _Divergence(torch.autograd.Function):
    """Value and gradients of `divergence`, all in the forward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        student: Tensor,
        teacher: Tensor,
        temperature: float,
        variance: Tensor | None,
        dim: int,
    ) -> Tensor:
        exact = to_float32(student[:0]).dtype
        slopes = [
            torch.empty(student.shape, dtype=exact, device=student.device) if needed else None
            for needed in (ctx.needs_input_grad[0], ctx.needs_input_grad[3])
        ]
        values = []
        numbers = BLOCK_NUMBERS.get(student.device.type, 2**26)
        size = max(1, numbers // max(1, student[:1].numel()))
        for start in range(0, len(student), size):
            block = slice(start, start + size)
            log_target = torch.log_softmax(teacher[block].to(exact) / temperature, dim)
            exponents = student[block].to(exact) / temperature
            if variance is None:
                log_share = prediction = torch.log_softmax(exponents, dim)
            else:
                raised = variance[block].to(exact) / (2 * temperature**2)
                log_share = torch.log_softmax(exponents.add_(raised), dim)
                prediction = raised.neg_().add_(log_share)
            target = log_target.exp()
            values.append(log_target.sub_(prediction).mul_(target).sum(dim))
            share = log_share.exp_()
            if slopes[1] is not None:
                torch.div(share, 2 * temperature**2, out=slopes[1][block])
            if slopes[0] is not None:
                torch.div(share.sub_(target), temperature, out=slopes[0][block])
        ctx.save_for_backward(*slopes)
        ctx.kinds = student.dtype, None if variance is None else variance.dtype
        ctx.dim = dim
        return torch.cat(values)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        upstream = upstream.unsqueeze(ctx.dim)
        student, variance = (
            None if slope is None else (slope * upstream).to(kind)
            for slope, kind in zip(ctx.saved_tensors, ctx.kinds, strict=True)
        )
        return student, None, None, variance, None
