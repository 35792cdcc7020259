"""Every recipe parses, is what the script writes, and trains one step at reduced size."""

import re
from pathlib import Path

import pytest
import torch
import yaml
from write import every_file

from fakd import cli, models
from fakd.comparing.methods import resolve_methods
from fakd.data import SegmentationData
from fakd.losses import WeightedSum
from fakd.settings import Task
from fakd.specs import build
from fakd.training.objective import Distillation, Supervised
from fakd.training.task import TaskLoss

FOLDER = Path(__file__).parents[1] / "recipes"
FILES = sorted(path for path in FOLDER.rglob("*.yaml") if "schedule:" in path.read_text())
GRIDS = [path for path in FILES if path.stem.startswith("compare-")]
RECIPES = [path for path in FILES if path not in GRIDS]

PAPER = [path for path in RECIPES if not path.parts[-2].startswith(("camvid", "ccp", "demo"))]


def test_the_files_are_what_the_script_writes():
    written = {FOLDER / name: text for name, text in every_file().items()}
    assert sorted(written) == FILES
    assert {path: path.read_text() for path in FILES} == written


def each_step_once():
    """Mark the steps slow that another recipe takes too, for other data or with other numbers."""
    seen = set()
    for path in RECIPES:
        recipe = yaml.safe_load(path.read_text())
        builder = recipe["student" if "teacher" in recipe else "network"]["class_path"]
        step = (builder, re.sub(r"[\d.]+", "", str(recipe.get("distillation"))))
        yield pytest.param(path, marks=pytest.mark.slow if step in seen else ())
        seen.add(step)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: str(path.relative_to(FOLDER)))
def test_a_recipe_parses(path: Path):
    recipe = yaml.safe_load(path.read_text())
    config = cli.parse("distill" if "teacher" in recipe else "train", [f"--recipe={path}"])
    if "teacher" in recipe:
        assert strengths(build(config["distillation"])) == {strength_in(path.stem)}


@pytest.mark.parametrize(
    "path", [*each_step_once()], ids=lambda path: str(path.relative_to(FOLDER))
)
def test_a_recipe_takes_a_step(path: Path, tiny_data: SegmentationData):
    recipe = yaml.safe_load(path.read_text())
    command = "distill" if "teacher" in recipe else "train"
    config = cli.parse(command, [f"--recipe={path}"])
    trained = config[cli.TRAINED[command][0]]
    torch.manual_seed(0)
    # The same widths on the smallest backbone: pretrained weights are not needed for one step.
    trained["init_args"] |= {"backbone": "mobilenetv3_small_050", "weights": None}
    strides = trained["init_args"].get("strides")
    trained["init_args"] |= {} if strides is None else {"strides": tuple(strides)}
    network = models.open_network(trained, tiny_data.classes, trained=True)
    objective, teacher = Supervised(TaskLoss(Task(), tiny_data.classes)), None
    if command == "distill":
        teacher = models.open_network(trained, tiny_data.classes, trained=True)
        loss = build(config["distillation"])
        objective = Distillation(teacher, network, loss, objective.task)
    images, labels = torch.rand(2, 3, 32, 48), torch.randint(0, tiny_data.classes, (2, 32, 48))
    answer = None if teacher is None else teacher.eval()(images)
    labelled = torch.ones(len(images), dtype=torch.bool)
    terms = objective(network(images), labels, labelled, 0.5, answer).terms
    sum(terms.values()).backward()
    assert all(torch.isfinite(term) for term in terms.values())
    assert network.classifier.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("path", GRIDS, ids=lambda path: str(path.relative_to(FOLDER)))
def test_a_grid_parses_and_its_methods_are_what_they_are_called(path: Path):
    config = cli.parse("compare", [str(path)])
    assert str(config["run"]) == f"runs/{path.relative_to(FOLDER).with_suffix('')}"
    methods = resolve_methods(yaml.safe_load(path.read_text())["methods"])
    if {"camvid-clips", "ccp", "ccp-person", "scenes"} & set(
        path.parts[-3:]
    ):  # of docs/experiments.md
        assert {"alone", "cwd", "pd"} & set(methods)
    else:
        assert {"alone", "cwd"} <= set(methods)
        assert any("-fa" in name for name in methods)
    for name, given in methods.items():
        if given["distillation"] is not None:
            expected = strength_in(name)
            assert strengths(build(given["distillation"])) == {expected}, name


def strengths(loss):
    parts = loss.losses.values() if isinstance(loss, WeightedSum) else [loss]
    return {getattr(part, "strength", 0.0) for part in parts}


def strength_in(name: str) -> float:
    """Read the strength off a file name, ``cwd-fa`` being 1."""
    found = re.search(r"-fa(?:-[a-z]+)*-([0-9.]+)", name)
    return float(found[1]) if found else float(re.search(r"-fa\b", name) is not None)


def test_every_cell_of_the_papers_tables_has_a_recipe():
    pairs = {"ade20k": 5, "pascal-context": 3, "cityscapes": 4, "voc2012": 4}
    for name, count in pairs.items():
        folders = [folder for folder in (FOLDER / name).iterdir() if folder.is_dir()]
        assert len(folders) == count
        for folder in folders:
            cells = {"alone", "skds", "ifvd", "cirkd", "cwd", "cwd-fa"}
            assert cells <= {path.stem for path in folder.glob("*.yaml")}
    ablations = {path.stem for path in (FOLDER / "ade20k/pspnet-r101-to-r18").glob("*.yaml")}
    assert {"pd", "pd-fa", "cwd-fa-0.5", "cwd-fa-1.5", "cwd-fa-2.5"} <= ablations


def test_recipes_carry_the_papers_numbers():
    text = (FOLDER / "ade20k/pspnet-r101-to-r18/cwd-fa.yaml").read_text()
    assert "this cell 35.30 mIoU, 44.06 mAcc; its teacher 44.39 mIoU, 54.74 mAcc" in text
    text = (FOLDER / "cityscapes/hrnet-w48-to-w18s/alone.yaml").read_text()
    assert "this cell 73.77 mIoU, 82.89 mAcc; its teacher 80.65 mIoU, 87.39 mAcc" in text
    assert "75.31 mIoU, 83.71 mAcc" in text


@pytest.mark.parametrize("path", PAPER, ids=lambda path: str(path.relative_to(FOLDER)))
def test_the_papers_settings(path: Path):
    recipe = yaml.safe_load(path.read_text())
    context = "pascal-context" in path.parts
    schedule = recipe["schedule"]
    assert (schedule["steps"], schedule["batch_size"], schedule["power"]) == (40000, 16, 0.9)
    assert schedule["learning_rate"] == (0.004 if context else 0.01)
    assert recipe["augmentation"]["crop"] == [512, 512]
