import math

import numpy as np
import pytest
import torch

from fakd.comparing.statistics import (
    Difference,
    Interval,
    Pixels,
    bootstrap_differences,
    combine,
    half_width,
    holm,
    mean_iou,
    paired_difference,
    percentile_interval,
    seeds_needed,
)
from fakd.metrics import Scores, confusion_matrix


def pixels(hit, truth, said):
    return Pixels(*(np.array(counts) for counts in (hit, truth, said)))


def test_mean_iou_is_that_of_the_confusion_matrix():
    torch.manual_seed(0)
    labels, said = torch.randint(0, 4, (500,)), torch.randint(0, 5, (500,))
    # Class 4 is only predicted, class 5 not even that: neither counts.
    matrix = confusion_matrix(said, labels, 6)
    counts = Pixels(*(each.numpy() for each in (matrix.diagonal(), matrix.sum(1), matrix.sum(0))))
    assert float(mean_iou(counts)) == pytest.approx(100 * Scores.from_matrix(matrix).miou)


def test_a_set_without_any_class_has_no_mean_iou():
    assert math.isnan(mean_iou(pixels([0, 0], [0, 0], [0, 0])))


def test_the_t_interval_of_three_seeds():
    found = paired_difference([32.0, 34.0, 33.0], [30.0, 31.0, 32.0])
    assert (found.mean, found.spread, found.seeds) == (2.0, 1.0, 3)
    # t of 0.975 with 2 degrees of freedom, from any table.
    half = 4.302653 / math.sqrt(3)
    assert found.over_seeds == pytest.approx((2 - half, 2 + half), abs=1e-5)
    assert found.interval == found.over_seeds


def test_one_seed_has_no_interval():
    found = paired_difference([32.0], [30.0])
    assert (found.mean, found.spread, found.over_seeds, found.interval) == (2.0, None, None, None)


@pytest.mark.parametrize("scores", [([1.0], [1.0, 2.0]), ([], [])])
def test_seeds_must_pair_up(scores):
    with pytest.raises(ValueError, match="one score of each method for every seed"):
        paired_difference(*scores)


@pytest.mark.parametrize("seeds", [3, 5])
def test_the_t_interval_covers_the_truth_as_often_as_it_says(seeds):
    dice = np.random.default_rng(seeds)
    gains = dice.normal(0.8, 1.5, (2000, seeds))
    covered = 0
    for row in gains:
        low, high = paired_difference(list(row), [0.0] * seeds).over_seeds
        covered += low < 0.8 < high
    assert covered / 2000 == pytest.approx(0.95, abs=0.015)


def made_up_sets(dice, images, gain, seeds=1):
    """Two methods that find a share of three classes' pixels which varies from image to image."""
    truth = np.broadcast_to(np.array([600, 300, 100]), (seeds, images, 3))
    hard = dice.normal(0, 0.1, (1, images, 1))
    own = dice.normal(0, 0.05, (2, seeds, images, 3))

    def counts(share, noise):
        hit = np.round(truth * np.clip(share + hard + noise, 0, 1)).astype(int)
        return Pixels(hit, truth, hit)

    return counts(0.6 + gain, own[0]), counts(0.6, own[1])


def test_the_bootstrap_of_images_covers_the_truth():
    # What is hit is all that is said, so IoU is the share found, and the true gain is 3 points.
    dice = np.random.default_rng(0)
    covered = 0
    for _ in range(300):
        sets = made_up_sets(dice, images=40, gain=0.03)
        low, high = percentile_interval(bootstrap_differences(*sets, resamples=400))
        covered += low < 3.0 < high
    assert 0.90 <= covered / 300 <= 0.98


def test_the_bootstrap_is_that_of_a_loop_over_drawn_images():
    method, reference = made_up_sets(np.random.default_rng(1), images=7, gain=0.1, seeds=2)
    fast = bootstrap_differences(method, reference, resamples=5)
    draws = np.random.default_rng(0).multinomial(7, [1 / 7] * 7, size=5)
    for result, draw in zip(fast, draws, strict=True):
        drawn = np.repeat(np.arange(7), draw)
        gains = []
        for seed in range(2):
            scores = [
                float(mean_iou(Pixels(*(each[seed][drawn].sum(0) for each in counts))))
                for counts in (method, reference)
            ]
            gains.append(scores[0] - scores[1])
        assert result == pytest.approx(np.mean(gains))


def test_the_bootstrap_always_draws_the_same_images():
    sets = made_up_sets(np.random.default_rng(1), images=9, gain=0.1)
    np.testing.assert_array_equal(bootstrap_differences(*sets), bootstrap_differences(*sets))
    method, _ = sets
    assert not bootstrap_differences(method, method).any()


def test_sources_of_chance_add_like_variances():
    joined = combine(1.0, Interval(-2.0, 4.0), Interval(-3.0, 5.0))
    assert joined == pytest.approx((-4.0, 6.0))
    assert combine(1.0, Interval(0.5, 2.0)) == pytest.approx((0.5, 2.0))
    both = Difference(1.0, 1.0, 3, Interval(-2.0, 4.0), Interval(-3.0, 5.0))
    assert both.interval == pytest.approx((-4.0, 6.0))


def test_the_joint_interval_covers_where_either_alone_does_not():
    dice = np.random.default_rng(0)
    seeds, of_images, times = 3, 0.7, 2000
    covered = {"joint": 0, "seeds": 0, "images": 0}
    for _ in range(times):
        shared = dice.normal(0, of_images)
        gains = 1.0 + shared + dice.normal(0, 1.0, seeds)
        found = paired_difference(list(gains), [0.0] * seeds)
        half = 1.96 * of_images
        images = Interval(found.mean - half, found.mean + half)
        for name, (low, high) in {
            "joint": combine(found.mean, found.over_seeds, images),
            "seeds": found.over_seeds,
            "images": images,
        }.items():
            covered[name] += low < 1.0 < high
    assert 0.95 <= covered["joint"] / times <= 0.99
    assert covered["seeds"] / times < 0.93
    assert covered["images"] / times < 0.93


@pytest.mark.parametrize("spread", [0.7, 1.5])
def test_the_seeds_needed_show_the_gain_in_four_of_five_comparisons(spread):
    count = seeds_needed(spread, gain=1.0)
    dice = np.random.default_rng(0)

    def shown(seeds):
        gains = dice.normal(1.0, spread, (4000, seeds))
        halves = half_width(1.0, seeds) * gains.std(1, ddof=1)
        return (gains.mean(1) > halves).mean()

    assert shown(count) > 0.78
    assert shown(count - 1) < 0.82


def test_seeds_cannot_make_up_for_images():
    assert seeds_needed(spread=1e-9, gain=1.0) == 3
    assert seeds_needed(spread=100.0, gain=0.5) is None
    assert seeds_needed(1.0, 1.0, over_images=0.5) > seeds_needed(1.0, 1.0)
    assert seeds_needed(spread=0.1, gain=0.5, over_images=0.6) is None


def test_holm_corrects_as_written_in_a_loop():
    values = list(np.random.default_rng(0).uniform(0, 0.2, 9))
    expected, worst = {}, 0.0
    for place, value in enumerate(sorted(values)):
        worst = max(worst, min(1.0, value * (9 - place)))
        expected[value] = worst
    assert holm(values) == pytest.approx([expected[value] for value in values])


def test_the_p_value_is_that_of_the_paired_t_test():
    from scipy.stats import ttest_rel

    method, reference = [32.0, 34.5, 33.0, 31.0], [30.0, 31.0, 32.0, 30.5]
    found = paired_difference(method, reference)
    assert found.p_value == pytest.approx(ttest_rel(method, reference).pvalue, rel=1e-4)
    wide = Difference(found.mean, found.spread, 4, found.over_seeds, Interval(-1.0, 5.0))
    assert wide.p_value > found.p_value
    assert (wide.p_value < 0.05) == (wide.interval.low > 0)


def test_groups_are_drawn_whole():
    method, reference = made_up_sets(np.random.default_rng(1), images=6, gain=0.1, seeds=2)
    groups = list("aabbcc")
    sets = method, reference
    together = [Pixels(*(n.reshape(2, 3, 2, 3).sum(2) for n in each)) for each in sets]
    np.testing.assert_allclose(
        bootstrap_differences(method, reference, groups=groups), bootstrap_differences(*together)
    )
