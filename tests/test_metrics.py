import math

import pytest
import torch

from fakd.metrics import Scores, confusion_matrix, jensen_shannon
from fakd.types import IGNORE


def loop_scores(prediction, labels, classes):
    """Count pixel by pixel, as anyone would on paper."""
    hit, truth, said = [0] * classes, [0] * classes, [0] * classes
    for p, y in zip(prediction.flatten().tolist(), labels.flatten().tolist(), strict=True):
        if y == IGNORE:
            continue
        truth[y] += 1
        said[p] += 1
        hit[y] += p == y
    union = [t + s - h for t, s, h in zip(truth, said, hit, strict=True)]
    iou = [h / u for h, u, t in zip(hit, union, truth, strict=True) if t]
    accuracy = [h / t for h, t in zip(hit, truth, strict=True) if t]
    return sum(iou) / len(iou), sum(accuracy) / len(accuracy), sum(hit) / sum(truth)


def random_masks(seed, classes=7, absent=3):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (3, 9, 11), generator=generator)
    prediction = torch.randint(0, classes, (3, 9, 11), generator=generator)
    labels[labels == absent] = IGNORE
    return prediction, labels.to(torch.int16)


def test_scores_equal_a_loop_over_pixels():
    for seed in range(5):
        prediction, labels = random_masks(seed)
        scores = Scores.from_matrix(confusion_matrix(prediction, labels, 7))
        expected = loop_scores(prediction, labels, 7)
        actual = (scores.miou, scores.macc, scores.pixel_accuracy)
        torch.testing.assert_close(torch.tensor(actual), torch.tensor(expected))


def test_a_class_absent_from_both_is_not_counted():
    labels = torch.tensor([0, 0, 1, 1])
    scores = Scores.from_matrix(confusion_matrix(labels, labels, 3))
    assert scores.miou == 1.0
    assert math.isnan(float(scores.iou[2]))


def test_a_class_that_no_label_shows_counts_in_no_mean():
    labels, prediction = torch.tensor([0, 0, 0, 0]), torch.tensor([0, 0, 0, 1])
    scores = Scores.from_matrix(confusion_matrix(prediction, labels, 2))
    assert scores.miou == 0.75
    assert scores.macc == 0.75


def test_ignored_pixels_leave_prediction_and_truth():
    labels, prediction = torch.tensor([0, IGNORE, 1, IGNORE]), torch.tensor([0, 1, 1, 0])
    assert confusion_matrix(prediction, labels, 2).tolist() == [[1, 0], [0, 1]]


def test_matrices_of_parts_add_up():
    prediction, labels = random_masks(0)
    parts = sum(confusion_matrix(p, y, 7) for p, y in zip(prediction, labels, strict=True))
    assert torch.equal(parts, confusion_matrix(prediction, labels, 7))


@pytest.mark.parametrize("classes", [1, 7, 150, 255, 300])
def test_every_kind_of_integer_counts_the_same(classes):
    generator = torch.Generator().manual_seed(classes)
    labels = torch.randint(0, classes, (64, 65), generator=generator)
    prediction = torch.randint(0, classes, (64, 65), generator=generator)
    labels[:9] = IGNORE
    expected = torch.zeros(classes, classes, dtype=torch.long)
    for truth, said in zip(labels[9:].flatten(), prediction[9:].flatten(), strict=True):
        expected[truth, said] += 1
    for kind in (torch.int16, torch.int32, torch.int64):
        for other in (torch.int16, torch.int64):
            matrix = confusion_matrix(prediction.to(kind), labels.to(other), classes)
            assert matrix.dtype == torch.int64
            assert torch.equal(matrix, expected)


@pytest.mark.parametrize("label", [3, 254, 255, 256, 900])
def test_labels_of_no_class_are_refused_rather_than_left_out(label):
    labels = torch.tensor([0, IGNORE, 1, label])
    with pytest.raises(ValueError, match=f"from 0 to 2 or -1 for none, got {label}"):
        confusion_matrix(torch.zeros(4, dtype=torch.long), labels, 3)


def test_json_is_in_percent_and_has_no_nan():
    labels = torch.tensor([0, 0, 1, 1])
    scores = Scores.from_matrix(confusion_matrix(labels, labels, 3))
    result = scores.as_dict(("a", "b", "c"))
    assert result["miou"] == 100.0
    assert result["classes"]["c"] == {"iou": None, "accuracy": None, "pixels": 0}


def test_jensen_shannon_is_what_two_divergences_from_the_mean_say():
    torch.manual_seed(0)
    one, other = 3 * torch.randn(2, 2, 5, 70, 4)
    found = jensen_shannon(one, other, temperature=2.0)
    p, q = (torch.softmax(each.double() / 2, 1) for each in (one, other))
    mean = (p + q) / 2
    expected = sum((each * (each / mean).log2()).sum(1) for each in (p, q)) / 2
    assert torch.allclose(found.double(), expected, atol=1e-6)
    assert torch.equal(found, jensen_shannon(other, one, temperature=2.0))


def test_jensen_shannon_is_finite_where_a_class_is_ruled_out():
    one = torch.tensor([0.0, -math.inf, 0.0]).view(1, 3, 1, 1)
    other = torch.tensor([-math.inf, 0.0, -math.inf]).view(1, 3, 1, 1)
    assert jensen_shannon(one, other).item() == pytest.approx(1.0)
    assert jensen_shannon(one, one).item() == 0.0
