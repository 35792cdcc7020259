"""Reduced precision: float16, and static INT8 that keeps layers in float if necessary."""

from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from fakd.data import Split
from fakd.errors import InputError
from fakd.exporting.writing import quiet
from fakd.inference import predict_classes
from fakd.models.foreign.deployed import Deployed
from fakd.models.foreign.exported import onnx_session, open_exported
from fakd.settings import Inference

_WEIGHED = ("Conv", "ConvTranspose", "MatMul", "Gemm")
_BETWEEN = ("Relu", "Clip", "Add", "Concat", "MaxPool", "AveragePool", "GlobalAveragePool")
_LOOKED_AT = 200
"""Number of training images from which calibration images are selected."""
_TRIED = 4
"""Number of images for ranking layers by quantisation error."""


def to_half(file: Path) -> None:
    """Convert an ONNX file to 16-bit arithmetic; inputs and outputs keep their types."""
    onnx: Any = import_module("onnx")
    float16: Any = import_module("onnxruntime.transformers.float16")
    with quiet():
        model = float16.convert_float_to_float16(onnx.load(file), keep_io_types=True)
    onnx.save(model, file)


def choose_calibration_images(split: Split, count: int, classes: int) -> list[int]:
    """Select images greedily so that every class, above all rare ones, is covered often.

    Each step adds the image with the largest total weight of classes that cover at least a
    thousandth of its pixels; a class that occurs in n selected images weighs 1 / (1 + n).
    Unlabelled images are selected evenly.
    """
    every = split.labelled_indices() or list(range(len(split)))
    looked_at = min(_LOOKED_AT, len(every))
    places = [every[index * len(every) // looked_at] for index in range(looked_at)]
    shown = np.zeros((len(places), classes), dtype=bool)
    for row, place in enumerate(places):
        labels = split[place].labels
        if labels is not None:
            pixels = labels[labels >= 0].long().bincount(minlength=classes).numpy()
            shown[row] = pixels > labels.numel() / 1000
    chosen: list[int] = []
    seen = np.zeros(classes)
    for _ in range(min(count, len(places))):
        worth = (shown / (1 + seen)).sum(1)
        worth[chosen] = -1
        chosen.append(int(worth.argmax()))
        seen += shown[chosen[-1]]
    return [places[row] for row in chosen]


class _Reader:
    """Feeds calibration images to onnxruntime."""

    def __init__(self, parts: Sequence[np.ndarray]) -> None:
        self._parts = iter([{"images": part} for part in parts])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._parts, None)


class Quantizer:
    """Static INT8 quantisation of an ONNX file: weights per channel, activations by their range.

    Args:
        file: The floating-point file, with its metadata.
        split: Images for calibrating activation ranges.
        classes: Number of classes.
        count: Number of images.

    Raises:
        InputError: there are no images.
    """

    def __init__(self, file: Path, split: Split, classes: int, count: int) -> None:
        library: Any = import_module("onnxruntime.quantization")
        shapes: Any = import_module("onnxruntime.quantization.shape_inference")
        onnx: Any = import_module("onnx")
        opened = open_exported(str(file))
        if not isinstance(opened, Deployed):
            raise TypeError(f"{file} has no metadata")
        self.parts, call = list[np.ndarray](), opened.call

        def recorded(images: np.ndarray) -> np.ndarray:
            self.parts.append(images)
            return call(images)

        opened.call = recorded
        if len(split) == 0:
            raise InputError(
                "there are no training images to calibrate INT8 with; give --precision fp16"
            )
        for place in choose_calibration_images(split, count, classes):
            predict_classes(opened, split[place].image[None], Inference())
        self.prepared = file.with_name("prepared.onnx")
        with quiet():
            shapes.quant_pre_process(file, self.prepared, skip_symbolic_shape=True)
            calibrator = library.calibrate.create_calibrator(
                self.prepared,
                [*_WEIGHED, *_BETWEEN],
                augmented_model_path=str(file.with_name("augmented.onnx")),
            )
            calibrator.collect_data(_Reader(self.parts))
            self.ranges = calibrator.compute_data()
        nodes = onnx.load(self.prepared).graph.node
        self.layers = [each.name for each in nodes if each.op_type in _WEIGHED]
        self._between = [each.name for each in nodes if each.op_type in _BETWEEN]

    def write(self, file: Path, floats: Sequence[str]) -> None:
        """Write the file with all layers in INT8 except ``floats``."""
        self._quantize(file, [each for each in self.layers if each not in floats] + self._between)

    def _quantize(self, file: Path, nodes: Sequence[str]) -> None:
        library: Any = import_module("onnxruntime.quantization")
        onnx: Any = import_module("onnx")
        quantizer = import_module("onnxruntime.quantization.qdq_quantizer").QDQQuantizer(
            onnx.load(self.prepared),
            True,
            False,
            weight_qType=library.QuantType.QInt8,
            activation_qType=library.QuantType.QUInt8,
            tensors_range=self.ranges,
            nodes_to_quantize=list(nodes),
            nodes_to_exclude=[],
            op_types_to_quantize=[*_WEIGHED, *_BETWEEN],
            extra_options={},
        )
        with quiet():
            quantizer.quantize_model()
            quantizer.model.save_model_to_file(str(file))

    def float_layers(self) -> Iterator[list[str]]:
        """Yield layers to keep in float: none, the worst one, twice as many each time, and all."""
        yield []
        ranked = self._rank_layers()
        count = 1
        while count < len(ranked):
            yield ranked[:count]
            count *= 2
        yield ranked

    def _rank_layers(self) -> list[str]:
        """Rank layers by the share of pixels whose class changes if only that layer is in INT8."""
        parts = self.parts[:_TRIED]
        plain = [_ids(onnx_session(self.prepared), part) for part in parts]
        single, harm = self.prepared.with_name("single.onnx"), dict[str, float]()
        for layer in self.layers:
            self._quantize(single, [layer])
            session = onnx_session(single)
            changed = [
                float((_ids(session, part) != ids).mean())
                for part, ids in zip(parts, plain, strict=True)
            ]
            harm[layer] = float(np.mean(changed))
        return sorted(harm, key=lambda each: -harm[each])


def _ids(session: Any, images: np.ndarray) -> np.ndarray:
    """Return class ids, either the output itself or the argmax of logits."""
    answer: np.ndarray = session.run(None, {"images": images})[0]
    return answer if answer.ndim == 3 else answer.argmax(1)
