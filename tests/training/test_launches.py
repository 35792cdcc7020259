"""Runs of several processes that torchrun or srun has started, as one process makes them."""

import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from fakd.errors import InputError
from fakd.processes import launched_processes
from fakd.settings import Hardware
from fakd.training.start import start

TORCHRUN = [
    sys.executable,
    "-m",
    "torch.distributed.run",
    "--standalone",
    "--nproc_per_node=2",
    "-m",
    "--",
]
# No batch norm, whose statistics are those of a process, and the mean over all pixels.
COMMAND = [
    "fakd", "train", "--network=launched.Plain", "--data=scenes", "--data.train=8",
    "--data.val=4", "--data.size=[32,48]", "--augmentation.crop=[32,48]", "--task.average=all",
    "--schedule.batch_size=4", "--schedule.steps=4", "--intervals.log=1", "--intervals.save=2",
    "--hardware.accelerator=cpu", "--hardware.threads=1",
]  # fmt: skip
PLAIN = '''
from torch import Tensor, nn

from fakd.types import Prediction, Segmenter


class Plain(Segmenter):
    """In float64."""

    def __init__(self, classes: int = 12):
        super().__init__()
        self.classes = classes
        self.trunk = nn.Conv2d(3, 6, 3, 4, 1)
        self.head = nn.Conv2d(6, classes, 1)
        self.double()

    @property
    def classifier(self):
        return self.head

    def forward(self, images: Tensor) -> Prediction:
        features = self.trunk(images.double()).tanh()
        return Prediction(self.head(features), features)
'''


def tasks_of_srun(command, environment, folder):
    """Start two processes as srun does on a machine of its own."""
    common = {"SLURM_JOB_ID": "17", "SLURM_JOB_NAME": "fakd", "SLURM_STEP_ID": "0",
              "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_NNODES": "1",
              "SLURM_NODELIST": "127.0.0.1", "SLURM_NODEID": "0"}  # fmt: skip
    started = [
        subprocess.Popen(
            [sys.executable, "-m", *command],
            env=environment | common | {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    said = [each.communicate(timeout=500)[1] for each in started]
    return max(each.returncode for each in started), "".join(said)


def by_torchrun(command, environment, folder):
    done = subprocess.run(
        [*TORCHRUN, *command], env=environment, capture_output=True, text=True, timeout=500
    )
    return done.returncode, done.stderr


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("launched")
    (folder / "launched.py").write_text(PLAIN)
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    alone = [sys.executable, "-m", *COMMAND, f"--run={folder / 'alone'}"]
    assert subprocess.run(alone, env=environment, capture_output=True).returncode == 0
    return folder, environment


@pytest.mark.slow
@pytest.mark.parametrize("launch", [by_torchrun, tasks_of_srun])
def test_two_processes_make_the_run_that_one_makes(place, launch):
    folder, environment = place
    run = folder / launch.__name__
    code, said = launch([*COMMAND, f"--run={run}"], environment, folder)
    assert code == 0, said
    found, expected = (load_file(each / "last.safetensors") for each in (run, folder / "alone"))
    assert found.keys() == expected.keys()
    assert found["network.trunk.weight"].dtype == torch.float64
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-8, msg=name)


@pytest.fixture
def tasks(monkeypatch):
    def set_to(**more):
        given = {"JOB_NAME": "fakd", "STEP_ID": "0", "NTASKS": "8", "NNODES": "2", **more}
        for name, value in given.items():
            monkeypatch.setenv(f"SLURM_{name}", value)

    for name in [each for each in os.environ if each.startswith(("SLURM_", "TORCHELASTIC_"))]:
        monkeypatch.delenv(name)
    return set_to


def test_processes_are_counted_where_a_launcher_has_started_them(tasks, monkeypatch):
    assert launched_processes() == (1, 1)
    tasks()
    assert launched_processes() == (4, 8)
    tasks(JOB_NAME="bash")
    assert launched_processes() == (1, 1)
    tasks()
    monkeypatch.delenv("SLURM_STEP_ID")  # A batch script itself.
    assert launched_processes() == (1, 1)
    for name, value in {
        "TORCHELASTIC_RUN_ID": "x",
        "LOCAL_WORLD_SIZE": "2",
        "WORLD_SIZE": "6",
    }.items():
        monkeypatch.setenv(name, value)
    assert launched_processes() == (2, 6)


def test_another_number_of_devices_is_refused(tasks):
    tasks()
    with pytest.raises(InputError, match=r"8 processes .* 4 of them .* hardware.devices is 2"):
        start(Hardware(accelerator="cpu", devices=2), 0, joining=True)
