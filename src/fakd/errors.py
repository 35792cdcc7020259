"""The one exception that means: you asked for something impossible; words for its messages."""

from collections.abc import Collection
from itertools import islice


class InputError(ValueError):
    """A flag, recipe, data set or checkpoint cannot be used as it is.

    The message is one line in the user's words: what was expected, what came, what to do. The
    command line prints it without a traceback and exits with code 2.
    """


def some(items: Collection[object], most: int) -> str:
    """Name the first of some things, and say how many more there are.

    >>> some(["a", "b", "c", "d"], 2)
    'a, b and 2 more'
    """
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(str(item) for item in islice(items, most)) + more
