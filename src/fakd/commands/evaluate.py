"""`fakd evaluate`: score a network on labelled images."""

import json
from pathlib import Path
from typing import Any, Literal

import fakd
from fakd.console import open_console, remark
from fakd.errors import InputError, count_noun, require_kinds
from fakd.files import write_text
from fakd.settings import InferenceOverrides
from fakd.training.progress import StepProgress


def evaluate(
    network: "fakd.Segmenter | str | Path | Any",
    data: "fakd.data.SegmentationData | str | Path",
    split: Literal["train", "val", "test"] = "val",
    inference: InferenceOverrides = None,
    out: Path | None = None,
    accelerator: str = "auto",
    workers: int = 0,
) -> dict[str, Any]:
    """Score a network on labelled images: mIoU, mAcc, aAcc and every class.

    All scores come from one confusion matrix over the whole set. Classes that do not occur in the
    labels are left out of the means.

    Args:
        network: a finished run, a weight file, or any network.
        data: labelled images: a folder, a .yaml file, or "scenes" for the built-in data.
        split: which part of the data; make no choices by scores on test.
        inference: how images are shown to the network; as in its training, but for what is given.
        out: a JSON file to write the scores to; an existing one is replaced.
        accelerator: cpu, cuda, mps, or auto for the best available.
        workers: processes that decode images.

    Returns:
        The scores in percent, as in the JSON file.
    """
    require_kinds(evaluate, locals())
    # Imported here to keep `fakd evaluate --help` fast.
    from fakd.inference import inference_remark, resolve_inference, score
    from fakd.inspection.readiness import require_labels
    from fakd.report.table import class_table
    from fakd.training.start import announce, pick_device
    from fakd.training.validation import require_class_order, require_same_classes
    from fakd.training.wiring import compare_class_names

    network = fakd.models.open_network(network)
    data = fakd.data.open_data(data)
    require_same_classes(network, data)
    require_class_order(network, data)
    part = data.split(split)
    doubts = require_labels(data, [split])
    if out is not None and out.suffix.lower() != ".json":
        raise InputError(f"--out must end in .json, got {out}; name it {out.with_suffix('.json')}")
    if out is not None and not out.parent.is_dir():
        raise InputError(f"the folder of --out {out} does not exist; create it first")
    inference = resolve_inference(network, inference)
    device = pick_device(accelerator)
    console = open_console()
    announce(console, data, inference, doubts, network=network)
    if note := inference_remark(network, inference):
        remark(console, note)
    with StepProgress(console, "evaluate", len(part)) as display:

        def pairs() -> Any:
            for done, sample in enumerate(fakd.data.evaluation_samples(part, workers=workers)):
                yield sample.image, sample.labels
                display.advance(done + 1)

        matrix = score(network.to(device), pairs(), inference, device)
    scores = fakd.metrics.Scores.from_matrix(matrix)
    result = {"data": data.name, "split": split, "images": len(part)}
    result["inference"] = inference.views()
    result |= scores.as_dict(data.class_names)
    # Written before printing, which may fail.
    if out is not None:
        write_text(out, json.dumps(result, indent=2) + "\n")
    console.print(class_table(scores, data.class_names))
    compare_class_names(console, "network", network, data)
    console.print(
        f"mIoU {100 * scores.miou:.2f}   mAcc {100 * scores.macc:.2f}   "
        f"aAcc {100 * scores.pixel_accuracy:.2f}   "
        f"({count_noun(len(part), 'image')} of {data.name}, {split})"
    )
    if out is not None:
        console.print(f"written to {out}", soft_wrap=True)
    return result
