"""What README and docs promise can be run, and every link leads somewhere."""

import doctest
import importlib
import inspect
import json
import pkgutil
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import fakd
from fakd import cli

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "benchmarks" / "README.md"]
# Its commands are run by tests/test_guide.py, with the files they name.
GUIDE = ROOT / "docs" / "networks.md"


def blocks(path, language):
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE)


def python_blocks():
    return [(path, code) for path in PAGES for code in blocks(path, "python")]


@pytest.mark.parametrize(("path", "code"), python_blocks(), ids=lambda value: str(value)[:24])
def test_python_in_the_docs_runs(path, code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(code, str(path), "exec"), {})


def test_examples_in_docstrings_run():
    attempted = 0
    for module in pkgutil.walk_packages(fakd.__path__, "fakd."):
        # Triton is not everywhere, and the other would run the program.
        if not module.name.endswith(("triton_cross_entropy", "__main__")):
            found = doctest.testmod(importlib.import_module(module.name))
            assert not found.failed, module.name
            attempted += found.attempted
    assert attempted > 70


def commands():
    for path in (page for page in PAGES if page != GUIDE):
        for block in blocks(path, "sh"):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                if words[:1] == ["fakd"] and len(words) > 2:
                    yield shlex.join(words[1:])


@pytest.mark.parametrize("command", sorted(set(commands())))
def test_commands_in_the_docs_parse(command, monkeypatch):
    monkeypatch.chdir(ROOT)
    name, rest = cli.command_of(shlex.split(command))
    if any(word.endswith(".yaml") and not (ROOT / word).is_file() for word in rest):
        pytest.skip("names a file that the reader makes")
    made = re.compile(r"runs/\S+\.onnx")  # by a command above; only those of others must be there
    cli.parse(name, [made.sub("runs/student", each) for each in rest])


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", path.read_text()):
        if "://" not in target:
            assert (path.parent / target).exists(), f"{path.name} links to {target}"


def test_the_site_has_every_page():
    def named(entries):
        for entry in entries:
            (target,) = entry.values()
            yield from [target] if isinstance(target, str) else named(target)

    shown = list(named(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]))
    assert sorted(shown) == sorted(page.name for page in (ROOT / "docs").glob("*.md"))


def test_the_reference_has_every_public_name():
    listed = re.findall(r"^::: (\S+)", (ROOT / "docs" / "api.md").read_text(), re.MULTILINE)
    for name in fakd.__all__:
        found = getattr(fakd, name)
        if inspect.isclass(found) or inspect.isfunction(found):
            path = f"{found.__module__}.{name}"
            assert any(f"{path}.".startswith(f"{each}.") for each in listed), path


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("mkdocs")
    folder = tmp_path_factory.mktemp("built") / "site"
    words = ["-m", "mkdocs", "build", "--site-dir", str(folder)]
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_the_site_builds_without_a_warning(site):
    assert "<math" in (site / "method.html").read_text()
    assert ".. math" not in (site / "api.html").read_text()


TOO_WIDE = """() => {
  const room = document.querySelector(".md-content__inner").getBoundingClientRect().right;
  return [...document.querySelectorAll(".md-content table")]
    .filter((each) => each.getBoundingClientRect().right > room + 1)
    .map((each) => each.textContent.trim().slice(0, 40));
}"""


@pytest.mark.slow
def test_the_tables_of_methods_fit_their_page(site):
    pytest.importorskip("playwright.sync_api")
    # Imported here because it skips what has no browser.
    from browsers import chromium, playwright

    with playwright.sync_playwright() as driver, chromium(driver) as page:
        page.set_viewport_size({"width": 1200, "height": 900})
        page.goto((site / "methods.html").as_uri())
        assert page.locator(".md-content table").count() > 2
        assert page.evaluate(TOO_WIDE) == []


@pytest.mark.slow
def test_the_notebook_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cells = json.loads((ROOT / "docs" / "notebook.ipynb").read_text())["cells"]
    assert all(not each["outputs"] for each in cells if each["cell_type"] == "code")
    code = [each["source"] for each in cells if each["cell_type"] == "code"]
    exec(compile("\n".join("".join(each) for each in code), "notebook", "exec"), {})
    assert list((tmp_path / "runs" / "student" / "onnx").glob("student.onnx*"))
