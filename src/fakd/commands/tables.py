"""`fakd tables`: the paper's tables and figures from finished runs."""

from collections.abc import Sequence
from pathlib import Path

from fakd import specs
from fakd.console import open_console, remark
from fakd.errors import InputError


def tables(
    runs: Sequence[str | Path],
    out: Path = Path("tables"),
    images: int = 4,
    shown_class: str | None = None,
    accelerator: str = "auto",
    allow: str | list[str] = "",
) -> list[Path]:
    """Write the paper's tables and figures from finished runs, on any data set.

    Tables 1 to 3 (pairs of networks x methods), 4 (with and without feature augmentation) and 5
    (strengths) as Markdown and CSV, next to the published numbers where data, networks and method
    are the paper's; a table with a row for each run; Figures 2 (gain against class difficulty), 3
    (where the networks see a class, with and without augmentation) and 4 (IoU of each class) and a
    grid of examples as PNG. Parts without runs are left out. Run it in the folder in which the runs
    were started, since their recipes may name data and teacher by relative paths.

    Args:
        runs: finished runs, or folders of comparisons.
        out: folder to write to, created if missing; existing files are replaced.
        images: number of validation images in Figure 3 and the examples; 0 leaves both out.
        shown_class: name of the class of Figure 3; by default the one whose IoU augmentation
            changed most.
        accelerator: cpu, cuda, mps, or auto for the best available.
        allow: class paths or modules of your own code that the runs' files may import.

    Returns:
        The files.
    """
    if images < 0:
        raise InputError(f"expected --images of 0 or more, got {images}")
    # Imported here to keep `fakd tables --help` fast.
    from fakd.report.paper import write_figures, write_tables
    from fakd.report.pictures import write_pictures
    from fakd.runs.reading import read_folders
    from fakd.training.start import pick_device

    specs.allow(*([allow] if isinstance(allow, str) else allow))
    finished, _ = read_folders(runs)
    console = open_console()
    pictures: list[Path] = []
    if images:
        device = pick_device(accelerator)
        pictures, missing = write_pictures(finished, out, images, shown_class, device)
        for reason in missing:
            remark(console, reason)
    written = [*write_tables(finished, out), *write_figures(finished, out), *pictures]
    for path in written:
        console.print(str(path), soft_wrap=True)
    return written
