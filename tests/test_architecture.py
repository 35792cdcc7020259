"""Rules of the code base that a reviewer should not have to check by hand."""

import ast
import inspect
import pkgutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import fakd

SOURCE = Path(fakd.__file__).parent
FILES = sorted(SOURCE.rglob("*.py"))
# Each may import those before it; one row is one level, whose members may import each other.
LEVELS = [
    {"errors"},
    {
        "bilinear",
        "budget",
        "files",
        "hardware",
        "imports",
        "membership",
        "memory",
        "console",
        "processes",
        "settings",
        "signals",
        "sizes",
        "sources",
        "specs",
        "threads",
    },
    {"covariance"},
    {"types"},
    {"losses", "models", "data", "metrics"},
    {"answers"},
    {"inference", "inspection"},
    {"runs"},
    {"training"},
    {"comparing"},
    {"report", "sharing"},
    {"exporting"},
    {"timing", "fitting", "serving"},
    {"commands"},
    {"completion", "help_pages", "shorthand", "signatures"},
    {"cli", "__main__", "__init__"},
]
LEVEL = {name: level for level, names in enumerate(LEVELS) for name in names}


def part_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported_parts(path: Path) -> set[str]:
    parts = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "fakd":
            parts |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("fakd."):
            parts.add(node.module.split(".")[1])
    return parts


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_point_one_way(path):
    own = part_of(path)
    wrong = {name for name in imported_parts(path) if LEVEL[name] > LEVEL[own]}
    assert not wrong, f"{own} must not import {wrong}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_files_are_short_and_named_for_their_content(path):
    assert len(path.read_text().splitlines()) <= 400
    assert path.stem not in {"utils", "util", "common", "misc", "helpers", "tools"}
    assert not [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Assert)]


@pytest.mark.parametrize("module", ["commands.compare", "commands.report", "commands.tables"])
def test_what_needs_no_tensor_waits_for_none(module):
    code = f"import sys, fakd.{module}; sys.exit('torch' in sys.modules or 'scipy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def every_class():
    for module in pkgutil.walk_packages([str(SOURCE)], "fakd."):
        if module.name == "fakd.__main__":
            continue
        for _, kind in inspect.getmembers(import_module(module.name), inspect.isclass):
            if kind.__module__ == module.name:
                yield kind


def test_classes_are_abstract_or_final():
    classes = set(every_class())
    for kind in classes:
        parents = classes & set(kind.__mro__[1:])
        behind = [parent.__name__ for parent in parents if not inspect.isabstract(parent)]
        assert not behind, f"{kind.__name__} inherits from {behind}, which is not abstract"
