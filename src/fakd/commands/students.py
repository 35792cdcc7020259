"""`fakd students`: the built-in students and their cost."""

import json
from pathlib import Path
from typing import Any

from fakd.console import open_console
from fakd.errors import InputError
from fakd.files import expand_user, write_text
from fakd.training.progress import StepProgress


def students(
    sort: str = "parameters",
    size: tuple[int, int] = (512, 512),
    classes: int = 19,
    measure: bool = False,
    runtime: str = "torch",
    threads: int | None = None,
    accelerator: str = "auto",
    out: Path | None = None,
) -> list[dict[str, Any]]:
    """List ready-made students of 0.3 to 12 million parameters, and their cost.

    Each is a value for --student. ImageNet weights of a backbone are "here" (an installed package,
    or the hub's cache), at the "hub", or nowhere; add ?weights=imagenet to start from them
    (& instead of ? after other arguments; encoder_weights for smp). GFLOPs are for one image, two
    per multiply-accumulate, without the auxiliary head; parameters include it.

    Args:
        sort: the column to sort by; -COLUMN sorts in descending order.
        size: height and width of the image.
        classes: number of classes.
        measure: also time them on this machine, as fakd latency does.
        runtime: the runtime to time them in: torch, compile (torch.compile), onnx or openvino.
        threads: CPU threads; by default all that are free.
        accelerator: cpu, cuda, mps, or auto for the best one present.
        out: a JSON file to write the table to; an existing one is replaced.

    Returns:
        The rows, as in the JSON file.
    """
    # Imported here to keep `fakd students --help` fast.
    from fakd.models.students import installed, list_students
    from fakd.report.latency import latency_row
    from fakd.report.table import Row, sort_rows, student_row, terminal
    from fakd.timing import place_name, require_runtimes, time_network
    from fakd.training.start import pick_device

    if classes < 1 or min(size) < 1:
        raise InputError(f"expected --classes and --size of at least 1, got {classes} and {size}")
    if out is not None and out.suffix.lower() != ".json":
        raise InputError(f"--out must end in .json, got {out}; name it {out.with_suffix('.json')}")
    require_runtimes([runtime])
    words, console = installed(), open_console()
    device = pick_device(accelerator, threads) if measure else None
    rows: list[Row] = []
    with StepProgress(console, "students", len(words)) as display:
        for done, each in enumerate(list_students(classes, size, words), start=1):
            # Sorted in the loop, so that an unknown column is refused at the first row.
            row = student_row(each)
            if device is not None:
                word = each.row.name
                timings = time_network(word, size, device, runtimes=[runtime], classes=classes)
                row = {**row, **latency_row(next(timings), times_only=True)}
            rows = sort_rows([*rows, row], sort)
            display.advance(done)
    found = [{name: each.value or each.text for name, each in row.items()} for row in rows]
    if out is not None:
        write_text(expand_user(out), json.dumps(found, indent=2) + "\n")
    # Names must not be wrapped, so that they can be copied.
    table = terminal(rows, empty="-")
    table.columns[0].no_wrap, console.width = True, max(console.width, 145)
    console.print(table)
    if device is not None:
        console.print(
            f"times: one image of {size[0]} x {size[1]}, bytes to classes, in {runtime}; "
            f"{place_name(device)}",
            soft_wrap=True,
        )
    return found
