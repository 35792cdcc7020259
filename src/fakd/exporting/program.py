"""The exported program: the network with everything from image bytes to classes."""

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from fractions import Fraction
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fakd.errors import InputError, is_count, require_each
from fakd.exporting.kinds import Input, Order, Output
from fakd.models import EncoderDecoder, Normalize
from fakd.models.files import own_version
from fakd.settings import Inference
from fakd.types import Segmenter


@dataclass(frozen=True)
class Form:
    """Inputs and outputs of an exported file.

    Args:
        input: Images as bytes, values in [0, 1], or values normalised by the caller.
        order: Channel order of the input.
        output: A map of class ids at the image's size, or logits or probabilities at that size.
        size: Fixed height and width of images; None for any.
        batch: Fixed batch size; None for any.
        inference: How an image is resized for the network, inside the file.

    Raises:
        InputError: these cannot be combined.
    """

    input: Input = "uint8"
    order: Order = "rgb"
    output: Output = "classes"
    size: tuple[int, int] | None = None
    batch: int | None = 1
    inference: Inference = Inference()

    def __post_init__(self) -> None:
        require_each(self, "export", is_count, "of at least 1", "batch")
        if min(self.size or (1,)) < 1:
            raise InputError(f"expected --size of at least 1, got {self.size}")
        if self.size is None and self.inference.base is not None:
            raise InputError(
                "a network with --inference.base cannot be exported for images of any size; give "
                "--size HEIGHT,WIDTH"
            )

    @property
    def example(self) -> tuple[int, int, int, int]:
        """The image shape for export and tests."""
        # The exporter would treat dimensions of 1 as fixed.
        return self.batch or 2, 3, *(self.size or (96, 128))


def exportable_inference(inference: Inference) -> Inference:
    """Keep only the resizing of an inference; windows and averages cannot be exported."""
    single = inference.scales[0] if len(inference.scales) == 1 else 1.0
    scale = inference.scale * single
    return replace(inference, scale=scale, window=None, stride=None, flip=False, scales=(1.0,))


class Program(nn.Module):
    """Map images, as described by `Form`, to classes, logits or probabilities at their size.

    It holds a copy of the network, without auxiliary heads.

    Raises:
        InputError: the network does not support normalised images.
    """

    def __init__(self, network: Segmenter, form: Form) -> None:
        super().__init__()
        if not any(True for _ in network.parameters()):
            raise InputError("a network without its own weights cannot be exported (again)")
        self.network = copy.deepcopy(network).cpu().eval().requires_grad_(False)
        self.form = form
        if isinstance(self.network, EncoderDecoder):
            self.network.auxiliary_head = None
        if form.input == "normalised":
            _statistics(network)
            self.network.normalize = nn.Identity()
        _pool_by_products(self.network)
        # The older exporter restores the mode of the whole module.
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Compute the output for images [batch, 3, height, width]."""
        logits, output = self.logits(images), self.form.output
        if output == "classes":
            ids = logits.argmax(1)
            return ids.to(torch.uint8 if logits.shape[1] <= 256 else torch.int32)
        return logits.softmax(1) if output == "probabilities" else logits

    def logits(self, images: Tensor) -> Tensor:
        """Compute logits at the images' size, like `fakd.inference.predict_logits`."""
        form, unit = self.form, images
        if form.input == "uint8":
            unit = unit.float() / 255
        if form.order == "bgr":
            unit = unit.flip(1)
        size = form.size or (unit.shape[-2], unit.shape[-1])
        shown = size
        if form.inference != Inference():
            shown = (
                form.inference.size(size) if form.size else _scale_size(size, form.inference.scale)
            )
            unit = F.interpolate(unit, shown, mode="bilinear")
        corners: dict[str, Any] = {"mode": "bilinear", "align_corners": self.network.align_corners}
        logits = F.interpolate(self.network(unit).logits.float(), shown, **corners)
        return logits if shown is size else F.interpolate(logits, size, **corners)


def _scale_size(size: Any, scale: float) -> Any:
    """Scale and round like `Inference.size`, in integers or symbolic integers."""
    ratio = Fraction(str(scale))
    up, down = 2 * ratio.numerator, 2 * ratio.denominator
    return tuple((side * up + ratio.denominator) // down for side in size)


class _Pooling(nn.Module):
    """Adaptive average pooling as two matrix products, which every runtime supports at any size."""

    def __init__(self, cells: int) -> None:
        super().__init__()
        self.cells = cells

    def forward(self, features: Tensor) -> Tensor:
        rows, cols = (self.weights(side, features) for side in features.shape[-2:])
        return rows @ features @ cols.transpose(0, 1)

    def weights(self, side: Any, like: Tensor) -> Tensor:
        """Return averaging weights, [cells, side], of ``side`` positions, a number or a symbol."""
        cell = torch.arange(self.cells, device=like.device)[:, None]
        position = torch.arange(side, device=like.device)[None]
        first = cell * side // self.cells
        last = ((cell + 1) * side + self.cells - 1) // self.cells
        inside = ((position >= first) & (position < last)).to(like.dtype)
        shares: Tensor = inside / inside.sum(1, keepdim=True)
        return shares


def _pool_by_products(network: nn.Module) -> None:
    for name, module in list(network.named_modules()):
        if isinstance(module, nn.AdaptiveAvgPool2d) and module.output_size in (2, 3, 6):
            network.set_submodule(name, _Pooling(module.output_size))


def metadata(network: Segmenter, form: Form, **facts: Any) -> dict[str, Any]:
    """Build the metadata of a file; ``facts`` are its run, licence and the like."""
    return {
        "format": 1,
        "classes": network.classes,
        "class_names": list(network.class_names) if network.class_names else None,
        "palette": [list(each) for each in network.palette] if network.palette else None,
        "input": form.input,
        "order": form.order,
        **(_statistics(network) if form.input == "normalised" else {}),
        "size": list(form.size) if form.size else None,
        "batch": form.batch,
        "output": form.output,
        "resized": {"scale": form.inference.scale, "base": form.inference.base},
        "levels": json.loads(json.dumps(dict(network.extra.get("levels", {})))),
        "parameters": sum(each.numel() for each in network.parameters()),
        "fakd_version": own_version(),
        "exported": datetime.now(UTC).isoformat(timespec="seconds"),
        **facts,
    }


def _statistics(network: Segmenter) -> dict[str, list[float]]:
    """Return the mean and standard deviation for normalising images.

    Raises:
        InputError: the network's input is not RGB normalised by mean and standard deviation.
    """
    normalize = getattr(network, "normalize", None)
    if not isinstance(normalize, Normalize) or normalize.mean.numel() != 3:
        raise InputError(
            "this network does not normalise RGB images by a mean and a standard deviation, so "
            "its input cannot be normalised outside; give --input uint8 or unit"
        )
    return {"mean": normalize.mean.flatten().tolist(), "std": normalize.std.flatten().tolist()}


def output_mismatch(
    answer: Tensor, program: Program, images: Tensor, tolerance: float = 1e-3
) -> Mapping[str, float] | None:
    """Compare a file's output with the program's; None if it is correct, else the difference.

    Logits may differ by ``tolerance`` times their range; the logit of a predicted class may be
    below the maximum by as much.
    """
    with torch.no_grad():
        logits = program.logits(images)
    limit = tolerance * float(logits.max() - logits.min())
    if program.form.output == "classes":
        said = logits.gather(1, answer.long()[:, None]).squeeze(1)
        off = float((logits.amax(1) - said).max())
    elif program.form.output == "probabilities":
        off, limit = float((answer - logits.softmax(1)).abs().max()), tolerance
    else:
        off = float((answer - logits).abs().max())
    return None if off <= limit else {"off": off, "limit": limit}
