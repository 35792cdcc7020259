import math

import pytest
import torch

from fakd.losses import HardLabels, hard_label_cross_entropy


def by_loops(student, teacher, threshold):
    total, count = 0.0, 0
    for n in range(len(student)):
        for row in range(student.shape[2]):
            for col in range(student.shape[3]):
                shares = [math.exp(each) for each in teacher[n, :, row, col].tolist()]
                best = max(range(len(shares)), key=shares.__getitem__)
                if shares[best] / sum(shares) < threshold:
                    continue
                scores = student[n, :, row, col].tolist()
                total -= scores[best] - math.log(sum(map(math.exp, scores)))
                count += 1
    return total / max(count, 1)


@pytest.mark.parametrize("threshold", [0.0, 0.4, 0.6, 0.999])
def test_it_is_the_cross_entropy_to_the_teachers_class(threshold):
    generator = torch.Generator().manual_seed(0)
    student, teacher = (
        torch.randn(2, 4, 3, 5, generator=generator, dtype=torch.float64) for _ in range(2)
    )
    found = hard_label_cross_entropy(student, teacher, threshold)
    assert found.item() == pytest.approx(by_loops(student, teacher, threshold), abs=1e-12)


def test_thresholds_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="from 0 to below 1, got 1"):
        HardLabels(threshold=1.0)


def test_only_the_mean_over_all_pixels_may_go_in_parts():
    assert HardLabels().image_by_image
    assert not HardLabels(threshold=0.5).image_by_image
