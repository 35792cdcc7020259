"""Whether the test split of a comparison was opened, and how its runs scored there."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from fakd.runs.folder import OPENED, TEST_IMAGES, place_in_grid, read_json, readable
from fakd.runs.images import read_images
from fakd.runs.reading import Run


def opening_of(grid: Path) -> dict[str, Any] | None:
    """Read when the test split of a grid was opened and what came of it; None if it was not.

    Raises:
        InputError: the file is not what was written.
    """
    if not (grid / OPENED).is_file():
        return None
    with readable(grid):
        kept: dict[str, Any] = read_json(grid / OPENED)
        for key in ("opened", "command", "fingerprint", "images", "runs"):
            kept[key]
        return kept


def place_of(run: Run) -> str:
    """Name a run of a grid as its file about the test split does."""
    return f"{run.pair}/{run.method}/seed-{run.seed}"


def on_test(run: Run) -> Run | None:
    """Put a run's scores on the test split in the place of the others; None if there are none.

    Its result tells under ``test`` when the split was opened, by which command, of how many images.

    Raises:
        InputError: they cannot be read.
    """
    if place_in_grid(run.folder) is None:
        return None
    kept = opening_of(run.folder.absolute().parents[2])
    scores = None if kept is None else kept["runs"].get(place_of(run))
    if kept is None or scores is None:
        return None
    with readable(run.folder):
        images = read_images(run.folder / TEST_IMAGES, len(scores["classes"]))
    data = {"name": f"{run.data}, test split", "fingerprint": kept["fingerprint"]}
    test = {key: kept[key] for key in ("opened", "command", "images")}
    result = {**run.result, "final": scores, "data": data, "test": test}
    return replace(run, result=result, images=images)
