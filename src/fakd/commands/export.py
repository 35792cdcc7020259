"""`fakd export`: a file for a device, and the guarantee that it is as good as the student."""

from pathlib import Path
from typing import Any

import fakd
from fakd.console import open_console, remark
from fakd.errors import InputError
from fakd.exporting.kinds import Input, Order, Output, Precision, Target
from fakd.files import expanded
from fakd.settings import Inference
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
    inference: Inference = Inference(),
    licence: str | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write a network as a file for a device, and make sure that the file is as good.

    The file is run by its own runtime over the validation images. If it loses more mIoU than the
    tolerance it is named ``.rejected`` and the exit code is 1. Beside it lie ``run.py``, which
    needs no fakd, and ``card.md`` with the numbers.

    Args:
        network: a finished run, a weight file, or any network.
        to: the runtime: onnx, torch (torch.export), or openvino.
        data: whose validation images decide; those of the run if not given.
        out: folder to write to; beside the run's weights, named after runtime and precision, if
            not given.
        input: what the file takes: uint8, unit (values in [0, 1]) or normalised (by others).
        order: of the channels that it takes, rgb or bgr.
        output: classes (a map of ids at the image's size), logits or probabilities.
        size: height and width of its images; any if not given, where the network can be exported
            so, else those of the first validation image.
        batch: how many images it takes at a time; 0 for any number.
        precision: fp32, fp16, or int8: static quantisation, with layers left in float where needed.
        tolerance: points of mIoU that the file may lose.
        images: how many validation images are tried, evenly over the set; all if not given.
        calibration: how many training images INT8 is calibrated with.
        opset: of ONNX; the exporter's own if not given.
        inference: how images are resized, which becomes part of the file; as in the network's
            training if not given.
        licence: what holds for the weights and the data, written into the file.
        overwrite: replace an export that is already there.

    Returns:
        What the file's metadata and the guarantee say, whether it ``holds``, and the ``path``.

    Raises:
        InputError: the network cannot be exported so, or there are no data to try it with.
    """
    # Imported here because `fakd export --help` need not wait for it.
    from fakd.exporting.program import Form, exportable_inference
    from fakd.exporting.shipping import Wanted, refuse_present, ship
    from fakd.exporting.writing import require_target
    from fakd.inference import trained_inference
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
    word = _word(network)
    data = _data_of(word) if data is None else fakd.data.open_data(data)
    require_same_classes(network, data)
    require_class_order(network, data)
    require_labels(data, ["val"])
    network.class_names, network.palette = data.class_names, data.palette
    if inference == Inference():
        inference = trained_inference(network)
    shown = exportable_inference(inference)
    console = open_console()
    if inference.window or inference.averages:
        remark(console, "windows, mirrored and several sizes are no part of a file: left out")
    out = None if out is None else expanded(out)
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
    wanted = Wanted(to, form, precision, tolerance, images, (height, width), opset, calibration)
    facts = {"run": run, "data": data.name, "licence": licence}
    total = min(images or len(data.val), len(data.val))
    with StepProgress(console, "checking", total) as display:
        made = ship(network, data, shown, wanted, out, name, word, facts, display.advance)
    if made["size"] and form.size is None:
        remark(console, f"no exporter can do any size: the file takes {height} x {width} only")
    console.print(made["verdict"], soft_wrap=True)
    if made["float_layers"]:
        console.print(f"left in float: {', '.join(made['float_layers'])}", soft_wrap=True)
    console.print(f"written to {made['path']}, with its card beside it", soft_wrap=True)
    return made


def _word(network: "fakd.Segmenter") -> str | None:
    """Find the path that the network was loaded from."""
    origin = network.origin or {}
    loaded = origin.get("class_path", "").startswith("fakd.models.load")
    path: str | None = origin["init_args"].get("path") if loaded else None
    return path


def _data_of(word: str | None) -> "fakd.data.SegmentationData":
    """Open the data of the run that the network is of."""
    from fakd.report.examination import open_data_of
    from fakd.runs.reading import read_run

    if word is None or not Path(word).is_dir():
        raise InputError("give labelled images with --data; the file is tried on its val images")
    return open_data_of(read_run(word))
