"""Stored answers: size, fidelity, and the cost of a training step with them.

    python benchmarks/answers.py --teacher runs/teacher --data path/to/data --student pspnet

Fidelity is measured on validation images, each format against the network's own output on the same
grid: KL divergence in nats, averaged over positions, and mIoU at full resolution. The step loads,
augments, runs the teacher or looks up its answer, and trains the student; all variants alternate.
"""

import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import yaml

from common import SEED, environment, measure, parser
from fakd import load, models
from fakd.answers import Encoding, Store
from fakd.data import (
    Batch,
    SegmentationData,
    cache_in_memory,
    evaluation_samples,
    open_data,
    training_batches,
)
from fakd.inference import score, to_unit
from fakd.losses import PixelKL
from fakd.metrics import Scores, confusion_matrix
from fakd.settings import Augmentation, Hardware, Inference, Optimizer, Task
from fakd.training.answering import Answering, manifest, records
from fakd.training.objective import Distillation, Supervised
from fakd.training.optimizer import build_optimizer
from fakd.training.start import start
from fakd.training.task import TaskLoss
from fakd.training.teacher import NetworkTeacher, StoredTeacher, Teacher

FORMATS = {
    "float16": Encoding("float16"),
    "int8": Encoding("int8"),
    "topk, k = 5": Encoding("topk", 5),
    "topk, k = 3": Encoding("topk", 3),
    "topk, k = 1": Encoding("topk", 1),
}


def confusion(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    found = F.interpolate(logits[None], labels.shape, mode="bilinear").argmax(1)[0]
    return confusion_matrix(found, labels, len(logits))


def fidelity(data: SegmentationData, answering: Answering, classes: int, images: int) -> Any:
    matrices = {
        name: torch.zeros(classes, classes, dtype=torch.long) for name in ("live", *FORMATS)
    }
    sums = {name: {"bytes": 0.0, "kl": 0.0, "encode_s": 0.0, "decode_s": 0.0} for name in FORMATS}
    count = min(images, len(data.val))
    for sample in evaluation_samples(data.val, indices=range(count)):
        logits = answering(sample.image[None])[0].logits

        live = torch.from_numpy(logits)
        matrices["live"] += confusion(live, sample.labels)
        for name, encoding in FORMATS.items():
            began = time.perf_counter()
            written = encoding.encode(logits)
            middle = time.perf_counter()
            found = torch.from_numpy(encoding.decode(written, logits.shape))
            sums[name]["encode_s"] += middle - began
            sums[name]["decode_s"] += time.perf_counter() - middle
            sums[name]["bytes"] += len(written)
            log, other = live.log_softmax(0), found.log_softmax(0)
            sums[name]["kl"] += float((log.exp() * (log - other)).sum(0).mean())
            matrices[name] += confusion(found, sample.labels)
    scores = {name: 100 * Scores.from_matrix(each).miou for name, each in matrices.items()}
    results = {
        name: {key: value / count for key, value in each.items()} | {"miou": scores[name]}
        for name, each in sums.items()
    }
    return {"live_miou": scores["live"], "grid": list(logits.shape), "images": count} | results


def step(
    data: SegmentationData,
    augmentation: Augmentation,
    spec: dict[str, Any],
    teacher: Teacher | None,
    batch: int,
) -> Callable[[], None]:
    torch.manual_seed(SEED)
    student = getattr(models, spec.pop("builder"))(classes=data.classes, **spec)
    task = TaskLoss(Task(), data.classes)
    objective = Supervised(task)
    if teacher is not None:
        objective = Distillation(teacher.network, student, PixelKL(), task)
    optimizer = build_optimizer(Optimizer().settled(), student)
    (train,) = cache_in_memory([data.train], Hardware())
    lookup = None if teacher is None else teacher.lookup
    given = (train, augmentation, batch, SEED, 0, 10**6)
    batches: Iterator[Batch] = iter(training_batches(*given, lookup=lookup))

    def run() -> None:
        shown = next(batches)
        images = to_unit(shown.images)
        answer = None if teacher is None else teacher.answer(images, shown)
        terms = objective(student(images), shown.labels, shown.labelled, 0.5, answer).terms
        optimizer.zero_grad(set_to_none=True)
        torch.stack(list(terms.values())).sum().backward()
        optimizer.step()

    return run


def main() -> None:
    flags = parser("answers", __doc__, [])
    flags.add_argument("--teacher", required=True)
    flags.add_argument("--data", required=True)
    flags.add_argument("--student", type=yaml.safe_load, default="{builder: pspnet}")
    flags.add_argument("--images", type=int, default=101)
    flags.add_argument("--crop", type=int, default=96)
    flags.add_argument("--batch", type=int, default=8)
    flags.add_argument("--scale", type=float, default=0.4, help="scale of the images")
    given = flags.parse_args()
    torch.set_num_threads(given.threads)
    hardware = Hardware(accelerator="cpu", channels_last=False)
    data, fabric = open_data(given.data), start(hardware, SEED)
    live = NetworkTeacher(load(given.teacher), fabric, hardware)
    inference = Inference(scale=given.scale)
    answering = Answering(live, inference, None, False, data.train[0].image)
    results: dict[str, Any] = {"fidelity": fidelity(data, answering, data.classes, given.images)}
    some = evaluation_samples(data.val, indices=range(min(given.images, len(data.val))))
    pairs = ((sample.image, sample.labels) for sample in some)
    matrix = score(live.network, pairs, inference, fabric.device)
    results["fidelity"]["network_miou"] = 100 * Scores.from_matrix(matrix).miou
    print(json.dumps(results, indent=1), flush=True)
    augmentation = Augmentation((given.crop, given.crop), (given.scale / 2, given.scale * 1.5))
    with tempfile.TemporaryDirectory() as folder:
        content = manifest(live, data, answering, FORMATS["int8"], inference, 64)
        store = Store.begin(Path(folder) / "answers", content)
        for part, number in store.unwritten():
            store.write(part, number, records(answering, data, part, store.indices(part, number)))
        teachers = {"alone": None, "live": live, "stored": StoredTeacher(store, data, fabric)}
        variants = {
            name: step(data, augmentation, dict(given.student), each, given.batch)
            for name, each in teachers.items()
        }
        results["step"] = measure(variants, "cpu", given.repeats, "alone")
    record = {"benchmark": "answers", "environment": environment("cpu"), **results}
    given.out.write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps(results["step"], indent=1))


if __name__ == "__main__":
    main()
