"""Console output that prints text literally, on any terminal."""

import sys
from io import TextIOWrapper
from typing import Any

from rich.console import Console
from rich.text import Text


def open_console(**options: Any) -> Console:
    """Create a rich console without markup, so that names are printed literally."""
    replace_unshowable()
    return Console(highlight=False, markup=False, emoji=False, **options)


def replace_unshowable() -> None:
    """Print a question mark for characters that the terminal's encoding lacks."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")


def remark(console: Console, text: str, kind: str = "note", colour: str = "yellow") -> None:
    """Print a line that begins with its kind, such as ``note:``, in colour."""
    console.print(Text.assemble((f"{kind}:", colour), f" {text}"), soft_wrap=True)
