"""Whether the test split of a comparison was opened, and the scores of its runs there."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from fakd.runs.folder import OPENED, TEST_IMAGES, place_in_grid, read_json, readable
from fakd.runs.images import read_images
from fakd.runs.reading import Run


def read_test_scores(grid: Path) -> dict[str, Any] | None:
    """Read when a grid's test split was opened, and the scores; None if it was not.

    Raises:
        InputError: the file is damaged.
    """
    if not (grid / OPENED).is_file():
        return None
    with readable(grid):
        kept: dict[str, Any] = read_json(grid / OPENED)
        for key in ("opened", "command", "fingerprint", "images", "runs"):
            kept[key]
        return kept


def run_key(run: Run) -> str:
    """Return the key of a run in its grid's file of test scores."""
    return f"{run.pair}/{run.method}/seed-{run.seed}"


def with_test_scores(run: Run) -> Run | None:
    """Replace a run's scores by those on the test split; None if there are none.

    Under ``test`` its result states when the split was opened, by which command, and the number of
    images.

    Raises:
        InputError: the scores cannot be read.
    """
    if place_in_grid(run.folder) is None:
        return None
    kept = read_test_scores(run.folder.absolute().parents[2])
    scores = None if kept is None else kept["runs"].get(run_key(run))
    if kept is None or scores is None:
        return None
    with readable(run.folder):
        images = read_images(run.folder / TEST_IMAGES, len(scores["classes"]))
    data = {"name": f"{run.data}, test split", "fingerprint": kept["fingerprint"]}
    test = {key: kept[key] for key in ("opened", "command", "images")}
    result = {**run.result, "final": scores, "data": data, "test": test}
    return replace(run, result=result, images=images)
