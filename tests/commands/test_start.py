"""Nothing heavy is imported before there is work for it: help and mistakes answer at once."""

import os
import subprocess
import sys

import pytest

from fakd.cli import COMMANDS

HEAVY = ("torch", "timm", "torchvision", "lightning_fabric", "scipy", "matplotlib")
CODE = f"""
import sys
from fakd.cli import main
try:
    code = main(sys.argv[1:])
except SystemExit as error:
    code = error.code
print("IMPORTED", *[name for name in {HEAVY} if name in sys.modules])
raise SystemExit(code)
"""


def run(arguments, folder):
    command = [sys.executable, "-c", CODE, *arguments]
    # Coverage and import hooks of the tests must not reach the other process.
    environment = {key: value for key, value in os.environ.items() if "JAXTYPING" not in key}
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment)


@pytest.mark.parametrize(
    "arguments",
    [
        "--help",
        "--version",
        "completion --help",
        "completion bash",
        *(f"{name} --help" for name in COMMANDS),
    ],
)
def test_help_imports_nothing_heavy(arguments, tmp_path):
    ended = run(arguments.split(), tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[-1] == "IMPORTED"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("trian", "did you mean train"),
        ("complete bash", "did you mean completion"),
        ("completion fsh", "did you mean fish"),
        ("train --network psnet --data scenes --run r", "did you mean pspnet"),
        ("train --network pspnet --data scenes --run r --schedule.stps 3", "schedule.steps"),
        ("train --network pspnet --data scenes --run r --schedule.steps many", "schedule.steps"),
        ("train --network pspnet --data scenes --run r --schedule.steps 0", "at least 1, got 0"),
        ("train --network pspnet --data scenes", "run"),
        ("train --network.backbone resnet18 --data scenes --run r", "give it before"),
        ("train --recipe gone.yaml", "gone.yaml"),
        ("train --recipe bad.yaml", "bad.yaml"),
        ("train --network pspnet --data scenes --run r --schedle.steps 3", "schedule.steps"),
        ("train --network pspnet --data scenes --run r --pairs a", "that is for fakd compare"),
        ("train stray", "unexpected argument stray"),
        ("train --network gone --data scenes --run r", "gone does not exist"),
        ("latency a --size 48", "size: expected several numbers, such as 48,48, got 48"),
        ("latency a --size 48,48,3", "size: expected 2 values, got [48, 48, 3]"),
        ("evaluate --network a --data b --inference null", "one by one, --inference.NAME VALUE"),
        ("evaluate --network a --data b --inference.base 1,2,3", "expected 2 values, got [1, 2"),
        ("evaluate --network gone.onnx --data scenes", "gone.onnx does not exist"),
        ("evaluate --network hg:model --data scenes", "no such source; did you mean"),
        ("evaluate --network gone.py:net --data scenes", "gone.py does not exist"),
        ("evaluate --network torchvision: --data scenes", "expected a name after torchvision:"),
        ("evaluate --network gone.safetensors --data scenes", "gone.safetensors does not"),
        ("evaluate --network gone.pth --data scenes", "gone.pth does not exist"),
        ("evaluate --network pspnet --data gone", "gone does not exist"),
        ("evaluate --network pspnet --data scenes --split none", "split"),
        ("predict --network a --out b", "images"),
        ("distill --teacher two.yaml --student pspnet --data scenes --run r", "runs/gone does not"),
        ("distill --teacher bad.yaml --student pspnet --data scenes --run r", "bad.yaml"),
        ("distill --teacher none.yaml --student pspnet --data scenes --run r", "did you mean 'te"),
        ("answer --teacher gone.pth --data scenes --out a", "gone.pth does not exist"),
        ("answer --teacher pspnet --data scenes --out a --format int4", "format"),
        ("classes gone scenes", "gone does not exist"),
    ],
)
def test_mistakes_are_found_before_anything_heavy(arguments, expected, tmp_path):
    (tmp_path / "bad.yaml").write_text("schedule: [\n")
    (tmp_path / "two.yaml").write_text("teachers: [{source: runs/gone, weight: 2}]\n")
    (tmp_path / "none.yaml").write_text("techers: [runs/gone]\n")
    ended = run(arguments.split(), tmp_path)
    assert ended.returncode == 2, ended.stderr
    assert expected in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert ended.stdout.splitlines()[-1] == "IMPORTED"
