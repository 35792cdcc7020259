"""Networks compiled for the training step: the same numbers, names and answers to other sizes."""

import copy
import shutil

import pytest
import torch
from rich.console import Console
from safetensors import safe_open
from torch import nn

from fakd.data import Batch
from fakd.models import pspnet
from fakd.runs.folder import RunFolder
from fakd.settings import Augmentation, Hardware, Intervals, Schedule, Settings, Task
from fakd.training import compiling, folding
from fakd.training.folding import fold_batch_norms
from fakd.training.loop import Training
from fakd.training.objective import Supervised
from fakd.training.replay import replay
from fakd.training.start import start
from fakd.training.task import TaskLoss
from fakd.training.teacher import NetworkTeacher
from fakd.types import Prediction, Segmenter
from stand_ins import message

BATCH = Batch(
    torch.zeros(2, 3, 32, 48, dtype=torch.uint8),
    torch.zeros(2, 32, 48, dtype=torch.int16),
    torch.arange(2),
    torch.ones(2, dtype=torch.bool),
    [None, None],
)


class Small(Segmenter):
    """Compiled in seconds; has a norm and dropout."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.classes = 12
        norm, drop = nn.BatchNorm2d(8), nn.Dropout2d(0.2)
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), norm, nn.ReLU(), drop)
        self.final = nn.Conv2d(8, 12, 1)

    @property
    def classifier(self):
        return self.final

    def forward(self, images):
        features = self.body(images)
        return Prediction(self.final(features), features)


def training(data, hardware, said=None):
    settings = Settings(
        Schedule(steps=4, batch_size=4, learning_rate=0.05),
        augmentation=Augmentation(crop=(24, 32)),
        intervals=Intervals(log=1, save=2, evaluate=2),
        hardware=hardware,
    )
    console = Console(quiet=said is None, file=said, width=200)
    objective = Supervised(TaskLoss(Task(), 12))
    return Training(start(hardware, 0), Small(), objective, data, settings, console)


def weights(run):
    return copy.deepcopy(run.network.state_dict())


@pytest.fixture
def eager(monkeypatch):
    """Trace networks as for compiling, and let PyTorch's own kernels run what was traced."""
    real = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda module, **options: real(module, backend="eager", dynamic=False)
    )


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no compiler")
def test_a_compiled_run_is_the_same_but_for_rounding(tiny_data, tmp_path):
    plain, fast = (
        training(tiny_data, Hardware(accelerator="cpu", compile=each)) for each in (False, True)
    )
    plain.run()
    with RunFolder(tmp_path / "run", {"schedule": {}}) as folder:
        fast.run(folder)
    for name, value in weights(plain).items():
        torch.testing.assert_close(fast.network.state_dict()[name], value, rtol=1e-4, atol=1e-5)


def test_a_compiled_run_goes_on_is_replayed_and_keeps_its_names(
    tiny_data, tmp_path, eager, monkeypatch
):
    hardware = Hardware(accelerator="cpu", compile=True)
    whole = training(tiny_data, hardware)
    whole.run()
    advance, norms = Training.advance, []

    def dying(self, step, *arguments, **options):
        if step == 3:
            raise KeyboardInterrupt
        terms = advance(self, step, *arguments, **options)
        norms.append(float(terms["gradient_norm"]))
        return terms

    with RunFolder(tmp_path / "run", {"schedule": {}}) as folder:
        with monkeypatch.context() as patched:
            patched.setattr(Training, "advance", dying)
            killed = training(tiny_data, hardware)
            with pytest.raises(KeyboardInterrupt):
                killed.run(folder)
        found = replay(training(tiny_data, hardware), 3, folder.last)
        assert found.since == 2
        assert sum(norm**2 for norm in found.norms.values()) ** 0.5 == pytest.approx(norms[2])
        later = training(tiny_data, hardware)
        later.run(folder)
        with safe_open(folder.last, "pt") as file:
            names = [name for name in file.keys() if "_orig_mod" in name]  # noqa: SIM118
    assert not names
    for name, value in weights(whole).items():
        assert torch.equal(later.network.state_dict()[name], value), name


def test_how_long_compiling_takes_is_told_once(tiny_data, eager, tmp_path):
    with (tmp_path / "log").open("w") as said:
        training(tiny_data, Hardware(accelerator="cpu", compile=True), said).run()
    lines = (tmp_path / "log").read_text().splitlines()
    assert len([line for line in lines if "compiled: the first step took" in line]) == 1


def test_a_machine_without_a_compiler_is_told_so(tiny_data, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    hardware = Hardware(accelerator="cpu", compile=True)
    said = message(lambda: training(tiny_data, hardware))
    assert "there is no no-such-compiler" in said
    assert "leave out --hardware.compile" in said
    monkeypatch.setattr(compiling, "find_spec", lambda name: None)
    gpu = torch.device("cuda")
    assert "pip install triton" in message(lambda: compiling.require_compilers(gpu, hardware))


def test_the_teachers_precision_is_its_own(tiny_data):
    images = torch.rand(2, 3, 32, 48)
    kinds = {}
    for given in (None, "fp32", "bf16"):
        hardware = Hardware(accelerator="cpu", precision="bf16-mixed", teacher_precision=given)
        teacher = NetworkTeacher(Small(), start(hardware, 0), hardware)
        kinds[given] = teacher.answer(images, BATCH).logits.dtype
    assert kinds == {None: torch.bfloat16, "fp32": torch.float32, "bf16": torch.bfloat16}
    alone = Hardware(accelerator="cpu", teacher_precision="bf16")
    assert "needs a teacher" in message(lambda: training(tiny_data, alone))


def settled(network):
    """Give norms statistics and weights that matter."""
    torch.manual_seed(1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -1, 1)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.uniform_(module.bias, -1, 1)
    return network.eval().requires_grad_(False)


def norms_of(network):
    return [each for each in network.modules() if isinstance(each, nn.BatchNorm2d)]


@pytest.mark.parametrize("backbone", ["resnet18", "mobilenetv3_small_050"])
def test_folded_norms_answer_the_same_and_leave_the_network_alone(backbone):
    network = settled(pspnet(backbone, 12, channels=16))
    images, before = torch.rand(2, 3, 64, 80), copy.deepcopy(network.state_dict())
    copied = fold_batch_norms(network, images[:1])
    assert norms_of(network)
    assert not norms_of(copied)
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name
    own, theirs = network(images), copied(images)
    for one, other in zip(own, theirs, strict=True):
        if one is not None:
            assert float((one - other).abs().max()) < 1e-5 * float(one.abs().max())


class Branched(Small):
    """Shows what a convolution gives to a norm to others as well."""

    def forward(self, images):
        raw = self.body[0](images)
        return Prediction(self.final(self.body[1](raw) + raw), None)


class Twice(Small):
    """Runs a convolution twice and its norm once."""

    def forward(self, images):
        raw = self.body[0](images) + self.body[0](images).relu()
        return Prediction(self.final(self.body[1](raw) + self.body[1](self.body[0](images))), None)


@pytest.mark.parametrize("kind", [Branched, Twice])
def test_what_cannot_be_folded_stays_as_it_is(kind):
    network = settled(kind())
    assert fold_batch_norms(network, torch.rand(1, 3, 32, 32)) is network


def test_a_network_that_cannot_be_copied_answers_as_it_is(monkeypatch):
    def refuse(*arguments):
        raise TypeError("cannot pickle")

    monkeypatch.setattr(folding.copy, "deepcopy", refuse)
    network = settled(Small())
    assert fold_batch_norms(network, torch.rand(1, 3, 32, 32)) is network


def test_a_compiled_teacher_answers_other_sizes_too(eager):
    hardware, plain = (Hardware(accelerator="cpu", compile=each) for each in (True, False))
    network, images = settled(Small()), torch.rand(2, 3, 32, 48)
    fast, slow = (NetworkTeacher(network, start(each, 0), each) for each in (hardware, plain))
    torch.testing.assert_close(fast.answer(images, BATCH), slow.answer(images, BATCH))
    assert not norms_of(fast._asked)
    whole = torch.rand(1, 3, 40, 56)
    inference = Settings().inference
    assert torch.equal(fast.predict(whole, 0, inference), slow.predict(whole, 0, inference))
