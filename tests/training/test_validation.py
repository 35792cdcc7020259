"""Each image's counts stand at its own place, whatever has no labels and is shown together."""

import pytest
import torch

from fakd.data import scenes
from fakd.models import pspnet
from fakd.settings import Hardware, Inference, Settings
from fakd.training.start import start
from fakd.training.validation import validate_images
from training.test_processes import HalfLabelled


@pytest.mark.parametrize("count", [1, 2, 4])
def test_counts_are_those_of_images_alone(count):
    torch.manual_seed(0)
    network = pspnet("mobilenetv3_small_050", 12, channels=8).eval()
    fabric = start(Hardware(accelerator="cpu"), 0)
    data = scenes(train=2, val=7, size=(32, 48))
    whole, alone = validate_images(fabric, network, data.val, Settings())
    settings = Settings(inference=Inference(batch_size=count))
    scores, counts = validate_images(fabric, network, data.val, settings)
    assert scores.miou == pytest.approx(whole.miou, abs=1e-4)
    assert (counts - alone).abs().max() <= 2
    assert torch.equal(counts[1], alone[1])
    _, some = validate_images(fabric, network, HalfLabelled(data.val), settings)
    assert not some[:, 1::2].any()
    assert (some[:, ::2] - alone[:, ::2]).abs().max() <= 2
