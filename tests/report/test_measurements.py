"""Boundary IoU, calibration and cost against slow loops and closed forms."""

import math

import pytest
import torch
from torch import nn

from fakd.data import scenes
from fakd.models import pspnet
from fakd.report.examination import SHOTS, TEACHER, disagreement, evenly_spaced, examine
from fakd.report.measurements import (
    BINS,
    Quality,
    boundary_counts,
    boundary_width,
    calibration_error,
    cost_of,
    input_size,
    reliability,
)
from fakd.settings import Inference
from fakd.types import IGNORE, Prediction, Segmenter


def region(classes, known, wanted, width):
    """Pixels of a class within ``width`` of a known pixel of another, or of the border."""
    rows, cols = classes.shape
    found = set()
    for i in range(rows):
        for j in range(cols):
            if not known[i, j] or classes[i, j] != wanted:
                continue
            for y in range(i - width, i + width + 1):
                for x in range(j - width, j + width + 1):
                    outside = not (0 <= y < rows and 0 <= x < cols)
                    if outside or (known[y, x] and classes[y, x] != wanted):
                        found.add((i, j))
    return found


@pytest.mark.parametrize("size", [(9, 11), (40, 70)])
@pytest.mark.parametrize("seed", range(4))
def test_boundary_counts_agree_with_loops_over_pixels(seed, size):
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randint(0, 3, (2, 1, 3, 4), generator=generator).float()
    prediction, labels = nn.functional.interpolate(coarse, size).long()[:, 0]
    labels[torch.rand(size, generator=generator) < 0.05] = IGNORE
    known, width = labels != IGNORE, boundary_width(*size)
    expected = torch.zeros(3, 3, dtype=torch.long)
    for wanted in range(3):
        truth = region(labels, known, wanted, width)
        said = region(prediction, known, wanted, width)
        expected[:, wanted] = torch.tensor([len(truth & said), len(truth), len(said)])
    assert torch.equal(boundary_counts(prediction, labels, 3), expected)


def test_the_region_is_what_repeated_erosion_leaves_out():
    labels = torch.zeros(100, 100, dtype=torch.long)
    labels[20:60, 30:80] = 1
    width = boundary_width(100, 100)
    assert width == 3
    mask = (labels == 1).float()[None, None]
    eroded = mask
    for _ in range(width):
        eroded = -nn.functional.max_pool2d(-eroded, 3, stride=1, padding=1)
    counts = boundary_counts(labels, labels, 2)
    assert counts[:, 1].tolist() == [int((mask - eroded).sum())] * 3


def test_ignored_pixels_neither_count_nor_make_a_contour():
    labels = torch.zeros(60, 60, dtype=torch.long)
    plain = boundary_counts(labels, labels, 2)
    labels[30, 30] = IGNORE
    prediction = torch.zeros(60, 60, dtype=torch.long)
    prediction[30, 30] = 1
    assert torch.equal(boundary_counts(prediction, labels, 2), plain)


def test_a_shift_costs_more_on_the_boundary_than_inside():
    labels = torch.zeros(100, 100, dtype=torch.long)
    labels[20:80, 20:80] = 1
    shifted = labels.roll(2, 1)
    found, truth, said = (int(each) for each in boundary_counts(shifted, labels, 2)[:, 1])
    both = int(((labels == 1) & (shifted == 1)).sum())
    assert found / (truth + said - found) < 0.6 < both / (2 * 3600 - both)


def test_calibration_error_of_a_known_case_and_of_loops():
    confidence = torch.tensor([0.9, 0.9, 0.9, 0.9, 0.6, 0.6])
    right = torch.tensor([True, True, True, False, True, False])
    expected = 4 / 6 * abs(0.75 - 0.9) + 2 / 6 * abs(0.5 - 0.6)
    found = calibration_error(reliability(confidence, right))
    assert found == pytest.approx(expected, abs=1e-6)
    confidence, right = torch.rand(500), torch.rand(500) < 0.5
    total = 0.0
    for m in range(BINS):
        members = [i for i in range(500) if m / BINS < confidence[i] <= (m + 1) / BINS]
        if members:
            gap = sum(float(right[i]) - float(confidence[i]) for i in members) / len(members)
            total += len(members) / 500 * abs(gap)
    found = calibration_error(reliability(confidence, right))
    assert found == pytest.approx(total, abs=1e-6)


def test_bins_are_those_of_all_pixels_however_they_come():
    confidence, right = torch.rand(300), torch.rand(300) < 0.5
    parts = [reliability(confidence[i::3], right[i::3]) for i in range(3)]
    joined, whole = sum(parts), reliability(confidence, right)
    assert torch.equal(joined[[0, 2]], whole[[0, 2]])
    torch.testing.assert_close(joined[1], whole[1])
    assert calibration_error(joined) == pytest.approx(calibration_error(whole))
    assert math.isnan(calibration_error(torch.zeros(3, BINS)))


def test_an_edge_belongs_to_the_bin_below():
    edge = torch.tensor([3 / BINS], dtype=torch.float64)
    assert reliability(edge, torch.tensor([True]))[0].nonzero().tolist() == [[2]]


def test_certainty_belongs_to_the_last_bin():
    sure = reliability(torch.tensor([1.0, 1.0]), torch.tensor([True, True]))
    assert sure[0, -1] == 2
    assert calibration_error(sure) == 0


class Fixed(Segmenter):
    """Says the same of every image: a convolution without bias on nothing but ones."""

    def __init__(self, classes=4, favourite=0):
        super().__init__()
        self.classes = classes
        self.conv = nn.Conv2d(3, classes, 1, bias=False)
        nn.init.zeros_(self.conv.weight)
        self.favourite = favourite

    def forward(self, images):
        logits = self.conv(images)
        raised = torch.zeros_like(logits)
        raised[:, self.favourite] = 2.0
        return Prediction(logits + raised)

    @property
    def classifier(self):
        return self.conv


def test_cost_is_counted_and_timed_as_the_network_is():
    cost = cost_of(Fixed().eval(), (10, 20))
    assert cost.parameters == 12
    # Two per multiply-accumulate: 12 of them at each of 200 positions.
    assert cost.flops == 2 * 12 * 200
    low, high = cost.quartiles
    assert 0 < low <= cost.latency <= high
    assert "1 thread" in cost.device


def test_quality_of_a_network_that_always_says_the_same():
    quality = Quality(Fixed().eval(), Inference())
    labels = torch.zeros(8, 8, dtype=torch.uint8)
    classes = quality.add(torch.zeros(3, 8, 8, dtype=torch.uint8), labels)
    assert not classes.any()
    sure = math.exp(2) / (math.exp(2) + 3)
    assert quality.calibration_error == pytest.approx(100 * (1 - sure), abs=1e-3)
    assert quality.mean_boundary_iou == 100


@pytest.mark.parametrize(
    ("inference", "expected"),
    [
        (Inference(), (72, 96)),
        (Inference(scale=0.5), (36, 48)),
        (Inference(window=64), (64, 64)),
        (Inference(window=80), (72, 80)),
    ],
)
def test_cost_is_that_of_what_the_network_sees_at_a_time(inference, expected):
    assert input_size((72, 96), inference) == expected


def test_students_are_compared_with_the_teacher_or_else_the_labels():
    labels = torch.tensor([[0, 1], [1, IGNORE]])
    teacher, student = torch.tensor([[0, 1], [2, 0]]), torch.tensor([[0, 0], [2, 1]])
    said = {TEACHER: teacher, "student alone": student}
    assert disagreement(said, labels) == pytest.approx(1 / 3)
    assert disagreement({"student alone": student}, labels) == pytest.approx(2 / 3)
    assert disagreement({TEACHER: teacher}, labels) == 0
    assert evenly_spaced(232, 100)[:3] == [1, 3, 5]
    assert evenly_spaced(4, 100) == [0, 1, 2, 3]


def test_pictures_kept_are_those_that_divide_most():
    data = scenes(train=1, val=SHOTS + 4, size=(32, 48))
    torch.manual_seed(3)
    networks = {
        name: pspnet("mobilenetv3_small_050", data.classes, channels=16).eval()
        for name in (TEACHER, "student alone")
    }
    done = []
    found = examine(networks, data.val, Inference(), 100, done.append)
    shares = [shot.disagreement for shot in found.shots]
    all_shares = []
    for sample in data.val:
        said = {
            name: Quality(network, Inference()).add(sample.image, sample.labels)
            for name, network in networks.items()
        }
        all_shares.append(disagreement(said, sample.labels))
    assert shares == pytest.approx(sorted(all_shares, reverse=True)[:SHOTS])
    assert done == list(range(1, SHOTS + 5))
    assert list(found.shots[0].maps) == ["truth", TEACHER, "student alone"]
    # Built alike, so timed once.
    assert found.costs[TEACHER] is found.costs["student alone"]
