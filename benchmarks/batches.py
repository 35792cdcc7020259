"""Cost of scoring images in batches, as ``--inference.batch_size`` does, against one by one.

An untrained PSPNet-ResNet-18 at output stride 8 and a half-width MobileNetV3-small, from 8-bit
images to the confusion matrix. A size is images, height, width, classes, and channels of the head.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from common import SEED, Size, measure, parser, report
from fakd.inference import score
from fakd.models import pspnet
from fakd.settings import Inference

BACKBONES = ("mobilenetv3_small_050", "resnet18")
COUNTS = (1, 2, 4, 8)


def variants(size: Size, device: str) -> dict[str, Callable[[], Any]]:
    """Build each way of scoring the same images with each network."""
    torch.manual_seed(SEED)
    images = torch.randint(0, 256, (size.batch, 3, size.rows, size.cols), dtype=torch.uint8)
    patches = torch.randint(size.classes, (size.batch, 1, 3, 4)).float()
    labels = F.interpolate(patches, images.shape[-2:])[:, 0].short()
    ways: dict[str, Callable[[], Any]] = {}
    for backbone in BACKBONES:
        network = pspnet(backbone, size.classes, channels=size.channels).to(device).eval()

        def scored(count: int, network: Any = network) -> Any:
            pairs = zip(images, labels, strict=True)
            return score(network, pairs, Inference(batch_size=count), torch.device(device))

        alone = scored(1)
        for count in COUNTS:
            if (scored(count) - alone).abs().sum() > 1e-4 * labels.numel():
                raise RuntimeError(f"batches of {count} give other scores; fix that first")
            ways[f"{backbone}, {count}"] = lambda count=count, scored=scored: scored(count)
    return ways


def main() -> None:
    flags = parser("batches", __doc__, ["8x96x128x12x64", "8x360x480x12x64"])
    chosen = flags.parse_args()
    torch.set_num_threads(chosen.threads)
    reference = f"{BACKBONES[0]}, 1"
    runs = []
    for size in chosen.sizes:
        ways = variants(size, chosen.device)
        runs.append((size, measure(ways, chosen.device, chosen.repeats, reference)))
    report("batches", chosen, reference, runs)


if __name__ == "__main__":
    main()
