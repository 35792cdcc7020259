"""What a long run shows, at any width, and how it ends."""

from io import StringIO

import pytest
from rich.console import Console

import fakd
from fakd.training.progress import StepProgress

VALUES = {"task": 1.25, "auxiliary": 0.5, "distillation": 2.125, "lambda": 0.5, "images/s": 7.5}


def bar(width, title):
    """Draw the bar as a terminal of so many columns shows it."""
    console = Console(file=StringIO(), force_terminal=True, width=width, color_system=None)
    display = StepProgress(console, title, 1000)
    display.begin(0)
    display.show(120, VALUES, {"images/s": 7.5, "best mIoU": 33.25, "GB": 1.5})
    shown = Console(file=StringIO(), width=width, color_system=None)
    shown.print(display._bar.get_renderable())
    return shown.file.getvalue().rstrip()


@pytest.mark.parametrize("width", [50, 60, 80, 100, 160])
@pytest.mark.parametrize("title", ["run", "a-run-with-quite-a-long-name-of-three-lines"])
def test_bar_step_and_time_left_stay_and_loss_terms_go_first(width, title):
    line = bar(width, title)
    assert "\n" not in line
    assert "120/1000 left -:--:--" in line
    assert title[-6:] in line or title in line
    places = [line.find(word) for word in ("images/s", "best mIoU", "GB", "task", "auxiliary")]
    there = [place for place in places if place >= 0]
    assert places[: len(there)] == sorted(there)
    assert "images/s 7.5" in line or width < 60
    assert ("task" in line) >= (width >= 160)


def test_a_run_ends_with_its_scores_its_place_and_what_to_do_next(
    tmp_path, tiny_data, tiny_network, capsys
):
    run = tmp_path / "a run"
    result = fakd.train(
        tiny_network,
        tiny_data,
        run=run,
        schedule=fakd.Schedule(steps=2, batch_size=2),
        augmentation=fakd.data.Augmentation(crop=(32, 48)),
        hardware=fakd.Hardware(accelerator="cpu"),
    )
    last = "".join(capsys.readouterr()).strip().splitlines()[-1]
    assert f"final mIoU {result['final']['miou']:.2f}, best {result['best']['miou']:.2f}" in last
    assert f"saved in {run}; next: fakd predict --network '{run}'" in last
