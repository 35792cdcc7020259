"""The task loss: a network's logits against the labels."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Integer
from torch import Tensor

from fakd.errors import InputError
from fakd.losses.grid import to_float32
from fakd.settings import Average, Task
from fakd.training.upsampled import label_losses, summed_cross_entropy
from fakd.types import IGNORE, ClassWeighing, Prediction

Logits = Float[Tensor, "batch classes rows cols"]
Labels = Integer[Tensor, "batch rows cols"]


def cross_entropy(
    logits: Float[Tensor, "batch classes rows cols"],
    labels: Integer[Tensor, "batch height width"],
    average: Average = "valid",
    class_weights: Float[Tensor, " classes"] | None = None,
    label_smoothing: float = 0.0,
    hardest: float | None = None,
    align_corners: bool = False,
    triton: bool = False,
) -> Float[Tensor, ""]:
    r"""Compute the pixel cross-entropy of logits upsampled bilinearly to the labels' size.

    .. math:: \frac{\sum_i w_{y_i} \ell_i}{\sum_i w_{y_i}}

    over the labelled pixels i; ``average="all"`` divides by the number of all pixels as
    mmsegmentation 0.x did, which weakens the task loss against distillation if many pixels are
    ignored. A batch without a labelled pixel gives 0.

    Args:
        logits: On any grid.
        labels: Class ids; `IGNORE` where there is none.
        average: Denominator: ``valid`` divides by the labelled pixels, ``all`` by all pixels.
        class_weights: The factor of each class; None means 1.
        label_smoothing: The share of a label that is spread evenly over all classes.
        hardest: Use only pixels whose own class has a probability below this, but at least the
            hardest sixteenth of the labelled ones (OHEM, Shrivastava et al., 2016, with the
            threshold of mmsegmentation's sampler).
        align_corners: Of the bilinear interpolation of the logits.
        triton: As for `summed_cross_entropy`.
    """
    labels, weights = labels.long(), class_weights
    counted = labels != IGNORE
    tiled = labels.shape[-2:].numel() > logits.shape[-2:].numel()
    logits = logits if tiled else _upsample(logits, labels, align_corners)
    if hardest is not None:
        counted = counted & _hard(logits.detach(), labels, hardest, tiled, align_corners)
    if tiled:
        total = summed_cross_entropy(
            logits, labels, weights, label_smoothing, counted, align_corners, triton
        )
    else:
        seen = labels.masked_fill(~counted, IGNORE)
        options = {"ignore_index": IGNORE, "label_smoothing": label_smoothing}
        total = F.cross_entropy(logits, seen, weights, reduction="sum", **options)  # type: ignore[arg-type]
    if average == "all":
        return total / labels.numel()
    if weights is None:
        return total / counted.sum().clamp(min=1)
    shares = weights[labels.masked_fill(~counted, 0)] * counted
    return total / shares.sum().clamp(min=torch.finfo(weights.dtype).tiny)


def _upsample(logits: Tensor, labels: Tensor, align_corners: bool) -> Tensor:
    size = labels.shape[-2:]
    if logits.shape[-2:] == size:
        return to_float32(logits)
    return F.interpolate(to_float32(logits), size, mode="bilinear", align_corners=align_corners)


def _hard(logits: Tensor, labels: Tensor, limit: float, tiled: bool, align_corners: bool) -> Tensor:
    """Select the pixels with a low probability of their own class, at least a sixteenth of them."""
    if tiled:
        losses = label_losses(logits, labels, align_corners)
    else:
        losses = F.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="none")
    # Ignored pixels sort last: no probability is as high as 2.
    likely = (-losses).exp().masked_fill(labels == IGNORE, 2.0)
    least = (labels != IGNORE).sum() // 16
    # Stays on the device: reading the count would synchronise with it.
    border = likely.flatten().sort().values.gather(0, least[None])
    return likely < border.clamp(min=limit)


def dice_loss(logits: Logits, labels: Labels) -> Float[Tensor, ""]:
    r"""Compute one minus the soft Dice coefficient, averaged over the classes in the labels.

    .. math:: 1 - \frac{1}{K} \sum_k
        \frac{2 \sum_i p_{ik} y_{ik} + 1}{\sum_i p_{ik} + \sum_i y_{ik} + 1}

    over the labelled pixels i of the whole batch. Milletari et al., 2016 (arXiv 1606.04797),
    without the squares. A batch without a labelled pixel gives 0.
    """
    chances, truth = _probabilities_and_truth(logits, labels)
    both = 2 * (chances * truth).sum((0, 2, 3)) + 1
    coefficient = both / (chances.sum((0, 2, 3)) + truth.sum((0, 2, 3)) + 1)
    return _mean_of_present(1 - coefficient, truth)


def lovasz_softmax(logits: Logits, labels: Labels) -> Float[Tensor, ""]:
    """Compute the Lovász extension of one minus the IoU, averaged over the classes in the labels.

    Berman et al., 2018 (arXiv 1705.08790), Algorithm 1 over the labelled pixels of the whole
    batch. It sorts all pixels for every class. A batch without a labelled pixel gives 0.
    """
    chances, truth = _probabilities_and_truth(logits, labels)
    losses = []
    for chance, own in zip(chances.unbind(1), truth.unbind(1), strict=True):
        # An ignored pixel has error 0: it sorts last and adds nothing.
        errors, order = (own - chance).abs().flatten().sort(descending=True)
        sorted_truth = own.flatten()[order]
        total = sorted_truth.sum()
        intersection = total - sorted_truth.cumsum(0)
        union = total + (1 - sorted_truth).cumsum(0)
        jaccard = 1 - intersection / union
        steps = torch.cat([jaccard[:1], jaccard[1:] - jaccard[:-1]])
        losses.append(errors @ steps)
    return _mean_of_present(torch.stack(losses), truth)


def _probabilities_and_truth(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Compute probabilities and one-hot labels, both 0 at pixels without a label."""
    labelled = labels != IGNORE
    chances = logits.softmax(1) * labelled[:, None]
    truth = torch.zeros_like(chances)
    places = labels.long().masked_fill(~labelled, 0)[:, None]
    return chances, truth.scatter_(1, places, labelled[:, None].to(truth.dtype))


def _mean_of_present(losses: Tensor, truth: Tensor) -> Tensor:
    shown = truth.sum((0, 2, 3)) > 0
    return (losses * shown).sum() / shown.sum().clamp(min=1)


def automatic_weights(pixels: Sequence[int]) -> list[float]:
    r"""Weight classes by their rarity: :math:`w_k = 1 / \ln(1.02 + p_k)`, scaled to mean 1.

    p is a class's share of the labelled pixels (ENet; Paszke et al., 2016, arXiv 1606.02147): the
    rarest class weighs up to 35 times as much as a class that covers all pixels. The mean is over
    the classes that occur; a class that does not gets 1.

    Raises:
        InputError: no pixel has a class.

    >>> [round(weight, 2) for weight in automatic_weights([90, 10, 0])]
    [0.3, 1.7, 1.0]
    """
    counts = torch.tensor(pixels, dtype=torch.float64)
    if counts.sum() == 0:
        raise InputError("class_weights auto needs labelled pixels in the training images")
    weights = 1 / (1.02 + counts / counts.sum()).log()
    weights /= weights[counts > 0].mean()
    return [float(weight) for weight in weights.masked_fill(counts == 0, 1.0)]


class TaskLoss(ClassWeighing):
    """The loss terms of a network's prediction against labels.

    Args:
        settings: Which terms, and their weights.
        classes: Number of classes in the labels.
        align_corners: Of the interpolation of the logits, in training as in evaluation.
        triton: As for `summed_cross_entropy`.

    Raises:
        InputError: the number of class weights is not the number of classes.
    """

    def __init__(
        self, settings: Task, classes: int, align_corners: bool = False, triton: bool = False
    ) -> None:
        super().__init__()
        self.settings, self.align_corners, self.triton = settings, align_corners, triton
        self.set_class_weights("task.class_weights", settings.class_weights, classes)
        self._counted: tuple[Tensor, int, Tensor] | None = None

    def shares(self, parts: Sequence[Integer[Tensor, "batch height width"]]) -> list[float]:
        """Compute the weight of each part of a batch, so that the parts' mean is the batch's loss.

        Exact for the cross-entropy. The mean over parts of Dice, Lovász or the hardest pixels
        differs from the value of the whole batch.
        """
        if len(parts) == 1 or self.settings.average == "all":
            return [1.0] * len(parts)
        table, counted = self._table(), [labels[labels != IGNORE].long() for labels in parts]
        sums = [float(len(each) if table is None else table[each].sum()) for each in counted]
        return [len(parts) * each / (sum(sums) or 1.0) for each in sums]

    def _table(self) -> Tensor | None:
        """Cache the class weights on the CPU; copying them in each step would synchronise."""
        weights, last = self.class_weights, self._counted
        if weights is None:
            return None
        # Loading a checkpoint changes them in place, moving to another device replaces them.
        if last is None or last[0] is not weights or last[1] != weights._version:
            last = self._counted = weights, weights._version, weights.double().cpu()
        return last[2]

    def scaled(self, weights: Sequence[float]) -> Sequence[float]:
        """Return the weights unchanged: the loss divides by their sum."""
        return weights

    def forward(
        self, prediction: Prediction, labels: Integer[Tensor, "batch height width"]
    ) -> dict[str, Tensor]:
        """Compute the weighted terms of the main head and of any auxiliary heads."""
        # Autocast would compute the products of Lovász in 16 bits.
        with torch.autocast(labels.device.type, enabled=False):
            return self._terms(prediction, labels)

    def _terms(self, prediction: Prediction, labels: Tensor) -> dict[str, Tensor]:
        settings, logits = self.settings, prediction.logits
        if settings.dice or settings.lovasz:
            # Both need all pixels of a class at once, and share the upsampled map.
            logits = _upsample(logits, labels, self.align_corners)
        terms = {"task": self._entropy(logits, labels)}
        if settings.dice:
            terms["dice"] = settings.dice * dice_loss(logits, labels)
        if settings.lovasz:
            terms["lovasz"] = settings.lovasz * lovasz_softmax(logits, labels)
        if prediction.auxiliary is not None:
            heads = prediction.auxiliary
            heads = (heads,) if isinstance(heads, Tensor) else heads
            total = torch.stack([self._entropy(each, labels) for each in heads]).sum()
            terms["auxiliary"] = settings.auxiliary_weight * total
        return terms

    def _entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        settings = self.settings
        return cross_entropy(
            logits,
            labels,
            settings.average,
            self.class_weights,
            settings.label_smoothing,
            settings.hardest,
            self.align_corners,
            self.triton,
        )
