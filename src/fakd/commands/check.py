"""`fakd data check`: the content of a data set, and what to fix before training."""

import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from fakd.console import open_console
from fakd.errors import InputError, count_noun
from fakd.files import write_text
from fakd.training.progress import StepProgress

if TYPE_CHECKING:
    from fakd.inspection import Finding, Inspection, SplitFacts

_PICTURE = Path("data-check.png")
_PATIENCE = 1.0
"""Seconds before progress is shown."""


def check(
    path: Path,
    description: Path | None = None,
    out: Path = _PICTURE,
    samples: int | None = None,
    seconds: float = 40.0,
    workers: int = 0,
    everything: bool = False,
    save: Path | None = None,
) -> dict[str, Any]:
    """Check a data set in under a minute, and say what to fix.

    Lists all files, reads as many headers as time allows, and decodes an even sample. The paper's
    sets are recognised by their folders; for other folders without a dataset.yaml, one is proposed.
    Polygons and the like (COCO, labelme, Supervisely, YOLO) are drawn as masks into the folder
    given by --save. Nothing is written into the data.

    Args:
        path: a folder or the .yaml file that describes one.
        description: the .yaml file, if it is not in the folder.
        out: a PNG of eight images and their classes; an existing one is replaced.
        samples: pairs of each split to decode; by default as many as time allows, at least 8.
        seconds: time limit.
        workers: threads that read files.
        everything: read and decode every file, without a time limit.
        save: a new folder for the proposed dataset.yaml, its lists of names, and rasterised masks;
            train with it as --data.

    Returns:
        The results, JSON-serialisable; ``usable`` tells whether training would run.
    """
    if seconds <= 0:
        raise InputError(f"--seconds must be above 0, got {seconds}; give, for example, 40")
    if samples is not None and samples < 1:
        raise InputError(
            f"--samples must be at least 1, got {samples}; leave it out to use the time limit"
        )
    if out.suffix.lower() != ".png":
        raise InputError(f"--out must end in .png, got {out}; name it {out.with_suffix('.png')}")
    # Imported here to keep `fakd data check --help` fast.
    from fakd.inspection import inspect_data

    console = open_console()
    with ExitStack() as shown:
        inspection = inspect_data(
            path,
            description,
            samples=None if everything else samples,
            seconds=None if everything else seconds,
            workers=workers,
            save=save,
            advance=_Display(console, shown),
        )
    _print(console, inspection)
    picture = _draw(console, inspection, out)
    if save is not None:
        _save(console, inspection, save)
    print_findings(console, inspection.findings)
    return _summary(inspection, picture)


class _Display:
    """Shows progress, once the check has taken a moment."""

    def __init__(self, console: Console, shown: ExitStack) -> None:
        self._console, self._shown = console, shown
        self._began = time.monotonic()
        self._bars: dict[str, StepProgress] = {}

    def __call__(self, what: str, done: int, total: int) -> None:
        if what not in self._bars:
            if time.monotonic() - self._began < _PATIENCE:
                return
            # Only one live display is possible at a time.
            self._shown.close()
            bar = StepProgress(self._console, f"check: {what}", total)
            self._bars[what] = self._shown.enter_context(bar)
        self._bars[what].show(done, {})


def _print(console: Console, inspection: "Inspection") -> None:
    from fakd.report.dataset import class_histogram, file_table

    opened = inspection.opened
    console.print(f"{opened.title}: {opened.origin}", style="bold", soft_wrap=True)
    console.print(file_table(inspection))
    if opened.proposal is not None:
        console.print("\nproposed dataset.yaml:\n", style="bold")
        console.print(opened.proposal.text, soft_wrap=True)
    if any(split.pixels for split in inspection.splits):
        console.print(class_histogram(inspection))


def print_findings(console: Console, findings: "list[Finding]") -> None:
    """Print what to fix, most important first."""
    from fakd.inspection import Severity

    if not findings:
        console.print("\nnothing to fix", style="bold green")
        return
    colours = {Severity.STOPS: "red", Severity.HARMS: "yellow", Severity.TELLS: "cyan"}
    words = {Severity.STOPS: "must", Severity.HARMS: "should", Severity.TELLS: "note"}
    console.print("\nwhat to fix", style="bold")
    for finding in findings:
        console.print(f"{words[finding.severity]:>6}", style=colours[finding.severity], end="  ")
        console.print(finding.text, soft_wrap=True)


def _draw(console: Console, inspection: "Inspection", out: Path) -> Path | None:
    from fakd.report.dataset import save_overlays

    root = inspection.opened.root.resolve()
    if root in out.resolve().parents and (out == _PICTURE or out.exists()):
        console.print("no picture: it would be written into the data; choose another --out")
        return None
    drawn = save_overlays(out, inspection)
    if not drawn:
        console.print("no picture: no pair of image and mask can be read")
        return None
    console.print(f"{count_noun(drawn, 'image')} with masks: {out}", soft_wrap=True)
    return out


def _save(console: Console, inspection: "Inspection", folder: Path) -> None:
    written = [folder]
    if (proposal := inspection.opened.proposal) is not None:
        contents = proposal.files(folder)
        for name, content in contents.items():
            write_text(folder / name, content)
        written = [folder / name for name in contents]
    console.print(f"written: {', '.join(map(str, written))}", soft_wrap=True)
    console.print(f"train with: --data {folder}", soft_wrap=True)


def _summary(inspection: "Inspection", picture: Path | None) -> dict[str, Any]:
    opened = inspection.opened
    names = opened.description.class_names
    return {
        "data": opened.title,
        "origin": opened.origin,
        "usable": inspection.usable,
        "fix": [
            {"severity": finding.severity.name.lower(), "text": finding.text}
            for finding in inspection.findings
        ],
        "splits": {split.listing.split: _numbers(split, names) for split in inspection.splits},
        "proposal": None if opened.proposal is None else opened.proposal.text,
        "picture": None if picture is None else str(picture),
    }


def _numbers(split: "SplitFacts", names: tuple[str, ...]) -> dict[str, Any]:
    return {
        "pairs": len(split.listing.pairs),
        "images_without_masks": len(split.listing.images_alone),
        "masks_without_images": len(split.listing.masks_alone),
        "headers": split.looked_at,
        "decoded": len(split.sample),
        "unreadable": len(split.unreadable),
        "mismatched": len(split.mismatched),
        "ignored": split.ignored,
        "classes": {name: split.share(number) for number, name in enumerate(names)},
    }
