"""A network written by `fakd export`, run by the runtime of its file format."""

import json
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, cast

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from PIL import Image
from torch import Tensor

from fakd.errors import InputError
from fakd.types import Classifier, Prediction, Segmenter

KEY = "fakd"
"""The metadata entry that `fakd export` writes, as JSON."""
Call = Callable[[np.ndarray], np.ndarray]


class Deployed(Segmenter):
    """An exported network, with classes, logits or probabilities at the image's size as output.

    Images are converted and batched as its metadata say. For a fixed size, other images are resized
    to it, and class ids back.

    Args:
        call: runs the file on one array.
        metadata: metadata written by `fakd export`, JSON.
        title: name of the network in error messages.

    Raises:
        InputError: the metadata are damaged, or of an unknown version.
    """

    def __init__(self, call: Call, metadata: str, title: str) -> None:
        super().__init__()
        self.call, self.title = call, title
        try:
            told: dict[str, Any] = json.loads(metadata)
            if told["format"] != 1:
                raise ValueError(f"format {told['format']}")
            self._taken = told["input"], told["order"], told["batch"]
            self.told: Mapping[str, Any] = told
            self.classes, self.output = int(told["classes"]), str(told["output"])
            self.fixed = tuple(told["size"]) if told["size"] else None
            names, palette = told["class_names"], told["palette"]
            self.class_names = tuple(names) if names else None
            self.palette = tuple((r, g, b) for r, g, b in palette) if palette else None
            self.extra = {"levels": told["levels"]}
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"the metadata of {title} cannot be read ({type(error).__name__}: {error}); export "
                "the network again"
            ) from error

    @property
    def classifier(self) -> Classifier | None:
        """None: the file provides only its output."""
        return None

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> Prediction:
        """Run the file and return logits; probabilities are converted to their logarithms.

        Raises:
            InputError: its output is class ids.
        """
        if self.output == "classes":
            self.refuse("it cannot be a teacher, nor be used with windows, flips or scales")
        shown = images.detach().float().cpu()
        if self.fixed and shown.shape[-2:] != self.fixed:
            shown = F.interpolate(shown, self.fixed, mode="bilinear", antialias=True)
        answer = torch.from_numpy(self._run(shown.numpy())).to(images.device).float()
        if self.output == "probabilities":
            answer = answer.clamp(min=torch.finfo(answer.dtype).tiny).log()
        return Prediction(answer)

    def refuse(self, consequence: str) -> NoReturn:
        """Raise an error that there are no logits."""
        raise InputError(
            f"{self.title} outputs class ids and has no logits, so {consequence}; export the "
            "network with --output logits for that"
        )

    def name_classes(
        self, images: UInt8[Tensor, "batch 3 height width"]
    ) -> Int[Tensor, "batch height width"]:
        """Run a file whose output is class ids; returns the most likely class of each pixel."""
        size = images.shape[-2:]
        if self.fixed is None or size == self.fixed:
            named = self._run(images.cpu().numpy())
        else:
            height, width = self.fixed
            shown = [
                np.asarray(Image.fromarray(each).resize((width, height), Image.Resampling.BILINEAR))
                for each in images.movedim(1, -1).contiguous().cpu().numpy()
            ]
            answers = self._run(np.stack(shown).transpose(0, 3, 1, 2))
            back = (size[1], size[0]), Image.Resampling.NEAREST
            named = np.stack([np.asarray(Image.fromarray(each).resize(*back)) for each in answers])
        return torch.from_numpy(named).to(images.device).long()

    def _run(self, images: np.ndarray) -> np.ndarray:
        """Run the file on bytes or values in [0, 1], after conversion to its input format."""
        given, (kind, order, most) = images, self._taken
        if kind == "uint8":
            if given.dtype != np.uint8:
                given = (given * 255).round().clip(0, 255).astype(np.uint8)
        else:
            given = given.astype(np.float32) / (255 if given.dtype == np.uint8 else 1)
        if kind == "normalised":
            mean, std = (
                np.array(self.told[key], np.float32)[:, None, None] for key in ("mean", "std")
            )
            given = (given - mean) / std
        given = np.ascontiguousarray(given[:, ::-1] if order == "bgr" else given)
        batch = cast(int, most or len(given))
        missing = np.repeat(given[-1:], -len(given) % batch, axis=0)
        parts = np.concatenate([given, missing]).reshape(-1, batch, *given.shape[1:])
        return np.concatenate([self.call(part) for part in parts])[: len(given)]

    def __deepcopy__(self, memo: Any) -> "Deployed":
        return self  # a session cannot be copied, and never changes
