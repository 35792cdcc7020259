"""Recipes for every cell of the paper's tables: pairs of networks x methods on four data sets."""

from typing import Any, NamedTuple

from fakd.losses import ChannelKL, PixelKL, preset
from fakd.models.mmseg.published import PUBLISHED, Published
from fakd.runs.published import Score, published_scores
from fakd.runs.recipe import describe

Recipe = dict[str, Any]


class Benchmark(NamedTuple):
    """One data set with mmsegmentation's training and test settings."""

    data: Recipe
    title: str
    learning_rate: float
    weight_decay: float
    base: list[int]
    cwd_weight: float
    """5 on Cityscapes and 10 on ADE20K are from the CWD authors; the others are our choice."""
    cirkd: str
    test: Recipe


class Pair(NamedTuple):
    """A student, and the name of its teacher's checkpoint."""

    builder: str
    backbone: str
    weights: str | None
    teacher: str


def _data(name: str, root: str, **more: Any) -> Recipe:
    return {"class_path": f"fakd.data.{name}", "init_args": {"root": f"data/{root}", **more}}


R18 = "weights/resnet18_v1c-b5776b93.pth"
PAIRS = {
    "pspnet-r101-to-r18": Pair("pspnet", "resnet18", R18, "pspnet_r101"),
    "pspnet-r101-to-r18-scratch": Pair("pspnet", "resnet18", None, "pspnet_r101"),
    "hrnet-w48-to-w18s": Pair("fcn_hrnet", "hrnet_w18s", "imagenet", "fcn_hr48"),
    "deeplabv3plus-r101-to-mv2": Pair(
        "deeplabv3plus", "mobilenetv2", "imagenet", "deeplabv3plus_r101"
    ),
    "isanet-r101-to-r18": Pair("isanet", "resnet18", R18, "isanet_r101"),
}
BENCHMARKS = {
    "ade20k": Benchmark(
        _data("ade20k", "ADEChallengeData2016"),
        "Table 1, ADE20K",
        *(0.01, 5e-4, [2048, 512], 10.0, "cirkd", {"base": [2048, 512]}),
    ),
    "pascal-context": Benchmark(
        _data("pascal_context", "VOCdevkit/VOC2010", classes=59),
        "Table 2, Pascal Context",
        *(0.004, 1e-4, [520, 520], 5.0, "cirkd"),
        {"base": [520, 520], "window": 480, "stride": 320},
    ),
    "cityscapes": Benchmark(
        _data("cityscapes", "cityscapes"),
        "Table 3, Cityscapes",
        *(0.01, 5e-4, [2048, 1024], 5.0, "cirkd", {"base": [2048, 1024]}),
    ),
    "voc2012": Benchmark(
        _data("voc2012", "VOCdevkit/VOC2012", augmented=True),
        "Table 3, Pascal VOC 2012 aug",
        *(0.01, 5e-4, [2048, 512], 5.0, "cirkd-voc", {"base": [2048, 512]}),
    ),
}
ABSENT = {("pascal-context", "isanet-r101-to-r18")}
ONLY_ON_ADE20K = "pspnet-r101-to-r18-scratch"
NUMBERS = published_scores()


def methods(benchmark: Benchmark, ablations: bool) -> dict[str, tuple[str, Recipe | None]]:
    """Map each method to its table and its loss."""
    title, weight = benchmark.title, benchmark.cwd_weight
    cirkd = describe(preset(benchmark.cirkd))
    if "ade20k" in benchmark.data["class_path"]:
        # 20,000 slots for each of 150 classes would be 6 GB on every device and in a checkpoint.
        cirkd["init_args"]["losses"]["memory"]["init_args"]["pixel_slots"] = 2000
    table = {
        "alone": (title, None),
        "skds": (title, describe(preset("skds-cirkd"))),
        "ifvd": (title, describe(preset("ifvd-cirkd"))),
        "cirkd": (title, cirkd),
        "cwd": (title, describe(ChannelKL(strength=0.0, weight=weight))),
        "cwd-fa": (title, describe(ChannelKL(strength=1.0, weight=weight))),
    }
    if ablations:
        table["pd"] = "Table 4, with and without augmentation", describe(PixelKL(strength=0.0))
        table["pd-fa"] = "Table 4, with and without augmentation", describe(PixelKL(strength=1.0))
        for strength in (0.5, 1.5, 2.5):
            loss = ChannelKL(strength=strength, weight=weight)
            table[f"cwd-fa-{strength}"] = "Table 5, strength", describe(loss)
    return table


def teacher_of(pair: Pair, benchmark: str) -> Published:
    """Find the checkpoint with the score of the paper's teacher."""
    data = {"pascal-context": "pascal_context_59", "voc2012": "voc12aug"}.get(benchmark, benchmark)
    known = (each for each in PUBLISHED if each.paper is not None)
    (found,) = (
        each
        for each in known
        if each.recipe.startswith(pair.teacher) and each.recipe.endswith(data)
    )
    return found


def recipe(benchmark_name: str, pair_name: str, method: str, loss: Recipe | None):
    """Return one complete run: networks, data, training and test settings."""
    benchmark, pair = BENCHMARKS[benchmark_name], PAIRS[pair_name]
    student = {
        "class_path": f"fakd.models.{pair.builder}",
        "init_args": {"backbone": pair.backbone, "weights": pair.weights},
    }
    checkpoint = f"weights/{teacher_of(pair, benchmark_name).file}"
    teacher = {"class_path": "fakd.models.load", "init_args": {"path": checkpoint}}
    networks = {"network": student}
    if loss is not None:
        networks = {"teacher": teacher, "student": student, "distillation": loss}
    return {
        **networks,
        "data": benchmark.data,
        "run": f"runs/{benchmark_name}/{pair_name}/{method}",
        "schedule": {
            "steps": 40000,
            "batch_size": 16,
            "learning_rate": benchmark.learning_rate,
            "power": 0.9,
            "minimum_learning_rate": 1e-4,
        },
        "optimizer": {
            "kind": "SGD",
            "weight_decay": benchmark.weight_decay,
            "arguments": {"momentum": 0.9},
        },
        "augmentation": {"crop": [512, 512], "scale": [0.5, 2.0], "base": benchmark.base},
        "inference": benchmark.test,
        "hardware": {"precision": "32-true", "workers": 8},
        "intervals": {"save": 500, "evaluate": 4000},
        "task": {"average": "all"},
        "seed": 0,
    }


def comment(benchmark_name: str, pair_name: str, method: str, title: str) -> str:
    """Return a comment with the published scores that the recipe's run compares with."""
    own = Score(*NUMBERS["paper"][benchmark_name][pair_name][method])
    teacher = Score(*teacher_of(PAIRS[pair_name], benchmark_name).paper)
    lines = [f"FAKD, {title}: this cell {_shown(own)}; its teacher {_shown(teacher)}"]
    if own.remark:
        lines.append(f"Remark: {own.remark}")
    other = NUMBERS["bpkd"].get(benchmark_name, {}).get(pair_name, {}).get(method)
    if other:
        lines.append(f"Nearest other, BPKD's README, 80k steps: {_shown(Score(*other))}")
    return "".join(f"# {line}\n" for line in lines)


def _shown(score: Score) -> str:
    return f"{score.miou:.2f} mIoU, {score.macc:.2f} mAcc"


def paper() -> dict[str, tuple[str, Recipe]]:
    """Map file names to comment and recipe, for every cell of Tables 1 to 5."""
    files = {}
    for benchmark_name, benchmark in BENCHMARKS.items():
        for pair_name in PAIRS:
            on_ade20k = benchmark_name == "ade20k"
            if pair_name == ONLY_ON_ADE20K and not on_ade20k:
                continue
            if (benchmark_name, pair_name) in ABSENT:
                continue
            ablations = on_ade20k and pair_name == "pspnet-r101-to-r18"
            for method, (title, loss) in methods(benchmark, ablations).items():
                files[f"{benchmark_name}/{pair_name}/{method}.yaml"] = (
                    comment(benchmark_name, pair_name, method, title),
                    recipe(benchmark_name, pair_name, method, loss),
                )
    return files
