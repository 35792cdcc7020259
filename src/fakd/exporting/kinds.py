"""The choices of `fakd export`, without PyTorch."""

from typing import Literal

Target = Literal["onnx", "torch", "openvino"]
Input = Literal["uint8", "unit", "normalised"]
Order = Literal["rgb", "bgr"]
Output = Literal["classes", "logits", "probabilities"]
Precision = Literal["fp32", "fp16", "int8"]
