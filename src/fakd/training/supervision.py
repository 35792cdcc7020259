"""The processes of a run on several devices: if one fails, the others report it and end too."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from lightning_fabric import Fabric

from fakd import signals
from fakd.errors import InputError
from fakd.runs.folder import LAST, read_checkpoint_state
from fakd.signals import Interrupted

_GRACE = 5.0
"""Seconds that a failing process waits for the first one to report the same failure."""
_STUCK = 20.0
"""Seconds after which a process stuck in a library, waiting for a dead one, is killed."""


@contextmanager
def ends_in_order(fabric: Fabric, run: Path) -> Iterator[None]:
    """End a run in order if a signal asks it to, or if one of its processes dies.

    Signals are recorded (`fakd.signals`) and forwarded to the other processes.

    Raises:
        ChildProcessError: another process has ended; names it, and the saved step.
        KeyboardInterrupt, SystemExit: the run has stopped because of a signal.
    """
    company = _Supervision(fabric, run) if fabric.world_size > 1 else None

    def heard(number: int) -> None:
        if fabric.is_global_zero:
            again = "; press Ctrl-C again to stop at once" if number == signal.SIGINT else ""
            signals.write_line(
                f"{signals.signal_name(number)}: finishing the step and saving{again}"
            )
        if company:
            company.forward_signal(number)

    try:
        with signals.listening(heard):
            if company is None:
                yield
            else:
                with company.supervised():
                    yield
    except Interrupted as error:
        if not fabric.is_global_zero:
            raise SystemExit(128 + error.number) from None
        raise signals.stop_exception(error.number, str(error)) from None


class _Supervision:
    """A process's view of the others: the first one watches its children, these watch the first."""

    def __init__(self, fabric: Fabric, run: Path) -> None:
        self._rank, self._world, self._run = fabric.global_rank, fabric.world_size, run
        self._children: list[subprocess.Popen] = []
        launcher = fabric.strategy.launcher
        self._children = [*getattr(launcher, "procs", ())]
        for thread in threading.enumerate():
            if thread.name == "child-process-observer":
                # It would kill this process on any exit code but 0, before it can report why.
                thread._child_processes = []  # type: ignore[attr-defined]
        started_here = type(fabric.strategy.cluster_environment).__name__ == "LightningEnvironment"  # type: ignore[attr-defined]
        self._parent = os.getppid() if started_here and not self._children else None
        self._over = threading.Event()

    def forward_signal(self, number: int) -> None:
        """Forward a signal to the children; they receive a terminal's Ctrl-C themselves."""
        for child in self._children if number != signal.SIGINT else ():
            child.send_signal(number)

    @contextmanager
    def supervised(self) -> Iterator[None]:
        """Watch the other processes; kill them if this one fails, else wait for their end."""
        threading.Thread(target=self._watch, name="fakd-company", daemon=True).start()
        try:
            yield
        except BaseException as error:
            self._fail(error)
            raise
        finally:
            self._over.set()
            for child in self._children:
                with suppress(subprocess.TimeoutExpired):
                    child.wait(_STUCK)
            self._kill()

    def _fail(self, error: BaseException) -> None:
        lost = isinstance(error, RuntimeError) and not isinstance(error, torch.OutOfMemoryError)
        orderly = (
            isinstance(error, Interrupted | KeyboardInterrupt | SystemExit)
            and not signals.is_second_interrupt()
        )
        if orderly:
            return
        if self._rank:
            # The first process kills this one if it fails in the same way, or has lost another.
            time.sleep(_GRACE)
        elif lost:
            dead = _until(self._find_dead, _GRACE)
            if dead is not None:
                self._kill()
                raise self._reason(*dead) from error
        if lost and self._parent is None and not self._children and _is_connection(error):
            raise ChildProcessError(self._line("another process of this run has ended")) from error
        self._over.set()
        self._kill()

    def _watch(self) -> None:
        while not self._over.wait(0.5):
            if self._parent is not None and os.getppid() != self._parent:
                if self._rank == 1:
                    signals.write_line(
                        f"failed: {self._line('the first process of this run was killed')}"
                    )
                os._exit(1)
            if (dead := self._find_dead()) is not None and not self._over.wait(_STUCK):
                reason = self._reason(*dead)
                self._kill()
                if isinstance(reason, ChildProcessError):
                    signals.write_line(f"failed: {reason}")
                os._exit(1)

    def _find_dead(self) -> tuple[int, int] | None:
        codes = [(rank, child.poll()) for rank, child in enumerate(self._children, start=1)]
        return next(((rank, code) for rank, code in codes if code), None)

    def _reason(self, rank: int, code: int) -> BaseException:
        """Describe which process ended and how; one with exit code 1 or 2 has printed why."""
        if code in (1, 2):
            return SystemExit(code)
        how = f"was killed by {signals.signal_name(-code)}" if code < 0 else f"exited with {code}"
        return ChildProcessError(
            self._line(f"process {rank} (from 0) of the run's {self._world} {how}")
        )

    def _line(self, what: str) -> str:
        step = 0
        with suppress(InputError):
            step = read_checkpoint_state(self._run / LAST)["step"]
        return f"{what} (out of memory?); the same command resumes at step {step}"

    def _kill(self) -> None:
        for child in self._children:
            if child.poll() is None:
                child.kill()
                child.wait()


def _is_connection(error: BaseException) -> bool:
    kinds = (torch.distributed.DistError,) if torch.distributed.is_available() else ()
    return isinstance(error, kinds) or "gloo" in str(error)


def _until(found: Callable[[], tuple[int, int] | None], seconds: float) -> tuple[int, int] | None:
    deadline = time.monotonic() + seconds
    while (result := found()) is None and time.monotonic() < deadline:
        time.sleep(0.05)
    return result
