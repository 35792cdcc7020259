"""What is printed: text as it is, whatever names are in it and whatever shows it."""

import sys
from io import TextIOWrapper
from typing import Any

from rich.console import Console
from rich.text import Text


def open_console(**options: Any) -> Console:
    """Make a console that takes no name for markup, with the options of rich's."""
    replace_unshowable()
    return Console(highlight=False, markup=False, emoji=False, **options)


def replace_unshowable() -> None:
    """Let the terminal show a question mark for what it cannot show."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")


def remark(console: Console, text: str, kind: str = "note", colour: str = "yellow") -> None:
    """Print a line that begins with its kind, in colour."""
    console.print(Text.assemble((f"{kind}:", colour), f" {text}"), soft_wrap=True)
