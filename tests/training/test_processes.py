"""Two processes see together what one sees alone, and learn the same.

What holds for losses is in tests/losses/test_processes.py; here are the settings of a run. The
cross-entropy is averaged over all pixels: over the valid ones, each process has a mean of its own.
"""

import os
import socket

import pytest
import torch
from rich.console import Console
from torch import nn

from fakd.data import Split, scenes
from fakd.losses import ChannelKL, PixelKL
from fakd.models import pspnet
from fakd.settings import Augmentation, Hardware, Inference, Optimizer, Schedule, Settings, Task
from fakd.training.loop import Training
from fakd.training.objective import Distillation
from fakd.training.start import start
from fakd.training.task import TaskLoss
from fakd.training.teacher import NetworkTeacher
from fakd.training.validation import validate_images
from fakd.types import Prediction, Segmenter
from forked import together

WEIGHTS = tuple(0.5 + 0.25 * k for k in range(12))
ADAMW = Optimizer("AdamW", weight_decay=0.05, layer_decay=0.7, head_multiplier=2.0)
CWD = {"class_weights": WEIGHTS, "strength": 1.0}
# Name -> the task's settings, the loss, schedule and other settings of the run.
RUNS = {
    "class weights": (Task(average="all", class_weights=WEIGHTS), lambda: ChannelKL(**CWD), {}, {}),
    "smoothed, averaged": (
        Task(average="all", class_weights=WEIGHTS, label_smoothing=0.1),
        lambda: PixelKL(class_weights=WEIGHTS),
        {},
        {"ema": 0.8},
    ),
    "in parts": (
        Task(average="all", class_weights=WEIGHTS),
        lambda: PixelKL(class_weights=WEIGHTS, weight={"from": 2.0, "to": 0.0, "end": 0.6}),
        {"accumulate": 2, "clip": 0.5},
        {"optimizer": ADAMW, "ema": 0.8},
    ),
    # More than a sixteenth of the pixels is less likely than 0.7, so that this limit decides.
    "half unlabelled": (
        Task(average="all", confidence=0.1),
        lambda: PixelKL(strength=1.0),
        {"unlabelled_share": 0.5},
        {},
    ),
    "hardest": (Task(average="all", hardest=0.7), PixelKL, {}, {"optimizer": ADAMW}),
}


class HalfLabelled(Split):
    """Every other sample has no labels."""

    labelled = True

    def __init__(self, split):
        self._split = split

    def __len__(self):
        return len(self._split)

    def __getitem__(self, index):
        sample = self._split[index]
        return sample if self.is_labelled(index) else sample._replace(labels=None)

    def is_labelled(self, index):
        return index % 2 == 0

    def identity(self):
        return self._split.identity()


class Blocks(Segmenter):
    """Numbered blocks without a norm, in float64."""

    classes = 12

    def __init__(self, channels=6):
        super().__init__()
        self.backbone = nn.Module()
        self.backbone.stem = nn.Conv2d(3, channels, 3, stride=4, padding=1)
        self.backbone.blocks = nn.ModuleList(nn.Conv2d(channels, channels, 1) for _ in range(3))
        self.head = nn.Conv2d(channels, self.classes, 1)
        self.double()

    @property
    def classifier(self):
        return self.head

    def forward(self, images):
        features = self.backbone.stem(images.double())
        for block in self.backbone.blocks:
            features = features + block(features).tanh()
        return Prediction(self.head(features), features)


def trained(fabric, name):
    task, loss, schedule, others = RUNS[name]
    torch.manual_seed(0)
    student, teacher = Blocks(), Blocks(8)
    settings = Settings(
        Schedule(steps=5, batch_size=4, learning_rate=0.01, **schedule),
        augmentation=Augmentation(crop=(32, 48), mix="cutmix"),
        hardware=Hardware(accelerator="cpu", devices=fabric.world_size),
        **others,
    )
    objective = Distillation(teacher, student, loss(), TaskLoss(task, 12)).double()
    teacher = NetworkTeacher(teacher, fabric, settings.hardware)
    data, console = scenes(train=6, val=2, size=(32, 48)), Console(quiet=True)
    if "unlabelled" in name:
        data.train = HalfLabelled(data.train)
    run = Training(fabric, student, objective, data, settings, console, teacher=teacher)
    run.run()
    state = {**student.state_dict(), **objective.state_dict()}
    return state | {f"scored.{key}": each for key, each in run.evaluated.state_dict().items()}


def network():
    torch.manual_seed(0)
    return pspnet("mobilenetv3_small_050", 12, channels=16).eval()


def share(rank, port, path):
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": "2",
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "NODE_RANK": "0",
        "TORCHELASTIC_RUN_ID": "test",
        "GROUP_RANK": "0",
        "LOCAL_WORLD_SIZE": "2",
    }
    fabric = start(Hardware(accelerator="cpu", devices=2), seed=0)
    data = scenes(train=2, val=5, size=(32, 48))
    settings = Settings(inference=Inference())
    scores, _ = validate_images(fabric, network(), data.val, settings)
    found = {name: trained(fabric, name) for name in RUNS}
    if fabric.is_global_zero:
        torch.save({"pixels": scores.pixels, "iou": scores.iou, **found}, path)
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    path = tmp_path_factory.mktemp("processes") / "two"
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    together(share, port, path)
    return torch.load(path, weights_only=True)


def test_validation_over_two_processes_equals_one(two):
    data = scenes(train=2, val=5, size=(32, 48))
    one, _ = validate_images(start(Hardware(accelerator="cpu"), 0), network(), data.val, Settings())
    assert torch.equal(two["pixels"], one.pixels)
    torch.testing.assert_close(two["iou"], one.iou, equal_nan=True)


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_learn_what_one_learns_from_the_whole_batch(name, two):
    alone = trained(start(Hardware(accelerator="cpu"), 0), name)
    assert two[name].keys() == alone.keys()
    for key, value in alone.items():
        torch.testing.assert_close(two[name][key], value, rtol=1e-5, atol=1e-8, msg=key)
