"""Convert files between mmsegmentation and this package."""

from io import BytesIO
from pathlib import Path

import torch

from fakd.errors import InputError
from fakd.files import expand_user, write_atomically
from fakd.models.files import load, save
from fakd.models.foreign.adapted import Adapted
from fakd.models.mmseg.checkpoint import load_mmseg, to_mmseg
from fakd.models.paper import EncoderDecoder


def import_mmseg(source: Path | str, target: Path | str) -> None:
    """Convert a checkpoint of mmsegmentation to a .safetensors file of fakd.

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
    """Convert a saved network to a checkpoint that mmsegmentation loads.

    An external network is written as its own plain state dictionary, together with its class names.

    Args:
        source: a .safetensors file, or the folder of a finished run.
        target: the .pth file to write.

    Raises:
        InputError: the network is neither one of the paper's nor an external one.
    """
    network = load(source)
    names = None if network.class_names is None else list(network.class_names)
    palette = None if network.palette is None else [list(colour) for colour in network.palette]
    meta = {
        "CLASSES": names,
        "PALETTE": palette,
        "dataset_meta": {"classes": names, "palette": palette},
    }
    if isinstance(network, EncoderDecoder):
        state = to_mmseg(network)
    elif isinstance(network, Adapted) and list(network.parameters()):
        state = dict(network.network.state_dict())
    else:
        raise InputError(
            f"{source} must hold one of the paper's networks, or an external one with its "
            "weights; choose such a run"
        )
    # Through a buffer: torch.save would report a failed write as an error of its own.
    buffer = BytesIO()
    torch.save({"state_dict": state, "meta": meta}, buffer)

    def write(file: Path) -> None:
        file.write_bytes(buffer.getbuffer())

    write_atomically(expand_user(target), write)
