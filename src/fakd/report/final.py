"""Scoring of a comparison on the test split, which is opened only once."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from fakd import models
from fakd.data import SegmentationData
from fakd.data.dataset import hash_lines
from fakd.errors import InputError
from fakd.report.examination import inference_of
from fakd.runs.environment import command_line
from fakd.runs.final_scores import read_test_scores, run_key, with_test_scores
from fakd.runs.folder import GRID_LOCK, OPENED, TEST_IMAGES, write_json
from fakd.runs.images import write_images
from fakd.runs.locks import lock
from fakd.runs.reading import Run
from fakd.settings import Hardware, Settings
from fakd.training.progress import StepProgress
from fakd.training.start import start
from fakd.training.validation import validate_images


def score_test_split(
    grid: Path, runs: Sequence[Run], data: SegmentationData, hardware: Hardware, console: Console
) -> list[Run]:
    """Score the finished runs of a grid on the test split, unless it was opened before.

    The opening and the runs to be scored are recorded first; an interrupted scoring continues with
    these runs. Nothing is scored twice.

    Returns:
        The scored runs, with these scores instead of the validation scores.

    Raises:
        InputError: the data have no test split, or another one than the one that was opened.
    """
    with lock(grid / GRID_LOCK, wait=True):
        kept = read_test_scores(grid)
        if kept is None or None in kept["runs"].values():
            split = data.open_test()
            fingerprint = hash_lines(split.identity())
            kept = kept or {
                "opened": datetime.now(UTC).isoformat(timespec="seconds"),
                "command": command_line(),
                "images": len(split),
                "fingerprint": fingerprint,
                "runs": dict.fromkeys(map(run_key, runs)),
            }
            if kept["fingerprint"] != fingerprint:
                raise InputError(
                    f"the test split of {data.name} is not the one recorded in {grid / OPENED}; "
                    "restore it"
                )
            write_json(grid / OPENED, kept)
            waiting = [run for run in runs if kept["runs"].get(run_key(run), "") is None]
            fabric = start(replace(hardware, devices=1), seed=0)
            names = [split.name(index) for index in range(len(split))]
            groups = [split.group(index) for index in range(len(split))]
            with StepProgress(console, "test split", len(waiting)) as display:
                for done, run in enumerate(waiting, start=1):
                    network = models.load(run.weights).to(fabric.device).eval()
                    settings = Settings(inference=inference_of(run), hardware=hardware)
                    scores, images = validate_images(fabric, network, split, settings)
                    write_images(run.folder / TEST_IMAGES, names, images.cpu().numpy(), groups)
                    kept["runs"][run_key(run)] = scores.as_dict(data.class_names)
                    write_json(grid / OPENED, kept)
                    display.advance(done)
    return [scored for run in runs if (scored := with_test_scores(run)) is not None]
