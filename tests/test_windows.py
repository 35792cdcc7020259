"""What other systems lack is done without: locks, signals, the process's peak of memory."""

import subprocess
import sys

CODE = """
import enum, signal, sys
for name in ("fcntl", "resource"):
    sys.modules[name] = None
kept = {"SIGINT", "SIGTERM"}
signal.Signals = enum.IntEnum(
    "Signals", {each.name: each.value for each in signal.Signals if each.name in kept}
)
import torch
from pathlib import Path
from fakd import cli, signals
from fakd.memory import peak_memory
from fakd.runs.locks import lock

print(sorted(each.name for each in signals.ASKING))
with signals.listening(), lock(Path(sys.argv[1]) / "run.lock") as held:
    print(held is not None)
print(peak_memory(torch.device("cpu")))
print(cli.main(["--version"]))
"""


def test_a_system_without_locks_hangups_and_resources(tmp_path):
    words = [sys.executable, "-c", CODE, str(tmp_path)]
    ended = subprocess.run(words, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    told, held, peak, *_, code = ended.stdout.splitlines()
    assert (told, held, peak, code) == ("['SIGINT', 'SIGTERM']", "True", "0", "0")
    assert "cannot be locked" in ended.stderr
