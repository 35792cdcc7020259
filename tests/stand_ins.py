"""What several tests stand in for or look at: a network without layers, the line of a refusal."""

import pytest
from torch import nn

from fakd.errors import InputError
from fakd.types import Segmenter


class Shown(Segmenter):
    """A network that shows a classifier of so many channels, or none, and is never run."""

    def __init__(self, channels: int | None, classes: int = 2):
        super().__init__()
        self.classes, self.final = classes, channels and nn.Conv2d(channels, classes, 1)

    @property
    def classifier(self):
        return self.final

    def forward(self, images):
        raise NotImplementedError


def message(call) -> str:
    """Return the one line that a call is refused with."""
    with pytest.raises(InputError) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text
    return text
