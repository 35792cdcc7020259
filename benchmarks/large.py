"""Memory and time of predicting the classes of one large image, in windows or whole.

    python benchmarks/large.py 3 4000 6000 --window 1024

Arguments are classes, height and width. Memory is the growth of the process beyond the network and
the image's bytes; compare two versions of fakd by setting PYTHONPATH.
"""

import argparse
import resource
import time

import torch

from fakd.inference import predict_classes
from fakd.models import pspnet
from fakd.settings import Inference

parser = argparse.ArgumentParser(description=__doc__)
for name in ("classes", "height", "width"):
    parser.add_argument(name, type=int)
parser.add_argument("--window", type=int)
parser.add_argument("--scale", type=float, default=1.0)
given = parser.parse_args()

torch.set_num_threads(1)
torch.manual_seed(0)
network = pspnet("mobilenetv3_small_050", given.classes, channels=64).eval()
image = torch.randint(0, 256, (1, 3, given.height, given.width), dtype=torch.uint8)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
start = time.perf_counter()
predict_classes(network, image, Inference(window=given.window, scale=given.scale))
seconds = time.perf_counter() - start
grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
print(f"{seconds:.1f} s, {grown:.0f} MB")
