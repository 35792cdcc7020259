import pytest
import torch

from fakd.errors import InputError
from fakd.models.backbones import build_backbone


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("resnet18", (64, 128, 256, 512)),
        ("resnet18b", (64, 128, 256, 512)),
        ("mobilenetv2", (24, 32, 96, 320)),
        ("timm/resnet50", (256, 512, 1024, 2048)),
        ("tf_efficientnet_lite0", (24, 40, 112, 320)),
        ("mobilenetv3_small_050", (8, 16, 24, 288)),
        ("mobilenetv3_large_100", (24, 40, 112, 960)),
    ],
)
def test_stages_at_output_stride_eight(name, channels):
    backbone = build_backbone(name, 8)

    assert backbone.channels == channels
    assert backbone.strides == (4, 8, 8, 8)
    assert all(module.training for module in backbone.module.modules())


def test_hrnets_keep_their_own_strides():
    backbone = build_backbone("hrnet_w18s", None)

    assert backbone.channels == (18, 36, 72, 144)
    assert backbone.strides == (4, 8, 16, 32)


def test_probing_touches_no_statistics():
    backbone = build_backbone("resnet18", 8).module

    assert not any(v.any() for k, v in backbone.state_dict().items() if k.endswith("running_mean"))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("densenet121", "strides 4, 8, 16, 32"),
        ("ghostnet_100", "strides 4, 8, 16, 32"),
        ("hrnet_w18s", "strides 4, 8, 16, 32"),
        ("vit_tiny_patch16_224", "does not run on a 64x64 image"),
        ("resnet51", "resnet51q"),
        ("nonsense", "must be one of resnet101"),
    ],
)
def test_unfit_backbones_are_refused_with_what_they_offer(name, reason):
    with pytest.raises(InputError, match=reason) as error:
        build_backbone(name, 8)

    assert "\n" not in str(error.value)


def test_a_backbone_that_ignores_the_stride_is_noticed(monkeypatch):
    import timm

    build = timm.create_model
    monkeypatch.setattr(
        timm, "create_model", lambda *args, output_stride=32, **kwargs: build(*args, **kwargs)
    )

    with pytest.raises(InputError, match="strides 4, 8, 16, 32"):
        build_backbone("timm/resnet18", 8)


@pytest.mark.parametrize("name", ["resnet18", "resnet101", "mobilenetv2"])
def test_builds_on_the_meta_device(name):
    with torch.device("meta"):
        assert build_backbone(name, 8).strides == (4, 8, 8, 8)
