"""Finished runs as folders, made up: their scores are known, and no network is trained."""

import json
from pathlib import Path

import numpy as np
import yaml

from fakd.comparing.statistics import mean_iou
from fakd.losses import PRESETS
from fakd.runs.images import Pixels

CLASSES = ("road", "building", "sky", "pole", "cyclist")
SHARE = np.array([0.5, 0.3, 0.15, 0.04, 0.01])
STUDENT = {
    "class_path": "fakd.models.pspnet",
    "init_args": {"backbone": "mobilenetv3_small_050", "weights": None},
}


class MadeUpRuns:
    """Writes run folders whose every class has a given share of its pixels right."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def grid(self) -> Path:
        self.root.mkdir(parents=True, exist_ok=True)
        (self.root / "grid.yaml").write_text("seeds: 3\n")
        return self.root

    def in_grid(self, method, seed, accuracy, pair="psp-to-mv3", **more) -> Path:
        self.grid()
        folder = self.root / pair / method / f"seed-{seed}"
        return self.run(folder, method, seed, accuracy, **more)

    def failed(self, method, seed, text, pair="psp-to-mv3") -> Path:
        self.grid()
        path = self.root / pair / method / f"seed-{seed}.failed"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def run(self, folder, method, seed, accuracy, **more) -> Path:
        """Spread 10,000 pixels an image over the classes; ``accuracy`` of each is found."""
        options = {
            "images": 20,
            "counted": True,
            "seconds": 100.0,
            "steps": 1000,
            "names": CLASSES,
            "share": SHARE,
            "data": {"class_path": "fakd.data.scenes", "init_args": {}},
            "data_name": "scenes",
            "prefix": "image",
            **more,
        }
        folder.mkdir(parents=True)
        pixels = self._pixels(accuracy, seed, options)
        recipe = {"network": STUDENT, "data": options["data"], "seed": seed}
        if method != "alone":
            spec = PRESETS.get(method, {"class_path": "my.Loss", "init_args": {}})
            recipe = {
                "teacher": {"class_path": "fakd.models.load", "init_args": {"path": "t"}},
                "student": options.get("student", STUDENT),
                "distillation": options.get("distillation", spec),
                "data": options["data"],
                "seed": seed,
            }
        elif "student" in options:
            recipe["network"] = options["student"]
        recipe |= options.get("recipe", {})
        (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        summed = Pixels(*(counts.sum(0) for counts in pixels))
        found = summed.hit / np.maximum(summed.truth, 1)
        iou = summed.hit / np.maximum(summed.truth + summed.said - summed.hit, 1)
        classes = {
            name: {
                "iou": round(100 * float(iou[i]), 4),
                "accuracy": round(100 * float(found[i]), 4),
                "pixels": int(summed.truth[i]),
            }
            for i, name in enumerate(options["names"])
        }
        result = {
            "steps": options["steps"],
            "train_seconds": options["seconds"],
            "parameters": 668152,
            "final": {
                "miou": round(float(mean_iou(summed)), 4),
                "macc": round(100 * float(found.mean()), 4),
                "aacc": round(100 * float(summed.hit.sum() / summed.truth.sum()), 4),
                "classes": classes,
            },
            "best": {"miou": 1.0, "step": 1000},
            "teacher_miou": None if method == "alone" else 80.0,
            "data": {"name": options["data_name"], "fingerprint": "0"},
        }
        (folder / "result.json").write_text(json.dumps(result))
        (folder / "metrics.csv").write_text("step,channel/augmentation\n10,0.1\n20,0.25\n30,\n")
        if options["counted"]:
            names = np.array([f"{options['prefix']}-{i}" for i in range(options["images"])])
            np.savez(folder / "images.npz", names=names, **pixels._asdict())
        return folder

    @staticmethod
    def _pixels(accuracy, seed, options) -> Pixels:
        """Pixels missed are said to be of the next class; images differ, the same for all runs."""
        images, share = options["images"], np.asarray(options["share"])
        dice = np.random.default_rng(5)
        truth = dice.multinomial(10000, share, size=images)
        wobble = dice.normal(0, 0.05, (images, 1))
        own = np.random.default_rng([seed, 7]).normal(0, 0.004)
        found = np.clip(np.asarray(accuracy) + wobble + own, 0, 1)
        hit = np.round(truth * found).astype(int)
        return Pixels(hit, truth, hit + np.roll(truth - hit, 1, axis=1))
