"""The environment of this process, recorded with its results."""

import os
import platform
import shlex
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any


def environment() -> dict[str, Any]:
    """Describe the environment of this process: command, machine, versions."""
    import torch

    packages = ("fakd", "torch", "torchvision", "timm", "lightning-fabric")
    return {
        "command": command_line(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processors": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "versions": {name: version(name) for name in packages},
    }


def command_line() -> str:
    """Return this process's command as it would be typed, with ``fakd`` without its path."""
    program = Path(sys.argv[0])
    module = program.parts[-2:] == ("fakd", "__main__.py")
    installed = module or program.name in ("fakd", "fakd.exe")
    return shlex.join(["fakd" if installed else sys.argv[0], *sys.argv[1:]])
