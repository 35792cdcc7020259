"""Looking a data set over before anything is trained: what is there, and what to fix."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fakd.data.dataset import SegmentationData
from fakd.data.inspection.budget import Budget
from fakd.data.inspection.facts import MaskValue, SplitFacts
from fakd.data.inspection.finding import Finding, Weight
from fakd.data.inspection.findings import RARE, findings
from fakd.data.inspection.opening import Opened, open_listed, open_path
from fakd.data.inspection.survey import read_headers, read_pixels, spread
from fakd.data.inspection.twins import identical
from fakd.data.inspection.values import meanings

__all__ = [
    "RARE",
    "Finding",
    "Inspection",
    "MaskValue",
    "Opened",
    "SplitFacts",
    "Weight",
    "inspected",
    "meanings",
    "spread",
]


@dataclass
class Inspection:
    """What was seen in a data set, and what follows."""

    opened: Opened
    splits: list[SplitFacts]
    findings: list[Finding]

    @property
    def usable(self) -> bool:
        """Whether training would get through."""
        return not any(finding.weight is Weight.STOPS for finding in self.findings)


def inspected(
    data: SegmentationData | Path,
    description: Path | None = None,
    samples: int | None = None,
    seconds: float | None = None,
    workers: int = 0,
    advance: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> Inspection:
    """Look a data set over.

    Args:
        data: A folder, a .yaml file, or a data set of files that is open already.
        description: The YAML file of a folder, if it does not stand in it.
        samples: Pairs of each split that are decoded; None for as many as the time allows.
        seconds: When to come to an end; None for never.
        workers: Threads that read files.
        advance: Is told what is done, how much of it and how much there is.

    Raises:
        InputError: there is no data set, or none whose parts can be told.
    """
    budget = Budget(seconds, workers)
    opened = (
        open_listed(data) if isinstance(data, SegmentationData) else open_path(data, description)
    )
    splits = [SplitFacts(listing) for listing in opened.splits]
    read_headers(splits, budget, lambda done, total: advance("files", done, total))
    read_pixels(splits, budget, samples, lambda done, total: advance("pixels", done, total))
    twins = identical(splits, budget)
    return Inspection(opened, splits, findings(opened, splits, twins))
