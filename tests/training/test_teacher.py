"""Who answers a batch: a network, or anything else that knows what the batch shows."""

import copy
import os
import signal

import numpy as np
import pytest
import torch
from rich.console import Console

from fakd import signals
from fakd.answers import Mapped, Several, Stored
from fakd.answers.combining import map_classes, mix_logits
from fakd.answers.maps import Answers, Maps
from fakd.data import cut_like, training_batches
from fakd.errors import InputError
from fakd.losses import ChannelKL, FeatureDistance
from fakd.losses.grid import labels_on_grid_of
from fakd.metrics import Scores
from fakd.models import pspnet
from fakd.settings import Augmentation, Hardware, Schedule, Settings, Task
from fakd.signals import Interrupted
from fakd.training.loop import Training
from fakd.training.objective import Distillation
from fakd.training.start import start
from fakd.training.task import TaskLoss
from fakd.training.teacher import (
    MappedTeacher,
    MixedTeacher,
    NetworkTeacher,
    StoredTeacher,
    Teacher,
    require_distinct,
    scores_of,
    teacher_of,
)
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

    def predict(self, image, index, inference, part="val"):
        raise NotImplementedError

    def fingerprint(self):
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
    assert "are the same object; pass a copy of the student" in message(
        lambda: require_distinct(one, one)
    )
    require_distinct(one, copy.deepcopy(one))
    other.backbone = one.backbone
    said = message(lambda: require_distinct(one, other))
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
        with pytest.raises(InputError, match="predicting one class everywhere"):
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
    assert "output on scenes is infinite or NaN" in said


class Constant(Answers):
    """Maps that name each sample, on a grid of four pixels to the cell."""

    title, classes, channels, fingerprint = "constant", 12, None, "0"

    def __init__(self, channels=None, turn=0, stride=4):
        self.channels, self.turn, self.stride = channels, turn, stride

    def find(self, part, split):
        return range(len(split))

    def read(self, part, place, size):
        height, width = (side // self.stride for side in size)
        logits = np.zeros((12, height, width), np.float32)
        logits[:, : height // 2] = place + 1
        logits[0] += 100 * (part == "val")
        logits = np.roll(logits + np.arange(12)[:, None, None], self.turn, 0).astype(np.float32)
        return Maps(logits, None if self.channels is None else logits[: self.channels])


def batch_of(data, lookup, **augmentation):
    augmentation = Augmentation(crop=(32, 48), photometric=False, **augmentation)
    batches = training_batches(data.train, augmentation, 4, 0, 0, 1, lookup=lookup)
    return next(iter(batches))


def stored(data, fabric, channels=None):
    return StoredTeacher(Constant(channels), data, fabric)


def test_stored_answers_are_those_of_the_samples_of_a_batch(fabric, tiny_data):
    teacher = stored(tiny_data, fabric)
    whole = {"scale": (1.0, 1.0), "flip": 0.0}
    batch = batch_of(tiny_data, teacher.lookup, **whole)
    answer = teacher.answer(batch.images / 255, batch)
    assert answer.features is None
    for index, logits in zip(batch.indices, answer.logits, strict=True):
        wanted = teacher.answers.read("train", int(index), (32, 48)).logits
        torch.testing.assert_close(logits, torch.from_numpy(wanted))


def test_a_signal_stops_the_scoring_of_stored_answers(fabric, tiny_data, monkeypatch):
    teacher = stored(tiny_data, fabric)
    assert 0 < teacher.validate(tiny_data.val, Settings()).miou < 1
    read = []

    def signalled(part, index, size):
        read.append(index)
        os.kill(os.getpid(), signal.SIGUSR1)
        return Constant.read(teacher.answers, part, index, size)

    monkeypatch.setattr(teacher.answers, "read", signalled)
    with signals.listening(lambda number: None), pytest.raises(Interrupted):
        teacher.validate(tiny_data.val, Settings())
    assert len(read) == 1


def test_stored_answers_are_cut_as_their_views_are(fabric, tiny_data):
    teacher = stored(tiny_data, fabric)
    batch = batch_of(tiny_data, teacher.lookup, scale=(1.5, 2.0))
    for index, geometry, logits in zip(
        batch.indices, batch.geometries, batch.answers[0], strict=True
    ):
        maps = torch.from_numpy(teacher.answers.read("train", int(index), (32, 48)).logits)
        assert torch.equal(logits, cut_like(maps, geometry, (8, 12)))


@pytest.mark.parametrize(("of_maps", "of_views"), [(1, 4), (2, 2), (4, 4), (8, 8)])
def test_views_have_the_grid_of_the_maps_unless_those_are_as_large_as_images(
    fabric, tiny_data, of_maps, of_views
):
    teacher = StoredTeacher(Constant(stride=of_maps), tiny_data, fabric)
    batch = batch_of(tiny_data, teacher.lookup)
    assert teacher.stride == of_views
    assert batch.answers[0].shape[2:] == (32 // of_views, 48 // of_views)


def test_answers_go_on_into_padding(fabric, tiny_data):
    batch = batch_of(tiny_data, stored(tiny_data, fabric).lookup, scale=(0.5, 0.5))
    for index, logits in zip(batch.indices, batch.answers[0], strict=True):
        assert (logits[1, -1] == 1).all()
        assert (logits[1, 0] == int(index) + 2).all()


def test_mixed_images_have_mixed_answers(fabric, tiny_data):
    lookup = stored(tiny_data, fabric).lookup
    plain = batch_of(tiny_data, lookup, scale=(1.0, 1.0))
    mixed = batch_of(tiny_data, lookup, scale=(1.0, 1.0), mix="cutmix", mix_probability=1.0)
    changed = 0
    for i, geometry in enumerate(mixed.geometries):
        own, other = plain.answers[0][i], plain.answers[0][i ^ 1]
        pasted = (mixed.images[i] != plain.images[i]).any(0)[2::4, 2::4]
        same = (plain.images[i] == plain.images[i ^ 1]).all(0)[2::4, 2::4]
        changed += int(geometry is None)
        wanted = torch.where(pasted, other, own)
        assert torch.equal(mixed.answers[0][i][:, ~same], wanted[:, ~same])
    assert changed


def test_batches_are_the_same_from_worker_processes_and_in_parts(fabric, tiny_data):
    lookup = stored(tiny_data, fabric, channels=2).lookup
    augmentation = Augmentation(crop=(32, 48))
    given = (tiny_data.train, augmentation, 4, 0, 0, 2)
    here = list(training_batches(*given, lookup=lookup))
    there = list(training_batches(*given, lookup=lookup, workers=2))
    for ours, theirs in zip(here, there, strict=True):
        for one, other in zip(ours.answers, theirs.answers, strict=True):
            assert torch.equal(one, other)
    parts = here[0].parts(2)
    for number, whole in enumerate(here[0].answers):
        assert torch.equal(torch.cat([part.answers[number] for part in parts]), whole)


def test_validation_looks_at_the_validation_answers(fabric, tiny_data):
    teacher = stored(tiny_data, fabric)
    scores = teacher.validate(tiny_data.val, SETTINGS)
    # Class 0 is 100 ahead on every validation image.
    labels = torch.cat([tiny_data.val[i].labels.flatten() for i in range(4)])
    assert scores.pixel_accuracy == pytest.approx(float((labels[labels >= 0] == 0).float().mean()))


def test_a_network_scores_as_its_own_validation_does(fabric, tiny_data):
    live = NetworkTeacher(network(1), fabric, SETTINGS.hardware)
    one, other = live.validate(tiny_data.val, SETTINGS), Teacher.validate(
        live, tiny_data.val, SETTINGS
    )  # fmt: skip
    assert torch.equal(one.iou, other.iou) or one.miou == other.miou


def test_several_teachers_each_get_their_own_maps(fabric, tiny_data):
    live = NetworkTeacher(network(1), fabric, SETTINGS.hardware)
    other = StoredTeacher(Constant(channels=3, turn=1), tiny_data, fabric)
    members = {"first": stored(tiny_data, fabric), "live": live, "last": other}
    mixed = MixedTeacher(members, [1.0, 2.0, 1.0], "probability")
    assert (mixed.maps, mixed.network.classifier) == (3, None)
    batch = batch_of(tiny_data, mixed.lookup)
    images = batch.images / 255
    found = mixed.answer(images, batch).logits
    each = [batch.answers[0], live.answer(images, batch).logits, batch.answers[1]]
    each = [torch.nn.functional.interpolate(one, (8, 12), mode="bilinear") for one in each]
    torch.testing.assert_close(found, mix_logits(each, [1.0, 2.0, 1.0]))
    scores, members_scores = scores_of(mixed, tiny_data.val, SETTINGS, "t", Console(quiet=True))
    assert list(members_scores) == ["first", "live", "last"]
    assert members_scores["live"] == live.validate(tiny_data.val, SETTINGS).miou
    assert scores.miou != members_scores["live"]


def test_mapped_teachers_answer_in_the_students_classes(fabric, tiny_data):
    inner = stored(tiny_data, fabric, channels=2)
    table = [[0, 1], [2], list(range(2, 12))]
    mapped = MappedTeacher(inner, table, ("a", "b", "c"))
    assert mapped.network.classes == 3
    assert mapped.network.classifier.in_channels == 2
    batch = batch_of(tiny_data, mapped.lookup, scale=(1.0, 1.0))
    batch = batch._replace(labels=batch.labels.clamp(max=2))
    found = mapped.answer(batch.images / 255, batch)
    labels = labels_on_grid_of(found.logits, batch.labels)
    torch.testing.assert_close(found.logits, map_classes(batch.answers[0], table, labels))
    assert torch.equal(found.features, batch.answers[1])
    image = torch.rand(1, 3, 32, 48)
    blind = mapped.predict(image, 0, SETTINGS.inference)
    torch.testing.assert_close(
        blind, map_classes(inner.predict(image, 0, SETTINGS.inference), table)
    )


def test_teachers_of_different_classes_are_not_mixed(fabric, tiny_data):
    one = stored(tiny_data, fabric)
    other = MappedTeacher(one, [[0], [1]], ("a", "b"))
    members = {"one": one, "other": other}
    assert "classes_from" in message(lambda: MixedTeacher(members, [1.0, 1.0], "probability"))


def test_losses_on_features_take_stored_ones_or_say_that_there_are_none(fabric, tiny_data):
    student = network(0)
    with_features = stored(tiny_data, fabric, channels=5)
    loss = FeatureDistance()
    loss.prepare(student, with_features.network)
    without = stored(tiny_data, fabric).network
    assert "only logits" in message(lambda: FeatureDistance().prepare(student, without))


def test_a_student_learns_from_a_store(fabric, tiny_data):
    training = trained(fabric, tiny_data, stored(tiny_data, fabric))
    assert training.state.step == 3
    with pytest.raises(InputError, match="exist only for the images"):
        training.teacher.network(torch.rand(1, 3, 32, 48))


def test_the_sort_of_teacher_follows_from_what_is_named(fabric, tiny_data, tmp_path):
    for split in (tiny_data.train, tiny_data.val):
        for index in range(len(split)):
            path = tmp_path / "answers" / f"{split.name(index)}.npz"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.savez(path, logits=np.random.default_rng(index).normal(size=(3, 4, 6)))
    names = tiny_data.class_names
    content = {"classes": {name: [number % 3] for number, name in enumerate(names)}}
    mapped = Mapped(Stored(tmp_path / "answers"), content)
    several = Several([mapped, network(1)], [1.0, 2.0])
    made = teacher_of(several, tiny_data, fabric, SETTINGS.hardware)
    assert list(made.members) == ["answers", type(network(1)).__name__]
    assert made.network.classes == 12
    assert made.scored
    text = message(lambda: teacher_of(mapped.teacher, tiny_data, fabric, SETTINGS.hardware))
    assert "for 3 classes" in text
    for path in (tmp_path / "answers" / "val").iterdir():
        path.unlink()
    made = teacher_of(mapped, tiny_data, fabric, SETTINGS.hardware)
    assert not made.scored
    assert "not scored" in made.remarks[-1]
