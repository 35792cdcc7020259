"""Loading a state dictionary completely or not at all, with every misfit named."""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from fakd.errors import InputError

SHOWN = 5
"""How many entries of each kind an error names before it counts the rest."""


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], source: object) -> None:
    """Copy a state dictionary whose names and shapes are exactly the module's.

    Args:
        module: what receives the weights.
        state: its complete state dictionary.
        source: where it came from, for the error.

    Raises:
        InputError: an entry is missing, unexpected or of another shape; nothing was copied.
    """
    problems = misfits(module.state_dict(), state)
    if problems:
        raise InputError(
            f"checkpoint of another network: {source} does not fit: {'; '.join(problems)}; "
            "build the network it was saved from"
        )
    module.load_state_dict(state)


def misfits(expected: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> list[str]:
    """Say how a state dictionary differs in names and shapes; nothing if it does not."""
    missing = [name for name in expected if name not in given]
    unexpected = [name for name in given if name not in expected]
    reshaped = [
        f"{name} {tuple(given[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in given and given[name].shape != tensor.shape
    ]
    kinds = {"missing": missing, "unexpected": unexpected, "of another shape": reshaped}
    return [f"{kind} {shorten(names)}" for kind, names in kinds.items() if names]


def shorten(names: Sequence[str]) -> str:
    """Write the first few names and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
