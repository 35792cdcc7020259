import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from fakd.comparing.design import Design
from fakd.comparing.statistics import Difference, Interval, paired_difference
from fakd.comparing.verdict import (
    Comparison,
    compare_runs,
    references,
    seconds_per_step,
    sentence,
    tone,
    unequal_training,
)
from fakd.console import open_console
from fakd.errors import InputError
from fakd.report.methods import terminal_table
from fakd.runs.reading import by_pair, read_grid, read_run

BASE = np.array([0.9, 0.8, 0.85, 0.4, 0.3])


def judged(mean, low, high, method="cwd-fa", reference="cwd", seeds=3, images=None, spread=1.0):
    over_seeds = Interval(low, high) if seeds > 1 else None
    difference = Difference(mean, spread if seeds > 1 else None, seeds, over_seeds, images)
    return sentence(Comparison(method, reference, difference, 1.006))


def grid(made_up, gains, seeds=3, **more):
    """Every method finds that much more of every class than the student alone, give or take."""
    for method, gain in gains.items():
        for seed in range(seeds):
            # All methods of a seed share its luck, which pairing must take out.
            luck = (0.0, 0.04, -0.03, 0.02, 0.01)[seed]
            own = (0.002, -0.001, 0.0, 0.001, -0.002)[(seed + len(method)) % 5]
            made_up.in_grid(method, seed, BASE * 0.8 + luck + gain + own, **more)
    return next(iter(by_pair(read_grid(made_up.root).runs).values()))


def verdicts(compared):
    return [sentence(each) for found in compared.values() for each in found]


def shown(table, width=220):
    console = open_console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    with console.file:
        console.print(table)
        return console.export_text()


def test_it_helped():
    images = Interval(1.9, 1.9)
    assert judged(1.9, 1.2, 2.6, images=images) == (
        "CWD+FA helped: +1.9 mIoU (95 % +1.2 to +2.6), 3 of 3 seeds, images counted as "
        "independent, at 1.01x the time of CWD"
    )


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ((-0.3, -0.9, 0.2), "CWD+FA: no worthwhile difference to CWD (within ±1): -0.3 mIoU (95 %"),
        ((0.2, 0.1, 0.3), "CWD+FA: no worthwhile difference to CWD (within ±1): +0.2 mIoU (95 %"),
        ((-0.1, -0.2, -0.05), "CWD+FA: no worthwhile difference to CWD (within ±1): -0.1 mIoU"),
        ((-6.2, -12.6, 0.2), "CWD+FA: cannot tell: -6.2 mIoU (95 % -12.6 to +0.2"),
        ((-2.0, -2.5, -1.5), "CWD+FA hurt: -2.0 mIoU (95 % -2.5 to -1.5"),
    ],
)
def test_what_is_not_shown_is_not_called_equal(numbers, words):
    assert judged(*numbers).startswith(words)


def test_a_narrow_margin_has_digits_of_its_own():
    interval = Interval(-0.03, 0.05)
    difference = Difference(0.01, 0.02, 3, interval)
    found = Comparison("cwd", "alone", difference, 1.0, Design(worthwhile=0.01))
    assert "cannot tell: +0.01 mIoU (95 % -0.03 to +0.05, over seeds only)" in sentence(found)


def test_equivalence_is_that_of_the_ninety_percent_interval():
    difference = paired_difference([0.0, 0.5, -0.5, 0.25], [0.0] * 4)
    low, high = difference.at(0.9)
    for margin, found in ((high + 0.01, "flat"), (high - 0.01, "unsure")):
        design = Design(worthwhile=margin)
        assert tone(Comparison("cwd", "alone", difference, 1.0, design)) == found
    # t of 0.95 with 3 degrees of freedom, from any table.
    assert high - difference.mean == pytest.approx(2.353363 * difference.spread / 2, rel=1e-5)
    assert low == pytest.approx(2 * difference.mean - high)


def test_a_rival_is_better_or_worse():
    assert judged(-2.0, -2.5, -1.5, "dist").startswith("DIST was worse than CWD: -2.0 mIoU")
    assert judged(2.0, 1.5, 2.5, "dist").startswith("DIST was better than CWD: +2.0 mIoU")
    # Of another's making, whatever its name begins with.
    assert judged(2.0, 1.5, 2.5, "cwd-fast").startswith("cwd-fast was better than CWD")
    assert judged(2.0, 1.5, 2.5, "dist", "alone").endswith("at 1.01x the time of the student alone")


def test_what_cannot_be_told_says_what_could():
    text = judged(0.8, -2.2, 3.8, spread=1.2)
    assert text.endswith("; 1 mIoU needs about 14 seeds at this spread")
    assert judged(0.3, -90.0, 90.0, spread=40.0).endswith(
        "; 1 mIoU needs more than 100 seeds at this spread"
    )
    images = Interval(-3.0, 4.0)
    text = judged(0.3, -1.0, 1.6, spread=0.5, images=images)
    assert text.endswith("; the images are too few to show 1 mIoU with any number of seeds")


def test_two_seeds_decide_nothing():
    text = judged(2.0, 1.5, 2.5, seeds=2)
    assert "cannot tell" in text
    assert text.endswith("; a verdict needs at least 3 seeds")


def test_one_seed_claims_nothing(made_up):
    methods = grid(made_up, {"alone": 0.0, "cwd": 0.05}, seeds=1)
    (text,) = verdicts(references(methods))
    assert text.startswith("CWD: cannot tell from one seed: +")
    assert "over images only" in text
    assert text.endswith("run at least 3 seeds")
    assert "helped" not in text


def test_without_counts_of_images_the_interval_says_so(made_up):
    methods = grid(made_up, {"alone": 0.0, "cwd": 0.05}, counted=False)
    found = compare_runs(methods["cwd"], methods["alone"])
    assert found.difference.over_images is None
    assert found.difference.interval == found.difference.over_seeds
    (text,) = verdicts(references(methods))
    assert text.startswith("CWD helped: +")
    assert "over seeds only" in text
    assert " s)" in shown(terminal_table(methods, references(methods)))


def test_one_seed_without_counts_has_no_interval(made_up):
    methods = grid(made_up, {"alone": 0.0, "cwd": 0.05}, seeds=1, counted=False)
    (text,) = verdicts(references(methods))
    assert "95 %" not in text


def test_seeds_are_paired(made_up):
    methods = grid(made_up, {"alone": 0.0, "cwd": 0.05})
    found = compare_runs(list(reversed(methods["cwd"])), methods["alone"])
    scores = [[run.miou for run in methods[name]] for name in ("cwd", "alone")]
    gains = np.subtract(*scores)
    assert found.difference.mean == pytest.approx(gains.mean())
    assert found.difference.spread == pytest.approx(gains.std(ddof=1))
    assert found.difference.spread < 0.2 * np.std(scores[0], ddof=1)
    low, high = found.difference.over_images
    assert low < found.difference.mean < high


def test_methods_trained_for_unequal_steps_are_told(made_up):
    equal = grid(made_up, {"alone": 0.0, "cwd": 0.05})
    assert unequal_training(equal) is None
    for seed in range(3):
        made_up.in_grid("pd", seed, BASE * 0.8, steps=400 + seed, seconds=25.0 + seed)
    methods = next(iter(by_pair(read_grid(made_up.root).runs).values()))
    assert "from 401 in 26 s to 1,000 in 100 s" in unequal_training(methods)


def test_only_shared_seeds_count(made_up):
    methods = grid(made_up, {"alone": 0.0, "cwd": 0.05})
    assert compare_runs(methods["cwd"][:2], methods["alone"][1:]).difference.seeds == 1
    assert compare_runs(methods["cwd"][:1], methods["alone"][1:]) is None


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"prefix": "photo"}, "images"),
        ({"images": 21}, "images"),
        ({"share": [0.4, 0.4, 0.15, 0.04, 0.01]}, "labels of the same images"),
        ({"names": ("a", "b", "c", "d", "e")}, "classes"),
    ],
)
def test_runs_scored_on_other_images_are_refused(made_up, change, what):
    first = read_run(made_up.in_grid("alone", 0, BASE))
    second = read_run(made_up.in_grid("cwd", 0, BASE, **change))
    with pytest.raises(InputError, match=rf"different {what} in .*cwd/seed-0 and .*alone/seed-0"):
        compare_runs([second], [first])


def test_time_is_the_median_of_a_step(made_up):
    for seed, seconds in enumerate((100.0, 110.0, 500.0)):
        made_up.in_grid("cwd", seed, BASE, seconds=seconds)
        made_up.in_grid("alone", seed, BASE, seconds=55.0)
    methods = next(iter(by_pair(read_grid(made_up.root).runs).values()))
    assert seconds_per_step(methods["cwd"]) == pytest.approx(0.11)
    assert compare_runs(methods["cwd"], methods["alone"]).time_ratio == pytest.approx(2.0)


def test_the_table_has_every_method_and_what_failed(made_up):
    gains = {"alone": 0.0, "cwd": 0.05, "cwd-fa": 0.06, "own [x]": 0.0}
    methods = grid(made_up, gains)
    made_up.failed("pd", 1, "exit code 1\nfakd: failed: [task] became NaN\n")
    failures = read_grid(made_up.root).failures
    lines = [
        line.rstrip()
        for line in shown(terminal_table(methods, references(methods), failures)).splitlines()
    ]
    assert lines[0].split()[:4] == ["method", "seeds", "mIoU", "against"]
    assert "against the student alone" in lines[0]
    assert "against CWD" in lines[0]
    assert [line.split("  ")[0].strip() for line in lines[1:5]] == [
        *("student alone", "CWD", "CWD+FA", "own [x]")
    ]
    # The student alone has no difference to itself, and its difference to CWD is in CWD's row.
    assert lines[1].count("(") == 0
    assert (lines[2].count("("), lines[3].count("(")) == (1, 2)
    assert lines[5] == "PD, seed 1, failed: fakd: failed: [task] became NaN"


def test_pairs_are_judged_apart(made_up):
    grid(made_up, {"alone": 0.0, "cwd": 0.05})
    grid(made_up, {"alone": 0.0, "cwd": -0.05}, pair="other")
    pairs = by_pair(read_grid(made_up.root).runs).items()
    found = {pair: verdicts(references(methods)) for pair, methods in pairs}
    assert found["scenes", "psp-to-mv3"][0].startswith("CWD helped")
    assert found["scenes", "other"][0].startswith("CWD hurt")


def test_without_the_student_alone_there_is_nothing_to_judge_by(made_up):
    methods = grid(made_up, {"pd": 0.0, "dist": 0.05})
    assert verdicts(references(methods)) == []
    assert "against" not in shown(terminal_table(methods, references(methods)))


def test_of_several_comparisons_none_helped_before_it_is_confirmed(made_up):
    gains = {"alone": 0.0, "cwd": 0.0, "pd": 0.0, "dist": 0.08}
    found = references(grid(made_up, gains, seeds=5))
    assert [each.family for each in found["alone"]] == [5, 5, 5]
    said = {each.method: sentence(each) for each in found["alone"]}
    assert said["dist"].startswith("DIST: promising, 1 of 5: +")
    assert said["dist"].endswith("; confirm with new seeds")
    # The same comparison helped where it was declared beforehand, or made to confirm.
    for design in ("primary: dist", "confirms: runs/first"):
        (made_up.root / "grid.yaml").write_text(f"seeds: [0, 1, 2, 3, 4]\n{design}\n")
        again = references(next(iter(by_pair(read_grid(made_up.root).runs).values())))
        said = {each.method: sentence(each) for each in again["alone"]}
        assert said["dist"].startswith("DIST helped: +")
        assert ("5 of 5 new seeds" in said["dist"]) == design.startswith("confirms")


def test_what_only_chance_sets_apart_is_not_promising():
    difference = paired_difference([1.0, 1.6, 2.2], [0.0, 0.0, 0.0])
    assert difference.p_value == pytest.approx(0.0441, abs=1e-3)
    alone = Comparison("dist", "alone", difference, 1.0)
    assert tone(alone) == "helped"
    one_of_many = Comparison("dist", "alone", difference, 1.0, family=4, corrected=0.18)
    assert tone(one_of_many) == "unsure"
    assert sentence(one_of_many).endswith("not significant among 4 comparisons (Holm)")
    # New seeds of many methods at once are many comparisons again.
    confirming = replace(one_of_many, design=Design(confirms="runs/first"))
    assert tone(confirming) == "unsure"
    assert tone(replace(confirming, corrected=0.04)) == "helped"
    assert tone(replace(one_of_many, corrected=0.04)) == "standout"


def test_a_class_that_no_label_shows_flips_no_verdict(made_up):
    share = [0.5, 0.3, 0.15, 0.05, 0.0]
    for seed in range(3):
        for method in ("alone", "cwd"):
            folder = made_up.in_grid(method, seed, BASE * 0.8, share=share)
            if method == "alone":
                _stray(folder)
    methods = next(iter(by_pair(read_grid(made_up.root).runs).values()))
    difference = compare_runs(methods["cwd"], methods["alone"]).difference
    assert abs(difference.mean) < 0.01
    assert max(map(abs, difference.over_images)) < 0.01


def _stray(folder):
    """Let five pixels of every image be named the class that is not there."""
    with np.load(folder / "images.npz") as file:
        arrays = dict(file)
    arrays["said"][:, 4] += 5
    np.savez(folder / "images.npz", **arrays)
    result = json.loads((folder / "result.json").read_text())
    result["final"]["classes"]["cyclist"]["iou"] = 0.0
    result["final"]["miou"] *= 4 / 5
    (folder / "result.json").write_text(json.dumps(result))


def test_a_copy_of_a_seed_is_no_seed(made_up):
    for seed in range(2):
        made_up.in_grid("alone", seed, BASE * 0.8)
    first = made_up.in_grid("cwd", 0, BASE)
    second = made_up.in_grid("cwd", 1, BASE)
    shutil.copy(first / "result.json", second / "result.json")
    methods = next(iter(by_pair(read_grid(made_up.root).runs).values()))
    with pytest.raises(InputError, match=r"same scores in .*seed-0 and .*seed-1; delete the copy"):
        references(methods)
    shutil.copy(first / "recipe.yaml", second / "recipe.yaml")
    (failure,) = read_grid(made_up.root).failures
    assert "its recipe has seed 0" in failure.reason


@pytest.mark.parametrize("score", [None, float("nan")])
def test_a_seed_without_a_score_is_left_out_and_counted(made_up, score):
    grid(made_up, {"alone": 0.0, "cwd": 0.08}, seeds=4)
    (made_up.root / "grid.yaml").write_text("seeds: [0, 1, 2, 3]\n")
    file = made_up.root / "psp-to-mv3" / "cwd" / "seed-1" / "result.json"
    result = json.loads(file.read_text())
    result["final"]["miou"] = score
    file.write_text(json.dumps(result))
    outcome = read_grid(made_up.root)
    assert "the training has diverged" in outcome.failures[0].reason
    (text,) = verdicts(references(next(iter(by_pair(outcome.runs).values()))))
    assert "3 of 4 seeds" in text


def test_images_that_only_some_seeds_counted_bend_no_interval(made_up):
    methods = grid(made_up, {"alone": 0.0, "cwd": 0.05})
    (methods["cwd"][1].folder / "images.npz").unlink()
    again = next(iter(by_pair(read_grid(made_up.root).runs).values()))
    assert compare_runs(again["cwd"], again["alone"]).difference.over_images is None


@pytest.mark.parametrize(("groups", "words"), [(1, "all of one group"), (5, "5 groups of images")])
def test_images_of_a_group_are_drawn_together(made_up, groups, words):
    methods = grid(made_up, {"alone": 0.0, "cwd": 0.05})
    apart = compare_runs(methods["cwd"], methods["alone"]).difference
    for run in (*methods["cwd"], *methods["alone"]):
        with np.load(run.folder / "images.npz") as file:
            arrays = dict(file)
        named = [f"clip-{place % groups}" for place in range(20)]
        np.savez(run.folder / "images.npz", **arrays, groups=named)
    again = next(iter(by_pair(read_grid(made_up.root).runs).values()))
    found = compare_runs(again["cwd"], again["alone"])
    assert words in sentence(found)
    assert found.difference.groups == groups
    assert (found.difference.over_images is None) == (groups == 1)
    assert found.difference.over_seeds == apart.over_seeds


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ("IMG_{:04}", ", images counted as independent, at "),
        ("0016E5_{:05}", ", images counted as independent, though named like frames of clips, at "),
    ],
)
def test_images_without_groups_are_said_to_count_as_independent(made_up, form, words):
    methods = grid(made_up, {"alone": 0.0, "cwd": 0.05})
    for run in (*methods["cwd"], *methods["alone"]):
        with np.load(run.folder / "images.npz") as file:
            arrays = dict(file)
        arrays["names"] = np.array([form.format(7959 + 2 * place) for place in range(20)])
        np.savez(run.folder / "images.npz", **arrays)
    again = next(iter(by_pair(read_grid(made_up.root).runs).values()))
    assert words in sentence(compare_runs(again["cwd"], again["alone"]))
    # Where no image was counted, none counts as anything.
    for run in (*methods["cwd"], *methods["alone"]):
        (run.folder / "images.npz").unlink()
    again = next(iter(by_pair(read_grid(made_up.root).runs).values()))
    assert "independent" not in sentence(compare_runs(again["cwd"], again["alone"]))


def test_a_class_that_some_seeds_lose_is_named(made_up):
    for seed in range(3):
        made_up.in_grid("alone", seed, BASE)
        made_up.in_grid("cwd", seed, BASE * np.array([1, -1 if seed == 1 else 1, 1, 1, 1]))
    methods = next(iter(by_pair(read_grid(made_up.root).runs).values()))
    (text,) = verdicts(references(methods))
    assert "too narrow, as some seeds lost building" in text


def test_networks_that_learnt_nothing_are_not_called_equal(made_up):
    """Half of the pixels are road: naming it everywhere is 50 IoU for one class of five."""
    for seed in range(3):
        made_up.in_grid("alone", seed, np.array([0.05, 0.0, 0.0, 0.0, 0.0]))
        made_up.in_grid("cwd", seed, np.array([0.06, 0.0, 0.0, 0.0, 0.0]) + 0.001 * seed)
    runs, _ = read_grid(made_up.root)
    (found,) = references(next(iter(by_pair(runs).values())))["alone"]
    assert found.blind
    assert tone(found) == "unsure"
    assert "neither is better than predicting the most frequent class everywhere" in sentence(found)


def test_one_that_learnt_something_is_compared(made_up):
    for seed in range(3):
        made_up.in_grid("alone", seed, np.array([0.05, 0.0, 0.0, 0.0, 0.0]))
        made_up.in_grid("cwd", seed, np.full(5, 0.8) + 0.001 * seed)
    runs, _ = read_grid(made_up.root)
    (found,) = references(next(iter(by_pair(runs).values())))["alone"]
    assert not found.blind
    assert tone(found) == "helped"
