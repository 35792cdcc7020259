import pytest
import torch
from torch import nn

from fakd.errors import InputError
from fakd.losses import PairwiseSimilarity
from fakd.losses.alignment import Alignment, aligned_features, check_channels, feature_channels
from fakd.types import LossInputs, Prediction
from stand_ins import Shown


def drawn(shape=(2, 3, 4, 5)):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("kind", ["conv", "conv-bias"])
def test_a_convolution_maps_each_pixel_alone(kind):
    torch.manual_seed(0)
    align, features = Alignment(3, 6, kind).double(), drawn()
    weight, *bias = align.parameters()
    assert len(bias) == (kind == "conv-bias")
    mapped = align(features)
    for n, i, j in [(0, 0, 0), (1, 3, 4)]:
        expected = weight[:, :, 0, 0] @ features[n, :, i, j] + (bias[0] if bias else 0)
        torch.testing.assert_close(mapped[n, :, i, j], expected)


def test_batch_norm_and_two_relus_are_batch_norm_and_one():
    torch.manual_seed(0)
    align, features = Alignment(3, 6, "conv-bn-relu").double(), drawn()
    assert [name for name, _ in align.named_parameters()] == [
        "layers.0.weight",
        "layers.1.weight",
        "layers.1.bias",
    ]
    mapped = features.movedim(1, -1) @ next(align.parameters())[:, :, 0, 0].T
    mean, variance = mapped.mean((0, 1, 2)), mapped.var((0, 1, 2), correction=0)
    normal = ((mapped - mean) / (variance + 1e-5).sqrt()).movedim(-1, 1)
    expected = nn.functional.relu(nn.functional.leaky_relu(normal, 0.01))
    torch.testing.assert_close(align(features), expected)


def test_nothing_is_trained_where_nothing_is_asked_for():
    align, features = Alignment(3, 3, "none"), drawn()
    assert align(features) is features
    assert not align.state_dict()


def test_channels_that_cannot_be_compared_are_refused():
    with pytest.raises(InputError, match="got 3 and 6; choose alignment 'conv'"):
        Alignment(3, 6, "none")
    with pytest.raises(ValueError, match=r"teacher's 6 channels, got 3; pass Alignment\(3, 6\)"):
        check_channels(torch.zeros(1, 3, 1, 1), torch.zeros(1, 6, 1, 1))


def test_it_starts_the_same_from_the_same_seed_and_survives_a_checkpoint():
    torch.manual_seed(1)
    first = Alignment(3, 6, "conv-bn-relu")
    torch.manual_seed(1)
    again = Alignment(3, 6, "conv-bn-relu")
    for ours, theirs in zip(first.parameters(), again.parameters(), strict=True):
        assert ours.equal(theirs)
    first(drawn().float())
    other = Alignment(3, 6, "conv-bn-relu")
    other.load_state_dict(first.state_dict())
    features = drawn().float()
    assert first.eval()(features).equal(other.eval()(features))


@pytest.mark.parametrize("kind", ["conv", "conv-bias", "conv-bn-relu"])
def test_it_runs_in_float32_under_autocast(kind):
    torch.manual_seed(0)
    align, features = Alignment(3, 6, kind), drawn().bfloat16()
    expected = align(features.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert align(features).equal(expected)
    assert expected.dtype == torch.float32


def test_it_is_built_between_the_features_of_two_networks():
    loss = PairwiseSimilarity()
    align = Alignment(*feature_channels(loss, Shown(3), Shown(6)))
    assert [tuple(weight.shape) for weight in align.parameters()] == [(6, 3, 1, 1)]
    for find in (feature_channels, type(loss).prepare):
        with pytest.raises(InputError, match=r"PairwiseSimilarity compares .*this teacher shows"):
            find(loss, Shown(3), Shown(None))
        with pytest.raises(InputError, match="this student shows only"):
            find(loss, Shown(None), Shown(6))


def test_features_are_aligned_and_their_absence_is_explained():
    logits, labels = torch.zeros(2, 2, 4, 5), torch.zeros(2, 4, 5, dtype=torch.int64)
    teacher = Prediction(logits, torch.ones(2, 6, 4, 5))
    inputs = LossInputs(Prediction(logits, drawn().float()), teacher, labels)
    align = Alignment(3, 6)
    aligned, unchanged = aligned_features(inputs, align)
    assert aligned.equal(align(drawn().float()))
    assert unchanged is teacher.features
    with pytest.raises(ValueError, match=r"call loss.prepare\(student, teacher\) first"):
        aligned_features(inputs, None)
    with pytest.raises(ValueError, match="expected the student's features, got None"):
        aligned_features(LossInputs(Prediction(logits), teacher, labels), align)
