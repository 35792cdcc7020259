"""Cost of the task loss, forward and backward: in tiles, and on logits upsampled to the labels.

A size is that of the logits; labels are eight times as high and wide. Channels are not used.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F

from common import SEED, Size, measure, parser, report
from fakd.settings import IGNORE
from fakd.training.task import cross_entropy

STRIDE = 8


def enlarged(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    maps = F.interpolate(logits, labels.shape[-2:], mode="bilinear", align_corners=False)
    return F.cross_entropy(maps, labels, ignore_index=IGNORE)


def step(loss: Callable[..., torch.Tensor], size: Size, device: str) -> Callable[[], None]:
    generator = torch.Generator().manual_seed(SEED)
    shape = (size.batch, size.classes, size.rows, size.cols)
    logits = torch.randn(shape, generator=generator).to(device).requires_grad_()
    shown = (size.batch, STRIDE * size.rows, STRIDE * size.cols)
    labels = torch.randint(IGNORE, size.classes, shown, generator=generator).to(device)

    def run() -> None:
        logits.grad = None
        loss(logits, labels).backward()

    return run


def main() -> None:
    flags = parser("task", __doc__, ["4x64x64x150x1", "4x64x128x19x1"])
    chosen = flags.parse_args()
    torch.set_num_threads(chosen.threads)
    losses = {"enlarged": enlarged, "in tiles": cross_entropy}
    if chosen.device == "cuda":
        losses["Triton"] = lambda *maps: cross_entropy(*maps, triton=True)
    losses["in tiles, hardest pixels"] = lambda *maps: cross_entropy(*maps, hardest=0.7)
    runs = []
    for size in chosen.sizes:
        variants = {name: step(loss, size, chosen.device) for name, loss in losses.items()}
        runs.append((size, measure(variants, chosen.device, chosen.repeats, "enlarged")))
    report("task", chosen, "enlarged", runs)


if __name__ == "__main__":
    main()
