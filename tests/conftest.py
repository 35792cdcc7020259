"""What every test shares: one thread, a tiny data set, tiny networks."""

import os
import signal
from pathlib import Path

# Before torch is loaded, and for every process begun here: bits depend on the number of threads.
os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch

from fakd import imports
from fakd.data import SegmentationData, scenes
from fakd.models import pspnet
from fakd.types import Segmenter
from made_up_runs import MadeUpRuns

# Who starts the tests in the background has Ctrl-C ignored, here and in every process begun here.
signal.signal(signal.SIGINT, signal.default_int_handler)
CAMVID = Path(__file__).parents[2] / "shared" / "data" / "camvid"


@pytest.fixture(autouse=True)
def nothing_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget whose code another test has allowed."""
    monkeypatch.setattr(imports, "_allowed", set())


@pytest.fixture(scope="session")
def tiny_data() -> SegmentationData:
    """A dozen built-in scenes of 32 x 48 pixels."""
    return scenes(train=8, val=4, size=(32, 48))


@pytest.fixture
def tiny_network(tiny_data: SegmentationData) -> Segmenter:
    """An untrained network of a few ten thousand weights."""
    torch.manual_seed(0)
    return pspnet("mobilenetv3_small_050", tiny_data.classes, channels=16)


@pytest.fixture
def made_up(tmp_path: Path) -> MadeUpRuns:
    """A folder to make up runs in."""
    return MadeUpRuns(tmp_path / "grid")


@pytest.fixture
def camvid() -> Path:
    """The folder of CamVid, where it is present."""
    if not CAMVID.is_dir():
        pytest.skip("CamVid is not here")
    return CAMVID
