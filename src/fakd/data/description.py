"""The dataset.yaml of a folder: which classes there are and how masks encode them."""

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from fakd.data.dataset import Colour
from fakd.data.palette import default_palette
from fakd.errors import InputError
from fakd.types import IGNORE

_KEYS = ("name", "root", "classes", "palette", "ignore", "ids", "masks", "ignore_colors")


@dataclass(frozen=True)
class Description:
    """A checked dataset.yaml."""

    path: Path
    name: str | None
    root: Path | None
    class_names: tuple[str, ...]
    palette: tuple[Colour, ...]
    has_palette: bool
    """Whether the colours come from the file, so that RGB masks can be read with them."""
    ids: dict[int, int]
    """Mask id to class, `IGNORE` for ids that mean none; what is missing is a mistake."""
    masks: str | None
    """``ids``, ``colors``, or None to tell by the mask."""
    ignored_colours: tuple[Colour, ...]


def read_description(path: Path) -> Description:
    """Read and check a dataset.yaml.

    Raises:
        InputError: a key or value is not what it should be; the message names both.
    """
    content = _load(path)
    _check_keys(content, _KEYS, path)
    names, coloured = _classes(content.get("classes"), path)
    palette = _palette(content.get("palette"), coloured, names, path)
    masks = content.get("masks")
    if masks not in (None, "ids", "colors"):
        raise InputError(f"{path}: masks must be 'ids' or 'colors', got {masks!r}")
    if masks == "colors" and palette is None:
        raise InputError(f"{path}: 'masks: colors' needs the colour of each class; add palette:")
    for key in ("name", "root"):
        if not isinstance(content.get(key, ""), str):
            raise InputError(f"{path}: {key} must be text, got {content[key]!r}; put it in quotes")
    root = content.get("root")
    return Description(
        path=path,
        name=content.get("name"),
        root=None if root is None else path.parent / Path(root).expanduser(),
        class_names=names,
        palette=palette or default_palette(len(names)),
        has_palette=palette is not None,
        ids=_ids(content, names, path),
        masks=masks,
        ignored_colours=tuple(
            _colour(value, "ignore_colors", path)
            for value in _list(content.get("ignore_colors", []), "ignore_colors", path)
        ),
    )


def _load(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path} is not valid YAML: {reason}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} must hold 'classes: [...]', got {type(content).__name__}")
    return content


def _check_keys(content: dict[str, Any], known: tuple[str, ...], path: Path) -> None:
    for key in content:
        if key in known:
            continue
        close = difflib.get_close_matches(str(key), known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"the keys are {', '.join(known)}"
        raise InputError(f"{path}: unknown key {key!r}; {hint}")


def _list(value: object, key: str, path: Path) -> list[Any]:
    if not isinstance(value, list):
        raise InputError(f"{path}: {key} must be a list, got {value!r}; write {key}: [...]")
    return value


def _colour(value: object, key: str, path: Path) -> Colour:
    match value:
        case [int(red), int(green), int(blue)] if all(0 <= v <= 255 for v in (red, green, blue)):
            return red, green, blue
    raise InputError(f"{path}: a colour in {key} must be [r, g, b] of 0 to 255, got {value!r}")


def _classes(value: object, path: Path) -> tuple[tuple[str, ...], list[Colour]]:
    if value is None:
        raise InputError(f"{path} lacks classes; add, for example, 'classes: [road, car]'")
    names: list[str] = []
    colours: list[Colour] = []
    for entry in _list(value, "classes", path):
        if isinstance(entry, dict):
            _check_keys(entry, ("name", "color"), path)
            if "color" in entry:
                colours.append(_colour(entry["color"], "classes", path))
            entry = entry.get("name")
        # YAML reads an unquoted no, yes, on, off or 1 as something other than text.
        if not isinstance(entry, str) or not entry:
            raise InputError(f"{path}: a class needs a name, got {entry!r}; put it in quotes")
        names.append(entry)
    if not 0 < len(names) < IGNORE:
        raise InputError(f"{path}: expected 1 to {IGNORE - 1} classes, got {len(names)}")
    if repeated := {name for name in names if names.count(name) > 1}:
        raise InputError(f"{path}: classes name {sorted(repeated)[0]!r} twice; rename one")
    if colours and len(colours) != len(names):
        raise InputError(
            f"{path}: {len(colours)} of {len(names)} classes have a color; give all or none"
        )
    return tuple(names), colours


def _palette(
    value: object, coloured: list[Colour], names: tuple[str, ...], path: Path
) -> tuple[Colour, ...] | None:
    if value is None:
        palette = coloured
    elif coloured:
        raise InputError(f"{path}: colours stand in both classes and palette; keep one of them")
    else:
        palette = [_colour(entry, "palette", path) for entry in _list(value, "palette", path)]
        if len(palette) != len(names):
            raise InputError(
                f"{path}: palette has {len(palette)} colours for {len(names)} classes; "
                "give one per class, in order"
            )
    if repeated := [colour for colour in palette if palette.count(colour) > 1]:
        raise InputError(f"{path}: two classes have the colour {list(repeated[0])}; change one")
    return tuple(palette) or None


def _ids(content: dict[str, Any], names: tuple[str, ...], path: Path) -> dict[int, int]:
    ids = {IGNORE: IGNORE}
    listed = content.get("ids")
    if listed is None:
        ids |= {number: number for number in range(len(names))}
    elif not isinstance(listed, dict):
        raise InputError(f"{path}: ids must map mask ids to classes, got {listed!r}")
    else:
        ids |= {_id(raw, "ids", path): _class(to, names, path) for raw, to in listed.items()}
    for raw in _list(content.get("ignore", []), "ignore", path):
        if listed is not None and raw in listed:
            raise InputError(f"{path}: id {raw} stands in both ids and ignore; keep one of them")
        ids[_id(raw, "ignore", path)] = IGNORE
    return ids


def _id(value: object, key: str, path: Path) -> int:
    if type(value) is not int or not 0 <= value < 2**16:
        raise InputError(f"{path}: {key} must name mask ids of 0 to 65535, got {value!r}")
    return value


def _class(value: object, names: tuple[str, ...], path: Path) -> int:
    if value in names:
        return names.index(str(value))
    if type(value) is int and 0 <= value < len(names):
        return value
    close = difflib.get_close_matches(str(value), names, n=1)
    hint = f"did you mean {close[0]!r}?" if close else "add the class, or list the id under ignore"
    raise InputError(f"{path}: ids map to {value!r}, which is no class; {hint}")
