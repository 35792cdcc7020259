"""What a whole training step costs: the student alone, with CWD, with FAKD.

The paper's first pair, PSPNet-ResNet-101 to PSPNet-ResNet-18 at output stride 8, untrained: student
forward, teacher forward, losses, statistics, backward and the optimiser's step.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from common import SEED, Size, measure, parser, report
from fakd.losses import ChannelKL
from fakd.models import pspnet
from fakd.settings import Optimizer, Task
from fakd.training.objective import Distillation, Objective, Supervised
from fakd.training.optimizer import build_optimizer
from fakd.training.task import TaskLoss
from fakd.types import DistillationLoss, Segmenter

STRIDE = 8
METHODS: dict[str, DistillationLoss | None] = {
    "CWD": ChannelKL(),
    "alone": None,
    "CWD, FAKD diagonal": ChannelKL(strength=1.0),
    "CWD, FAKD full": ChannelKL(strength=1.0, covariance="full"),
    "CWD, FAKD logits": ChannelKL(strength=1.0, covariance="logits"),
}


def training_step(
    loss: DistillationLoss | None, teacher: Segmenter, size: Size, device: str
) -> Callable[[], Tensor]:
    """Build a training step of the student with one method."""
    torch.manual_seed(SEED)
    student = pspnet("resnet18", size.classes, channels=size.channels).to(device)
    student.to(memory_format=torch.channels_last)
    crop = (STRIDE * size.rows, STRIDE * size.cols)
    images = torch.rand(size.batch, 3, *crop).to(device, memory_format=torch.channels_last)
    labels = torch.randint(size.classes, (size.batch, *crop)).to(device)
    labelled = torch.ones(size.batch, dtype=torch.bool)
    task = TaskLoss(Task(), size.classes)
    objective: Objective = Supervised(task)
    if loss is not None:
        objective = Distillation(teacher, student, loss, task=task).to(device)
    optimizer = build_optimizer(Optimizer(), student)

    def run() -> Tensor:
        with torch.no_grad():
            answer = None if loss is None else teacher(images)
        terms = objective(student(images), labels, labelled, 0.5, answer).terms
        total = torch.stack(list(terms.values())).sum()
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        optimizer.step()
        return total

    return run


def main() -> None:
    flags = parser("step", __doc__, ["2x32x32x150x128"])
    flags.add_argument("--only", nargs="+", choices=METHODS, default=list(METHODS))
    chosen = flags.parse_args()
    torch.set_num_threads(chosen.threads)
    runs = []
    for size in chosen.sizes:
        teacher = pspnet("resnet101", size.classes).to(chosen.device)
        teacher.eval().to(memory_format=torch.channels_last)
        variants = {
            name: training_step(METHODS[name], teacher, size, chosen.device) for name in chosen.only
        }
        reference = chosen.only[0]
        runs.append((size, measure(variants, chosen.device, chosen.repeats, reference)))
    report("step", chosen, chosen.only[0], runs)


if __name__ == "__main__":
    main()
