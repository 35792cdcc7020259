"""`fakd convert`: convert between mmsegmentation's checkpoints and fakd's files."""

from pathlib import Path

import fakd
from fakd.console import open_console
from fakd.errors import InputError


def convert(source: Path, target: Path, overwrite: bool = False) -> None:
    """Convert an mmsegmentation checkpoint to .safetensors, or a network of fakd to its naming.

    The target's suffix decides: .safetensors reads an mmsegmentation .pth file and keeps its class
    names and palette; .pth writes a state dictionary that mmsegmentation loads. A network from
    another library or your own code is written as its plain state dictionary.

    Args:
        source: an mmsegmentation .pth file; or a finished run or .safetensors file of fakd.
        target: the file to write.
        overwrite: replace the target if it exists.
    """
    if target.exists() and not overwrite:
        raise InputError(f"{target} exists; choose another --target or give --overwrite true")
    if not target.parent.is_dir():
        raise InputError(f"the folder of --target {target} does not exist; create it first")
    if target.suffix == ".safetensors" and (source.suffix == target.suffix or source.is_dir()):
        raise InputError(
            f"{source} is a network of fakd already; give a --target that ends in .pth, or copy "
            "best.safetensors"
        )
    if target.suffix == ".safetensors":
        fakd.models.import_mmseg(source, target)
    elif target.suffix == ".pth":
        fakd.models.export_mmseg(source, target)
    else:
        raise InputError(f"expected --target to end in .safetensors or .pth, got {target.name}")
    open_console().print(f"{source} converted to {target}", soft_wrap=True)
