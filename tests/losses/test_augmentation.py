"""The closed forms against the expectation that they bound, by sampling feature augmentations."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fakd.covariance import ClassCovariance, LogitStatistics
from fakd.losses import ChannelKL, PixelKL, channel_kl, half_cosine, pixel_kl, tilted_bound
from fakd.losses.margin import margin_counts, median_of
from fakd.types import IGNORE, LossInputs, Prediction
from references import (
    IGNORED,
    loop_logit_variance,
    loop_relative_strength,
    sampled_loss,
    tilted_partition,
)

CLASSES, CHANNELS = 5, 8
FORMS = [
    pytest.param(partial(PixelKL, bound=bound), pixel_kl, id=f"pixel-{bound}")
    for bound in ("marginal", "difference", "tilted")
] + [pytest.param(ChannelKL, channel_kl, id="channel")]


def scene(kind="full", window=1, seed=0, scale=0.5):
    """A student with class statistics, a teacher and labels of which some are ignored."""
    generator = torch.Generator().manual_seed(seed)
    draw = partial(torch.randn, generator=generator, dtype=torch.float64)
    labels = torch.randint(CLASSES, (1, 5, 6), generator=generator)
    labels[0, 0] = IGNORED
    root = draw(CLASSES, CHANNELS, CHANNELS) * 0.5
    covariance = ClassCovariance(CLASSES, CHANNELS, kind=kind).double()
    full = root @ root.mT
    covariance.value = full if kind == "full" else full.diagonal(dim1=1, dim2=2).clone()
    features = draw(1, CHANNELS, 5, 6)
    weight = draw(CLASSES, CHANNELS, window, window) * scale / window
    teacher = draw(1, CLASSES, 5, 6) * 2
    return features, weight, teacher, LogitStatistics(covariance, weight, labels)


def inputs_for(features, weight, teacher, statistics, progress=1.0):
    logits = F.conv2d(features, weight, padding="same")
    student = Prediction(logits, features)
    return LossInputs(student, Prediction(teacher), statistics.labels, statistics, progress)


def expectation(plain, temperature, strength, features, weight, teacher, statistics, pairs=400):
    value = statistics.covariance.value
    return sampled_loss(
        partial(plain, teacher_logits=teacher, temperature=temperature),
        partial(F.conv2d, weight=weight, padding="same"),
        features,
        statistics.labels,
        strength * (value if value.ndim == 3 else torch.diag_embed(value)),
        pairs,
    )


@pytest.mark.parametrize(("loss", "plain"), FORMS)
@pytest.mark.parametrize("kind", ["diagonal", "full"])
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_bound_is_never_below_the_mean_over_augmentations(loss, plain, kind, temperature):
    for strength in (0.3, 2.0):
        case = scene(kind)
        bound = loss(temperature=temperature, strength=strength, covariance=kind)
        value = bound(inputs_for(*case)).item()
        mean, error = expectation(plain, temperature, strength, *case)
        without = plain(F.conv2d(*case[:2]), case[2], temperature).item()
        assert mean - 4 * error > without
        assert mean - 3 * error < value < mean + 6 * (mean - without)


@pytest.mark.parametrize(("loss", "plain"), [(PixelKL, pixel_kl), (ChannelKL, channel_kl)])
@pytest.mark.parametrize("kind", ["diagonal", "full"])
def test_bound_holds_for_a_classifier_with_a_window(loss, plain, kind):
    case = scene(kind, window=3)
    value = loss(strength=1.0, covariance=kind)(inputs_for(*case)).item()
    mean, error = expectation(plain, 1.0, 1.0, *case)
    without = plain(F.conv2d(*case[:2], padding="same"), case[2]).item()
    assert mean - 4 * error > without
    assert mean - 3 * error < value < mean + 3 * (mean - without)


@pytest.mark.parametrize(("loss", "plain"), FORMS)
def test_bound_holds_where_classes_are_weighed(loss, plain):
    weights, case = [0.2, 3.0, 0.0, 1.0, 6.0], scene()
    inputs = inputs_for(*case)
    inputs = replace(inputs, labels=inputs.labels.masked_fill(inputs.labels == IGNORED, IGNORE))
    weighed = loss(strength=1.0, covariance="full", class_weights=weights).double()
    each = {"class_weights": weighed.class_weights}
    if plain is pixel_kl:
        each = {"pixel_weights": weighed._pixel_weights(inputs)}
    plain = partial(plain, **each)
    mean, error = expectation(plain, 1.0, 1.0, *case)
    without = plain(F.conv2d(*case[:2]), case[2]).item()
    assert mean - 4 * error > without
    assert mean - 3 * error < weighed(inputs).item() < mean + 6 * (mean - without)


@pytest.mark.parametrize(("loss", "plain"), FORMS)
def test_bound_approaches_the_expectation_as_the_strength_falls(loss, plain):
    case = scene()
    gaps = []
    for strength in (1.0, 0.1, 0.005):
        value = loss(strength=strength, covariance="full")(inputs_for(*case)).item()
        mean, _ = expectation(plain, 1.0, strength, *case)
        gaps.append(abs(value - mean) / mean)
    assert gaps[2] < 0.01
    assert gaps[0] > 3 * gaps[1] > 9 * gaps[2]


@pytest.mark.parametrize(("loss", "plain"), FORMS)
def test_without_strength_or_progress_it_is_the_plain_loss(loss, plain):
    case = scene()
    expected = plain(F.conv2d(*case[:2]), case[2], 2.0).item()
    early = loss(temperature=2.0, strength=1.0)
    assert early(inputs_for(*case, progress=0.0)).item() == pytest.approx(expected, abs=1e-12)
    off = type(early)(temperature=2.0)
    assert off.covariance is None
    assert off.measures(inputs_for(*case)) == {}
    assert off(inputs_for(*case)).item() == expected


@pytest.mark.parametrize("loss", [PixelKL, ChannelKL])
@pytest.mark.parametrize(
    "setting", [{"covariance": "full"}, {"momentum": 0.9}, {"spare_own_class": True}]
)
def test_settings_of_an_augmentation_without_strength_are_refused(loss, setting):
    with pytest.raises(ValueError, match=f"expected strength above 0 with {next(iter(setting))}"):
        loss(**setting)
    loss(strength=0.1, **setting)


def test_a_bound_without_strength_is_refused():
    with pytest.raises(ValueError, match="with spare_own_class, bound, which configure"):
        PixelKL(bound="tilted", spare_own_class=True)


@pytest.mark.parametrize(
    ("scale", "pixel", "channel"),
    [
        (
            0.1,
            {"mean": 0.130, "marginal": 0.161, "difference": 0.290, "tilted": 0.134},
            {"mean": 0.159, "marginal": 0.160},
        ),
        (
            0.3,
            {"mean": 0.720, "marginal": 1.394, "difference": 2.636, "tilted": 0.970},
            {"mean": 1.079, "marginal": 1.380},
        ),
    ],
)
def test_reproduces_the_measured_table(scale, pixel, channel):
    # What augmentation adds to PD and CWD at 11 classes, 64 channels, 200 pixels, variances uniform
    # in (0, 1), from the project's own first measurement (docs/method.md); its seed is not known.
    generator = torch.Generator().manual_seed(0)
    draw = partial(torch.randn, generator=generator, dtype=torch.float64)
    covariance = ClassCovariance(11, 64).double()
    covariance.value = torch.rand(11, 64, generator=generator, dtype=torch.float64)
    weight, features, teacher = draw(11, 64, 1, 1) * scale, draw(1, 64, 10, 20), draw(1, 11, 10, 20)
    labels = torch.randint(11, (1, 10, 20), generator=generator)
    case = features, weight, teacher * 2, LogitStatistics(covariance, weight, labels)
    without = pixel_kl(F.conv2d(features, weight), teacher * 2).item()
    added = {"mean": expectation(pixel_kl, 1.0, 1.0, *case, pairs=100)[0] - without}
    for bound in ("marginal", "difference", "tilted"):
        added[bound] = PixelKL(strength=1.0, bound=bound)(inputs_for(*case)).item() - without
    assert added["mean"] < added["tilted"] < added["marginal"] < added["difference"]
    assert added == pytest.approx(pixel, rel=0.15)
    without = channel_kl(F.conv2d(features, weight), teacher * 2).item()
    added = {
        "mean": expectation(channel_kl, 1.0, 1.0, *case, pairs=100)[0] - without,
        "marginal": ChannelKL(strength=1.0)(inputs_for(*case)).item() - without,
    }
    assert added["mean"] < added["marginal"]
    assert added == pytest.approx(channel, rel=0.15)


def test_tilted_bound_is_the_best_of_its_candidates():
    features, weight, teacher, statistics = scene(scale=1.5)
    logits = F.conv2d(features, weight)
    target, joint = teacher.softmax(1), statistics.covariances()
    bound = tilted_bound(logits, target, joint, statistics.rows)
    marginal = (logits + statistics.variance() / 2).logsumexp(1) - (target * logits).sum(1)
    chosen = {"marginal": 0, "tilted": 0}
    for i, j in [(1, 2), (2, 3), (3, 1), (4, 5), (4, 0), (1, 4), (2, 0), (3, 3)]:
        z, noise = logits[0, :, i, j], joint[statistics.labels[0, i, j]]
        tilt, candidates = z.softmax(0), []
        for _ in range(3):
            candidates.append(tilted_partition(z, noise, tilt))
            tilt = (z + noise.diagonal() / 2 - noise @ tilt).softmax(0)
        candidates.append(tilted_partition(z, noise, torch.zeros_like(z)))
        chosen["marginal" if candidates[3] == min(candidates) else "tilted"] += 1
        expected = min(candidates) - float(target[0, :, i, j] @ z)
        assert bound[0, i, j].item() == pytest.approx(expected, abs=1e-10)
    assert (bound <= marginal + 1e-12).all()
    assert bound[0, 0].equal(marginal[0, 0])
    assert min(chosen.values()) > 0, "the case must exercise both"


def test_the_gradient_of_the_tilted_bound_is_exact_at_its_fixed_point():
    # The best tilt is a minimum: moving it changes nothing to first order, so taking it as given,
    # as the code does, must agree with finite differences once the iteration has converged.
    features, weight, teacher, statistics = scene(scale=0.1)
    logits, joint = F.conv2d(features, weight).requires_grad_(), statistics.covariances()
    bound = partial(tilted_bound, class_rows=statistics.rows, steps=40)

    def value(logits, joint):
        return bound(logits, teacher.softmax(1), (joint + joint.mT) / 2)

    inputs = logits, joint.detach().requires_grad_()
    assert torch.autograd.gradcheck(value, inputs, fast_mode=True)


@pytest.mark.parametrize("loss", [PixelKL, ChannelKL])
def test_sparing_the_own_class_lies_between_plain_and_augmented(loss):
    case = scene()
    plain = loss()(inputs_for(*case))
    spared = loss(strength=1.0, covariance="full", spare_own_class=True)(inputs_for(*case))
    augmented = loss(strength=1.0, covariance="full")(inputs_for(*case))
    assert plain < spared < augmented


def test_the_ramp_is_half_a_cosine():
    assert [half_cosine(p) for p in (0.0, 0.5, 1.0)] == pytest.approx([0, 0.5, 1])
    assert half_cosine(1 / 3) == pytest.approx(0.25)
    assert half_cosine(0.75) == pytest.approx(0.8535533905932737)  # (2 + sqrt 2) / 4


@pytest.mark.parametrize("loss", [PixelKL, ChannelKL])
@pytest.mark.parametrize("window", [1, 3])
def test_measures_tell_how_strong_the_augmentation_is(loss, window):
    case = scene(window=window)
    measures = loss(temperature=2.0, strength=0.8, covariance="full").measures(
        inputs_for(*case, progress=0.5)
    )
    assert measures.keys() == {"lambda", "augmentation", "margin_share"}
    assert measures["lambda"].item() == pytest.approx(0.4)
    labelled = case[3].variance().movedim(1, -1)[case[3].labels != IGNORED]
    expected = 0.4 * labelled.mean().item() / 8
    assert measures["augmentation"].item() == pytest.approx(expected)
    logits = inputs_for(*case).student.logits
    largest = logits.movedim(1, -1)[case[3].labels != IGNORED].topk(2).values
    margin = np.median((largest[:, 0] - largest[:, 1]).numpy()) / 2
    assert measures["margin_share"].item() == pytest.approx(expected / margin, rel=0.02)


@pytest.mark.parametrize(("loss", "plain"), FORMS)
def test_a_batch_without_labels_is_the_plain_loss(loss, plain):
    features, weight, teacher, statistics = scene()
    nothing = torch.full_like(statistics.labels, IGNORED)
    inputs = inputs_for(
        features, weight, teacher, LogitStatistics(statistics.covariance, weight, nothing)
    )
    augmented = loss(strength=1.0, covariance="full")
    expected = plain(F.conv2d(features, weight), teacher).item()
    assert augmented(inputs).item() == pytest.approx(expected, abs=1e-12)
    assert augmented.measures(inputs)["augmentation"].item() == 0


@pytest.mark.parametrize(("loss", "plain"), FORMS)
def test_a_loss_with_strength_asks_for_statistics(loss, plain):
    student = Prediction(torch.zeros(1, 2, 1, 1))
    inputs = LossInputs(student, student, torch.zeros(1, 1, 1, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"expects inputs\.statistics, got None"):
        loss(strength=1.0)(inputs)


def relative(case):
    """The same, with the counts and the median margin of its own pixels as the only ones seen."""
    features, weight, teacher, statistics = case
    labels = statistics.labels
    own = labels[labels != IGNORED]
    statistics.covariance.count = own.bincount(minlength=CLASSES)
    logits = F.conv2d(features, weight, padding="same")
    margin = median_of(margin_counts(logits, labels != IGNORED))
    return features, weight, teacher, replace(statistics, margin=margin)


@pytest.mark.parametrize(("loss", "plain"), FORMS)
@pytest.mark.parametrize("kind", ["diagonal", "full"])
def test_a_relative_strength_is_the_lambda_that_loops_find_and_bounds_its_mean(loss, plain, kind):
    case = relative(scene(kind))
    features, weight, _, statistics = case
    value, known = statistics.covariance.value, statistics.labels
    full = value if kind == "full" else torch.diag_embed(value)
    variance = loop_logit_variance(weight[..., 0, 0], full, known)
    found = loss(temperature=2.0, strength=0.3, covariance=kind, strength_unit="margin")
    inputs = inputs_for(*case, progress=0.75)
    ramp = half_cosine(0.75)
    expected = loop_relative_strength(inputs.student.logits, known, variance, 2.0, 0.3 * ramp)
    measures = found.measures(inputs)
    assert measures["lambda"].item() == pytest.approx(expected, rel=0.02)
    assert measures["margin_share"].item() == pytest.approx(0.3 * ramp, rel=1e-6)
    mean, error = expectation(plain, 2.0, measures["lambda"].item(), *case)
    without = plain(F.conv2d(features, weight), case[2], 2.0).item()
    assert mean - 4 * error > without
    assert mean - 3 * error < found(inputs).item() < mean + 6 * (mean - without)


@pytest.mark.parametrize("loss", [PixelKL, ChannelKL])
@pytest.mark.parametrize("spared", [False, True])
@pytest.mark.parametrize(("kind", "window"), [("full", 1), ("full", 3), ("logits", 1)])
def test_a_relative_strength_is_the_share_that_was_asked_for(loss, spared, kind, window):
    features, weight, teacher, statistics = scene(window=window)
    if kind == "logits":
        covariance = ClassCovariance(CLASSES, CLASSES, kind=kind).double()
        covariance.value = torch.rand(CLASSES, CLASSES, dtype=torch.float64)
        statistics = replace(statistics, covariance=covariance)
    case = relative((features, weight, teacher, statistics))
    setting = {"covariance": kind, "spare_own_class": spared, "strength_unit": "margin"}
    share = loss(strength=0.2, temperature=3.0, **setting).measures(inputs_for(*case))
    # Of a window, what stands at the image's border has fewer taps.
    assert share["margin_share"].item() == pytest.approx(0.2, rel=1e-6 if window == 1 else 0.5)


@pytest.mark.parametrize("loss", [PixelKL, ChannelKL])
def test_a_relative_strength_forgives_a_classifier_that_shrinks(loss):
    """Its lambda grows as variance and margin shrink together; the paper's unit fades away."""
    shares = {}
    for unit in ("lambda", "margin"):
        for scale in (0.5, 0.05):
            augmented = loss(strength=0.2, covariance="full", strength_unit=unit)
            measures = augmented.measures(inputs_for(*relative(scene(scale=scale))))
            shares[unit, scale] = measures["margin_share"].item()
    assert shares["margin", 0.05] == pytest.approx(shares["margin", 0.5], rel=1e-6)
    assert shares["lambda", 0.05] == pytest.approx(shares["lambda", 0.5] / 10, rel=0.05)


@pytest.mark.parametrize(("loss", "plain"), FORMS)
def test_without_variance_or_margin_a_relative_strength_is_the_plain_loss(loss, plain):
    features, weight, teacher, statistics = scene()
    weight = torch.zeros_like(weight).requires_grad_()
    case = relative((features, weight, teacher, replace(statistics, weight=weight)))
    augmented = loss(strength=0.5, covariance="full", strength_unit="margin")
    for margin in (0.0, 1.0):
        given = replace(case[3], margin=torch.tensor(margin, dtype=torch.float64))
        value = augmented(inputs_for(*case[:3], given))
        assert value.item() == pytest.approx(plain(F.conv2d(features, weight), teacher).item())
        gradient = torch.autograd.grad(value, weight)[0]
        assert gradient.isfinite().all()
        assert augmented.measures(inputs_for(*case[:3], given))["lambda"] == 0


@pytest.mark.parametrize("loss", [form.values[0] for form in FORMS])
def test_the_gradient_takes_a_relative_strength_as_given(loss):
    features, weight, teacher, statistics = relative(scene())
    weight.requires_grad_()
    case = features, weight, teacher, replace(statistics, weight=weight)
    augmented = loss(strength=0.3, covariance="full", strength_unit="margin")
    current = augmented.measures(inputs_for(*case))["lambda"].item()
    fixed = loss(strength=current, covariance="full")
    values = [each(inputs_for(*case)) for each in (augmented, fixed)]
    gradients = [torch.autograd.grad(value, weight)[0] for value in values]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("loss", [form.values[0] for form in FORMS])
def test_the_variance_may_be_kept_from_changing_the_classifier(loss):
    features, weight, teacher, statistics = scene()
    weight.requires_grad_()
    own = replace(statistics, weight=weight)
    apart = replace(statistics, weight=weight.detach().clone())
    free, kept = (
        loss(strength=1.0, covariance="full", classifier_gradient=each) for each in (True, False)
    )
    values = [
        free(inputs_for(features, weight, teacher, own)),
        kept(inputs_for(features, weight, teacher, own)),
        free(inputs_for(features, weight, teacher, apart)),
    ]
    torch.testing.assert_close(values[0], values[1])
    both, without, expected = (torch.autograd.grad(value, weight)[0] for value in values)
    torch.testing.assert_close(without, expected)
    assert (both - without).abs().max() > 0.01 * both.abs().max()


@pytest.mark.parametrize("loss", [PixelKL, ChannelKL])
def test_settings_of_a_strength_that_would_do_nothing_are_refused(loss):
    for setting in ({"strength_unit": "margin"}, {"classifier_gradient": False}):
        with pytest.raises(ValueError, match=f"strength above 0 with {next(iter(setting))}"):
            loss(**setting)
    with pytest.raises(ValueError, match="classifier_gradient=False has no effect"):
        loss(strength=1.0, covariance="logits", classifier_gradient=False)
    with pytest.raises(ValueError, match="expects the running median margin"):
        loss(strength=1.0, strength_unit="margin")(inputs_for(*scene()))
