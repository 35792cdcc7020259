"""Files: atomic writing, and strict reading of YAML."""

import codecs
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

from fakd.errors import InputError

_WHOLE = re.compile(r"[-+]?(0|[1-9][0-9_]*|0x[0-9a-fA-F]+)$")
_NUMBER = re.compile(r"[-+]?(\.\d+|\d+(\.\d*)?)[eE][-+]?\d+")
_MOST = 10**6
"""Maximum number of values in YAML, with anchors expanded."""
_APART = ("x-", ".")
"""Prefixes of keys that are ignored: they hold anchors, or values for other tools."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn failures to write into an error message of one line.

    Raises:
        InputError: the disk is full or fails, a quota is exceeded, the path is not writable...
    """
    before = os.path.isfile(path)
    try:
        yield
    except Exception as error:
        # Libraries in Rust have the system's error number in their message.
        told = re.search(r"(?:\bOs \{ code: |\(os error )(\d+)", str(error))
        if not isinstance(error, OSError) and not told:
            raise
        number = int(told[1]) if told else error.errno  # type: ignore[attr-defined]
        reason = os.strerror(number) if number else error
        kept = "; the previous one is intact" if before else ""
        raise InputError(f"could not write {path}: {reason}{kept}") from error


def describe_bad_download(path: Path, otherwise: str) -> str:
    """Describe a file that was not downloaded properly: a Git LFS pointer or a web page.

    Args:
        path: a file that cannot be read in the expected format.
        otherwise: the description of any other file.
    """
    with suppress(OSError), open(path, "rb") as file:
        beginning = file.read(64).lstrip().lower()
        if beginning.startswith(b"version https://git-lfs"):
            return "it is a pointer of Git LFS; git lfs pull fetches the file itself"
        if beginning.startswith((b"<!doctype html", b"<html")):
            return "it is a web page; download the file itself"
    return otherwise


def expand_user(path: str | Path) -> Path:
    """Expand ``~`` in a path.

    Raises:
        InputError: the path contains a null character.
    """
    if "\0" in str(path):
        raise InputError(f"a path cannot contain a null character, got {str(path)!r}; leave it out")
    # Unlike Path.expanduser, this does not fail for an unknown user.
    return Path(os.path.expanduser(path))


def paths_in(content: object) -> Iterator[Path]:
    """Yield the absolute paths of existing files and folders among the strings of nested values."""
    if isinstance(content, Mapping | list):
        for each in content.values() if isinstance(content, Mapping) else content:
            yield from paths_in(each)
    elif isinstance(content, str):
        # Strings that are too long or invalid as paths name no file.
        with suppress(OSError, ValueError, InputError):
            if (path := expand_user(content)).exists():
                yield path.resolve()


def make_folder(path: Path) -> None:
    """Create a folder and its parents, unless it exists.

    Raises:
        InputError: it cannot be created.
    """
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically; see `write_atomically`."""

    def write(file: Path) -> None:
        # File names in the text may contain any bytes.
        file.write_text(text, encoding="utf-8", errors="surrogateescape")

    write_atomically(path, write)


def replace_folder(path: Path, write: Callable[[Path], bool]) -> None:
    """Let ``write`` fill a temporary folder next to ``path``, and replace ``path`` if it succeeds.

    Raises:
        InputError: it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with writing(path), _parents(path):
        try:
            if write(temporary):
                for file in temporary.rglob("*"):
                    if file.is_file():
                        _open_to_others(file)
                shutil.rmtree(path, ignore_errors=True)
                os.replace(temporary, path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def _parents(path: Path) -> Iterator[None]:
    """Make the folders that ``path`` is to lie in; those that were not there go if it fails."""
    made = [each for each in path.parents if not each.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        with suppress(OSError):
            for each in made:
                each.rmdir()
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _open_to_others(file: Path) -> None:
    """Set a file's mode according to the umask; some libraries write private files."""
    file.chmod(0o666 & ~_umask())


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a temporary file next to ``path``, then rename it to ``path``.

    Readers see the old content or the new, never a part. The data reaches the disk before the
    rename, so the promise also holds for a machine that loses power. Folders that are not there
    are made, and are gone again if it fails.

    Raises:
        InputError: see `writing`; the previous file is intact.
    """
    temporary = path.with_name(f".{secrets.token_hex(6)}.tmp")
    with writing(path), _parents(path):
        try:
            write(temporary)
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
            _open_to_others(temporary)
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise


class _Loader(yaml.SafeLoader):
    """YAML in which duplicate keys are refused, and 1e-2 is a number.

    A date, 010 (eight elsewhere) and 1:30 (ninety) are text.
    """

    yaml_implicit_resolvers = {  # noqa: RUF012 - as its base has it
        start: [each for each in rules if not each[0].endswith((":timestamp", ":int"))]
        for start, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Refuse duplicate keys, before anchors are merged into the mapping."""
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            line = key.start_mark.line + 1
            if first := lines.get((key.tag, key.value)):
                raise InputError(f"{key.value} occurs twice, in lines {first} and {line}; keep one")
            lines[key.tag, key.value] = line
        return node


class _Dumper(yaml.SafeDumper):
    """YAML that quotes text which this loader or a standard one would read as a number."""


_Loader.add_implicit_resolver("tag:yaml.org,2002:int", _WHOLE, list("-+0123456789"))
for _kind in (_Loader, _Dumper):
    _kind.add_implicit_resolver("tag:yaml.org,2002:float", _NUMBER, list("-+.0123456789"))


def parse_yaml(text: str) -> Any:
    """Parse YAML text, such as the value of a flag.

    Raises:
        InputError: it is not valid YAML, or a key occurs twice.

    >>> parse_yaml("{learning_rate: 1e-2}")
    {'learning_rate': 0.01}
    """
    try:
        found = yaml.load(text, _Loader)
        _refuse_endless(found)
        return found
    except InputError:
        raise
    except yaml.MarkedYAMLError as error:
        # The start of an unclosed part is more helpful than the end of the file.
        mark = error.context_mark or error.problem_mark
        line = f"line {mark.line + 1}: " if mark else ""
        tab = "; indent with spaces" if "'\\t'" in str(error.problem) else ""
        said = ", ".join(filter(None, (error.context, error.problem)))
        raise InputError(f"{line}not valid YAML: {said}{tab}") from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise InputError(f"not valid YAML: {' '.join(str(error).split())}") from error


def _refuse_endless(found: Any) -> None:
    """Refuse anchors that contain themselves, or expand to too many values."""
    left, count = [found], 0
    while left:
        each = left.pop()
        count += 1
        if count > _MOST:
            raise InputError(
                f"its anchors (&) expand to more than {_MOST} values, or contain themselves; write "
                "the values out"
            )
        if isinstance(each, dict | list):
            left += each.values() if isinstance(each, dict) else each


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file of keys and values; keys that begin with x- or a dot are ignored.

    Raises:
        InputError: it cannot be read, is not UTF-8 (or UTF-16 with a byte order mark), or is not a
            mapping with text keys.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    marked = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = content.decode("utf-16" if marked else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise InputError(
            f"{path} must be UTF-8, and is not in line {line}; save it as UTF-8"
        ) from error
    if "\0" in text:
        raise InputError(f"{path} must be UTF-8, and holds characters of 0; save it as UTF-8")
    try:
        found = parse_yaml(text)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    if not isinstance(found, dict):
        kind = "nothing" if found is None else f"a {type(found).__name__}"
        reason = describe_bad_download(path, f"it contains {kind}")
        raise InputError(f"{path} must contain lines of the form 'key: value': {reason}")
    for key in found:
        if not isinstance(key, str):
            raise InputError(
                f"{path}: {key!r} is not a valid key; put it in quotes if it is a name"
            )
    return {key: value for key, value in found.items() if not key.startswith(_APART)}


def yaml_text(content: Mapping[str, Any]) -> str:
    """Format keys and values as YAML that `read_yaml` reads back unchanged."""
    return yaml.dump(dict(content), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def write_yaml(path: Path, content: Mapping[str, Any]) -> None:
    """Write a YAML file atomically."""
    write_text(path, yaml_text(content))
