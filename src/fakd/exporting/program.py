"""What is exported: the network with all that lies between an image's bytes and its classes."""

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

from fakd.errors import InputError, counts, require_each
from fakd.exporting.kinds import Input, Order, Output
from fakd.models import EncoderDecoder, Normalize
from fakd.models.files import own_version
from fakd.settings import Inference
from fakd.types import Segmenter


@dataclass(frozen=True)
class Form:
    """What a file takes and answers.

    Args:
        input: images of bytes; values in [0, 1]; or values that whoever runs it has normalised.
        order: of the channels that it is shown.
        output: a map of class ids at the image's size, or logits or probabilities at it.
        size: the one height and width of its images; None for any.
        batch: the one number of images it takes at a time; None for any.
        inference: how an image is resized before the network sees it; done within the file.

    Raises:
        InputError: no file can do that.
    """

    input: Input = "uint8"
    order: Order = "rgb"
    output: Output = "classes"
    size: tuple[int, int] | None = None
    batch: int | None = 1
    inference: Inference = Inference()

    def __post_init__(self) -> None:
        require_each(self, "export", counts, "of at least 1", "batch")
        if min(self.size or (1,)) < 1:
            raise InputError(f"expected --size of at least 1, got {self.size}")
        if self.size is None and self.inference.base is not None:
            raise InputError(
                "images that are fitted into --inference.base cannot be exported at any size; give "
                "--size HEIGHT,WIDTH"
            )

    @property
    def example(self) -> tuple[int, int, int, int]:
        """A shape of images to export and try with."""
        # Dimensions of 1 would be taken for fixed ones.
        return self.batch or 2, 3, *(self.size or (96, 128))


def exportable_inference(inference: Inference) -> Inference:
    """Keep the resizing of how images are shown; windows and averages are no part of a file."""
    single = inference.scales[0] if len(inference.scales) == 1 else 1.0
    scale = inference.scale * single
    return replace(inference, scale=scale, window=None, stride=None, flip=False, scales=(1.0,))


class Program(nn.Module):
    """Images as `Form` says in, classes, logits or probabilities at their size out.

    It owns a copy of the network, without auxiliary heads.

    Raises:
        InputError: the network cannot be given normalised images.
    """

    def __init__(self, network: Segmenter, form: Form) -> None:
        super().__init__()
        if not any(True for _ in network.parameters()):
            raise InputError("a network without weights of its own cannot be exported (again)")
        self.network = copy.deepcopy(network).cpu().eval().requires_grad_(False)
        self.form = form
        if isinstance(self.network, EncoderDecoder):
            self.network.auxiliary_head = None
        if form.input == "normalised":
            _statistics(network)
            self.network.normalize = nn.Identity()
        _pool_by_products(self.network)
        # The older exporter puts back the mode of the whole.
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Answer for images [batch, 3, height, width]."""
        logits, output = self.logits(images), self.form.output
        if output == "classes":
            ids = logits.argmax(1)
            return ids.to(torch.uint8 if logits.shape[1] <= 256 else torch.int32)
        return logits.softmax(1) if output == "probabilities" else logits

    def logits(self, images: Tensor) -> Tensor:
        """Compute logits at the images' size, as `fakd.inference.predict_logits` does."""
        form, unit = self.form, images
        if form.input == "uint8":
            unit = unit.float() / 255
        if form.order == "bgr":
            unit = unit.flip(1)
        size = form.size or (unit.shape[-2], unit.shape[-1])
        shown = size
        if form.inference != Inference():
            shown = form.inference.size(size) if form.size else _scaled(size, form.inference.scale)
            unit = F.interpolate(unit, shown, mode="bilinear")
        corners: dict[str, Any] = {"mode": "bilinear", "align_corners": self.network.align_corners}
        logits = F.interpolate(self.network(unit).logits.float(), shown, **corners)
        return logits if shown is size else F.interpolate(logits, size, **corners)


def _scaled(size: Any, scale: float) -> Any:
    """Scale and round as `Inference.size` does, in whole numbers, or symbols of them."""
    ratio = Fraction(str(scale))
    up, down = 2 * ratio.numerator, 2 * ratio.denominator
    return tuple((side * up + ratio.denominator) // down for side in size)


class _Pooling(nn.Module):
    """Adaptive average pooling as two matrix products, which exist at any size in any runtime."""

    def __init__(self, cells: int) -> None:
        super().__init__()
        self.cells = cells

    def forward(self, features: Tensor) -> Tensor:
        rows, cols = (self.weights(side, features) for side in features.shape[-2:])
        return rows @ features @ cols.transpose(0, 1)

    def weights(self, side: Any, like: Tensor) -> Tensor:
        """Share as many positions, a number or a symbol, out among the cells, [cells, side]."""
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
    """Put together what a file says of itself; ``facts`` are its run, licence and the like."""
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
    """Name what images must be normalised with.

    Raises:
        InputError: it is fed otherwise than red, green and blue less a mean by a deviation.
    """
    normalize = getattr(network, "normalize", None)
    if not isinstance(normalize, Normalize) or normalize.mean.numel() != 3:
        raise InputError(
            "what this network does to images in red, green and blue cannot be left to others; "
            "give --input uint8 or unit"
        )
    return {"mean": normalize.mean.flatten().tolist(), "std": normalize.std.flatten().tolist()}


def right(
    answer: Tensor, program: Program, images: Tensor, tolerance: float = 1e-3
) -> Mapping[str, float] | None:
    """Compare a file's answer with the program's; None if it is right, else by how much it is not.

    Logits may differ by ``tolerance`` of their range; a named class must be as likely as that.
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
