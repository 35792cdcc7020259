"""Being asked to stop: signals are taken note of, so that what runs can end in order."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

ASKING = tuple(
    signal.Signals[each]
    for each in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")
    if each in signal.Signals.__members__
)
"""Ctrl-C, a polite kill, a lost terminal, and what clusters send before the time is over; Windows
knows the first two."""
_LINGER = 20
"""Seconds for which a worker outlives a polite kill."""


class _Heard:
    """What this process was told; signals reach a process, not an object."""

    number = 0
    insisted = False


class Interrupted(Exception):  # noqa: N818 - nothing went wrong
    """A signal has asked a run to stop.

    Args:
        number: of the signal.
        step: the last one that is made, and saved.
        steps: of the whole run.
    """

    def __init__(self, number: int, step: int = 0, steps: int = 0) -> None:
        where = "before the first step; the same command starts anew"
        if step:
            where = f"after step {step} of {steps}, which is saved; the same command goes on there"
        super().__init__(f"stopped by {name(number)} {where}")
        self.number = number


def noted() -> int:
    """Tell which signal has asked this process to stop; 0 if none has."""
    return _Heard.number


def name(number: int) -> str:
    """Name a signal as manuals do."""
    return signal.Signals(number).name


def asked(code: int) -> bool:
    """Tell from its exit code whether a process has ended because a signal asked it to."""
    return (-code if code < 0 else code - 128) in ASKING


def insisted() -> bool:
    """Tell whether a second Ctrl-C wants the end at once."""
    return _Heard.insisted


@contextmanager
def listening(heard: Callable[[int], None] = lambda number: None) -> Iterator[None]:
    """Take note of signals that ask to stop; a second Ctrl-C raises KeyboardInterrupt at once.

    Signals that were ignored before, as SIGHUP is under ``nohup``, stay ignored. Outside of the
    main thread, where Python does not allow it, nothing changes.

    Args:
        heard: called with the first signal, from its handler.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    owner = os.getpid()

    def note(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:  # a process forked from this one, before it can know better
            return
        if _Heard.number == number == signal.SIGINT:
            _Heard.insisted = True
            raise KeyboardInterrupt
        first, _Heard.number = not _Heard.number, _Heard.number or number
        if first:
            heard(number)

    before = {each: signal.getsignal(each) for each in ASKING}
    changed = {each: was for each, was in before.items() if was is not signal.SIG_IGN}
    _Heard.number, _Heard.insisted = 0, False
    for each in changed:
        signal.signal(each, note)
    try:
        yield
    finally:
        for each, was in changed.items():
            signal.signal(each, was)
        _Heard.number = 0  # what comes next was not asked to stop


def ignore(_: object = None) -> None:
    """Leave stopping to the process that this one works for; a loader's workers call it.

    A polite kill may come from that process itself, so it is obeyed after a while, without the
    failing exit code that would be reported there.
    """
    for each in ASKING:
        signal.signal(each, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, lambda number, frame: os._exit(0))
    signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(_LINGER))


def say(line: str) -> None:
    """Write a line to standard error, also from within a handler."""
    os.write(2, f"fakd: {line}\n".encode())


def ended(number: int, line: str) -> BaseException:
    """Say that a program has stopped, and make what ends it as the signal's convention asks.

    That is exit code 128 and the number. Ctrl-C stays a KeyboardInterrupt, which callers from
    Python know; it holds the line, as a sign that it has been said.
    """
    say(line)
    return KeyboardInterrupt(line) if number == signal.SIGINT else SystemExit(128 + number)
