"""Extract a network's own state dictionary from checkpoints of various trainers."""

import re
import sys
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from fakd.errors import InputError

CONTAINERS = ("state_dict_ema", "model_ema", "state_dict", "model", "model_state_dict", "network")
"""Keys under which checkpoints store the weights; averaged weights first."""

WRAPPERS = ("module.", "_orig_mod.", "architecture.", "student.", "model.", "net.", "network.")
"""Prefixes that DistributedDataParallel, torch.compile, distillers and Lightning add to names."""

BESIDE = re.compile(r"(teacher|ema|loss|criterion|metric|distill|connector|data_preprocessor)\w*\b")
"""Entries that do not belong to the network: teachers, averages swapped by mmcv, losses."""


def network_state(content: object, source: str, part: str = "") -> dict[str, Tensor]:
    """Find the tensors of a network by its own names; prints what was used if not everything.

    Args:
        content: content of a checkpoint file.
        source: the file's name.
        part: prefix of the only part to use, if the network has it, such as ``backbone.``.

    Raises:
        InputError: there are no named tensors.
    """
    taken = []
    while isinstance(content, Mapping):
        inner = next((key for key in CONTAINERS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        if inner != "state_dict":
            taken.append(inner)
        content = content[inner]
    if not isinstance(content, Mapping) or not content:
        raise InputError(_expected(source))
    state: dict[Any, Any] = dict(content)
    if not all(isinstance(key, str) and isinstance(each, Tensor) for key, each in state.items()):
        raise InputError(_expected(source))
    while prefix := next((each for each in WRAPPERS if _wraps(each, state)), None):
        taken.append(f"the entries below {prefix}")
        state = _below(prefix, state)
    if part and (own := _below(part, state)):
        # Classifiers of OpenMMLab have this prefix too, with only a head besides.
        state = own
        taken.append(f"the entries below {part}")
    compiled = {key.replace("_orig_mod.", ""): tensor for key, tensor in state.items()}
    own = {key: tensor for key, tensor in compiled.items() if not BESIDE.match(key)} or compiled
    if taken or len(own) < len(compiled):
        said = ", ".join(taken) or f"all but {len(compiled) - len(own)} unrelated entries"
        print(f"note: of {source}, only {said} are used", file=sys.stderr)
    return own


def _below(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)}


def _wraps(prefix: str, state: Mapping[str, Tensor]) -> bool:
    """Return whether all entries of the network have this prefix."""
    below = [key.startswith(prefix) for key in state]
    beside = (BESIDE.match(key) for key in state if not key.startswith(prefix))
    return any(below) and all(beside)


def _expected(source: str) -> str:
    return (
        f"{source} must hold a state dictionary, alone or under state_dict, but does not; save it "
        "again with torch.save(network.state_dict(), path)"
    )
