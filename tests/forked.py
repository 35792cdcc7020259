"""Commands as processes of their own that start at once: a server has imported everything."""

import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["fakd.training.loop", "fakd.training.start", "torch.utils.tensorboard", "forked"]
)
TINY = [
    "--data=scenes", "--data.train=8", "--data.val=4", "--data.size=[32,48]",
    "--augmentation.crop=[32,48]", "--hardware.threads=1", "--hardware.accelerator=cpu",
    "--schedule.batch_size=2",
]  # fmt: skip


def network(flag, channels=8):
    return [
        f"--{flag}=pspnet",
        f"--{flag}.backbone=mobilenetv3_small_050",
        f"--{flag}.channels={channels}",
    ]


def _command(arguments, log, environment=None, folder=None):
    """Run one command as `fakd` would, its output in a file."""
    from fakd.cli import main

    os.environ.update(environment or {})
    os.chdir(folder or ".")
    if environment:
        os.setsid()
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.argv = ["fakd", *arguments]
    sys.exit(main(arguments))


def start(arguments, log: Path):
    """Begin a command."""
    process = CONTEXT.Process(target=_command, args=(list(arguments), str(log)))
    process.start()
    return process


class Popen(subprocess.Popen):
    """Stands in where a comparison begins `python -m fakd ...`."""

    def __init__(self, command, *, stdout, env, cwd, **_):
        self._child_created = False
        assert command[1:3] == ["-m", "fakd"]
        given = (command[3:], stdout.name, env, str(cwd or Path.cwd()))
        self._process = CONTEXT.Process(target=_command, args=given)
        self._process.start()
        self.pid = self._process.pid

    def poll(self):
        return self._process.exitcode

    def wait(self):
        self._process.join()
        return self._process.exitcode


def together(function, *arguments, processes=2):
    """Run a function in several processes at once, each given its rank first."""
    import torch.multiprocessing

    torch.multiprocessing.start_processes(function, arguments, processes, start_method="forkserver")


def until(holds, process, seconds=120.0):
    """Wait for something while a process lives."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert process.is_alive(), "it ended before"
        assert time.monotonic() < deadline
        time.sleep(0.002)
