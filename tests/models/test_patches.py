"""Backbones against slow ones written from the description of the published networks."""

import pytest
import timm
import torch
from timm.models.hrnet import HighResolutionModule
from torch import nn
from torch.nn import functional as F

from fakd.models.backbones import BilinearFusion, build_backbone

SIZES = [(32, 64), (49, 57)]


def prepared(name, stride=8):
    """A backbone with every parameter and statistic drawn, in float64 and evaluation mode."""
    torch.manual_seed(0)
    module = build_backbone(name, stride).module.double().eval()
    for key, value in module.state_dict().items():
        if value.ndim == 4:
            nn.init.kaiming_normal_(value)
        elif value.is_floating_point():
            value.uniform_(0.5, 1.5) if "running_mean" not in key else value.normal_(std=0.1)
    return module


class Naive:
    """Layers by name from a state dictionary, with every setting spelled out."""

    def __init__(self, state):
        self.state = state

    def conv(self, x, name, stride=1, dilation=1, groups=1):
        weight = self.state[f"{name}.weight"]
        padding = dilation * (weight.shape[-1] // 2)
        return F.conv2d(x, weight, None, stride, padding, dilation, groups)

    def norm(self, x, name):
        scale, shift, mean, variance = (
            self.state[f"{name}.{part}"].view(-1, 1, 1)
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        return (x - mean) / torch.sqrt(variance + 1e-5) * scale + shift


def naive_resnet18(layers, x, deep_stem):
    if deep_stem:
        for conv, norm, stride in ("conv1.0", "conv1.1", 2), ("conv1.3", "conv1.4", 1):
            x = layers.norm(layers.conv(x, conv, stride), norm).relu()
        x = layers.conv(x, "conv1.6")
    else:
        x = layers.conv(x, "conv1", 2)
    x = F.max_pool2d(layers.norm(x, "bn1").relu(), 3, 2, 1)
    outputs = []
    dilations = {1: (1, 1), 2: (1, 1), 3: (1, 2), 4: (2, 4)}
    for stage, stride in (1, 1), (2, 2), (3, 1), (4, 1):
        for block in 0, 1:
            name, step = f"layer{stage}.{block}", stride if block == 0 else 1
            y = layers.conv(x, f"{name}.conv1", step, dilations[stage][block])
            y = layers.norm(y, f"{name}.bn1").relu()
            y = layers.norm(layers.conv(y, f"{name}.conv2"), f"{name}.bn2")
            if f"{name}.downsample.0.weight" in layers.state:
                x = layers.conv(x, f"{name}.downsample.0", step)
                x = layers.norm(x, f"{name}.downsample.1")
            x = (x + y).relu()
        outputs.append(x)
    return outputs


def naive_mobilenetv2(layers, x):
    x = F.relu6(layers.norm(layers.conv(x, "conv_stem", 2), "bn1"))
    outputs = []
    stages = [(1, 1, 1), (2, 2, 1), (3, 2, 1), (4, 1, 2), (3, 1, 2), (3, 1, 4), (1, 1, 4)]
    for stage, (blocks, stride, dilation) in enumerate(stages):
        for block in range(blocks):
            name, first, y = f"blocks.{stage}.{block}", block == 0, x
            if stage > 0:
                y = F.relu6(layers.norm(layers.conv(y, f"{name}.conv_pw"), f"{name}.bn1"))
            depthwise, last = ("bn1", "bn2") if stage == 0 else ("bn2", "bn3")
            step, spread = (stride, dilation) if first else (1, 1)
            y = layers.conv(y, f"{name}.conv_dw", step, spread, groups=y.shape[1])
            y = F.relu6(layers.norm(y, f"{name}.{depthwise}"))
            y = layers.conv(y, f"{name}.{'conv_pw' if stage == 0 else 'conv_pwl'}")
            y = layers.norm(y, f"{name}.{last}")
            x = x + y if step == 1 and x.shape == y.shape else y
        if stage in (1, 2, 4, 6):
            outputs.append(x)
    return outputs


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ["resnet18", "resnet18b"])
def test_resnet18_is_the_described_one(name, size):
    module = prepared(name)
    images = torch.rand(1, 3, *size, dtype=torch.float64)

    with torch.no_grad():
        expected = naive_resnet18(Naive(module.state_dict()), images, name == "resnet18")
        torch.testing.assert_close(module(images), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("size", SIZES)
def test_mobilenetv2_is_the_described_one(size):
    module = prepared("mobilenetv2")
    images = torch.rand(1, 3, *size, dtype=torch.float64)

    with torch.no_grad():
        expected = naive_mobilenetv2(Naive(module.state_dict()), images)
        torch.testing.assert_close(module(images), expected, rtol=1e-9, atol=1e-9)


def reach(convolution):
    """Distance between taps, and size of the output, seen from an impulse of side 33."""
    impulse = torch.zeros(1, convolution.in_channels, 33, 33)
    impulse[..., 16, 16] = 1
    weight = torch.ones_like(convolution.weight)
    response = torch.func.functional_call(convolution, {"weight": weight}, impulse)
    taps = response[0, 0, 16].nonzero().flatten()
    return int(taps[1] - taps[0]), tuple(response.shape[-2:])


def dilations(module, names):
    found = [reach(module.get_submodule(name)) for name in names]
    assert all(size == (33, 33) for _, size in found)
    return [distance for distance, _ in found]


def test_dilations_by_impulse_response():
    resnet18 = build_backbone("resnet18", 8).module
    resnet101 = build_backbone("resnet101", 8).module
    mobilenet = build_backbone("mobilenetv2", 8).module
    names = [f"layer{stage}.{block}" for stage in (3, 4) for block in (0, 1)]

    assert dilations(resnet18, [f"{name}.conv1" for name in names]) == [1, 2, 2, 4]
    assert dilations(resnet18, [f"{name}.conv2" for name in names]) == [1, 1, 1, 1]
    blocks = {2: 4, 3: 23, 4: 3}
    assert dilations(resnet101, [f"layer2.{i}.conv2" for i in range(1, blocks[2])]) == [1] * 3
    assert dilations(resnet101, [f"layer3.{i}.conv2" for i in range(blocks[3])]) == [1] + [2] * 22
    assert dilations(resnet101, [f"layer4.{i}.conv2" for i in range(blocks[4])]) == [2, 4, 4]
    stages = {3: [2, 1, 1, 1], 4: [2, 1, 1], 5: [4, 1, 1], 6: [4]}
    for stage, expected in stages.items():
        names = [f"blocks.{stage}.{block}.conv_dw" for block in range(len(expected))]
        assert dilations(mobilenet, names) == expected


@pytest.mark.parametrize(("stride", "expected"), [(8, 4), (16, 2), (32, 1)])
def test_mobilenetv2_at_other_strides(stride, expected):
    mobilenet = build_backbone("mobilenetv2", stride).module
    names = [f"blocks.{stage}.0.conv_dw" for stage in (3, 4, 5, 6)]
    dilation = [mobilenet.get_submodule(name).dilation[0] for name in names]

    assert dilation == [max(1, expected // 2)] * 2 + [expected] * 2


def naive_fusion(module, maps):
    maps = [branch(x) for branch, x in zip(module.branches, maps, strict=True)]
    fused = []
    for i, target in enumerate(maps):
        total = torch.zeros_like(target)
        for j, source in enumerate(maps):
            if j == i:
                total += source
            elif j < i:
                total += module.fuse_layers[i][j](source)
            else:
                conv, norm, _ = module.fuse_layers[i][j]
                rows, cols = source.shape[-2:]
                bigger = (rows * 2 ** (j - i), cols * 2 ** (j - i))
                term = norm(conv(source))
                term = F.interpolate(term, size=bigger, mode="bilinear", align_corners=False)
                total += F.interpolate(
                    term, size=target.shape[-2:], mode="bilinear", align_corners=False
                )
        fused.append(total.relu())
    return fused


@pytest.mark.parametrize("size", [(16, 24), (25, 29)])
def test_fusion_is_bilinear_twice(size):
    hrnet = prepared("hrnet_w18s", None)
    modules = [module for module in hrnet.modules() if isinstance(module, BilinearFusion)]
    sizes = [size]
    while len(sizes) < 4:
        sizes.append(tuple((side + 1) // 2 for side in sizes[-1]))

    assert len(modules) == 6
    for module in modules[0], modules[1], modules[-1]:
        channels = [branch[0].conv1.in_channels for branch in module.branches]
        maps = [
            torch.randn(1, width, *side, dtype=torch.float64)
            for width, side in zip(channels, sizes, strict=False)
        ]
        with torch.no_grad():
            expected = naive_fusion(module, [features.clone() for features in maps])
            torch.testing.assert_close(module(maps), expected, rtol=1e-9, atol=1e-9)


def test_every_fusion_is_replaced_and_sizes_are_free():
    hrnet = build_backbone("hrnet_w18s", None).module.eval()

    with torch.no_grad():
        stages = hrnet(torch.rand(1, 3, 97, 113))

    assert [tuple(stage.shape[-2:]) for stage in stages] == [(25, 29), (13, 15), (7, 8), (4, 4)]
    assert not [m for m in hrnet.modules() if isinstance(m, HighResolutionModule)]


def test_hrnet_on_even_sizes_is_timms_with_bilinear_upsampling():
    ours = build_backbone("hrnet_w18s", None).module.eval()
    theirs = timm.create_model(
        "hrnet_w18_small_v2", features_only=True, out_indices=(1, 2, 3, 4), feature_location=""
    ).eval()
    theirs.load_state_dict(ours.state_dict())
    for module in theirs.modules():
        if isinstance(module, nn.Upsample):
            module.mode, module.align_corners = "bilinear", False
    images = torch.rand(1, 3, 64, 96)

    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images))
