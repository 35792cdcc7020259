import pytest
import torch
import torch.nn.functional as F

from fakd.errors import InputError
from fakd.inference import Inference, predict_logits, score
from fakd.types import Prediction, Segmenter


class Colours(Segmenter):
    """Names the strongest colour channel; its grid is half the image's."""

    classes = 3

    def forward(self, images):
        return Prediction(F.avg_pool2d(images, 2, ceil_mode=True))

    @property
    def classifier(self):
        return None


@pytest.fixture
def images():
    return torch.rand(2, 3, 20, 26, generator=torch.Generator().manual_seed(0))


def test_one_window_is_the_whole_image(images):
    whole = predict_logits(Colours(), images, Inference())
    assert whole.shape == (2, 3, 20, 26)
    window = predict_logits(Colours(), images, Inference(window=26, stride=10))
    torch.testing.assert_close(window, whole)


def test_overlapping_windows_are_averaged(images):
    """A slow reference: every window by itself, summed and divided pixel by pixel."""
    window, stride = 12, 8
    total, visits = torch.zeros(2, 3, 20, 26), torch.zeros(20, 26)
    for top in (0, 8):
        for left in (0, 8, 14):  # the last would overrun and ends at the border instead
            part = images[:, :, top : top + window, left : left + window]
            logits = F.interpolate(Colours()(part).logits, part.shape[-2:], mode="bilinear")
            total[:, :, top : top + window, left : left + window] += logits
            visits[top : top + window, left : left + window] += 1
    actual = predict_logits(Colours(), images, Inference(window=window, stride=stride))
    torch.testing.assert_close(actual, total / visits)


def test_scale_keeps_the_original_resolution(images):
    logits = predict_logits(Colours(), images, Inference(scale=0.5))
    assert logits.shape == (2, 3, 20, 26)
    small = F.interpolate(images, (10, 13), mode="bilinear")
    seen = F.interpolate(Colours()(small).logits, (10, 13), mode="bilinear")
    torch.testing.assert_close(logits, F.interpolate(seen, (20, 26), mode="bilinear"))


def test_score_counts_every_labelled_pixel():
    image = torch.zeros(3, 8, 8, dtype=torch.uint8)
    image[1] = 255
    labels = torch.full((8, 8), 1, dtype=torch.uint8)
    labels[0] = 255
    network = Colours().train()
    matrix = score(network, [(image, labels)], Inference(), torch.device("cpu"))
    assert matrix.tolist() == [[0, 0, 0], [0, 56, 0], [0, 0, 0]]
    assert network.training


@pytest.mark.parametrize("wrong", [{"scale": 0.0}, {"stride": 4}, {"window": 0}])
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(InputError, match="inference"):
        Inference(**wrong)
