import pytest
import torch

from fakd.models.normalize import LITE_MEAN, LITE_STD, Normalize


def test_imagenet_is_the_default():
    images = torch.rand(2, 3, 4, 5)

    result = Normalize()(images)

    expected = (images[1, 2, 3, 4] - 0.406) / 0.225
    assert result[1, 2, 3, 4].item() == pytest.approx(expected.item(), abs=1e-6)


def test_lite_statistics_are_the_training_formula():
    images = torch.rand(1, 3, 4, 4)

    expected = (images * 255 - 127) / 128

    torch.testing.assert_close(Normalize(LITE_MEAN, LITE_STD)(images), expected)


def test_statistics_are_no_weights_but_move_with_the_module():
    normalize = Normalize()

    assert not normalize.state_dict()
    assert normalize.to(torch.float64).mean.dtype == torch.float64
