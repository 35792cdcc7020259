"""Where runs come from: their recipe, command, data and machine, as a report shows them."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import yaml

from fakd.runs.naming import title_of
from fakd.runs.reading import RECIPE, Run

ENVIRONMENT = "environment.json"


class Origin(NamedTuple):
    """Where one run comes from."""

    method: str
    seed: int
    miou: float
    steps: int
    fingerprint: str
    folder: str
    command: str


def origin_of(run: Run) -> Origin:
    """Tell where a run comes from, as far as its folder knows."""
    return Origin(
        title_of(run.method),
        run.seed,
        run.miou,
        int(run.result["steps"]),
        str(run.result["data"].get("fingerprint", "")),
        str(run.folder),
        str(_environment(run).get("command", "")),
    )


def recipe_text(run: Run) -> str:
    """Read a run's recipe as it was written, with what its comments say."""
    path = run.folder / RECIPE
    if path.is_file():
        return path.read_text(encoding="utf-8")
    return yaml.safe_dump(run.recipe, sort_keys=False, allow_unicode=True)


def _environment(run: Run) -> Mapping[str, Any]:
    try:
        found = json.loads((run.folder / ENVIRONMENT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def environments(runs: Sequence[Run]) -> list[str]:
    """Describe the machines and versions, each once, without what differs between any two runs."""
    described: dict[str, None] = {}
    for run in runs:
        known = _environment(run)
        if kept := {key: known[key] for key in known if key not in ("command", "started")}:
            described[yaml.safe_dump(kept, sort_keys=False, allow_unicode=True)] = None
    return list(described)
