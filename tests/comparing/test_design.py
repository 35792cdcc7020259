"""What a comparison is to decide: kept in the grid, looked at when planned, confirmed apart."""

import json
from functools import partial

import numpy as np
import pytest
import yaml

import fakd.comparing.work as working
from fakd.cli import main
from fakd.comparing.design import Design, design_of
from fakd.data import SegmentationData
from fakd.errors import InputError


@pytest.mark.parametrize(("most", "looks"), [(12, (3, 6, 12)), (5, (3, 5)), (3, (3,))])
def test_all_looks_together_err_in_five_percent(most, looks):
    design = Design(most=most)
    assert design.looks == looks
    assert sum(1 - design.level(seeds) for seeds in looks) == pytest.approx(0.05)
    assert Design().level(4) == 0.95


def test_looks_that_find_nothing_true_err_in_five_percent_of_comparisons():
    from fakd.comparing.statistics import paired_difference

    dice, design, false = np.random.default_rng(0), Design(most=12), 0
    for gains in dice.normal(0, 1, (1500, 12)):
        for seeds in design.looks:
            found = paired_difference(list(gains[:seeds]), [0.0] * seeds)
            low, high = found.at(design.level(seeds))
            if not low <= 0 <= high:
                false += 1
                break
    # Three standard errors of a share of .05 are .017.
    assert 0.015 < false / 1500 < 0.067


@pytest.mark.parametrize("wrong", [{"worthwhile": 0.0}, {"most": 2}])
def test_a_design_that_decides_nothing_is_refused(wrong):
    with pytest.raises(InputError, match="expected --"):
        Design(**wrong)


WORK = working.work
BASE = np.array([0.9, 0.8, 0.85, 0.4, 0.3])
GIVEN = ["--student", "pspnet", "--student.backbone", "resnet18", "--data", "scenes"]


@pytest.fixture
def comparison(made_up, monkeypatch):
    """Run `fakd compare` with made-up results that differ by ``gain``, give or take."""
    seen = []

    def compared(gain, *more, noise=0.002, data="0"):
        def finish(cell, *_):
            seed, method = cell.recipe["seed"], cell.folder.parent.name
            seen.append(seed)
            luck = ((seed + len(method)) * 7) % 5 - 2
            own = noise * luck + (0 if method == "alone" else gain)
            told = {"distillation": cell.recipe.get("distillation")}
            made_up.run(cell.folder, method, seed, BASE * 0.8 + own, **told)

        def timed(trial, *_):
            trial.outcome.parent.mkdir(parents=True, exist_ok=True)
            trial.outcome.write_text(json.dumps({"seconds_per_step": 9.0}))

        monkeypatch.setattr(working, "attempt", finish)
        monkeypatch.setattr(SegmentationData, "fingerprint", lambda _: data)
        monkeypatch.setattr(working, "measure", timed)
        monkeypatch.setattr(working, "work", partial(WORK, poll=0.001))
        made_up.root.mkdir(exist_ok=True)
        teacher = made_up.root / "teacher.safetensors"
        teacher.touch()
        given = [*GIVEN, "--teacher", str(teacher), "--run", str(made_up.root / "again")]
        if "--methods" not in more:
            given += ["--methods", "cwd"]
        return main(["compare", *given, *more])

    compared.seen, compared.run = seen, made_up.root / "again"
    return compared


def test_further_looks_are_refused_if_the_data_have_changed(comparison, capsys):
    # The made-up runs of the first look have another fingerprint, "0".
    assert comparison(0.0, "--until_decided", noise=0.01, data="1") == 2
    assert "the data have changed since" in capsys.readouterr().err
    assert set(comparison.seen) == {0, 1, 2}


def test_what_is_decided_early_gets_no_more_seeds(comparison, capsys):
    assert comparison(0.1, "--until_decided") == 0
    assert set(comparison.seen) == {0, 1, 2}
    said = capsys.readouterr().out
    assert "verdicts at 3, 6, 12 seeds" in said
    assert "CWD helped: +" in said
    assert "98.75 %" in said
    # 2 runs of 1000 steps of 9 s for each seed.
    assert "about 10 seeds (about 50.0 h of training) detect 1 mIoU" in said
    assert "verdicts at 3, 6, 12 seeds (about 60.0 h of training)" in said
    # The same command again adds nothing; a hyphen does as well.
    assert comparison(0.1, "--until-decided") == 0
    assert set(comparison.seen) == {0, 1, 2}


def test_the_margin_is_that_of_the_data_unless_it_is_given(comparison, monkeypatch):
    of_data = property(lambda _: 0.25, lambda *_: None)
    monkeypatch.setattr(SegmentationData, "worthwhile", of_data, raising=False)
    assert comparison(0.1) == 0
    assert yaml.safe_load((comparison.run / "grid.yaml").read_text())["worthwhile"] == 0.25
    assert comparison(0.1, "--worthwhile", "0.5") == 2


def test_what_is_undecided_ends_with_the_last_look(comparison, capsys):
    assert comparison(0.01, "--until_decided", "--most", "5", noise=0.05) == 0
    assert set(comparison.seen) == set(range(5))
    said = capsys.readouterr().out
    assert said.count("CWD: cannot tell") == 2
    # Looks that were planned are no peeking.
    assert "seeds were added" not in said
    grid = yaml.safe_load((comparison.run / "grid.yaml").read_text())
    assert (grid["until_decided"], grid["most"], grid["seeds"]) == (True, 5, [0, 1, 2, 3, 4])
    run = next(comparison.run.glob("*/cwd/seed-0"))
    assert design_of(run) == Design(most=5, seeds=[0, 1, 2, 3, 4], looked=[3, 5])
    # The same command goes on where it was, and adds nothing.
    before = len(comparison.seen)
    assert comparison(0.01, "--until_decided", "--most", "5", noise=0.05) == 0
    assert len(comparison.seen) == before


def test_what_shall_be_decided_must_be_named(comparison, capsys):
    assert comparison(0.1, "--until_decided", "--methods", "cwd,pd") == 2
    assert "--primary METHOD" in capsys.readouterr().err
    assert comparison(0.1, "--primary", "pd") == 2
    assert "expected --primary to name one of cwd, got 'pd'" in capsys.readouterr().err


@pytest.mark.parametrize("methods", ["cwd", "[cwd]", "alone, cwd"])
def test_what_to_confirm_may_be_written_as_methods_are(comparison, tmp_path, methods):
    assert comparison(0.1) == 0
    file = tmp_path / "confirm.yaml"
    arguments = ["--methods", methods, "--out", str(file)]
    assert main(["compare", "confirm", str(comparison.run), *arguments]) == 0
    assert list(yaml.safe_load(file.read_text())["methods"]) == ["alone", "cwd"]


def test_the_student_alone_is_nothing_to_confirm(comparison, tmp_path, capsys):
    assert comparison(0.1) == 0
    arguments = ["--methods", "alone", "--out", str(tmp_path / "confirm.yaml")]
    assert main(["compare", "confirm", str(comparison.run), *arguments]) == 2
    assert "name what is to be confirmed" in capsys.readouterr().err


def test_a_method_of_ones_own_is_confirmed_by_its_name(comparison, tmp_path):
    assert comparison(0.1, "--methods", "{cwd-fa: null, pd+cwd: {distillation: pd}}") == 0
    arguments = ["--methods", "pd+cwd,cwd+fa", "--out", str(tmp_path / "confirm.yaml")]
    assert main(["compare", "confirm", str(comparison.run), *arguments]) == 0
    grid = yaml.safe_load((tmp_path / "confirm.yaml").read_text())
    assert list(grid["methods"]) == ["alone", "pd+cwd", "cwd-fa"]


def test_something_is_to_be_confirmed(comparison, tmp_path, capsys):
    assert comparison(0.1) == 0
    capsys.readouterr()
    out = tmp_path / "confirm.yaml"
    assert main(["compare", "confirm", str(comparison.run), "--methods=", f"--out={out}"]) == 2
    assert "expected --methods to name what" in capsys.readouterr().err
    assert not out.exists()


def test_a_choice_is_confirmed_with_seeds_that_had_no_part_in_it(comparison, capsys):
    assert comparison(0.1, "--methods", "cwd,pd") == 0
    assert main(["compare", "confirm", str(comparison.run), "--methods", "cwd"]) == 0
    file = comparison.run.with_name("again-confirm.yaml")
    grid = yaml.safe_load(file.read_text())
    assert list(grid["methods"]) == ["alone", "cwd"]
    assert grid["seeds"] == [3, 4, 5]
    capsys.readouterr()
    assert main(["compare", str(file)]) == 0
    assert "3 of 3 new seeds" in capsys.readouterr().out
    assert main(["compare", "confirm", str(comparison.run), "--methods", "pd", "--seeds", "2"]) == 2
    assert "expected --seeds of at least 3, got 2" in capsys.readouterr().err
    assert main(["compare", "confirm", str(comparison.run), "--methods", "dist"]) == 2
    assert "has no method 'dist'; it has alone, cwd, pd" in capsys.readouterr().err


def test_seeds_added_after_a_look_make_no_verdict(comparison, capsys):
    assert comparison(0.1, "--seeds", "1") == 0
    assert comparison(0.1, "--seeds", "3") == 0
    assert "CWD helped: +" in capsys.readouterr().out
    assert comparison(0.1, "--seeds", "6") == 0
    said = capsys.readouterr().out
    assert "CWD: promising: +" in said
    assert "seeds were added after a look at 3; confirm with new seeds" in said


def test_the_primary_comparison_may_be_that_with_cwd(comparison, capsys):
    given = ["--methods", "cwd,cwd+fa", "--primary", "cwd-fa", "--until_decided", "--most", "3"]
    assert comparison(0.1, *given, "--against", "cwd") == 0
    said = capsys.readouterr().out
    # Both methods gain as much, and what they gain over the student alone was not the question.
    assert "CWD+FA: no worthwhile difference to CWD" in said
    assert "CWD: promising, 1 of 2" in said
    assert comparison(0.1, "--primary", "cwd", "--against", "cwd") == 2
    assert "--against cwd needs that method among --methods" in capsys.readouterr().err
