"""The paper's pictures from finished runs: activation maps (Figure 3) and examples."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from fakd.comparing.verdict import augmented_pairs, find_method
from fakd.data import Sample, SegmentationData
from fakd.errors import InputError
from fakd.inference import predict_classes, predict_logits, to_unit
from fakd.report.examination import (
    TEACHER,
    evenly_spaced,
    inference_of,
    open_data_of,
    open_networks,
)
from fakd.report.figures import colour, figure, save, save_grid, show_pictures
from fakd.report.methods import class_iou
from fakd.report.paper import file_tail
from fakd.runs.naming import ALONE, title_of
from fakd.runs.reading import Methods, Run, by_pair
from fakd.settings import Inference
from fakd.types import IGNORE, Segmenter

OPACITY = 0.65
"""Opacity of a map over its image."""


def write_pictures(
    runs: Sequence[Run], out: Path, images: int, shown_class: str | None, device: torch.device
) -> tuple[list[Path], list[str]]:
    """Draw Figure 3 and a grid of examples for every pair whose data and networks can be opened.

    The examples, evenly spaced validation images, show the teacher, the student alone, and CWD (or
    PD) with and without augmentation. Figure 3 shows images with many pixels of its class, as seen
    by the teacher and by the students with and without augmentation.

    Args:
        runs: Finished runs.
        out: Output folder.
        images: Number of images in each picture.
        shown_class: The class of Figure 3; None for the one whose IoU augmentation changed most.
        device: The device for the networks.

    Returns:
        The files, and why any picture is missing.

    Raises:
        InputError: no data set has a class of that name.
    """
    names = {name for run in runs for name in run.class_names}
    if shown_class is not None and shown_class not in names:
        raise InputError(
            f"expected one of the classes {', '.join(sorted(names))}, got {shown_class!r}"
        )
    written: list[Path] = []
    missing: list[str] = []
    for (name, pair), methods in by_pair(runs).items():
        tail, shown = file_tail(name, pair), shown_methods(methods)
        first = next(iter(shown.values()))[0]
        try:
            data = open_data_of(first)
        except InputError as error:
            missing.append(f"No pictures of {pair} on {name}: {error}.")
            continue
        inference = inference_of(first)
        networks, problems = open_networks(shown, device)
        missing += problems
        if not networks:
            continue
        samples = [data.val[index] for index in evenly_spaced(len(data.val), images)]
        written.append(out / f"examples-{tail}.png")
        draw_examples(written[-1], samples, data, networks, inference)
        for base, plain, augmented in augmented_pairs(shown):
            titles = [TEACHER, *(title_of(runs[0].method) for runs in (plain, augmented))]
            seeing = {title: networks[title] for title in titles if title in networks}
            # Another pair's data may have the class while these do not.
            if not seeing or (shown_class and shown_class not in data.class_names):
                continue
            changed = most_changed(plain, augmented)
            class_id = data.class_names.index(shown_class) if shown_class else changed
            richest = richest_images(plain[0], class_id, len(data.val), images)
            samples = [data.val[index] for index in richest]
            written.append(out / f"figure-3-{base}-{tail}.png")
            draw_activations(written[-1], samples, class_id, data, seeing, inference)
    return written, missing


def shown_methods(methods: Methods) -> dict[str, Sequence[Run]]:
    """Choose the methods to show: the student alone, and CWD or else PD, plain and augmented.

    The first four methods if there is neither.
    """
    alone = find_method(methods, ALONE)
    for base in ("cwd", "pd"):
        found = [find_method(methods, name) for name in (base, f"{base}-fa")]
        if any(found):
            return {name: methods[name] for name in (alone, *found) if name}
    return dict(list(methods.items())[:4])


def most_changed(plain: Sequence[Run], augmented: Sequence[Run]) -> int:
    """Find the class whose mean IoU augmentation changed most."""
    change = np.abs(class_iou(augmented)[0] - class_iou(plain)[0])
    return int(np.nanargmax(change)) if np.isfinite(change).any() else 0


def richest_images(run: Run, class_id: int, total: int, most: int) -> list[int]:
    """Choose the image with most pixels of a class from each of ``most`` equal parts of the set.

    The parts keep neighbouring frames of a film apart. Evenly spaced images are chosen if the run
    did not record class pixels per image.
    """
    if run.images is None or len(run.images.names) != total:
        return evenly_spaced(total, most)
    pixels = run.images.pixels.truth[:, class_id]
    parts = np.array_split(np.arange(total), min(total, most))
    return [int(part[pixels[part].argmax()]) for part in parts]


def draw_examples(
    path: Path,
    samples: Sequence[Sample],
    data: SegmentationData,
    networks: Mapping[str, Segmenter],
    inference: Inference = Inference(),
) -> None:
    """Draw each image with its ground truth and every network's prediction, one row each."""
    _require(samples, networks)
    rows, seen = [], set()
    device = next(next(iter(networks.values())).parameters()).device
    for sample in samples:
        shown = sample.image[None].to(device)
        maps = [predict_classes(each, shown, inference)[0].cpu() for each in networks.values()]
        truth = torch.full_like(maps[0], IGNORE) if sample.labels is None else sample.labels
        seen |= {number for each in (truth, *maps) for number in torch.unique(each).tolist()}
        rows.append([sample.image, *(colour(each, data.palette) for each in (truth, *maps))])
    # A legend of all 150 classes of a large data set would be larger than the pictures.
    legend = {data.class_names[i]: data.palette[i] for i in sorted(seen - {IGNORE})}
    save_grid(path, rows, ["image", "truth", *networks], legend)


def draw_activations(
    path: Path,
    samples: Sequence[Sample],
    class_id: int,
    data: SegmentationData,
    networks: Mapping[str, Segmenter],
    inference: Inference = Inference(),
) -> None:
    """Draw the activation map of a class for each network over the image (Figure 3).

    The map is the class's logit, scaled to 0 to 1 within the image.
    """
    _require(samples, networks)
    if not 0 <= class_id < data.classes:
        raise InputError(f"expected a class id from 0 to {data.classes - 1}, got {class_id}")
    rows = []
    for image in (sample.image for sample in samples):
        heat = (activation(each, image, class_id, inference) for each in networks.values())
        rows.append([image, *(heat_map(image, each) for each in heat)])
    height, width = samples[0].image.shape[1:]
    inches = 2.4
    size = inches * len(rows[0]) + 0.8, inches * height / width * len(rows) + 0.6
    with figure(*size) as drawn:
        axes = show_pictures(drawn, rows, ["image", *networks])
        drawn.suptitle(f"Activation of {data.class_names[class_id]}", fontsize=10)
        bar = drawn.colorbar(_heat_colours(), ax=axes, shrink=0.8, ticks=[0, 1], alpha=OPACITY)
        bar.set_ticklabels(["lowest", "highest"], fontsize=7)
        bar.set_label("logit within the image", fontsize=8)
        save(drawn, path)


def heat_map(
    image: UInt8[Tensor, "3 height width"], heat: Float[Tensor, "height width"]
) -> UInt8[Tensor, "3 height width"]:
    """Blend a map of 0 to 1 with the grey image: dark at 0, bright at 1."""
    colours = torch.from_numpy(_heat_colours().to_rgba(heat.numpy())[..., :3]).permute(2, 0, 1)
    grey = image.float().mean(0, keepdim=True).expand(3, -1, -1)
    return grey.lerp(255 * colours.float(), OPACITY).round().to(torch.uint8)


def _heat_colours() -> Any:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    return ScalarMappable(Normalize(0, 1), "inferno")


def activation(
    network: Segmenter,
    image: UInt8[Tensor, "3 height width"],
    class_id: int,
    inference: Inference = Inference(),
) -> Float[Tensor, "height width"]:
    """Compute a class's logits, scaled to 0 to 1 within the image; 0 if they are all equal.

    A single view is used, since averages over several views are probabilities.
    """
    inference = replace(inference, flip=False, scales=inference.scales[:1])
    device = next(network.parameters()).device
    logits = predict_logits(network, to_unit(image[None].to(device)), inference)[0, class_id].cpu()
    low, high = logits.min(), logits.max()
    return (logits - low) / (high - low).clamp(min=torch.finfo(logits.dtype).tiny)


def _require(samples: Sequence[Sample], networks: Mapping[str, Segmenter]) -> None:
    if not samples or not networks:
        raise InputError(
            f"expected at least one image and one network to draw, got {len(samples)} and "
            f"{len(networks)}"
        )
    training = [name for name, network in networks.items() if network.training]
    if training:
        raise InputError(
            f"expected networks in evaluation mode, got {', '.join(training)} in training mode; "
            "call .eval() on them"
        )
