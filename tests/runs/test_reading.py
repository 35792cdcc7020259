import json

import numpy as np
import pytest
import yaml

from fakd.errors import InputError
from fakd.losses import PRESETS, ChannelKL, PairwiseSimilarity, PixelKL, WeightedSum, preset
from fakd.report.paper import last_augmentation
from fakd.runs.environment import command_line
from fakd.runs.folder import FORMAT
from fakd.runs.naming import method_of, refuse_former_weights, student_of, title_of
from fakd.runs.reading import by_pair, read_grid, read_run
from fakd.runs.recipe import describe
from stand_ins import message

HALF = [0.5] * 5


def recipe_of(loss):
    return {"distillation": yaml.safe_load(yaml.safe_dump(describe(loss)))}


def test_a_run_of_a_grid_is_named_by_its_place(made_up):
    folder = made_up.in_grid("cwd", 2, HALF, pair="a-to-b")
    run = read_run(folder)
    assert (run.pair, run.method, run.seed, run.data) == ("a-to-b", "cwd", 2, "scenes")
    assert run.miou == run.result["final"]["miou"]
    assert run.seconds_per_step == 0.1
    assert run.class_names[0] == "road"
    assert run.class_iou.shape == run.class_pixels.shape == (5,)
    assert len(run.images.names) == 20
    assert run.images.pixels.hit.shape == (20, 5)
    assert run.curves == {"channel/augmentation": [(10, 0.1), (20, 0.25)]}
    assert last_augmentation(run) == 0.25


def test_any_other_run_is_named_by_its_recipe(made_up, tmp_path):
    run = read_run(made_up.run(tmp_path / "mine", "cwd-fa", 4, HALF))
    assert (run.pair, run.method, run.seed) == ("pspnet-mobilenetv3_small_050", "cwd-fa", 4)


def test_a_run_without_counts_of_images_has_none(made_up):
    assert read_run(made_up.in_grid("cwd", 0, HALF, counted=False)).images is None


@pytest.mark.parametrize("missing", ["recipe.yaml", "result.json"])
def test_an_unfinished_run_is_refused(made_up, missing):
    folder = made_up.in_grid("cwd", 0, HALF)
    (folder / missing).unlink()
    with pytest.raises(InputError, match=f"expected a finished run with {missing}"):
        read_run(folder)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("result.json", b"{"),
        ("result.json", json.dumps({"final": {"classes": {}}}).encode()),
        ("result.json", b"[]"),
        ("images.npz", b"PK\x03\x04 broken"),
        ("images.npz", b"no archive"),
    ],
)
def test_a_broken_run_is_named(made_up, name, content):
    folder = made_up.in_grid("cwd", 0, HALF)
    (folder / name).write_bytes(content)
    with pytest.raises(InputError, match=r"seed-0 contains a run that cannot be read"):
        read_run(folder)


def test_counts_of_another_number_of_classes_are_refused(made_up):
    folder = made_up.in_grid("cwd", 0, HALF)
    few = np.ones((2, 3), int)
    np.savez(folder / "images.npz", names=np.array(["a", "b"]), hit=few, truth=few, said=few)
    with pytest.raises(InputError, match=r"expected \(2, 5\) counts in images.npz"):
        read_run(folder)


def test_a_run_of_another_format_is_refused_and_names_its_version(made_up):
    folder = made_up.in_grid("cwd", 0, HALF)
    written = {"format": FORMAT + 1, "versions": {"fakd": "7.2.0"}}
    (folder / "environment.json").write_text(json.dumps(written))
    with pytest.raises(
        InputError, match=r"written by fakd 7\.2\.0 in format 2, .* reads format 1;"
    ):
        read_run(folder)
    (folder / "environment.json").write_text(json.dumps({**written, "format": FORMAT}))
    assert read_run(folder).environment == {**written, "format": FORMAT}


@pytest.mark.parametrize("recipe", ["seed: 0\ndistillation: {losses: 3}\n", "- 1\n", "a: [\n"])
def test_a_recipe_that_says_nothing_to_this_version_names_the_one_that_wrote_it(made_up, recipe):
    folder = made_up.in_grid("cwd", 0, HALF)
    (folder / "recipe.yaml").write_text(recipe)
    (folder / "environment.json").write_text('{"versions": {"fakd": "7.2.0"}}')
    with pytest.raises(
        InputError, match=r"cannot be read \(.*\), written by fakd 7\.2\.0; "
    ) as caught:
        read_run(folder)
    assert "\n" not in str(caught.value)


def test_a_run_with_weights_where_version_0_1_had_them_names_its_version(made_up):
    loss = {"class_path": "fakd.losses.ChannelKL"}
    folder = made_up.in_grid("cwd", 0, HALF, recipe={"distillation": loss, "weight": 7.5})
    (folder / "environment.json").write_text('{"versions": {"fakd": "0.1.0"}}')
    expected = r"seed-0, written by fakd 0\.1\.0: weight is no longer a setting"
    with pytest.raises(InputError, match=expected):
        read_run(folder)


def test_a_grid_has_finished_and_failed_runs(made_up):
    for method, seed in (("cwd", 1), ("cwd", 10), ("cwd", 2), ("alone", 0), ("own", 0)):
        made_up.in_grid(method, seed, HALF)
    made_up.failed("pd", 0, "exit code 1\nfakd: failed: out of memory\n")
    # It failed once and was finished later.
    made_up.failed("cwd", 2, "exit code 1\n")
    made_up.failed("pd", 1, "")
    unfinished = made_up.root / "psp-to-mv3" / "pd" / "seed-7"
    unfinished.mkdir()
    grid = read_grid(made_up.root)
    assert [(run.method, run.seed) for run in grid.runs] == [
        *[("alone", 0), ("cwd", 1), ("cwd", 2), ("cwd", 10), ("own", 0)]
    ]
    assert [(each.method, each.seed, each.reason) for each in grid.failures] == [
        ("pd", 0, "fakd: failed: out of memory"),
        ("pd", 1, "no reason given"),
    ]


def test_a_folder_without_a_grid_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"expected a grid with grid\.yaml"):
        read_grid(tmp_path)


def test_runs_are_grouped_by_data_and_pair(made_up):
    runs = [
        read_run(made_up.in_grid("cwd", 0, HALF)),
        read_run(made_up.in_grid("alone", 0, HALF)),
        read_run(made_up.in_grid("alone", 0, HALF, pair="other")),
    ]
    groups = by_pair(runs)
    assert {key: list(methods) for key, methods in groups.items()} == {
        ("scenes", "psp-to-mv3"): ["alone", "cwd"],
        ("scenes", "other"): ["alone"],
    }


def test_the_same_run_twice_is_refused(made_up, tmp_path):
    runs = [read_run(made_up.run(tmp_path / name, "cwd", 0, HALF)) for name in ("a", "b")]
    with pytest.raises(InputError, match=r"one run of cwd with seed 0 .*a and .*b; leave one out"):
        by_pair(runs)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_known_by_its_settings(name):
    spec = PRESETS[name]
    first = next(other for other in PRESETS if PRESETS[other] == spec)
    assert method_of({"distillation": spec}) == first
    assert method_of(recipe_of(preset(name))) == first
    if "losses" not in spec["init_args"]:
        assert method_of(recipe_of(WeightedSum({"any": preset(name)}))) == first


@pytest.mark.parametrize(
    ("loss", "method"),
    [
        (ChannelKL(strength=1.0), "cwd-fa"),
        (ChannelKL(weight=5.0), "cwd"),
        (WeightedSum({"channel": ChannelKL()}), "cwd"),
        (WeightedSum({"one": WeightedSum({"other": ChannelKL(strength=1.0)})}), "cwd-fa"),
        (ChannelKL(weight=7.5), "7.5 x ChannelKL"),
        (PixelKL(strength=1.5), "PixelKL(strength=1.5)"),
        (PairwiseSimilarity((4, 4)), "PairwiseSimilarity(kernel=[4, 4])"),
        (
            ChannelKL(strength=1.0, covariance="full", spare_own_class=True),
            "ChannelKL(strength=1, covariance=full, spare_own_class=True)",
        ),
        (
            WeightedSum({"a": ChannelKL(strength=0.5), "b": PixelKL(weight=2.0)}),
            "ChannelKL(strength=0.5) + 2 x PixelKL",
        ),
        (
            WeightedSum(dict(reversed(preset("ifvd-cirkd").arguments["losses"].items()))),
            "ifvd-cirkd",
        ),
    ],
)
def test_a_method_is_named_by_what_its_loss_computes(loss, method):
    assert method_of(recipe_of(loss)) == method


def test_weights_where_version_0_1_had_them_are_refused():
    bare = {"class_path": "fakd.losses.ChannelKL"}
    both = {"class_path": "fakd.losses.WeightedSum", "init_args": {"losses": {"maps": bare}}}
    old = {**both, "init_args": {**both["init_args"], "weights": {"maps": 2.5}}}
    for recipe, expected in (
        (
            {"distillation": bare, "weight": 7.5},
            "leave it out and write distillation.init_args.weight: 7.5",
        ),
        (
            {"distillation": both, "weight": 2},
            "multiply the weight of each loss of the WeightedSum by 2",
        ),
        ({"distillation": old, "weight": None}, "write losses.maps.init_args.weight: 2.5"),
    ):
        assert message(lambda recipe=recipe: method_of(recipe)).endswith(expected)
    # What every run of 0.1 wrote where nobody gave a weight: the loss's own, then as now.
    assert method_of({"distillation": bare, "weight": None}) == "cwd"
    assert message(lambda: refuse_former_weights({"weight": None})).endswith("leave it out")


def test_the_student_alone_and_losses_of_ones_own():
    assert method_of({"network": {}}) == "alone"
    assert method_of({"distillation": "mine.Loss"}) == "mine.Loss"
    assert title_of("alone") == "student alone"
    assert title_of("cirkd-mine") == "cirkd-mine"


def test_a_student_is_named_by_its_parts():
    given = {"backbone": "resnet18", "weights": "weights/r18.pth", "channels": 64}
    assert student_of({"network": {"class_path": "x.pspnet", "init_args": given}}) == (
        "pspnet-resnet18-r18.pth"
    )
    assert student_of({"student": "mine.Net"}) == "mine.Net"


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["/usr/bin/fakd", "train", "my recipe.yaml"], "fakd train 'my recipe.yaml'"),
        (["/some/where/fakd/__main__.py", "report", "runs"], "fakd report runs"),
        (["my/__main__.py", "--fast"], "my/__main__.py --fast"),
        (["study.py"], "study.py"),
    ],
)
def test_a_command_is_recorded_as_it_would_be_typed(monkeypatch, argv, expected):
    monkeypatch.setattr("sys.argv", argv)
    assert command_line() == expected
