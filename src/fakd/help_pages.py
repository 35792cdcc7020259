"""Pages of ``--help``: each command's purpose, examples and main flags."""

import re
import shutil
import textwrap
import types
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Union, get_args, get_origin

from jsonargparse import ArgumentParser

from fakd.errors import InputError
from fakd.imports import nearest

_NETWORKS = (
    "pspnet, deeplabv3plus, isanet, fcn_hrnet, hypercolumns (with .backbone: any of timm); "
    "hf:ID-OR-FOLDER, smp:Unet, torchvision:NAME, timm:NAME, FILE.py:FUNCTION, "
    "package.module:FUNCTION; a finished run, FILE.safetensors or mmsegmentation's FILE.pth"
)
_FILES = "FILE.onnx, FILE.pt or FILE.pt2, which cannot learn"
_DATA = (
    "a folder with train/images, train/masks, val/images, val/masks and dataset.yaml; a .yaml file "
    "that describes another layout; scenes (built in); ade20k, cityscapes, pascal_context or "
    "voc2012 with .root FOLDER; FILE.py:FUNCTION or package.module.function that returns "
    "SegmentationData"
)
OVERVIEW = """\
Distil any semantic-segmentation model into a small, fast one, and know whether it helped.

  fakd demo                                          a demonstration in minutes, without any data
  fakd train   --network pspnet --network.backbone resnet50 --data FOLDER --run runs/teacher
  fakd distill --teacher runs/teacher --student pspnet --student.backbone mobilenetv3_small_050
               --data FOLDER --run runs/student      CWD; FAKD with --distillation cwd-fa
               or any network: hf:FOLDER, smp:Unet, torchvision:NAME, net.py:FUNCTION, FILE.onnx
  fakd check   ARGUMENTS OF distill OR train         what would go wrong, before a long run
  fakd compare --teacher runs/teacher --student pspnet --student.backbone resnet18
               --data FOLDER --methods alone,cwd,cwd+fa --seeds 3 --run runs/comparison
  fakd compare confirm runs/comparison --methods cwd+fa    new seeds for promising results
  fakd report runs/comparison                        one HTML file that answers whether it helped
  fakd tables runs/comparison                        the paper's tables and figures from runs
  fakd data check FOLDER [--save NEW]                what it contains, what to fix; a description
  fakd answer --teacher runs/teacher --data FOLDER --out answers     run the teacher only once
  fakd classes runs/teacher FOLDER                   map its classes to yours
  fakd disagree runs/student --images PHOTOS --out next  what to label next, most informative first
  fakd evaluate --network runs/student --data FOLDER
  fakd predict --network runs/student --images PHOTOS --out predictions
  fakd export runs/student --to onnx                 a file for a device, tested to be as good
  fakd serve RUN...                                  networks side by side on your images
  fakd replay RUN                                    the step at which a loss became NaN
  fakd latency NETWORK...                            latency on this machine
  fakd students                                      ready-made small networks, and their cost
  fakd models                                        the paper's networks, published checkpoints
  fakd convert --source mmseg.pth --target teacher.safetensors
  fakd completion bash                               shell completion

Every command explains itself with --help; every value is a flag; --print_config prints the whole
recipe, and --recipe FILE reads one. Every run folder holds the recipe that reproduces it.
Exit codes: 0 done, 1 failed while running, 2 invalid input, 128 + n stopped by signal n, with all
progress saved.
"""


@dataclass(frozen=True)
class Page:
    """The short help of a command."""

    examples: tuple[str, ...]
    flags: str = ""
    """The main flags; if empty, all of the command's flags outside groups."""
    listed: tuple[str, ...] = ()
    """Flags whose possible values are listed."""


PAGES = {
    "demo": Page(("fakd demo", "fakd demo --steps 600 --run runs/demo-600")),
    "train": Page(
        (
            "fakd train --network pspnet --network.backbone resnet50 --network.weights imagenet "
            "--data FOLDER --run runs/teacher",
            "fakd train --network smp:Unet --data FOLDER --run runs/unet --optimizer AdamW "
            "--schedule.learning_rate 1e-4",
            "fakd train --recipe runs/teacher/recipe.yaml --run runs/again",
        ),
        "network data run recipe schedule.steps schedule.batch_size schedule.learning_rate "
        "optimizer.kind augmentation.crop hardware.precision existing",
        ("network", "data"),
    ),
    "distill": Page(
        (
            "fakd distill --teacher runs/teacher --student pspnet --student.backbone "
            "mobilenetv3_small_050 --data FOLDER --run runs/student",
            "fakd distill --teacher hf:FOLDER --student smp:Unet --data FOLDER --run runs/unet "
            "--distillation cwd",
            "fakd distill --teacher runs/teacher --fit 'latency<15ms,parameters<3M' --data FOLDER "
            "--run runs/fast",
            "fakd distill --recipe runs/student/recipe.yaml --run runs/again --seed 1",
        ),
        "teacher student fit data run recipe distillation schedule.steps schedule.batch_size "
        "schedule.learning_rate augmentation.crop hardware.precision existing",
        ("student", "distillation", "data"),
    ),
    "check": Page(
        (
            "fakd check --teacher hf:FOLDER --student smp:Unet --data FOLDER --out overlays.png",
            "fakd check --network pspnet --network.backbone resnet50 --data FOLDER",
            "fakd check --recipe runs/student/recipe.yaml",
        ),
        "teacher student network data recipe out distillation schedule.steps schedule.batch_size "
        "schedule.learning_rate optimizer.kind augmentation.crop hardware.precision",
    ),
    "compare": Page(
        (
            "fakd compare --teacher runs/teacher --student pspnet --student.backbone resnet18 "
            "--data FOLDER --methods alone,cwd,cwd+fa --seeds 3 --run runs/comparison",
            "fakd compare --recipe grid.yaml --parallel 2",
            "fakd report runs/comparison",
        ),
        "teacher student pairs data run recipe methods seeds minutes primary worthwhile "
        "until_decided most final schedule.steps augmentation.crop on parallel",
        ("student", "methods", "data"),
    ),
    "compare confirm": Page(("fakd compare confirm runs/comparison --methods cwd+fa",)),
    "report": Page(("fakd report runs/comparison", "fakd report runs/a runs/b --out both.html")),
    "tables": Page(("fakd tables runs/comparison",)),
    "data check": Page(
        (
            "fakd data check FOLDER",
            "fakd data check FOLDER --save described",
            "fakd data check a.yaml",
        )
    ),
    "answer": Page(
        (
            "fakd answer --teacher runs/teacher --data FOLDER --out answers",
            "fakd answer --teacher hf:FOLDER --data FOLDER --out answers --format int8 "
            "--inference.flip true",
            "fakd distill --teacher answers --student pspnet --data FOLDER --run runs/student",
        )
    ),
    "classes": Page(("fakd classes runs/teacher FOLDER --out classes.yaml",)),
    "disagree": Page(
        (
            "fakd disagree runs/student --images PHOTOS --out next",
            "fakd disagree runs/student --images PHOTOS --out next --first 100 --diverse true",
            "fakd disagree runs/alone --images PHOTOS --out next --teacher runs/teacher",
        )
    ),
    "evaluate": Page(
        (
            "fakd evaluate --network runs/student --data FOLDER",
            "fakd evaluate --network hf:FOLDER --data FOLDER --out scores.json",
        ),
        listed=("network", "data"),
    ),
    "predict": Page(
        (
            "fakd predict --network runs/student --images PHOTOS --out predictions",
            "fakd predict --network runs/student --images drive.mp4 --out drive",
        ),
        listed=("network",),
    ),
    "export": Page(
        (
            "fakd export runs/student --to onnx",
            "fakd export runs/student --to onnx --precision int8",
            "fakd export smp:FOLDER --to openvino --data FOLDER --out shipped --size 360,480",
        ),
    ),
    "serve": Page(
        (
            "fakd serve runs/student",
            "fakd serve runs/teacher runs/student/onnx/student.onnx --port 0 --open",
        ),
    ),
    "replay": Page(("fakd replay runs/student", "fakd replay runs/student --step 120")),
    "latency": Page(
        (
            "fakd latency runs/student smp:Unet",
            "fakd latency 'pspnet?backbone=resnet18&channels=64' runs/student --size 360,480 "
            "--threads 1 --out latency.json --picture latency.png",
        ),
    ),
    "students": Page(
        (
            "fakd students",
            "fakd students --sort gflops --size 360,480",
            "fakd students --measure --threads 1 --sort ms",
        )
    ),
    "models": Page(("fakd models", "fakd models --published")),
    "convert": Page(
        (
            "fakd convert --source mmseg.pth --target teacher.safetensors",
            "fakd convert --source runs/student --target student.pth",
        )
    ),
}


def page(name: str, parser: ArgumentParser, topic: str | None = None) -> str:
    """Write the help of a command.

    Args:
        name: the command.
        parser: its parser, which has the descriptions.
        topic: ``all`` for all flags by group, or one of the groups, such as ``schedule``.

    Raises:
        InputError: there is no such topic.
    """
    groups = [group for group in parser._action_groups if group._group_actions]
    groups = [group for group in groups if group.title != "positional arguments"]
    own, *nested = groups
    described = {group._group_actions[0].dest.partition(".")[0]: group for group in nested}
    if topic is not None and topic not in ("all", *described):
        raise InputError(
            f"--help: there is no {topic}{nearest(topic, described, _choices(described))}"
        )
    short = PAGES[name]
    if topic in described:
        group = described[topic]
        return "\n".join(
            [*_wrapped(f"fakd {name}: {group.title}", ""), "", *_rows(group._group_actions)]
        )
    lines = [*_wrapped(parser.description or "", ""), "", "Examples:"]
    lines += [line for each in short.examples for line in _example(each)]
    flags = own._group_actions
    if topic is None and short.flags:
        wanted = short.flags.split()
        there = {action.dest: action for group in groups for action in group._group_actions}
        flags = [there[each] for each in wanted]
    lines += ["", "Flags:" if topic or not short.flags else "Main flags:", *_rows(flags)]
    if topic == "all":
        for group in nested:
            lines += ["", *_wrapped(f"{group.title}:", ""), *_rows(group._group_actions)]
        return "\n".join(lines)
    for key in short.listed:
        lines += ["", f"--{key} takes:", *_wrapped(_values(name, key), "  ")]
    lines += ["", *(_more(name, described) if described else [])]
    return "\n".join(lines).rstrip()


def listing(name: str, key: str) -> str:
    """List the values of a flag such as ``--student``, and how to see their arguments."""
    example = {"data": "folder", "distillation": "ChannelKL"}.get(key, "pspnet")
    ending = f"fakd {name} --{key}.help {example} explains its arguments."
    return "\n".join([f"--{key} takes:", *_wrapped(_values(name, key), "  "), "", ending])


def arguments(heading: str, description: str, parser: ArgumentParser) -> str:
    """Write the help on the arguments of a network, loss or kind of data."""
    actions = [each for group in parser._action_groups for each in group._group_actions]
    return "\n".join([heading, "", *_wrapped(description, ""), "", *_rows(actions)])


def _choices(titles: Iterable[str]) -> str:
    return f"; choose one of {', '.join(['all', *titles])}"


def _values(command: str, key: str) -> str:
    if key == "data":
        return _DATA
    if key not in ("distillation", "methods"):
        if key == "teacher":
            return f"{_NETWORKS}; {_FILES}; a folder of stored answers"
        learns = key == "student" or command in ("train", "check")
        return _NETWORKS if learns else f"{_NETWORKS}; {_FILES}"
    # Imported here because only this flag needs it.
    from fakd import losses

    if key == "methods":
        return f"alone, and any of {', '.join(losses.PRESETS)}; NAME+fa for one with FA"
    modules = [each for each in losses.__all__ if each[0].isupper() and each != "PRESETS"]
    passed = ("Alignment", "Critic", "PixelRegionMemory", "WeightedSum")
    kinds = [each for each in modules if each not in passed]
    return f"{', '.join(losses.PRESETS)}; or one loss with its arguments: {', '.join(kinds)}"


def _more(name: str, titles: Iterable[str]) -> list[str]:
    more = f"fakd {name} --help all shows every flag, --help GROUP those of one group: "
    return _wrapped(more + ", ".join(titles), "")


def _width() -> int:
    return max(50, min(100, shutil.get_terminal_size().columns))


def _wrapped(text: str, indent: str) -> list[str]:
    found: list[str] = []
    for paragraph in re.split(r"\n\s*\n", text):
        words = " ".join(paragraph.split())
        found += ["", *_lines(words, _width() - len(indent), indent)]
    return found[1:]


def _lines(text: str, width: int, indent: str = "") -> list[str]:
    # Names such as cwd-fa must not be broken.
    return [indent + line for line in textwrap.wrap(text, width, break_on_hyphens=False)]


def _example(command: str) -> list[str]:
    """Break a command between flags, with backslashes for the shell."""
    lines = [""]
    for flag in re.split(r" (?=--)", command):
        if lines[-1] and len(f"  {lines[-1]} {flag} \\") > _width():
            lines[-1] += " \\"
            lines.append(f"      {flag}")
        else:
            lines[-1] = f"{lines[-1]} {flag}".lstrip() if len(lines) == 1 else f"{lines[-1]} {flag}"
    return [f"  {line}" for line in lines]


def _rows(actions: Sequence[Any]) -> list[str]:
    """Format flags and their meaning in two columns, without flags for whole groups."""
    left = 32 if _width() >= 80 else 6
    lines = []
    for action in actions:
        flag = next((each for each in action.option_strings if each.startswith("--")), "")
        kind = getattr(action, "_typehint", None)
        if type(action).__name__ == "_ActionConfigLoad" or not flag or flag == "--help":
            continue
        if flag == "--print_config":
            lines += ["  --print_config".ljust(left) + "print the whole recipe and stop"]
            continue
        meaning = " ".join((action.help or "").split()).rstrip(".")
        standing = _standing(action, kind)
        rows = _lines(f"{meaning} ({standing})" if standing else meaning, _width() - left)
        head = f"  {flag} {_metavar(flag, kind)}".rstrip()
        if len(head) < left and rows:
            lines.append(head.ljust(left) + rows.pop(0))
        else:
            lines.append(head)
        lines += [" " * left + row for row in rows]
    return lines


def _standing(action: Any, kind: Any) -> str:
    """Return "required", or the flag's default unless that is None or empty."""
    if action.required:
        return "required"
    default = action.default
    if default is None or default == () or kind is None or str(default) == "==SUPPRESS==":
        return ""
    if isinstance(default, bool):
        return f"default {str(default).lower()}"
    return f"default {list(default) if isinstance(default, tuple) else default}"


def _metavar(flag: str, kind: Any) -> str:
    kinds = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
    kinds = tuple(each for each in kinds if each is not type(None))
    choices = [
        str(each) for kind in kinds if get_origin(kind) is Literal for each in get_args(kind)
    ]
    if choices and len("|".join(choices)) < 24:
        return "|".join(choices)
    if kinds == (bool,):
        return "true|false"
    if any(get_origin(each) in (tuple, list) for each in kinds):
        return "[...]"
    if kinds and set(kinds) <= {int, float}:
        return "NUMBER"
    return flag.removeprefix("--").rpartition(".")[2].upper()
