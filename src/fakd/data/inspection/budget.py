"""How long looking may take."""

import math
import time


class Budget:
    """Time that may be spent.

    Args:
        seconds: From now on; None for as long as it takes.
        workers: Threads that read files; 0 and 1 are the same.
    """

    def __init__(self, seconds: float | None, workers: int) -> None:
        self._began = time.monotonic()
        self._seconds = math.inf if seconds is None else seconds
        self.workers = max(1, workers)

    def left(self, share: float = 1.0) -> bool:
        """Tell whether less than this share of the time has passed."""
        return time.monotonic() - self._began < share * self._seconds
