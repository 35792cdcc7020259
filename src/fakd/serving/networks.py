"""Several networks on one image, with their classes merged by name."""

import io
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Integer
from PIL import Image

from fakd.data import default_palette, read_image
from fakd.data.layout import Levels, read_levels
from fakd.data.names import printable
from fakd.data.packed import Packed
from fakd.inference import predict_classes, resolve_inference
from fakd.report.figures import shrink_size
from fakd.serving.server import Content
from fakd.settings import Inference, InferenceOverrides
from fakd.types import Segmenter

LONGEST = 1600
"""Maximum longer side in pixels of images and maps sent to the browser."""


class ServedNetwork(NamedTuple):
    """A network on its device, and how images are fed to it."""

    title: str
    network: Segmenter
    inference: Inference
    levels: Levels
    device: torch.device


def prepare(
    title: str, network: Segmenter, inference: InferenceOverrides, device: torch.device
) -> ServedNetwork:
    """Prepare a network; images are fed to it as in training, but for what is given."""
    shown = resolve_inference(network, inference)
    levels = read_levels(network.extra.get("levels", {}), Path(title))
    return ServedNetwork(printable(title), network.to(device).eval(), shown, levels, device)


class Upload(Packed):
    """An uploaded image, which is not stored."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def __str__(self) -> str:
        return "the file"

    def read_bytes(self) -> bytes:
        """Return its bytes."""
        return self._content


class MergedClasses:
    """The classes of several networks, merged by name, in the first network's colours.

    Args:
        networks: The networks; classes without a name are named by their number.
    """

    def __init__(self, networks: Sequence[ServedNetwork]) -> None:
        colours: dict[str, tuple[int, int, int]] = {}
        named = []
        for each in networks:
            count = each.network.classes
            names = each.network.class_names or tuple(map(str, range(count)))
            palette = each.network.palette or default_palette(count)
            named.append([printable(name) for name in names])
            for name, colour in zip(named[-1], palette, strict=False):
                colours.setdefault(name, colour)
        places = {name: place for place, name in enumerate(colours)}
        self.classes = [{"name": name, "colour": list(colour)} for name, colour in colours.items()]
        self.places = [np.array([places[name] for name in names]) for names in named]
        """For each network, the merged index of each of its classes."""


def encode_photo(first: ServedNetwork, sent: bytes) -> Content:
    """Encode an image as the networks see it, upright, at a size for browsers.

    Raises:
        InputError: it cannot be decoded.
    """
    picture = Image.fromarray(_read(first, sent).permute(1, 2, 0).contiguous().numpy())
    content = io.BytesIO()
    size = shrink_size(picture.size, LONGEST)
    picture.resize(size, Image.Resampling.LANCZOS).save(content, "JPEG", quality=90)
    return Content("image/jpeg", content.getvalue())


def segment(given: ServedNetwork, places: Integer[np.ndarray, " classes"], sent: bytes) -> Content:
    """Segment an uploaded image.

    Args:
        given: The network.
        places: The merged index of each of its classes.
        sent: The file.

    Returns:
        JSON: ``width`` and ``height`` of the map, ``milliseconds`` from pixels to class ids,
            ``shares`` of the original image's pixels by merged class, and ``runs``, the run-length
            encoded map, row by row.

    Raises:
        InputError: it cannot be decoded, or not with this network's settings.
    """
    image = _read(given, sent)[None].to(given.device)
    began = time.perf_counter()
    named = predict_classes(given.network, image, given.inference)[0].cpu().numpy()
    taken = time.perf_counter() - began
    found = places[named]
    counts = np.bincount(found.ravel())
    height, width = found.shape
    wide, high = shrink_size((width, height), LONGEST)
    small = found[np.arange(high) * height // high][:, np.arange(wide) * width // wide]
    told = {
        "width": wide,
        "height": high,
        "milliseconds": round(1000 * taken, 1),
        "shares": {int(place): counts[place] / found.size for place in np.flatnonzero(counts)},
        "runs": run_lengths(small.ravel()),
    }
    return Content("application/json", json.dumps(told).encode())


def run_lengths(values: Integer[np.ndarray, " pixels"]) -> list[int]:
    """Encode values as run lengths: each value, followed by its number of repetitions.

    >>> run_lengths(np.array([7, 7, 7, 2]))
    [7, 3, 2, 1]
    """
    starts = np.flatnonzero(np.diff(values, prepend=-1))
    lengths = np.diff(starts, append=len(values))
    found: list[Any] = np.stack([values[starts], lengths], axis=1).ravel().tolist()
    return found


def _read(given: ServedNetwork, sent: bytes) -> torch.Tensor:
    return read_image(Upload(sent), given.levels)
