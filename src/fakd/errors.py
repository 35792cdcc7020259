"""The one exception that means: you asked for something impossible."""


class InputError(ValueError):
    """A flag, recipe, data set or checkpoint cannot be used as it is.

    The message is one line in the user's words: what was expected, what came, what to do. The
    command line prints it without a traceback and exits with code 2.
    """
