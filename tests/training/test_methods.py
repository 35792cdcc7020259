"""Every published setting in a real training step: what it owes the trainer."""

import pytest
import torch

from fakd.losses import PRESETS, MemoryContrast, WeightedSum, preset
from fakd.models import hypercolumns, pspnet
from fakd.runs.recipe import describe
from fakd.settings import Optimizer, Task
from fakd.specs import build
from fakd.training.checkpoint import load_checkpoint, save_checkpoint
from fakd.training.objective import Distillation
from fakd.training.optimizer import build_optimizer, set_learning_rate
from fakd.training.task import TaskLoss
from fakd.types import IGNORE

CLASSES = 4
# Sums of losses that other presets hold too, with other weights.
SUMS = {"cirkd-voc", "cwd-td-all", "ifvd-official", "skds-cirkd"}
every_preset = pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name in SUMS else ())
        for name in sorted(PRESETS)
    ],
)
RESUMED = ("cwd-fa-logits", "features-cosine", "skds-official")
one_of_each_kind = pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in RESUMED else pytest.mark.slow)
        for name in sorted(PRESETS)
    ],
)


def networks():
    torch.manual_seed(0)
    # Strides 8 and 4, 16 and 24 channels: neither grids nor widths agree.
    student = pspnet("mobilenetv3_small_050", CLASSES, channels=16)
    teacher = hypercolumns("mobilenetv3_small_050", CLASSES, strides=(4, 8), channels=24)
    return student, teacher


def method(name):
    loss = preset(name)
    for part in loss.losses.values() if isinstance(loss, WeightedSum) else [loss]:
        if isinstance(part, MemoryContrast):
            part.pixel_slots, part.region_slots = 32, 8
    return loss


def batch(seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(2, 3, 32, 48, generator=generator)
    labels = torch.randint(CLASSES, (2, 2, 3), generator=generator)
    labels = labels.repeat_interleave(16, 1).repeat_interleave(16, 2)
    labels[0, :5] = -1
    return images, labels


LABELLED = torch.ones(2, dtype=torch.bool)


class Sitting:
    """A run as the trainer conducts it, from the same start or from a checkpoint."""

    def __init__(self, name, checkpoint=None):
        self.student, self.teacher = networks()
        self.objective = Distillation(
            self.teacher, self.student, method(name), task=TaskLoss(Task(), CLASSES)
        )
        beside = self.objective.learnt_with_student()
        self.optimizer = build_optimizer(Optimizer(), self.student, beside)
        set_learning_rate(self.optimizer, 0.01)
        modules = {"network": self.student, "objective": self.objective}
        self.parts = modules, (self.optimizer, *self.objective.optimizers())
        if checkpoint is not None:
            load_checkpoint(checkpoint, *self.parts)

    def step(self, number):
        torch.manual_seed(number)
        images, labels = batch(number)
        outcome = self.outcome(images, labels, number / 4)
        self.optimizer.zero_grad()
        sum(outcome.terms.values()).backward()
        self.optimizer.step()
        return {**outcome.terms, **self.objective.after_step(outcome)}

    def outcome(self, images, labels, progress):
        with torch.no_grad():
            answer = self.teacher.eval()(images)
        return self.objective(self.student(images), labels, LABELLED, progress, answer)

    def tensors(self):
        return {**self.student.state_dict(), **self.objective.state_dict()}


@every_preset
def test_a_step_is_finite_and_reaches_the_student_only(name):
    sitting = Sitting(name)
    before = {key: value.clone() for key, value in sitting.teacher.state_dict().items()}
    terms = sitting.step(0)
    assert set(PRESETS[name]["init_args"].get("losses", ["distillation"])) < set(terms)
    assert all(torch.isfinite(term) for term in terms.values())
    assert sitting.student.classifier.weight.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in sitting.teacher.parameters())
    after = sitting.teacher.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize("name", ["features-l2", "cwd-cirkd", "cirkd", "skds-official"])
def test_what_a_loss_brings_learns(name):
    """Alignment and head with the student, the critic by itself (its attention starts at 0)."""
    sitting = Sitting(name)
    before = {key: value.clone() for key, value in sitting.objective.named_parameters()}
    assert before
    sitting.step(0)
    after = dict(sitting.objective.named_parameters())
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    brought = {key for key in before if ".critic." not in key}
    assert brought <= changed
    assert not before.keys() - brought or changed - brought


@one_of_each_kind
def test_a_resumed_run_equals_an_uninterrupted_one(name, tmp_path):
    whole = Sitting(name)
    for number in range(4):
        whole.step(number)
    first = Sitting(name)
    for number in range(2):
        first.step(number)
    save_checkpoint(tmp_path / "last.safetensors", *first.parts, {"step": 2})
    second = Sitting(name, tmp_path / "last.safetensors")
    for number in range(2, 4):
        second.step(number)
    expected, found = whole.tensors(), second.tensors()
    assert expected.keys() == found.keys()
    different = [key for key in expected if not torch.equal(expected[key], found[key])]
    assert not different


@every_preset
def test_a_batch_without_a_label_is_survived(name):
    sitting = Sitting(name)
    images, _ = batch()
    labels = torch.full((2, 32, 48), IGNORE)
    outcome = sitting.outcome(images, labels, 0.5)
    sum(outcome.terms.values()).backward()
    terms = outcome.terms | sitting.objective.after_step(outcome)
    assert all(torch.isfinite(term) for term in terms.values())
    gradients = [p.grad for p in sitting.student.parameters() if p.grad is not None]
    assert all(gradient.isfinite().all() for gradient in gradients)


@every_preset
def test_half_precision_networks_give_nearly_the_same_loss(name):
    images, labels = batch()
    sitting = Sitting(name)
    with torch.no_grad():
        student, teacher = sitting.student(images), sitting.teacher.eval()(images)
    values = []
    for dtype in (torch.float32, torch.bfloat16):
        sitting = Sitting(name)
        torch.manual_seed(0)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            said = _cast(student, dtype), _cast(teacher, dtype)
            values.append(sitting.objective(said[0], labels, LABELLED, 0.5, said[1]).terms)
    for key, exact in values[0].items():
        assert values[1][key].dtype == torch.float32
        torch.testing.assert_close(values[1][key], exact, rtol=0.05, atol=0.02)


def _cast(prediction, dtype):
    return type(prediction)(*(None if part is None else part.to(dtype) for part in prediction))


@every_preset
def test_the_loss_describes_itself_as_a_recipe(name):
    written, spec = describe(preset(name)), PRESETS[name]
    assert written["class_path"] == spec["class_path"]
    parts = [(spec, written)]
    if "losses" in spec["init_args"]:
        pairs = spec["init_args"]["losses"], written["init_args"]["losses"]
        assert pairs[0].keys() == pairs[1].keys()
        parts = list(zip(pairs[0].values(), pairs[1].values(), strict=True))
    for given, found in parts:
        assert found["class_path"] == given["class_path"]
        assert given["init_args"].items() <= found["init_args"].items()
    assert describe(build(written)) == written


def test_presets_are_listed_when_one_is_mistyped():
    with pytest.raises(ValueError, match="ifvd-official"):
        preset("ifvd")
