"""Which layout a run computes in, where it is to find out."""

import copy
import json
from dataclasses import replace

import pytest
import torch

import fakd
from fakd.models import pspnet
from fakd.runs.folder import ENVIRONMENT, FINAL
from fakd.settings import Augmentation, Hardware, Intervals, Schedule, Settings
from fakd.training import memory_format
from fakd.training.memory_format import choose
from fakd.training.start import start

AUTO = Settings(
    augmentation=Augmentation(crop=(32, 48)),
    hardware=Hardware(accelerator="cpu", channels_last="auto"),
)


@pytest.fixture
def clocks(monkeypatch):
    """Have clocks say what the test wants; returns the layouts that were timed."""
    timed = []

    def set_to(last, contiguous):
        def seconds(step, device):
            step()
            timed.append(None)
            return last if len(timed) % 2 else contiguous

        monkeypatch.setattr(memory_format, "_seconds", seconds)
        return timed

    return set_to


@pytest.mark.parametrize("faster", [True, False])
def test_the_faster_layout_is_chosen_and_networks_stay_as_they_were(clocks, tmp_path, faster):
    clocks(*((1.0, 2.0) if faster else (2.0, 1.0)))
    student, teacher = (pspnet("mobilenetv3_small_050", 12, channels=16) for _ in range(2))
    teacher.requires_grad_(False)
    before = [copy.deepcopy(each.state_dict()) for each in (student, teacher)]
    drawn = torch.random.get_rng_state()
    fabric = start(AUTO.hardware, 0)
    torch.random.set_rng_state(drawn)
    settings, noted = choose(fabric, AUTO, tmp_path, "refuse", student, teacher)
    assert settings.hardware == replace(AUTO.hardware, channels_last=faster)
    assert noted["channels_last"]["chosen"] is faster
    assert torch.equal(torch.random.get_rng_state(), drawn)
    assert student.training
    for network, state in zip((student, teacher), before, strict=True):
        assert not [each for each in network.parameters() if each.grad is not None]
        for name, value in network.state_dict().items():
            assert torch.equal(value, state[name]), name
            assert value.stride() == state[name].stride(), name


def test_clocks_run_and_what_is_given_is_not_timed(clocks, tmp_path):
    network, fabric = pspnet("mobilenetv3_small_050", 12, channels=16), start(AUTO.hardware, 0)
    _, noted = choose(fabric, AUTO, tmp_path, "refuse", network)
    assert 0 < noted["channels_last"]["seconds"] < 60
    timed, given = clocks(1.0, 2.0), replace(AUTO, hardware=Hardware(channels_last=False))
    assert choose(fabric, given, tmp_path, "refuse", network) == (given, {})
    assert not timed


@pytest.mark.slow
def test_a_run_that_goes_on_keeps_its_layout(tiny_data, tmp_path, clocks, monkeypatch):
    def train(run, layout, steps=2, existing="refuse"):
        torch.manual_seed(0)
        return fakd.train(
            pspnet("mobilenetv3_small_050", tiny_data.classes, channels=16),
            tiny_data,
            tmp_path / run,
            Schedule(steps=steps, batch_size=4, learning_rate=0.05, shape="constant"),
            augmentation=Augmentation(crop=(32, 48)),
            hardware=Hardware(accelerator="cpu", threads=1, channels_last=layout),
            intervals=Intervals(evaluate=10),
            existing=existing,
        )

    timed = clocks(2.0, 1.0)
    train("auto", "auto")
    assert timed
    timed = clocks(1.0, 2.0)
    before = len(timed)
    train("auto", "auto", steps=3, existing="extend")
    assert len(timed) == before
    train("given", False)
    train("given", False, steps=3, existing="extend")
    one, other = ((tmp_path / each / FINAL).read_bytes() for each in ("auto", "given"))
    assert one == other
    record = json.loads((tmp_path / "auto" / ENVIRONMENT).read_text())
    assert record["channels_last"]["chosen"] is False
    train("auto", "auto", steps=3, existing="overwrite")
    assert len(timed) > before
