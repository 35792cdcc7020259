"""Every recipe parses, is what the script writes, and trains one step at reduced size."""

import importlib.util
from pathlib import Path

import pytest
import torch
import yaml

from fakd import cli, losses
from fakd.data import SegmentationData
from fakd.training.objective import Distillation, Supervised

FOLDER = Path(__file__).parents[1] / "recipes"
RECIPES = sorted(path for path in FOLDER.rglob("*.yaml") if path.name != "dataset.yaml")


def writer():
    spec = importlib.util.spec_from_file_location("write", FOLDER / "write.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_files_are_what_the_script_writes():
    module = writer()
    written = {FOLDER / name: module.text(recipe) for name, recipe in module.every_recipe().items()}
    assert sorted(written) == RECIPES
    assert {path: path.read_text() for path in RECIPES} == written


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: str(path.relative_to(FOLDER)))
def test_a_recipe_parses_and_takes_a_step(path: Path, tiny_data: SegmentationData):
    recipe = yaml.safe_load(path.read_text())
    command = "distill" if "teacher" in recipe else "train"
    parser = cli.command_parser(command)
    config = parser.parse_args([f"--recipe={path}"])
    trained = config[cli.TRAINED[command]]
    torch.manual_seed(0)
    # The same widths on the smallest backbone: pretrained weights are not needed for one step.
    small = {**trained.init_args.as_dict(), "backbone": "mobilenetv3_small_050", "weights": None}
    network = cli.build(trained.class_path, small, tiny_data.classes)
    objective = Supervised()
    if command == "distill":
        teacher = cli.build(trained.class_path, small, tiny_data.classes)
        named = config.distillation
        loss = getattr(losses, named.class_path.split(".")[-1])(**named.init_args.as_dict())
        assert loss.strength == (1.0 if "-fa" in path.stem else 0.0)
        objective = Distillation(teacher, network, loss, config.weight)
    images, labels = torch.rand(2, 3, 32, 48), torch.randint(0, tiny_data.classes, (2, 32, 48))
    terms = objective(network(images), images, labels, 0.5)
    sum(terms.values()).backward()
    assert all(torch.isfinite(term) for term in terms.values())
    assert network.classifier.weight.grad.abs().sum() > 0
