"""Write the recipes: one complete YAML file per experiment, without inheritance.

Usage: python recipes/write.py        (a test checks that the files are what this script writes)
"""

import copy
from pathlib import Path
from typing import Any

import yaml
from paper import paper

from fakd.losses import ChannelKL, FeatureDistance, PixelKL, Relational, WeightedSum, preset
from fakd.runs.recipe import describe

HERE = Path(__file__).parent
Recipe = dict[str, Any]

METHODS: dict[str, Recipe | None] = {
    "alone": None,
    "pd": describe(preset("pd")),
    "pd-fa": describe(preset("pd-fa")),
    "cwd": describe(preset("cwd")),
    "cwd-fa": describe(preset("cwd-fa")),
    # The variance of a logit within a class, without pushing down the own class's logit.
    "cwd-fa-full": describe(ChannelKL(strength=1.0, covariance="full", spare_own_class=True)),
    # Ours: it uses the variance of the logits, and cannot lower that by changing the classifier.
    "cwd-fa-logits": describe(preset("cwd-fa-logits")),
    "skds": describe(preset("skds-cirkd")),
    "ifvd": describe(preset("ifvd-cirkd")),
    "cirkd": describe(preset("cirkd")),
    "features": describe(preset("features-l2")),
    "dist": describe(preset("dist")),
}
# What `fakd compare` adds to the presets: strengths, covariances, bounds.
VARIANTS = {
    "cwd-fa-strength-0.5": ChannelKL(strength=0.5),
    "cwd-fa-strength-1.5": ChannelKL(strength=1.5),
    "cwd-fa-strength-2.5": ChannelKL(strength=2.5),
    "cwd-fa-full": ChannelKL(strength=1.0, covariance="full"),
    "cwd-fa-full-spared": ChannelKL(strength=1.0, covariance="full", spare_own_class=True),
    "pd-fa-difference": PixelKL(strength=1.0, bound="difference"),
    "pd-fa-tilted": PixelKL(strength=1.0, bound="tilted"),
}
SHORT = ("alone", "cwd", "cwd-fa")
PUBLISHED = ("pd", "pd-fa", "features-l2", "skds-cirkd", "ifvd-cirkd", "cirkd", "cwd-fa-logits")
TEACHER = ("tf_efficientnet_lite2", 256, "imagenet")
STUDENTS = {
    "scratch": ("mobilenetv3_small_050", 64, None),
    "imagenet": ("tf_efficientnet_lite0", 128, "imagenet"),
}
CAMVID = {
    "class_path": "fakd.data.folder",
    "init_args": {"root": "data/camvid", "description": "recipes/camvid/dataset.yaml"},
}

# The training settings of `fakd demo`, on whole scenes.
SCENES = {
    "optimizer": {"kind": "AdamW", "weight_decay": 0.02},
    "augmentation": {"crop": [72, 96], "scale": [1.0, 1.0], "photometric": False},
    "task": {"dice": 0.5, "class_weights": "auto"},
}
# The teacher included in `fakd demo`: none of its scenes is one of the demo's.
DEMO = {
    "network": {
        "class_path": "fakd.models.hypercolumns",
        "init_args": {"backbone": "tf_efficientnet_lite0", "weights": "imagenet"},
    },
    "data": {
        "class_path": "fakd.data.scenes",
        "init_args": {"train": 800, "val": 100, "size": [144, 192], "seed": 2208},
    },
    "run": "runs/demo-teacher",
    "schedule": {
        "steps": 900,
        "batch_size": 8,
        "learning_rate": 0.002,
        "shape": "cosine",
        "warmup": 50,
        "clip": 5.0,
    },
    **SCENES,
    "augmentation": {"crop": [96, 128], "scale": [0.9, 1.2], "photometric": False},
    # The number it was trained with: sums in another order round differently.
    "hardware": {"threads": 1},
    "intervals": {"evaluate": 300},
}


def network(backbone: str, channels: int, weights: str | None) -> Recipe:
    """Return a PSPNet at output stride 8."""
    arguments = {"backbone": backbone, "channels": channels, "weights": weights}
    return {"class_path": "fakd.models.pspnet", "init_args": arguments}


def schedule(steps: int, batch_size: int, pretrained: bool) -> Recipe:
    """Return schedule and learning rates; ImageNet weights learn more slowly than the new heads."""
    rate = 0.02 if pretrained else 0.05
    duration = {"steps": steps, "batch_size": batch_size, "learning_rate": rate, "warmup": 30}
    faster = {"optimizer": {"head_multiplier": 5.0}} if pretrained else {}
    return {"schedule": duration, **faster}


def full_size(steps: int, pretrained: bool) -> Recipe:
    """Return settings for a GPU: crops of 360 x 360 from images at 0.5 to 2 times their size."""
    return {
        **schedule(steps, 16, pretrained),
        "augmentation": {"crop": [360, 360], "scale": [0.5, 2.0]},
        "inference": {"scale": 1.0},
        "hardware": {"precision": "bf16-mixed", "workers": 8},
        "intervals": {"save": 500, "evaluate": steps // 5},
    }


def cpu_size(steps: int, pretrained: bool) -> Recipe:
    """Return settings for two cores: images at two fifths of their size, crops of 96 x 96."""
    return {
        **schedule(steps, 8, pretrained),
        "augmentation": {"crop": [96, 96], "scale": [0.2, 0.6]},
        "inference": {"scale": 0.4},
        "hardware": {"precision": "32-true"},
        "intervals": {"save": 100, "evaluate": steps // 2},
    }


def camvid(folder: str, settings: Any, steps: dict[str, int]) -> dict[str, Recipe]:
    """Return the teacher and both students with every method, by file name."""
    runs = f"runs/{folder}"
    recipes = {
        "teacher": {
            "network": network(*TEACHER),
            "data": CAMVID,
            "run": f"{runs}/teacher",
            **settings(steps["teacher"], pretrained=True),
        }
    }
    for student, parts in STUDENTS.items():
        for method, loss in METHODS.items():
            name = f"{student}-{method}"
            rest = {
                "data": CAMVID,
                "run": f"{runs}/{name}",
                **settings(steps[student], parts[2] is not None),
            }
            if loss is None:
                recipes[name] = {"network": network(*parts), **rest}
                continue
            teacher = {"class_path": "fakd.models.load", "init_args": {"path": f"{runs}/teacher"}}
            recipes[name] = {
                "teacher": teacher,
                "student": network(*parts),
                "distillation": loss,
                **rest,
            }
    return {f"{folder}/{name}.yaml": recipe for name, recipe in recipes.items()}


def grid(
    folder: str,
    name: str,
    student: str,
    settings: Recipe,
    methods: Any,
    teacher: str = "teacher",
    seeds: Any = 3,
) -> dict[str, Recipe]:
    """Return a grid of every method with each seed for `fakd compare`, by file name."""
    pair = {"teacher": f"runs/{folder}/{teacher}", "student": network(*STUDENTS[student])}
    content = {
        "run": f"runs/{folder}/{name}",
        "data": CAMVID,
        "pairs": {student: pair},
        "methods": methods,
        "seeds": seeds,
        "check_teacher": False,
        **settings,
    }
    return {f"{folder}/{name}.yaml": content}


def grids() -> dict[str, Recipe]:
    """Return the comparisons of docs/results-short.md, and the same at full size."""
    variants = {name: {"distillation": describe(loss)} for name, loss in VARIANTS.items()}
    everything = dict.fromkeys((*SHORT, *PUBLISHED)) | variants
    few, best, cpu = [*SHORT, "cwd-fa-logits"], ["alone", "cwd", "cwd-fa-logits"], "camvid-cpu"
    long, timed = cpu_size(600, True), cpu_size(200, True)
    long["intervals"] = {"save": 200, "evaluate": 200}
    del timed["schedule"]["steps"]
    timed = {"minutes": 4, **timed}
    scratch, rivals = cpu_size(500, False), ["alone", "pd", "cwd", "cwd-fa", "hard"]
    labels = cpu_size(600, True)
    # With --data.labelled and --schedule.unlabelled_share, against a folder of answers.
    del labels["optimizer"]
    labels["intervals"] = {"save": 200, "evaluate": 600}
    return {
        **grid(cpu, "compare-imagenet", "imagenet", cpu_size(200, True), everything),
        **grid(cpu, "compare-labels", "scratch", labels, rivals, teacher="answers"),
        **grid(cpu, "compare-scratch", "scratch", scratch, few),
        **grid(
            cpu, "compare-imagenet-again", "imagenet", cpu_size(200, True), best, seeds=[3, 4, 5]
        ),
        **grid(cpu, "compare-imagenet-600", "imagenet", long, few, teacher="teacher-1500"),
        **grid(cpu, "compare-imagenet-4min", "imagenet", timed, few),
        **grid("camvid", "compare-imagenet", "imagenet", full_size(4000, True), everything),
        **grid("camvid", "compare-scratch", "scratch", full_size(8000, False), everything),
    }


CLIPS = ("0001TP", "0006R0", "0016E5")
"""Clips of CamVid's training list, each held out in turn."""


def experiments() -> dict[str, Recipe]:
    """Return the comparisons announced in docs/experiments.md, as grids by file name.

    Trained until the validation curve is flat: 3,000 steps of 8 crops are about 90 epochs.
    """
    trained = cpu_size(3000, False)
    trained["intervals"] = {"save": 300, "evaluate": 300}
    bases = {"pd": PixelKL, "cwd": ChannelKL}
    kinds: dict[str, Recipe] = {
        "diagonal": {},
        "full": {"covariance": "full", "spare_own_class": True},
        "logits": {"covariance": "logits"},
    }
    relative: dict[str, Any] = {}
    for base, loss in bases.items():
        relative[base] = None
        for kind, settings in kinds.items():
            for strength in (0.02, 0.1, 0.2, 0.4):
                name = f"{base}-fa-{kind}-{strength}"
                made = {"strength": strength, "strength_unit": "margin", **settings}
                relative[name] = {"distillation": describe(loss(**made))}
                if kind != "logits":
                    made["classifier_gradient"] = False
                    relative[f"{name}-features"] = {"distillation": describe(loss(**made))}
    tuned: dict[str, Any] = {"alone": None}
    for temperature in (1.0, 4.0):
        for weight in (0.3, 1.0, 3.0):
            for base, loss in bases.items():
                made = {"temperature": temperature, "weight": weight * (5 if base == "cwd" else 1)}
                tuned[f"{base}-t{temperature:g}-w{weight:g}"] = {
                    "distillation": describe(loss(**made))
                }
    # The best of `tuned` on the scenes, summed, and its rivals.
    best = WeightedSum({"pixel": PixelKL(weight=3.0), "channel": ChannelKL(4.0, weight=1.5)})
    others: dict[str, Any] = {"alone": None, "pd+cwd": {"distillation": describe(best)}}
    for temperature in (1.0, 4.0):
        for weight in (0.3, 1.0, 3.0):
            loss = Relational(temperature, weight=weight)
            others[f"dist-t{temperature:g}-w{weight:g}"] = {"distillation": describe(loss)}
    plan = {"base": ["alone", "pd", "cwd"], "relative": relative, "tuned": tuned}
    plan["labels"] = ["alone", "pd", "cwd", "cwd-fa", "hard"]
    seeds: dict[str, Any] = {"base": 5, "labels": 3, "bounds": [6, 7, 8, 9, 10]}
    of_scenes = {name: plan[name] for name in ("base", "tuned")} | {"tuned-others": others}
    for base in bases:  # CWD is what `fakd distill` learns by, and goes first.
        forms = {name: made for name, made in relative.items() if name.split("-")[0] == base}
        of_scenes[f"relative-{base}"] = {"alone": None, **forms}
    spared = augmented(PixelKL, 0.2)
    of_scenes["bounds"] = {
        "pd": None,
        "pd-fa-marginal-0.2": {"distillation": describe(augmented(PixelKL, 0.2, spare=False))},
        "pd-fa-marginal-0.2-spared": {"distillation": describe(spared)},
        "pd-fa-difference-0.2-spared": {
            "distillation": describe(augmented(PixelKL, 0.2, bound="difference"))
        },
        "pd-fa-tilted-0.2-spared": {
            "distillation": describe(augmented(PixelKL, 0.2, bound="tilted"))
        },
    }
    files = scenes(of_scenes, seeds)
    for clip in CLIPS:
        place = {"root": "data/camvid", "description": f"recipes/camvid-clips/{clip}/dataset.yaml"}
        for name, methods in plan.items():
            if name != "base" and clip != "0006R0":
                continue  # Screened on one fold; what is chosen there is confirmed on all.
            file = f"camvid-clips/{clip}/compare-{name}.yaml"
            (made,) = grid("camvid-clips", f"{clip}-{name}", "scratch", trained, methods).values()
            made["run"] = f"runs/{file.removesuffix('.yaml')}"
            made["data"] = {**CAMVID, "init_args": place}
            made["pairs"]["scratch"]["teacher"] = "data/camvid/teacher"
            made["seeds"] = seeds.get(name, 1)
            files[file] = made
    return files


def augmented(loss: Any, share: float, spare: bool = True, **more: Any) -> Any:
    """Return the form confirmed on the scenes, which leaves the classifier alone."""
    return loss(
        strength=share,
        strength_unit="margin",
        covariance="full",
        spare_own_class=spare,
        classifier_gradient=False,
        **more,
    )


def of_small(run: str, data: Recipe, teacher: str, methods: Any, seeds: Any, **more: Any) -> Recipe:
    """Return a comparison for the student of `fakd demo`, whose runs take minutes on one core."""
    student = {
        "backbone": "tf_efficientnet_lite0",
        "strides": [2, 4, 8],
        "channels": 48,
        "weights": "imagenet",
    }
    pair = {
        "teacher": teacher,
        "student": {"class_path": "fakd.models.hypercolumns", "init_args": student},
    }
    return {
        "run": f"runs/{run}",
        "data": data,
        "pairs": {"imagenet": pair},
        "methods": methods,
        "seeds": seeds,
        "check_teacher": False,
        "schedule": {
            "steps": 1000,
            "learning_rate": 0.003,
            "shape": "cosine",
            "warmup": 20,
            "clip": 5.0,
        },
        **SCENES,
        "hardware": {"threads": 1},
        **more,
    }


def scenes(plan: dict[str, Any], seeds: dict[str, Any]) -> dict[str, Recipe]:
    """Return the same comparisons on built-in scenes, 15 of them with labels."""
    of_scenes = {"train": 150, "val": 200, "size": [144, 192], "labelled": 15}
    data = {"class_path": "fakd.data.scenes", "init_args": of_scenes}
    files = {}
    for name, methods in plan.items():
        given = f"scenes/compare-{name}", data, "runs/scenes/answers", methods, seeds.get(name, 1)
        made = of_small(*given, intervals={"evaluate": 250})
        made["schedule"]["unlabelled_share"] = 0.75
        files[f"scenes/compare-{name}.yaml"] = made
    # The same teacher, run in every step or asked once, for the same time.
    live = copy.deepcopy(files["scenes/compare-base.yaml"])
    stored = live["pairs"]["imagenet"]
    teacher = "src/fakd/data/streets/teacher.safetensors"
    live["pairs"] = {"live": {**stored, "teacher": teacher}, "stored": stored}
    files["scenes/compare-practice.yaml"] = live | {
        "run": "runs/scenes/compare-practice",
        "pairs": {"live": live["pairs"]["live"]},
        "methods": practice(),
        "seeds": 1,
    }
    # The best two of them that are more than a loss, with seeds that had no part in anything else.
    chosen = ("alone", "dist-w3", "dist-w3-fades", "cwd-fades")
    files["scenes/compare-fading.yaml"] = files["scenes/compare-practice.yaml"] | {
        "run": "runs/scenes/compare-fading",
        "methods": {name: practice()[name] for name in chosen},
        "seeds": [6, 7, 8, 9, 10],
    }
    live |= {"run": "runs/scenes/compare-live", "methods": ["cwd"], "seeds": 3, "minutes": 0.5}
    files["scenes/compare-live.yaml"] = live
    return files


def practice() -> Recipe:
    """Return what else may help: strong augmentation, a weight that fades, features."""
    strong = {"augmentation": {"crop": [72, 96], "scale": [0.5, 2.0], "photometric": True}}
    fading = {"to": 0.0, "schedule": "cosine", "start": 0.5, "end": 0.9}
    methods: Recipe = {"alone": None, "alone-strong": {"distillation": None, **strong}}
    for name, kind, weight in (("cwd", ChannelKL, 5.0), ("dist-w3", Relational, 3.0)):
        methods[name] = {"distillation": describe(kind(weight=weight))}
        methods[f"{name}-strong"] = {**methods[name], **strong}
        fades = describe(kind(weight={"from": weight, **fading}))
        methods[f"{name}-fades"] = {"distillation": fades}
    for kind in ("l2", "cosine"):
        for weight in (0.3, 1.0, 3.0):
            loss = FeatureDistance(kind=kind, weight=weight)
            methods[f"features-{kind}-w{weight:g}"] = {"distillation": describe(loss)}
    return methods


def few_labels() -> dict[str, Recipe]:
    """Return experiments on the value of unlabelled images, by file name."""
    rivals = ["alone", "pd", "cwd", "cwd-fa", "hard"]
    sizes = {
        "camvid-clips/0006R0/compare-labels-imagenet": ("data/camvid/teacher", [96, 96], 0.4),
        "ccp-person/compare-labels": ("recipes/ccp-person/teacher.yaml", [96, 72], 0.4),
        "ccp/compare-unlabelled": ("runs/ccp/answers", [160, 112], 0.5),
    }
    files = {}
    for name, (teacher, crop, scale) in sizes.items():
        folder = name.rpartition("/")[0]
        root = f"data/{folder.partition('-')[0]}"
        place = {"root": root, "description": f"recipes/{folder}/dataset.yaml"}
        more = {
            "augmentation": {"crop": crop, "scale": [round(scale - 0.2, 1), round(scale + 0.2, 1)]},
            "inference": {"scale": scale},
            "intervals": {"evaluate": 500},
        }
        data = {**CAMVID, "init_args": place}
        made = of_small(name, data, teacher, rivals, 3, **more)
        files[f"{name}.yaml"] = made
    files["ccp-person/compare-labels.yaml"]["methods"] = rivals[:3]
    labels = {"distillation": METHODS["cwd"], "schedule": {"unlabelled_share": 0.0}}
    everything = {"distillation": METHODS["cwd"], "schedule": {"unlabelled_share": 0.5}}
    photographs = files["ccp/compare-unlabelled.yaml"]
    photographs["methods"] = {"alone": None, "cwd-labels": labels, "cwd": everything}
    # The best of `tuned` and its rivals on the scenes: does the same hold on photographs?
    best = {
        "pd-w3": PixelKL(weight=3.0),
        "cwd-t4": ChannelKL(4.0, weight=1.5),
        "dist": Relational(),
        "dist-w3": Relational(weight=3.0),
    }
    tuned = {name: {"distillation": describe(loss)} for name, loss in best.items()}
    street = copy.deepcopy(files["camvid-clips/0006R0/compare-labels-imagenet.yaml"])
    street["data"]["init_args"]["labelled"] = 0.1
    street["methods"] = {"alone": None, "cwd": {"distillation": METHODS["cwd"]}, **tuned}
    street["seeds"] = 5
    street["schedule"]["unlabelled_share"] = 0.75
    for clip in ("0006R0", "0001TP", "0016E5"):
        folder, fold = f"camvid-clips/{clip}", copy.deepcopy(street)
        fold["run"] = f"runs/{folder}/compare-tuned-labels"
        fold["data"]["init_args"]["description"] = f"recipes/{folder}/dataset.yaml"
        files[f"{folder}/compare-tuned-labels.yaml"] = fold
    mixed = {name: {**made, "schedule": everything["schedule"]} for name, made in tuned.items()}
    files["ccp/compare-tuned.yaml"] = {
        **photographs,
        "run": "runs/ccp/compare-tuned",
        "methods": {**photographs["methods"], **mixed},
    }
    # The forms of augmentation that were confirmed there, each beside its base.
    forms = {
        "pd": PixelKL(),
        "pd-fa-full-0.2-features": augmented(PixelKL, 0.2),
        "cwd": ChannelKL(),
        "cwd-fa-full-0.02-features": augmented(ChannelKL, 0.02),
    }
    pairs = {name: {"distillation": describe(loss)} for name, loss in forms.items()}
    files["camvid-clips/0006R0/compare-augmented-labels.yaml"] = {
        **street,
        "run": "runs/camvid-clips/0006R0/compare-augmented-labels",
        "methods": pairs,
    }
    every_class = {"root": "data/ccp", "description": "recipes/ccp/dataset-54.yaml"}
    long_tail = {
        **copy.deepcopy(photographs),
        "run": "runs/ccp/compare-augmented",
        "data": {**CAMVID, "init_args": every_class},
        "methods": {
            "alone": None,
            **{name: {**made, "schedule": everything["schedule"]} for name, made in pairs.items()},
        },
        "seeds": 5,
    }
    long_tail["pairs"]["imagenet"]["teacher"] = "runs/ccp/answers-54"
    files["ccp/compare-augmented.yaml"] = long_tail
    people = files["ccp-person/compare-labels.yaml"]
    unlabelled = {"root": "data/ccp", "description": "recipes/ccp-person/without-labels.yaml"}
    files["ccp-person/distill-without-labels.yaml"] = {
        **people["pairs"]["imagenet"],
        "run": "runs/ccp-person/without-labels",
        "data": {**CAMVID, "init_args": unlabelled},
        "distillation": METHODS["pd"],
        **{
            key: people[key]
            for key in people
            if key not in ("run", "data", "pairs", "methods", "seeds")
        },
    }
    larger = {"backbone": "tf_efficientnet_lite2", "channels": 96, "weights": "imagenet"}
    for name, compared in (("teacher", photographs), ("teacher-54", long_tail)):
        files[f"ccp/{name}.yaml"] = {
            "network": {"class_path": "fakd.models.hypercolumns", "init_args": larger},
            "run": f"runs/ccp/{name}",
            **{
                key: compared[key]
                for key in compared
                if key not in ("run", "pairs", "methods", "seeds", "check_teacher")
            },
        }
    return files


def every_file() -> dict[str, str]:
    """Return the text of all files this script writes, by path relative to its folder."""
    own = {
        **camvid("camvid", full_size, {"teacher": 8000, "scratch": 8000, "imagenet": 4000}),
        **camvid("camvid-cpu", cpu_size, {"teacher": 600, "scratch": 500, "imagenet": 200}),
    }
    longer = {**own["camvid-cpu/teacher.yaml"], "run": "runs/camvid-cpu/teacher-1500"}
    longer |= cpu_size(1500, True) | {"intervals": {"save": 100, "evaluate": 500}}
    own["camvid-cpu/teacher-1500.yaml"] = longer
    own |= grids() | experiments() | few_labels()
    files = {name: text(recipe, "--data.root FOLDER") for name, recipe in own.items()}
    files |= {name: text(own[name]) for name in own if name.startswith("scenes/")}
    files["demo/teacher.yaml"] = text(DEMO)
    return files | {name: comment + text(recipe) for name, (comment, recipe) in paper().items()}


def text(recipe: Recipe, flags: str = "") -> str:
    """Return a recipe as YAML, preceded by the command that runs it."""
    command = "compare" if "pairs" in recipe else "distill" if "teacher" in recipe else "train"
    plain = yaml.Dumper
    plain.ignore_aliases = lambda *_: True  # type: ignore[method-assign]
    body = yaml.dump(recipe, Dumper=plain, sort_keys=False)
    return f"# fakd {command} --recipe THIS_FILE {flags}".rstrip() + f"\n{body}"


if __name__ == "__main__":
    for name, content in every_file().items():
        (HERE / name).parent.mkdir(parents=True, exist_ok=True)
        (HERE / name).write_text(content)
