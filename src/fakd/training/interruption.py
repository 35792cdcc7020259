"""Agreement of all processes of a run to stop, at the same step or evaluation."""

from fakd import processes, signals


def agreed_signal() -> int:
    """Return the signal that any process received, 0 if none; every process must call it."""
    return processes.all_max(signals.received_signal())
