"""Sums of losses, and published ones by name."""

import pytest
import torch
import torch.nn.functional as F

from fakd.covariance import ClassCovariance, LogitStatistics
from fakd.losses import ChannelKL, PixelKL, WeightedSum, channel_kl, pixel_kl
from fakd.types import LossInputs, Prediction


def inputs(statistics=None):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 3, 4, 5, generator=generator)
    weight = torch.randn(4, 3, 1, 1, generator=generator)
    teacher = torch.randn(2, 4, 4, 5, generator=generator)
    labels = torch.randint(4, (2, 4, 5), generator=generator)
    if statistics:
        covariance = ClassCovariance(4, 3, statistics)
        covariance.update(features, labels)
        statistics = LogitStatistics(covariance, weight, labels)
    student = Prediction(F.conv2d(features, weight), features)
    return LossInputs(student, Prediction(teacher), labels, statistics, 1.0)


def test_the_sum_is_what_its_parts_give_by_hand():
    seen = inputs()
    both = WeightedSum({"pixels": PixelKL(weight=3.0), "maps": ChannelKL(2.0)})
    maps = 5.0 * channel_kl(seen.student.logits, seen.teacher.logits, 2.0)
    pixels = 3.0 * pixel_kl(seen.student.logits, seen.teacher.logits)
    terms = both.terms(seen)
    assert list(terms) == ["pixels", "maps"]
    torch.testing.assert_close(terms["pixels"], pixels)
    torch.testing.assert_close(terms["maps"], maps)
    torch.testing.assert_close(both(seen), maps + pixels)


def test_a_part_that_has_faded_is_not_computed():
    class Once(PixelKL):
        def forward(self, inputs):
            raise AssertionError

        after_step = measures = forward

    seen = inputs()
    faded = Once(weight={"from": 1.0, "to": 0.0, "schedule": "linear", "start": 0.0, "end": 0.5})
    both = WeightedSum({"faded": faded, "maps": ChannelKL()})
    terms = both.terms(seen)
    assert list(terms) == ["faded", "maps"]
    assert terms["faded"] == 0
    assert both(seen) == ChannelKL().weight * ChannelKL()(seen)
    assert both.after_step(seen) == {}
    assert both.measures(seen) == {}


def test_parts_share_the_statistics_of_feature_augmentation():
    both = WeightedSum({"pixels": PixelKL(strength=1.0), "maps": ChannelKL(), "more": ChannelKL()})
    assert (both.covariance, both.momentum) == ("diagonal", None)
    seen = inputs("diagonal")
    measured = {"lambda", "augmentation", "margin_share"}
    assert set(both.measures(seen)) == {f"pixels/{name}" for name in measured}
    assert both.terms(seen)["pixels"] > PixelKL()(seen)


def test_parts_that_cannot_share_statistics_are_refused():
    with pytest.raises(ValueError, match="same covariance and momentum"):
        WeightedSum({"a": PixelKL(strength=1.0), "b": ChannelKL(strength=1.0, covariance="full")})


@pytest.mark.parametrize(
    ("losses", "reason"),
    [
        ({}, "at least one"),
        ({"task": PixelKL()}, "other than task"),
        ({"a.b": PixelKL()}, "without a dot"),
        ({"val/a": PixelKL()}, "without a dot or slash"),
        ({"learning_rate": PixelKL()}, "other than .*learning_rate"),
    ],
)
def test_wrong_names_are_refused(losses, reason):
    with pytest.raises(ValueError, match=reason):
        WeightedSum(losses)


def test_a_sum_of_sums_weighs_each_loss_once():
    seen = inputs()
    inner = WeightedSum({"pixels": PixelKL(weight=3.0)})
    outer = WeightedSum({"inner": inner, "maps": ChannelKL()})
    expected = 3.0 * pixel_kl(seen.student.logits, seen.teacher.logits) + 5.0 * channel_kl(
        seen.student.logits, seen.teacher.logits
    )
    torch.testing.assert_close(outer(seen), expected)
