"""What is said before a run."""

from io import StringIO

import pytest
from rich.console import Console

from fakd.data import scenes
from fakd.settings import Inference
from fakd.training.start import announce, unlike_published

PROTOCOL = {"base": [520, 520], "window": 480, "stride": 320}


@pytest.fixture
def published():
    data = scenes(1, 1, (32, 48))
    data.protocol, data.remarks = PROTOCOL, ("train has 1 of [520] images",)
    return data


def test_published_settings_are_not_remarked_on(published):
    like = Inference(base=(520, 520), window=480, stride=320)
    assert unlike_published(published, like) is None
    assert unlike_published(scenes(1, 1, (32, 48)), Inference()) is None


def test_other_settings_are_named_as_flags(published):
    note = unlike_published(published, Inference(base=(520, 520)))
    assert "--inference.window '480' --inference.stride '320'" in note
    assert "base" not in note


def test_remarks_are_printed_to_the_letter(published):
    console = Console(file=StringIO(), width=200)
    announce(console, published, Inference())
    printed = console.file.getvalue()
    assert "warning: train has 1 of [520] images" in printed
    assert "note: published scores on" in printed
