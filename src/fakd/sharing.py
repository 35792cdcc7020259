"""Share networks as a folder of weights, metadata and model card, also through a hub."""

import copy
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from fakd import specs
from fakd.comparing.verdict import references, sentence
from fakd.errors import InputError
from fakd.files import expand_user, write_text, yaml_text
from fakd.imports import IN_FILE, LIBRARIES, require_library
from fakd.models import load, open_network, save
from fakd.models.files import SHARED, own_version
from fakd.models.weights import is_reachable, licence_of
from fakd.runs.folder import RESULT, place_in_grid
from fakd.runs.naming import ALONE
from fakd.runs.reading import Run, by_pair, read_grid, read_run
from fakd.types import Segmenter

CONFIG, CARD = "config.json", "README.md"
_FILES = (SHARED, CONFIG, CARD)
_UNKNOWN = "not known; ask whoever published them"


def save_pretrained(
    run: Segmenter | str | Path,
    folder: str | Path,
    *,
    licence: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a network as a folder to share: safetensors, JSON, and a model card.

    The card has scores, the verdict of the comparison that a run is part of, recipe, the data's
    fingerprint, and licences as far as they are known, but no paths of this machine.

    Args:
        run: a finished run, whose best weights are used; or any network.
        folder: folder to write, created with its parents.
        licence: licence of the network, such as apache-2.0.
        overwrite: replace a network that was shared there before.

    Returns:
        The folder.

    Raises:
        InputError: the folder has such files, or the network cannot be rebuilt from a file.
    """
    folder = expand_user(folder)
    present = [name for name in _FILES if (folder / name).exists()]
    if present and not overwrite:
        raise InputError(f"{folder / present[0]} exists; choose another folder, or overwrite=True")
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is not a folder; choose another one")
    known = isinstance(run, str | Path) and (expand_user(run) / RESULT).is_file()
    finished = read_run(run) if known and isinstance(run, str | Path) else None
    network = load(finished.folder) if finished else open_network(run)
    if network.config is None:
        raise InputError(
            "this network cannot be shared, as no spec that rebuilds it is known; give one of "
            "fakd or of a known library, or a class or function by its class path"
        )
    facts = describe(network, finished, licence)
    title = finished.folder.absolute().name if finished else folder.absolute().name
    shared = copy.copy(network)
    shared.config = facts["network"]
    save(
        shared,
        folder / SHARED,
        class_names=network.class_names,
        palette=network.palette,
        extra=network.extra,
    )
    write_text(folder / CONFIG, json.dumps(facts, indent=2) + "\n")
    write_text(folder / CARD, card(title, facts))
    return folder


def from_pretrained(
    source: str | Path, *, allow: str | Sequence[str] = (), revision: str | None = None
) -> Segmenter:
    """Load a network that `save_pretrained` wrote, in evaluation mode.

    Args:
        source: a folder, or an id of the hub; without a connection, the local cache is used.
        allow: code of your own that the network needs; see `fakd.load`.
        revision: branch, tag or commit at the hub.

    Raises:
        InputError: there is no such network, or it needs code that was not allowed.
    """
    folder = expand_user(source)
    if not folder.is_dir():
        folder = _fetch(str(source), revision)
    if not (folder / SHARED).is_file():
        raise InputError(f"{source} must hold {SHARED}, which fakd.save_pretrained writes")
    return load(folder / SHARED, allow=allow)


def push_to_hub(
    run: Segmenter | str | Path,
    name: str,
    *,
    licence: str | None = None,
    private: bool = True,
    token: str | None = None,
) -> str:
    """Share a network at the Hugging Face hub; see `save_pretrained`.

    Args:
        run: a finished run, or any network.
        name: its id at the hub, ``user/name``.
        licence: licence of the network, such as apache-2.0.
        private: whether only you can see it; does not change an existing repository.
        token: your access token; by default the one stored by ``hf auth login``.

    Returns:
        Its URL.

    Raises:
        InputError: the hub cannot be reached, or refuses.
    """
    require_library("huggingface_hub")
    import huggingface_hub

    with tempfile.TemporaryDirectory() as place:
        # Named after the id, as the folder's name is the title of a network that is not a run.
        folder = save_pretrained(run, Path(place) / name.rpartition("/")[2], licence=licence)
        if not is_reachable():
            raise InputError(f"the hub cannot be reached; {name} was not pushed")
        hub = huggingface_hub.HfApi(token=token)
        try:
            hub.create_repo(name, private=private, exist_ok=True)
            return str(hub.upload_folder(repo_id=name, folder_path=folder))
        except (OSError, ValueError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise InputError(f"the hub refuses {name}: {reason}") from error


def _fetch(name: str, revision: str | None) -> Path:
    require_library("huggingface_hub")
    import huggingface_hub

    here = not is_reachable()
    try:
        options: dict[str, Any] = {"allow_patterns": [*_FILES], "local_files_only": here}
        return Path(huggingface_hub.snapshot_download(name, revision=revision, **options))
    except (OSError, ValueError) as error:
        why = "and the hub cannot be reached" if here else (str(error).splitlines() or [""])[0]
        raise InputError(
            f"{name} is neither a folder nor a network in the local cache, {why}; give a folder, "
            "or check the id"
        ) from error


def describe(network: Segmenter, run: Run | None, licence: str | None) -> dict[str, Any]:
    """Compile the content of config.json."""
    facts: dict[str, Any] = {
        "fakd_version": own_version(),
        "network": without_folders(network.config),
        "parameters": sum(each.numel() for each in network.parameters()),
        "classes": network.classes,
        "class_names": network.class_names and list(network.class_names),
        "palette": network.palette and [list(each) for each in network.palette],
        "licence": licence,
        "code": _own_code(network.config),
    }
    if run is None:
        return facts | {"scores": {"miou": network.extra.get("miou")}}
    result, recipe = run.result, run.recipe
    best, last = result["best"], int(result["steps"])
    teacher = recipe.get("teacher")
    return facts | {
        "scores": {"miou": best["miou"], "step": best["step"], "steps": last}
        | ({"final": result["final"]} if best["step"] == last else {}),
        "teacher_miou": result.get("teacher_miou"),
        "verdict": _verdict(run),
        "data": result["data"],
        "recipe": without_folders(recipe),
        "licences": {
            "weights it began with": _licence_of_start(recipe),
            **({"weights of the teacher": _UNKNOWN} if teacher else {}),
            "data": _UNKNOWN,
        },
    }


def _licence_of_start(recipe: Mapping[str, Any]) -> str | None:
    """Return the licence of a run's initial weights; None if they were random."""
    spec = recipe.get("student") or recipe.get("network")
    given = (spec.get("init_args") or {}) if specs.is_spec(spec) else {}
    inner = given.get("network")
    given = (inner.get("init_args") or {}) if specs.is_spec(inner) else given
    if given.get("weights") == "imagenet" and "backbone" in given:
        return licence_of(given["backbone"]) or _UNKNOWN
    off = specs.STARTING_WEIGHTS
    started = any(value not in (None, off[name]) for name, value in given.items() if name in off)
    return _UNKNOWN if started else None


def _verdict(run: Run) -> str | None:
    """Return the verdict on a run's method from the comparison that it is part of."""
    if place_in_grid(run.folder) is None or run.method == ALONE:
        return None
    finished, _ = read_grid(run.folder.absolute().parents[2])
    found = references(by_pair(finished)[run.data, run.pair])
    against = found.get(ALONE, [])
    return next((sentence(each) for each in against if each.method == run.method), None)


def _own_code(spec: Any) -> list[str]:
    """List the files and modules outside fakd and known libraries that build a network."""
    if not specs.is_spec(spec):
        return []
    path, found = spec["class_path"], []
    if (inside := IN_FILE.fullmatch(path)) is not None:
        found = [Path(inside["file"]).name]
    elif path.partition(".")[0] not in ("fakd", *LIBRARIES):
        found = [path.rpartition(".")[0]]
    inner = [_own_code(each) for each in (spec.get("init_args") or {}).values()]
    return sorted({*found, *(name for each in inner for name in each)})


def without_folders(value: Any) -> Any:
    """Reduce absolute paths to their last part, for privacy.

    >>> without_folders({"root": "/home/me/streets", "steps": 3})
    {'root': 'streets', 'steps': 3}
    """
    if isinstance(value, Mapping):
        return {key: without_folders(each) for key, each in value.items()}
    if isinstance(value, list):
        return [without_folders(each) for each in value]
    if isinstance(value, str):
        for kind in (PurePosixPath, PureWindowsPath):
            if kind(value).is_absolute() and kind(value).name:
                return kind(value).name
    return value


def card(title: str, facts: Mapping[str, Any]) -> str:
    """Compose README.md, the model card, with the metadata that hubs read at its head."""
    head: dict[str, Any] = {
        "library_name": "fakd",
        "pipeline_tag": "image-segmentation",
        "tags": ["semantic-segmentation", "knowledge-distillation"],
    }
    head |= {"license": facts["licence"]} if facts["licence"] else {}
    inner = facts["network"]["init_args"].get("network", facts["network"])
    size = f"{facts['parameters'] / 1e6:.2f} M parameters and {facts['classes']} classes"
    code = facts["code"]
    allow = f", allow={code!r}" if code else ""
    lines = [
        "---",
        yaml_text(head).rstrip(),
        "---",
        "",
        f"# {title}",
        "",
        f"A semantic-segmentation network ({inner['class_path']}) of {size}, written by fakd "
        f"{facts['fakd_version']}.",
        "",
        "```python",
        "import fakd",
        "",
        f'network = fakd.from_pretrained("FOLDER-OR-ID"{allow})',
        "```",
        "",
    ]
    if code:
        lines += [f"It needs code that is not included: {', '.join(code)}.", ""]
    lines += ["## Scores", "", *_scores(facts), "", "## Training", ""]
    if "recipe" in facts:
        data = facts["data"]
        lines += [
            f"Data: {data['name']}, fingerprint `{data['fingerprint']}`.",
            "",
            f"Verdict: {facts['verdict'] or 'not known; no comparison with this run is finished'}.",
            "",
            "```yaml",
            yaml_text(facts["recipe"]).rstrip(),
            "```",
            "",
        ]
    else:
        lines += ["Not known: it is not a run of fakd.", ""]
    lines += ["## Licences", ""]
    lines += [f"- this network: {facts['licence'] or 'not stated'}"]
    known = facts.get("licences", {})
    lines += [f"- {what}: {terms}" for what, terms in known.items() if terms]
    if facts["class_names"]:
        lines += ["", "## Classes", "", ", ".join(facts["class_names"])]
    return "\n".join(lines) + "\n"


def _scores(facts: Mapping[str, Any]) -> list[str]:
    scores = facts["scores"]
    if scores.get("miou") is None:
        return ["Not known."]
    text = f"mIoU {scores['miou']:.2f} on validation images"
    if "step" in scores:
        text += f", the best of all evaluations, at step {scores['step']} of {scores['steps']}"
    if facts.get("teacher_miou") is not None:
        text += f"; the teacher's was {facts['teacher_miou']:.2f}"
    lines = [f"{text}."]
    if "final" in scores:
        classes = scores["final"]["classes"].items()
        lines += ["", "| class | IoU | accuracy |", "|---|---:|---:|"]
        lines += [
            f"| {name} | {_number(each['iou'])} | {_number(each['accuracy'])} |"
            for name, each in classes
        ]
    return lines


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
