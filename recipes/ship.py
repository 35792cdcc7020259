"""Write the file of the teacher that `fakd demo` brings, from the run that made it.

Usage: fakd train --recipe recipes/demo/teacher.yaml
       python recipes/ship.py        (weights in 16 bits)
"""

import json
from pathlib import Path

import fakd
from fakd.commands.demo import TEACHER
from fakd.models import read_info, save


def ship(run: Path, out: Path) -> None:
    """Save a run's last weights in 16 bits, the statistics of its input in 32."""
    weights = run / "final.safetensors"
    network, info = fakd.load(weights), read_info(weights)
    for name, part in network.named_children():
        if name != "normalize":
            part.half()
    scores = json.loads((run / "result.json").read_text())["final"]
    extra = {"recipe": "recipes/demo/teacher.yaml", "licence": "Apache-2.0", "miou": scores["miou"]}
    save(network, out, class_names=info.class_names, palette=info.palette, extra=extra)


if __name__ == "__main__":
    ship(Path("runs/demo-teacher"), TEACHER)
