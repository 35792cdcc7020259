"""What is released: one version everywhere, and a wheel that holds all that the package reads."""

import re
import subprocess
import sys
import tomllib
from email.parser import HeaderParser
from pathlib import Path
from zipfile import ZipFile

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_version_is_the_same_everywhere():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"]
    released = re.findall(r"^## \[(\d.*?)\] - ", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert cited == released[0] == PROJECT["version"]


@pytest.mark.slow
def test_the_wheel_is_complete_and_its_metadata_hold(tmp_path):
    for module in ("build", "twine"):
        pytest.importorskip(module)
    # A copy, as building leaves folders behind.
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in filter(None, listed.stdout.split("\0")):
        if name.startswith("src/") or "/" not in name:
            target = tmp_path / "copy" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((ROOT / name).read_bytes())
    out = tmp_path / "dist"
    words = ["-m", "build", "--no-isolation", "--outdir", str(out), str(tmp_path / "copy")]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True)
    if "Missing dependencies" in done.stderr + done.stdout:
        pytest.skip("building needs a newer setuptools")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    made = sorted(out.iterdir())
    checked = [sys.executable, "-m", "twine", "check", "--strict", *map(str, made)]
    assert subprocess.run(checked, capture_output=True).returncode == 0
    wheel, _ = made
    with ZipFile(wheel) as opened:
        held = set(opened.namelist())
        (name,) = (each for each in held if each.endswith(".dist-info/METADATA"))
        said = HeaderParser().parsestr(opened.read(name).decode())
    ours = {
        path.relative_to(tmp_path / "copy" / "src").as_posix()
        for path in (tmp_path / "copy" / "src").rglob("*")
        if path.is_file() and ".egg-info" not in path.as_posix()
    }
    assert ours <= held
    assert said["Name"] == "fakd"
    assert said["Version"] == PROJECT["version"]
    assert said["Requires-Python"] == PROJECT["requires-python"]
    assert said["License-Expression"] == "Apache-2.0"
