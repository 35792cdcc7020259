"""The paper's pictures from finished runs: which images, class and networks they show."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from fakd.comparing.comparison import find_method
from fakd.data import SegmentationData
from fakd.errors import InputError
from fakd.report.examination import TEACHER, spaced
from fakd.report.network_figures import draw_activations, draw_examples
from fakd.report.opening import inference_of, open_data_of, open_networks
from fakd.report.paper.figures import class_means, file_tail
from fakd.runs.naming import ALONE, title_of
from fakd.runs.reading import Run, by_pair
from fakd.settings import Inference
from fakd.types import Segmenter

Methods = Mapping[str, Sequence[Run]]
_BASES = ("cwd", "pd")


@dataclass(frozen=True)
class _Opened:
    """What the pictures of a pair are made of."""

    tail: str
    methods: Methods
    """The student alone and a loss with and without augmentation, as far as there are runs."""
    data: SegmentationData
    networks: Mapping[str, Segmenter]
    inference: Inference


def write_pictures(
    runs: Sequence[Run],
    out: Path,
    images: int,
    shown_class: str | None,
    device: torch.device,
) -> tuple[list[Path], list[str]]:
    """Draw Figure 3 and a grid of examples of every pair whose data and networks can be opened.

    The examples, evenly spaced validation images, show the teacher, the student alone, and CWD (or
    PD) with and without augmentation. Figure 3 shows images with many pixels of its class, as the
    teacher and the two that augmentation tells apart see it.

    Args:
        runs: finished runs.
        out: folder to write to.
        images: how many each picture shows.
        shown_class: name of the class of Figure 3; None for the one whose IoU augmentation changed
            most.
        device: where the networks run.

    Returns:
        The files, and why any picture is missing.

    Raises:
        InputError: no data set has a class of that name.
    """
    groups = by_pair(runs)
    names = {name for methods in groups.values() for name in _first(methods).class_names}
    if shown_class is not None and shown_class not in names:
        raise InputError(
            f"expected one of the classes {', '.join(sorted(names))}, got {shown_class!r}"
        )
    written: list[Path] = []
    missing: list[str] = []
    for (data, pair), methods in groups.items():
        try:
            opened, problems = _open(file_tail(data, pair), methods, device)
        except InputError as error:
            missing.append(f"No pictures of {pair} on {data}: {error}.")
            continue
        missing += problems
        if opened.networks:
            out.mkdir(parents=True, exist_ok=True)
            written.append(_examples(opened, out, images))
            written += _activations(opened, out, images, shown_class)
    return written, missing


def shown_methods(methods: Methods) -> dict[str, Sequence[Run]]:
    """Choose what the pictures show: the student alone, and CWD or else PD, plain and augmented.

    The first four methods where there is neither.
    """
    alone = find_method(methods, ALONE)
    for base in _BASES:
        found = [find_method(methods, name) for name in (base, f"{base}-fa")]
        if any(found):
            return {name: methods[name] for name in (alone, *found) if name}
    return dict(list(methods.items())[:4])


def most_changed(plain: Sequence[Run], augmented: Sequence[Run]) -> int:
    """Find the class whose mean IoU augmentation raised or lowered most."""
    change = np.abs(class_means(augmented) - class_means(plain))
    return int(np.nanargmax(change)) if np.isfinite(change).any() else 0


def richest_images(run: Run, class_id: int, total: int, most: int) -> list[int]:
    """Choose, of each of as many equal parts of the set, the image with most pixels of a class.

    The parts keep neighbouring frames of a film apart. Evenly spaced images where the run did not
    count its own.
    """
    if run.images is None or len(run.images.names) != total:
        return spaced(total, most)
    pixels = run.images.pixels.truth[:, class_id]
    parts = np.array_split(np.arange(total), min(total, most))
    return [int(part[pixels[part].argmax()]) for part in parts]


def _open(tail: str, methods: Methods, device: torch.device) -> tuple[_Opened, list[str]]:
    shown = shown_methods(methods)
    run = _first(shown)
    data = open_data_of(run)
    networks, problems = open_networks(shown, device)
    return _Opened(tail, shown, data, networks, inference_of(run)), problems


def _examples(opened: _Opened, out: Path, images: int) -> Path:
    val = opened.data.val
    samples = [val[index] for index in spaced(len(val), images)]
    path = out / f"examples-{opened.tail}.png"
    draw_examples(path, samples, opened.data, opened.networks, opened.inference)
    return path


def _activations(opened: _Opened, out: Path, images: int, shown_class: str | None) -> list[Path]:
    base, plain, augmented = next(_augmented(opened.methods), ("", "", ""))
    titles = [TEACHER, title_of(plain), title_of(augmented)]
    networks = {title: opened.networks[title] for title in titles if title in opened.networks}
    names, val = opened.data.class_names, opened.data.val
    if not base or not networks or (shown_class is not None and shown_class not in names):
        return []
    before, after = opened.methods[plain], opened.methods[augmented]
    class_id = names.index(shown_class) if shown_class else most_changed(before, after)
    samples = [val[index] for index in richest_images(before[0], class_id, len(val), images)]
    path = out / f"figure-3-{base}-{opened.tail}.png"
    draw_activations(path, samples, class_id, opened.data, networks, opened.inference)
    return [path]


def _augmented(methods: Methods) -> Iterator[tuple[str, str, str]]:
    """Yield base, plain method and augmented method, for each base that has both."""
    for base in _BASES:
        plain, augmented = find_method(methods, base), find_method(methods, f"{base}-fa")
        if plain and augmented:
            yield base, plain, augmented


def _first(methods: Methods) -> Run:
    return next(iter(methods.values()))[0]
