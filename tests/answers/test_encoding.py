"""Maps to bytes and back: how much is lost at most, and how small they get."""

import contextlib

import numpy as np
import pytest

from fakd.answers.encoding import Encoding


def smooth(channels=7, rows=9, cols=11, seed=0):
    dice = np.random.default_rng(seed)
    slow = np.cumsum(np.cumsum(dice.normal(size=(channels, rows, cols)), 1), 2)
    return (slow / 3).astype(np.float32)


def softmax(logits):
    powers = np.exp(logits.astype(np.float64) - logits.max(0))
    return powers / powers.sum(0)


def test_16_bits_are_read_back_as_rounded():
    values = smooth() * 100
    found = Encoding("float16").decode(Encoding("float16").encode(values), values.shape)
    np.testing.assert_array_equal(found, values.astype(np.float16).astype(np.float32))


def test_16_bits_cut_off_what_they_cannot_hold():
    values = np.full((1, 1, 2), [[[1e9, -1e9]]], np.float32)
    found = Encoding("float16").decode(Encoding("float16").encode(values), values.shape)
    np.testing.assert_array_equal(found, [[[65504, -65504]]])


def test_8_bits_are_within_half_a_step_of_each_channels_range():
    values = smooth()
    values[2] = 4.25
    found = Encoding("int8").decode(Encoding("int8").encode(values), values.shape)
    steps = (values.max((1, 2)) - values.min((1, 2))) / 255
    assert (abs(found - values).max((1, 2)) <= steps / 2 + 1e-5).all()
    np.testing.assert_array_equal(found[2], values[2])


@pytest.mark.parametrize("channels", [7, 300])
def test_the_likeliest_classes_keep_their_probability_and_the_rest_share_theirs(channels):
    values, k = smooth(channels), 3
    encoding = Encoding("topk", k)
    found = encoding.decode(encoding.encode(values), values.shape)
    wanted = softmax(values)
    for y in range(values.shape[1]):
        for x in range(values.shape[2]):
            order = np.argsort(-wanted[:, y, x])
            wanted[order[k:], y, x] = wanted[order[k:], y, x].mean()
    np.testing.assert_allclose(softmax(found), wanted, rtol=0.02, atol=1e-6)
    np.testing.assert_allclose(np.exp(found).sum(0), 1, atol=2e-3)


def test_certain_answers_stay_finite():
    values = np.full((4, 2, 2), -500, np.float32)
    values[1] = 500
    for encoding in (Encoding("float16"), Encoding("int8"), Encoding("topk", 2)):
        found = encoding.decode(encoding.encode(values), values.shape)
        assert np.isfinite(found).all()
        assert (softmax(found)[1] > 0.999).all()


def test_8_bits_need_less_than_16_and_few_classes_less_than_many():
    values = smooth(64, 32, 32)
    sizes = [len(Encoding(*each).encode(values)) for each in (("float16",), ("int8",), ("topk", 5))]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[1] < values.size


def test_bytes_of_something_else_are_refused():
    for encoding in (Encoding("float16"), Encoding("int8"), Encoding("topk", 2)):
        with pytest.raises(ValueError, match=r".+"):
            encoding.decode(b"nothing", (4, 2, 2))
        with pytest.raises(ValueError, match=r".+"):
            encoding.decode(encoding.encode(smooth(4, 3, 3)), (4, 2, 5))


@pytest.mark.parametrize("form", ["float16", "int8", "topk"])
def test_any_changed_byte_is_noticed(form):
    values = smooth(rows=3, cols=4)
    encoding, shape = Encoding(form), values.shape
    data = encoding.encode(values)
    undamaged = encoding.decode(data, shape)
    for place in range(len(data)):
        damaged = bytearray(data)
        damaged[place] ^= 0x10
        # Some bits of a frame's head say nothing about what it holds.
        with contextlib.suppress(ValueError):
            np.testing.assert_array_equal(encoding.decode(bytes(damaged), shape), undamaged)
