"""Numbers of the networks, from the specification of the published ones."""

import pytest
import torch

import fakd.models
from fakd.errors import InputError
from fakd.models import deeplabv3plus, fcn_hrnet, isanet, pspnet
from fakd.models.catalogue import NETWORKS, describe

PARAMETERS = {
    (pspnet, "resnet101"): (68_068_492, 67_998_422, 67_969_162, 67_967_622),
    (fcn_hrnet, "hrnet_w48"): (65_953_110, 65_887_499, 65_860_101, 65_858_659),
    (deeplabv3plus, "resnet101"): (62_682_876, 62_612_806, 62_583_546, 62_582_006),
    (isanet, "resnet101"): (56_800_396, 56_730_326, 56_701_066, 56_699_526),
    (pspnet, "resnet18"): (12_815_500, 12_797_846, 12_790_474, 12_790_086),
    (fcn_hrnet, "hrnet_w18s"): (3_974_810, 3_950_149, 3_939_851, 3_939_309),
    (deeplabv3plus, "mobilenetv2"): (15_345_244, 15_275_174, 15_245_914, 15_244_374),
    (isanet, "resnet18"): (12_459_148, 12_441_494, 12_434_122, 12_433_734),
    (pspnet, "resnet18b"): (12_796_268, 12_778_614, 12_771_242, 12_770_854),
}
"""With 150, 59, 21 and 19 classes."""

PARTS = {
    (pspnet, "resnet101"): (42_519_392, 23_150_742, 2_398_358),
    (fcn_hrnet, "hrnet_w48"): (65_325_120, 627_990, 0),
    (deeplabv3plus, "resnet101"): (42_519_392, 17_765_126, 2_398_358),
    (isanet, "resnet101"): (42_519_392, 11_882_646, 2_398_358),
    (pspnet, "resnet18"): (11_195_744, 1_462_422, 157_334),
    (fcn_hrnet, "hrnet_w18s"): (3_860_720, 114_090, 0),
    (deeplabv3plus, "mobilenetv2"): (1_811_712, 13_273_286, 260_246),
    (isanet, "resnet18"): (11_195_744, 1_106_070, 157_334),
    (pspnet, "resnet18b"): (11_176_512, 1_462_422, 157_334),
}
"""Backbone, decode head and auxiliary head with 150 classes."""

ENTRIES = {
    (pspnet, "resnet101"): 676,
    (fcn_hrnet, "hrnet_w48"): 1838,
    (deeplabv3plus, "resnet101"): 730,
    (isanet, "resnet101"): 722,
    (pspnet, "resnet18"): 172,
    (fcn_hrnet, "hrnet_w18s"): 872,
    (deeplabv3plus, "mobilenetv2"): 400,
    (isanet, "resnet18"): 218,
}

GIGA_MACS = [256.18, 94.98, 254.84, 227.53, 54.30, None, 10.19, 69.14, 54.09]
"""Multiply-accumulates at 512x512 in the order of the list; the specification has no v1b."""


def count(module):
    return 0 if module is None else sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(("builder", "backbone"), PARAMETERS)
def test_parameters_and_entries(builder, backbone):
    with torch.device("meta"):
        network = builder(backbone, 150)
    parts = count(network.backbone), count(network.decode_head), count(network.auxiliary_head)
    heads = [network.decode_head.conv_seg]
    if network.auxiliary_head is not None:
        heads.append(network.auxiliary_head.conv_seg)
    per_class = sum(head.in_channels + 1 for head in heads)

    assert parts == PARTS[builder, backbone]
    for classes, expected in zip((150, 59, 21, 19), PARAMETERS[builder, backbone], strict=True):
        assert count(network) - (150 - classes) * per_class == expected
    assert len(network.state_dict()) == ENTRIES.get((builder, backbone), 160)


@pytest.mark.parametrize("classes", [1, 2, 19])
def test_any_class_count(classes):
    with torch.device("meta"):
        network = pspnet("resnet18", classes)

    assert network.classes == network.classifier.out_channels == classes
    assert network.auxiliary_head.conv_seg.out_channels == classes


@pytest.mark.parametrize(("classes", "channels"), [(0, 8), (3, 0), (3, 1)])
def test_empty_heads_are_refused(classes, channels):
    with pytest.raises(InputError, match="must be at least 1, got 0"):
        pspnet("mobilenetv3_small_050", classes, channels=channels)


SMALL = [6, 8]


def check(rows, indices):
    widths = [512, 720, 512, 512, 128, 128, 270, 512, 128]
    strides = [8, 4, 4, 8, 8, 8, 4, 4, 8]
    assert [row.channels for row in rows] == [widths[index] for index in indices]
    assert [row.stride for row in rows] == [strides[index] for index in indices]
    for row, index in zip(rows, indices, strict=True):
        builder, _, backbone = row.name.removesuffix(")").partition("(")
        assert row.parameters == PARAMETERS[getattr(fakd.models, builder), backbone][0]
        if GIGA_MACS[index] is not None:
            assert row.flops / 2e9 == pytest.approx(GIGA_MACS[index], abs=0.006)


def test_rows_of_the_list():
    check([describe(*NETWORKS[index], classes=150) for index in SMALL], SMALL)


@pytest.mark.slow
def test_list():
    check(fakd.models.list_networks(), range(9))
