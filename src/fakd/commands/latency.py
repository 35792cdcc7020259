"""`fakd latency`: time networks on this machine."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fakd
from fakd.console import open_console, remark
from fakd.errors import InputError
from fakd.files import expand_user, write_text
from fakd.settings import InferenceOverrides
from fakd.training.progress import StepProgress


def latency(
    networks: Sequence[Any],
    size: tuple[int, int] | None = None,
    data: "fakd.data.SegmentationData | str | Path | None" = None,
    classes: int = 19,
    runtimes: str | Sequence[str] = (),
    threads: int | None = None,
    inference: InferenceOverrides = None,
    accelerator: str = "auto",
    sort: str = "ms",
    out: Path | None = None,
    picture: Path | None = None,
) -> list[dict[str, Any]]:
    """Compare the latency of networks, from image bytes to classes.

    Reports the median and 90th percentile of up to 30 passes or 4 seconds, after 3 warm-up passes.
    Auxiliary heads are left out. An exported file runs in its own runtime, any other network in all
    of --runtimes. Memory is that of the weights plus the peak of a pass; for a file, everything
    that opening and running it adds.

    Args:
        networks: finished runs, weight files, exported files, or any networks: smp:Unet,
            'pspnet?backbone=resnet18'.
        size: height and width of the image; by default those of the first validation image of the
            data, else 512 x 512.
        data: the data whose images and classes are used.
        classes: number of classes, for networks that have none yet; with data, that of the data.
        runtimes: any of torch, compile (torch.compile), onnx and openvino, separated by commas; by
            default all that are installed.
        threads: CPU threads; by default all that are free.
        inference: how the image is resized, or cut into windows; by default as in each network's
            training.
        accelerator: cpu, cuda, mps, or auto for the best one present.
        sort: the column to sort by; -COLUMN sorts in descending order.
        out: a JSON file to write the numbers to; an existing one is replaced.
        picture: a PNG of mIoU (if known for all, else parameters) against latency.

    Returns:
        The timings, as in the JSON file.
    """
    # Imported here to keep `fakd latency --help` fast.
    from fakd.report.latency import latency_row, save_latency
    from fakd.report.table import Row, columns, nonempty_columns, sort_rows, terminal
    from fakd.timing import Timing, available, place_name, require_runtimes, time_network
    from fakd.training.start import pick_device

    for flag, path, ending in (("--out", out, ".json"), ("--picture", picture, ".png")):
        if path is not None and path.suffix.lower() != ending:
            name = path.with_suffix(ending)
            raise InputError(f"{flag} must end in {ending}, got {path}; name it {name}")
    words = runtimes.split(",") if isinstance(runtimes, str) else runtimes
    wanted = [each.strip() for each in words] or available()
    require_runtimes(wanted)
    if not networks or classes < 1 or min(size or (1,)) < 1:
        raise InputError("expected networks, and --classes and --size of at least 1")
    opened = None if data is None else fakd.data.open_data(data)
    if opened is not None:
        classes, (_, height, width) = opened.classes, opened.val[0].image.shape
        size = size or (height, width)
    size = size or (512, 512)
    device = pick_device(accelerator, threads)
    console = open_console()
    rows: list[Row] = []
    timings: list[Timing] = []
    with StepProgress(console, "timing", len(networks)) as display:
        for done, given in enumerate(networks, start=1):
            for each in time_network(
                given, size, device, runtimes=wanted, inference=inference, classes=classes
            ):
                timings.append(each)
                # Sorted in the loop, so that an unknown column is refused at the first row.
                rows = sort_rows([*rows, latency_row(each)], sort)
            display.advance(done)
    table = terminal(rows, nonempty_columns(rows, columns(rows)), empty="-")
    table.columns[0].no_wrap, console.width = True, max(console.width, 135)
    console.print(table)
    console.print(f"one image of {size[0]} x {size[1]}, bytes to classes; {place_name(device)}")
    found = [each.as_dict() for each in timings]
    if out is not None:
        write_text(expand_user(out), json.dumps(found, indent=2) + "\n")
    if picture is not None and not save_latency(expand_user(picture), timings):
        remark(console, "nothing to draw: time and parameters are known for no network")
    return found
