"""What a user should know about data and settings before a run, and nothing stops at."""

from rich.console import Console
from rich.markup import escape

from fakd.data import SegmentationData
from fakd.runs.recipe import describe
from fakd.settings import Inference


def announce(console: Console, data: SegmentationData, inference: Inference) -> None:
    """Print the data set's remarks, and how its published scores are measured if otherwise."""
    for remark in data.remarks:
        console.print("[yellow]warning:[/]", escape(remark), soft_wrap=True)
    if note := unlike_published(data, inference):
        console.print("[yellow]note:[/]", escape(note), soft_wrap=True)


def unlike_published(data: SegmentationData, inference: Inference) -> str | None:
    """Name the settings that published scores on this data are measured with, if not these."""
    now = describe(inference)
    differing = {key: value for key, value in (data.protocol or {}).items() if now[key] != value}
    if not differing:
        return None
    flags = " ".join(f"--inference.{key} '{value}'" for key, value in differing.items())
    return f"published scores on {data.name} are measured with {flags}; these may differ"
