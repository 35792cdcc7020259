"""Sums and means of probabilities against loops over pixels."""

import math

import pytest
import torch
import torch.nn.functional as F

from fakd.answers.combining import map_classes, mix_logits


def logits(classes, seed=0, scale=3.0):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(2, classes, 3, 4, generator=generator)


def summed(logits, table, labels=None):
    """Sum probabilities pixel by pixel, and let what is of no class drop out."""
    probabilities = logits.double().softmax(1)
    result = torch.zeros(len(logits), len(table), *logits.shape[2:], dtype=torch.float64)
    for b, y, x in torch.cartesian_prod(*map(torch.arange, (len(logits), *logits.shape[2:]))):
        for theirs in range(logits.shape[1]):
            mine = [ours for ours, group in enumerate(table) if theirs in group]
            label = None if labels is None else int(labels[b, y, x])
            for ours in mine:
                share = float(label == ours) if label in mine else 1 / len(mine)
                result[b, ours, y, x] += share * probabilities[b, theirs, y, x]
    return result / result.sum(1, keepdim=True)


@pytest.mark.parametrize("table", [[[1], [0]], [[0, 2], [3]], [[4, 1, 0], [2], [3]]])
def test_mapped_probabilities_are_sums(table):
    given = logits(5)
    torch.testing.assert_close(map_classes(given, table).softmax(1).double(), summed(given, table))


def test_what_is_of_several_classes_is_the_labels_or_shared_evenly():
    given, table = logits(4), [[0, 1], [1, 2], [1], [3]]
    labels = torch.randint(-1, 4, (2, 3, 4), generator=torch.Generator().manual_seed(1))
    assert set(labels.unique().tolist()) == {-1, 0, 1, 2, 3}
    for known in (labels, None):
        found = map_classes(given, table, known).softmax(1).double()
        torch.testing.assert_close(found, summed(given, table, known), atol=1e-6, rtol=1e-5)


def test_a_class_that_no_teacher_class_is_is_about_impossible():
    found = map_classes(logits(2), [[0], [], [1]]).softmax(1)
    assert 0 < found[:, 1].max() < 1e-12


def test_mapping_one_to_one_keeps_logits_as_they_are():
    given = logits(3)
    assert torch.equal(map_classes(given, [[2], [0], [1]]), given[:, [2, 0, 1]])


def test_sums_hold_for_logits_that_overflow_as_numbers():
    given = logits(3, scale=300.0)
    found = map_classes(given, [[0, 1], [2]]).double()
    exact = torch.stack([given[:, :2].double().logsumexp(1), given[:, 2].double()], 1)
    torch.testing.assert_close(found, exact)


@pytest.mark.parametrize("by", ["probability", "confidence"])
def test_mixtures_are_weighted_means_of_probabilities(by):
    each, weights = [logits(4, seed=seed) for seed in range(3)], [1.0, 0.0, 2.5]
    found = mix_logits(each, weights, by).exp()
    for b, y, x in torch.cartesian_prod(*map(torch.arange, (2, 3, 4))):
        total, mean = 0.0, torch.zeros(4, dtype=torch.float64)
        for given, weight in zip(each, weights, strict=True):
            p = given[b, :, y, x].double().softmax(0)
            if by == "confidence":
                weight *= 1 - float(-(p * p.log()).sum()) / math.log(4)
            total, mean = total + weight, mean + weight * p
        torch.testing.assert_close(found[b, :, y, x].double(), mean / total, atol=1e-6, rtol=1e-5)


def test_a_class_that_a_teacher_rules_out_counts_as_one_of_no_probability():
    logits = torch.randn(2, 1, 3, 2, 2)
    never, hardly = logits.clone(), logits.clone()
    never[0, :, 1], hardly[0, :, 1] = -torch.inf, -1e4
    for by in ("probability", "confidence"):
        found = mix_logits([*never], [1.0, 2.0], by)
        torch.testing.assert_close(found, mix_logits([*hardly], [1.0, 2.0], by))
        assert found.isfinite().all()


def test_teachers_that_know_nothing_count_alike_by_confidence():
    blank = torch.zeros(1, 3, 2, 2)
    found = mix_logits([blank, blank], [1.0, 1.0], "confidence")
    torch.testing.assert_close(found, F.log_softmax(blank, 1))
