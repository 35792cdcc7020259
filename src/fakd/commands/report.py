"""`fakd report`: one HTML file on whether distillation helped."""

from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from fakd import specs
from fakd.console import open_console, remark
from fakd.errors import InputError

if TYPE_CHECKING:
    import torch

    from fakd.data import SegmentationData
    from fakd.report.examination import Examination
    from fakd.runs.reading import Methods


def report(
    runs: Sequence[str | Path],
    out: Path = Path("report.html"),
    images: int = 100,
    pictures: bool = True,
    accelerator: str = "auto",
    allow: str | list[str] = "",
) -> Path:
    """Write one HTML file with verdicts on what helped, and comparisons of networks and runs.

    It opens offline: verdict, table, classes, curves, pictures, calibration, recipes and
    environments are inside. Networks are run on validation images to measure what training did not:
    boundary IoU, calibration, latency. Run it in the folder in which the runs were started, since
    their recipes may name data and teacher by relative paths.

    Args:
        runs: finished runs, or folders of comparisons.
        out: the file; an existing one is replaced.
        images: how many validation images are used, evenly spaced; 0 for none, which also leaves
            out pictures, calibration and cost.
        pictures: embed some of those images; false only measures on them, for confidential data.
        accelerator: cpu, cuda, mps, or auto for the best one present.
        allow: class paths or modules of your own that the runs' files may ask for.

    Returns:
        The file.
    """
    if images < 0:
        raise InputError(f"expected --images of 0 or more, got {images}")
    if out.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"--out must end in .html, got {out}; name it {out.with_suffix('.html')}")
    if not out.parent.is_dir():
        raise InputError(f"the folder of --out {out} does not exist; create it first")
    # Imported here to keep `fakd report --help` fast.
    from fakd.models.files import own_version
    from fakd.report.page import Note, Section, add_pictures, write_report
    from fakd.runs.environment import command_line
    from fakd.runs.final_scores import with_test_scores
    from fakd.runs.folder import OPENED
    from fakd.runs.reading import by_pair, read_folders
    from fakd.training.start import pick_device

    specs.allow(*([allow] if isinstance(allow, str) else allow))
    finished, failures = read_folders(runs)
    device = pick_device(accelerator)
    console = open_console()
    groups = by_pair(finished)
    tested = by_pair(filter(None, map(with_test_scores, finished)))
    sections = []
    for (name, pair), methods in groups.items():
        title = f"{pair} on {name}"
        data, examined, remarks = _examine_pair(title, methods, images, device, console)
        for text in remarks:
            remark(console, text)
        own = [each for each in failures if each.pair == pair]
        pictured = data if pictures else None
        test = None
        if there := tested.get((f"{name}, test split", pair)):
            kept = next(iter(there.values()))[0].result["test"]
            text = (
                f"{kept['images']} images used neither for training nor for selection, opened "
                f"{kept['opened']}; the command and the scores are stored in {OPENED}"
            )
            test = Section(f"{title}, test split", there, own, None, [text])
        sections.append(Section(title, methods, own, examined, remarks, pictured, test))
    made = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    pairs = {pair for _, pair in groups}
    strays = [each for each in failures if each.pair not in pairs]
    note = Note(made, own_version(), command_line(), strays)
    add_pictures(sections, note)
    size = write_report(out, sections, note)
    for each in chain.from_iterable((each, each.test) for each in sections):
        if each is None:
            continue
        console.print(f"\n{each.name}", style="bold", soft_wrap=True)
        for verdict in chain.from_iterable(each.verdicts):
            console.print(verdict.text, soft_wrap=True)
    console.print(f"\nwritten to {out} ({size / 1e6:.1f} MB)", soft_wrap=True)
    return out


def _examine_pair(
    title: str, methods: "Methods", images: int, device: "torch.device", console: Console
) -> "tuple[SegmentationData | None, Examination | None, list[str]]":
    """Run the networks of a pair on validation images, as far as networks and data are available.

    Returns:
        The data, the measurements, and remarks on what could not be measured.
    """
    from fakd.report.examination import examine, inference_of, open_data_of, open_networks
    from fakd.training.progress import StepProgress

    if images == 0:
        return None, None, []
    first = next(iter(methods.values()))[0]
    try:
        data = open_data_of(first)
    except InputError as error:
        return None, None, [f"No pictures and no measurements: {error}."]
    networks, problems = open_networks(methods, device)
    if not networks:
        return data, None, problems
    count = {"networks": float(len(networks))}
    with StepProgress(console, f"examine {title}", min(images, len(data.val))) as display:
        examined = examine(
            networks, data.val, inference_of(first), images, lambda done: display.show(done, count)
        )
    return data, examined, problems
