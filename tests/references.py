"""Slow, obvious versions of what `fakd` computes: double loops, numpy, sampled augmentations."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from fakd.covariance import ClassCovariance

IGNORED = 255


def class_statistics(
    features: Tensor, labels: Tensor, classes: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Count, mean and population covariance of each class's pixels, with numpy."""
    pixels = features.permute(0, 2, 3, 1).flatten(0, 2).double().numpy()
    owners = labels.flatten().numpy()
    channels = pixels.shape[1]
    count = np.zeros(classes, dtype=np.int64)
    mean, covariance = np.zeros((classes, channels)), np.zeros((classes, channels, channels))
    for y in range(classes):
        own = pixels[owners == y]
        count[y] = len(own)
        if len(own):
            mean[y] = own.mean(0)
            apart = own - mean[y]
            covariance[y] = apart.T @ apart / len(own)
    return count, mean, covariance


def log_partition(exponents: list[float]) -> float:
    largest = max(exponents)
    return largest + math.log(sum(math.exp(exponent - largest) for exponent in exponents))


def divergence(
    student: list[float], teacher: list[float], temperature: float, variance: list[float]
) -> float:
    """One softmax of Eq. 7 and 8: sum q (log q - z/T) + log sum exp(z/T + v / (2 T^2))."""
    scaled = [z / temperature for z in student]
    raised = [z + v / (2 * temperature**2) for z, v in zip(scaled, variance, strict=True)]
    log_q = [t / temperature for t in teacher]
    log_q = [t - log_partition(log_q) for t in log_q]
    match = sum(math.exp(q) * (q - z) for q, z in zip(log_q, scaled, strict=True))
    return match + log_partition(raised)


def loop_pixel_kl(
    student: Tensor,
    teacher: Tensor,
    temperature: float,
    variance: Tensor,
    labels: Tensor | None = None,
    class_weights: list[float] | None = None,
) -> float:
    """Eq. 8, one pixel after the other, each times the weight of its class.

    A pixel of label -1 is of the class that the teacher thinks most likely.
    """
    batch, classes, rows, cols = student.shape

    def weight(b: int, i: int, j: int) -> float:
        if labels is None or class_weights is None:
            return 1.0
        scores = teacher[b, :, i, j].tolist()
        label = int(labels[b, i, j])
        own = scores.index(max(scores)) if label == -1 else label
        return class_weights[own] / (sum(class_weights) / classes)

    terms = [
        weight(b, i, j)
        * divergence(
            student[b, :, i, j].tolist(),
            teacher[b, :, i, j].tolist(),
            temperature,
            variance[b, :, i, j].tolist(),
        )
        for b in range(batch)
        for i in range(rows)
        for j in range(cols)
    ]
    return temperature**2 * sum(terms) / len(terms)


def loop_channel_kl(
    student: Tensor,
    teacher: Tensor,
    temperature: float,
    variance: Tensor,
    class_weights: list[float] | None = None,
) -> float:
    """Eq. 7, one class of one image after the other, each times its weight."""
    weights = class_weights or [1.0] * student.shape[1]
    terms = [
        weights[c]
        / (sum(weights) / len(weights))
        * divergence(
            student[b, c].flatten().tolist(),
            teacher[b, c].flatten().tolist(),
            temperature,
            variance[b, c].flatten().tolist(),
        )
        for b in range(student.shape[0])
        for c in range(student.shape[1])
    ]
    return temperature**2 * sum(terms) / len(terms)


def loop_logit_variance(weight: Tensor, covariance: Tensor, labels: Tensor) -> Tensor:
    """w_c^T Sigma_y w_c at every pixel of a 1x1 classifier [classes channels]; 0 if ignored."""
    batch, rows, cols = labels.shape
    variance = torch.zeros(batch, len(weight), rows, cols, dtype=weight.dtype)
    for b in range(batch):
        for i in range(rows):
            for j in range(cols):
                y = int(labels[b, i, j])
                for c in range(len(weight)):
                    if y != IGNORED:
                        variance[b, c, i, j] = weight[c] @ covariance[y] @ weight[c]
    return variance


def loop_relative_strength(
    logits: Tensor, labels: Tensor, variance: Tensor, temperature: float, share: float
) -> float:
    """Lambda such that the mean of lambda v / (2 T^2) is a share of the median margin over T."""
    margins, values = [], []
    for b in range(labels.shape[0]):
        for i in range(labels.shape[1]):
            for j in range(labels.shape[2]):
                if labels[b, i, j] in (IGNORED, -1):
                    continue
                second, first = sorted(logits[b, :, i, j].tolist())[-2:]
                margins.append(first - second)
                values += variance[b, :, i, j].tolist()
    wished = share * float(np.median(margins)) / temperature
    return wished * 2 * temperature**2 / (sum(values) / len(values))


def loop_difference_bound(
    logits: Tensor, target: Tensor, covariance: Tensor, labels: Tensor
) -> Tensor:
    """sum_c q_c log sum_k exp(z_k - z_c + D_kc / 2) at every pixel."""
    batch, classes, rows, cols = logits.shape
    bound = torch.zeros(batch, rows, cols, dtype=logits.dtype)
    for b in range(batch):
        for i in range(rows):
            for j in range(cols):
                y, z = int(labels[b, i, j]), logits[b, :, i, j]
                joint = torch.zeros(classes, classes) if y == IGNORED else covariance[y]
                for c in range(classes):
                    exponents = [
                        float(z[k] - z[c] + (joint[k, k] + joint[c, c] - 2 * joint[k, c]) / 2)
                        for k in range(classes)
                    ]
                    bound[b, i, j] += target[b, c, i, j] * log_partition(exponents)
    return bound


def tilted_partition(z: Tensor, joint: Tensor, tilt: Tensor) -> float:
    """u.x + log sum_k exp(z_k - u.x + Var(z_k - u.x) / 2), with u = sum_k a_k w_k, at one pixel."""
    level = float(tilt @ z)
    exponents = []
    for k in range(len(z)):
        direction = -tilt.clone()
        direction[k] += 1
        exponents.append(float(z[k]) - level + float(direction @ joint @ direction) / 2)
    return level + log_partition(exponents)


def sampled_loss(
    loss: Callable[[Tensor], Tensor],
    classify: Callable[[Tensor], Tensor],
    features: Tensor,
    labels: Tensor,
    covariance: Tensor,
    pairs: int,
) -> tuple[float, float]:
    """Mean of ``loss`` over sampled feature augmentations, and the standard error of that mean.

    Each pixel's feature moves by Normal(0, covariance of its class), and by the opposite, which
    removes most of the sampling noise.
    """
    generator = torch.Generator().manual_seed(0)
    roots = torch.zeros(IGNORED + 1, *covariance.shape[1:], dtype=features.dtype)
    values, vectors = torch.linalg.eigh(covariance)
    roots[: len(covariance)] = vectors * values.clamp(min=0).sqrt()[:, None]
    root = roots[labels]
    means = []
    for _ in range(pairs):
        normal = torch.randn(root.shape[:-1], generator=generator, dtype=features.dtype)
        noise = (root @ normal[..., None])[..., 0].permute(0, 3, 1, 2)
        both = loss(classify(features + noise)) + loss(classify(features - noise))
        means.append(float(both) / 2)
    return float(np.mean(means)), float(np.std(means) / math.sqrt(pairs))


def update_in_process(
    rank: int, folder: Path, kinds: list[str], features: Tensor, labels: Tensor
) -> None:
    """Feed one of two processes its half of every batch, and save what it then knows."""
    dist.init_process_group("gloo", f"file://{folder}/rendezvous", rank=rank, world_size=2)
    half = features.shape[1] // 2
    own = slice(0, half) if rank == 0 else slice(half, None)
    for kind in kinds:
        covariance = ClassCovariance(4, features.shape[2], kind=kind, momentum=0.9)
        for batch, batch_labels in zip(features, labels, strict=True):
            covariance.update(batch[own], batch_labels[own])
        torch.save(covariance.state_dict(), folder / f"{kind}-{rank}.pt")
    dist.destroy_process_group()
