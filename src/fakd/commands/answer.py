"""`fakd answer`: run a teacher once on every image, and store its answers."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

import fakd
from fakd.answers.encoding import Format
from fakd.comparing.cell import Cell, run
from fakd.comparing.engines import Place, open_engine
from fakd.console import open_console, remark
from fakd.errors import InputError, count_noun
from fakd.files import expand_user
from fakd.runs.locks import lock
from fakd.settings import Hardware, InferenceOverrides
from fakd.training.progress import StepProgress

if TYPE_CHECKING:
    from fakd.answers.store import Record, Store
    from fakd.training.answering import Answering

_TRIED = 3
"""Number of images timed before the start."""
_POLL = 0.5
"""In seconds."""


def answer(
    teacher: "fakd.Segmenter | fakd.answers.Source | str | Path",
    data: "fakd.data.SegmentationData | str | Path",
    out: Path,
    format: Format = "int8",
    k: int = 5,
    features: bool = False,
    stride: int | None = None,
    inference: InferenceOverrides = None,
    hardware: Hardware = Hardware(),
    batch_size: int = 1,
    shard: int = 64,
    on: Place = "local",
    parallel: int | None = None,
    cluster: dict | None = None,
) -> dict[str, Any]:
    """Run a teacher once on every image and store its logits, for fakd distill --teacher OUT.

    The same command resumes after an interruption, which loses only the current shard. Several
    copies, on any machines that see the folder, share the work.

    Args:
        teacher: a finished run or weight file, or any network with its weights.
        data: images: a folder, a .yaml file, or "scenes" for the built-in data.
        out: folder of the stored answers.
        format: how logits are stored: in 16 bits (float16), in 8 (int8), or the most likely classes
            of each position and the remaining probability mass (topk).
        k: how many classes topk keeps.
        features: also store the final classifier's input, for losses on features.
        stride: image pixels per stored position, in each direction; by default the network's own
            grid.
        inference: how images are shown to the teacher: whole, in windows, flipped, at several
            scales; by default as in its training.
        hardware: where and how to compute.
        batch_size: images of one size per forward pass.
        shard: images per file, which is written whole or not at all.
        on: this machine, a Ray cluster, or SLURM; used with parallel.
        parallel: processes, tasks or jobs that share the work; by default this process alone.
        cluster: configuration of Ray (ray.init) or SLURM (submitit), such as {slurm_partition:
            gpu}.

    Returns:
        The numbers of images, bytes and shards stored, and of shards left.

    Raises:
        ChildProcessError: a process has failed, and shards are left.
    """
    # Imported here to keep `fakd answer --help` fast.
    from fakd.answers.encoding import Encoding
    from fakd.answers.store import Store
    from fakd.inference import inference_remark, resolve_inference
    from fakd.runs.recipe import recipe_of
    from fakd.training.answering import Answering, manifest
    from fakd.training.start import start
    from fakd.training.teacher import NetworkTeacher, open_teacher

    if min(batch_size, shard, k, parallel or 1) < 1:
        raise InputError("expected --batch_size, --shard, --k and --parallel of at least 1")
    if hardware.devices > 1:
        raise InputError("--hardware.devices must be 1 here; share the work with --parallel")
    if on != "local" and parallel is None:
        raise InputError(f"--on {on} needs --parallel, the number of tasks that share the work")
    data, teacher = fakd.data.open_data(data), open_teacher(teacher)
    if not isinstance(teacher, fakd.Segmenter):
        raise InputError(
            "fakd answer needs a single network as teacher; other sources are for fakd distill"
        )
    if format == "topk" and k >= teacher.classes:
        raise InputError(f"expected --k below the teacher's {teacher.classes} classes, got {k}")
    out = expand_user(out)
    inference = resolve_inference(teacher, inference)
    recipe = recipe_of(answer, locals())
    fabric = start(hardware, 0)
    asked = NetworkTeacher(teacher, fabric, hardware)
    first = data.train[0].image
    answering = Answering(asked, inference, stride, features, first)
    encoding = Encoding(format, k)
    content = manifest(asked, data, answering, encoding, inference, shard)
    store = Store.begin(out, content)
    store.require_same_images(data)
    console = open_console()
    if note := inference_remark(teacher, inference):
        remark(console, note)
    if store.unwritten():
        _announce(console, store, answering, data, batch_size, parallel or 1)
    if parallel is None:
        _fill(console, store, answering, data, batch_size, hardware.workers)
    else:
        recipe |= {"on": "local", "parallel": None, "cluster": None}
        _distribute(console, store, recipe, on, hardware, parallel, cluster or {})
    left = len(store.unwritten())
    done = [store.path(*each) for each in store.shards() if store.path(*each).is_file()]
    size = sum(path.stat().st_size for path in done)
    images = sum(len(store.indices(*each)) for each in store.shards())
    others = f"; {left} shards are left, which other processes work on" if left else ""
    console.print(
        f"{out}: {count_noun(images, 'image')}, {size / 1e6:.1f} MB{others}", soft_wrap=True
    )
    return {"images": images, "bytes": size, "shards": len(done), "left": left}


def _announce(
    console: Console,
    store: "Store",
    answering: "Answering",
    data: "fakd.data.SegmentationData",
    batch_size: int,
    processes: int,
) -> None:
    """Estimate size and time of the remaining images from a few."""
    from fakd.training.answering import mean_encoded_size, records

    part, number = store.unwritten()[0]
    tried = store.indices(part, number)[:_TRIED]
    list(records(answering, data, part, tried[:1]))
    began = time.monotonic()
    found = list(records(answering, data, part, tried, batch_size))
    each, size = (time.monotonic() - began) / len(tried), mean_encoded_size(store, found)
    count = sum(len(store.indices(*shard)) for shard in store.unwritten())
    rows, cols = found[0].maps.logits.shape[1:]
    console.print(
        f"{count} images to process, on grids of about {rows}x{cols}: {size / 1e3:.1f} kB each, "
        f"{size * count / 1e6:.1f} MB; {each:.2f} s each, about "
        f"{each * count / 60 / processes:.1f} min in {processes} process"
        f"{'es' if processes > 1 else ''}",
        soft_wrap=True,
    )


def _fill(
    console: Console,
    store: "Store",
    answering: "Answering",
    data: "fakd.data.SegmentationData",
    batch_size: int,
    workers: int,
) -> None:
    """Write the remaining shards, except those that another process is writing."""
    from fakd.training.answering import records

    left = store.unwritten()
    done, total = 0, sum(len(store.indices(*each)) for each in left)
    with StepProgress(console, "answer", total) as display:
        for part, number in left:
            indices, path = store.indices(part, number), store.path(part, number)
            claim = store.folder / "locks" / f"{part}-{number}"
            with lock(claim) as held:
                if held is not None:
                    if not path.is_file():
                        found = records(answering, data, part, indices, batch_size, workers)
                        store.write(part, number, _with_progress(found, display, done))
                    claim.unlink(missing_ok=True)
            done += len(indices)
    with suppress(OSError):
        (store.folder / "locks").rmdir()


def _with_progress(
    found: "Iterable[Record]", display: StepProgress, done: int
) -> "Iterator[Record]":
    for count, record in enumerate(found, done + 1):
        yield record
        display.show(count, {})


def _run_worker(
    cell: Cell, environment: Mapping[str, str], stop: Callable[[], bool] = lambda: False
) -> None:
    """Run one worker process, and record why it failed."""
    with lock(cell.sibling(".lock")) as held:
        ending = "another command runs it" if held is None else run(cell, held, environment, stop)
    if ending and not ending.startswith("exit code 0"):
        cell.record_failure(ending)


def _distribute(
    console: Console,
    store: "Store",
    recipe: Mapping[str, Any],
    on: Place,
    hardware: Hardware,
    parallel: int,
    cluster: Mapping[str, Any],
) -> None:
    """Divide the work over several processes, and show their progress."""
    folder = store.folder / "workers"
    cells = [Cell("answer", folder / f"{n}", recipe, f"process {n}") for n in range(parallel)]
    engine = open_engine(on, hardware, parallel, cluster, str(folder))
    total = len(store.unwritten())
    try:
        tasks = [engine.submit(_run_worker, cell) for cell in cells]
        with StepProgress(console, "answer (shards)", total) as display:
            while not all(task.done() for task in tasks):
                display.show(total - len(store.unwritten()), {})
                time.sleep(_POLL)
        for task in tasks:
            task.result()
    except BaseException:
        engine.stop()
        raise
    engine.close()
    failed = [cell for cell in cells if cell.failure]
    if failed and store.unwritten():
        raise ChildProcessError(
            f"{len(failed)} of {parallel} processes failed, the first with {failed[0].failure}; "
            f"{len(store.unwritten())} of {len(store.shards())} shards are left; the same command "
            "resumes"
        )
