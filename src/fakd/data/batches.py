"""Training batches that depend only on seed and step, not on workers, ranks or resuming."""

import math
from array import array
from collections.abc import Callable, Generator, Iterable, Sequence
from fractions import Fraction
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int16, Int64, UInt8
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from fakd.data.dataset import Split
from fakd.data.rare import ClassOccurrence, RareDraw
from fakd.data.samples import Sample
from fakd.data.seeds import hash_seed
from fakd.data.transforms import Geometry, View, augment, build_extra
from fakd.errors import InputError
from fakd.memory import WORKER, require_memory
from fakd.settings import IGNORE, Augmentation
from fakd.signals import ignore

_ORDER, _AUGMENTATION, _MIX, _UNLABELLED = 1, 2, 3, 4
Lookup = Callable[[int, Geometry], tuple[Tensor, ...]]
"""Looks up maps for a sample, cropped like its view. It is called in the process that loads the
sample."""


class Batch(NamedTuple):
    """The input of one training step."""

    images: UInt8[Tensor, "batch 3 height width"]
    labels: Int16[Tensor, "batch height width"]
    """Class ids; `IGNORE` where there is none, which includes all pixels from unlabelled images."""
    indices: Int64[Tensor, " batch"]
    """Indices of the samples in the split."""
    labelled: Bool[Tensor, " batch"]
    """Whether each sample has labels itself, regardless of what is mixed in."""
    geometries: Sequence[Geometry | None]
    """Which part of its sample each image shows; None if another image is mixed in."""
    answers: Sequence[Float[Tensor, "batch _channels _rows _cols"]] = ()
    """The maps that ``lookup`` found for the samples; empty without one."""
    skipped: tuple[str, ...] = ()
    """Why samples were skipped and replaced by others."""

    def parts(self, count: int) -> list["Batch"]:
        """Split the batch into ``count`` equal parts."""
        size = len(self.images) // count
        pieces = [slice(start, start + size) for start in range(0, len(self.images), size)]
        return [
            Batch(
                self.images[piece],
                self.labels[piece],
                self.indices[piece],
                self.labelled[piece],
                self.geometries[piece],
                [each[piece] for each in self.answers],
            )
            for piece in pieces
        ]


def training_batches(
    split: Split,
    augmentation: Augmentation,
    batch_size: int,
    seed: int,
    first_step: int,
    last_step: int,
    workers: int = 0,
    rank: int = 0,
    world: int = 1,
    pin_memory: bool = False,
    broken: Literal["stop", "skip"] = "stop",
    lookup: Lookup | None = None,
    unlabelled_share: float | None = None,
    rare: tuple[ClassOccurrence, float] | None = None,
    prefetch: int = 2,
) -> Generator[Batch, None, None]:
    """Yield this rank's share of the batches of steps ``first_step`` to ``last_step - 1``.

    Sample ``step * batch_size + slot`` is taken from consecutive random permutations of the split.
    With a share of unlabelled samples, labelled and unlabelled ones have permutations of their own
    and are interleaved evenly. Permutations are drawn from (seed, epoch) and augmentation from
    (seed, step, slot), so neither the number of workers or ranks nor resuming changes a batch. A
    skipped sample is replaced by the next readable one of the same permutation. When mixing, slot i
    of the global batch receives pixels of slot i ^ 1; the last slot of an odd batch receives those
    of slot 0. A rank also loads such a partner if it belongs to another rank.

    Args:
        split: The samples to draw from.
        augmentation: How samples are augmented.
        batch_size: Samples per step over all ranks together.
        seed: Determines order and augmentation.
        first_step: The first step; above 0 when resuming.
        last_step: The step to stop before.
        workers: Number of loader processes; 0 loads in this process.
        rank: Which of the equal parts of each batch to yield.
        world: Number of parts that each batch is divided into.
        pin_memory: Copy batches to pinned memory for asynchronous transfer to a GPU.
        broken: What to do about a sample that cannot be read: stop, or skip it and report it in
            `Batch.skipped`.
        lookup: Finds the maps of `Batch.answers`.
        unlabelled_share: Share of unlabelled samples over all batches; by default labelled and
            unlabelled samples are drawn alike. 0 leaves out unlabelled ones.
        rare: Which classes occur in which images, and the temperature of rare class sampling. Each
            sample is then drawn independently, not by permutation.
        prefetch: Number of batches that each worker prefetches.

    Raises:
        InputError: the batch cannot be divided or mixed, the extra transform does not exist, a
            share needs a kind of samples of which there are none, or a sample cannot be read (with
            ``broken="skip"``, only if none can).
    """
    if batch_size < 1 or batch_size % world:
        raise InputError(
            f"batch_size must be a positive multiple of the {world} processes, got {batch_size}; "
            f"choose {max(batch_size // world, 1) * world}"
        )
    if augmentation.mix is not None and batch_size < 2:
        raise InputError("augmentation.mix needs another image; give a batch_size of at least 2")
    share = batch_size // world
    # 8-bit images and 16-bit labels: 5 bytes per pixel.
    batch = 5 * share * math.prod(augmentation.crop)
    less = "hardware.workers or hardware.prefetch" if workers else "schedule.batch_size or the crop"
    _require_memory(workers, batch * (1 + workers * prefetch), f"lower {less}")
    slots = range(rank * share, (rank + 1) * share)
    draw = _Draw(split, seed, unlabelled_share, rare)
    steps = _Steps(split, augmentation, batch_size, seed, slots, broken, lookup, draw)
    return _loaded(steps, range(first_step, last_step), workers, pin_memory, prefetch)


def mix(base: View, partner: View, augmentation: Augmentation, generator: torch.Generator) -> View:
    r"""Paste pixels and labels of another view with probability `Augmentation.mix_probability`.

    CutMix (Yun et al., 2019, arXiv 1905.04899): a rectangle with the view's aspect ratio and
    :math:`1 - \lambda` of its area, :math:`\lambda` from Beta(1, 1), entirely inside the view.
    ClassMix (Olsson et al., 2021, arXiv 2007.07936): all pixels of half of the partner's classes,
    rounded down.
    """
    chance, area, *corner = torch.rand(4, generator=generator, dtype=torch.float64).tolist()
    if chance >= augmentation.mix_probability:
        return base
    if augmentation.mix == "cutmix":
        pasted = torch.zeros_like(base.labels, dtype=torch.bool)
        sides = [int(side * math.sqrt(area) + 0.5) for side in pasted.shape]
        top, left = (
            int(draw * (whole - side + 1))
            for draw, whole, side in zip(corner, pasted.shape, sides, strict=True)
        )
        pasted[top : top + sides[0], left : left + sides[1]] = True
    else:
        classes = torch.unique(partner.labels)
        classes = classes[classes != IGNORE]
        order = torch.randperm(len(classes), generator=generator)
        pasted = torch.isin(partner.labels, classes[order[: len(classes) // 2]])
    if not pasted.any():
        return base
    image = torch.where(pasted, partner.image, base.image)
    answers = tuple(
        torch.where(_on_grid(pasted, other), other, own)
        for other, own in zip(partner.answers, base.answers, strict=True)
    )
    labels = torch.where(pasted, partner.labels, base.labels)
    return View(image, labels, base.name, None, answers)


def _on_grid(
    mask: Bool[Tensor, "height width"], maps: Float[Tensor, "_channels rows cols"]
) -> Bool[Tensor, "rows cols"]:
    """Sample a mask at the centres of a grid's cells (nearest neighbour)."""
    return F.interpolate(mask[None, None].float(), maps.shape[-2:], mode="nearest-exact")[0, 0] > 0


def evaluation_samples(
    split: Split, workers: int = 0, indices: Iterable[int] | None = None
) -> Generator[Sample, None, None]:
    """Yield samples unaugmented and in order, decoded by worker processes.

    Args:
        split: The samples.
        workers: Number of processes that decode; 0 decodes in this one.
        indices: Which samples, for a rank that evaluates a part; all by default.
    """
    chosen = range(len(split)) if indices is None else list(indices)
    _require_memory(workers, 0, "let fewer workers decode")
    return _loaded(_Samples(split), chosen, workers, pin_memory=False)


def _require_memory(workers: int, batches: int, less: str) -> None:
    """Refuse a number of workers and batches that does not fit into memory.

    Raises:
        InputError: the memory is too small; the message gives the amount needed.
    """
    taking = f"{workers:,} worker processes and their batches" if workers else "a batch"
    require_memory(workers * WORKER + batches, taking, less)


class _Draw:
    """Sample order: every draw is a position in a random permutation of its kind of samples."""

    def __init__(
        self,
        split: Split,
        seed: int,
        share: float | None,
        rare: tuple[ClassOccurrence, float] | None,
    ) -> None:
        self._seed = seed
        self._share = None if share is None else Fraction(str(share))
        self._kinds = {_ORDER: torch.arange(len(split))}
        if self._share is not None:
            labelled = torch.zeros(len(split), dtype=torch.bool)
            labelled[split.labelled_indices()] = True
            both = ((_ORDER, labelled), (_UNLABELLED, ~labelled))
            self._kinds = {kind: each.argwhere()[:, 0] for kind, each in both}
            for kind, name, used in (
                (_ORDER, "labelled", self._share < 1),
                (_UNLABELLED, "unlabelled", self._share > 0),
            ):
                if used and not len(self._kinds[kind]):
                    raise InputError(
                        f"schedule.unlabelled_share {share} needs {name} training images, but "
                        "there are none; leave it out"
                    )
        # Compact arrays, since every loader process has a copy.
        self._orders: dict[tuple[int, int], array[int]] = {}
        self._rare = None
        if rare is not None:
            rows = {_ORDER: [0, 1] if self._share is None else [1], _UNLABELLED: [0]}
            kinds = {kind: (each.numpy(), rows[kind]) for kind, each in self._kinds.items()}
            self._rare = RareDraw(*rare, seed, kinds)

    def order(self, number: int) -> tuple[Sequence[int], int]:
        """Return the permutation of draw ``number`` of the run, and the position in it."""
        kind, count = _ORDER, number
        if self._share is not None:
            before, after = (math.floor(each * self._share) for each in (number, number + 1))
            kind, count = (_UNLABELLED, before) if after > before else (_ORDER, number - before)
        if self._rare is not None and kind in self._rare:
            return self._rare.order(kind, count)
        epoch, place = divmod(count, len(self._kinds[kind]))
        if (kind, epoch) not in self._orders:
            generator = torch.Generator().manual_seed(hash_seed(self._seed, kind, epoch))
            chosen = torch.randperm(len(self._kinds[kind]), generator=generator)
            # Steps only increase, so old epochs are dropped; a batch of a small split spans
            # several.
            self._orders = {
                key: kept
                for key, kept in self._orders.items()
                if key[0] != kind or key[1] >= epoch - 1
            }
            self._orders[kind, epoch] = array("q", self._kinds[kind][chosen].numpy().tobytes())
        return self._orders[kind, epoch], place


class _Steps(Dataset):
    """The batch of each step, as the items of a loader."""

    def __init__(
        self,
        split: Split,
        augmentation: Augmentation,
        batch_size: int,
        seed: int,
        slots: range,
        broken: Literal["stop", "skip"],
        lookup: Lookup | None,
        draw: _Draw,
    ) -> None:
        self._lookup, self._draw = lookup, draw
        self._split = split
        self._augmentation = augmentation
        self._extra = build_extra(augmentation)
        self._batch_size = batch_size
        self._seed = seed
        self._slots = slots
        self._broken = broken

    def __getitem__(self, step: int) -> Batch | InputError:
        skipped: list[str] = []
        try:
            shown = [self._shown(step, slot, skipped) for slot in self._slots]
            indices, labelled, views = zip(*shown, strict=True)
            if self._augmentation.mix is not None:
                views = self._mixed(step, views)
        except InputError as error:
            return error
        return Batch(
            images=torch.stack([view.image for view in views]),
            labels=torch.stack([view.labels for view in views]),
            indices=torch.tensor(indices),
            labelled=torch.tensor(labelled),
            geometries=[view.geometry for view in views],
            answers=[torch.stack(each) for each in zip(*(v.answers for v in views), strict=True)],
            skipped=tuple(skipped),
        )

    def _shown(self, step: int, slot: int, skipped: list[str]) -> tuple[int, bool, View]:
        order, place = self._draw.order(step * self._batch_size + slot)
        generator = torch.Generator().manual_seed(hash_seed(self._seed, _AUGMENTATION, step, slot))
        index, sample = self._readable(order, place, skipped)
        view = augment(sample, self._augmentation, generator, self._extra)
        if self._lookup is not None and view.geometry is not None:
            view = view._replace(answers=self._lookup(index, view.geometry))
        return index, sample.labels is not None, view

    def _mixed(self, step: int, views: Sequence[View]) -> tuple[View, ...]:
        own, result = dict(zip(self._slots, views, strict=True)), []
        for slot, view in own.items():
            beside = slot ^ 1 if slot ^ 1 < self._batch_size else 0
            # Skipped samples of this slot are counted by the rank that owns it.
            partner = own[beside] if beside in own else self._shown(step, beside, [])[2]
            generator = torch.Generator().manual_seed(hash_seed(self._seed, _MIX, step, slot))
            result.append(mix(view, partner, self._augmentation, generator))
        return tuple(result)

    def _readable(self, order: Sequence[int], place: int, skipped: list[str]) -> tuple[int, Sample]:
        """Load the sample at a position of a permutation, or the next one that can be read."""
        for further in range(len(order)):
            index = order[(place + further) % len(order)]
            try:
                return index, _read(self._split, index)
            except InputError as error:
                if self._broken == "stop":
                    raise InputError(f"{error}, or leave it out with --broken skip") from error
                skipped.append(str(error))
        raise InputError(
            f"none of {len(order)} training samples can be read; the last one: {skipped[-1]}"
        )


class _Samples(Dataset):
    """The samples of a split without augmentation."""

    def __init__(self, split: Split) -> None:
        self._split = split

    def __getitem__(self, index: int) -> Sample | InputError:
        try:
            return _read(self._split, index)
        except InputError as error:
            return error


def _read(split: Split, index: int) -> Sample:
    sample = split[index]
    if sample.labels is not None and sample.labels.dtype != torch.int16:
        raise InputError(
            f"expected labels of {torch.int16} with {IGNORE} where there is no class, got "
            f"{sample.labels.dtype} for {sample.name}; convert them in the data set"
        )
    return sample


def _loaded(
    items: Dataset, order: Sequence[int], workers: int, pin_memory: bool, prefetch: int = 2
) -> Generator:
    # Workers beyond the number of items would have nothing to do.
    workers = min(workers, len(order))
    loader = DataLoader(
        items,
        batch_size=None,
        sampler=order,
        num_workers=workers,
        prefetch_factor=prefetch if workers else None,
        collate_fn=_unchanged,
        pin_memory=pin_memory,
        worker_init_fn=ignore,
    )
    for item in loader:
        # Raised inside a worker, it would reach the user wrapped in that process's traceback.
        if isinstance(item, InputError):
            raise item
        yield item


def _unchanged(item: object) -> object:
    return item
