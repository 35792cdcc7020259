"""What an engine is: something that calls a function with a cell, somewhere, some time."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from fakd.training.cell import Cell

Work = Callable[..., None]
"""Called with a cell, the environment of its process, and perhaps what says to stop."""


@runtime_checkable
class Task(Protocol):
    """A call that was handed over: a future of any library."""

    def done(self) -> bool:
        """Tell whether the call has ended."""

    def result(self) -> Any:
        """Return what came of the call, or raise what it raised."""


class Engine(ABC):
    """Calls functions with cells. What comes of a cell is read from its files, not from here."""

    slots: int
    """How many calls may be handed over at a time."""

    @abstractmethod
    def submit(self, function: Work, cell: Cell) -> Task:
        """Hand a call over."""

    @abstractmethod
    def stop(self) -> None:
        """End all calls, and the processes they have started."""

    def close(self) -> None:
        """Give back what the engine holds, once no call is left."""
        return
