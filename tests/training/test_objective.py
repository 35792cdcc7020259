import pytest
import torch
import torch.nn.functional as F

from fakd.errors import InputError
from fakd.losses import ChannelKL, PixelKL, Relational, WeightedSum, channel_kl
from fakd.models import adapt, pspnet
from fakd.settings import Task
from fakd.training.objective import Distillation, Supervised, to_student_grid
from fakd.training.task import TaskLoss, cross_entropy
from fakd.types import LossInputs, Prediction


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, 3, 32, 48, generator=generator)
    labels = torch.randint(0, 12, (2, 32, 48), generator=generator)
    labels[:, :4] = -1
    return images, labels


TASK = TaskLoss(Task(), 12)
ALL = torch.ones(2, dtype=torch.bool)


def answer(teacher, images):
    with torch.no_grad():
        return teacher.eval()(images)


def test_cross_entropy_divides_by_valid_or_by_all_pixels():
    logits = torch.randn(2, 5, 4, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(0, 5, (2, 8, 8), generator=torch.Generator().manual_seed(1))
    labels[:, :2] = -1
    large = F.interpolate(logits, (8, 8), mode="bilinear")
    valid = F.cross_entropy(large, labels, ignore_index=-1)
    torch.testing.assert_close(cross_entropy(logits, labels), valid)
    torch.testing.assert_close(cross_entropy(logits, labels, "all"), valid * 0.75)


def test_a_batch_without_labels_gives_zero_not_nan():
    labels = torch.full((1, 8, 8), -1)
    logits = torch.randn(1, 5, 4, 4, requires_grad=True)
    loss = cross_entropy(logits, labels)
    loss.backward()
    assert loss == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_supervised_adds_the_auxiliary_head(tiny_network, batch):
    images, labels = batch
    student = tiny_network(images)
    terms = Supervised(TaskLoss(Task(auxiliary_weight=0.4), 12))(student, labels, ALL, 0.0).terms
    assert list(terms) == ["task", "auxiliary"]
    torch.testing.assert_close(terms["auxiliary"], 0.4 * cross_entropy(student.auxiliary, labels))


def test_distillation_weighs_the_loss_and_trains_only_the_student(tiny_network, batch):
    images, labels = batch
    torch.manual_seed(1)
    teacher = pspnet("mobilenetv3_small_050", 12, channels=24).eval()
    objective = Distillation(teacher, tiny_network, ChannelKL(weight=3.0), TASK)
    objective.train()
    student = tiny_network(images)
    terms = objective(student, labels, ALL, 0.5, teacher(images)).terms
    with torch.no_grad():
        expected = 3 * channel_kl(student.logits, teacher(images).logits)
    torch.testing.assert_close(terms["distillation"], expected.detach(), check_dtype=False)
    sum(terms.values()).backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert not [name for name in objective.state_dict() if "teacher" in name]


def test_strength_brings_statistics_that_are_saved(tiny_network, batch):
    images, labels = batch
    teacher = pspnet("mobilenetv3_small_050", 12, channels=16)
    objective = Distillation(teacher, tiny_network, ChannelKL(strength=1.0))
    outcome = objective(tiny_network(images), labels, ALL, 0.5, answer(teacher, images))
    small = F.interpolate(labels[:, None].float(), (4, 6), mode="nearest").long()
    counts = torch.bincount(small[small != -1].flatten(), minlength=12)
    assert torch.equal(objective.covariance.count, counts)
    assert "covariance.count" in objective.state_dict()
    measures = objective.measures(outcome)
    assert measures["lambda"] == pytest.approx(0.5)
    assert measures["augmentation"] > 0
    assert Supervised(TaskLoss(Task(), 12)).measures(outcome) == {}


@pytest.mark.parametrize("kind", ["diagonal", "full", "logits"])
def test_a_relative_strength_goes_on_where_its_state_was_saved(tiny_network, batch, kind):
    images, labels = batch
    teacher = pspnet("mobilenetv3_small_050", 12, channels=16)
    loss = WeightedSum(
        {
            "maps": ChannelKL(strength=0.2, strength_unit="margin", covariance=kind),
            "pixels": PixelKL(strength=0.1, strength_unit="margin", covariance=kind),
        }
    )
    first, second = (Distillation(teacher, tiny_network, loss) for _ in range(2))
    student, said = tiny_network.eval()(images), answer(teacher, images)
    for progress in (0.3, 0.31):
        first(student, labels, ALL, progress, said)
    second.load_state_dict(first.state_dict())
    outcomes = [each(student, labels, ALL, 0.33, said) for each in (first, second)]
    assert all(outcomes[0].terms[name].equal(outcomes[1].terms[name]) for name in loss.losses)
    measures = [
        each.measures(outcome) for each, outcome in zip((first, second), outcomes, strict=True)
    ]
    assert measures[0] == measures[1]
    assert measures[0]["maps/lambda"] == 2 * measures[0]["pixels/lambda"] > 0
    # Seen once for both losses, and once for each batch.
    small = F.interpolate(labels[:, None].float(), (4, 6), mode="nearest").long()
    assert first.margin.present.sum() == (small != -1).sum()


def test_without_labels_the_teacher_names_the_classes(tiny_network, batch):
    images, labels = batch
    teacher = pspnet("mobilenetv3_small_050", 12, channels=16)
    objective = Distillation(teacher, tiny_network, PixelKL(strength=1.0))
    labels = torch.full_like(labels, 255)
    terms = objective(tiny_network(images), labels, ~ALL, 1.0, answer(teacher, images)).terms
    assert list(terms) == ["distillation"]
    assert objective.covariance.count.sum() == 2 * 4 * 6


def test_a_batch_of_both_takes_each_samples_classes_from_where_they_are(tiny_network, batch):
    images, labels = batch
    labels[1] = -1
    teacher = pspnet("mobilenetv3_small_050", 12, channels=16)
    objective = Distillation(teacher, tiny_network, PixelKL(strength=1.0), task=TASK)
    said, labelled = answer(teacher, images), torch.tensor([True, False])
    student = tiny_network(images)
    outcome = objective(student, labels, labelled, 0.0, said)
    assert torch.equal(outcome.inputs.labels[0], labels[0, ::8, ::8])
    assert torch.equal(outcome.inputs.labels[1], said.logits[1].argmax(0))
    alone = cross_entropy(student.logits[:1], labels[:1])
    torch.testing.assert_close(outcome.terms["task"], alone)


def test_a_step_without_the_teachers_answer_is_refused(tiny_network, batch):
    images, labels = batch
    objective = Distillation(tiny_network, tiny_network, ChannelKL())
    with pytest.raises(ValueError, match="teacher's prediction"):
        objective(tiny_network(images), labels, ALL, 0.0)


def test_a_teacher_that_is_only_a_function_and_has_another_grid(tiny_network, batch):
    images, labels = batch
    weights = torch.randn(12, 3, 1, 1, generator=torch.Generator().manual_seed(0))
    teacher = adapt(lambda x: F.conv2d(F.avg_pool2d(x, 4), weights), classes=12)
    objective = Distillation(teacher, tiny_network, ChannelKL())
    terms = objective(tiny_network(images), labels, ALL, 0.0, answer(teacher, images)).terms
    assert torch.isfinite(terms["distillation"])


def test_the_student_grid_takes_bilinear_logits_and_nearest_labels():
    teacher = Prediction(torch.randn(1, 3, 16, 16))
    labels = torch.randint(0, 3, (1, 64, 64))
    moved, small = to_student_grid(teacher, labels, torch.zeros(1, 3, 8, 8))
    torch.testing.assert_close(
        moved.logits, F.interpolate(teacher.logits, (8, 8), mode="bilinear", align_corners=False)
    )
    assert torch.equal(small, labels[:, ::8, ::8])


def test_the_teachers_features_keep_their_grid():
    teacher = Prediction(torch.randn(1, 3, 16, 16), torch.randn(1, 5, 16, 16))
    moved, _ = to_student_grid(
        teacher, torch.zeros(1, 64, 64, dtype=torch.long), torch.zeros(1, 3, 8, 8)
    )
    assert moved.features is teacher.features


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("side", [8, 16])
@pytest.mark.parametrize("loss", [PixelKL(), ChannelKL(temperature=4.0), Relational()])
def test_a_class_that_the_teacher_rules_out_has_no_probability(loss, side, dtype):
    logits = torch.randn(1, 3, 16, 16).to(dtype)
    never, hardly = logits.clone(), logits.clone()
    never[:, 1], hardly[:, 1] = -torch.inf, -1e4
    student = Prediction(torch.randn(1, 3, side, side, requires_grad=True))
    found = []
    for each in (never, hardly):
        moved, labels = to_student_grid(
            Prediction(each), torch.zeros(1, 64, 64, dtype=torch.long), student.logits
        )
        value = loss(LossInputs(student, moved, labels))
        found += [value, *torch.autograd.grad(value, student.logits)]
    torch.testing.assert_close(found[:2], found[2:])
    assert found[1].isfinite().all()


def test_class_counts_must_agree(tiny_network):
    teacher = pspnet("mobilenetv3_small_050", 7, channels=16)
    with pytest.raises(InputError, match="teacher has 7 classes, the student 12"):
        Distillation(teacher, tiny_network, ChannelKL())


def test_a_student_without_features_can_only_use_its_logits(tiny_network):
    student = adapt(lambda x: x[:, :1].expand(-1, 12, -1, -1), classes=12)
    with pytest.raises(InputError, match="covariance='logits'"):
        Distillation(tiny_network, student, ChannelKL(strength=1.0))


@pytest.mark.parametrize("confidence", [0.0, 0.2, 0.999])
def test_where_an_image_has_no_labels_the_teacher_counts_if_it_is_sure(
    tiny_network, batch, confidence
):
    images, labels = batch
    teacher = answer(pspnet("mobilenetv3_small_050", 12, channels=24), images)
    sharp = teacher._replace(logits=40 * teacher.logits)
    loss = PixelKL(strength=1.0)
    objective = Distillation(tiny_network, tiny_network, loss, TASK, confidence)
    named = torch.tensor([True, False])
    outcome = objective(tiny_network(images), labels, named, 0.5, sharp)
    small = F.interpolate(labels[:, None].float(), (4, 6), mode="nearest")[:, 0].long()
    expected = small.clone()
    for row in range(4):
        for col in range(6):
            chance = sharp.logits[1, :, row, col].softmax(0)
            expected[1, row, col] = chance.argmax() if chance.max() >= confidence else -1
    assert torch.equal(outcome.inputs.labels, expected)
    counts = expected[expected >= 0].bincount(minlength=12)
    assert torch.equal(objective.covariance.count.long()[:12], counts)


def test_an_image_without_labels_has_no_part_in_the_tasks_gradient(tiny_network, batch):
    images, labels = batch
    objective = Supervised(TASK)
    named = torch.tensor([True, False])
    hidden = labels.clone()
    hidden[1] = -1
    # Without batch norm's statistics images do not touch each other.
    tiny_network.eval()
    mixed = objective(tiny_network(images), hidden, named, 0.0).terms["task"]
    alone = objective(tiny_network(images[:1]), labels[:1], named[:1], 0.0).terms["task"]
    torch.testing.assert_close(mixed, alone)
    assert objective(tiny_network(images), labels, ALL, 0.0).terms["task"] != mixed
