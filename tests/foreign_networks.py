"""Tiny networks of every family that is brought along, with random weights."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

CLASSES = 12
TRANSFORMER = {
    "hidden_size": 16,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "num_labels": CLASSES,
}
PYRAMID = {"out_indices": [1, 2, 3, 4], "pool_scales": [1, 2], "auxiliary_channels": 8}
SWIN = {
    "embed_dim": 8,
    "depths": [1, 1, 1, 1],
    "num_heads": [1, 1, 1, 1],
    "window_size": 4,
    "out_features": ["stage1", "stage2", "stage3", "stage4"],
}
STAGES = {"out_features": ["stage1", "stage2", "stage3", "stage4"]}
UPERNET = {
    "hidden_size": 8,
    "auxiliary_channels": 8,
    "auxiliary_in_channels": 8,
    "pool_scales": [1, 2],
    "num_labels": CLASSES,
}
MASKS = {
    "hidden_dim": 32,
    "encoder_feedforward_dim": 16,
    "dim_feedforward": 16,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "num_attention_heads": 2,
    "num_queries": 6,
    "num_labels": CLASSES,
}


def segformer():
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    return SegformerForSemanticSegmentation(
        SegformerConfig(
            num_labels=CLASSES,
            hidden_sizes=[8, 8, 16, 16],
            depths=[1, 1, 1, 1],
            decoder_hidden_size=16,
            num_attention_heads=[1, 1, 2, 2],
        )
    )


def beit():
    from transformers import BeitConfig, BeitForSemanticSegmentation

    return BeitForSemanticSegmentation(BeitConfig(**TRANSFORMER, **PYRAMID, image_size=64))


def data2vec():
    from transformers import Data2VecVisionConfig, Data2VecVisionForSemanticSegmentation

    config = Data2VecVisionConfig(**TRANSFORMER, **PYRAMID, image_size=64)
    return Data2VecVisionForSemanticSegmentation(config)


def dpt():
    from transformers import DPTConfig, DPTForSemanticSegmentation

    return DPTForSemanticSegmentation(
        DPTConfig(
            **TRANSFORMER,
            image_size=64,
            patch_size=16,
            backbone_out_indices=[0, 1, 2, 3],
            neck_hidden_sizes=[8, 8, 8, 8],
            fusion_hidden_size=8,
            is_hybrid=False,
        )
    )


def mobilenet_v2():
    from transformers import MobileNetV2Config, MobileNetV2ForSemanticSegmentation

    config = MobileNetV2Config(num_labels=CLASSES, depth_multiplier=0.25, output_stride=16)
    return MobileNetV2ForSemanticSegmentation(config)


def mobilevit():
    from transformers import MobileViTConfig, MobileViTForSemanticSegmentation

    return MobileViTForSemanticSegmentation(
        MobileViTConfig(
            num_labels=CLASSES,
            hidden_sizes=[16, 16, 16],
            neck_hidden_sizes=[8, 8, 8, 8, 16, 16, 16],
            num_attention_heads=2,
            aspp_out_channels=16,
            output_stride=16,
        )
    )


def mobilevit_v2():
    from transformers import MobileViTV2Config, MobileViTV2ForSemanticSegmentation

    return MobileViTV2ForSemanticSegmentation(
        MobileViTV2Config(
            num_labels=CLASSES,
            width_multiplier=0.25,
            aspp_out_channels=16,
            output_stride=16,
            n_attn_blocks=[1, 1, 1],
        )
    )


def upernet():
    from transformers import ConvNextConfig, UperNetConfig, UperNetForSemanticSegmentation

    backbone = ConvNextConfig(
        num_stages=4, hidden_sizes=[8, 8, 8, 8], depths=[1, 1, 1, 1], **STAGES
    )
    return UperNetForSemanticSegmentation(UperNetConfig(backbone_config=backbone, **UPERNET))


def swin_upernet():
    from transformers import SwinConfig, UperNetConfig, UperNetForSemanticSegmentation

    given = {**UPERNET, "auxiliary_in_channels": 32}
    return UperNetForSemanticSegmentation(
        UperNetConfig(backbone_config=SwinConfig(**SWIN), **given)
    )


def maskformer():
    from transformers import (
        DetrConfig,
        MaskFormerConfig,
        MaskFormerForInstanceSegmentation,
        SwinConfig,
    )

    decoder = DetrConfig(
        d_model=16,
        decoder_layers=1,
        encoder_layers=1,
        decoder_attention_heads=2,
        encoder_attention_heads=2,
        decoder_ffn_dim=16,
        encoder_ffn_dim=16,
        num_queries=6,
        # Its own, which is not used, would be a whole ResNet-50.
        backbone_config=SwinConfig(**SWIN),
    )
    return MaskFormerForInstanceSegmentation(
        MaskFormerConfig(
            backbone_config=SwinConfig(**SWIN),
            decoder_config=decoder,
            fpn_feature_size=32,
            mask_feature_size=32,
            num_labels=CLASSES,
        )
    )


def mask2former():
    from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, SwinConfig

    config = Mask2FormerConfig(
        backbone_config=SwinConfig(**SWIN), feature_size=32, mask_feature_size=32, **MASKS
    )
    return Mask2FormerForUniversalSegmentation(config)


def oneformer():
    from transformers import OneFormerConfig, OneFormerForUniversalSegmentation, SwinConfig

    return OneFormerForUniversalSegmentation(
        OneFormerConfig(
            backbone_config=SwinConfig(**SWIN),
            conv_dim=32,
            mask_dim=32,
            query_dec_layers=1,
            task_seq_len=8,
            max_seq_len=8,
            text_encoder_width=8,
            text_encoder_context_length=8,
            text_encoder_num_layers=1,
            text_encoder_vocab_size=64,
            **MASKS,
        )
    )


def eomt():
    from transformers import EomtConfig, EomtForUniversalSegmentation

    return EomtForUniversalSegmentation(
        EomtConfig(
            hidden_size=16,
            num_hidden_layers=4,
            num_attention_heads=2,
            image_size=64,
            patch_size=16,
            num_queries=6,
            num_blocks=2,
            num_upscale_blocks=1,
            num_labels=CLASSES,
        )
    )


TRANSFORMERS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "segformer": (segformer, "SegformerImageProcessor"),
    "beit": (beit, "BeitImageProcessor"),
    "data2vec": (data2vec, "BeitImageProcessor"),
    "dpt": (dpt, "DPTImageProcessor"),
    "mobilenet_v2": (mobilenet_v2, "MobileNetV2ImageProcessor"),
    "mobilevit": (mobilevit, "MobileViTImageProcessor"),
    "mobilevit_v2": (mobilevit_v2, "MobileViTImageProcessor"),
    "upernet": (upernet, "SegformerImageProcessor"),
    "swin_upernet": (swin_upernet, "SegformerImageProcessor"),
    "maskformer": (maskformer, "MaskFormerImageProcessor"),
    "mask2former": (mask2former, "Mask2FormerImageProcessor"),
    "oneformer": (oneformer, "OneFormerImageProcessor"),
    "eomt": (eomt, "EomtImageProcessor"),
}
"""Families of transformers: a builder, and the image processor that such networks come with."""
MASK_CLASSIFIERS = ("maskformer", "mask2former", "oneformer", "eomt")
SMP = ("Unet", "FPN", "DeepLabV3Plus", "Linknet", "PSPNet", "Segformer", "UPerNet")
TORCHVISION = ("deeplabv3_mobilenet_v3_large", "fcn_resnet50", "lraspp_mobilenet_v3_large")


def transformers_folder(name, folder):
    """Save a family as its library does, processor included, and return the network."""
    import transformers

    torch.manual_seed(0)
    builder, processor = TRANSFORMERS[name]
    network = builder().eval()
    # Weights of a new network are so small that classes hardly differ.
    for parameter in network.parameters():
        if parameter.ndim > 1:
            parameter.data.mul_(2)
    network.save_pretrained(folder)
    getattr(transformers, processor)().save_pretrained(folder)
    if name == "oneformer":
        save_tokenizer(folder)
    return network


def save_tokenizer(folder):
    """Write a tokenizer that knows four words and takes all else for an unknown one."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {"[PAD]": 0, "[UNK]": 1, "the": 2, "task": 3, "is": 4, "semantic": 5}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]"
    ).save_pretrained(folder)


def onnx_file(path, original, last=True, side=33, kind="FLOAT"):
    """Write what people get from other frameworks: channels last, one size, a batch of one."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    helper, types = onnx.helper, onnx.TensorProto
    shape = [1, side, side, 3] if last else ["batch", 3, "height", "width"]
    weights = {
        "w": original.trunk.weight,
        "b": original.trunk.bias,
        "v": original.last.weight,
        "c": original.last.bias,
    }
    stored = [onnx.numpy_helper.from_array(w.detach().numpy(), n) for n, w in weights.items()]
    nodes, name = [], "images"
    if kind == "UINT8":
        nodes.append(helper.make_node("Cast", [name], ["floats"], to=types.FLOAT))
        name = "floats"
    if last:
        nodes.append(helper.make_node("Transpose", [name], ["first"], perm=[0, 3, 1, 2]))
        name = "first"
    nodes += [
        helper.make_node("Conv", [name, "w", "b"], ["x"], strides=[4, 4], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["x"], ["y"]),
        helper.make_node("Conv", ["y", "v", "c"], ["z"]),
    ]
    if last:
        nodes.append(helper.make_node("Transpose", ["z"], ["logits"], perm=[0, 2, 3, 1]))
    given = helper.make_tensor_value_info("images", getattr(types, kind), shape)
    said = helper.make_tensor_value_info("logits" if last else "z", types.FLOAT, [None] * 4)
    graph = helper.make_graph(nodes, "net", [given], [said], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return str(path)
