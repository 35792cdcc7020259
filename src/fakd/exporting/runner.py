"""Files that accompany an exported network: run.py, which does not need fakd, and card.md."""

from typing import Any

from fakd.exporting.kinds import Target

_RUNTIMES: dict[Target, tuple[str, str]] = {
    "onnx": (
        "import onnxruntime",
        """session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    told = json.loads(session.get_modelmeta().custom_metadata_map["fakd"])
    return told, lambda images: session.run(None, {"images": images})[0]""",
    ),
    "openvino": (
        "import openvino",
        """model = openvino.Core().read_model(path)
    told = json.loads(model.get_rt_info(["fakd"]).value)
    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(model, "CPU", exact)
    return told, lambda images: compiled(images)[0]""",
    ),
    "torch": (
        "import torch",
        """beside = {"fakd": ""}
    module = torch.export.load(path, extra_files=beside).module()
    return json.loads(beside["fakd"]), lambda images: module(torch.from_numpy(images)).numpy()""",
    ),
}
_TEXT = '''\
"""Segment an image: python run.py IMAGE MASK.png [{name}]

Needs {needs}; written by fakd export, and yours to change.
"""

import json
import sys
from pathlib import Path

import numpy as np
{imported}
from PIL import Image, ImageOps


def open_network(path):
    """Return the file's metadata, and a function from images to its output."""
    {opened}


def segment(image, told, answer):
    """Return the class ids of a Pillow image, at its height and width."""
    size = image.size
    if told["size"] and size != tuple(told["size"][::-1]):
        image = image.resize(told["size"][::-1], Image.Resampling.BILINEAR)
    images = np.asarray(image).transpose(2, 0, 1)[None]
    if told["input"] != "uint8":
        images = images.astype(np.float32) / 255
    if told["input"] == "normalised":
        mean, std = (np.array(told[key], np.float32)[:, None, None] for key in ("mean", "std"))
        images = (images - mean) / std
    images = images[:, ::-1] if told["order"] == "bgr" else images
    answers = answer(np.repeat(np.ascontiguousarray(images), told["batch"] or 1, axis=0))
    ids = answers[0] if told["output"] == "classes" else answers[0].argmax(0).astype(np.int32)
    return np.asarray(Image.fromarray(ids).resize(size, Image.Resampling.NEAREST))


def main(source, target, path=Path(__file__).with_name("{name}")):
    """Write the mask: class ids, with the classes' colours as palette."""
    told, answer = open_network(str(path))
    if (image := Image.open(source)).mode[0] in "IF":
        raise ValueError(f"{{source}} has more than 8 bits, which this script cannot convert")
    ids = segment(ImageOps.exif_transpose(image).convert("RGB"), told, answer)
    mask = Image.fromarray(ids.astype(np.uint16 if told["classes"] > 256 else np.uint8))
    if told["palette"] and told["classes"] <= 256:
        mask.putpalette([part for colour in told["palette"] for part in colour])
    mask.save(target)
    names = told["class_names"] or list(range(told["classes"]))
    shares = np.bincount(ids.ravel(), minlength=len(names)) / ids.size
    print(*(f"{{n}} {{s:.1%}}" for n, s in zip(names, shares) if s > 0), sep=", ")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:] or sys.exit(__doc__))
    except (OSError, TypeError, ValueError) as error:
        sys.exit(f"run.py: {{error}}")
'''


def runner_text(target: Target, name: str) -> str:
    """Return run.py for a file of that name in the same folder."""
    imported, opened = _RUNTIMES[target]
    needs = f"NumPy, Pillow and {imported.removeprefix('import ')}"
    return _TEXT.format(name=name, needs=needs, imported=imported, opened=opened)


def card_text(told: dict[str, Any], name: str, target: Target, verdict: str) -> str:
    """Return card.md: what the file is, its scores and speed, and how to run it."""
    found, names = told["guarantee"], told["class_names"] or range(told["classes"])
    student, file = found["student"], found["file"]

    def shown(value: float | None) -> str:
        return "-" if value is None else f"{value:.2f}"

    threads = f"{found['threads']} thread{'s' if found['threads'] > 1 else ''}"
    size = " x ".join(map(str, told["size"])) if told["size"] else "any"
    facts = {
        "runtime": target,
        "precision": told["precision"],
        "exporter": told["exporter"],
        "takes": f"{told['input']} images, {told['order']}, size {size}, batch "
        f"{told['batch'] or 'any'}",
        "answers": told["output"],
        "resized inside": f"scale {told['resized']['scale']:g}, base {told['resized']['base']}",
        "left in float": ", ".join(told["float_layers"]) or None,
        "run": told["run"],
        "data": told["data"],
        "licences": told["licence"]
        or "not stated; those of the data and of any initial weights apply",
        "fakd": told["fakd_version"],
    }
    rows = [
        ("mIoU", student["miou"], file["miou"]),
        ("mAcc", student["macc"], file["macc"]),
        ("aAcc", student["aacc"], file["aacc"]),
        *(
            (f"IoU {each}", *(side["classes"][str(each)]["iou"] for side in (student, file)))
            for each in names
        ),
        ("median ms", student["median_ms"], file["median_ms"]),
        ("90th percentile ms", student["p90_ms"], file["p90_ms"]),
        ("size MB", student["megabytes"], file["megabytes"]),
        ("memory MB", student["memory_mb"], file["memory_mb"]),
    ]
    lines = [
        f"# {name}",
        "",
        verdict,
        "",
        *(f"- {key}: {value}" for key, value in facts.items() if value is not None),
        "",
        "| | student | file |",
        "|---|---|---|",
        *(f"| {title} | {shown(a)} | {shown(b)} |" for title, a, b in rows),
        "",
        f"On {found['images']} labelled images of {told['data']}; both predict the same class for "
        f"{found['agreement']:.3f} % of the pixels. Times are per image, bytes to class ids, on "
        f"{found['machine']}, {threads}; memory is the peak of the whole process.",
        "",
        f"    python run.py photo.jpg mask.png   # next to {name}",
    ]
    return "\n".join(lines) + "\n"
