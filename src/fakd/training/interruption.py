"""Agreement of all processes of a run to stop, at the same step or evaluation."""

from fakd import processes, signals


def agreed() -> int:
    """Return the signal that any process received, 0 if none; every process must call it."""
    return processes.largest(signals.noted())
