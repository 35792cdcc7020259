"""What is released: one version everywhere, and a wheel that holds all that the package reads."""

import os
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


def test_the_image_is_built_of_what_is_there():
    lines = (ROOT / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    orders = [line.split(" ", 1) for line in lines if re.match(r"[A-Z]+ ", line)]
    let_in = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line[0] == "!"]
    sources = [source for order, rest in orders if order == "COPY" for source in rest.split()[:-1]]
    assert sources
    for source in sources:
        assert (ROOT / source).exists(), source
        assert f"!{source}" in let_in, source
    assert {PROJECT["readme"], *PROJECT["license-files"], "pyproject.toml", "src"} <= {*sources}
    (extras,) = re.findall(r"pip install '\.\[(.+?)\]'", "\n".join(lines))
    assert {*extras.split(",")} <= PROJECT["optional-dependencies"].keys()
    given = dict(orders)
    (program,) = yaml.safe_load(given["ENTRYPOINT"])
    assert program in PROJECT["scripts"]
    assert int(given["USER"].partition(":")[0]) > 0
    # Nothing is installed, and no folder made, by somebody who may not.
    assert [order for order, _ in orders].index("USER") > max(
        place for place, (order, _) in enumerate(orders) if order == "RUN"
    )
    python = re.match(r"python:(\d+)\.(\d+)", given["FROM"])
    assert f"Programming Language :: Python :: {python[1]}.{python[2]}" in PROJECT["classifiers"]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Build wheel and archive from a copy of the files that git knows."""
    pytest.importorskip("build")
    tmp_path = tmp_path_factory.mktemp("release")
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
    return tmp_path / "copy", sorted(out.iterdir())


@pytest.mark.slow
def test_the_wheel_is_complete_and_its_metadata_hold(built):
    pytest.importorskip("twine")
    copy, made = built
    checked = [sys.executable, "-m", "twine", "check", "--strict", *map(str, made)]
    assert subprocess.run(checked, capture_output=True).returncode == 0
    wheel, _ = made
    with ZipFile(wheel) as opened:
        held = set(opened.namelist())
        (name,) = (each for each in held if each.endswith(".dist-info/METADATA"))
        said = HeaderParser().parsestr(opened.read(name).decode())
    ours = {
        path.relative_to(copy / "src").as_posix()
        for path in (copy / "src").rglob("*")
        if path.is_file() and ".egg-info" not in path.as_posix()
    }
    assert ours <= held
    assert said["Name"] == "fakd"
    assert said["Version"] == PROJECT["version"]
    assert said["Requires-Python"] == PROJECT["requires-python"]
    assert said["License-Expression"] == "Apache-2.0"


@pytest.mark.slow
def test_the_wheel_trains_and_distils_away_from_its_source(built, tmp_path):
    _, (wheel, _) = built
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", "only"]
    subprocess.run([*pip, str(wheel)], cwd=tmp_path, check=True)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "only")}

    def fakd(*words: str) -> str:
        command = [sys.executable, "-m", "fakd", *words]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        return done.stdout

    where = [sys.executable, "-c", "import fakd; print(fakd.__file__)"]
    found = subprocess.run(where, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert found.stdout.startswith(str(tmp_path / "only"))
    assert fakd("--version") == f"fakd {PROJECT['version']}\n"
    assert "built-in street scenes" in fakd("demo", "--help")
    data = ["--data=scenes", "--data.train=4", "--data.val=2", "--data.size=48,64"]
    schedule = ["--schedule.steps=2", "--schedule.batch_size=2", "--augmentation.crop=32,48"]
    settings = [*data, *schedule, "--hardware.accelerator=cpu"]
    network = ["--network=pspnet", "--network.backbone=mobilenetv3_small_050"]
    student = [each.replace("network", "student", 1) for each in network]
    fakd("train", *network, "--network.channels=16", "--run=teacher", *settings)
    teacher = ["--teacher=teacher", "--check_teacher=false", "--distillation=cwd-fa"]
    fakd("distill", *teacher, *student, "--student.channels=8", "--run=student", *settings)
    fakd("report", "teacher", "student", "--out=report.html")
    assert (tmp_path / "report.html").stat().st_size > 10_000
