"""Dependence of opening, first batch, resuming, memory and step on the number of images.

Each data set is created once in its own folder (tiny PNG files without labels, a thousand per
folder, or the same in tar shards), then opened in a new process. Listing is timed twice: without
and with the cache (docs/data.md, The cache of listings). Run it with ``python benchmarks/scale.py
--folder path/to/scratch --images 10000 100000 1000000``.
"""

import argparse
import io
import json
import os
import resource
import statistics
import subprocess
import sys
import tarfile
import time
from pathlib import Path

from PIL import Image

BATCH, STEPS = 8, 50
IN_SHARD = 10_000


def png(side, shade=0):
    file = io.BytesIO()
    Image.new("RGB", (side, side), (shade, 64, 128)).save(file, "PNG")
    return file.getvalue()


def make(root, count, kind):
    """Write a data set of ``count`` images without labels, and four with."""
    if (root / "dataset.yaml").is_file():
        return
    for split in ("train", "val"):
        for name in ("images", "masks"):
            (root / split / name).mkdir(parents=True, exist_ok=True)
        for number in range(4):
            (root / split / "images" / f"{split}{number}.png").write_bytes(png(24, number))
            Image.new("L", (24, 24), number % 2).save(
                root / split / "masks" / f"{split}{number}.png"
            )
    more, content = root / "more", png(16)
    if kind == "files":
        for first in range(0, count, 1000):
            folder = more / f"{first // 1000:06d}"
            folder.mkdir(parents=True, exist_ok=True)
            for number in range(first, min(first + 1000, count)):
                (folder / f"{number:08d}.png").write_bytes(content)
    else:
        more.mkdir(exist_ok=True)
        for first in range(0, count, IN_SHARD):
            with tarfile.open(more / f"{first // IN_SHARD:06d}.tar", "w") as shard:
                for number in range(first, min(first + IN_SHARD, count)):
                    entry = tarfile.TarInfo(f"{number:08d}.png")
                    entry.size = len(content)
                    shard.addfile(entry, io.BytesIO(content))
    named = "more" if kind == "files" else "more/*.tar"
    (root / "dataset.yaml").write_text(f"classes: [a, b]\nunlabelled: {named}\n")


def measure(root):
    """Open a data set in this process; print one line of JSON."""
    from fakd.data import Augmentation, folder, training_batches

    def memory():
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    before, found = memory(), {}
    clock, cpu = time.perf_counter(), time.process_time()

    def lap(name):
        nonlocal clock, cpu
        found[name] = time.perf_counter() - clock, time.process_time() - cpu
        clock, cpu = time.perf_counter(), time.process_time()

    data = folder(root)
    lap("open")
    data.fingerprint()
    lap("fingerprint")
    crop = Augmentation(crop=(16, 16))

    def batches(first):
        return training_batches(data.train, crop, BATCH, 0, first, 10**6, unlabelled_share=0.5)

    running = batches(0)
    next(running)
    lap("first batch")
    steps = []
    for _ in range(STEPS):
        next(running)
        lap("step")
        steps.append(found["step"])
    found["step"] = tuple(statistics.median(each) for each in zip(*steps, strict=True))
    running.close()
    next(batches(500_000))
    lap("resumed batch")
    found["resident"] = memory() - before
    found["peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before
    print(json.dumps(found))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--images", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--kinds", nargs="+", default=["files", "tar"])
    parser.add_argument("--measure", type=Path)
    given = parser.parse_args()
    if given.measure is not None:
        measure(given.measure)
        return
    names = ("open", "fingerprint", "first batch", "resumed batch", "step")
    print(
        "| images | kind | listing |", *(f"{name} (CPU) |" for name in names), "resident | peak |"
    )
    for kind in given.kinds:
        for count in given.images:
            root = given.folder / f"{kind}-{count}"
            make(root, count, kind)
            cache = given.folder / f"cache-{kind}-{count}"
            for listing in ("new", "remembered"):
                environment = os.environ | {"FAKD_CACHE": str(cache)}
                command = [sys.executable, __file__, "--folder", ".", "--measure", str(root)]
                ran = subprocess.run(command, env=environment, capture_output=True, check=True)
                found = json.loads(ran.stdout.splitlines()[-1])
                times = (f"{found[each][0]:.3g} s ({found[each][1]:.3g})" for each in names)
                sizes = (f"{found[each]:.0f} MiB" for each in ("resident", "peak"))
                row = [f"{count:,}", kind, listing, *times, *sizes]
                print("|", " | ".join(row), "|", flush=True)


if __name__ == "__main__":
    main()
