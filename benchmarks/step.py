"""Cost of a whole training step of every method, against a straightforward eager step.

The paper's first pair, PSPNet-ResNet-101 to PSPNet-ResNet-18 at output stride 8, untrained: student
forward, the teacher's output, losses, statistics, backward and the optimiser's step. ``plain`` is
`plain.py`. With ``bf16`` the teacher computes in 16 bits, as with ``--hardware.teacher_precision
bf16``. Stored answers are decoded in the step, from 8 bits, as a loader without workers does.
"""

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

import plain
from common import SEED, Size, measure, parser, report
from fakd.answers import Encoding
from fakd.losses import preset
from fakd.models import pspnet
from fakd.settings import Optimizer, Task
from fakd.training.objective import Distillation, Objective, Supervised
from fakd.training.optimizer import build_optimizer
from fakd.training.task import TaskLoss
from fakd.types import Prediction, Segmenter

STRIDE = 8
PRESETS = {"alone": None, "PD": "pd", "CWD": "cwd", "CWD + FA": "cwd-fa"}
MORE = {"SKDS": "skds-cirkd", "IFVD": "ifvd-cirkd", "CIRKD": "cirkd"}
VARIANTS = [
    *(f"{name}, plain" for name in PRESETS),
    *PRESETS,
    *MORE,
    *(f"{name}, {way}" for way in ("stored", "bf16") for name in PRESETS if name != "alone"),
]


class Answers:
    """Teacher outputs: computed in each step, or decoded from stored answers."""

    def __init__(self, teacher: Segmenter, images: Tensor, way: str) -> None:
        self.teacher, self.images, self.written = teacher, images, []
        self.encoding, self.half = Encoding("int8"), way == "bf16"
        if way == "stored":
            with torch.no_grad():
                maps = teacher(images).logits
            self.shape = tuple(maps.shape[1:])
            self.written = [self.encoding.encode(each.cpu().numpy()) for each in maps]

    @torch.no_grad()
    def __call__(self) -> Prediction:
        """Return the teacher's output for the images."""
        if not self.written:
            with torch.autocast(self.images.device.type, torch.bfloat16, enabled=self.half):
                return self.teacher(self.images)
        maps = [torch.from_numpy(self.encoding.decode(e, self.shape)) for e in self.written]
        return Prediction(torch.stack(maps).to(self.images.device))


def training_step(
    name: str, teacher: Segmenter, size: Size, device: str
) -> Callable[[], Tensor | None]:
    """Build a training step of the student with one method."""
    torch.manual_seed(SEED)
    method, _, way = name.partition(", ")
    student = pspnet("resnet18", size.classes, channels=size.channels).to(device)
    crop = (STRIDE * size.rows, STRIDE * size.cols)
    images = torch.rand(size.batch, 3, *crop).to(device)
    if way != "plain":
        student.to(memory_format=torch.channels_last)
        images = images.contiguous(memory_format=torch.channels_last)
    # About a dozen classes per image, in patches, as in photographs.
    patches = torch.randint(size.classes, (size.batch, 1, 3, 4)).float()
    labels = F.interpolate(patches, crop)[:, 0].long().to(device)
    optimizer = build_optimizer(Optimizer().settled(), student)
    answer = Answers(teacher, images, way)

    def update(total: Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        optimizer.step()

    if way == "plain":
        statistics = plain.Statistics(size.classes, size.channels)

        def plain_step() -> None:
            seen = None if method == "alone" else answer().logits
            prediction = student(images)
            total = plain.supervised(prediction, labels)
            if method == "PD":
                total = total + plain.pixel(prediction.logits, seen)
            elif method == "CWD":
                total = total + 5 * plain.channel(prediction.logits, seen)
            elif method == "CWD + FA":
                here = F.interpolate(labels[:, None].float(), prediction.logits.shape[-2:])
                here = here[:, 0].long()
                statistics.update(prediction.features.detach(), here)
                variance = 0.5 * statistics.of_logits(student.classifier.weight, here)
                total = total + 5 * plain.channel(prediction.logits, seen, variance)
            update(total)

        return plain_step

    task = TaskLoss(Task(), size.classes)
    objective: Objective = Supervised(task)
    if method != "alone":
        loss = preset({**PRESETS, **MORE}[method])
        objective = Distillation(teacher, student, loss, task=task).to(device)
    labelled = torch.ones(size.batch, dtype=torch.bool)

    def step() -> None:
        seen = None if method == "alone" else answer()
        outcome = objective(student(images), labels, labelled, 0.5, seen)
        update(torch.stack(list(outcome.terms.values())).sum())
        objective.after_step(outcome)

    return step


def main() -> None:
    flags = parser("step", __doc__, ["2x32x32x150x128"])
    flags.add_argument("--only", nargs="+", choices=VARIANTS, default=VARIANTS)
    chosen = flags.parse_args()
    torch.set_num_threads(chosen.threads)
    reference = "CWD, plain" if "CWD, plain" in chosen.only else chosen.only[0]
    runs = []
    for size in chosen.sizes:
        teacher = pspnet("resnet101", size.classes).to(chosen.device).eval()
        # As in `Teacher`; the plain step does not change the networks' memory layout.
        ours = copy.deepcopy(teacher).to(memory_format=torch.channels_last)
        variants = {
            name: training_step(name, teacher if "plain" in name else ours, size, chosen.device)
            for name in chosen.only
        }
        runs.append((size, measure(variants, chosen.device, chosen.repeats, reference)))
    report("step", chosen, reference, runs)


if __name__ == "__main__":
    main()
