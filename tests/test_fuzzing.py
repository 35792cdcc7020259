"""Whatever stands in a recipe, a description or a header: an answer or one line."""

import contextlib
import json
import struct

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from fakd import models
from fakd.cli import parse
from fakd.data.description import read_description
from fakd.errors import InputError

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 70000),
    st.floats(),
    st.dates(),
    st.text(max_size=8),
    st.sampled_from(["ids", "colors", "a", "pspnet", "cwd", "{name}.png", "train", "all", "1e-2"]),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.one_of(st.text(max_size=6), st.integers(0, 300)), inner, max_size=3),
    ),
    max_leaves=6,
)


def places(tree, path=()):
    """Every place in nested mappings and lists, outermost first."""
    yield path
    inner = (
        tree.items()
        if isinstance(tree, dict)
        else enumerate(tree)
        if isinstance(tree, list)
        else ()
    )
    for key, value in inner:
        yield from places(value, (*path, key))


def changed(tree, path, value):
    """A copy with another value at a place."""
    if not path:
        return value
    key, *deeper = path
    if isinstance(tree, dict):
        return {**tree, key: changed(tree[key], deeper, value)}
    return [*tree[:key], changed(tree[key], deeper, value), *tree[key + 1 :]]


@st.composite
def spoilt(draw, right, new_keys):
    """The right content with one to three places changed, and perhaps a key more."""
    content = right
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.sampled_from(list(places(content))[1:] or [()]))
        content = changed(content, place, draw(VALUES))
    if isinstance(content, dict) and draw(st.booleans()):
        content = {**content, draw(st.sampled_from(new_keys)): draw(VALUES)}
    return content


RECIPE = {
    "network": {"class_path": "fakd.models.pspnet", "init_args": {"backbone": "resnet18"}},
    "data": {"class_path": "fakd.data.scenes", "init_args": {"train": 4}},
    "run": "r",
    "schedule": {"steps": 3, "learning_rate": 0.1, "shape": "poly"},
    "optimizer": {"kind": "SGD", "arguments": {"momentum": 0.9}},
    "augmentation": {"crop": [32, 32], "scale": [0.5, 2.0]},
    "task": {"class_weights": [1.0, 2.0]},
    "freeze": {"names": ["backbone"]},
    "seed": 0,
}
RECIPE_KEYS = ["ema", "teacher", "hardware", "intervals", "stopping", "x", "", "weight", "broken"]
DESCRIPTION = {
    "classes": [{"name": "a", "color": [0, 0, 0], "id": 3}, {"name": "b", "color": [9, 0, 0]}],
    "masks": "ids",
    "ids": {0: "a", 7: "b"},
    "ignore": [9],
    "others": "ignore",
    "train": {"images": "t/{name}.png", "masks": ["m/{name}.png"], "list": ["a.txt"]},
    "val": [{"images": "v/{name}.*", "masks": {"files": "m/{name}.png", "ids": {1: "a"}}}],
    "protocol": {"base": [2048, 512]},
}
DESCRIPTION_KEYS = ["palette", "root", "name", "ignore_colors", "augmentation", "source", "x"]

# Few in every run, so that it stays short, and many where time is given.
EXAMPLES = pytest.mark.parametrize("examples", [50, pytest.param(2000, marks=pytest.mark.slow)])


def holds_for(examples, content, attempt):
    """Try an attempt on many contents; it may succeed or be refused in one line."""

    @settings(max_examples=examples, deadline=None, derandomize=True, database=None)
    @given(content)
    def check(content):
        # Anything else that is raised fails.
        with contextlib.suppress(InputError):
            attempt(content)

    check()


@EXAMPLES
def test_any_recipe_is_read_or_refused(examples, tmp_path):
    file = tmp_path / "r.yaml"

    def attempt(content):
        file.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
        parse("train", ["--recipe", str(file)])

    holds_for(examples, spoilt(RECIPE, RECIPE_KEYS), attempt)


@EXAMPLES
def test_any_description_is_read_or_refused(examples, tmp_path):
    file = tmp_path / "dataset.yaml"

    def attempt(content):
        file.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
        read_description(file)

    holds_for(examples, spoilt(DESCRIPTION, DESCRIPTION_KEYS), attempt)


@EXAMPLES
def test_any_text_as_a_recipe_or_a_description_is_read_or_refused(examples, tmp_path):
    file = tmp_path / "any.yaml"

    def attempt(content):
        file.write_bytes(content)
        for read in (read_description, lambda path: parse("train", ["--recipe", str(path)])):
            with contextlib.suppress(InputError):
                read(file)

    text = st.text(alphabet="a0:- []{}&*!#'\"\n\t\\|>%@,é", max_size=60).map(str.encode)
    holds_for(examples, st.one_of(text, st.binary(max_size=60)), attempt)


@EXAMPLES
def test_any_header_of_weights_is_read_or_refused(examples, tmp_path, tiny_network):
    right = tmp_path / "right.safetensors"
    models.save(tiny_network, right, class_names=None, palette=None)
    raw = right.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    inner = {key: _parsed(value) for key, value in header.pop("__metadata__").items()}
    file = tmp_path / "spoilt.safetensors"

    def attempt(content):
        texts = content
        if isinstance(content, dict):
            texts = {
                str(k): v if isinstance(v, str) else json.dumps(v, default=str)
                for k, v in content.items()
            }
        made = json.dumps({"__metadata__": texts, **header}, default=str).encode()
        file.write_bytes(struct.pack("<Q", len(made)) + made + raw[8 + length :])
        models.load(file)

    holds_for(examples, spoilt(inner, ["x", "format"]), attempt)


def _parsed(text):
    try:
        return json.loads(text)
    except ValueError:
        return text
