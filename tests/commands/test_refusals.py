"""What people get wrong, as one table: one line that names it, exit 2, nothing changed on disk.

A row is what is done to a folder in which everything is right, the command, and what its error must
name. The folder holds data (`d`), photographs (`photos`), a finished run (`run`), one that was
stopped (`stopped`), a network (`net.safetensors`), and recipes of `fakd train` (`r.yaml`) and of
`fakd compare` (`grid.yaml`).
"""

import hashlib
import itertools
import json
import math
import os
import shlex
import shutil
import struct
import zlib
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from fakd import models
from fakd.cli import main
from full_disk import full_disk

SMALL = "--schedule.steps 2 --schedule.batch_size 2 --augmentation.crop [32,32]"
CPU = "--hardware.accelerator cpu --hardware.threads 1"
NET = "pspnet --{0}.backbone mobilenetv3_small_050 --{0}.channels 8"
TRAIN = f"train --network {NET.format('network')} --data d --run r {SMALL} {CPU}"
DISTILL = (
    f"distill --teacher net.safetensors --student {NET.format('student')} --data d --run r "
    f"{SMALL} {CPU} --check_teacher false"
)
FOREIGN = f"train --data d --run r {SMALL} {CPU} --network"
EVALUATE = "evaluate --data d --accelerator cpu --network"
PREDICT = "predict --accelerator cpu --network net.safetensors --out out --images"
RECIPE = "train --recipe r.yaml"
GRID = "compare --recipe grid.yaml"
RESUME = "train --recipe r.yaml --run stopped"
REPORT = "report run --images 0 --accelerator cpu"

CLASSES = {"classes": [{"name": n, "color": [40 * i, 0, 90]} for i, n in enumerate("abc")]}
RUN = {
    "network": {
        "class_path": "fakd.models.pspnet",
        "init_args": {"backbone": "mobilenetv3_small_050", "channels": 8},
    },
    "data": "d",
    "run": "r",
    "schedule": {"steps": 2, "batch_size": 2},
    "augmentation": {"crop": [32, 32]},
    "hardware": {"accelerator": "cpu", "threads": 1},
}


# What is done to the folder --------------------------------------------------------------------


def write(path, content):
    """Write bytes, text or YAML, making folders on the way."""

    def change():
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        made = yaml.safe_dump(content) if isinstance(content, dict) else content
        Path(path).write_bytes(made.encode() if isinstance(made, str) else made)

    return change


def described(**changes):
    """Change the description of the data; None takes a key away."""
    content = {k: v for k, v in {**CLASSES, **changes}.items() if v is not None}
    return write("d/dataset.yaml", content)


def recipe(**changes):
    return write("r.yaml", {**RUN, **changes})


def grid(**changes):
    return write("grid.yaml", {**GRID_CONTENT, **changes})


def linked(path, to):
    return lambda: os.symlink(to, path)


def cut(path, size):
    return lambda: os.truncate(path, size)


def emptied(path):
    """Leave a folder with nothing in it."""

    def change():
        shutil.rmtree(path)
        Path(path).mkdir()

    return change


def gone(path):
    return lambda: shutil.rmtree(path) if Path(path).is_dir() else Path(path).unlink()


def moved(path, to):
    return lambda: shutil.move(path, to)


def picture(path, pixels, **options):
    def change():
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path, **options)

    return change


def masks(value, of="train", kind=np.uint8):
    """Fill every mask of a split with a value."""

    def change():
        for file in sorted(Path(f"d/{of}/masks").iterdir()):
            Image.fromarray(np.full((32, 48), value, kind)).save(file)

    return change


def both(*changes):
    def change():
        for each in changes:
            each()

    return change


def metadata(path, **changes):
    """Change the JSON in a safetensors file's header, whose text values are JSON in turn."""

    def change():
        raw = Path(path).read_bytes()
        (length,) = struct.unpack("<Q", raw[:8])
        header = json.loads(raw[8 : 8 + length])
        for key, value in changes.items():
            inner, *deeper = key.split("__")
            holder = header["__metadata__"]
            if deeper:
                content = json.loads(holder[inner])
                content[deeper[0]] = value
                holder[inner] = json.dumps(content)
            elif value is None:
                holder.pop(inner, None)
            else:
                holder[inner] = value
        made = json.dumps(header).encode()
        Path(path).write_bytes(struct.pack("<Q", len(made)) + made + raw[8 + length :])

    return change


def weights(path, change_tensors):
    def change():
        torch.save(change_tensors(), path)

    return change


def variable(name, value):
    """Set an environment variable; the test puts all of them back."""
    return lambda: os.environ.update({name: value})


def huge(path, side=50_000):
    """A PNG of a few bytes whose header promises billions of pixels."""

    def chunk(kind, content):
        check = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    return write(path, b"\x89PNG\r\n\x1a\n" + header + body)


HALVES = np.full((32, 48), 0.5, np.float32)
GRAY = np.full((32, 48), 1, np.uint8)
RGB = np.full((32, 48, 3), 90, np.uint8)
IMAGE, MASK = "d/train/images/0.png", "d/train/masks/0.png"
GRID_CONTENT = {
    "teacher": "net.safetensors",
    "student": RUN["network"],
    "data": "d",
    "run": "g",
    "methods": ["alone", "cwd"],
    "seeds": [0],
    "schedule": RUN["schedule"],
    "augmentation": RUN["augmentation"],
    "hardware": RUN["hardware"],
}

FLAGS = [
    (None, "tarin", "train"),
    (None, "data chek d", "check"),
    (None, f"{TRAIN} --schedule.stps 3", "schedule.steps"),
    (None, f"{TRAIN} --schedule.steps many", "schedule.steps"),
    (None, f"{TRAIN} --schedule.steps 0", "steps"),
    (None, f"{TRAIN} --schedule.steps -3", "steps"),
    (None, f"{TRAIN} --schedule.steps 1.5", "steps"),
    (None, f"{TRAIN} --schedule.steps nan", "steps"),
    (None, f"{TRAIN} --schedule.batch_size 0", "batch_size"),
    (None, f"{TRAIN} --schedule.learning_rate nan", "learning_rate"),
    (None, f"{TRAIN} --schedule.learning_rate inf", "learning_rate"),
    (None, f"{TRAIN} --schedule.learning_rate -1", "learning_rate"),
    (None, f"{TRAIN} --schedule.learning_rate fast", "learning_rate"),
    (None, f"{TRAIN} --schedule.shape step", "schedule.shape"),
    (None, f"{TRAIN} --schedule.warmup 50", "warmup"),
    (None, f"{TRAIN} --schedule.epochs 0", "epochs"),
    (None, f"{TRAIN} --schedule.accumulate 0", "accumulate"),
    (None, f"{TRAIN} --schedule.accumulate 3", "accumulate"),
    (None, f"{TRAIN} --schedule.clip 0", "clip"),
    (None, f"{TRAIN} --optimizer Adamw2", "Adamw2"),
    (None, f"{TRAIN} --optimizer.kind lbfgs", "lbfgs"),
    (None, f"{TRAIN} --optimizer AdamW --optimizer.momentum 0.9", "momentum"),
    (None, f"{TRAIN} --optimizer.layer_decay 2", "layer_decay"),
    (None, f"{TRAIN} --optimizer.weight_decay -1", "weight_decay"),
    (None, f"{TRAIN} --augmentation.crop 32", "crop"),
    (None, f"{TRAIN} --augmentation.crop [32]", "crop"),
    (None, f"{TRAIN} --augmentation.crop [0,32]", "crop"),
    (None, f"{TRAIN} --augmentation.scale [2,1]", "scale"),
    (None, f"{TRAIN} --augmentation.flip 2", "flip"),
    (None, f"{TRAIN} --augmentation.mix mixup", "mix"),
    (None, f"{TRAIN} --augmentation.rotation -5", "rotation"),
    (None, f"{TRAIN} --hardware.accelerator abacus", "abacus"),
    (None, f"{TRAIN} --hardware.accelerator cuda", "cuda"),
    (None, f"{TRAIN} --hardware.precision 64", "precision"),
    (None, f"{TRAIN} --hardware.devices 0", "devices"),
    (None, f"{TRAIN} --hardware.workers -1", "workers"),
    (None, f"{TRAIN} --hardware.threads 0", "threads"),
    (None, f"{TRAIN} --intervals.evaluate -1", "evaluate"),
    (None, f"{TRAIN} --ema 1.5", "ema"),
    (None, f"{TRAIN} --freeze everything", "everything"),
    (None, f"{TRAIN} --freeze backbone --freeze.until 2", "freeze.until"),
    (None, f"{TRAIN} --task.class_weights [1,2]", "class_weights"),
    (None, f"{TRAIN} --task.class_weights foo", "class_weights"),
    (None, f"{TRAIN} --task.label_smoothing 1.5", "label_smoothing"),
    (None, f"{TRAIN} --task.hardest 0", "hardest"),
    (None, f"{TRAIN} --stopping.patience 0", "patience"),
    (None, f"{TRAIN} --stopping.minutes -1", "minutes"),
    (None, f"{TRAIN} --seed x", "seed"),
    (None, f"{TRAIN} --existing keep", "existing"),
    (None, f"{TRAIN} --run run", "run"),
    (None, f"{DISTILL} --weight 3", "distillation.weight"),
    (None, f"{TRAIN} stray", "stray"),
    (None, f"{TRAIN} --seed", "seed"),
    (None, f"{TRAIN} --teacher net.safetensors", "fakd distill"),
    (None, f"{FOREIGN} psnet", "psnet"),
    (None, f"{FOREIGN} pspnet", "backbone"),
    (None, f"{FOREIGN} pspnet --network.backbone resnet19", "resnet19"),
    (None, f"{TRAIN} --network.bakbone a", "network.backbone"),
    (None, f"{TRAIN} --network.channels 0", "channels"),
    (None, f"{TRAIN} --network.weights gone.pth", "gone.pth"),
    (None, f"{FOREIGN} no.such.module", "no.such"),
    (None, f"{FOREIGN} os.getcwd", "os.getcwd"),
    (None, f"{FOREIGN} gone/run", "gone/run"),
    (None, DISTILL.replace("net.safetensors", "gone"), "gone"),
    (None, f"{DISTILL} --distillation ChanelKL", "ChannelKL"),
    (None, f"{DISTILL} --distillation ChannelKL --distillation.strenght 1", "strength"),
    (None, f"{DISTILL} --distillation ChannelKL --distillation.strength -1", "strength"),
    (None, f"{DISTILL} --distillation ChannelKL --distillation.temperature 0", "temperature"),
    (None, f"{DISTILL} --distillation ChannelKL --distillation.weight nan", "weight"),
    (None, f"{DISTILL} --distillation.strength 1", "distillation"),
    (None, f"{DISTILL} --data elsewhere", "elsewhere"),
    (None, f"{EVALUATE} net.safetensors --split tset", "split"),
    (None, f"{EVALUATE} net.safetensors --inference.window 0", "window"),
    (None, f"{EVALUATE} net.safetensors --inference.stride 9", "stride"),
    (None, f"{EVALUATE} net.safetensors --inference.scales []", "scales"),
    (None, f"{EVALUATE} photos", "photos"),
    (None, f"{EVALUATE} d/dataset.yaml", "dataset.yaml"),
    (None, f"{PREDICT} gone", "gone"),
    (None, f"{PREDICT} d/dataset.yaml", "dataset.yaml"),
    (None, f"{PREDICT} photos --out photos/0.png", "photos/0.png"),
    (None, "report gone", "gone"),
    (None, "report", "run"),
    (None, "report photos", "photos"),
    (None, "tables gone", "gone"),
    (None, f"{REPORT} --out net.safetensors", "net.safetensors"),
    (None, "demo --run out --steps 0", "--steps of at least 1"),
    (None, "demo --run net.safetensors", "net.safetensors"),
    (None, "data check gone", "gone"),
    (None, "data check d --save d", "dataset.yaml"),
    (None, "convert --source gone.pth --target x.safetensors", "gone.pth"),
    (None, "convert --source net.safetensors --target run", "run"),
]

RECIPES = [
    (gone("r.yaml"), RECIPE, "r.yaml"),
    (write("r.yaml", ""), RECIPE, "r.yaml"),
    (write("r.yaml", "schedule: [\n"), RECIPE, "r.yaml"),
    (write("r.yaml", "- a\n- b\n"), RECIPE, "r.yaml"),
    (write("r.yaml", "just words"), RECIPE, "r.yaml"),
    (write("r.yaml", "schedule:\n\tsteps: 3\n"), RECIPE, "r.yaml"),
    (write("r.yaml", 'run: "r\n'), RECIPE, "r.yaml"),
    (write("r.yaml", b"run: caf\xe9\n"), RECIPE, "r.yaml"),
    (write("r.yaml", b"\x00\x01\x02"), RECIPE, "r.yaml"),
    (write("r.yaml", "seed: 1\nseed: 2\n"), RECIPE, "seed"),
    (write("r.yaml", "schedule:\n  steps: 1\n  steps: 2\n"), RECIPE, "steps"),
    (write("r.yaml", "run: !!python/object:os.system {}\n"), RECIPE, "r.yaml"),
    (write("r.yaml", "run: *nothing\n"), RECIPE, "nothing"),
    (recipe(lerning_rate=1), RECIPE, "lerning_rate"),
    (recipe(schedule={"lerning_rate": 1}), RECIPE, "learning_rate"),
    (recipe(schedule={"steps": "ten"}), RECIPE, "steps"),
    (recipe(schedule={"batch_size": True}), RECIPE, "batch_size"),
    (recipe(schedule=7), RECIPE, "schedule"),
    (recipe(schedule=[1]), RECIPE, "schedule"),
    (recipe(augmentation={"crop": "32x32"}), RECIPE, "crop"),
    (recipe(network=None), RECIPE, "network"),
    (recipe(network=3), RECIPE, "network"),
    (recipe(network={"init_args": {}}), RECIPE, "network"),
    (recipe(network={"class_path": "fakd.models.pspnt"}), RECIPE, "pspnt"),
    (recipe(network={"class_path": 7}), RECIPE, "network"),
    (recipe(network={**RUN["network"], "args": {}}), RECIPE, "args"),
    (recipe(data=7), RECIPE, "data"),
    (recipe(data="gone"), RECIPE, "gone"),
    (recipe(data=None), RECIPE, "data"),
    (recipe(run=None), RECIPE, "run"),
    (recipe(teacher="net.safetensors"), RECIPE, "fakd distill"),
    (recipe(weight=3), RECIPE, "weight"),
    (write("r.yaml", "3: 4\n"), RECIPE, "3"),
    (recipe(hardware={"accelerator": 1}), RECIPE, "accelerator"),
    (recipe(**{"common.steps": 3}), RECIPE, "common"),
    (write("r.yaml", {}), "train --recipe photos", "photos"),
    (gone("grid.yaml"), GRID, "grid.yaml"),
    (grid(methods=["cwdd"]), GRID, "cwdd"),
    (grid(seeds=[]), GRID, "seeds"),
    (grid(seeds=[0, 0]), GRID, "seeds"),
    (grid(seeds=["a"]), GRID, "seeds"),
    (grid(methods={"own": {"distilation": "cwd"}}), GRID, "distilation"),
    (grid(methods={"own": {"distillation": "cwd", "schedule": {"shape": "x"}}}), GRID, "shape"),
    (grid(teacher="gone.safetensors"), GRID, "gone.safetensors"),
    (grid(student=None), GRID, "student"),
]

DESCRIPTIONS = [
    (write("d/dataset.yaml", ""), TRAIN, "dataset.yaml"),
    (write("d/dataset.yaml", "classes: [a"), TRAIN, "dataset.yaml"),
    (write("d/dataset.yaml", "- a"), TRAIN, "dataset.yaml"),
    (write("d/dataset.yaml", b"classes: [caf\xe9]"), TRAIN, "dataset.yaml"),
    (write("d/dataset.yaml", "classes: [a]\nclasses: [b]\n"), TRAIN, "classes"),
    (described(classes=None), TRAIN, "classes"),
    (described(classes=[]), TRAIN, "classes"),
    (described(classes="a, b"), TRAIN, "classes"),
    (described(classes=["a", "a"]), TRAIN, "'a'"),
    (described(classes=["a", True]), TRAIN, "quotes"),
    (described(classes=["a", None]), TRAIN, "None"),
    (described(classes=[{"color": [1, 2, 3]}]), TRAIN, "name"),
    (described(classes=[{"name": "a", "colour": [1, 2, 3]}]), TRAIN, "colour"),
    (described(classes=[{"name": "a", "color": [1, 2]}]), TRAIN, "[1, 2]"),
    (described(classes=[{"name": "a", "color": [1, 2, 300]}]), TRAIN, "300"),
    (described(classes=[{"name": "a", "color": "red"}]), TRAIN, "red"),
    (described(classes=[{"name": "a", "id": -1}]), TRAIN, "-1"),
    (described(classes=[{"name": "a", "id": 1}, {"name": "b", "id": 1}]), TRAIN, "same id"),
    (described(classes=[{"name": "a", "id": 1}, "b"]), TRAIN, "give all or none"),
    (described(clases=["a"]), TRAIN, "clases"),
    (described(palette=[[1, 2, 3]]), TRAIN, "palette"),
    (described(masks="colours"), TRAIN, "colours"),
    (described(classes=["a", "b", "c"], masks="colors"), TRAIN, "palette"),
    (described(ids={0: "a", 1: "z"}), TRAIN, "z"),
    (described(ids={"x": "a"}), TRAIN, "x"),
    (described(ids=[0, 1]), TRAIN, "ids"),
    (described(ids={0: "a"}, ignore=[0]), TRAIN, "0"),
    (described(ignore=[0]), TRAIN, "0"),
    (described(ignore="x"), TRAIN, "ignore"),
    (described(others="z"), TRAIN, "z"),
    (described(ignore_colors=[[1, 2]]), TRAIN, "ignore_colors"),
    (described(train={"images": "d"}), TRAIN, "{name}"),
    (described(train={"images": "gone/{name}.png"}), TRAIN, "gone"),
    (described(train={"masks": "train/masks/{name}.png"}), TRAIN, "images"),
    (described(train={"image": "train/images/{name}.png"}), TRAIN, "image"),
    (described(train=[]), TRAIN, "train"),
    (described(train="train/images"), TRAIN, "train"),
    (described(root="gone"), TRAIN, "gone"),
    (described(root=7), TRAIN, "root"),
    (described(protocol={"base": 3}), TRAIN, "base"),
    (described(protocol={"windows": 3}), TRAIN, "windows"),
    (described(augmentation=3), TRAIN, "augmentation"),
]

LISTED = {"images": "train/images/{name}.png", "masks": "train/masks/{name}.png"}


def list_of(content):
    """Let a list of names choose the training images."""
    return both(write("d/l.txt", content), described(train={**LISTED, "list": "l.txt"}))


FOLDERS = [
    (gone("d/dataset.yaml"), TRAIN, "classes"),
    (emptied("d"), TRAIN, "d"),
    (gone("d/val"), TRAIN, "val"),
    (gone("d/train"), TRAIN, "train"),
    (emptied("d/train/images"), TRAIN, "train/images"),
    (emptied("d/val/masks"), TRAIN, "val/masks"),
    (moved("d/train/masks", "d/train/labels"), TRAIN, "labels"),
    (moved("d/val/masks", "d/val/labels"), f"{EVALUATE} net.safetensors", "val"),
    (gone(MASK), TRAIN, "masks/0.png"),
    (moved(MASK, "d/train/masks/0_mask.png"), TRAIN, "0_mask.png"),
    (list_of("0\nnone\n"), TRAIN, "none"),
    (list_of(""), TRAIN, "l.txt"),
    (described(train={**LISTED, "list": "gone.txt"}), TRAIN, "gone.txt"),
    (list_of(b"\x00\xff\x00"), TRAIN, "l.txt"),
    (list_of("../../secret\n"), TRAIN, "secret"),
    (list_of("/etc/passwd\n"), TRAIN, "passwd"),
    (masks(255), TRAIN, "train"),
    (masks(255, "val"), TRAIN, "val"),
    (masks(255, "val"), f"{EVALUATE} net.safetensors", "val"),
    (both(masks(255, "val")), DISTILL, "val"),
    (emptied("photos"), f"{PREDICT} photos", "photos"),
    (moved("photos", "other"), f"{PREDICT} photos", "photos"),
]

PIXELS = [
    (masks(9), TRAIN, "9"),
    (masks(300, kind=np.uint16), TRAIN, "300"),
    (both(gone(MASK), picture("d/train/masks/0.tif", HALVES)), TRAIN, "masks/0.tif"),
    (picture(MASK, np.full((32, 40), 1, np.uint8)), TRAIN, "40"),
    (picture(MASK, np.full((32, 48, 3), 77, np.uint8)), TRAIN, "masks/0.png"),
    (picture(MASK, np.full((32, 48, 4), 77, np.uint8)), TRAIN, "masks/0.png"),
    (cut(MASK, 20), TRAIN, "masks/0.png"),
    (cut(MASK, 0), TRAIN, "masks/0.png"),
    (write(MASK, "no picture"), TRAIN, "masks/0.png"),
    (cut(IMAGE, 60), TRAIN, "images/0.png"),
    (cut(IMAGE, 0), TRAIN, "images/0.png"),
    (write(IMAGE, "no picture"), TRAIN, "images/0.png"),
    (huge(IMAGE), TRAIN, "images/0.png"),
    (huge(MASK), TRAIN, "masks/0.png"),
    (huge("d/val/images/0.png"), f"{EVALUATE} net.safetensors", "images/0.png"),
    (cut("d/val/images/0.png", 60), f"{EVALUATE} net.safetensors", "images/0.png"),
    (masks(9, "val"), f"{EVALUATE} net.safetensors", "9"),
    (cut("photos/0.png", 60), f"{PREDICT} photos/0.png", "photos/0.png"),
]

SAVED = "net.safetensors"
LAST = "stopped/last.safetensors"
FILES = [
    (cut(SAVED, 1000), f"{EVALUATE} {SAVED}", SAVED),
    (cut(SAVED, 0), f"{EVALUATE} {SAVED}", SAVED),
    (cut(SAVED, 4), f"{EVALUATE} {SAVED}", SAVED),
    (write(SAVED, "words, not weights"), f"{EVALUATE} {SAVED}", SAVED),
    (write(SAVED, b"\xff" * 64), f"{EVALUATE} {SAVED}", SAVED),
    (metadata(SAVED, fakd="not json"), f"{EVALUATE} {SAVED}", SAVED),
    (metadata(SAVED, fakd="[]"), f"{EVALUATE} {SAVED}", SAVED),
    (metadata(SAVED, fakd="{}"), f"{EVALUATE} {SAVED}", SAVED),
    (metadata(SAVED, fakd=None), f"{EVALUATE} {SAVED}", SAVED),
    (metadata(SAVED, fakd__palette=[[1, 2]]), f"{EVALUATE} {SAVED}", SAVED),
    (metadata(SAVED, fakd__class_names=["a"]), f"{EVALUATE} {SAVED}", SAVED),
    (metadata(SAVED, fakd__format=99), f"{EVALUATE} {SAVED}", SAVED),
    (weights("n.pth", lambda: {"state_dict": {"a": torch.zeros(2)}}), f"{EVALUATE} n.pth", "n.pth"),
    (weights("n.pth", lambda: torch.zeros(2)), f"{EVALUATE} n.pth", "n.pth"),
    (weights("n.pth", lambda: {"state_dict": {}, "x": Path("a")}), f"{EVALUATE} n.pth", "n.pth"),
    (write("n.pth", "words"), f"{EVALUATE} n.pth", "n.pth"),
    (write("n.pth", ""), f"{EVALUATE} n.pth", "n.pth"),
    (weights("n.pth", lambda: {"a": torch.zeros(2)}), f"{TRAIN} --network.weights n.pth", "n.pth"),
    (write("n.pth", "words"), f"{TRAIN} --network.weights n.pth", "n.pth"),
    (write("n.bin", "words"), f"{EVALUATE} n.bin", "n.bin"),
    (cut(LAST, 1000), RESUME, LAST),
    (cut(LAST, 0), RESUME, LAST),
    (metadata(LAST, state="nonsense"), RESUME, LAST),
    (metadata(LAST, state="[]"), RESUME, LAST),
    (metadata(LAST, state="{}"), RESUME, LAST),
    (metadata(LAST, state__step="many"), RESUME, LAST),
    (metadata(LAST, state=None), RESUME, LAST),
    (write("stopped/recipe.yaml", "a: ["), RESUME, "stopped/recipe.yaml"),
    (write("stopped/recipe.yaml", ""), RESUME, "stopped/recipe.yaml"),
    (gone("stopped/recipe.yaml"), RESUME, "stopped"),
    (None, f"{RESUME} --seed 7", "seed"),
    (None, f"{RESUME} --schedule.steps 9", "steps"),
    (write("run/result.json", "{"), REPORT, "run contains a run that cannot be read"),
    (write("run/result.json", "[]"), REPORT, "run contains a run that cannot be read"),
    (write("run/result.json", "{}"), REPORT, "run contains a run that cannot be read"),
    (write("run/recipe.yaml", "- a"), REPORT, "run/recipe.yaml"),
    (gone("run/best.safetensors"), f"{EVALUATE} run", "run"),
    (cut("run/best.safetensors", 900), f"{EVALUATE} run", "best.safetensors"),
    (write("r", "a file"), TRAIN, "r "),
    (write("r/other.txt", "not a run"), TRAIN, "r "),
]

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 132\n"
LAUGHS = "x-a: &a [l, l, l, l, l, l, l, l, l]\n" + "".join(
    f"x-{one}: &{one} [{', '.join([f'*{other}'] * 9)}]\n"
    for other, one in itertools.pairwise("abcdefghij")
)
LONG = "n" * 300
CLASSED = f"{DISTILL} --classes_from map.yaml"
# What people report of tools of this kind.
PERMUTED = described(classes=[{"name": n, "color": [40 * i, 0, 90]} for i, n in enumerate("cab")])
REPORTED = [
    (PERMUTED, f"{EVALUATE} {SAVED}", "in another order: 'a' and not 'c' has id 0"),
    (PERMUTED, DISTILL, "in another order"),
    (PERMUTED, f"export --network {SAVED} --data d --out e", "in another order"),
    (described(classes=["road", "road ", "sky"]), f"{EVALUATE} {SAVED}", "'road' twice"),
    (described(classes=["caf\u00e9", "cafe\u0301", "b"]), f"{EVALUATE} {SAVED}", "twice"),
    (write("run/images.npz", bytes(99)), REPORT, "images.npz is damaged"),
    (write("a/manifest.json", ""), DISTILL.replace(SAVED, "a"), "give fakd answer another"),
    (None, f"{TRAIN} --seed 99999999999999999999", "seed"),
    (None, f"{TRAIN} --seed -1", "seed"),
    (None, f"{GRID} --seeds 100000000000", "seeds"),
    (None, f"{GRID} --seeds [99999999999999999999]", "seed"),
    (None, f"{TRAIN} --run ''", "run"),
    (None, f"{TRAIN} --data ''", "data"),
    (None, f"{PREDICT} ''", "images"),
    (None, f"{TRAIN} --run /proc/r", "/proc/r"),
    (None, f"{TRAIN} --run /dev/null/r", "/dev/null"),
    (None, f"{TRAIN} --run {LONG}", LONG),
    (None, f"{TRAIN} --data {LONG}", LONG),
    (None, f"{EVALUATE} {LONG}", LONG),
    (None, f"{PREDICT} {LONG}", LONG),
    (None, f"{PREDICT} photos --out {LONG}", LONG),
    (None, f"{EVALUATE} {SAVED} --out d", "d"),
    (None, f"{PREDICT} photos --out /dev/null", "/dev/null"),
    (linked("loop", "loop"), f"{TRAIN} --run loop", "loop"),
    (linked("loop", "loop"), f"{TRAIN} --data loop", "loop"),
    (linked("loop", "loop"), f"{EVALUATE} loop", "loop"),
    (linked("loop", "loop"), f"{PREDICT} loop", "loop"),
    (linked("loop", "loop"), f"{PREDICT} photos --out loop", "loop"),
    (both(gone(IMAGE), linked(IMAGE, "gone.png")), TRAIN, "0.png"),
    (both(gone(MASK), linked(MASK, "gone.png")), TRAIN, "0.png"),
    (both(gone(MASK), write(f"{MASK}/a", "")), TRAIN, "0.png"),
    (recipe(data="a\0b"), RECIPE, "null character"),
    (recipe(run="a\0b"), RECIPE, "null character"),
    (recipe(schedule={"steps": math.inf}), RECIPE, "steps"),
    (recipe(augmentation={"crop": [32.5, 32]}), RECIPE, "crop"),
    (recipe(network={**RUN["network"], "init_args": []}), RECIPE, "network"),
    (recipe(network={**RUN["network"], "init_args": {"backbone": ["a"]}}), RECIPE, "backbone"),
    (write("r.yaml", "x: &a [*a]\n"), RECIPE, "anchors"),
    (write("r.yaml", f"{LAUGHS}run: *j\n"), RECIPE, "anchors"),
    (described(classes={0: "a", 1: "b"}), TRAIN, "classes"),
    (write("d/dataset.yaml", "nc: 3\nnames: [a, b, c]\ntrain: train/images\n"), TRAIN, "nc"),
    (described(classes=[{"name": "a", "color": None}]), TRAIN, "colour"),
    (described(classes=[{"name": "a", "color": [0.1, 0.5, 1.0]}]), TRAIN, "0.1"),
    (described(group="["), TRAIN, "group"),
    (described(labelled=0), TRAIN, "labelled"),
    (described(labelled=1000), TRAIN, "labelled"),
    (both(write("d/u.tar", "words"), described(unlabelled="u.tar")), DISTILL, "u.tar"),
    (both(write("d/u.tar", ""), described(unlabelled="u.tar")), DISTILL, "u.tar"),
    (both(write("d/u.mp4", "no"), described(unlabelled="u.mp4?every=2")), DISTILL, "u.mp4"),
    (write("clip.mp4", "no video"), f"{PREDICT} clip.mp4", "clip.mp4"),
    (write("map.yaml", ""), CLASSED, "map.yaml"),
    (write("map.yaml", "- a\n"), CLASSED, "map.yaml"),
    (write("map.yaml", "a: [zebra]\n"), CLASSED, "map.yaml"),
    (None, CLASSED, "map.yaml"),
    (write("t/0.npz", "PK words"), DISTILL.replace(SAVED, "t"), "0.npz"),
    (write("t/0.png", "words"), DISTILL.replace(SAVED, "t"), "t"),
    (write(SAVED, POINTER), f"{EVALUATE} {SAVED}", "Git LFS"),
    (write("n.pth", POINTER), f"{EVALUATE} n.pth", "Git LFS"),
    (write("n.onnx", POINTER), f"{EVALUATE} n.onnx", "Git LFS"),
    (write(IMAGE, POINTER), TRAIN, "Git LFS"),
    (write(MASK, POINTER), TRAIN, "Git LFS"),
    (write(SAVED, "<!DOCTYPE html><html>"), f"{EVALUATE} {SAVED}", "web page"),
    (write("n.pth", "<html>404</html>"), f"{EVALUATE} n.pth", "web page"),
    (write("d/dataset.yaml", POINTER), TRAIN, "Git LFS"),
]

ENVIRONMENT = [
    (variable("RANK", "first"), TRAIN, "RANK"),
    (variable("LOCAL_RANK", ""), EVALUATE + f" {SAVED}", "LOCAL_RANK"),
    (variable("NODE_RANK", "-1"), f"{PREDICT} photos", "NODE_RANK"),
    (variable("WORLD_SIZE", "2.0"), DISTILL, "WORLD_SIZE"),
    (variable("MASTER_PORT", "http"), TRAIN, "MASTER_PORT"),
    (variable("SLURM_PROCID", "a"), TRAIN, "SLURM_PROCID"),
    (variable("SLURM_NTASKS", "many"), GRID, "SLURM_NTASKS"),
    (variable("OMP_NUM_THREADS", "all"), TRAIN, "OMP_NUM_THREADS"),
    (variable("OMP_NUM_THREADS", "0"), TRAIN, "OMP_NUM_THREADS"),
    (variable("FAKD_MAX_PIXELS", "many"), TRAIN, "FAKD_MAX_PIXELS"),
    (variable("FAKD_MAX_PIXELS", "-1"), f"{PREDICT} photos", "FAKD_MAX_PIXELS"),
]

SCENES = TRAIN.replace("--data d", "--data scenes")
# More than any machine has; the last of equal flags counts.
LARGE = [
    (None, f"{TRAIN} --augmentation.crop [10000000,10000000]", "crop"),
    (None, f"{DISTILL} --augmentation.crop [10000000,10000000]", "crop"),
    (None, f"{TRAIN} --schedule.batch_size 1000000000", "batch_size"),
    (None, f"{TRAIN} --hardware.workers 1000000", "hardware.workers"),
    (None, f"{TRAIN} --hardware.workers 1 --hardware.prefetch 1000000000000", "hardware.prefetch"),
    (None, f"{TRAIN} --hardware.threads 1000000000", "hardware.threads"),
    (None, f"{TRAIN} --inference.scale 1e6", "inference.scale"),
    (None, f"{EVALUATE} {SAVED} --inference.scale 1e6", "inference.scale"),
    (None, f"{EVALUATE} {SAVED} --inference.scale 1e300", "at most 1,000"),
    (None, f"{EVALUATE} {SAVED} --inference.scales [1e300,1]", "at most 1,000"),
    (None, f"answer --teacher {SAVED} --data d --out a --inference.scale 1000", "inference.scale"),
    (None, f"{GRID} --hardware.triton", "needs Triton and a CUDA device"),
    (None, f"{EVALUATE} {SAVED} --inference.base [10000000,10000000]", "base"),
    (None, f"{EVALUATE} {SAVED} --workers 1000000", "fewer workers"),
    (None, f"{PREDICT} photos --inference.scale 1e6", "inference.scale"),
    (None, f"{SCENES} --data.size [10000000,10000000]", "size"),
    (None, f"{SCENES} --data.train 1000000000000", "train"),
    (None, f"{SCENES} --data.val 1000000000000", "val"),
]

ROWS = [
    pytest.param(*row, id=f"{kind}-{number}")
    for kind, rows in {
        "flags": FLAGS,
        "recipes": RECIPES,
        "descriptions": DESCRIPTIONS,
        "folders": FOLDERS,
        "pixels": PIXELS,
        "files": FILES,
        "reported": REPORTED,
        "environment": ENVIRONMENT,
        "large": LARGE,
    }.items()
    for number, row in enumerate(rows)
]


@pytest.fixture(scope="module")
def right(tmp_path_factory):
    """The folder in which everything is right."""
    folder = tmp_path_factory.mktemp("right")
    draw = np.random.default_rng(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for split, count in {"train": 4, "val": 2}.items():
            for index in range(count):
                picture(f"d/{split}/images/{index}.png", draw.integers(0, 255, RGB.shape, "u1"))()
                picture(f"d/{split}/masks/{index}.png", draw.integers(0, 3, GRAY.shape, "u1"))()
        picture("photos/0.png", RGB)()
        picture("photos/1.png", RGB)()
        for change in (described(), recipe(), grid()):
            change()
        assert main([*shlex.split(RECIPE), "--run", "run"]) == 0
        shutil.copytree("run", "stopped")
        Path("stopped/result.json").unlink()
        network = models.pspnet("mobilenetv3_small_050", 3, channels=8)
        models.save(network, SAVED, class_names=["a", "b", "c"], palette=None)
    return folder


def contents(folder):
    """Every file and folder, with a sum of what is in it."""
    return {
        str(path): path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(Path(folder).rglob("*"))
    }


@pytest.mark.parametrize(("change", "command", "named"), ROWS)
def test_a_mistake_is_one_line_that_names_it(
    change, command, named, right, tmp_path, monkeypatch, capfd
):
    shutil.copytree(right, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    variables = dict(os.environ)
    if change:
        change()
    before = contents(".")
    capfd.readouterr()
    try:
        code = main(shlex.split(command))
    finally:
        os.environ.clear()
        os.environ.update(variables)
    said = capfd.readouterr().err
    assert code == 2, said
    assert said.startswith("fakd: error: "), said
    assert said.count("\n") == 1, said
    assert named in said
    assert contents(".") == before


def test_the_table_is_as_long_as_it_should_be():
    assert len(ROWS) >= 150


def files():
    """Every file and folder but locks, which stay, and the folders that these are in."""
    found = contents(".")
    locks = {path for path in found if path.endswith(".lock")}
    return {k: v for k, v in found.items() if k not in locks | {str(Path(p).parent) for p in locks}}


@pytest.mark.parametrize(
    "command",
    [
        TRAIN,
        DISTILL,
        f"{RECIPE} --run stopped",
        GRID,
        f"{EVALUATE} {SAVED} --out old.json",
        f"{PREDICT} photos",
        f"{REPORT} --out old.html",
        f"answer --teacher {SAVED} --data d --out a --hardware.accelerator cpu",
        "data check d --out old.png",
        "tables run --out t --accelerator cpu",
        f"{RECIPE} --run run --existing overwrite",
        f"answer --teacher {SAVED} --data d --out new/a --hardware.accelerator cpu",
        f"classes --teacher {SAVED} --data d --out map.yaml --hardware.accelerator cpu",
        f"disagree run --teacher {SAVED} --images photos --out new/out --accelerator cpu",
        "convert --source paper.safetensors --target new.pth",
        pytest.param(f"export --network {SAVED} --data d --out e", marks=pytest.mark.slow),
        pytest.param(
            f"export --network {SAVED} --data d --out e --to torch", marks=pytest.mark.slow
        ),
        "latency net.safetensors --size 32,32 --runtimes torch --accelerator cpu --out old.json",
    ],
)
def test_a_full_disk_is_one_line_and_what_was_written_before_stays(
    command, right, tmp_path, monkeypatch
):
    shutil.copytree(right, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    for name in ("old.json", "old.html", "old.png"):
        Path(name).write_text("old")
    if "paper.safetensors" in command:
        network = models.pspnet("mobilenetv2", 3, channels=8)
        models.save(network, "paper.safetensors", class_names=None, palette=None)
    before, said, shown = files(), StringIO(), StringIO()
    # Not to files, which the limit is for too.
    with full_disk(20), redirect_stderr(said), redirect_stdout(shown):
        code = main(shlex.split(command))
    assert code == 2, said.getvalue()
    assert said.getvalue().count("\n") == 1
    assert "File too large" in said.getvalue()
    assert files() == before
