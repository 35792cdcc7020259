"""Signals that ask to stop: they are recorded, so that running work can end in order."""

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
"""Ctrl-C, kill, a lost terminal, and what clusters send before the time limit; Windows has the
first two."""
_LINGER = 20
"""Seconds for which a worker continues after SIGTERM."""


class _Received:
    """The signals received by this process; global, as signals belong to a process."""

    number = 0
    insisted = False


class Interrupted(Exception):  # noqa: N818 - not an error
    """A signal asked a run to stop.

    Args:
        number: of the signal.
        step: the last completed and saved step.
        steps: number of steps of the run.
    """

    def __init__(self, number: int, step: int = 0, steps: int = 0) -> None:
        where = "before the first step; the same command starts over"
        if step:
            where = f"after step {step} of {steps}, which is saved; the same command resumes there"
        super().__init__(f"stopped by {signal_name(number)} {where}")
        self.number = number


def received_signal() -> int:
    """Return the signal that asked this process to stop; 0 if none did."""
    return _Received.number


def signal_name(number: int) -> str:
    """Return a signal's name, such as SIGTERM."""
    return signal.Signals(number).name


def was_signalled(code: int) -> bool:
    """Tell from its exit code whether a process ended because of a signal to stop."""
    return (-code if code < 0 else code - 128) in ASKING


def is_second_interrupt() -> bool:
    """Tell whether a second Ctrl-C asked to stop at once."""
    return _Received.insisted


@contextmanager
def listening(heard: Callable[[int], None] = lambda number: None) -> Iterator[None]:
    """Record signals that ask to stop; a second Ctrl-C raises KeyboardInterrupt at once.

    Signals that were ignored before, as SIGHUP under ``nohup``, stay ignored. Outside the main
    thread, where Python does not allow handlers, nothing changes.

    Args:
        heard: called with the first signal, from its handler.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    owner = os.getpid()

    def note(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:  # a forked process that has not yet set its own handlers
            return
        if _Received.number == number == signal.SIGINT:
            _Received.insisted = True
            raise KeyboardInterrupt
        first, _Received.number = not _Received.number, _Received.number or number
        if first:
            heard(number)

    before = {each: signal.getsignal(each) for each in ASKING}
    changed = {each: was for each, was in before.items() if was is not signal.SIG_IGN}
    _Received.number, _Received.insisted = 0, False
    for each in changed:
        signal.signal(each, note)
    try:
        yield
    finally:
        for each, was in changed.items():
            signal.signal(each, was)
        _Received.number = 0  # later work was not asked to stop


def ignore(_: object = None) -> None:
    """Ignore signals in a data loader's worker, which the main process stops.

    SIGTERM may come from the main process itself, so the worker exits some time after it, with exit
    code 0, since another one would be reported as a failure.
    """
    for each in ASKING:
        signal.signal(each, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, lambda number, frame: os._exit(0))
    signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(_LINGER))


def write_line(line: str) -> None:
    """Write a line to standard error; safe in signal handlers."""
    os.write(2, f"fakd: {line}\n".encode())


def stop_exception(number: int, line: str) -> BaseException:
    """Print that a program was stopped, and return the exception that ends it.

    By convention the exit code is 128 plus the signal's number. Ctrl-C stays a KeyboardInterrupt,
    which callers from Python expect; its argument shows that the line was printed already.
    """
    write_line(line)
    return KeyboardInterrupt(line) if number == signal.SIGINT else SystemExit(128 + number)
