"""`fakd export`: a network as a file for deployment, with a check of its accuracy."""

from pathlib import Path
from typing import Any

import fakd
from fakd.console import open_console, remark
from fakd.errors import InputError
from fakd.exporting.kinds import Input, Order, Output, Precision, Target
from fakd.files import expand_user
from fakd.settings import InferenceOverrides
from fakd.sources import REJECTED
from fakd.training.progress import StepProgress


def export(
    network: "fakd.Segmenter | str | Path | Any",
    to: Target = "onnx",
    data: "fakd.data.SegmentationData | str | Path | None" = None,
    out: Path | None = None,
    input: Input = "uint8",
    order: Order = "rgb",
    output: Output = "classes",
    size: tuple[int, int] | None = None,
    batch: int = 1,
    precision: Precision = "fp32",
    tolerance: float = 0.1,
    images: int | None = None,
    calibration: int = 32,
    opset: int | None = None,
    inference: InferenceOverrides = None,
    licence: str | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Export a network to a file for a device, and verify that the file is as good.

    The file is run in its own runtime on the validation images. If it loses more mIoU than the
    tolerance, it is renamed to ``.rejected`` and the exit code is 1. With it come ``run.py``, which
    does not need fakd, and ``card.md`` with the scores.

    Args:
        network: a finished run, a weight file, or any network.
        to: the runtime: onnx, torch (torch.export), or openvino.
        data: the data whose validation images decide; by default those of the run.
        out: folder to write to; by default next to the run's weights, named after runtime and
            precision.
        input: what the file takes: uint8, unit (values in [0, 1]) or normalised (by the caller).
        order: channel order of the input, rgb or bgr.
        output: classes (a map of ids at the image's size), logits or probabilities.
        size: fixed height and width of the input; by default any, if the network can be exported
            that way, else those of the first validation image.
        batch: fixed batch size; 0 for any.
        precision: fp32, fp16, or int8: static quantisation, with layers left in float where needed.
        tolerance: points of mIoU that the file may lose.
        images: how many validation images are tested, evenly spaced; by default all.
        calibration: how many training images are used for INT8 calibration.
        opset: ONNX opset; by default the exporter's own.
        inference: how images are resized, which becomes part of the file; by default as in the
            network's training.
        licence: licence of the weights and the data, written into the file.
        overwrite: replace an export that is already there.

    Returns:
        The file's metadata and the result of the check, whether it ``holds``, and the ``path``.

    Raises:
        InputError: the network cannot be exported in this way, or there are no data for the check.
    """
    # Imported here to keep `fakd export --help` fast.
    from fakd.exporting.program import Form, exportable_inference
    from fakd.exporting.shipping import ExportSettings, export_and_verify, refuse_present
    from fakd.exporting.writing import require_target
    from fakd.inference import resolve_inference
    from fakd.inspection.readiness import require_labels
    from fakd.training.validation import require_class_order, require_same_classes

    for given, least in ((batch, 0), (images, 1), (calibration, 1), (tolerance, 0)):
        if given is not None and not given >= least:
            raise InputError(
                f"expected --images and --calibration of at least 1, --batch and --tolerance of at "
                f"least 0, got {given}"
            )
    require_target(to)
    if precision != "fp32" and to == "torch":
        raise InputError(f"--precision {precision} is for --to onnx and openvino; leave it out")
    network = fakd.models.open_network(network).eval().cpu()
    word = _loaded_path(network)
    data = _open_run_data(word) if data is None else fakd.data.open_data(data)
    require_same_classes(network, data)
    require_class_order(network, data)
    require_labels(data, ["val"])
    network.class_names, network.palette = data.class_names, data.palette
    shown = exportable_inference(full := resolve_inference(network, inference))
    console = open_console()
    if full.window or full.averages:
        remark(console, "a file cannot contain windows, flips or several scales: left out")
    out = None if out is None else expand_user(out)
    run = Path(word).absolute().name if word else type(network).__name__.lower()
    name = run.removesuffix(".safetensors")
    if out is None:
        if word is None or not Path(word).exists():
            raise InputError("give the folder to write to with --out")
        beside = Path(word) if Path(word).is_dir() else Path(word).parent
        out = beside / (to if precision == "fp32" else f"{to}-{precision}")
    refuse_present(out, name, to, overwrite)
    _, height, width = data.val[0].image.shape
    if shown.base is not None:
        size = size or (height, width)
    form = Form(input, order, output, size, batch or None, shown)
    wanted = ExportSettings(
        to, form, precision, tolerance, images, (height, width), opset, calibration
    )
    facts = {"run": run, "data": data.name, "licence": licence}
    total = min(images or len(data.val), len(data.val))
    with StepProgress(console, "checking", total) as display:
        made = export_and_verify(
            network, data, shown, wanted, out, name, word, facts, display.advance
        )
    if made["size"] and form.size is None:
        remark(console, f"export with a variable size failed: the file takes {height} x {width}")
    console.print(made["verdict"], soft_wrap=True)
    if made["float_layers"]:
        console.print(f"left in float: {', '.join(made['float_layers'])}", soft_wrap=True)
    rejected = made["path"].endswith(REJECTED)
    others = f"card.md{REJECTED}" if rejected else "card.md and run.py"
    console.print(f"written to {made['path']}, with {others}", soft_wrap=True)
    return made


def _loaded_path(network: "fakd.Segmenter") -> str | None:
    """Return the path that the network was loaded from, if any."""
    origin = network.origin or {}
    loaded = origin.get("class_path", "").startswith("fakd.models.load")
    path: str | None = origin["init_args"].get("path") if loaded else None
    return path


def _open_run_data(word: str | None) -> "fakd.data.SegmentationData":
    """Open the data of the network's run."""
    from fakd.report.examination import open_data_of
    from fakd.runs.reading import read_run

    if word is None or not Path(word).is_dir():
        raise InputError("give labelled images with --data; the file is checked on its val images")
    return open_data_of(read_run(word))
