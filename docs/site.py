"""Makes a site of pages and docstrings that are written to be read where they lie: `make docs`."""

import re
from html import unescape
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from markdown import Extension, Markdown
from markdown.preprocessors import Preprocessor

ROOT = Path(__file__).parents[1]
_LINK = re.compile(r"\[([^\]]*)\]\((\.\./[^)#\s]*)(#[^)]*)?\)")
_BLOCK = re.compile(r"^( *)\.\. math:: *(.*(?:\n\1 +\S.*)*)", re.MULTILINE)
_INLINE = re.compile(r":math:`([^`]*)`")
_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)


class _Formulas(Preprocessor):
    """Writes the formulas of docstrings, which are reStructuredText, as those of the pages."""

    def run(self, lines: list[str]) -> list[str]:
        text = _BLOCK.sub(lambda found: f"\n{found[1]}$$\n{found[2]}\n$$\n", "\n".join(lines))
        return _INLINE.sub(r"$\1$", text).split("\n")


class _Docstrings(Extension):
    def extendMarkdown(self, md: Markdown) -> None:  # noqa: N802
        md.preprocessors.register(_Formulas(md), "docstring-formulas", 40)


def on_config(config: Any) -> Any:
    """Read the formulas of docstrings."""
    config.markdown_extensions.append(_Docstrings())
    return config


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Name the files of the repository that the site does not hold, instead of linking to them."""

    def named(link: re.Match[str]) -> str:
        text, file = link[1], (ROOT / "docs" / link[2]).resolve().relative_to(ROOT).as_posix()
        return f"`{file}`" if file.endswith(text.strip("`")) else f"{text} (`{file}`)"

    return _LINK.sub(named, markdown)


def on_page_content(html: str, **_: Any) -> str:
    """Set formulas as MathML, which browsers show without a script."""

    def formula(found: re.Match[str]) -> str:
        return convert(unescape(found[3]), display="inline" if found[2] == "(" else "block")

    return _FORMULA.sub(formula, html)
