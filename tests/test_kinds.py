"""Values of a wrong type from Python: one InputError, not whatever they stumble over later."""

import subprocess
import sys

import pytest
import yaml

from fakd.errors import InputError
from fakd.settings import Optimizer, Schedule
from fakd.training.optimizer import _class

# Without the checks of types that the tests put around every function.
SCRIPT = """
import fakd
from fakd.errors import InputError
from fakd.settings import Augmentation, Inference, Schedule
settings = dict(teacher="t", student="pspnet", data="scenes", run="r")
for call in (
    lambda: fakd.evaluate(network="t", data="scenes", split="tset"),
    lambda: fakd.evaluate(network="t", data="scenes", inference="all"),
    lambda: fakd.train(network="pspnet", data=None, run="r"),
    lambda: fakd.predict(network="t", images=5, out="o"),
    *(
        lambda name=name, value=value: fakd.distill(**{**settings, name: value})
        for name, value in {
            "optimizer": "AdamW", "distillation": "cwd", "schedule": {"steps": 1}, "task": "dice",
            "augmentation": None, "seed": "a", "ema": True, "broken": "ignore", "stopping": 3,
        }.items()
    ),
    lambda: Schedule(steps="10"),
    lambda: Augmentation(crop=16),
    lambda: Augmentation(crop=(1, 2, 3)),
    lambda: Augmentation(crop=(16, "a")),
    lambda: Inference(scales=("a",)),
    lambda: Inference(base=(64.5, 48)),
    lambda: Inference(window="x"),
):
    try:
        call()
        print("accepted")
    except InputError as error:
        print(error)
"""
EXPECTED = """
split to be train or val or test, got 'tset'
inference to be Inference or Mapping[str, Any] or None, got 'all'; make one, such as Inference(...)
data to be SegmentationData or str or Path, got None
images to be Path, got 5
optimizer to be Optimizer, got 'AdamW'; make one, such as Optimizer(...)
distillation to be DistillationLoss or None, got 'cwd'; make one, such as DistillationLoss(...)
schedule to be Schedule, got {'steps': 1}
task to be Task, got 'dice'
augmentation to be Augmentation, got None
seed to be int, got 'a'
ema to be float or None, got True
broken to be stop or skip, got 'ignore'
stopping to be Stopping, got 3
schedule.steps to be int, got '10'
augmentation.crop to be tuple[int, int], got 16
augmentation.crop to be tuple[int, int], got (1, 2, 3)
augmentation.crop to be tuple[int, int], got (16, 'a')
inference.scales to be 
inference.base to be 
inference.window to be 
"""


def test_a_value_of_a_wrong_type_is_refused_by_its_name(tmp_path):
    command = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    lines, expected = done.stdout.splitlines(), EXPECTED.strip("\n").splitlines()
    for line, words in zip(lines, expected, strict=True):
        assert line.startswith(f"expected {words}")
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("amsgrad=maybe", "amsgrad must be true or false, got 'maybe'"),
        ("betas=[0.9,0.99,0.9]", "betas must be 2 numbers, got [0.9, 0.99, 0.9]"),
        ("eps=small", "eps must be a number, got 'small'"),
        ("foreach=maybe", "foreach must be true or false, got 'maybe'"),
    ],
)
def test_arguments_of_optimisers_are_of_the_kind_they_take(value, words):
    name, _, text = value.partition("=")
    with pytest.raises(InputError) as error:
        _class(Optimizer(kind="AdamW", arguments={name: yaml.safe_load(text)}))
    assert words in str(error.value)
    _class(Optimizer(kind="AdamW", arguments={"betas": [0.9, 0.99], "amsgrad": True, "eps": 1}))


def test_a_run_of_more_steps_than_anyone_has_time_for_is_refused():
    with pytest.raises(InputError, match="of at most a billion, got 99999999999999999999"):
        Schedule(steps=99999999999999999999)
