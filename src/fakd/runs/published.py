"""Published scores of the paper and others for the same networks and data as a run's."""

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import PurePath
from typing import Any, NamedTuple

import yaml

from fakd.losses import PRESETS
from fakd.models.mmseg.published import PUBLISHED, Published
from fakd.runs.naming import ALONE, defaults_of, weighted_losses

BENCHMARKS = {
    "ade20k": ("Table 1", "ADE20K"),
    "pascal-context": ("Table 2", "Pascal Context"),
    "cityscapes": ("Table 3", "Cityscapes"),
    "voc2012": ("Table 3", "Pascal VOC 2012 aug"),
}
"""The paper's data sets, and the tables with their scores."""
# Student (builder, backbone, pretrained) -> pair, and prefix of its teacher's checkpoint.
_PAIRS = {
    ("pspnet", "resnet18", True): ("pspnet-r101-to-r18", "pspnet_r101"),
    ("pspnet", "resnet18", False): ("pspnet-r101-to-r18-scratch", "pspnet_r101"),
    ("fcn_hrnet", "hrnet_w18s", True): ("hrnet-w48-to-w18s", "fcn_hr48"),
    ("deeplabv3plus", "mobilenetv2", True): ("deeplabv3plus-r101-to-mv2", "deeplabv3plus_r101"),
    ("isanet", "resnet18", True): ("isanet-r101-to-r18", "isanet_r101"),
}
_BASES = {"fakd.losses.PixelKL": "pd", "fakd.losses.ChannelKL": "cwd"}
_PRESETS = ("skds-cirkd", "ifvd-cirkd", "cirkd")


class Score(NamedTuple):
    """A published score, in percent, and any remark on it."""

    miou: float
    macc: float
    remark: str = ""


@cache
def published_scores() -> Mapping[str, Any]:
    """Load published scores: source -> data set -> pair -> method -> mIoU, mAcc, any remark."""
    text = files("fakd.runs").joinpath("published.yaml").read_text(encoding="utf-8")
    scores: dict[str, Any] = yaml.safe_load(text)
    return scores


def published_cell(recipe: Mapping[str, Any], source: str) -> Score | None:
    """Find the published score for a run's data set, networks and method; None if there is none.

    Args:
        recipe: the run's recipe.
        source: ``paper`` or ``bpkd``, which trained twice as long.
    """
    cells = published_scores()[source].get(benchmark_of(recipe), {})
    found = cells.get(pair_of(recipe), {}).get(cell_of(recipe))
    return Score(*found) if found else None


def teacher_score(recipe: Mapping[str, Any]) -> Score | None:
    """Find the paper's score of a run's teacher; None unless teacher and data are the paper's."""
    checkpoint = _checkpoint(recipe)
    found = checkpoint.paper if checkpoint and benchmark_of(recipe) else None
    return Score(*found) if found else None


def _checkpoint(recipe: Mapping[str, Any]) -> Published | None:
    """Find the published checkpoint that the teacher was loaded from, converted or not."""
    _, given = _spec(recipe.get("teacher"))
    stem = PurePath(str(given.get("path", ""))).stem
    return next((each for each in PUBLISHED if PurePath(each.file).stem == stem), None)


def _spec(value: Any) -> tuple[str, Mapping[str, Any]]:
    """Return class path and arguments of a spec; empty for anything else."""
    if not isinstance(value, Mapping):
        return "", {}
    return str(value.get("class_path", "")), value.get("init_args") or {}


def benchmark_of(recipe: Mapping[str, Any]) -> str | None:
    """Name the paper's data set that a recipe uses, None for any other."""
    path, given = _spec(recipe.get("data"))
    name = path.removeprefix("fakd.data.").replace("_", "-")
    as_published = given.get("classes", 59) == 59 and given.get("augmented", True)
    return name if name in BENCHMARKS and as_published else None


def pair_of(recipe: Mapping[str, Any]) -> str | None:
    """Name the paper's pair of networks by a recipe's student and teacher, None for any other."""
    path, given = _spec(recipe.get("student", recipe.get("network")))
    builder = path.removeprefix("fakd.models.")
    student = (builder, str(given.get("backbone")), given.get("weights") is not None)
    pair, teacher = _PAIRS.get(student, (None, ""))
    if pair is None or recipe.get("teacher") is None:
        return pair
    checkpoint = _checkpoint(recipe)
    return pair if checkpoint and checkpoint.recipe.startswith(teacher) else None


def cell_of(recipe: Mapping[str, Any]) -> str | None:
    """Name the method in the paper's tables that a recipe's corresponds to, None for any other.

    The weight of the loss is not compared, nor are the settings of SKDS, IFVD and CIRKD, which are
    recognised by the losses they consist of: the paper gives neither.
    """
    spec = recipe.get("distillation")
    if not isinstance(spec, Mapping):
        return ALONE if spec is None else None
    base, strength = base_and_strength(recipe)
    if base is not None:
        return base + {0.0: "", 1.0: "-fa"}.get(strength, f"-fa-{strength:g}")
    families = {_kinds(PRESETS[name]): name.partition("-")[0] for name in _PRESETS}
    return families.get(_kinds(spec))


def _kinds(spec: Mapping[str, Any]) -> frozenset[str]:
    return frozenset(path for _, path, _ in weighted_losses(spec))


def base_and_strength(recipe: Mapping[str, Any]) -> tuple[str | None, float]:
    """Recognise PD and CWD as in the paper, and return the strength of their augmentation.

    All settings other than strength and weight must have their defaults.
    """
    spec = recipe.get("distillation")
    parts = weighted_losses(spec) if isinstance(spec, Mapping) else []
    if len(parts) != 1 or (path := parts[0][1]) not in _BASES:
        return None, 0.0
    settings, usual = parts[0][2], defaults_of(path)
    strength = float(settings.pop("strength"))
    plain = all(usual.get(key) == value for key, value in settings.items())
    return (_BASES[path], strength) if plain else (None, 0.0)
