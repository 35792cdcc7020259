"""Backbones: the paper's, as timm models with patches, and any other timm model by its name."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import timm
import torch
from jaxtyping import Float
from timm.models.hrnet import HighResolutionModule
from timm.models.resnet import BasicBlock
from torch import Tensor, nn

from fakd.errors import InputError
from fakd.imports import nearest
from fakd.models.heads import resize


def undilate_second_convolutions(resnet: nn.Module) -> None:
    """Dilate only the first 3x3 convolution of each basic block; timm dilates both."""
    for block in resnet.modules():
        if isinstance(block, BasicBlock):
            set_dilation(block.conv2, 1)


def dilate_first_blocks_only(mobilenet: nn.Module) -> None:
    """Dilate the depthwise convolution of the first block of a stage, never of the others.

    At output stride 8 the stages of 64 and 96 channels (3 and 4) have dilation 2, those of 160 and
    320 (5 and 6) dilation 4; timm dilates all blocks of a stage instead. The output stride is
    inferred from the dilation of the last stage.
    """
    last = mobilenet.get_submodule("blocks.6.0.conv_dw").dilation
    deepest = last[0] if isinstance(last, tuple) else 1
    first = {3: deepest // 2, 4: deepest // 2, 5: deepest, 6: deepest}
    for number, stage in enumerate(mobilenet.get_submodule("blocks").children()):
        for position, block in enumerate(stage.children()):
            dilation = max(1, first.get(number, 1)) if position == 0 else 1
            set_dilation(block.get_submodule("conv_dw"), dilation)


def set_dilation(convolution: nn.Module, dilation: int) -> None:
    """Set a 3x3 convolution's dilation, and the padding that keeps the size."""
    if not isinstance(convolution, nn.Conv2d):
        raise TypeError(f"expected a Conv2d to dilate, got {type(convolution).__name__}")
    convolution.dilation = (dilation, dilation)
    convolution.padding = (dilation, dilation)


class BilinearFusion(nn.Module):
    """HRNet's fusion of resolutions with bilinear upsampling, for images of any size.

    timm upsamples by nearest neighbour and needs sizes divisible by 32. Here a coarse map is
    upsampled by its stride ratio, then resized to the finer map's exact size if that differs. The
    layers and their names are those of the module that it replaces.
    """

    def __init__(self, module: HighResolutionModule) -> None:
        super().__init__()
        self.branches = module.branches
        self.fuse_layers = module.fuse_layers
        self.fuse_act = module.fuse_act
        for layer in self.modules():
            if isinstance(layer, nn.Upsample):
                layer.mode, layer.align_corners = "bilinear", False

    def forward(self, x: list[Float[Tensor, "batch _ _ _"]]) -> list[Float[Tensor, "batch _ _ _"]]:
        """Run the branches, then sum the contributions of all resolutions at each resolution."""
        maps = [branch(features) for branch, features in zip(self.branches, x, strict=True)]
        # A program for any size must not take its branches from the shapes of one example.
        traced = torch.compiler.is_compiling() or torch.onnx.is_in_onnx_export()
        fused = []
        for paths, target in zip(self.fuse_layers, maps, strict=False):
            total = paths[0](maps[0])
            for path, source in zip(paths[1:], maps[1:], strict=True):
                term = path(source)
                fits = not traced and term.shape == total.shape
                total = total + (term if fits else resize(term, like=target))
            fused.append(self.fuse_act(total))
        return fused


def fuse_bilinearly(hrnet: nn.Module) -> None:
    """Replace the fusion of every HRNet module by `BilinearFusion`."""
    for parent in list(hrnet.modules()):
        for name, module in parent.named_children():
            if isinstance(module, HighResolutionModule):
                setattr(parent, name, BilinearFusion(module))


PROBE = 64
"""Side of the image used to measure a backbone's stages."""


@dataclass(frozen=True)
class Architecture:
    """A backbone as a timm model with arguments and a patch."""

    timm_name: str
    arguments: dict[str, Any] = field(default_factory=dict)
    patch: Callable[[nn.Module], None] | None = None
    weights: str | None = None
    """Tag of the ImageNet weights at timm's hub; None if there are none for this network."""
    file: str | None = None
    """File name of the ImageNet weights that the published networks started from."""

    @property
    def full_name(self) -> str:
        """Name of the network and its weights in timm."""
        return f"{self.timm_name}.{self.weights}" if self.weights else self.timm_name

    def describe(self) -> str:
        """Describe the network, for error messages."""
        stem = " with the deep stem" if "stem_type" in self.arguments else ""
        return f"{self.full_name}{stem}"


HRNET = {"feature_location": ""}

PAPER = {
    "resnet101": Architecture(
        "resnet101c", weights="gluon_in1k", file="resnet101_v1c-e67eebb6.pth"
    ),
    "resnet18": Architecture(
        "resnet18",
        {"stem_type": "deep", "stem_width": 32},
        undilate_second_convolutions,
        file="resnet18_v1c-b5776b93.pth",
    ),
    "resnet18b": Architecture("resnet18", patch=undilate_second_convolutions, weights="tv_in1k"),
    "mobilenetv2": Architecture(
        "mobilenetv2_100",
        patch=dilate_first_blocks_only,
        weights="ra_in1k",
        file="mobilenet_v2_batch256_imagenet_20200708-3b2dc3af.pth",
    ),
    "hrnet_w48": Architecture(
        "hrnet_w48", HRNET, fuse_bilinearly, "ms_in1k", "hrnetv2_w48-d2186c55.pth"
    ),
    "hrnet_w18s": Architecture(
        "hrnet_w18_small_v2", HRNET, fuse_bilinearly, "ms_in1k", "hrnetv2_w18_small-b5a04e21.pth"
    ),
}
"""The paper's backbones. ``resnet101`` and ``resnet18`` have the deep stem of three 3x3
convolutions (v1c), ``resnet18b`` the classic 7x7 stem, for which timm has ImageNet weights."""


class Backbone(NamedTuple):
    """A feature extractor, with channels and strides of its stages, fine to coarse."""

    module: nn.Module
    channels: tuple[int, ...]
    strides: tuple[int, ...]
    architecture: Architecture

    @property
    def width(self) -> int:
        """Default width of the head: 512 for ResNet-101 and 128 for ResNet-18, as in the paper."""
        return 512 if self.channels[-1] >= 1024 else 128


def find_architecture(name: str) -> Architecture:
    """Look up a backbone by name.

    Args:
        name: one of `PAPER`, else a model name of timm. ``timm/NAME`` always means timm's model, so
            ``timm/hrnet_w48`` is not the paper's ``hrnet_w48``.

    Raises:
        InputError: timm has no such model.
    """
    if name in PAPER:
        return PAPER[name]
    timm_name = name.removeprefix("timm/")
    if not timm.is_model(timm_name):
        known = [*PAPER, *timm.list_models()]
        raise InputError(
            f"backbone must be one of {', '.join(PAPER)} or a model name of timm, got '{name}'"
            f"{nearest(timm_name, known, '; see timm.list_models()')}"
        )
    architecture, _, tag = timm_name.partition(".")
    if architecture.startswith("hrnet"):
        return Architecture(architecture, HRNET, fuse_bilinearly, weights=tag)
    return Architecture(architecture, weights=tag)


def build_backbone(name: str, output_stride: int | None) -> Backbone:
    """Build a backbone without weights and measure its last four stages.

    Args:
        name: see `find_architecture`.
        output_stride: stride of the last stage, reached by dilation; None for the network's own.

    Raises:
        InputError: the network cannot be built, or its last stage has another stride.
    """
    architecture = find_architecture(name)
    try:
        backbone = create(architecture, output_stride)
    except (TypeError, AssertionError, RuntimeError, NotImplementedError) as error:
        raise InputError(offer(name, architecture, output_stride)) from error
    if output_stride is not None and backbone.strides[-1] != output_stride:
        raise InputError(offer(name, architecture, output_stride))
    return backbone


def create(architecture: Architecture, output_stride: int | None = None) -> Backbone:
    """Build timm's feature extractor, patch it, and run it once to measure its stages."""
    arguments = dict(architecture.arguments)
    if output_stride is not None:
        arguments["output_stride"] = output_stride
    module: nn.Module = timm.create_model(
        architecture.timm_name,
        pretrained=False,
        features_only=True,
        out_indices=(-4, -3, -2, -1),
        **arguments,
    )
    if architecture.patch is not None:
        architecture.patch(module)
    module.eval()
    with torch.no_grad():
        stages = module(torch.zeros(1, 3, PROBE, PROBE))
    module.train()
    channels = tuple(stage.shape[1] for stage in stages)
    strides = tuple(PROBE // stage.shape[2] for stage in stages)
    return Backbone(module, channels, strides, architecture)


def offer(name: str, architecture: Architecture, output_stride: int | None) -> str:
    """Describe what a backbone supports, for the error that it cannot be used."""
    wanted = f"backbone '{name}' must take images of any size"
    if output_stride is not None:
        wanted += f" and reach output stride {output_stride}"
    try:
        strides = create(architecture).strides
        came = f"its stages have strides {', '.join(map(str, strides))}"
    except (TypeError, AssertionError, RuntimeError, NotImplementedError):
        came = f"it does not run on a {PROBE}x{PROBE} image"
    return f"{wanted}; {came}; choose a dilatable convolutional one such as resnet50"
