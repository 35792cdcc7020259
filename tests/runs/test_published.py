"""The numbers of the package against some typed from the paper by hand."""

import re
from pathlib import Path

import pytest
import yaml

from fakd.models.mmseg.published import PUBLISHED
from fakd.runs.naming import method_of
from fakd.runs.published import (
    benchmark_of,
    cell_of,
    pair_of,
    published_cell,
    published_scores,
    teacher_score,
)

PSP, SCRATCH, HRNET = "pspnet-r101-to-r18", "pspnet-r101-to-r18-scratch", "hrnet-w48-to-w18s"
DEEPLAB, ISANET = "deeplabv3plus-r101-to-mv2", "isanet-r101-to-r18"
PAPER = published_scores()["paper"]
METHODS = ["alone", "skds", "ifvd", "cirkd", "cwd", "cwd-fa"]
PAIRS = [(data, pair) for data, pairs in PAPER.items() for pair in pairs]
RECIPES = Path(__file__).parents[2] / "recipes"
CELLS = [
    path
    for name in ("ade20k", "pascal-context", "cityscapes", "voc2012")
    for path in sorted((RECIPES / name).glob("*/*.yaml"))
]


def recipe(name):
    return yaml.safe_load((RECIPES / name).read_text())


@pytest.mark.parametrize(
    ("data", "pair", "method", "miou", "macc"),
    [
        ("ade20k", PSP, "cwd-fa", 35.30, 44.06),
        ("ade20k", SCRATCH, "alone", 17.11, 22.99),
        ("ade20k", HRNET, "cirkd", 31.34, 41.45),
        ("ade20k", DEEPLAB, "ifvd", 24.53, 35.13),
        ("ade20k", ISANET, "cwd", 34.69, 43.05),
        ("pascal-context", PSP, "skds", 43.93, 54.01),
        ("pascal-context", HRNET, "cwd-fa", 45.61, 56.13),
        ("pascal-context", DEEPLAB, "cwd", 42.52, 53.24),
        ("cityscapes", PSP, "alone", 68.99, 75.19),
        ("cityscapes", HRNET, "ifvd", 75.33, 83.83),
        ("cityscapes", DEEPLAB, "cwd-fa", 74.08, 83.83),
        ("cityscapes", ISANET, "cirkd", 72.00, 79.32),
        ("voc2012", PSP, "cwd", 73.36, 82.63),
        ("voc2012", HRNET, "cwd-fa", 69.04, 80.37),
        ("voc2012", DEEPLAB, "skds", 62.85, 80.25),
        ("voc2012", ISANET, "alone", 68.71, 79.81),
        ("ade20k", PSP, "pd", 31.75, 42.23),
        ("ade20k", PSP, "pd-fa", 32.84, 42.33),
        ("ade20k", PSP, "cwd-fa-0.5", 35.06, 43.91),
        ("ade20k", PSP, "cwd-fa-1.5", 34.63, 42.97),
        ("ade20k", PSP, "cwd-fa-2.5", 31.95, 39.04),
    ],
)
def test_scores_are_those_of_the_paper(data, pair, method, miou, macc):
    assert PAPER[data][pair][method][:2] == [miou, macc]


def test_no_cell_of_the_papers_tables_is_missing():
    tables_4_and_5 = ["pd", "pd-fa", "cwd-fa-0.5", "cwd-fa-1.5", "cwd-fa-2.5"]
    assert {data: len(pairs) for data, pairs in PAPER.items()} == {
        "ade20k": 5,
        "pascal-context": 3,
        "cityscapes": 4,
        "voc2012": 4,
    }
    for data, pair in PAIRS:
        more = tables_4_and_5 if (data, pair) == ("ade20k", PSP) else []
        assert list(PAPER[data][pair]) == METHODS + more
    # One for each pair; the student from scratch has the teacher of the other PSPNet.
    assert len({each.paper for each in PUBLISHED if each.paper}) == len(PAIRS) - 1


@pytest.mark.parametrize(("data", "pair"), PAIRS)
def test_the_papers_order_of_the_methods(data, pair):
    miou, macc = ({name: cell[i] for name, cell in PAPER[data][pair].items()} for i in (0, 1))
    assert miou["cwd-fa"] == max(miou.values())
    assert miou["cwd"] > miou["alone"]
    assert macc["cwd-fa"] > macc["alone"]
    assert all(accuracy > miou[name] for name, accuracy in macc.items())
    assert (macc["cwd-fa"] > macc["cwd"]) == (pair != SCRATCH)


def test_the_docs_show_the_same_numbers():
    page = (Path(__file__).parents[2] / "docs/results.md").read_text()
    shown = re.sub(" [¹²]", "", page.partition("## Beside the paper")[2])
    for data, pair in PAIRS:
        scores = [f"{cell[0]:.2f} / {cell[1]:.2f}" for cell in PAPER[data][pair].values()]
        assert " | ".join(scores[: len(METHODS)]) + " |" in shown
        assert all(score in shown for score in scores)


def test_a_copied_digit_is_remarked():
    """A pair of scores occurs once in the paper, but for the one that is marked as a slip."""
    plain = [tuple(cell[:2]) for data, pair in PAIRS for cell in PAPER[data][pair].values()]
    twice = {score for score in plain if plain.count(score) > 1}
    assert twice == {(67.50, 78.89)}
    assert "probably a slip" in PAPER["voc2012"][DEEPLAB]["ifvd"][2]
    assert "CWD's" in PAPER["ade20k"][SCRATCH]["cwd-fa"][2]


@pytest.mark.parametrize("path", CELLS, ids=lambda path: str(path.relative_to(RECIPES)))
def test_every_recipe_of_the_paper_is_known_by_its_content(path):
    found = yaml.safe_load(path.read_text())
    place = (benchmark_of(found), pair_of(found), cell_of(found))
    assert place == (*path.relative_to(RECIPES).parts[:2], path.stem)
    assert (teacher_score(found) is None) == (path.stem == "alone")


def test_published_scores_are_those_of_the_cell():
    psp = "ade20k/pspnet-r101-to-r18"
    assert published_cell(recipe(f"{psp}/cwd-fa.yaml"), "paper") == (35.30, 44.06, "")
    assert published_cell(recipe(f"{psp}/cwd.yaml"), "bpkd") == (37.02, 46.33, "")
    assert published_cell(recipe(f"{psp}/cwd-fa.yaml"), "bpkd") is None
    assert teacher_score(recipe(f"{psp}/cwd.yaml")) == (44.39, 54.74, "")
    data = {"class_path": "fakd.data.scenes", "init_args": {}}
    assert teacher_score(recipe(f"{psp}/cwd.yaml") | {"data": data}) is None


@pytest.mark.parametrize("path", CELLS, ids=lambda path: str(path.relative_to(RECIPES)))
def test_every_recipe_of_the_paper_has_the_papers_score_and_names_it(path):
    miou, macc, remark = published_cell(yaml.safe_load(path.read_text()), "paper")
    first, second, *_ = path.read_text().splitlines()
    assert f": this cell {miou:.2f} mIoU, {macc:.2f} mAcc; its teacher " in first
    assert second == f"# Remark: {remark}" if remark else "Remark" not in second


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("data", {"class_path": "fakd.data.folder", "init_args": {"root": "ade20k"}}),
        ("teacher", {"class_path": "fakd.models.load", "init_args": {"path": "runs/mine"}}),
        ("student", {"class_path": "fakd.models.pspnet", "init_args": {"backbone": "resnet10t"}}),
        ("distillation", {"class_path": "fakd.losses.ChannelKL", "init_args": {"momentum": 0.9}}),
    ],
)
def test_nothing_is_published_for_other_data_networks_or_losses(key, value):
    own = recipe("ade20k/pspnet-r101-to-r18/cwd-fa.yaml") | {key: value}
    assert published_cell(own, "paper") is None


def test_a_loss_of_ones_own_belongs_to_no_cell():
    own = recipe("camvid/scratch-cwd-fa-full.yaml")
    assert cell_of(own) is None
    assert method_of(own).startswith("ChannelKL(strength=1, covariance=full")
    assert cell_of({"distillation": "mine.Loss"}) is None
