"""Class mapping and averaging of several teachers, with probabilities in log space."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor
from torch.nn import functional as F

from fakd.answers.sources import By

_BELOW = 30.0
"""How far below the largest the logit of a class is that the teacher does not have."""


def map_classes(
    logits: Float[Tensor, "batch _classes rows cols"],
    table: Sequence[Sequence[int]],
    labels: Integer[Tensor, "batch rows cols"] | None = None,
) -> Float[Tensor, "batch classes rows cols"]:
    r"""Sum probabilities of teacher classes into those of student classes.

    :math:`z_s = \log\sum_{t \in T_s} a_{st} e^{z_t}`, with :math:`a_{st}` one if class t belongs to
    s alone. A teacher class of several student classes counts as the pixel's label if that is one
    of them, and is split evenly otherwise. Teacher classes of no student class are dropped: the
    other probabilities keep their ratios and sum to 1. A student class without teacher classes gets
    almost zero probability.

    Args:
        logits: The teacher's.
        table: The teacher classes of each student class.
        labels: Student classes; None splits evenly everywhere.
    """
    logits = logits.float()
    owners: dict[int, list[int]] = {}
    for ours, group in enumerate(table):
        for theirs in group:
            owners.setdefault(theirs, []).append(ours)
    # Where a label decides, for every teacher class of several student classes.
    decided: dict[int, Bool[Tensor, "batch rows cols"]] = {}
    if labels is not None:
        decided = {
            theirs: torch.stack([labels == each for each in mine]).any(0)
            for theirs, mine in owners.items()
            if len(mine) > 1
        }
    least = logits[:, sorted(owners)].amax(1) - _BELOW
    columns = []
    for ours, group in enumerate(table):
        parts = []
        for theirs in group:
            part = logits[:, theirs] - math.log(len(owners[theirs]))
            if theirs in decided and labels is not None:
                own = torch.where(labels == ours, logits[:, theirs], least)
                part = torch.where(decided[theirs], own, part)
            parts.append(part)
        columns.append(torch.logsumexp(torch.stack(parts or [least]), 0))
    return torch.stack(columns, dim=1)


def mix_logits(
    logits: Sequence[Float[Tensor, "batch classes rows cols"]],
    weights: Sequence[float],
    by: By = "probability",
) -> Float[Tensor, "batch classes rows cols"]:
    r"""Average class probabilities; return the logarithm of :math:`\sum_i w_i p_i / \sum_i w_i`.

    With ``by="confidence"``, :math:`w_i` is multiplied at each pixel by :math:`1 - H(p_i) / \log
    C`, for C classes.
    """
    logs = torch.stack([F.log_softmax(each.float(), dim=1) for each in logits])
    weight = logs.new_tensor(weights).view(-1, 1, 1, 1, 1)
    if by == "confidence":
        entropy = torch.special.entr(logs.exp()).sum(2, keepdim=True)
        # Teachers with uniform probabilities get equal weights.
        weight = weight * (1 - entropy / math.log(logs.shape[2])).clamp(min=1e-4)
    weight = weight / weight.sum(0, keepdim=True)
    return torch.logsumexp(logs + weight.log(), 0)
