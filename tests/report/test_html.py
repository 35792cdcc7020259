"""The report: complete, self-contained, valid, escaped and small."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from fakd import models
from fakd.commands.answer import answer
from fakd.commands.report import report
from fakd.comparing.statistics import Difference, Interval
from fakd.comparing.verdict import Comparison, references
from fakd.data import scenes
from fakd.errors import InputError
from fakd.inference import score
from fakd.metrics import Scores
from fakd.models import pspnet
from fakd.report import figures
from fakd.report.encoding import fit
from fakd.report.examination import Examination, Example, examine
from fakd.report.figures import panels, thin
from fakd.report.methods import method_table
from fakd.report.page import (
    LIMIT,
    Note,
    Section,
    add_pictures,
    grouped_verdicts,
    ranked_verdicts,
    render,
    write_report,
)
from fakd.runs.naming import title_of
from fakd.runs.reading import by_pair, read_grid, read_run
from fakd.settings import Inference

NOTE = Note("today", "0.1.0", "fakd report runs/x")
VOID = {"meta", "link", "br", "img", "input", "hr"}
EVIL = "<script>alert(1)</script>"
DATA = {"class_path": "fakd.data.scenes", "init_args": {"train": 2, "val": 6, "size": [32, 48]}}


class Page(HTMLParser):
    """Checks nesting while it reads, and collects attributes and text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.found, self.text = [], [], [], ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.found.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        self.found.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open[-1:] == [tag], f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ("script", "style"):
            self.text += data


@pytest.fixture
def grid(made_up):
    for seed in range(3):
        made_up.in_grid("alone", seed, 0.6)
        made_up.in_grid("cwd", seed, 0.7)
        made_up.in_grid("cwd-fa", seed, 0.75)
    made_up.failed("pd", 1, "exit code 1\nout of memory")
    return made_up


@pytest.fixture
def trained(made_up):
    """Two runs with networks, made for the built-in data."""
    data = scenes(train=2, val=6, size=(32, 48))
    names, share = data.class_names, np.full(data.classes, 1 / data.classes)
    network = {}
    for index, name in enumerate(("teacher", "alone", "cwd")):
        torch.manual_seed(index)
        network[name] = pspnet("mobilenetv3_small_050", data.classes, channels=16)
    root = made_up.root.parent
    path = root / "teacher.safetensors"
    models.save(network["teacher"], path, class_names=names, palette=data.palette)
    teacher = {"class_path": "fakd.models.load", "init_args": {"path": str(path)}}
    folders = []
    for name in ("alone", "cwd"):
        more = {"recipe": {"teacher": teacher} if name != "alone" else {}}
        settings = {"data": DATA, "names": names, "share": share, **more}
        folder = made_up.run(root / name, name, 0, 0.7, **settings)
        file = folder / "final.safetensors"
        models.save(network[name], file, class_names=names, palette=data.palette)
        folders.append(folder)
    return folders


def write(folders, tmp_path, **more):
    return report(folders, tmp_path / "report.html", **more).read_text()


def test_a_grid_without_networks_is_reported_and_says_what_is_missing(grid, tmp_path, capsys):
    page = Page(write([grid.root], tmp_path))
    assert "CWD+FA: promising, 1 of 3: +" in page.text
    assert "over seeds only" not in page.text
    assert "PD, seed 1:" in page.text
    assert "out of memory" in page.text
    assert "No pictures and no measurements" in page.text
    for heading in ("Methods", "Classes, rare ones first", "Training", "Runs"):
        assert heading in page.text
    assert "img" not in page.tags
    assert "paper mIoU" not in page.text
    printed = capsys.readouterr().out
    assert "CWD+FA: promising" in printed
    assert "report.html" in printed


def test_exported_files_are_listed_with_what_they_are_worth(made_up, tmp_path):
    folder = made_up.run(tmp_path / "student", "cwd", 0, 0.7)
    side = {"miou": 41.5, "megabytes": 4.2, "median_ms": 17.25, "memory_mb": None}
    for holds, name in (
        (True, "onnx/guarantee.json"),
        (False, "onnx-int8/guarantee.json.rejected"),
    ):
        (folder / name).parent.mkdir()
        numbers = {"student": side, "file": {**side, "miou": 41.25}, "agreement": 99.9}
        told = {"precision": name.split("/")[0], "holds": holds, "guarantee": numbers}
        (folder / name).write_text(json.dumps(told))
    text = Page(write([folder], tmp_path)).text
    assert "Exported files" in text
    assert "41.25" in text
    assert text.count("does not hold, rejected") == 1


def test_verdicts_that_are_decided_come_first_and_large_gains_before_small_ones(made_up):
    gains = {"alone": 0.0, "pd": 0.02, "cwd": 0.1, "cwd-fa": 0.15, "dist": -0.1}
    for method, gain in gains.items():
        for seed in range(3):
            unsteady = 0.05 * seed if method == "pd" else 0.0
            made_up.in_grid(method, seed, 0.6 + gain + unsteady)
    methods = next(iter(by_pair(read_grid(made_up.root).runs).values()))
    said = ranked_verdicts(references(methods)["alone"])
    assert [each.tone for each in said] == ["standout", "standout", "lagging", "unsure"]
    assert [each.text.split()[0].strip(":") for each in said] == ["CWD+FA", "CWD", "DIST", "PD"]


def test_images_may_be_measured_and_kept_out_of_the_file(trained, tmp_path):
    page = Page(write(trained, tmp_path, images=4, pictures=False))
    assert "img" not in page.tags
    assert "disagree most" not in page.text
    assert "boundary IoU" in page.text


def test_a_teacher_that_no_training_scored_is_scored_now(trained):
    methods = {run.method: [run] for run in map(read_run, trained)}
    methods["cwd"][0].result["teacher_miou"] = None
    data = scenes(train=2, val=6, size=(32, 48))
    teacher = models.load(trained[0].parent / "teacher.safetensors").eval()
    pairs = ((sample.image, sample.labels) for sample in data.val)
    matrix = score(teacher, pairs, Inference(), torch.device("cpu"))
    expected = 100 * Scores.from_matrix(matrix).miou
    examined = examine({"teacher": teacher}, data.val, Inference(), 9, lambda done: None)
    (row, *_), _ = method_table(methods, {}, examined)
    assert row["method"].text == "teacher"
    assert row["mIoU"].value == pytest.approx(expected)
    assert row["mIoU"].note == "on 6 of 6 validation images"
    methods["cwd"][0].result["teacher_miou"] = 50.0
    assert method_table(methods, {}, examined)[0][0]["mIoU"].text == "50.00"


def test_the_papers_scores_stand_beside_runs_of_its_networks_and_data(made_up, tmp_path):
    cells = Path(__file__).parents[2] / "recipes/ade20k/pspnet-r101-to-r18-scratch"
    for method in ("alone", "cwd", "cwd-fa"):
        own = yaml.safe_load((cells / f"{method}.yaml").read_text())
        made_up.in_grid(method, 0, 0.7, data=own["data"], data_name="ade20k", recipe=own)
    page = Page(write([made_up.root], tmp_path, images=0))
    assert "FAKD (arXiv 2208.14143), 40,000 steps of 16 crops" in page.text
    methods = next(iter(by_pair(read_grid(made_up.root).runs).values()))
    rows, _ = method_table(methods, {})
    columns = {name: [row[name].text for row in rows] for name in rows[0]}
    assert columns["method"] == ["teacher", "student alone", "CWD", "CWD+FA"]
    assert columns["paper mIoU"] == ["44.39", "17.11", "25.14", "26.96"]
    assert columns["paper mAcc"] == ["54.74", "22.99", "34.13", "34.13"]
    assert rows[3]["paper mIoU"].note == "the paper's mAcc is CWD's too"


def test_a_pair_that_never_finished_a_run_is_not_passed_over(grid, tmp_path):
    grid.failed("cwd", 2, "CUDA out of memory", pair="psp-to-large")
    page = Page(write([grid.root], tmp_path, images=0))
    assert "psp-to-large, CWD, seed 2:" in page.text
    assert "CUDA out of memory" in page.text


def test_only_failures_make_no_report(made_up, tmp_path):
    made_up.failed("cwd", 0, "exit code 1\nno space left")
    with pytest.raises(InputError, match=r"got none \(1 failed, one with: no space left\)"):
        write([made_up.root], tmp_path)


def test_the_verdict_comes_first(grid, tmp_path):
    text = Page(write([grid.root], tmp_path, images=0)).text
    order = [
        "Promising, to be confirmed",
        "promising",
        "Failed runs",
        "Methods",
        "Classes",
        "Training",
        "Runs",
    ]
    places = [text.index(each) for each in order]
    assert places == sorted(places)


def test_networks_are_measured_and_pictured(trained, tmp_path):
    page = Page(write(trained, tmp_path, images=4))
    for heading in ("boundary IoU", "calibration error", "GFLOPs", "latency", "Calibration"):
        assert heading in page.text
    table = page.text[page.text.index("Methods") :]
    heads = ("mIoU", "parameters", "GFLOPs", "latency", "against the student alone", "mAcc")
    places = [table.index(each) for each in heads]
    assert places == sorted(places), "what a device bears stands beside what it gets"
    assert "Where student and teacher disagree most" in page.text
    assert page.tags.count("img") == 4 * 5, "image, truth, teacher and two students each"
    assert "4 of 6 validation images" in page.text


def test_the_teacher_whose_answers_were_stored_is_shown_unless_it_has_changed(trained, tmp_path):
    answers, weights = tmp_path / "answers", tmp_path / "teacher.safetensors"
    data = scenes(train=2, val=6, size=(32, 48))
    answer(weights, data, answers)
    recipe = yaml.safe_load((trained[1] / "recipe.yaml").read_text())
    recipe["teacher"] = {"class_path": "fakd.answers.Stored", "init_args": {"path": str(answers)}}
    (trained[1] / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    page = Page(write(trained, tmp_path, images=4))
    assert "teacher is not shown" not in page.text
    assert page.tags.count("img") == 4 * 5
    other = pspnet("mobilenetv3_small_050", data.classes, channels=16)
    models.save(other, weights, class_names=data.class_names, palette=data.palette)
    text = Page(write(trained, tmp_path, images=2)).text
    assert "has other weights now than when its answers were stored" in text


def test_what_cannot_be_opened_is_said(trained, tmp_path):
    (tmp_path / "teacher.safetensors").unlink()
    (trained[1] / "final.safetensors").unlink()
    text = Page(write(trained, tmp_path, images=2)).text
    assert "The teacher is not shown" in text
    assert "CWD is not shown" in text
    assert "calibration error" in text


def test_a_recipe_cannot_have_other_code_called(made_up, tmp_path):
    data = {"class_path": "subprocess.run", "init_args": {"args": ["touch", str(tmp_path / "x")]}}
    folder = made_up.run(tmp_path / "run", "alone", 0, 0.7, data=data)
    text = Page(write([folder], tmp_path)).text
    assert "only data opened by fakd.data can be shown" in text
    assert not (tmp_path / "x").exists()


def test_nothing_is_fetched(trained, tmp_path):
    text = write(trained, tmp_path, images=2)
    page = Page(text)
    for tag, attributes in page.found:
        for key in ("src", "href", "srcset", "action", "data", "poster"):
            value = attributes.get(key)
            assert value is None or value.startswith(("data:", "#")), f"{tag} {key} {value}"
    assert not re.search(r"url\((?!data:)|@import|fetch\(|XMLHttpRequest|import\(", text)
    policy = next(
        attributes["content"]
        for tag, attributes in page.found
        if tag == "meta" and attributes.get("http-equiv") == "Content-Security-Policy"
    )
    assert "default-src 'none'" in policy


def test_all_that_comes_from_outside_is_escaped(made_up, tmp_path):
    names = (EVIL, "\"'&", "sky", "pole", "cyclist")
    for seed in range(2):
        made_up.in_grid("alone", seed, 0.6, pair="<b>pair", names=names)
        made_up.in_grid("<i>mine", seed, 0.7, pair="<b>pair", names=names, recipe={"note": EVIL})
    made_up.failed("pd", 0, f"died of {EVIL}", pair="<b>pair")
    text = write([made_up.root], tmp_path, images=0)
    page = Page(text)
    assert page.tags.count("script") == 1
    assert "i" not in page.tags
    assert page.tags.count("b") == 1, "of the failure"
    assert EVIL not in text
    assert page.text.count(EVIL) >= 3, "class, failure, recipe"


def test_ids_are_unique_and_references_lead_to_them(grid, tmp_path):
    grid.in_grid("alone", 0, 0.6, pair="other")
    page = Page(write([grid.root], tmp_path, images=0))
    ids = [attributes["id"] for _, attributes in page.found if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in page.found:
        link = attributes.get("href", "")
        if link.startswith("#"):
            assert link[1:] in ids
        assert attributes.get("aria-labelledby", ids[0]) in ids


def test_charts_and_pictures_are_named_for_those_who_do_not_see_them(trained, tmp_path):
    page = Page(write(trained, tmp_path, images=2))
    for tag, attributes in page.found:
        if tag == "svg":
            assert attributes.get("aria-label") or attributes.get("aria-hidden") == "true"
        if tag == "img":
            assert attributes["alt"]


def noise_shots(count, layers, side):
    dice = np.random.default_rng(0)
    photos = dice.integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    maps = dice.integers(0, 20, (count, layers, side, side), dtype=np.uint8)
    return [
        Example(
            f"p{i}", 0.5, Image.fromarray(photos[i]), {f"n{j}": maps[i, j] for j in range(layers)}
        )
        for i in range(count)
    ]


@pytest.mark.slow
def test_a_report_stays_below_its_limit_whatever_the_pictures(grid, tmp_path):
    shots = noise_shots(8, 2, 720)
    palette = [(i, i, i) for i in range(20)]
    groups = by_pair([read_run(path.parent) for path in grid.root.glob("*/*/*/result.json")])
    examined = Examination({}, {}, shots, 8, 8)
    data = scenes(train=1, val=1)
    data.palette, data.class_names = tuple(palette), tuple(f"c{i}" for i in range(20))
    sections = []
    for methods in groups.values():
        for _ in range(2):
            sections.append(Section("pair", methods, [], None, [], data))
            sections[-1].examined = examined
    add_pictures(sections, NOTE)
    size = write_report(tmp_path / "report.html", sections, NOTE)
    assert size == (tmp_path / "report.html").stat().st_size < LIMIT
    assert size > LIMIT / 3
    assert all(each.scenes for each in sections)


def test_pictures_are_made_smaller_before_they_are_left_out():
    shots = noise_shots(4, 2, 400)
    palette = [(i, i, i) for i in range(20)]
    large = fit(shots, palette, 10**8)
    small = fit(shots, palette, sum(each.bytes for each in large) // 2)
    few = fit(shots, palette, small[0].bytes // 3)
    assert [len(large), large[0].width] == [4, 400]
    assert len(small) == 4
    assert small[0].width < 400
    assert len(few) < 4
    assert fit(shots, palette, 0) == fit([], palette, 100) == []


def test_pictures_show_the_classes_in_their_colours():
    import base64
    import io

    classes = np.array([[0, 1], [2, 255]], dtype=np.uint8)
    shot = Example("p", 0.5, Image.new("RGB", (2, 2)), {"truth": classes})
    palette = [(10, 20, 30), (40, 50, 60), (70, 80, 90)]
    uri = fit([shot], palette, 10**6)[0].maps["truth"]
    content = base64.b64decode(uri.removeprefix("data:image/png;base64,"))
    with Image.open(io.BytesIO(content)) as picture:
        painted = np.array(picture.convert("RGB"))
    assert painted.reshape(4, 3).tolist() == [*map(list, palette), [0, 0, 0]]


def test_rare_classes_come_first_with_mean_and_spread(grid):
    runs = [read_run(path.parent) for path in grid.root.glob("*/*/*/result.json")]
    methods = next(iter(by_pair(runs).values()))
    rows = Section("pair", methods, [], None, []).classes
    shares = [row.share for row in rows]
    assert shares == sorted(shares)
    assert sum(shares) == pytest.approx(100)
    for row in rows:
        index = runs[0].class_names.index(row.name)
        expected = [run.class_iou[index] for run in methods["cwd"]]
        assert row.bars[1] == pytest.approx((np.mean(expected), np.std(expected, ddof=1)))


def test_every_term_has_its_curve_and_half_a_row_does_no_harm(made_up):
    folder = made_up.in_grid("cwd-fa", 0, 0.7)
    head = "step,task,channel/lambda,channel/augmentation,images/s,val/mIoU\n"
    # The last number may be half a number too: 1.1 of 1.15.
    rows = "10,1.5,0.1,0.2,3,\n20,1.2,0.2,0.3,3,40\n30,1.1"
    (folder / "metrics.csv").write_text(head + rows)
    curves = read_run(folder).curves
    assert curves["task"] == [(10, 1.5), (20, 1.2)]
    assert curves["val/mIoU"] == [(20, 40)]
    assert panels([curves]) == ["val/mIoU", "task", "channel/lambda", "channel/augmentation"]
    (folder / "metrics.csv").unlink()
    assert read_run(folder).curves == {}


def test_long_curves_are_thinned_by_means():
    points = [(float(i), float(i % 2)) for i in range(1, 1001)]
    few = thin(points, 100)
    assert len(few) == 100
    assert few[-1] == (1000, 0.5)
    assert thin(points[:50], 100) == points[:50]


@pytest.mark.parametrize(
    "points", [[], [(5.0, 1.0)], [(1.0, 2.0), (2.0, 2.0)], [(1.0, float("nan")), (2.0, 3.0)]]
)
def test_charts_of_little_are_drawn(points):
    drawn = str(figures.training_curves("loss", [figures.Line("a<b", 9, points)]).drawing)
    Page(drawn)
    assert "nan" not in drawn
    assert "a<b" not in drawn


def test_charts_take_the_colours_of_the_page():
    style = (Path(figures.__file__).parent / "style.css").read_text()
    light = style[: style.index("prefers-color-scheme: dark")]
    assert all(f"--{name}: {colour};" in light for colour, name in figures._VARIABLES.items())
    drawn = str(
        figures.training_curves("loss", [figures.Line("a", 1, [(0.0, 0.0), (1.0, 1.0)])]).drawing
    )
    assert "var(--c1)" in drawn
    assert not re.search("#[0-9a-f]{6}", drawn), "light and dark both"


def test_a_chart_places_its_points():
    drawn = str(
        figures.training_curves("loss", [figures.Line("a", 0, [(0.0, 0.0), (100.0, 10.0)])])
    )
    line = re.search(r'<title>a</title> <path d="M (.*?)"', drawn)[1]
    (x0, y0), (x1, y1) = (tuple(map(float, each.split())) for each in line.split("L"))
    assert x0 < x1
    assert y1 < y0, "large values are above"


def test_answers_and_methods_differ_without_colours():
    def marks(mean, interval, **more):
        difference = Difference(mean, 0.1, 3, interval)
        drawn = figures.differences("gain", [Comparison("cwd", "alone", difference, 1.0, **more)])
        found = re.search(
            r'<title>CWD</title> <path d="(.*?)"[^>]*fill: (.*?);', str(drawn.drawing)
        )
        # The shape about its first point, and whether it is filled with the paper's colour.
        corners = np.array(re.findall(r"(-?[\d.]+) (-?[\d.]+) (?=[A-Zz])", found[1]), dtype=float)
        return tuple(map(tuple, np.round(corners - corners[0], 1))), "paper" in found[2]

    helped = marks(2.0, Interval(1.5, 2.5))
    hurt = marks(-2.0, Interval(-2.5, -1.5))
    flat = marks(0.0, Interval(-0.1, 0.1))
    unsure = marks(0.0, Interval(-3.0, 3.0))
    promising = marks(2.0, Interval(1.5, 2.5), family=4, corrected=0.01)
    worse = marks(-2.0, Interval(-2.5, -1.5), family=4, corrected=0.01)
    assert len({helped, hurt, flat, unsure, promising, worse}) == 6
    assert [each[1] for each in (helped, hurt, flat, unsure)] == [False, False, False, True]
    shown = {(place % len(figures.COLOURS), place % len(figures.DASHES)) for place in range(35)}
    assert len(shown) == 35
    # Grey, green and pink; the blues; orange and yellow.
    for alike in ((0, 3, 6), (1, 5), (2, 4)):
        places = [place for place in range(9) if place % len(figures.COLOURS) in alike]
        assert len({place % len(figures.DASHES) for place in places}) == len(places)
    style = (Path(figures.__file__).parent / "style.css").read_text()
    assert all(f".bar.dashes{index} " in style for index in range(1, len(figures.DASHES)))
    assert all(f".summary .{each} dt::before" in style for each in figures.MARKS)


def test_what_stands_out_for_the_worse_has_a_head_of_its_own():
    found = [
        Comparison("cwd", "alone", Difference(gain, 0.1, 3, Interval(gain - 0.5, gain + 0.5)), 1.0,
                   family=2, corrected=0.01)
        for gain in (2.0, -2.0)
    ]  # fmt: skip
    assert [each.head for each in grouped_verdicts(found)] == [
        "Promising, to be confirmed", "Seems worse, to be confirmed"
    ]  # fmt: skip


def test_names_of_methods_have_room_beside_their_differences():
    names = ("cwd", "cwd-fa-full-own-class-spared", "a-name-that-no-chart-has-room-for-" * 2)
    compared = [Comparison(each, "alone", Difference(1.0, None, 1), 1.0) for each in names]
    drawn = str(figures.differences("gain", compared).drawing)
    labels = r'<text style="[^"]*text-anchor: end[^"]*" x="([\d.]+)"[^>]*>(.*?)</text>'
    shown = re.findall(labels, drawn)
    assert [text for _, text in shown][:2] == ["CWD", title_of(names[1])]
    assert len(shown[2][1]) < 40
    assert f"<title>{names[2]}</title>" in drawn
    assert all(float(x) >= 6 * len(text) for x, text in shown)


@pytest.mark.parametrize(
    ("folders", "more", "message"),
    [
        ([], {}, "expected finished runs"),
        (["nowhere"], {}, "expected a finished run"),
        ([], {"images": -1}, "--images"),
    ],
)
def test_the_impossible_is_refused(folders, more, message, tmp_path):
    with pytest.raises(InputError, match=message):
        report(folders, tmp_path / "report.html", **more)
    with pytest.raises(InputError, match="create it first"):
        report(folders, tmp_path / "no" / "report.html")


def test_a_page_that_would_be_too_large_is_refused(grid, tmp_path):
    run = read_run(next(grid.root.glob("*/*/*/result.json")).parent)
    plain = Section("pair", {run.method: [run]}, [], None, ["x" * 6_000_000])
    with pytest.raises(InputError, match="fewer runs"):
        write_report(tmp_path / "report.html", [plain], NOTE)
    assert "x" * 1000 in render([plain], NOTE)
