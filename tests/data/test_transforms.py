from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torchvision.transforms import v2

from fakd.data import Augmentation, Sample, augment, cut_like
from fakd.data.transforms import MEAN_COLOUR, _draw_axis, build_extra, crop_resized, rotate_pair
from fakd.errors import InputError
from fakd.types import IGNORE

STILL = Augmentation(
    crop=(24, 32), scale=(1.0, 1.0), flip=0.0, photometric=False, largest_class=1.0
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def noise(height, width, seed=0):
    return torch.randint(0, 256, (3, height, width), generator=generator(seed)).byte()


def blocks(height, width, size=16):
    """Labels in blocks, and an image that says at every pixel which label it has."""
    rows, columns = torch.arange(height) // size, torch.arange(width) // size
    labels = ((rows[:, None] * 3 + columns) % 5).short()
    return Sample((labels * 50).byte()[None].repeat(3, 1, 1), labels, "blocks")


def reference_resize(sample, factor):
    """Resize everything, as the crop must look as if it had been cut from it."""
    height, width = sample.labels.shape
    size = (int(height * factor + 0.5), int(width * factor + 0.5))
    image = F.interpolate(sample.image[None].double(), size, mode="bilinear", align_corners=False)
    labels = F.interpolate(sample.labels[None, None].float(), size, mode="nearest")
    return image[0], labels[0, 0].short()


@pytest.mark.parametrize("factor", [0.5, 0.73, 1.0, 1.31, 2.0])
@pytest.mark.parametrize("draws", [(0.0, 0.0), (0.37, 0.62), (0.999, 0.999)])
def test_crop_then_resize_equals_resize_then_crop(factor, draws):
    sample = Sample(noise(93, 131), noise(93, 131)[0].short(), "")
    image, labels = reference_resize(sample, factor)
    rows = _draw_axis(93, image.shape[1], 40, draws[0])
    columns = _draw_axis(131, image.shape[2], 56, draws[1])
    window = (
        slice(rows.start, rows.start + rows.length),
        slice(columns.start, columns.start + columns.length),
    )
    result = crop_resized(sample.image, rows, columns)
    # Half a level of rounding, and 1e-3 where grid_sample's float32 positions are inexact.
    assert (result.double() - image[:, window[0], window[1]]).abs().max() < 0.502
    nearest = sample.labels[rows.nearest()][:, columns.nearest()]
    assert torch.equal(nearest, labels[window])


def test_crops_from_a_large_image_stay_exact():
    image = noise(200, 6000)
    rows, columns = _draw_axis(200, 331, 300, 0.5), _draw_axis(6000, 9930, 300, 0.97)
    resized = F.interpolate(image[None].double(), (331, 9930), mode="bilinear")[0]
    expected = resized[:, rows.start : rows.start + 300, columns.start : columns.start + 300]
    assert (crop_resized(image, rows, columns).double() - expected).abs().max() < 0.51


def test_image_and_labels_stay_paired():
    sample = blocks(80, 112)
    settings = Augmentation(crop=(40, 48), photometric=False)
    flips = 0
    for seed in range(40):
        result = augment(sample, settings, generator(seed))
        assert result.image.shape == (3, 40, 48)
        assert result.labels.shape == (40, 48)
        labelled = result.labels != IGNORE
        value = result.image[0].float() / 50
        agree = (value - result.labels.float()).abs() < 0.02
        # Bilinear edges mix two blocks, over one source pixel on either side.
        assert (agree & labelled).sum() / labelled.sum() > 0.7
        unflipped = augment(sample, replace(settings, flip=0.0), generator(seed))
        flips += int((result.labels != unflipped.labels).any())
    assert 8 < flips < 32


def test_a_shift_of_one_pixel_between_image_and_labels_would_show():
    sample = blocks(64, 96)
    result = augment(sample, STILL, generator(3))
    assert torch.equal(result.image[0], result.labels * 50)


def test_flip_mirrors_both():
    sample = Sample(noise(24, 32), noise(24, 32, 1)[0].short(), "x")
    flipped = augment(sample, replace(STILL, flip=1.0), generator())
    assert torch.equal(flipped.image, sample.image.flip(2))
    assert torch.equal(flipped.labels, sample.labels.flip(1))
    assert flipped.name == "x"


def test_small_images_are_padded_at_the_bottom_and_right():
    sample = Sample(noise(10, 20), torch.zeros(10, 20, dtype=torch.int16), "")
    result = augment(sample, STILL, generator())
    assert torch.equal(result.image[:, :10, :20], sample.image)
    assert (result.labels[:10, :20] == 0).all()
    for part in (result.image[:, 10:], result.image[:, :, 20:]):
        assert (part == torch.tensor(MEAN_COLOUR)[:, None, None]).all()
    assert (result.labels[10:] == IGNORE).all()
    assert (result.labels[:, 20:] == IGNORE).all()


def test_unlabelled_images_come_out_ignored():
    result = augment(Sample(noise(50, 60), None, ""), STILL, generator())
    assert (result.labels == IGNORE).all()
    assert result.labels.shape == (24, 32)


def test_sizes_follow_the_scale_of_the_image_or_of_the_base():
    wide = Sample(torch.full((3, 100, 200), 7, dtype=torch.uint8), None, "")

    def filled(**settings):
        settings = Augmentation(crop=(400, 800), flip=0.0, photometric=False, **settings)
        shown = augment(wide, settings, generator()).image[0] == 7
        return int(shown.any(1).sum()), int(shown.any(0).sum())

    assert filled(scale=(2.0, 2.0)) == (200, 400)
    assert filled(scale=(0.5, 0.5)) == (50, 100)
    # 100 x 200 fitted into 2048 x 60: the short side decides.
    assert filled(scale=(1.0, 1.0), base=(2048, 60)) == (60, 120)
    assert filled(scale=(2.0, 2.0), base=(60, 60)) == (60, 120)
    heights = [
        int((augment(wide, Augmentation((400, 800), photometric=False), generator(seed)).image
             == 7).any(0).any(1).sum())
        for seed in range(150)
    ]  # fmt: skip
    assert 50 <= min(heights) < 57
    assert 192 < max(heights) <= 200
    assert abs(np.mean(heights) - 125) < 12


def test_crops_in_which_a_class_prevails_are_redrawn_up_to_ten_times():
    labels = torch.zeros(64, 400, dtype=torch.int16)
    labels[:, :40] = 1
    sample = Sample(labels.byte()[None].repeat(3, 1, 1), labels, "")
    strict = Augmentation((64, 64), (1.0, 1.0), 0.0, False, 0.75)
    free = Augmentation((64, 64), (1.0, 1.0), 0.0, False, 1.0)

    def rate(settings):
        draws = [augment(sample, settings, generator(seed)).labels for seed in range(150)]
        shares = np.array([float((drawn == 1).float().mean()) for drawn in draws])
        return float(((shares > 0.25) & (shares < 0.75)).mean())

    # 23 of 337 offsets leave either class under three quarters; eleven draws in all.
    single = 23 / 337
    assert abs(rate(free) - single) < 0.05
    assert abs(rate(strict) - (1 - (1 - single) ** 11)) < 0.08


def test_ignored_pixels_do_not_count_for_the_largest_class():
    labels = torch.full((64, 300), IGNORE, dtype=torch.int16)
    labels[:, 100:110], labels[:, 110:120] = 0, 1
    sample = Sample(labels.byte()[None].repeat(3, 1, 1), labels, "")
    settings = Augmentation((64, 100), (1.0, 1.0), 0.0, False, 0.75)
    found = [
        augment(sample, settings, generator(seed)).labels.unique().tolist() for seed in range(60)
    ]
    assert np.mean([classes == [IGNORE, 0, 1] for classes in found]) > 0.95


def test_one_generator_decides_everything_and_nothing_else_moves():
    sample = blocks(80, 112)
    torch.manual_seed(5)
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    before = sample.image.clone()
    first = augment(sample, Augmentation((40, 48)), generator(1))
    second = augment(sample, Augmentation((40, 48)), generator(1))
    other = augment(sample, Augmentation((40, 48)), generator(2))
    assert torch.equal(first.image, second.image)
    assert torch.equal(first.labels, second.labels)
    assert not torch.equal(first.image, other.image)
    assert torch.equal(torch.get_rng_state(), state)
    assert (np.random.get_state()[1] == numpy_state).all()
    assert torch.equal(sample.image, before)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"crop": (0, 5)}, "crop"),
        ({"scale": (2.0, 1.0)}, "scale"),
        ({"scale": (0.0, 1.0)}, "scale"),
        ({"flip": 1.5}, "flip"),
        ({"largest_class": -0.1}, "largest_class"),
        ({"base": (0, 4)}, "base"),
        ({"rotation": -1.0}, "augmentation.rotation from 0 to 180 degrees"),
        ({"mix": "cutmix", "mix_probability": 0.0}, "mix_probability above 0 and up to 1"),
        ({"mix_probability": 0.3}, "needs augmentation.mix; give both"),
        ({"extra": {"kernel_size": 5}}, r"extra as \{class_path: ..., init_args"),
    ],
)
def test_impossible_settings_are_refused(settings, named):
    with pytest.raises(InputError, match=named):
        Augmentation(**settings)


VIEWS = Augmentation(crop=(48, 64), photometric=False)


def smooth(height, width):
    """An image in which every place looks different and nothing is sharp."""
    y = torch.linspace(0, 3, height)[:, None].expand(height, width)
    x = torch.linspace(0, 3, width).expand(height, width)
    waves = torch.stack([torch.sin(2 * x + y), torch.cos(3 * y), torch.sin(x * y)])
    return ((waves + 1) * 127).round().byte()


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("size", [(60, 90), (30, 40), (200, 35)])
def test_a_geometry_cuts_the_image_as_the_view_does(size, seed):
    """Among the draws are enlarged and reduced, mirrored and padded views."""
    sample = Sample(noise(*size), None, "")
    view = augment(sample, VIEWS, generator(seed))
    again = cut_like(sample.image.float(), view.geometry)
    rows, cols = view.geometry.rows.length, view.geometry.columns.length
    # Half a level of rounding, and what positions in float32 are off.
    error = (again - view.image.float()).abs()[:, :rows, :cols]
    assert error.max() < 0.51
    assert (again[:, rows:] == 0).all()
    assert (again[:, :, cols:] == 0).all()
    plain = augment(sample, replace(VIEWS, flip=0.0), generator(seed)).geometry
    assert (plain.rows, plain.columns) == (view.geometry.rows, view.geometry.columns)


def test_the_views_above_are_of_all_kinds():
    views = [augment(Sample(noise(60, 90), None, ""), VIEWS, generator(s)) for s in range(12)]
    seen = [view.geometry for view in views]
    assert {each.flipped for each in seen} == {True, False}
    assert {each.rows.after > each.rows.before for each in seen} == {True, False}
    assert {each.rows.length < 48 for each in seen} == {True, False}
    assert {each.size for each in seen} == {(48, 64)}


@pytest.mark.parametrize("seed", range(8))
def test_a_geometry_cuts_a_coarser_map_to_a_coarser_grid(seed):
    image = smooth(120, 160)
    view = augment(Sample(image, None, ""), replace(VIEWS, crop=(64, 64)), generator(seed))
    half = F.avg_pool2d(image.float(), 2)
    cut = cut_like(half, view.geometry, grid=(32, 32))
    expected = F.avg_pool2d(view.image.float(), 2)
    rows, cols = view.geometry.rows.length // 2, view.geometry.columns.length // 2
    error = (cut - expected).abs()[:, : rows - 1, : cols - 1]
    assert error.mean() < 1
    # A map that lies one cell beside its image would be further off.
    beside = (cut.roll(1, 2) - expected)[:, : rows - 1, 1 : cols - 1].abs()
    assert beside.mean() > 3 * error.mean()


@pytest.mark.parametrize("turns", [-1, 1, 2])
def test_right_angles_turn_as_rot90_does(turns):
    image, labels = noise(32, 32), noise(32, 32, 1)[0].short()
    turned, labels_turned = rotate_pair(image, labels, 90.0 * turns)
    assert torch.equal(turned, image.rot90(turns, (1, 2)))
    assert torch.equal(labels_turned, labels.rot90(turns))


def test_turned_labels_stay_paired_with_their_image_and_corners_have_none():
    sample = Sample(*blocks(96, 96)[:2], "")
    settings = replace(STILL, crop=(96, 96), rotation=40.0)
    angles = []
    for seed in range(20):
        view = augment(sample, settings, generator(seed))
        angles.append(view.geometry.angle)
        inside = view.labels != IGNORE
        agree = view.image[0] == view.labels * 50
        assert agree[inside].float().mean() > 0.85
        # A shift of one pixel would show.
        beside = view.image[0].roll(1, 1) == view.labels * 50
        assert agree[inside].sum() > beside[inside].sum()
        outside = (view.image == torch.tensor(MEAN_COLOUR)[:, None, None]).all(0)
        assert (outside | (F.max_pool2d(inside[None].float(), 3, 1, 1)[0] > 0)).all()
        if abs(angles[-1]) > 10:
            assert not inside[0, 0]
            assert outside[0, 0]
    assert min(angles) < -20
    assert max(angles) > 20
    assert max(map(abs, angles)) <= 40


@pytest.mark.parametrize("seed", range(8))
def test_a_geometry_cuts_a_map_as_the_view_was_turned(seed):
    image = smooth(120, 160)
    settings = replace(VIEWS, rotation=60.0, scale=(0.8, 2.0))
    view = augment(Sample(image, torch.zeros(120, 160).short(), ""), settings, generator(seed))
    cut = cut_like(image.float(), view.geometry)
    inside = F.max_pool2d((view.labels == IGNORE)[None].float(), 5, 1, 2)[0] == 0
    assert inside.float().mean() > 0.3
    assert (cut - view.image.float())[:, inside].abs().mean() < 1
    wrong = cut_like(image.float(), replace(view.geometry, angle=-view.geometry.angle))
    assert (wrong - view.image.float())[:, inside].abs().mean() > 3
    beyond = F.max_pool2d((view.labels != IGNORE)[None].float(), 5, 1, 2)[0] == 0
    assert (cut[:, beyond] == 0).all()


def test_without_rotation_nothing_else_is_drawn_differently():
    sample = blocks(80, 112)
    plain = augment(sample, Augmentation((40, 48)), generator(4))
    turned = augment(sample, Augmentation((40, 48), rotation=10.0), generator(4))
    assert replace(turned.geometry, angle=0.0) == plain.geometry
    expected = rotate_pair(plain.image, plain.labels, turned.geometry.angle)
    assert torch.equal(turned.image, expected[0])
    assert torch.equal(turned.labels, expected[1])


def transform(name, **arguments):
    return {"class_path": f"torchvision.transforms.v2.{name}", "init_args": arguments}


def test_an_extra_transform_is_drawn_from_the_generator_alone():
    sample = blocks(80, 112)
    blur = transform("GaussianBlur", kernel_size=5)
    settings = replace(STILL, extra=blur)
    extra = build_extra(settings)
    assert isinstance(extra, v2.GaussianBlur)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first, again = (augment(sample, settings, generator(1), extra) for _ in range(2))
    other = augment(sample, settings, generator(2), extra)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.image, again.image)
    assert not torch.equal(first.image, other.image)
    plain = augment(sample, STILL, generator(1))
    assert torch.equal(first.labels, plain.labels)
    assert not torch.equal(first.image, plain.image)


def test_transforms_may_hold_transforms():
    blur = transform("GaussianBlur", kernel_size=5)
    settings = replace(STILL, extra=transform("RandomApply", transforms=[blur], p=1.0))
    assert isinstance(build_extra(settings).transforms[0], v2.GaussianBlur)


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        (transform("GausianBlur", kernel_size=5), "there is no .*did you mean GaussianBlur"),
        (transform("GaussianBlur", kernelsize=5), "did you mean augmentation.extra.kernel_size"),
        (transform("GaussianBlur", kernel_size=4), "GaussianBlur: .*odd"),
        ({"class_path": "fractions.Fraction"}, "is in Python's standard library"),
    ],
)
def test_extra_transforms_that_cannot_be_built_are_refused(extra, expected):
    with pytest.raises(InputError, match=expected):
        build_extra(replace(STILL, extra=extra))


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        (v2.Resize((8, 8)), r"return an 8-bit image .* got torch.uint8 of \(3, 8, 8\)"),
        (lambda image: image.float(), "got torch.float32"),
        (lambda image: image.numpy(), "got ndarray"),
        (v2.Normalize([0.0], [1.0]), "cannot take an 8-bit image"),
    ],
)
def test_extra_transforms_that_change_more_than_colours_are_refused(extra, expected):
    with pytest.raises(InputError, match=expected):
        augment(blocks(40, 40), STILL, generator(), extra)
