"""The page's HTML, CSS and JavaScript."""

from collections.abc import Sequence
from importlib.resources import files

from fakd.report.page import templates
from fakd.serving.networks import MergedClasses, ServedNetwork
from fakd.serving.server import Content

_PAGES = templates("fakd.serving")


def page(
    networks: Sequence[ServedNetwork], common: MergedClasses, limit: int
) -> dict[str, Content]:
    """Render the page; return its content by address.

    Args:
        networks: In display order.
        common: Their merged classes.
        limit: Maximum upload size in bytes.
    """
    facts = {"classes": common.classes, "networks": len(networks), "limit": limit}
    text = _PAGES.get_template("page.html.jinja").render(
        titles=[each.title for each in networks], facts=facts
    )
    style = _file("fakd.report", "style.css") + _file("fakd.serving", "page.css")
    script = _file("fakd.serving", "page.js")
    return {
        "/": Content("text/html; charset=utf-8", text.encode()),
        "/style.css": Content("text/css; charset=utf-8", style),
        "/script.js": Content("text/javascript; charset=utf-8", script),
    }


def _file(package: str, name: str) -> bytes:
    return (files(package) / name).read_bytes()
