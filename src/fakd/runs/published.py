"""What the paper and others published for the very networks and data of a run."""

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import PurePath
from typing import Any, NamedTuple

import yaml

from fakd.losses import PRESETS
from fakd.models.mmseg.published import PUBLISHED, Published
from fakd.runs.naming import ALONE, weighted_losses

BENCHMARKS = {
    "ade20k": ("Table 1", "ADE20K"),
    "pascal-context": ("Table 2", "Pascal Context"),
    "cityscapes": ("Table 3", "Cityscapes"),
    "voc2012": ("Table 3", "Pascal VOC 2012 aug"),
}
"""The paper's data sets, and the tables their scores are in."""
# Student: builder, backbone, pretrained or not -> the pair, and how its teacher's file begins.
_PAIRS = {
    ("pspnet", "resnet18", True): ("pspnet-r101-to-r18", "pspnet_r101"),
    ("pspnet", "resnet18", False): ("pspnet-r101-to-r18-scratch", "pspnet_r101"),
    ("fcn_hrnet", "hrnet_w18s", True): ("hrnet-w48-to-w18s", "fcn_hr48"),
    ("deeplabv3plus", "mobilenetv2", True): ("deeplabv3plus-r101-to-mv2", "deeplabv3plus_r101"),
    ("isanet", "resnet18", True): ("isanet-r101-to-r18", "isanet_r101"),
}
_BASES = {"fakd.losses.PixelKL": "pd", "fakd.losses.ChannelKL": "cwd"}
# A loss of the paper has no other setting than its strength.
_PLAIN = {
    "temperature": 1.0,
    "covariance": "diagonal",
    "bound": "marginal",
    "spare_own_class": False,
    "reduction": "pixel_mean",
    "t_squared": True,
}
_PRESETS = ("skds-cirkd", "ifvd-cirkd", "cirkd")


class Score(NamedTuple):
    """A published score, in percent, and what there is to remark about it."""

    miou: float
    macc: float
    remark: str = ""


@cache
def published_scores() -> Mapping[str, Any]:
    """Published scores: source -> data set -> pair -> method -> mIoU, mAcc, any remark."""
    text = files("fakd.runs").joinpath("published.yaml").read_text(encoding="utf-8")
    scores: dict[str, Any] = yaml.safe_load(text)
    return scores


def published_cell(recipe: Mapping[str, Any], source: str) -> Score | None:
    """Find the published score of a run's own cell.

    Args:
        recipe: the run's recipe: its data set, networks and method must be those of the cell.
        source: ``paper`` or ``bpkd``, whose training was twice as long.
    """
    cells = published_scores()[source].get(benchmark_of(recipe), {})
    found = cells.get(pair_of(recipe), {}).get(cell_of(recipe))
    return Score(*found) if found else None


def teacher_score(recipe: Mapping[str, Any]) -> Score | None:
    """Find the paper's score of a run's teacher, if teacher and data set are the paper's."""
    checkpoint = _checkpoint(recipe)
    found = checkpoint.paper if checkpoint and benchmark_of(recipe) else None
    return Score(*found) if found else None


def _checkpoint(recipe: Mapping[str, Any]) -> Published | None:
    """Find the published checkpoint that the teacher was loaded from, converted or not."""
    spec = recipe.get("teacher")
    given = spec.get("init_args") if isinstance(spec, Mapping) else None
    stem = PurePath(str((given or {}).get("path", ""))).stem
    return next((each for each in PUBLISHED if PurePath(each.file).stem == stem), None)


def benchmark_of(recipe: Mapping[str, Any]) -> str | None:
    """Name the paper's data set that a recipe uses, None for any other."""
    spec = recipe.get("data")
    if not isinstance(spec, Mapping):
        return None
    given = spec.get("init_args") or {}
    name = str(spec.get("class_path", "")).removeprefix("fakd.data.").replace("_", "-")
    as_published = given.get("classes", 59) == 59 and given.get("augmented", True)
    return name if name in BENCHMARKS and as_published else None


def pair_of(recipe: Mapping[str, Any]) -> str | None:
    """Name the paper's pair of networks by a recipe's student and teacher, None for any other."""
    spec = recipe.get("student", recipe.get("network"))
    if not isinstance(spec, Mapping):
        return None
    given = spec.get("init_args") or {}
    builder = str(spec["class_path"]).removeprefix("fakd.models.")
    student = (builder, str(given.get("backbone")), given.get("weights") is not None)
    pair, teacher = _PAIRS.get(student, (None, ""))
    if pair is None or recipe.get("teacher") is None:
        return pair
    checkpoint = _checkpoint(recipe)
    return pair if checkpoint and checkpoint.recipe.startswith(teacher) else None


def cell_of(recipe: Mapping[str, Any]) -> str | None:
    """Name the cell of the paper's tables that a recipe's method belongs to, None for any other.

    The factor beside the cross-entropy is not looked at, nor are the settings of SKDS, IFVD and
    CIRKD, which are known by the losses they consist of: the paper gives neither.
    """
    base, strength = base_and_strength(recipe)
    if base is not None:
        suffix = {0.0: "", 1.0: "-fa"}.get(strength, f"-fa-{strength:g}")
        return base + suffix
    spec = recipe.get("distillation")
    if spec is None:
        return ALONE
    if not isinstance(spec, Mapping):
        return None
    families = {_kinds(PRESETS[name]): name.partition("-")[0] for name in _PRESETS}
    return families.get(_kinds(spec))


def _kinds(spec: Mapping[str, Any]) -> frozenset[str]:
    return frozenset(path for _, path, _ in weighted_losses(spec))


def base_and_strength(recipe: Mapping[str, Any]) -> tuple[str | None, float]:
    """Tell PD and CWD, as the paper has them, and how strongly they are augmented."""
    spec = recipe.get("distillation")
    if not isinstance(spec, Mapping):
        return None, 0.0
    parts = weighted_losses(spec)
    _, path, settings = parts[0]
    own = {key: value for key, value in settings.items() if key != "strength"}
    plain = all(_PLAIN.get(key) == value for key, value in own.items())
    if len(parts) > 1 or path not in _BASES or not plain:
        return None, 0.0
    return _BASES[path], float(settings["strength"])
