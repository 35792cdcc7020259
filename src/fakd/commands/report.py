"""`fakd report`: one HTML file that answers whether it helped."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import torch
from rich.console import Console
from rich.markup import escape

from fakd.data import SegmentationData
from fakd.errors import InputError
from fakd.models.files import own_version
from fakd.report.examination import Examination, examine
from fakd.report.html import Note, with_pictures, write_report
from fakd.report.opening import inference_of, open_data_of, open_networks
from fakd.report.page import failed_runs, section
from fakd.runs.folder import command_line
from fakd.runs.reading import Run, by_pair, read_folders
from fakd.training.progress import StepProgress
from fakd.training.start import pick_device


class _Seen(NamedTuple):
    """What looking at a pair's networks brought, and what could not be looked at."""

    data: SegmentationData | None
    examined: Examination | None
    remarks: list[str]


def report(
    runs: Sequence[str | Path],
    out: Path = Path("report.html"),
    images: int = 100,
    pictures: bool = True,
    accelerator: str = "auto",
) -> Path:
    """Write one HTML file that says what helped, and shows how networks and runs differ.

    It needs no network to be read: verdict, table, classes, curves, pictures, calibration, recipes
    and environments are inside. The networks are shown validation images to measure what training
    did not: boundary IoU, calibration, latency. Run it in the folder that the runs were started
    in, for their recipes name data and teacher from there.

    Args:
        runs: finished runs, or folders of comparisons.
        out: the file; an existing one is replaced.
        images: how many validation images the networks are shown, evenly over the set; 0 for none,
            which also leaves out pictures, calibration and cost.
        pictures: let the file hold some of those images; false measures all the same, for a file
            that may leave the house when the images may not.
        accelerator: cpu, cuda, mps, or auto for the best one present.

    Returns:
        The file.
    """
    if images < 0:
        raise InputError(f"expected --images of 0 or more, got {images}")
    if not out.parent.is_dir():
        raise InputError(f"the folder of --out {out} does not exist; create it first")
    finished, failures = read_folders(runs)
    device = pick_device(accelerator)
    console = Console(highlight=False)
    groups = by_pair(finished)
    sections, opened = [], []
    for (name, pair), methods in groups.items():
        seen = _look(f"{pair} on {name}", methods, images, device, console)
        for remark in seen.remarks:
            console.print(f"[yellow]note:[/] {escape(remark)}", soft_wrap=True)
        own = [each for each in failures if each.pair == pair]
        sections.append(section(f"{pair} on {name}", methods, own, seen.examined, seen.remarks))
        opened.append(seen.data if pictures else None)
    made = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    shown = {pair for _, pair in groups}
    strays = [each for each in failures if each.pair not in shown]
    note = Note(made, own_version(), command_line(), failed_runs(strays, True))
    size = write_report(out, with_pictures(sections, opened, note), note)
    for each in sections:
        console.print(f"\n[bold]{escape(each.name)}[/]", soft_wrap=True)
        for sentence in [text for verdicts in each.verdicts for text, _ in verdicts]:
            console.print(escape(sentence), soft_wrap=True)
    console.print(f"\nwritten to {escape(str(out))} ({size / 1e6:.1f} MB)", soft_wrap=True)
    return out


def _look(
    title: str,
    methods: Mapping[str, Sequence[Run]],
    images: int,
    device: torch.device,
    console: Console,
) -> _Seen:
    """Show validation images to the networks of a pair, as far as they and the data are there."""
    if images == 0:
        return _Seen(None, None, [])
    first = next(iter(methods.values()))[0]
    try:
        data = open_data_of(first)
    except InputError as error:
        return _Seen(None, None, [f"No pictures and no measurements: {error}."])
    networks, problems = open_networks(methods, device)
    if not networks:
        return _Seen(data, None, problems)
    inference = inference_of(first)
    with StepProgress(console, f"look at {title}", min(images, len(data.val))) as display:

        def advance(done: int) -> None:
            display.show(done, {"networks": float(len(networks))})

        examined = examine(networks, data.val, inference, images, advance)
    return _Seen(data, examined, problems)
