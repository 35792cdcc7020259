import csv
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from fakd import models
from fakd.commands.tables import tables
from fakd.data import scenes
from fakd.errors import InputError
from fakd.models import pspnet
from fakd.report.methods import class_iou
from fakd.report.paper import draw_classes, regression, write_figures, write_tables
from fakd.report.pictures import (
    activation,
    draw_activations,
    draw_examples,
    heat_map,
    most_changed,
    richest_images,
    shown_methods,
)
from fakd.report.table import Entry, as_csv, markdown, mean_and_spread, number
from fakd.runs.reading import by_pair, read_grid, read_run
from fakd.types import Prediction, Segmenter

RECIPES = Path(__file__).parents[2] / "recipes"
SCENES = {"class_path": "fakd.data.scenes", "init_args": {"train": 2, "val": 6, "size": [32, 48]}}
BASE = np.array([0.9, 0.8, 0.85, 0.4, 0.3])


def recipe(name):
    return yaml.safe_load((RECIPES / name).read_text())


def table(folder, name):
    with (folder / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def grid(made_up, gains, seeds=2, **more):
    for method, gain in gains.items():
        for seed in range(seeds):
            made_up.in_grid(method, seed, BASE * 0.8 + np.asarray(gain) + 0.01 * seed, **more)
    return read_grid(made_up.root).runs


def size_and_contrast(path):
    with Image.open(path) as picture:
        return picture.size, np.asarray(picture.convert("L")).std()


def test_tables_next_to_the_published_numbers(made_up, tmp_path):
    known = recipe("ade20k/pspnet-r101-to-r18/cwd-fa.yaml")
    parts = {"data": known["data"], "data_name": "ade20k", "student": known["student"]}
    for method in ("alone", "cwd", "cwd-fa"):
        more = {} if method == "alone" else {"recipe": {"teacher": known["teacher"]}}
        for seed in range(2):
            made_up.in_grid(method, seed, BASE + 0.01 * seed, **parts, **more)
    runs = read_grid(made_up.root).runs
    files = write_tables(runs, tmp_path)
    assert [path.name for path in files] == [
        f"{name}.{kind}" for name in ("table-1-ade20k", "table-4", "runs") for kind in ("md", "csv")
    ]
    teacher, alone, cwd, ours = table(tmp_path, "table-1-ade20k")
    columns = ("method", "paper mIoU", "paper mAcc", "BPKD mIoU")
    assert [teacher[name] for name in columns] == ["teacher", "44.39", "54.74", ""]
    assert [alone[name] for name in columns] == ["student alone", "29.42", "38.48", "33.3"]
    assert teacher["mIoU"] == "80.0"
    assert (cwd["BPKD mIoU"], cwd["BPKD mAcc"]) == ("37.02", "46.33")
    assert [ours[name] for name in columns] == ["CWD+FA", "35.3", "44.06", ""]
    assert ours["seeds"] == "2"
    scores = [run.miou for run in runs if run.method == "cwd-fa"]
    assert float(ours["mIoU"]) == pytest.approx(np.mean(scores), abs=1e-4)
    assert float(ours["mIoU sd"]) == pytest.approx(np.std(scores, ddof=1), abs=1e-4)
    text = files[0].read_text()
    assert text.startswith("# Table 1: ADE20K\n")
    assert "| mIoU | mAcc | paper mIoU | paper mAcc | BPKD mIoU | BPKD mAcc |\n" in text


def test_what_is_odd_about_a_published_score_is_said_beside_it(made_up, tmp_path):
    for method in ("alone", "ifvd"):
        odd = recipe(f"voc2012/deeplabv3plus-r101-to-mv2/{method}.yaml")
        made_up.in_grid(method, 0, BASE, data=odd["data"], data_name="voc2012", recipe=odd)
    write_tables(read_grid(made_up.root).runs, tmp_path)
    rows = {row["method"]: row for row in table(tmp_path, "table-3-voc2012")}
    assert (rows["student alone"]["remark"], rows["student alone"]["paper mIoU"]) == ("", "62.56")
    (ifvd,) = (row for name, row in rows.items() if name.startswith("IFVD"))
    assert ifvd["remark"] == "the paper repeats HRNet's score here, probably a slip"
    assert ifvd["remark"] in (tmp_path / "table-3-voc2012.md").read_text()


def test_on_other_data_the_published_columns_are_left_out(made_up, tmp_path):
    runs = grid(made_up, {"alone": 0.0, "pd": 0.01})
    write_tables(runs, tmp_path)
    text = (tmp_path / "tables-1-to-3-scenes.md").read_text()
    assert "| pair | method | seeds | mIoU | mAcc |" in text
    assert {path.stem for path in tmp_path.glob("*.csv")} == {"tables-1-to-3-scenes", "runs"}


def test_table_4_shows_what_augmentation_adds(made_up, tmp_path):
    runs = grid(made_up, {"pd": 0.0, "pd-fa": 0.02, "cwd": 0.01, "cwd-fa": 0.04})
    write_tables(runs, tmp_path)
    rows = table(tmp_path, "table-4")
    assert [row["method"] for row in rows] == ["PD", "PD+FA", "CWD", "CWD+FA"]
    for plain, augmented in (rows[:2], rows[2:]):
        gain = float(augmented["mIoU"]) - float(plain["mIoU"])
        assert float(augmented["gain of FA"]) == pytest.approx(gain, abs=2e-4)
        assert float(augmented["95 % from"]) <= gain <= float(augmented["95 % to"])


def test_table_5_is_ordered_by_strength(made_up, tmp_path):
    for name, strength in (("b", 2.5), ("a", 0.5), ("cwd-fa", 1.0), ("cwd", 0.0)):
        loss = {"class_path": "fakd.losses.ChannelKL", "init_args": {"strength": strength}}
        made_up.in_grid(name, 0, BASE, distillation=loss)
    write_tables(read_grid(made_up.root).runs, tmp_path)
    rows = table(tmp_path, "table-5")
    assert [float(row["strength"]) for row in rows] == [0, 0.5, 1, 2.5]
    assert [row["method"] for row in rows] == ["CWD", "a", "CWD+FA", "b"]


def test_every_run_has_a_row(made_up, tmp_path):
    write_tables(grid(made_up, {"alone": 0.0, "pd": 0.01}), tmp_path)
    rows = table(tmp_path, "runs")
    assert [(row["method"], row["seed"]) for row in rows] == [
        *(("student alone", "0"), ("student alone", "1"), ("PD", "0"), ("PD", "1"))
    ]
    assert rows[0]["mean λv/2T² at the end"] == "0.25"
    assert rows[0]["seconds per step"] == "0.1"


def test_markdown_joins_a_mean_and_its_spread():
    rows = [
        {"a": Entry("x|y"), "b": mean_and_spread([0.5, 1.5]), "c": Entry()},
        {"a": Entry("z"), "b": number(2.0), "c": Entry()},
    ]
    assert markdown(rows) == "| a | b |\n|---|---:|\n| x\\|y | 1.00 ± 0.71 |\n| z | 2.00 |\n"
    assert as_csv(rows) == "a,b,b sd,c\nx|y,1.0,0.7071,\nz,2.0,,\n"


@pytest.mark.parametrize("write", [write_tables, write_figures])
def test_without_runs_nothing_is_written(write, tmp_path):
    with pytest.raises(InputError, match="expected finished runs"):
        write([], tmp_path / "out")


def test_figures_are_drawn_for_what_is_there(made_up, tmp_path):
    runs = grid(made_up, {"alone": 0.0, "cwd": 0.01, "cwd-fa": 0.1 * (1 - BASE)})
    files = write_figures(runs, tmp_path)
    assert [path.name for path in files] == [
        *("figure-2-cwd-scenes-psp-to-mv3.png", "figure-4-scenes-psp-to-mv3.png")
    ]
    for path in files:
        (width, height), contrast = size_and_contrast(path)
        assert width > 600
        assert height > 400
        assert contrast > 10
    assert write_figures([run for run in runs if run.method == "cwd"], tmp_path) == []


def test_a_picture_of_many_classes_has_several_rows(made_up, tmp_path):
    many = {"names": tuple(f"class {i}" for i in range(45)), "share": np.full(45, 1 / 45)}
    runs = [read_run(made_up.in_grid("alone", 0, np.full(45, 0.5), **many))]
    draw_classes(tmp_path / "many.png", {"alone": runs})
    (_, height), _ = size_and_contrast(tmp_path / "many.png")
    assert height > 3 * 400


def test_the_line_of_figure_2_is_a_least_squares_fit():
    slope, offset, correlation = regression(np.array([0.0, 1.0, 2.0]), np.array([1.0, 3.0, 5.0]))
    assert (slope, offset, correlation) == pytest.approx((2.0, 1.0, 1.0))
    assert regression(np.array([0.0, 1.0]), np.array([1.0, 3.0])) is None
    assert regression(np.array([1.0, 1.0, 1.0]), np.array([1.0, 2.0, 3.0])) is None


def test_classes_are_averaged_over_the_seeds_that_have_them(made_up):
    runs = next(iter(by_pair(grid(made_up, {"alone": 0.0})).values()))["alone"]
    runs[0].result["final"]["classes"]["road"]["iou"] = None
    for run in runs:
        run.result["final"]["classes"]["sky"]["iou"] = None
    means, spread = class_iou(runs)
    assert means[0] == runs[1].class_iou[0]
    assert np.isnan(means[2])
    assert np.isnan(spread[[0, 2]]).all()
    assert spread[1] == pytest.approx(np.std([run.class_iou[1] for run in runs], ddof=1))
    assert means[1] == pytest.approx((runs[0].class_iou[1] + runs[1].class_iou[1]) / 2)


def test_pictures_of_networks(tmp_path, tiny_data, tiny_network):
    samples = [tiny_data.val[0], tiny_data.val[1]]
    networks = {"CWD": tiny_network.eval(), "CWD+FA": tiny_network}
    draw_examples(tmp_path / "examples.png", samples, tiny_data, networks)
    draw_activations(tmp_path / "maps.png", samples, 0, tiny_data, networks)
    for name in ("examples", "maps"):
        (width, _), contrast = size_and_contrast(tmp_path / f"{name}.png")
        assert width > 800
        assert contrast > 10


def test_an_activation_runs_from_0_to_1_over_the_image(tiny_network):
    image = scenes(train=1, val=1, size=(32, 48)).val[0].image
    heat = activation(tiny_network.eval(), image, 2)
    assert heat.shape == image.shape[1:]
    assert (float(heat.min()), float(heat.max())) == (0.0, 1.0)
    with torch.no_grad():
        tiny_network.classifier.weight.zero_()
    assert not activation(tiny_network, image, 2).any()


class Rising(Segmenter):
    """Sees class 2 the more, the further right."""

    classes = 12

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, self.classes, 1)

    def forward(self, images):
        logits = torch.zeros(len(images), self.classes, *images.shape[2:])
        logits[:, 2] = torch.linspace(-3, 5, images.shape[3])
        return Prediction(logits)

    @property
    def classifier(self):
        return self.conv


def test_figure_3_is_bright_where_the_network_sees_the_class(tmp_path, tiny_data):
    sample = tiny_data.val[0]
    draw_activations(tmp_path / "a.png", [sample], 2, tiny_data, {"CWD": Rising().eval()})
    with Image.open(tmp_path / "a.png") as picture:
        drawn = np.asarray(picture.convert("L"), dtype=float)
    # Under the titles: the image, its map, the colour bar.
    rows = drawn[int(0.4 * len(drawn)) : int(0.8 * len(drawn))]
    heat = rows[:, int(0.42 * rows.shape[1]) : int(0.8 * rows.shape[1])].mean(0)
    assert heat[-20:].mean() > heat[:20].mean() + 60
    grey = torch.full((3, 1, 3), 100, dtype=torch.uint8)
    painted = heat_map(grey, torch.tensor([[0.0, 0.5, 1.0]])).float().mean(0)[0]
    assert painted[0] < painted[1] < painted[2]


def test_pictures_that_cannot_be_drawn(tmp_path, tiny_data, tiny_network):
    samples, path = [tiny_data.val[0]], tmp_path / "a.png"
    with pytest.raises(InputError, match="expected networks in evaluation mode, got CWD"):
        draw_examples(path, samples, tiny_data, {"CWD": tiny_network.train()})
    tiny_network.eval()
    with pytest.raises(InputError, match="at least one image and one network"):
        draw_examples(path, [], tiny_data, {"CWD": tiny_network})
    with pytest.raises(InputError, match="expected a class id from 0 to 11, got 12"):
        draw_activations(path, samples, 12, tiny_data, {"CWD": tiny_network})


@pytest.fixture
def trained(made_up, tmp_path):
    """A grid with networks, on the built-in data."""
    data = scenes(train=2, val=6, size=(32, 48))
    for index, method in enumerate(("alone", "cwd", "cwd-fa", "pd")):
        share, names = np.full(data.classes, 1 / data.classes), data.class_names
        accuracy = np.full(data.classes, 0.5 + 0.1 * index)
        accuracy[3] += 0.2 * (method == "cwd-fa")
        folder = made_up.in_grid(
            method, 0, accuracy, names=names, share=share, images=6, data=SCENES
        )
        torch.manual_seed(index)
        network = pspnet("mobilenetv3_small_050", data.classes, channels=16)
        file = folder / "final.safetensors"
        models.save(network, file, class_names=names, palette=data.palette)
    return made_up.root


def test_one_command_writes_tables_figures_and_pictures(trained, tmp_path, capsys):
    files = tables([trained], tmp_path / "out", images=2)
    pictures = [path.name for path in files if path.suffix == ".png"]
    assert pictures == [
        "figure-2-cwd-scenes-psp-to-mv3.png",
        "figure-4-scenes-psp-to-mv3.png",
        "examples-scenes-psp-to-mv3.png",
        "figure-3-cwd-scenes-psp-to-mv3.png",
    ]
    assert all(path.is_file() for path in files)
    printed = capsys.readouterr().out
    assert str(files[-1]) in printed
    assert "The teacher is not shown" in printed, "the made-up recipes name none that is there"
    few = tables([trained], tmp_path / "few", images=0)
    assert [path.name for path in few] == [path.name for path in files[:-2]]


def test_pictures_that_cannot_be_drawn_are_named_and_tables_written(trained, tmp_path, capsys):
    for file in trained.glob("*/cwd*/*/final.safetensors"):
        file.unlink()
    files = tables([trained], tmp_path / "out", images=2)
    assert "examples-scenes-psp-to-mv3.png" in [path.name for path in files]
    assert "CWD+FA is not shown" in capsys.readouterr().out
    for file in trained.glob("*/*/*/final.safetensors"):
        file.unlink()
    files = tables([trained], tmp_path / "none", images=2)
    assert not any(path.name.startswith(("examples", "figure-3")) for path in files)
    with pytest.raises(InputError, match=r"expected one of the classes .*, got 'rode'"):
        tables([trained], tmp_path / "wrong", shown_class="rode")
    assert not (tmp_path / "wrong").exists()
    with pytest.raises(InputError, match="expected --images of 0 or more, got -1"):
        tables([trained], tmp_path / "out", images=-1)


def test_what_the_pictures_show(trained, made_up):
    methods = next(iter(by_pair(read_grid(trained).runs).values()))
    assert list(shown_methods(methods)) == ["alone", "cwd", "cwd-fa"]
    assert list(shown_methods({"pd": methods["pd"], "alone": methods["alone"]})) == ["alone", "pd"]
    assert list(shown_methods({"alone": methods["alone"]})) == ["alone"]
    assert most_changed(methods["cwd"], methods["cwd-fa"]) == 3
    run = methods["cwd"][0]
    run.images.pixels.truth[:, 2] = [5, 9, 9, 1, 0, 2]
    assert richest_images(run, 2, total=6, most=3) == [1, 2, 5]
    assert richest_images(run, 2, total=6, most=9) == [0, 1, 2, 3, 4, 5]
    assert richest_images(run, 2, total=9, most=3) == [1, 4, 7], "not the images it counted"
