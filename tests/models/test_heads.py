"""Each head against a slow one written from its description."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fakd.models.heads import FCNHead, ISAHead, PSPHead, SeparableASPPHead

CHANNELS = (6, 8, 10, 12)
CLASSES = 5


def prepared(head):
    torch.manual_seed(0)
    head = head.double().eval()
    for module in head.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return head


def stages(rows=9, cols=11):
    torch.manual_seed(1)
    sizes = [(2 * rows - 1, 2 * cols - 1), (rows, cols), (rows, cols), (rows, cols)]
    return [
        torch.randn(2, channels, *size, dtype=torch.float64)
        for channels, size in zip(CHANNELS, sizes, strict=True)
    ]


def block(head, name, x, dilation=1, groups=1):
    """A convolution without bias, batch norm and ReLU, by the name they have in checkpoints."""
    state = head.state_dict()
    weight = state[f"{name}.conv.weight"]
    padding = dilation * (weight.shape[-1] // 2)
    assert f"{name}.conv.bias" not in state
    x = F.conv2d(x, weight, None, 1, padding, dilation, groups)
    mean, variance = state[f"{name}.bn.running_mean"], state[f"{name}.bn.running_var"]
    scale, shift = state[f"{name}.bn.weight"], state[f"{name}.bn.bias"]
    return F.relu(F.batch_norm(x, mean, variance, scale, shift, eps=1e-5))


def separable(head, name, x, dilation=1):
    x = block(head, f"{name}.depthwise_conv", x, dilation, groups=x.shape[1])
    return block(head, f"{name}.pointwise_conv", x)


def enlarge(x, size, align_corners=False):
    return F.interpolate(x, size, mode="bilinear", align_corners=align_corners)


def check(head, features, maps):
    with torch.no_grad():
        logits, found = head(maps)
    torch.testing.assert_close(found, features, rtol=1e-9, atol=1e-9)
    weight, bias = head.conv_seg.weight[:, :, 0, 0], head.conv_seg.bias
    expected = torch.einsum("kc,bcij->bkij", weight, features) + bias.view(-1, 1, 1)
    torch.testing.assert_close(logits, expected, rtol=1e-9, atol=1e-9)
    assert logits.shape[1] == CLASSES


@pytest.mark.parametrize("align_corners", [False, True])
def test_psp(align_corners):
    head, maps = prepared(PSPHead(CHANNELS, 16, CLASSES, 0.1, align_corners)), stages()
    parts = [maps[3]]
    for index, scale in enumerate((1, 2, 3, 6)):
        pooled = F.adaptive_avg_pool2d(maps[3], scale)
        pooled = block(head, f"psp_modules.{index}.1", pooled)
        parts.append(enlarge(pooled, (9, 11), align_corners))

    check(head, block(head, "bottleneck", torch.cat(parts, 1)), maps)


@pytest.mark.parametrize("align_corners", [False, True])
def test_separable_aspp(align_corners):
    head = prepared(SeparableASPPHead(CHANNELS, 16, 4, CLASSES, 0.1, align_corners))
    maps = stages()
    pooled = block(head, "image_pool.1", maps[3].mean(dim=(2, 3), keepdim=True))
    parts = [enlarge(pooled, (9, 11), align_corners), block(head, "aspp_modules.0", maps[3])]
    for index, dilation in enumerate((12, 24, 36)):
        parts.append(separable(head, f"aspp_modules.{index + 1}", maps[3], dilation))
    context = block(head, "bottleneck", torch.cat(parts, 1))
    detail = block(head, "c1_bottleneck", maps[0])
    joined = torch.cat([enlarge(context, (17, 21), align_corners), detail], 1)

    features = separable(head, "sep_bottleneck.1", separable(head, "sep_bottleneck.0", joined))

    check(head, features, maps)


def test_fcn_on_all_stages():
    head = prepared(FCNHead(CHANNELS, (0, 1, 2, 3), 7, CLASSES, 0.0, kernel_size=1))
    maps = stages()
    joined = torch.cat([maps[0], *(enlarge(features, (17, 21)) for features in maps[1:])], 1)

    check(head, block(head, "convs.0", joined), maps)


def test_fcn_on_one_stage():
    head = prepared(FCNHead(CHANNELS, (2,), 7, CLASSES, 0.1, kernel_size=3))
    maps = stages()

    check(head, block(head, "convs.0", maps[2]), maps)


def attend(head, name, vectors):
    """Attention among a list of positions, [positions channels]."""
    state = head.state_dict()
    x = vectors.T[None, :, :, None]
    query = block(head, f"{name}.query_project.1", block(head, f"{name}.query_project.0", x))
    key = block(head, f"{name}.key_project.1", block(head, f"{name}.key_project.0", x))
    weight, bias = state[f"{name}.value_project.weight"], state[f"{name}.value_project.bias"]
    value = F.conv2d(x, weight, bias)[0, :, :, 0].T
    query, key = query[0, :, :, 0].T, key[0, :, :, 0].T
    shares = torch.softmax(query @ key.T / math.sqrt(key.shape[1]), dim=1)
    return block(head, f"{name}.output_project", (shares @ value).T[None, :, :, None])[0, :, :, 0].T


@pytest.mark.parametrize("size", [(8, 16), (9, 13), (5, 7)])
def test_isa(size):
    """Positions are gathered one group at a time, with plain indices."""
    rows, cols = size
    head, maps = prepared(ISAHead(CHANNELS, 6, 4, CLASSES, 0.1)), stages(*size)
    residual = block(head, "in_conv", maps[3])
    tall, wide = 8 * math.ceil(rows / 8), 8 * math.ceil(cols / 8)
    top, left = (tall - rows) // 2, (wide - cols) // 2
    attended = torch.zeros(2, 6, tall, wide, dtype=torch.float64)
    attended[:, :, top : top + rows, left : left + cols] = residual
    far = attended.clone()
    near = attended.clone()
    for image in range(2):
        for row in range(8):
            for col in range(8):
                same = (image, slice(None), slice(row, None, 8), slice(col, None, 8))
                group = attended[same]
                done = attend(head, "global_relation", group.flatten(1).T)
                far[same] = done.T.reshape(group.shape)
        for row in range(0, tall, 8):
            for col in range(0, wide, 8):
                here = (image, slice(None), slice(row, row + 8), slice(col, col + 8))
                group = far[here]
                done = attend(head, "local_relation", group.flatten(1).T)
                near[here] = done.T.reshape(group.shape)
    inside = near[:, :, top : top + rows, left : left + cols]

    check(head, block(head, "out_conv", torch.cat([inside, residual], 1)), maps)


@pytest.mark.parametrize(
    "head",
    [
        PSPHead(CHANNELS, 64, CLASSES, 0.1),
        SeparableASPPHead(CHANNELS, 64, 16, CLASSES, 0.1),
        ISAHead(CHANNELS, 64, 32, CLASSES, 0.1),
        FCNHead(CHANNELS, (2,), 64, CLASSES, 0.1, kernel_size=3),
    ],
)
def test_initialisation(head):
    assert head.dropout.p == 0.1
    assert not head.conv_seg.bias.any()
    assert head.conv_seg.weight.std().item() == pytest.approx(0.01, rel=0.2)
    for name, module in head.named_modules():
        if isinstance(module, nn.Conv2d) and name.endswith(".conv"):
            fan_out = module.out_channels * module.kernel_size[0] ** 2
            scale = module.weight.std().item() / math.sqrt(2 / fan_out)
            assert scale == pytest.approx(1, rel=0.25), name
        if isinstance(module, nn.BatchNorm2d):
            assert (module.eps, module.momentum) == (1e-5, 0.1)
            assert (module.weight == 1).all()
            assert not module.bias.any()
