"""The fused divergence against the formula, written with automatic gradients."""

import pytest
import torch
import torch.nn.functional as F

import fakd.losses.divergence as module
from fakd.losses.divergence import divergence


def by_formula(student, teacher, temperature, variance, dim):
    student, target = student / temperature, F.log_softmax(teacher / temperature, dim)
    raised = torch.zeros_like(student) if variance is None else variance / (2 * temperature**2)
    prediction = F.log_softmax(student + raised, dim) - raised
    return (target.exp() * (target - prediction)).sum(dim)


def drawn(shape=(5, 3, 4, 6), dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    maps = [3 * torch.randn(shape, generator=generator, dtype=dtype) for _ in range(3)]
    return maps[0].requires_grad_(), maps[1], maps[2].square().requires_grad_()


@pytest.mark.parametrize("numbers", [1, 150, 2**20])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("raised", [False, True])
@pytest.mark.parametrize("dim", [1, 2])
def test_value_and_gradients_are_those_of_the_formula(
    dim, raised, temperature, numbers, monkeypatch
):
    monkeypatch.setattr(module, "BLOCK_NUMBERS", {"cpu": numbers})
    student, teacher, variance = drawn()
    student, teacher, variance = (
        each.detach().flatten(2).requires_grad_() if dim == 2 else each
        for each in (student, teacher, variance)
    )
    asked = [student, variance] if raised else [student]
    found = []
    for function in (divergence, by_formula):
        value = function(student, teacher, temperature, variance if raised else None, dim)
        pull = torch.linspace(0.5, 2, value.numel(), dtype=value.dtype).view(value.shape)
        found.append([value, *torch.autograd.grad(value, asked, pull)])
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-12)


def test_only_what_is_asked_for_gets_a_gradient():
    student, teacher, variance = drawn()
    divergence(student.detach(), teacher, 2.0, variance, 1).sum().backward()
    assert student.grad is None
    found = divergence(student, teacher, 2.0, variance.detach(), 1)
    first, again = (torch.autograd.grad(found.sum(), student, retain_graph=True) for _ in "ab")
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    assert not divergence(student.detach(), teacher, 2.0, None, 1).requires_grad


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_short_numbers_are_computed_in_float32_and_get_gradients_of_their_kind(kind):
    short = [each.detach().to(kind) for each in drawn()]
    exact = [each.float().requires_grad_() for each in short]
    given = short[0].requires_grad_(), short[1], short[2].requires_grad_()
    found, expected = (
        divergence(*given[:2], 2.0, given[2], 1),
        by_formula(exact[0], exact[1], 2.0, exact[2], 1),
    )
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    gradients = torch.autograd.grad(found.sum(), [given[0], given[2]])
    slopes = torch.autograd.grad(expected.sum(), [exact[0], exact[2]])
    for gradient, slope in zip(gradients, slopes, strict=True):
        torch.testing.assert_close(gradient, slope.to(kind), rtol=0.01, atol=1e-3)
