import math
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from fakd import covariance as module
from fakd.covariance import ClassCovariance, LogitStatistics, Moments, class_moments, merge
from forked import together
from references import IGNORED, class_statistics, loop_logit_variance, update_in_process

KINDS = ["diagonal", "full"]


def drawn(classes=4, channels=6, batch=3, size=5, seed=0, dtype=torch.float64):
    """Features that covary within their class, and labels of which a fifth are ignored."""
    generator = torch.Generator().manual_seed(seed)
    draw = partial(torch.randn, generator=generator, dtype=dtype)
    labels = torch.randint(classes, (batch, size, size), generator=generator)
    mixing = draw(classes, channels, channels)
    features = (mixing[labels] @ draw(batch, size, size, channels, 1))[..., 0] + labels[..., None]
    labels[torch.rand(labels.shape, generator=generator) < 0.2] = IGNORED
    return features.permute(0, 3, 1, 2), labels


def fitted(kind, classes=4, channels=6, **options):
    covariance = ClassCovariance(classes, channels, kind=kind, **options).double()
    covariance.update(*drawn(classes, channels))
    return covariance


def expected_value(kind, covariance):
    return covariance if kind == "full" else np.diagonal(covariance, axis1=1, axis2=2)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1, 2, 9])
def test_batch_moments_equal_numpy(kind, size):
    features, labels = drawn(size=size)
    moments = class_moments(features, labels, 4, full=kind == "full")
    count, mean, covariance = class_statistics(features, labels, 4)
    np.testing.assert_array_equal(moments.count, count)
    np.testing.assert_allclose(moments.mean, mean, atol=1e-12)
    np.testing.assert_allclose(moments.covariance, expected_value(kind, covariance), atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_thousand_updates_equal_one_pass_over_everything(kind):
    generator = torch.Generator().manual_seed(1)
    covariance = ClassCovariance(5, 4, kind=kind)
    seen_features, seen_labels = [], []
    for step in range(1000):
        # Class 3 is rare, class 4 never comes, and the means lie far from zero.
        labels = torch.randint(3, (2, 4, 4), generator=generator)
        if step % 100 == 7:
            labels[0, 0, 0] = 3
        labels[torch.rand(labels.shape, generator=generator) < 0.2] = IGNORED
        features = torch.randn(2, 4, 4, 4, generator=generator) * (1 + step / 500) + 3
        covariance.update(features, labels)
        seen_features.append(features)
        seen_labels.append(labels)
    count, mean, value = class_statistics(torch.cat(seen_features), torch.cat(seen_labels), 5)
    value = expected_value(kind, value)
    assert count[3] > 5
    np.testing.assert_array_equal(covariance.count, count)
    np.testing.assert_allclose(covariance.mean, mean, rtol=1e-5)
    np.testing.assert_allclose(covariance.value, value, rtol=1e-5, atol=1e-5 * value.max())
    assert covariance.value[4].eq(0).all()


def test_features_far_from_zero_keep_their_variance():
    features, labels = drawn(dtype=torch.float32)
    near = class_moments(features, labels, 4).covariance
    far = class_moments(features + 1000, labels, 4).covariance
    torch.testing.assert_close(far, near, rtol=2e-3, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_absent_classes_and_all_ignored_batches_change_nothing(kind):
    covariance = fitted(kind)
    before = {name: value.clone() for name, value in covariance.state_dict().items()}
    features, labels = drawn(seed=1)
    labels[labels == 2] = IGNORED
    covariance.update(features, labels)
    for name, value in covariance.state_dict().items():
        assert value[2].equal(before[name][2])
        assert not value[1].equal(before[name][1])
    before = {name: value.clone() for name, value in covariance.state_dict().items()}
    covariance.update(features, torch.full_like(labels, IGNORED))
    assert all(value.equal(before[name]) for name, value in covariance.state_dict().items())


def test_counts_stay_exact_beyond_what_float32_can_hold():
    covariance = ClassCovariance(2, 3)
    covariance.count += 2**24
    covariance.update(torch.randn(1, 3, 1, 1), torch.zeros(1, 1, 1, dtype=torch.int64))
    assert covariance.count.tolist() == [2**24 + 1, 2**24]


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=4),
    seed=st.integers(0, 2**16),
    full=st.booleans(),
)
def test_merging_equals_seeing_all_at_once(counts, seed, full):
    generator = torch.Generator().manual_seed(seed)
    moments = partial(class_moments, classes=len(counts), full=full)
    parts = []
    for side in range(2):
        labels = [y for y, pair in enumerate(counts) for _ in range(pair[side])] or [IGNORED]
        features = torch.randn(1, 3, 1, len(labels), generator=generator, dtype=torch.float64)
        parts.append((features + 5 * side, torch.tensor(labels)[None, None]))
    merged = merge(moments(*parts[0]), moments(*parts[1]))
    together = moments(*(torch.cat(pair, dim=-1) for pair in zip(*parts, strict=True)))
    torch.testing.assert_close(merged.count, together.count)
    torch.testing.assert_close(merged.mean, together.mean)
    torch.testing.assert_close(merged.covariance, together.covariance)


def test_merge_reproduces_a_case_worked_out_by_hand():
    # {1, 3} and {8}: means 2 and 8, variances 1 and 0; {1, 3, 8}: mean 4, variance 26 / 3.
    sides = [(2, 2.0, 1.0), (1, 8.0, 0.0)]
    merged = merge(
        *(
            Moments(torch.tensor([n]), torch.tensor([[mean]]), torch.tensor([[value]]))
            for n, mean, value in sides
        )
    )
    assert merged.count.item() == 3
    assert merged.mean.item() == pytest.approx(4)
    assert merged.covariance.item() == pytest.approx(26 / 3)


def test_momentum_is_an_exponential_window_over_the_batches_that_hold_the_class():
    covariance = ClassCovariance(2, 1, momentum=0.5).double()
    for values, label in [([0.0, 4.0], 0), ([7.0, 7.0], 1), ([10.0, 10.0], 0)]:
        features = torch.tensor(values, dtype=torch.float64).view(1, 1, 1, 2)
        covariance.update(features, torch.full((1, 1, 2), label))
    weights, values = np.array([0.5, 0.5, 1, 1]), np.array([0, 4, 10, 10])
    mean = np.average(values, weights=weights)
    assert covariance.count.tolist() == [4, 2]
    assert covariance.mean[0, 0].item() == pytest.approx(mean)
    assert covariance.value[0, 0].item() == pytest.approx(
        np.average((values - mean) ** 2, weights=weights)
    )
    assert covariance.value[1, 0].item() == 0


def test_two_processes_equal_one_with_the_whole_batch(tmp_path):
    features, labels = zip(*(drawn(batch=4, seed=seed) for seed in range(3)), strict=True)
    features, labels = torch.stack(features).float(), torch.stack(labels)
    labels[1, :2] = IGNORED  # one process without a single labelled pixel
    together(update_in_process, tmp_path, KINDS, features, labels)
    for kind in KINDS:
        alone = ClassCovariance(4, 6, kind=kind, momentum=0.9)
        for batch, batch_labels in zip(features, labels, strict=True):
            alone.update(batch, batch_labels)
        for rank in range(2):
            state = torch.load(tmp_path / f"{kind}-{rank}.pt")
            assert state["count"].equal(alone.count)
            for name, value in alone.state_dict().items():
                torch.testing.assert_close(state[name], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("momentum", [None, 0.9])
def test_state_survives_a_round_trip(kind, momentum):
    before = fitted(kind, momentum=momentum)
    after = ClassCovariance(4, 6, kind=kind, momentum=momentum).double()
    after.load_state_dict(before.state_dict())
    for covariance in (before, after):
        covariance.update(*drawn(seed=1))
    for name, value in before.state_dict().items():
        assert value.equal(after.state_dict()[name])


@pytest.mark.parametrize("kind", KINDS)
def test_variance_equals_loops(kind):
    covariance, (_, labels) = fitted(kind), drawn(seed=2)
    weight = torch.randn(4, 6, 1, 1, dtype=torch.float64)
    variance = covariance.logit_variance(weight, labels)
    value = covariance.value if kind == "full" else torch.diag_embed(covariance.value)
    expected = loop_logit_variance(weight[:, :, 0, 0], value, labels)
    torch.testing.assert_close(variance, expected, rtol=0, atol=1e-10)
    assert variance.movedim(1, -1)[labels == IGNORED].eq(0).all()


def test_full_variance_is_the_variance_of_the_logits_over_their_class():
    features, labels = drawn()
    weight = torch.randn(4, 6, 1, 1, dtype=torch.float64)
    logits = F.conv2d(features, weight)
    own_statistics = ClassCovariance(4, 4, kind="logits").double()
    own_statistics.update(logits, labels)
    variance = fitted("full").logit_variance(weight, labels)
    torch.testing.assert_close(variance, own_statistics.logit_variance(None, labels))
    first = logits.movedim(1, -1)[labels == 0]
    torch.testing.assert_close(variance.movedim(1, -1)[labels == 0][0], first.var(0, correction=0))


@pytest.mark.parametrize("size", [1, 3, 5])
def test_a_window_of_k_by_k_equals_the_convolution_of_the_variance_map(size):
    covariance, (_, labels) = fitted("diagonal"), drawn(seed=2, size=7)
    weight = torch.randn(4, 6, size, size, dtype=torch.float64)
    variances = torch.cat([covariance.value, torch.zeros(252, 6, dtype=torch.float64)])[labels]
    expected = F.conv2d(variances.permute(0, 3, 1, 2), weight.square(), padding=size // 2)
    torch.testing.assert_close(covariance.logit_variance(weight, labels), expected)


def test_a_window_of_k_by_k_adds_up_the_full_covariance_of_its_taps():
    covariance, (_, labels) = fitted("full"), drawn(seed=2, size=4)
    weight = torch.randn(4, 6, 3, 3, dtype=torch.float64)
    padded = F.pad(labels, (1, 1, 1, 1), value=IGNORED)
    expected = sum(
        loop_logit_variance(weight[:, :, i, j], covariance.value, padded[:, i : i + 4, j : j + 4])
        for i in range(3)
        for j in range(3)
    )
    torch.testing.assert_close(covariance.logit_variance(weight, labels), expected)


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("kind", [*KINDS, "logits"])
def test_own_class_is_spared_and_nothing_else(kind, size):
    covariance = fitted(kind, channels=4 if kind == "logits" else 6)
    _, labels = drawn(seed=2)
    weight = torch.randn(4, covariance.channels, size, size, dtype=torch.float64)
    own = F.one_hot(labels.clamp(max=4), 5)[..., :4].movedim(-1, 1).bool()
    spared = covariance.logit_variance(weight, labels, spare_own_class=True)
    variance = covariance.logit_variance(weight, labels)
    assert variance[own].gt(0).all()
    assert spared.equal(variance.masked_fill(own, 0))


@pytest.mark.parametrize("kind", KINDS)
def test_joint_covariance_equals_its_formula(kind):
    covariance = fitted(kind)
    weight = torch.randn(4, 6, 1, 1, dtype=torch.float64)
    value = covariance.value if kind == "full" else torch.diag_embed(covariance.value)
    expected = torch.einsum("kd,yde,ce->ykc", weight[..., 0, 0], value, weight[..., 0, 0])
    torch.testing.assert_close(covariance.logit_covariance(weight), expected)
    spared = covariance.logit_covariance(weight, spare_own_class=True)
    for y in range(4):
        expected[y, y, :] = expected[y, :, y] = 0
    torch.testing.assert_close(spared, expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1, 3])
def test_the_gradient_reaches_the_classifier_only(kind, size):
    covariance, (features, labels) = fitted(kind), drawn(seed=2)
    weight = torch.randn(4, 6, size, size, dtype=torch.float64, requires_grad=True)
    features.requires_grad_()
    covariance.update(features, labels)
    assert not any(buffer.requires_grad for buffer in covariance.buffers())
    assert torch.autograd.gradcheck(partial(covariance.logit_variance, labels=labels), weight)
    if size == 1:
        assert torch.autograd.gradcheck(covariance.logit_covariance, weight)


def test_an_update_between_forward_and_backward_does_no_harm():
    covariance, (features, labels) = fitted("full"), drawn(seed=2)
    weight = torch.randn(4, 6, 1, 1, dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(covariance.logit_variance(weight, labels).sum(), weight)
    variance = covariance.logit_variance(weight, labels)
    covariance.update(features, labels)
    variance.sum().backward()
    assert weight.grad.equal(expected)


@pytest.mark.parametrize("kind", KINDS)
def test_memory_format_autocast_and_precision_of_the_features_do_not_matter(kind):
    features, labels = drawn(dtype=torch.float32)
    features = features.bfloat16().float()
    plain, other = ClassCovariance(4, 6, kind=kind), ClassCovariance(4, 6, kind=kind)
    plain.update(features.contiguous(), labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = features.bfloat16().to(memory_format=torch.channels_last)
        other.update(half, labels.to(torch.int32))
    torch.testing.assert_close(other.value, plain.value, rtol=1e-5, atol=1e-5)
    weight = torch.randn(4, 6, 1, 1)
    expected = plain.logit_variance(weight, labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert plain.logit_variance(weight, labels).equal(expected)
    half = plain.logit_variance(weight.bfloat16(), labels)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, expected, rtol=2e-2, atol=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("last", [False, True])
def test_a_device_that_must_not_be_asked_finds_the_same(kind, last, monkeypatch):
    features, labels = drawn(classes=9, batch=4)
    labels[1], labels[2, 0] = IGNORED, 8
    weight = torch.randn(9, 6, 1, 1, dtype=torch.float64, requires_grad=True)
    if last:
        features = features.contiguous(memory_format=torch.channels_last)
    found = []
    for free in (True, False):
        monkeypatch.setattr("fakd.membership.is_on_host", lambda values, free=free: free)
        covariance = ClassCovariance(9, 6, kind=kind).double()
        covariance.update(features, labels)
        variance = covariance.logit_variance(weight, labels)
        (gradient,) = torch.autograd.grad(variance.square().sum(), weight)
        found.append([*covariance.buffers(), variance, gradient])
        assert variance.is_contiguous()
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("last", [False, True])
def test_channels_taken_some_at_a_time_make_the_same_moments(last, monkeypatch):
    layout = torch.channels_last if last else torch.contiguous_format
    features = torch.randn(3, 7, 5, 6).contiguous(memory_format=layout) + 3
    labels = torch.randint(4, (3, 5, 6))
    whole = class_moments(features, labels, 4)
    seen, centred = [], module._centre

    def watched(pixels, *others):
        seen.append(pixels.shape[1])
        return centred(pixels, *others)

    monkeypatch.setattr(module, "_CACHED", 60)
    monkeypatch.setattr(module, "_centre", watched)
    parts = class_moments(features, labels, 4)
    assert seen == 3 * [2, 2, 2, 1]
    assert torch.equal(parts.count, whole.count)
    torch.testing.assert_close(parts.mean, whole.mean)
    torch.testing.assert_close(parts.covariance, whole.covariance)


def test_the_features_are_read_image_by_image():
    """No temporary is as large as the features, which in 16 bits are not copied whole."""
    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, arguments=(), options=None):
            nonlocal largest
            made = function(*arguments, **(options or {}))
            if isinstance(made, torch.Tensor) and made.untyped_storage().data_ptr() != held:
                largest = max(largest, made.numel())
            return made

    features = torch.randn(8, 32, 10, 10).bfloat16()
    held = features.untyped_storage().data_ptr()
    covariance = ClassCovariance(3, 32)
    with Watch():
        covariance.update(features, torch.randint(3, (8, 10, 10)))
    assert largest <= features[0].numel()


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_in_a_step_waits_for_the_device(kind, monkeypatch):
    monkeypatch.setattr("fakd.membership.is_on_host", lambda values: False)
    # A fake tensor has no values: whatever asks for one, such as `.item()`, raises.
    with FakeTensorMode():
        covariance = ClassCovariance(4, 6, kind=kind, momentum=0.9)
        labels = torch.zeros(2, 5, 5, dtype=torch.int64)
        covariance.update(torch.randn(2, 6, 5, 5), labels)
        covariance.logit_variance(torch.randn(4, 6, 1, 1), labels, spare_own_class=True)
        covariance.logit_variance(torch.randn(4, 6, 3, 3), labels)
        covariance.logit_covariance(torch.randn(4, 6, 1, 1), spare_own_class=True)


def test_the_statistics_a_loss_receives_are_those_of_the_covariance():
    covariance, (features, labels) = ClassCovariance(4, 6, ignore_index=7).double(), drawn(seed=2)
    labels[labels == IGNORED] = 7
    covariance.update(features, labels)
    weight = torch.randn(4, 6, 1, 1, dtype=torch.float64)
    statistics = LogitStatistics(covariance, weight, labels)
    variance = covariance.logit_variance(weight, labels, True)
    assert statistics.variance(True).equal(variance)
    torch.testing.assert_close(statistics.variance(True, 0.3), 0.3 * variance)
    assert statistics.covariances(True).equal(covariance.logit_covariance(weight, True))
    assert statistics.rows.eq(4).equal(labels == 7)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classes": 0, "channels": 6}, "at least one class"),
        ({"classes": 4, "channels": 0}, "at least one class"),
        ({"classes": 4, "channels": 6, "kind": "logits"}, "channels must equal classes=4, got"),
        ({"classes": 4, "channels": 6, "momentum": 1.0}, "expected momentum between 0 and 1"),
        ({"classes": 4, "channels": 6, "momentum": math.nan}, "expected momentum between 0 and 1"),
    ],
)
def test_impossible_settings_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ClassCovariance(**arguments)


def test_shapes_that_do_not_fit_are_refused():
    covariance, (features, labels) = fitted("diagonal"), drawn()
    with pytest.raises(
        ValueError, match=r"expected features \[b 6 rows cols\].*got \[3, 5, 5, 5\]"
    ):
        covariance.update(features[:, :5], labels)
    for shape in [(4, 5, 1, 1), (3, 6, 1, 1), (4, 6, 2, 2)]:
        with pytest.raises(ValueError, match=r"expected a classifier weight \[4 6 k k\]"):
            covariance.logit_variance(torch.zeros(shape), labels)
    with pytest.raises(ValueError, match="got None"):
        covariance.logit_variance(None, labels)
    with pytest.raises(ValueError, match=r"1x1 classifier .*, got a classifier with 9 taps"):
        covariance.logit_covariance(torch.zeros(4, 6, 3, 3))
    with pytest.raises(ValueError, match=r"1x1 classifier .*, got kind 'logits'"):
        ClassCovariance(4, 4, kind="logits").logit_covariance(None)
    with pytest.raises(IndexError):
        covariance.logit_variance(torch.zeros(4, 6, 1, 1), torch.full((1, 2, 2), 4000))
