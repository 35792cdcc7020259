"""One step of training, the way a recipe would take it, on the smallest of the paper's pairs."""

import pytest
import torch
from torch.nn import functional as F

from fakd.models import fcn_hrnet, hypercolumns, pspnet


@pytest.mark.parametrize(
    "build",
    [
        lambda: fcn_hrnet("hrnet_w18s", 4),
        lambda: pspnet("resnet18", 4),
        lambda: pspnet("mobilenetv3_small_050", 4, channels=16),
        lambda: hypercolumns("tf_efficientnet_lite0", 4, strides=(2, 4, 8)),
    ],
)
def test_a_step_learns_everything(build):
    torch.manual_seed(0)
    network = build().train()
    optimiser = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    images, labels = torch.rand(2, 3, 64, 64), torch.randint(4, (2, 64, 64))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}

    logits, _, auxiliary = network(images)
    loss = F.cross_entropy(F.interpolate(logits, (64, 64), mode="bilinear"), labels)
    if auxiliary is not None:
        enlarged = F.interpolate(auxiliary, (64, 64), mode="bilinear")
        loss = loss + 0.4 * F.cross_entropy(enlarged, labels)
    loss.backward()
    optimiser.step()

    silent = [name for name, value in network.named_parameters() if value.grad is None]
    after = network.state_dict()
    moved = {name for name, old in before.items() if not torch.equal(old, after[name])}
    assert not silent
    assert loss.item() == pytest.approx(1.386 * (1 if auxiliary is None else 1.4), abs=0.2)
    assert {"decode_head.conv_seg.weight", "decode_head.conv_seg.bias"} <= moved
    assert {name for name in before if "running" in name or "downsample" in name} <= moved


def test_one_image_cannot_train_a_pyramid():
    network = pspnet("mobilenetv3_small_050", 4, channels=16).train()

    with pytest.raises(ValueError, match="more than 1 value per channel"):
        network(torch.rand(1, 3, 64, 64))


def test_half_precision():
    network = pspnet("mobilenetv3_small_050", 4, channels=16).eval()

    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        logits = network(torch.rand(1, 3, 64, 64)).logits

    assert logits.dtype == torch.bfloat16
    assert logits.isfinite().all()
