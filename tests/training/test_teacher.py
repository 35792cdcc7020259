"""Who answers a batch: a network, or anything else that knows what the batch shows."""

import copy

import pytest
import torch
from rich.console import Console

from fakd.errors import InputError
from fakd.losses import ChannelKL
from fakd.metrics import Scores
from fakd.models import pspnet
from fakd.settings import Augmentation, Hardware, Schedule, Settings, Task
from fakd.training.loop import Training
from fakd.training.objective import Distillation
from fakd.training.start import start
from fakd.training.task import TaskLoss
from fakd.training.teacher import NetworkTeacher, Teacher, require_apart
from fakd.training.validation import refuse_degenerate_teacher
from stand_ins import message

SETTINGS = Settings(
    Schedule(steps=3, batch_size=2, learning_rate=0.01),
    augmentation=Augmentation(crop=(32, 48), photometric=False),
    hardware=Hardware(accelerator="cpu"),
)


@pytest.fixture
def fabric():
    return start(SETTINGS.hardware, 0)


def network(seed, channels=16):
    torch.manual_seed(seed)
    return pspnet("mobilenetv3_small_050", 12, channels=channels)


def trained(fabric, data, teacher):
    student = network(0)
    objective = Distillation(
        teacher.network, student, ChannelKL(strength=1.0), task=TaskLoss(Task(), 12)
    )
    console = Console(quiet=True)
    training = Training(fabric, student, objective, data, SETTINGS, console, teacher=teacher)
    training.run()
    return training


class Remembering(Teacher):
    """Answers from what another teacher once said to the same views, as a store would."""

    def __init__(self, other):
        self.network, self.other, self.said, self.asked = other.network, other, {}, 0

    def answer(self, images, batch):
        key = tuple(batch.images.sum((1, 2, 3)).tolist())
        if key not in self.said:
            self.asked += 1
            self.said[key] = self.other.answer(images, batch)
        return self.said[key]

    def validate(self, split, settings):
        raise NotImplementedError


def test_answers_may_come_from_anywhere(fabric, tiny_data):
    live = NetworkTeacher(network(1), fabric, SETTINGS.hardware)
    store = Remembering(live)
    first = trained(fabric, tiny_data, store)
    assert store.asked == 3
    again = trained(fabric, tiny_data, store)
    assert store.asked == 3
    plain = trained(fabric, tiny_data, live)
    for run in (again, plain):
        for key, value in first.network.state_dict().items():
            assert torch.equal(value, run.network.state_dict()[key])


def test_a_network_is_frozen_and_laid_out_as_the_student_is(fabric):
    teacher = NetworkTeacher(network(1).train(), fabric, Hardware(accelerator="cpu"))
    weights = [p for p in teacher.network.parameters() if p.ndim == 4 and p.shape[2] > 1]
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)
    assert not any(parameter.requires_grad for parameter in teacher.network.parameters())
    assert not any(module.training for module in teacher.network.modules())
    plain = Hardware(accelerator="cpu", channels_last=False)
    teacher = NetworkTeacher(network(1), fabric, plain)
    assert all(p.is_contiguous() for p in teacher.network.parameters())


def test_a_teacher_that_is_the_student_or_shares_its_weights_is_refused():
    one, other = network(0), network(1)
    assert "are one network; give the student as a copy" in message(lambda: require_apart(one, one))
    require_apart(one, copy.deepcopy(one))
    other.backbone = one.backbone
    said = message(lambda: require_apart(one, other))
    assert "share weights: backbone." in said
    assert "copy.deepcopy" in said


def test_every_teacher_that_names_one_class_everywhere_is_refused():
    """Rounded in single precision, half of these would pass."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(1000):
        classes = int(torch.randint(2, 20, (), generator=generator))
        pixels = torch.randint(0, 10**6, (classes,), generator=generator)
        matrix = torch.zeros(classes, classes, dtype=torch.long)
        matrix[:, pixels.argmax()] = pixels
        with pytest.raises(InputError, match="naming one class everywhere"):
            refuse_degenerate_teacher(Scores.from_matrix(matrix), "data")
        # One pixel in a million that is right beyond that is knowledge.
        rarest = int(pixels.argmin())
        matrix[rarest, pixels.argmax()] -= 1
        matrix[rarest, rarest] += 1
        if pixels[rarest]:
            refuse_degenerate_teacher(Scores.from_matrix(matrix), "data")


def test_a_teacher_whose_answers_are_not_finite_is_refused(fabric, tiny_data):
    broken = network(1)
    torch.nn.init.constant_(broken.classifier.bias, torch.nan)
    answers = NetworkTeacher(broken, fabric, SETTINGS.hardware)
    student = network(0)
    objective = Distillation(broken, student, ChannelKL(), task=TaskLoss(Task(), 12))
    console = Console(quiet=True)
    training = Training(fabric, student, objective, tiny_data, SETTINGS, console, teacher=answers)
    said = message(lambda: training.run(check_teacher=True))
    assert "answers on scenes are infinite or NaN" in said
