import numpy as np
import pytest
import torch

from fakd.losses.margin import LOWEST, WINDOW, RunningMargin, margin_counts, median_of


def seen(seed=0, scale=1.0, shape=(4, 5, 12, 16)):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(shape, generator=generator) * scale
    labelled = torch.ones(shape[0], *shape[2:], dtype=torch.bool)
    labelled[0, :7] = False
    return logits, labelled


def margins_of(logits, labelled):
    """Every labelled pixel's, in a list."""
    found = []
    for image, known in zip(logits, labelled, strict=True):
        for i, j in np.ndindex(*known.shape):
            if known[i, j]:
                second, first = sorted(image[:, i, j].tolist())[-2:]
                found.append(first - second)
    return found


@pytest.mark.parametrize("scale", [0.01, 1.0, 30.0])
def test_the_median_is_that_of_the_labelled_pixels(scale):
    logits, labelled = seen(scale=scale)
    logits[0, 0, :7] = 1e3 * scale
    expected, counts = margins_of(logits, labelled), margin_counts(logits, labelled)
    assert counts.sum() == len(expected)
    assert median_of(counts).item() == pytest.approx(np.median(expected), rel=0.01)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float64])
def test_other_kinds_of_numbers_count_too(kind):
    logits, labelled = seen()
    expected = median_of(margin_counts(logits.to(kind).float(), labelled))
    torch.testing.assert_close(median_of(margin_counts(logits.to(kind), labelled)), expected)


def test_ends_of_the_scale():
    labelled = torch.ones(1, 1, 8, dtype=torch.bool)
    logits = torch.zeros(1, 3, 1, 8)
    assert median_of(margin_counts(logits, labelled)) == 0
    logits[:, 1] = 2.0**LOWEST / 2
    assert median_of(margin_counts(logits, labelled)) == 0
    logits[:, 1] = 1e9
    assert 3900 < median_of(margin_counts(logits, labelled)) <= 4096
    logits[..., 0] = torch.nan
    assert margin_counts(logits, labelled).sum() == 8
    assert median_of(margin_counts(logits, ~labelled)) == 0
    assert median_of(margin_counts(logits[:, :1], labelled)) == 0, "one class has no second"


def test_the_past_fades_with_the_share_of_the_run_that_is_done():
    running, expected = RunningMargin(), 0
    for number, progress in enumerate((0.0, 0.01, 0.01, 0.05, 0.3)):
        batch = seen(number, scale=1 + number)
        running.update(*batch, progress)
        former = (0.0, 0.0, 0.01, 0.01, 0.05)[number]
        expected = expected * np.exp(-(progress - former) / WINDOW) + margin_counts(*batch)
    torch.testing.assert_close(running.counts, expected, check_dtype=False)
    # All but nothing is left of what is a quarter of the run ago.
    assert running.median().item() == pytest.approx(np.median(margins_of(*batch)), rel=0.01)


def test_a_longer_run_has_less_of_it_done_and_forgets_nothing():
    running = RunningMargin()
    running.update(*seen(), 0.9)
    before = running.counts
    running.update(*seen(), 0.45)
    assert torch.equal(running.counts, 2 * before)
    assert running.progress == pytest.approx(0.45)


def test_a_batch_in_parts_leaves_what_the_whole_leaves():
    whole, parts = RunningMargin(), RunningMargin()
    for number in range(3):
        logits, labelled = seen(number)
        whole.update(logits, labelled, number / 50)
        for some in ((0, 1), (1, 2), (2, 4)):
            parts.update(logits[slice(*some)], labelled[slice(*some)], number / 50)
    assert torch.equal(whole.counts, parts.counts)
    assert torch.equal(whole.median(), parts.median())


def test_what_is_saved_goes_on_the_same():
    first, second = RunningMargin(), RunningMargin()
    first.update(*seen(), 0.3)
    second.load_state_dict(first.state_dict())
    for running in (first, second):
        running.update(*seen(1, 5.0), 0.31)
    assert torch.equal(first.counts, second.counts)
    assert first.median() > 0
