import re

import numpy as np
import pytest

from fakd.comparing.statistics import Difference, Interval, half_width
from fakd.comparing.verdict import (
    Comparison,
    cautions,
    compare_runs,
    references,
    seconds_per_step,
    sentence,
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
        "CWD+FA helped: +1.9 mIoU (95 % +1.2 to +2.6) at 1.01x the time of CWD"
    )


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ((-0.3, -0.9, 0.2), "CWD+FA did not help here: -0.3 mIoU (95 % -0.9 to +0.2"),
        ((0.2, 0.1, 0.3), "CWD+FA did not help here: +0.2 mIoU (95 % +0.1 to +0.3"),
        ((-1.0, -1.5, -0.5), "CWD+FA hurt: -1.0 mIoU (95 % -1.5 to -0.5"),
        ((-0.01, -0.04, 0.04), "CWD+FA did not help here: +0.0 mIoU (95 % +0.0 to +0.0"),
    ],
)
def test_it_did_not_help_or_hurt(numbers, words):
    assert judged(*numbers).startswith(words)


def test_a_rival_is_better_or_worse():
    assert judged(-1.0, -1.5, -0.5, "dist").startswith("DIST was worse than CWD: -1.0 mIoU")
    assert judged(0.1, -0.1, 0.3, "dist").startswith("DIST was no better than CWD here: +0.1")
    assert judged(1.0, 0.5, 1.5, "dist").startswith("DIST was better than CWD: +1.0 mIoU")
    assert judged(1.0, 0.5, 1.5, "dist", "alone").endswith("at 1.01x the time of the student alone")


@pytest.mark.parametrize("mean", [0.8, 0.1, -0.4])
def test_more_seeds_would_do_and_how_many(mean):
    half = half_width(1.2, 3)
    text = judged(mean, mean - half, mean + half, spread=1.2)
    assert text.startswith(f"CWD+FA: cannot tell with these seeds: {mean:+.1f} mIoU (95 % ")
    more = int(re.search(r"; (\d+) more seeds? would do$", text)[1])

    def ends(seeds):
        half = half_width(1.2, seeds)
        return mean - half, mean + half

    def decided(low, high):
        return low > 0 or high < 0.5

    assert decided(*ends(3 + more))
    assert not decided(*ends(3 + more - 1))


def test_too_many_seeds_or_too_few_images():
    assert judged(0.3, -90.0, 90.0, spread=40.0).endswith("; 100 seeds would not do")
    images = Interval(-3.0, 4.0)
    text = judged(0.3, -1.0, 1.6, spread=0.5, images=images)
    assert text.endswith("; the images are too few for any number of seeds")


def test_one_seed_claims_nothing(made_up):
    methods = grid(made_up, {"alone": 0.0, "cwd": 0.05}, seeds=1)
    (text,) = verdicts(references(methods))
    assert text.startswith("CWD: one seed shows no more than itself: +")
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
    assert lines[0].split()[:4] == ["method", "seeds", "mIoU", "mAcc"]
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


def test_what_stands_out_among_many_is_doubted(made_up):
    few = {"alone": 0.0, "cwd": 0.01, "pd": 0.01, "dist": 0.05}
    assert cautions(references(grid(made_up, few))) == []
    many = references(grid(made_up, {"ifvd": 0.01}))
    assert cautions(many) == [
        "4 methods were compared with the student alone: if none differed from it, one or more "
        "would still seem to in about 19 % of such comparisons; repeat what stands out with other "
        "seeds"
    ]
    assert len(verdicts(many)) == 4 + 3


def test_nothing_is_doubted_where_nothing_stands_out(made_up):
    equals = dict.fromkeys(("alone", "cwd", "pd", "dist", "ifvd"), 0.0)
    assert cautions(references(grid(made_up, equals))) == []
