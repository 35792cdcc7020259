"""Memory of a training step: formula against measurement.

The formula needs no weights and computes nothing: 4 bytes for each parameter of the student, its
gradient and its momentum, and of the teacher; and for each image the activations that a forward
pass keeps for the gradient (`fakd.models.memory_estimate.bytes_of_image`, on the meta device) or,
if that is more, the peak of the teacher's forward pass, which comes first. The measurement makes
real steps of CWD on the CPU and sums the allocations and deallocations of PyTorch's allocator.
``--plan`` measures nothing: it computes memory and hours for GPUs, whose sustained speed is an
assumption.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from common import FOLDER, SEED, environment
from fakd.losses import ChannelKL
from fakd.models import open_network
from fakd.models.catalogue import count
from fakd.models.memory_estimate import bytes_of_image
from fakd.settings import Optimizer, Task
from fakd.training.objective import Distillation
from fakd.training.optimizer import build_optimizer
from fakd.training.task import TaskLoss
from fakd.types import Segmenter

TEACHER = "pspnet?backbone=resnet101"
STUDENTS = (
    "timm:mobilenetv3_small_100?channels=64&output_stride=16",
    "timm:tf_efficientnet_lite0?head=deeplabv3plus&channels=128&output_stride=16",
    "pspnet?backbone=resnet18",
    "pspnet?backbone=resnet18b&channels=64",
)
STEPS, BATCH, MARGIN = 40_000, 16, 1.3
SUSTAINED = {"T4": 8.1e12, "A100": 156e12, "H100": 495e12}
"""Published peak operations per second: float32 for the T4, TF32 for the others."""
SHARE = {"dense": 0.3, "depthwise": 0.06}
"""Share of the peak that training is assumed to reach; depthwise convolutions are memory-bound."""


def formula(
    student: str, classes: int, size: tuple[int, int], batch: int, teacher: str
) -> dict[str, float]:
    """Compute the bytes of a step, and its parts."""
    with torch.device("meta"):
        network, other = open_network(student, classes).train(), open_network(teacher, classes)
    kept = bytes_of_image(network, size, learns=True)
    held = bytes_of_image(other, size, learns=False)
    weights = sum(each.numel() for each in network.parameters())
    taught = sum(each.numel() for each in other.parameters())
    return {
        "kept_each": kept,
        "teacher_each": held,
        "weights": 12 * weights + 4 * taught,
        "total": 12 * weights + 4 * taught + batch * max(kept, held),
    }


def measured(
    student: Segmenter, teacher: Segmenter, size: tuple[int, int], batch: int, classes: int
) -> tuple[float, float]:
    """Make two steps; return the peak bytes and the CPU seconds of the second."""
    images = torch.rand(batch, 3, *size)
    labels = torch.randint(classes, (batch, 1, 3, 4)).float()
    labels = torch.nn.functional.interpolate(labels, size)[:, 0].long()
    task = TaskLoss(Task(), classes, student.align_corners)
    objective = Distillation(teacher, student, ChannelKL(strength=0.0), task, 0.5)
    optimizer = build_optimizer(Optimizer().settled(), student)
    every = torch.ones(batch, dtype=torch.bool)

    def step() -> None:
        with torch.no_grad():
            answer = teacher(images)
        terms = objective(student(images), labels, every, 0.0, answer).terms
        optimizer.zero_grad(set_to_none=True)
        sum(terms.values()).backward()
        optimizer.step()

    step()
    optimizer.zero_grad(set_to_none=True)
    began = time.process_time()
    step()
    seconds = time.process_time() - began
    optimizer.zero_grad(set_to_none=True)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        step()
    changes = sorted(
        (event.start_ns(), event.nbytes())
        for event in seen.profiler.kineto_results.events()
        if event.name() == "[memory]"
    )
    held = peak = 0
    for _, change in changes:
        held += change
        peak = max(peak, held)
    before = sum(
        each.numel() * each.element_size()
        for each in (*student.state_dict().values(), *teacher.state_dict().values())
    )
    momentum = 4 * sum(each.numel() for each in student.parameters())
    return before + momentum + peak, seconds


def plan(student: str, classes: int, size: tuple[int, int], teacher: str) -> str:
    """Return a line of the guide's table: one student at one size."""
    said = formula(student, classes, size, BATCH, teacher)
    with torch.device("meta"):
        network, other = open_network(student, classes), open_network(teacher, classes)
    depthwise = any(getattr(each, "groups", 1) > 1 for each in network.modules())
    own, taught = (count("", each, size).flops for each in (network, other))
    share = SHARE["depthwise" if depthwise else "dense"]
    cells = [f"`{student}`", f"{size[0]} x {size[1]}", f"{own / 1e9:.1f}"]
    cells += [f"{said['kept_each'] / 1e6:.0f}", f"{MARGIN * said['total'] / 1e9:.1f}"]
    for peak in SUSTAINED.values():
        seconds = 3 * own / (share * peak) + taught / (SHARE["dense"] * peak)
        alone = 3 * own / (share * peak)
        hours = [STEPS * BATCH * each / 3600 for each in (seconds, alone)]
        cells.append(f"{1 / seconds:.0f}, {hours[0]:.1f} h ({hours[1]:.1f})")
    return f"| {' | '.join(cells)} |"


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--students", nargs="+", default=STUDENTS)
    flags.add_argument("--teacher", default=TEACHER)
    flags.add_argument("--classes", type=int, default=19)
    flags.add_argument("--sides", nargs="+", type=int, default=[128, 256], help="square crops")
    flags.add_argument("--batches", nargs="+", type=int, default=[2, 4])
    flags.add_argument("--plan", action="store_true", help="compute the guide's table instead")
    flags.add_argument("--threads", type=int, default=torch.get_num_threads())
    flags.add_argument("--out", type=Path, default=FOLDER / "results" / "memory.json")
    given = flags.parse_args()
    if given.plan:
        for word in given.students:
            for size in ((256, 256), (512, 512), (512, 1024)):
                print(plan(word, given.classes, size, given.teacher), flush=True)
        return
    torch.set_num_threads(given.threads)
    torch.manual_seed(SEED)
    teacher = open_network(given.teacher, given.classes).requires_grad_(False).eval()
    rows = []
    for word in given.students:
        student = open_network(word, given.classes).train()
        for side in given.sides:
            for batch in given.batches:
                said = formula(word, given.classes, (side, side), batch, given.teacher)
                found, seconds = measured(student, teacher, (side, side), batch, given.classes)
                row = {"student": word, "side": side, "batch": batch, **said}
                rows.append({**row, "measured": found, "cpu_seconds": seconds})
                print(
                    f"{word:<76} {side:>4} {batch:>2}  said {said['total'] / 1e6:7.0f} MB  "
                    f"measured {found / 1e6:7.0f}  ratio {found / said['total']:.2f}  "
                    f"{batch / seconds:.2f} images/s",
                    flush=True,
                )
    content = {"environment": environment("cpu"), "teacher": given.teacher, "rows": rows}
    given.out.parent.mkdir(exist_ok=True)
    given.out.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
