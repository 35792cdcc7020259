"""The three places where timm's backbones differ from the ones the published weights belong to.

Names and shapes agree, so weights load without complaint and the outputs are silently wrong.
"""

from jaxtyping import Float
from timm.models.hrnet import HighResolutionModule
from timm.models.resnet import BasicBlock
from torch import Tensor, nn

from fakd.models.convolution import resize


def undilate_second_convolutions(resnet: nn.Module) -> None:
    """Let only the first 3x3 convolution of a basic block be dilated; timm dilates both."""
    for block in resnet.modules():
        if isinstance(block, BasicBlock):
            set_dilation(block.conv2, 1)


def dilate_first_blocks_only(mobilenet: nn.Module) -> None:
    """Dilate the depthwise convolution of the first block of a stage, never of the others.

    At output stride 8 the stages of 64 and 96 channels (3 and 4) have dilation 2, those of 160 and
    320 (5 and 6) dilation 4; timm spreads the dilation over all blocks of a stage instead. Its
    last block tells which output stride the network was built for.
    """
    last = mobilenet.get_submodule("blocks.6.0.conv_dw").dilation
    deepest = last[0] if isinstance(last, tuple) else 1
    first = {3: deepest // 2, 4: deepest // 2, 5: deepest, 6: deepest}
    for number, stage in enumerate(mobilenet.get_submodule("blocks").children()):
        for position, block in enumerate(stage.children()):
            dilation = max(1, first.get(number, 1)) if position == 0 else 1
            set_dilation(block.get_submodule("conv_dw"), dilation)


def set_dilation(convolution: nn.Module, dilation: int) -> None:
    """Change a 3x3 convolution's dilation, with the padding that keeps the size."""
    if not isinstance(convolution, nn.Conv2d):
        raise TypeError(f"expected a Conv2d to dilate, got {type(convolution).__name__}")
    convolution.dilation = (dilation, dilation)
    convolution.padding = (dilation, dilation)


class BilinearFusion(HighResolutionModule):
    """HRNet's exchange between resolutions with bilinear upsampling, for images of any size.

    timm copies pixels (nearest) and needs sizes that divide by 32. Here a coarse map is enlarged
    by its stride ratio, then once more to the finer map's exact size where that differs.
    """

    def forward(self, x: list[Float[Tensor, "batch _ _ _"]]) -> list[Float[Tensor, "batch _ _ _"]]:
        """Run the branches, then sum what each resolution sends to each."""
        maps = [branch(features) for branch, features in zip(self.branches, x, strict=True)]
        fused = []
        for paths, target in zip(self.fuse_layers, maps, strict=False):
            total = paths[0](maps[0])
            for path, source in zip(paths[1:], maps[1:], strict=True):
                term = path(source)
                total = total + (term if term.shape == total.shape else resize(term, like=target))
            fused.append(self.fuse_act(total))
        return fused


def fuse_bilinearly(hrnet: nn.Module) -> None:
    """Replace the fusion of every HRNet module by `BilinearFusion`."""
    for module in hrnet.modules():
        if isinstance(module, HighResolutionModule):
            module.__class__ = BilinearFusion
        elif isinstance(module, nn.Upsample):
            module.mode, module.align_corners = "bilinear", False
