"""The command line: each command is a function, whose signature gives its flags and recipe."""

import errno
import inspect
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib import import_module
from itertools import pairwise
from typing import Any

from docstring_parser import parse as parse_docstring
from jsonargparse import ArgumentError, ArgumentParser

import fakd
from fakd import completion, help_pages, signatures, specs
from fakd.budget import require_student_or_budget
from fakd.console import replace_unshowable
from fakd.errors import MORE_MEMORY, InputError, is_out_of_memory, require_seed
from fakd.files import expand_user
from fakd.imports import only_named
from fakd.runs.folder import refuse_taken
from fakd.shorthand import (
    MOVED,
    PACKAGES,
    first_unknown,
    gather,
    is_recipe,
    one_line,
    require_existing_path,
)
from fakd.threads import let_waiting_threads_sleep, require_numbers

# Import paths, imported when the command is run.
COMMANDS = {
    "demo": "fakd.commands.demo.demo",
    "train": "fakd.commands.train.train",
    "distill": "fakd.commands.distill.distill",
    "check": "fakd.commands.doctor.doctor",
    "compare": "fakd.commands.compare.compare",
    "compare confirm": "fakd.commands.compare.confirm",
    "report": "fakd.commands.report.report",
    "tables": "fakd.commands.tables.tables",
    "data check": "fakd.commands.check.check",
    "answer": "fakd.commands.answer.answer",
    "classes": "fakd.commands.classes.classes",
    "disagree": "fakd.commands.disagree.disagree",
    "evaluate": "fakd.commands.evaluate.evaluate",
    "predict": "fakd.commands.predict.predict",
    "export": "fakd.commands.export.export",
    "serve": "fakd.commands.serve.serve",
    "replay": "fakd.commands.replay.replay",
    "latency": "fakd.commands.latency.latency",
    "students": "fakd.commands.students.students",
    "models": "fakd.commands.models.models",
    "convert": "fakd.commands.convert.convert",
}
# Positional arguments, in order, before all flags; a list takes all of them.
POSITIONAL = {
    "data check": "path",
    "compare confirm": "run",
    "replay": "run",
    "export": "network",
    "report": "runs",
    "latency": "networks",
    "serve": "networks",
    "tables": "runs",
    "classes": "teacher data",
    "disagree": "run",
    "evaluate": "network",
    "predict": "network images",
}
# Networks to train, built last, when the number of classes is known from the data.
TRAINED = {"train": ("network",), "distill": ("student",), "check": ("student", "network")}
# Commands with exit code 1 unless this key of their result is true.
JUDGING = {"data check": "usable", "check": "ready", "export": "holds"}
# Commands that resume after a stop.
_CONTINUING = ("train", "distill", "compare", "answer", "predict")
# Networks passed on in recipes of other processes, and not built in this one.
PASSED_ON = {"compare": ("teacher", "student")}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code: 0 done, 1 failed, 2 invalid input."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    let_waiting_threads_sleep()
    replace_unshowable()
    try:
        require_numbers()
        with only_named():
            code = _run(given)
        print(end="", flush=True)
        return code
    except BrokenPipeError:
        # The reader of the output has closed it, such as head; nothing to report.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 141
    except InputError as error:
        print(f"fakd: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except (FloatingPointError, OSError) as error:
        if isinstance(error, OSError) and error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
            print(f"fakd: error: {error.filename}: {error.strerror}", file=sys.stderr)
            return 2
        print(f"fakd: failed: {_flush_error() or error}", file=sys.stderr)
        return 1
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, RuntimeError) and not is_out_of_memory(error):
            raise
        reason = (str(error).splitlines() or ["memory ran out"])[0]
        print(f"fakd: failed: {reason} ({MORE_MEMORY})", file=sys.stderr)
        return 1
    except KeyboardInterrupt as error:
        if not error.args:  # else it has been reported already
            goes_on = "; the same command resumes from the last checkpoint"
            print(f"fakd: stopped{goes_on * (given[0] in _CONTINUING)}", file=sys.stderr)
        return 130


def _flush_error() -> str | None:
    """Return why standard output cannot be written, if so, and discard what is buffered."""
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return f"cannot write to standard output: {error.strerror}"
    return None


def _run(given: list[str]) -> int:
    if not given or given[0] in ("-h", "--help"):
        print(help_pages.OVERVIEW)
        return 0
    if given[0] == "--version":
        print(f"fakd {fakd.__version__}")
        return 0
    name, rest = command_of(given)
    if name == "completion":
        print(
            completion.page(rest, lambda: {each: command_parser(each) for each in COMMANDS}), end=""
        )
        return 0
    if name not in COMMANDS:
        known = (*COMMANDS, "completion")
        hint = specs.nearest(name, known, f"; choose one of {', '.join(known)}", 0.6)
        hint = specs.nearest(" ".join(given[:2]), known, hint, 0.6)
        raise InputError(f"there is no command {name!r}{hint}")
    if (explained := _help_text(name, rest)) is not None:
        print(explained)
        return 0
    result = _function(name)(**_build_objects(name, parse(name, rest)))
    return int(name in JUDGING and not result[JUDGING[name]])


def command_of(given: Sequence[str]) -> tuple[str, list[str]]:
    """Split off the command, of one or two words, and turn positional arguments into flags."""
    words = next((n for n in (2, 1) if " ".join(given[:n]) in COMMANDS), 1)
    name, rest = " ".join(given[:words]), list(given[words:])
    key = POSITIONAL.get(name)
    count = next((i for i, each in enumerate(rest) if each.startswith("-")), len(rest))
    # A YAML file is the recipe, but where data or a recipe's runs are what is given.
    if key is None or count == 0 or (key not in ("path", "runs") and is_recipe(rest[0])):
        return name, rest
    if key in ("runs", "networks"):
        return name, [f"--{key}={json.dumps(rest[:count])}", *rest[count:]]
    keys = key.split()[:count]
    named = [f"--{each}={value}" for each, value in zip(keys, rest, strict=False)]
    return name, [*named, *rest[len(keys) :]]


def _function(name: str) -> Callable[..., Any]:
    module, _, attribute = COMMANDS[name].rpartition(".")
    function: Callable[..., Any] = getattr(import_module(module), attribute)
    return function


def _parameters(name: str) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(_function(name)).parameters


def gather_flags(name: str, given: Sequence[str]) -> tuple[list[str], list[Mapping[str, Any]]]:
    """Convert a command's flags to the form of its parser, as `gather` does.

    Raises:
        InputError: a flag lacks its value, or a recipe cannot be read.
    """
    parameters = _parameters(name)
    return gather(given, parameters, signatures.switches(parameters), signatures.lists(parameters))


def parse(name: str, given: Sequence[str]) -> dict[str, Any]:
    """Parse a command's flags and recipes into settings, plain values, and specs of objects.

    Raises:
        InputError: a flag or a value is invalid for this command.
    """
    parameters = _parameters(name)
    parser, known = _parser_and_flags(name)
    arguments, recipes = gather_flags(name, given)
    if (wrong := first_unknown(arguments, recipes, known)) is not None:
        if (now := MOVED.get(wrong)) and now.partition(".")[0] in parameters:
            raise InputError(f"there is no {wrong}; give {now} instead")
        raise InputError(_unknown_flag(name, wrong, known))
    if "--print_config" in arguments:
        arguments = [_with_defaults(argument) for argument in arguments]
    try:
        config = parser.parse_args(arguments)
    except ArgumentError as error:
        raise InputError(one_line(str(error))) from error
    code = [config["code"]] if isinstance(config["code"], str) else config["code"] or []
    if gone := [each for each in code if each.endswith(".py") and not expand_user(each).is_file()]:
        raise InputError(f"--code: {gone[0]} does not exist; give the .py file to run")
    specs.allow(*code)
    return {
        key: signatures.argument_of(key, each, config.get(key)) for key, each in parameters.items()
    }


@cache
def _parser_and_flags(name: str) -> tuple[ArgumentParser, list[str]]:
    """Build the parser that reads a command's flags, and list them."""
    parser = command_parser(name)
    known = list(parser.get_defaults().keys())
    signatures.leave_out_defaults(parser, _parameters(name))
    return parser, known


def _unknown_flag(name: str, wrong: str, known: Sequence[str]) -> str:
    """Suggest a flag of this or another command instead of an unknown one."""
    last = wrong.rpartition(".")[2]
    parameters, groups = _parameters(name), {each.partition(".")[0] for each in known}
    same = [each for each in (*known, *groups) if each.rpartition(".")[2] == last]
    if same and same != [wrong]:
        return f"there is no {wrong} in fakd {name}; did you mean {same[0]}?"
    first = wrong.partition(".")[0]
    owners = [other for other in COMMANDS if first in _parameters(other)]
    if owners and first not in parameters:
        return f"there is no {wrong} in fakd {name}; that is for fakd {', '.join(owners)}"
    listed = "; --help all lists all flags; in a recipe, keys for anchors must begin with x-"
    return f"there is no {wrong}{specs.nearest(wrong, known, listed)}"


def _with_defaults(argument: str) -> str:
    """Fill in the defaults of a spec that will be printed."""
    key, _, value = argument.removeprefix("--").partition("=")
    if key not in PACKAGES:
        return argument
    spec = json.loads(value)
    spec = specs.with_claims(spec) if PACKAGES[key] == "fakd.models" else spec
    spec = specs.check_spec(spec, key, package=PACKAGES[key], counted=True)
    return f"--{key}={json.dumps(specs.to_plain(spec))}"


def command_parser(name: str) -> ArgumentParser:
    """Build the parser of one command from its function's signature."""
    function = _function(name)
    documented = parse_docstring(inspect.getdoc(function) or "")
    explained = {each.arg_name: each.description or "" for each in documented.params}
    parser = ArgumentParser(
        prog=f"fakd {name}",
        description=_purpose(function),
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_argument("--recipe", action="config", help="a YAML file with any of these values")
    parser.add_argument(
        "--code",
        type=list[str] | str | None,
        help="your own .py files or modules that recipes and other files may run",
    )
    for key, each in _parameters(name).items():
        options: dict[str, Any] = {"help": explained.get(key)}
        group = signatures.settings_type(each.annotation)
        if signatures.is_required(each):
            options["required"] = True
        else:
            options["default"] = None if each.default is each.empty else each.default
        if signatures.may_be_partial(each):
            options["default"] = group()
        # With dict[str, Any] the parser would instantiate class paths.
        built = dict if signatures.is_required(each) else dict | None
        kind = built if key in PACKAGES else group or each.annotation
        parser.add_argument(f"--{key}", type=kind, **options)
    return parser


def _build_objects(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Build the objects named by flags; networks to train last, with the data's classes."""
    require_seed(arguments.get("seed", 0))
    if name == "distill" or arguments.get("fit") is not None:
        require_student_or_budget(arguments["student"], arguments["fit"])
    apart = PASSED_ON.get(name, ())
    for key in apart:
        if arguments.get(key) is not None:
            require_existing_path(key, arguments[key])
    named = [key for key in PACKAGES if arguments.get(key) is not None and key not in apart]
    if not named:
        return arguments
    for key in named:
        require_existing_path(key, arguments[key])
    if name in TRAINED and arguments["run"] is not None:
        refuse_taken(expand_user(arguments["run"]), arguments["existing"])
    counted = "data" in arguments
    for key in named:
        spec = (
            specs.with_claims(arguments[key]) if PACKAGES[key] == "fakd.models" else arguments[key]
        )
        arguments[key] = specs.check_spec(spec, key, package=PACKAGES[key], counted=counted)
    import torch

    trained = TRAINED.get(name, ())
    try:
        for key in sorted(named, key=lambda each: (each in trained, each != "data")):
            if "seed" in arguments:
                torch.manual_seed(arguments["seed"])
            arguments[key] = _build_flag(key, arguments[key], arguments.get("data"), key in trained)
    except ValueError as error:
        # Raised by a class on invalid arguments.
        raise InputError(str(error)) from error
    return arguments


def _build_flag(key: str, spec: specs.Spec, data: Any, trained: bool) -> Any:
    if key == "data":
        made = _require_kind("fakd.data.SegmentationData", key, specs.build(spec))
        made.config = made.config or specs.to_plain(spec)
        return made
    if key == "distillation":
        return _require_kind("fakd.types.DistillationLoss", key, specs.build(spec))
    if spec["class_path"].startswith("fakd.answers."):
        return _require_kind("fakd.answers.Source", key, specs.build(spec))
    classes = None if data is None else data.classes
    return fakd.models.open_network(spec, classes, trained=trained)


def _require_kind(kind: str, key: str, made: Any) -> Any:
    if not isinstance(made, specs.import_object(kind)):
        raise InputError(f"{key}: expected a {kind}, got a {type(made).__name__}")
    return made


def _help_text(name: str, rest: Sequence[str]) -> str | None:
    """Return the text for ``--help``, ``--help all``, ``--student.help [pspnet]``, if asked for."""
    words = [word for each in rest for word in each.split("=", 1)]
    for flag, following in pairwise([*words, "-"]):
        topic = None if following.startswith("-") else following
        if flag in ("-h", "--help"):
            parser = command_parser(name)
            signatures.leave_out_defaults(parser, _parameters(name))
            return help_pages.page(name, parser, topic)
        key = flag.removeprefix("--").removesuffix(".help")
        if flag.endswith(".help") and key in PACKAGES and key in _parameters(name):
            return (
                help_pages.listing(name, key)
                if topic is None
                else _arguments_help(name, key, topic)
            )
    return None


def _arguments_help(name: str, key: str, value: str) -> str:
    path = specs.full_path(value, PACKAGES[key])
    specs.allow(path)
    function = specs.import_object(path)
    parser = ArgumentParser()
    skip: set[str | int] = {"classes"} if key in TRAINED.get(name, ()) else set()
    add = parser.add_class_arguments if inspect.isclass(function) else None
    (add or parser.add_function_arguments)(function, key, as_group=False, skip=skip)
    return help_pages.arguments(f"fakd {name} --{key} {value}", _purpose(function), parser)


def _purpose(function: Any) -> str:
    return (inspect.getdoc(function) or "").partition("\n\nArgs:")[0]
