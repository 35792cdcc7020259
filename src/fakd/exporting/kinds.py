"""The choices of `fakd export`, which need no tensor."""

from typing import Literal

Target = Literal["onnx", "torch", "openvino"]
Input = Literal["uint8", "unit", "normalised"]
Order = Literal["rgb", "bgr"]
Output = Literal["classes", "logits", "probabilities"]
Precision = Literal["fp32", "fp16", "int8"]
