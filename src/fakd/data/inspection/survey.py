"""Reading headers of all files and pixels of an even sample, as far as the time goes."""

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import zip_longest
from pathlib import Path
from typing import TypeVar

from fakd.data.decode import read_image
from fakd.data.inspection.budget import Budget
from fakd.data.inspection.facts import MaskValue, SplitFacts
from fakd.data.inspection.headers import Header, read_header
from fakd.data.inspection.values import by_colour, counted, meanings
from fakd.data.pairs import Pair
from fakd.errors import InputError

LEAST = 8
"""Pairs of a split that are decoded however long it takes."""
_GOLDEN = (math.sqrt(5) - 1) / 2
_ALIKE = 4
"""Files that a finding remembers of each unknown value."""
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
Advance = Callable[[int, int], None]
"""Takes how many steps are done, and of how many."""


def spread(count: int, seed: int = 0) -> list[int]:
    """Order indices so that any beginning of the order is spread evenly.

    >>> spread(5)
    [0, 3, 1, 4, 2]
    """
    if not count:
        return []
    offset = (seed * math.sqrt(2)) % 1
    # Multiples of the golden ratio fill the gaps of those before them; dividing by their rank makes
    # the order a permutation.
    places = [(offset + _GOLDEN * index) % 1 for index in range(count)]
    ranks = {index: rank for rank, index in enumerate(sorted(range(count), key=places.__getitem__))}
    return [ranks[index] for index in range(count)]


def read_headers(splits: Sequence[SplitFacts], budget: Budget, advance: Advance) -> None:
    """Read the headers of all images and masks, in an even order, within half of the time."""
    work = _in_turn(splits)
    for done, ((split, _), results) in enumerate(
        _mapped(lambda item: _headers(item[1]), work, budget, 0.5, LEAST * len(splits)), start=1
    ):
        split.looked_at += 1
        for path, result in results:
            if isinstance(result, Header):
                split.headers[path] = result
            else:
                split.unreadable[path] = result
        advance(done, len(work))


def read_pixels(
    splits: Sequence[SplitFacts], budget: Budget, samples: int | None, advance: Advance
) -> None:
    """Decode an even sample of each split and count what its masks hold.

    Args:
        splits: What headers were read of.
        budget: The time; at least `LEAST` of each split are decoded even when it is over.
        samples: Pairs of each split, whatever the time; None for as many as it allows.
        advance: Is told how far it is.
    """
    work = _in_turn(splits, samples)
    least = len(work) if samples is not None else LEAST * len(splits)
    # What others take of the time afterwards: hashes and a picture.
    for done, ((split, pair), result) in enumerate(
        _mapped(lambda item: _values(item[1]), work, budget, 0.9, least), start=1
    ):
        _count(split, pair, result)
        advance(done, len(work))


def _in_turn(
    splits: Sequence[SplitFacts], most: int | None = None
) -> list[tuple[SplitFacts, Pair]]:
    """Take pairs of the splits by turns, each in an even order."""
    orders = [spread(len(split.listing.pairs))[:most] for split in splits]
    return [
        (split, split.listing.pairs[index])
        for turn in zip_longest(*orders)
        for split, index in zip(splits, turn, strict=True)
        if index is not None
    ]


def _mapped(
    work: Callable[[_Item], _Result],
    items: Sequence[_Item],
    budget: Budget,
    share: float,
    least: int,
) -> Iterator[tuple[_Item, _Result]]:
    """Work through items in batches until a share of the time is over."""
    size = 4 * budget.workers
    with ThreadPoolExecutor(budget.workers) as pool:
        for start in range(0, len(items), size):
            if start >= least and not budget.left(share):
                return
            batch = items[start : start + size]
            yield from zip(batch, pool.map(work, batch), strict=True)


def _headers(pair: Pair) -> list[tuple[Path, Header | str]]:
    results: list[tuple[Path, Header | str]] = []
    for path in (pair.image, pair.mask):
        if path is None or path.suffix.lower() == ".mat":
            continue
        try:
            results.append((path, read_header(path, upright=path == pair.image)))
        except InputError as error:
            results.append((path, str(error)))
    return results


_Values = tuple[dict[MaskValue, int], dict[Path, str]]


def _values(pair: Pair) -> _Values:
    """Decode a pair: pixels of each value of its mask, and files that could not be decoded."""
    failed: dict[Path, str] = {}
    try:
        read_image(pair.image)
    except InputError as error:
        failed[pair.image] = str(error)
    if pair.mask is None or pair.reader is None:
        return {}, failed
    try:
        pixels = pair.reader.raw(pair.mask)
    except InputError as error:
        failed[pair.mask] = str(error)
        return {}, failed
    return counted(pixels, by_colour(pair.reader)), failed


def _count(split: SplitFacts, pair: Pair, result: _Values) -> None:
    values, failed = result
    split.unreadable.update(failed)
    split.sample.append(pair)
    if pair.reader is None or pair.mask is None:
        return
    seen: set[int] = set()
    for value, target in zip(values, meanings(pair, values), strict=True):
        split.pixels[value] += values[value]
        split.images[value] += 1
        if target is None:
            files = split.unknown.setdefault(value, [])
            if len(files) < _ALIKE:
                files.append(pair.mask)
        else:
            split.classes[target] += values[value]
            seen.add(target)
    split.class_images.update(seen)
