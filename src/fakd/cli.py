"""Command name -> function; the function's signature is the flags and the recipe's schema."""

import difflib
import inspect
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from itertools import pairwise
from typing import Any

import torch
from docstring_parser import parse
from jsonargparse import ArgumentError, ArgumentParser, DefaultHelpFormatter, Namespace

import fakd
from fakd.commands.check import check
from fakd.commands.compare import compare
from fakd.commands.convert import convert
from fakd.commands.demo import demo
from fakd.commands.distill import distill
from fakd.commands.evaluate import evaluate
from fakd.commands.models import models
from fakd.commands.predict import predict
from fakd.commands.report import report
from fakd.commands.tables import tables
from fakd.commands.train import train
from fakd.data import SegmentationData
from fakd.errors import InputError
from fakd.shorthand import expand, one_line
from fakd.types import Segmenter

COMMANDS: dict[str, Callable[..., Any]] = {
    "demo": demo,
    "train": train,
    "distill": distill,
    "compare": compare,
    "report": report,
    "tables": tables,
    "data check": check,
    "evaluate": evaluate,
    "predict": predict,
    "models": models,
    "convert": convert,
}
# What may stand before all flags, without its name; a list takes all that does.
POSITIONAL = {"data check": "path", "report": "runs", "tables": "runs"}
# Parameters that name a class or a function and its arguments. A network that is to be trained is
# built last, when the data have said how many classes there are.
BUILT = {"data": SegmentationData, "teacher": Segmenter, "network": Segmenter}
TRAINED = {"train": "network", "distill": "student"}
# Written into the recipes of other processes, and never built here.
PASSED_ON = {"compare": ("teacher", "student", "pairs", "methods")}

OVERVIEW = """\
Distil any semantic-segmentation model into a small, fast one, and know whether it helped.

  fakd demo                                          see it work in minutes, nothing needed
  fakd train   --network pspnet --network.backbone resnet50 --data FOLDER --run runs/teacher
  fakd distill --teacher runs/teacher --student pspnet --student.backbone mobilenetv3_small_050
               --data FOLDER --run runs/student      FAKD by default
  fakd compare --teacher runs/teacher --student pspnet --student.backbone resnet18
               --data FOLDER --methods alone,cwd,cwd+fa --seeds 3 --run runs/comparison
  fakd report runs/comparison                        one HTML file that answers whether it helped
  fakd tables runs/comparison                        the paper's tables and figures from runs
  fakd data check FOLDER                             what is in it, and what to fix
  fakd evaluate --network runs/student --data FOLDER
  fakd predict --network runs/student --images PHOTOS --out predictions
  fakd models                                        the paper's networks, published checkpoints
  fakd convert --source mmseg.pth --target teacher.safetensors

Every command explains itself with --help; every value is a flag; --print_config prints the whole
recipe, and --recipe FILE reads one. Every run folder holds the recipe that repeats it.
Exit codes: 0 done, 1 failed while running, 2 asked for something impossible.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code: 0 done, 1 failed, 2 asked for the impossible."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _run(given)
    except InputError as error:
        print(f"fakd: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except (FloatingPointError, OSError) as error:
        print(f"fakd: failed: {error}", file=sys.stderr)
        return 1
    except torch.OutOfMemoryError as error:
        remedy = "lower schedule.batch_size or augmentation.crop, or try bf16-mixed"
        print(f"fakd: failed: {str(error).splitlines()[0]} ({remedy})", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("fakd: stopped; the same command continues at the last checkpoint", file=sys.stderr)
        return 130


def _run(given: list[str]) -> int:
    if not given or given[0] in ("-h", "--help"):
        print(OVERVIEW)
        return 0
    if given[0] == "--version":
        print(f"fakd {fakd.__version__}")
        return 0
    name, rest = command_of(given)
    if name not in COMMANDS:
        nearest = difflib.get_close_matches(" ".join(given[:2]), COMMANDS, 1)
        nearest = nearest or difflib.get_close_matches(name, COMMANDS, 1)
        hint = f"did you mean {nearest[0]}?" if nearest else f"choose one of {', '.join(COMMANDS)}"
        raise InputError(f"there is no command {name!r}; {hint}")
    if _explain_part(name, rest):
        return 0
    parser = command_parser(name)
    flags = _parameters(name)
    try:
        config = parser.parse_args(expand(rest, flags))
    except ArgumentError as error:
        others = {key: other for other in reversed(COMMANDS) for key in _parameters(other)}
        elsewhere = {key: other for key, other in others.items() if key not in flags}
        raise InputError(one_line(str(error), parser.get_defaults().keys(), elsewhere)) from error
    result = COMMANDS[name](**_arguments(name, parser, config))
    return int(name == "data check" and not result["usable"])


def command_of(given: Sequence[str]) -> tuple[str, list[str]]:
    """Split off the command, of one word or two, and name what stands before the first flag."""
    words = next((n for n in (2, 1) if " ".join(given[:n]) in COMMANDS), 1)
    name, rest = " ".join(given[:words]), list(given[words:])
    key = POSITIONAL.get(name)
    count = next((i for i, each in enumerate(rest) if each.startswith("-")), len(rest))
    if key is None or count == 0:
        return name, rest
    if key == "runs":
        return name, [f"--runs={json.dumps(rest[:count])}", *rest[count:]]
    return name, [f"--{key}={rest[0]}", *rest[1:]]


def _parameters(name: str) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(COMMANDS[name]).parameters


def command_parser(name: str) -> ArgumentParser:
    """Build the parser of one command from its function's signature."""
    function = COMMANDS[name]
    description = inspect.getdoc(function) or ""
    parser = ArgumentParser(
        prog=f"fakd {name}",
        description=description.partition("\n\nArgs:")[0],
        formatter_class=DefaultHelpFormatter,
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_argument("--recipe", action="config", help="a YAML file with any of these values")
    names = _parameters(name)
    explained = {each.arg_name: each.description or "" for each in parse(description).params}
    trained = TRAINED.get(name)
    passed_on = PASSED_ON.get(name, ())
    apart = (trained, *passed_on)
    networks = [key for key in passed_on if key in BUILT or key in TRAINED.values()]
    built = {key: kind for key, kind in BUILT.items() if key in names and key not in apart}
    for key, kind in built.items():
        parser.add_subclass_arguments(kind, key, required=True, help=explained[key])
    if trained:
        parser.add_subclass_arguments(
            Segmenter,
            trained,
            skip={"classes"},
            instantiate=False,
            required=True,
            help=explained[trained],
        )
    for key in networks:
        parser.add_subclass_arguments(
            Segmenter,
            key,
            skip={"classes"} if key == "student" else None,
            instantiate=False,
            required=False,
            help=explained[key],
        )
    skip: set[str | int] = {*built, *networks, *([trained] if trained else [])}
    parser.add_function_arguments(function, as_group=False, skip=skip)
    return parser


def _arguments(name: str, parser: ArgumentParser, config: Namespace) -> dict[str, Any]:
    """Build what the flags name; the network to be trained last, for the classes of the data."""
    if "seed" in config:
        torch.manual_seed(config.seed)
    passed_on = {key: config[key] for key in PASSED_ON.get(name, ())}
    for key in passed_on:
        config[key] = None
    try:
        arguments = parser.instantiate(config).as_dict()
    except ValueError as error:
        # A class refuses its arguments; jsonargparse may have wrapped the reason.
        raise InputError(str(error.__cause__ or error)) from error
    arguments |= {key: _plain(value) for key, value in passed_on.items()}
    arguments = {key: arguments[key] for key in _parameters(name)}
    trained = TRAINED.get(name)
    if trained:
        part = config[trained]
        given = part.init_args.as_dict() if "init_args" in part else {}
        torch.manual_seed(config.seed)
        arguments[trained] = build(part.class_path, given, arguments["data"].classes)
    return arguments


def _plain(value: Any) -> Any:
    """Turn what the parser holds into what a YAML file would."""
    if isinstance(value, Namespace):
        return _plain(value.as_dict())
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value


def build(class_path: str, init_args: dict[str, Any], classes: int) -> Segmenter:
    """Call a network's builder, with the class count if it takes one."""
    module, _, name = class_path.rpartition(".")
    builder = getattr(import_module(module), name)
    # Recorded without the class count, which a recipe's reader takes from the data as well.
    origin = {"class_path": class_path, "init_args": dict(init_args)}
    if "classes" in inspect.signature(builder).parameters:
        init_args = {**init_args, "classes": classes}
    network: Segmenter = builder(**init_args)
    network.origin = origin
    return network


def _explain_part(name: str, rest: Sequence[str]) -> bool:
    """Answer ``--student.help pspnet``, which jsonargparse does for classes only."""
    for flag, value in pairwise(rest):
        key = flag.removeprefix("--").removesuffix(".help")
        if not flag.endswith(".help") or value.startswith("-"):
            continue
        written_out = expand([f"--{key}", value], [key])[0].partition("=")[2]
        module, _, attribute = written_out.rpartition(".")
        if not module.startswith("fakd."):
            continue
        function = getattr(import_module(module), attribute)
        description = (inspect.getdoc(function) or "").partition("\n\nArgs:")[0]
        parser = ArgumentParser(prog=f"fakd {name} --{key} {value}", description=description)
        skip: set[str | int] = {"classes"} if key == TRAINED.get(name) else set()
        parser.add_function_arguments(function, key, as_group=False, skip=skip)
        parser.print_help()
        return True
    return False
