"""Students that come ready: small networks, one word each, and what they cost."""

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Literal, NamedTuple

import torch

from fakd.imports import find
from fakd.models.backbones import find_architecture
from fakd.models.catalogue import Row, activation_bytes, count
from fakd.models.foreign.opening import open_network
from fakd.models.weights import cached, find_package, repository_of
from fakd.sources import Spec, resolve

_OURS = (
    "lcnet_035?channels=48&output_stride=16",
    "mobilenetv3_small_050?channels=32&output_stride=16",
    "mobilenetv3_small_050?channels=32",
    "lcnet_050?channels=48",
    "lcnet_050?channels=64&output_stride=16",
    "mobilenetv4_conv_small_050?head=deeplabv3plus&channels=64&output_stride=16",
    "mobilenetv2_050?head=deeplabv3plus&channels=64&output_stride=16",
    "mnasnet_small?channels=64&output_stride=16",
    "lcnet_075?channels=64&output_stride=16",
    "tinynet_d?channels=64&output_stride=16",
    "mobilenetv3_small_050",
    "hrnet_w18_small?head=fcn_hrnet",
    "mobilenetv3_small_100?channels=64&output_stride=16",
    "lcnet_100?channels=64&output_stride=16",
    "mobilenetv3_large_075?head=deeplabv3plus&channels=64&output_stride=16",
    "mobilenetv3_small_100",
    "mobilenetv4_conv_small?head=deeplabv3plus&channels=128&output_stride=16",
    "mobilenetv2_100?head=deeplabv3plus&channels=128&output_stride=16",
    "tf_efficientnet_lite0?head=deeplabv3plus&channels=128&output_stride=16",
    "tf_efficientnet_lite0",
    "lcnet_150?output_stride=16",
    "mobilenetv3_large_100?head=deeplabv3plus&channels=128&output_stride=16",
    "efficientnet_b0?head=deeplabv3plus&channels=128&output_stride=16",
    "mobilenetv2_140?head=isanet&output_stride=16",
    "tf_efficientnet_lite1?head=deeplabv3plus&channels=128&output_stride=16",
    "regnety_004?head=deeplabv3plus&channels=128&output_stride=16",
    "tf_efficientnet_lite2?head=deeplabv3plus&channels=128&output_stride=16",
    "efficientnet_b1?head=deeplabv3plus&channels=128&output_stride=16",
    "mobilenetv4_conv_medium?output_stride=16",
    "tf_efficientnet_lite3?head=deeplabv3plus&channels=256&output_stride=16",
    "resnet18?channels=64&output_stride=16",
)
_SMP = (
    "PAN?encoder_name=mobilenet_v2",
    "Unet?encoder_name=tu-mobilenetv3_small_100",
    "Segformer?encoder_name=mit_b0",
    "FPN?encoder_name=mobilenet_v2",
    "DeepLabV3Plus?encoder_name=mobilenet_v2",
    "Unet?encoder_name=efficientnet-b0",
)
_TRANSFORMERS = ("MobileNetV2", "Segformer", "MobileViT")
STUDENTS: tuple[str, ...] = (
    *(f"timm:{each}" for each in _OURS),
    *(f"smp:{each}" for each in _SMP),
    *(
        f"transformers.{each}ForSemanticSegmentation?config=transformers.{each}Config"
        for each in _TRANSFORMERS
    ),
)
"""From 0.3 to 12 million parameters, each a word that `fakd.sources.resolve` knows."""
_LIBRARIES = {"smp:": "segmentation_models_pytorch", "transformers.": "transformers"}


class Student(NamedTuple):
    """A student in numbers."""

    row: Row
    """Its name is the word that stands for it."""
    imagenet: Literal["here", "hub", ""]
    """Where ImageNet weights of its backbone are: on this machine, at a hub, or nowhere."""
    activations: int
    """Bytes that a training step keeps of each image in float32, auxiliary head included."""

    @property
    def word(self) -> str:
        """What stands for it, with ImageNet weights where they are here."""
        return with_imagenet(self.row.name) if self.imagenet == "here" else self.row.name


def installed() -> list[str]:
    """List the students whose libraries are there."""
    absent = tuple(start for start, name in _LIBRARIES.items() if find_spec(name) is None)
    return [word for word in STUDENTS if not word.startswith(absent)]


def comes_ready(word: object) -> bool:
    """Tell whether a word names one of the students, with or without ImageNet weights."""
    return any(word in (each, with_imagenet(each)) for each in STUDENTS)


def list_students(
    classes: int = 19, size: tuple[int, int] = (512, 512), words: list[str] | None = None
) -> Iterator[Student]:
    """Describe the students that come ready, one after the other.

    Args:
        classes: number of classes.
        size: height and width of the image that operations are counted for.
        words: those to describe; all whose libraries are there if None.
    """
    for word in installed() if words is None else words:
        network = open_network(word, classes).train().to("meta")
        # Two, as batch norm over a pooled map of one value needs.
        pair = torch.empty(2, 3, *size, device="meta")
        kept = activation_bytes(network, pair) // 2
        row = count(word, network, size)
        yield Student(row, where_imagenet(resolve(word)), kept)


def where_imagenet(spec: Spec) -> Literal["here", "hub", ""]:
    """Tell where ImageNet weights of a network's backbone are, without asking a hub."""
    given = spec["init_args"]
    repository = None
    if "backbone" in given:
        architecture = find_architecture(given["backbone"])
        if find_package(architecture) is not None:
            return "here"
        repository = repository_of(architecture)
    elif str(given.get("encoder_name")).startswith("tu-"):
        repository = repository_of(find_architecture(f"timm/{given['encoder_name'][3:]}"))
    elif "encoder_name" in given:
        known = find("segmentation_models_pytorch.encoders.encoders").get(given["encoder_name"], {})
        repository = known.get("pretrained_settings", {}).get("imagenet", {}).get("repo_id")
    if repository is None:
        return ""
    return "hub" if cached(repository) is None else "here"


def with_imagenet(word: str) -> str:
    """Let a student start from ImageNet weights.

    >>> with_imagenet("timm:lcnet_050"), with_imagenet("smp:Unet?encoder_name=resnet18")
    ('timm:lcnet_050?weights=imagenet', 'smp:Unet?encoder_name=resnet18&encoder_weights=imagenet')
    """
    name = "encoder_weights" if word.startswith("smp:") else "weights"
    return f"{word}{'&' if '?' in word else '?'}{name}=imagenet"
