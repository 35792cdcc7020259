"""Class maps: every name is checked, and what is proposed follows names and labels."""

import pytest
import yaml

from fakd.answers.classes import propose, read_class_map
from stand_ins import message

OURS = ("road", "person", "other")
THEIRS = ("street", "lane", "man", "woman", "sky")


def table(theirs=THEIRS, count=5, **content):
    return read_class_map(content).table(OURS, theirs, count)


def test_names_and_numbers_become_numbers():
    groups = {"road": ["street", 1], "person": "man", "other": []}
    assert table(classes=groups) == [[0, 1], [2], []]


def test_the_rest_goes_to_a_class_or_nowhere():
    groups = {"road": ["street", "lane"], "person": ["man", "woman"]}
    assert table(classes=groups, rest="other") == [[0, 1], [2, 3], [4]]
    assert table(classes=groups | {"other": ["man"]}, rest="ignore")[2] == [2]


def test_a_file_may_list_names_that_the_teacher_lacks():
    groups = {"road": ["street"], "person": ["man"], "other": []}
    assert table(None, 5, classes=groups, teacher=list(THEIRS)) == [[0], [2], []]
    assert "have no names" in message(lambda: table(None, 5, classes=groups))
    assert "lists 5 names" in message(lambda: table(None, 6, classes=groups, teacher=list(THEIRS)))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"classes": {"raod": ["street"], "person": [], "other": []}}, "did you mean road"),
        ({"classes": {"road": ["stret"], "person": [], "other": []}}, "did you mean street"),
        ({"classes": {"road": ["street"]}}, "does not mention person, other"),
        ({"classes": {"road": [7], "person": [], "other": []}}, "0 to 4, not 7"),
        ({"classes": {"road": ["street"], "person": []}, "rest": "others"}, "did you mean other"),
        ({"classes": {"road": [], "person": [], "other": []}}, "uses no class"),
        ({"classes": {"road": ["street", "street"]}}, "twice"),
        ({"classes": {"road": [True]}}, "needs a name"),
        ({"classes": ["road"]}, "classes must give"),
        ({"clases": {}}, "did you mean 'classes'"),
        ({"classes": {"road": []}, "rest": ["other"]}, "rest must be"),
        ({"classes": {"road": []}, "teacher": "street"}, "must be a list"),
    ],
)
def test_what_cannot_be_right_is_refused_by_name(content, said):
    assert said in message(lambda: table(**content))


def test_two_classes_of_one_name_need_numbers():
    groups = {"road": ["a"], "person": [1], "other": []}
    assert "give numbers" in message(lambda: table(("a", "b", "a"), 3, classes=groups))


def test_a_map_says_all_that_its_file_holds(tmp_path):
    content = {"classes": {"road": ["street", 1], "person": ["man"]}, "rest": "other"}
    (tmp_path / "map.yaml").write_text(yaml.safe_dump(content))
    assert read_class_map(tmp_path / "map.yaml").content == content
    assert "no.yaml" in message(lambda: read_class_map(tmp_path / "no.yaml"))


def test_names_decide_then_labels_then_what_is_nearly_the_name():
    ours, theirs = ("traffic sign", "road", "bicyclist"), ("Roads", "sign", "bicyclists", "rider")
    counts = [[9, 8, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]]
    found = propose(ours, theirs, counts)
    assert found == {"traffic sign": ["sign"], "road": ["Roads"], "bicyclist": ["bicyclists"]}
    named = propose(ours, ("trafic signs", "tree"), None)
    assert named == {"traffic sign": ["trafic signs"], "road": [], "bicyclist": []}


def test_a_class_that_no_half_of_the_labels_agrees_on_goes_nowhere():
    counts = [[4, 80, 0, 0], [4, 0, 80, 0], [2, 0, 0, 80]]
    found = propose(("a", "b", "c"), ("w", "x", "y", "z"), counts)
    assert found == {"a": ["x"], "b": ["y"], "c": ["z"]}


def test_a_rare_class_is_found_though_most_of_its_pixels_are_a_neighbours():
    counts = [[900, 60], [5, 20]]
    assert propose(("wall", "pole"), ("x", "y"), counts) == {"wall": ["x"], "pole": ["y"]}
