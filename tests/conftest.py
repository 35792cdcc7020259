"""What every test shares: one thread, a tiny data set, tiny networks."""

import gc
import os
import signal
import subprocess
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace

# Before torch is loaded, and for every process begun here: bits depend on the number of threads.
os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch

import forked
from fakd import imports
from fakd.data import SegmentationData, scenes
from fakd.data.samples import Sample
from fakd.data.streets.dataset import SceneSplit
from fakd.models import pspnet
from fakd.types import Segmenter
from made_up_runs import MadeUpRuns

# Who starts the tests in the background has Ctrl-C ignored, here and in every process begun here.
signal.signal(signal.SIGINT, signal.default_int_handler)
as_drawn = SceneSplit.__getitem__
CAMVID = Path(__file__).parents[2] / "shared" / "data" / "camvid"


def pytest_collection_finish() -> None:
    """Leave what was imported, most of what there is, out of each later search for garbage."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def nothing_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget whose code another test has allowed."""
    monkeypatch.setattr(imports, "_allowed", set())


@lru_cache(maxsize=256)
def drawn(seed: int, split: int, size: tuple[int, int], labelled: bool, index: int) -> Sample:
    return as_drawn(SceneSplit(seed, split, index + 1, size, (index + 1) * labelled), index)


def drawn_before(self: SceneSplit, index: int) -> Sample:
    if not 0 <= index < len(self):
        return as_drawn(self, index)
    sample = drawn(self._seed, self._split, tuple(self._size), self.is_labelled(index), index)
    labels = None if sample.labels is None else sample.labels.clone()
    return sample._replace(image=sample.image.clone(), labels=labels)


@pytest.fixture(autouse=True, scope="session")
def scenes_drawn_once() -> Iterator[None]:
    """Keep scenes that another test has drawn: with every call checked, drawing takes longest.

    What is about drawing asks for ``scenes_drawn_anew``.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SceneSplit, "__getitem__", drawn_before)
        yield


@pytest.fixture
def scenes_drawn_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw every scene whenever it is asked for."""
    monkeypatch.setattr(SceneSplit, "__getitem__", as_drawn)


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
def forked_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the commands that a grid or several workers begin be processes that start at once."""
    begun = SimpleNamespace(
        Popen=forked.Popen, DEVNULL=subprocess.DEVNULL, STDOUT=subprocess.STDOUT
    )
    monkeypatch.setattr("fakd.comparing.cell.subprocess", begun)


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
