"""Ready-made students: small networks, each with a name, and their costs."""

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Literal, NamedTuple

import torch

from fakd.imports import import_object
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
"""From 0.3 to 12 million parameters, each a name that `fakd.sources.resolve` accepts."""
_LIBRARIES = {"smp:": "segmentation_models_pytorch", "transformers.": "transformers"}


class Student(NamedTuple):
    """Size and cost of a student."""

    row: Row
    """Size and cost; the row's name is the one that `fakd.sources.resolve` accepts."""
    imagenet: Literal["here", "hub", ""]
    """Where its backbone's ImageNet weights are: on this machine, at a hub, or nowhere."""
    activations: int
    """Bytes of activations per image in a training step in float32, with the auxiliary head."""

    @property
    def word(self) -> str:
        """The student's name, with ImageNet weights if they are on this machine."""
        return with_imagenet(self.row.name) if self.imagenet == "here" else self.row.name


def installed() -> list[str]:
    """List the students whose libraries are installed."""
    absent = tuple(start for start, name in _LIBRARIES.items() if find_spec(name) is None)
    return [word for word in STUDENTS if not word.startswith(absent)]


def is_ready_made(word: object) -> bool:
    """Return whether a word is the name of a student, with or without ImageNet weights."""
    return any(word in (each, with_imagenet(each)) for each in STUDENTS)


def list_students(
    classes: int = 19, size: tuple[int, int] = (512, 512), words: list[str] | None = None
) -> Iterator[Student]:
    """Compute size and cost of the ready-made students, one after the other.

    Args:
        classes: number of classes.
        size: height and width of the image that operations are counted for.
        words: names of students; by default all whose libraries are installed.
    """
    for word in installed() if words is None else words:
        network = open_network(word, classes).train().to("meta")
        # Two images, since batch norm needs more than one value of a globally pooled map.
        pair = torch.empty(2, 3, *size, device="meta")
        kept = activation_bytes(network, pair) // 2
        row = count(word, network, size)
        yield Student(row, imagenet_location(resolve(word)), kept)


def imagenet_location(spec: Spec) -> Literal["here", "hub", ""]:
    """Find where ImageNet weights of a network's backbone are, without contacting a hub."""
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
        known = import_object("segmentation_models_pytorch.encoders.encoders").get(
            given["encoder_name"], {}
        )
        repository = known.get("pretrained_settings", {}).get("imagenet", {}).get("repo_id")
    if repository is None:
        return ""
    return "hub" if cached(repository) is None else "here"


def with_imagenet(word: str) -> str:
    """Extend a student's name so that it starts from ImageNet weights.

    >>> with_imagenet("timm:lcnet_050"), with_imagenet("smp:Unet?encoder_name=resnet18")
    ('timm:lcnet_050?weights=imagenet', 'smp:Unet?encoder_name=resnet18&encoder_weights=imagenet')
    """
    name = "encoder_weights" if word.startswith("smp:") else "weights"
    return f"{word}{'&' if '?' in word else '?'}{name}=imagenet"
