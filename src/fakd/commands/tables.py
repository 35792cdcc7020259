"""`fakd tables`: the paper's tables and figures from finished runs."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from fakd.report.paper_figures import write_figures
from fakd.report.paper_tables import write_tables
from fakd.report.runs import read_folders


def tables(runs: Sequence[str | Path], out: Path = Path("tables")) -> list[Path]:
    """Write the paper's tables and figures from finished runs, on any data set.

    Tables 1 to 3 (pairs of networks x methods), 4 (with and without feature augmentation) and 5
    (strengths) as Markdown and CSV, beside the published numbers where data, networks and method
    are the paper's; a table with a row for each run; Figures 2 (gain against class difficulty) and
    4 (IoU of each class) as PNG. What no run speaks of is left out.

    Args:
        runs: finished runs, or folders of comparisons.
        out: folder to write to, created if missing; files of an earlier call are replaced.

    Returns:
        The files.
    """
    finished, _ = read_folders(runs)
    written = [*write_tables(finished, out), *write_figures(finished, out)]
    console = Console(highlight=False)
    for path in written:
        console.print(str(path), soft_wrap=True)
    return written
