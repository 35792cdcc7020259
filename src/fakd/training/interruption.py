"""All processes of a run agree on being asked to stop, at the same step or evaluation."""

from fakd import processes, signals


def agreed() -> int:
    """Tell which signal has asked any process of the run to stop, 0 if none; all must ask."""
    return processes.largest(signals.noted())
