"""Converting files between mmsegmentation and this package."""

from io import BytesIO
from pathlib import Path

import torch

from fakd.errors import InputError
from fakd.files import expanded, write_atomically
from fakd.models.files import load, save
from fakd.models.mmseg.checkpoint import load_mmseg, to_mmseg
from fakd.models.paper import EncoderDecoder


def import_mmseg(source: Path | str, target: Path | str) -> None:
    """Convert a checkpoint of mmsegmentation to a .safetensors file of ours.

    Args:
        source: the .pth file.
        target: the .safetensors file to write.
    """
    network = load_mmseg(source)
    save(
        network,
        target,
        class_names=network.class_names,
        palette=network.palette,
        extra={"source": Path(source).name},
    )


def export_mmseg(source: Path | str, target: Path | str) -> None:
    """Convert a network of ours to a checkpoint that mmsegmentation loads.

    Args:
        source: a .safetensors file, or the folder of a finished run.
        target: the .pth file to write.
    """
    network = load(source)
    if not isinstance(network, EncoderDecoder):
        raise InputError(f"{source} must hold one of the paper's networks; choose such a run")
    names = None if network.class_names is None else list(network.class_names)
    palette = None if network.palette is None else [list(colour) for colour in network.palette]
    meta = {
        "CLASSES": names,
        "PALETTE": palette,
        "dataset_meta": {"classes": names, "palette": palette},
    }
    content = {"state_dict": to_mmseg(network), "meta": meta}
    # Not straight into the file, whose refusal torch would take for an error of its own.
    buffer = BytesIO()
    torch.save(content, buffer)

    def write(file: Path) -> None:
        file.write_bytes(buffer.getbuffer())

    write_atomically(expanded(target), write)
