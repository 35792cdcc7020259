import numpy as np
import pytest
import torch
from PIL import Image

from fakd.report.figures import colour, overlay, save_grid, save_mask, save_picture

PALETTE = ((255, 0, 0), (0, 255, 0), (0, 0, 255))


def pixels(path):
    with Image.open(path) as picture:
        return np.array(picture)


def test_classes_are_painted_and_ignored_pixels_stay_black():
    painted = colour(torch.tensor([[0, 1, -1]]), PALETTE)
    assert painted.permute(1, 2, 0).tolist() == [[[255, 0, 0], [0, 255, 0], [0, 0, 0]]]


def test_an_overlay_mixes_by_opacity():
    image = torch.full((3, 1, 1), 100, dtype=torch.uint8)
    mixed = overlay(image, torch.tensor([[0]]), PALETTE, opacity=0.5)
    assert mixed.flatten().tolist() == [round(177.5), 50, 50]


def test_a_mask_keeps_class_ids_and_shows_colours(tmp_path):
    classes = torch.tensor([[0, 1], [2, 2]])
    save_mask(tmp_path / "deep" / "mask.png", classes, PALETTE)
    assert pixels(tmp_path / "deep" / "mask.png").tolist() == classes.tolist()
    with Image.open(tmp_path / "deep" / "mask.png") as mask:
        assert mask.convert("RGB").getpixel((1, 0)) == (0, 255, 0)


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_a_picture_takes_the_format_of_its_name(tmp_path, name):
    save_picture(tmp_path / name, torch.full((3, 4, 6), 90, dtype=torch.uint8))
    assert pixels(tmp_path / name).shape == (4, 6, 3)
    with Image.open(tmp_path / name) as picture:
        assert picture.format == {"a.png": "PNG", "a.jpg": "JPEG"}[name]


def test_a_grid_is_drawn(tmp_path):
    image = torch.randint(0, 256, (3, 8, 12), dtype=torch.uint8)
    save_grid(tmp_path / "grid.png", [[image] * 3] * 2, ["a", "b", "c"], {"road": (1, 2, 3)})
    grid = pixels(tmp_path / "grid.png")
    assert grid.shape[1] > 600
    assert grid.std() > 10
