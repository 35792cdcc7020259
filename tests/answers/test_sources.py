"""What people name as a teacher, and what they mean by it."""

import numpy as np
import pytest
import yaml

from fakd.answers import Mapped, Several, Stored, parse_source
from fakd.runs.recipe import describe
from fakd.specs import build, check_spec, make_spec
from stand_ins import message

MAP = {"classes": {"road": ["street"]}, "rest": "ignore"}


def load(path):
    return make_spec("fakd.models.load", path=path)


@pytest.fixture
def folder(tmp_path):
    np.savez(tmp_path / "a.npz", logits=np.zeros((3, 2, 2), np.float32))
    return str(tmp_path)


def test_a_folder_of_answers_is_told_from_a_run(folder, tmp_path):
    assert parse_source(folder, load) == make_spec("fakd.answers.Stored", path=folder)
    (tmp_path / "best.safetensors").touch()
    assert parse_source(folder, load) is None
    assert parse_source("pspnet", load) is None


def test_several_teachers_stand_in_a_file_or_in_a_recipe(folder, tmp_path):
    (tmp_path / "map.yaml").write_text(yaml.safe_dump(MAP))
    teachers = [
        {"source": folder, "weight": 2},
        {"source": "runs/teacher", "classes_from": str(tmp_path / "map.yaml")},
    ]
    (tmp_path / "t.yaml").write_text(yaml.safe_dump({"teachers": teachers, "by": "confidence"}))

    def meant(path):
        return parse_source(path, meant) or load(path)

    spec = parse_source(str(tmp_path / "t.yaml"), meant)
    mapped = make_spec("fakd.answers.Mapped", teacher=load("runs/teacher"), classes_from=MAP)
    stored = make_spec("fakd.answers.Stored", path=folder)
    assert spec["init_args"]["teachers"] == [stored, mapped]
    assert spec["init_args"]["weights"] == [2, 1.0]
    assert spec["init_args"]["by"] == "confidence"
    assert parse_source(teachers, meant)["init_args"]["teachers"] == [stored, mapped]
    assert (
        parse_source({"source": folder, "smoothing": 0.1}, meant)["init_args"]["smoothing"] == 0.1
    )


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"teachers": []}, "must be a list"),
        ({"teachers": [{"weight": 1}]}, "needs a source"),
        ({"teachers": [{"source": "a", "wieght": 1}]}, "did you mean 'weight'"),
        ({"teachers": [{"source": "a", "weight": -1}]}, "at least 0"),
        ({"teachers": [{"source": "a", "weight": 0}]}, "one of them above 0"),
        ({"teachers": [{"source": "a", "weight": "x"}]}, "at least 0"),
        ({"teachers": ["a"], "by": "vote"}, "got 'vote'"),
        ({"teachers": [{"source": "a", "classes_from": {"classes": 3}}]}, "classes must give"),
    ],
)
def test_a_wrong_list_of_teachers_is_refused(content, said):
    assert said in message(lambda: parse_source(content, load))


def test_recipes_describe_sources_as_they_are_built(folder):
    teachers = [Stored(folder), Mapped(Stored(folder, smoothing=0.1), MAP)]
    spec = describe(Several(teachers, [1, 3], "confidence"))
    again = build(check_spec(spec, "teacher"))
    assert describe(again) == spec
    assert again.weights == [1, 3]
    assert again.teachers[1].classes.content == MAP
    assert again.teachers[1].teacher.smoothing == 0.1
