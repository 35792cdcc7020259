"""The paper's figures that need the networks themselves: activation maps, examples."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from fakd.data import Sample, SegmentationData
from fakd.errors import InputError
from fakd.files import write_atomically
from fakd.inference import predict_classes, predict_logits, to_unit
from fakd.report.figures import colour, save_grid
from fakd.settings import Inference
from fakd.types import IGNORE, Segmenter


def draw_examples(
    path: Path,
    samples: Sequence[Sample],
    data: SegmentationData,
    networks: Mapping[str, Segmenter],
    inference: Inference = Inference(),
) -> None:
    """Draw each image with its truth and what every network says, one row each.

    Args:
        path: picture to write.
        samples: images, such as ``[data.val[i] for i in (0, 7)]``.
        data: where the classes' names and colours come from.
        networks: by the name to show; the teacher first, then the student alone and its methods.
        inference: how images are shown to the networks.
    """
    _require(samples, networks)
    rows, seen = [], set()
    labelled = any(sample.labels is not None for sample in samples)
    for sample in samples:
        maps = [_predict(network, sample, inference) for network in networks.values()]
        if labelled:
            truth = sample.labels
            maps.insert(0, torch.full_like(maps[0], IGNORE) if truth is None else truth)
        seen |= {int(each) for classes in maps for each in torch.unique(classes)}
        rows.append([sample.image, *(colour(classes, data.palette) for classes in maps)])
    titles = ["image", *(["truth"] if labelled else []), *networks]
    # A legend of all 150 classes of a large set would be larger than the pictures.
    legend = {data.class_names[i]: data.palette[i] for i in sorted(seen - {IGNORE})}
    save_grid(path, rows, titles, legend)


def draw_activations(
    path: Path,
    samples: Sequence[Sample],
    class_id: int,
    data: SegmentationData,
    networks: Mapping[str, Segmenter],
    inference: Inference = Inference(),
) -> None:
    """Draw where each network sees a class, laid over the image (Figure 3).

    The map is the class's logit, brought to 0 to 1 over the image.

    Args:
        path: picture to write.
        samples: images to look at.
        class_id: whose logit is shown.
        data: where the class's name comes from.
        networks: by the name to show, such as CWD and CWD+FA: without and with covariance.
        inference: how images are shown to the networks.
    """
    _require(samples, networks)
    if not 0 <= class_id < data.classes:
        raise InputError(f"expected a class id from 0 to {data.classes - 1}, got {class_id}")
    # Imported late, for it takes a second; without pyplot, which keeps figures for ever.
    from matplotlib.figure import Figure

    height, width = samples[0].image.shape[1:]
    inches = 2.4
    columns = 1 + len(networks)
    figure = Figure(
        figsize=(inches * columns + 0.8, inches * height / width * len(samples) + 0.6),
        layout="constrained",
    )
    axes = figure.subplots(len(samples), columns, squeeze=False)
    shown: Any = None
    for line, sample in zip(axes, samples, strict=True):
        line[0].imshow(sample.image.permute(1, 2, 0).numpy())
        grey = sample.image.float().mean(0).numpy()
        for axis, network in zip(line[1:], networks.values(), strict=True):
            axis.imshow(grey, cmap="gray", vmin=0, vmax=255)
            heat = activation(network, sample.image, class_id, inference)
            shown = axis.imshow(heat.numpy(), cmap="inferno", vmin=0, vmax=1, alpha=0.65)
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, title in zip(axes[0], ["image", *networks], strict=True):
        axis.set_title(title, fontsize=9)
    figure.suptitle(f"Where the networks see {data.class_names[class_id]}", fontsize=10)
    bar = figure.colorbar(shown, ax=axes, shrink=0.8, ticks=[0, 1])
    bar.set_ticklabels(["lowest", "highest"], fontsize=7)
    bar.set_label("logit within the image", fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda file: figure.savefig(file, dpi=140, format="png"))


def activation(
    network: Segmenter,
    image: UInt8[Tensor, "3 height width"],
    class_id: int,
    inference: Inference = Inference(),
) -> Float[Tensor, "height width"]:
    """Compute a class's logits, brought to 0 to 1 over the image; 0 where they are all equal.

    One view only: an average over several is one of probabilities.
    """
    inference = replace(inference, flip=False, scales=inference.scales[:1])
    device = next(network.parameters()).device
    logits = predict_logits(network, to_unit(image[None].to(device)), inference)[0, class_id].cpu()
    low, high = logits.min(), logits.max()
    return (logits - low) / (high - low).clamp(min=torch.finfo(logits.dtype).tiny)


def _predict(network: Segmenter, sample: Sample, inference: Inference) -> Tensor:
    device = next(network.parameters()).device
    return predict_classes(network, sample.image[None].to(device), inference)[0].cpu()


def _require(samples: Sequence[Sample], networks: Mapping[str, Segmenter]) -> None:
    if not samples or not networks:
        raise InputError(
            f"expected at least one image and one network to draw, got {len(samples)} and "
            f"{len(networks)}; name some"
        )
    training = [name for name, network in networks.items() if network.training]
    if training:
        raise InputError(
            f"expected networks in evaluation mode, got {', '.join(training)} in training mode; "
            "call .eval() on them"
        )
