"""Holistic distillation (SKDS): adversarial training of the student against a critic."""

from collections.abc import Callable, Sequence
from typing import Literal, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from fakd.errors import require_above_zero, require_at_least
from fakd.losses.grid import on_grid_of, to_float32
from fakd.processes import average_gradients
from fakd.types import DistillationLoss, LossInputs, Segmenter, Weight

SMALLEST = 64
"""Shortest side of a map that the critic's five convolutions, each of stride 2 or more, accept."""


class SpectralConv(nn.Module):
    r"""A 4 x 4 convolution of stride 2 whose weight's largest singular value is about 1.

    .. math:: v \leftarrow \frac{W^\top u}{\|W^\top u\|}, \quad
        u \leftarrow \frac{W v}{\|W v\|}, \quad \hat W = \frac{W}{u^\top W v}

    Spectral normalisation (Miyato et al., 2018, arXiv 1802.05957) by one step of power iteration
    in each forward pass of training, and none in evaluation. W has one row for each output channel.
    In the gradient, u and v are constants, with their values of that forward pass; public code
    often uses the latest values where one backward pass follows several forward passes.
    """

    left: Float[Tensor, " outputs"]
    right: Float[Tensor, " inputs_rows_cols"]

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel_size=4, stride=2, padding=1)
        self.register_buffer("left", F.normalize(torch.randn(outputs), dim=0))
        self.register_buffer("right", F.normalize(torch.randn(inputs * 4 * 4), dim=0))

    def forward(
        self, maps: Float[Tensor, "batch inputs rows cols"]
    ) -> Float[Tensor, "batch outputs _rows _cols"]:
        """Convolve with the normalised weight."""
        weight = self.conv.weight
        matrix = weight.flatten(1)
        if self.training:
            with torch.no_grad():
                # New tensors, as a pending backward pass may need the old ones.
                self.right = F.normalize(matrix.mT @ self.left, dim=0)
                self.left = F.normalize(matrix @ self.right, dim=0)
        largest = self.left @ matrix @ self.right
        return F.conv2d(maps, weight / largest, self.conv.bias, stride=2, padding=1)


class SelfAttention(nn.Module):
    r"""Self-attention with a residual connection.

    .. math:: x_i + \gamma \sum_j \mathrm{softmax}_j(q_i \cdot k_j) \, v_j

    The block of SAGAN (Zhang et al., 2018, arXiv 1805.08318): 1 x 1 convolutions, unscaled dot
    products, and a :math:`\gamma` initialised to 0, so that the block starts as the identity.

    Args:
        channels: Channels of the map; queries and keys have an eighth of them.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query = nn.Conv2d(channels, channels // 8, 1)
        self.key = nn.Conv2d(channels, channels // 8, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(
        self, maps: Float[Tensor, "batch channels rows cols"]
    ) -> Float[Tensor, "batch channels rows cols"]:
        """Attend from every position to all positions of the same image."""
        queries, keys = self.query(maps).flatten(2), self.key(maps).flatten(2)
        # Not scaled_dot_product_attention: its fast kernels have no second derivative.
        attention = (queries.mT @ keys).softmax(2)
        context: Tensor = self.value(maps).flatten(2) @ attention.mT
        return self.gamma * context.view(maps.shape) + maps


class Critic(nn.Module):
    """Scores how much a map of logits resembles the teacher's: higher is more like the teacher.

    The critic of SKDS's public code (Liu et al., 2019, arXiv 1903.04197), whose input is the logits
    only; the paper's also receives the image. A 64 x 64 map gets one score, a larger one a grid of
    scores for overlapping parts.

    Args:
        classes: Channels of the logits.

    Raises:
        ValueError: logits have less than 64 rows or columns.

    >>> Critic(classes=4)(torch.zeros(2, 4, 64, 64)).shape
    torch.Size([2, 1, 1, 1])
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(classes)
        self.layers = nn.Sequential(
            SpectralConv(classes, 64),
            nn.LeakyReLU(0.1),
            SpectralConv(64, 128),
            nn.LeakyReLU(0.1),
            SpectralConv(128, 256),
            nn.LeakyReLU(0.1),
            SelfAttention(256),
            SpectralConv(256, 512),
            nn.LeakyReLU(0.1),
            SelfAttention(512),
            nn.Conv2d(512, 1, kernel_size=4),
        )

    def forward(
        self, logits: Float[Tensor, "batch classes rows cols"]
    ) -> Float[Tensor, "batch 1 _rows _cols"]:
        """Score raw logits."""
        if min(logits.shape[2:]) < SMALLEST:
            rows, cols = logits.shape[2:]
            raise ValueError(
                f"expected logits of at least {SMALLEST} x {SMALLEST} positions, got "
                f"{rows} x {cols}; upsample them, as Adversarial does"
            )
        norm = self.norm
        # Not norm(logits): the trainer replaces batch norms by synchronised ones, which lack the
        # second derivative that a gradient penalty needs.
        running = norm.running_mean, norm.running_var
        logits = F.batch_norm(
            logits, *running, norm.weight, norm.bias, self.training, 0.1, norm.eps
        )
        return cast(Tensor, self.layers(logits))


AdversarialKind = Literal["hinge", "wgan-gp"]
CriticOptimizer = Literal["adam", "sgd"]
CriticSchedule = Literal["constant", "poly"]


def critic_hinge(real: Float[Tensor, "..."], fake: Float[Tensor, "..."]) -> Float[Tensor, ""]:
    r"""Compute the critic's hinge loss: scores above 1 for the teacher, below -1 for the student.

    .. math:: \mathrm{mean} \max(0, 1 - D(t)) + \mathrm{mean} \max(0, 1 + D(s))

    ``real`` are the scores D(t) of the teacher's maps, ``fake`` the scores D(s) of the student's.

    >>> critic_hinge(torch.tensor([[0.5]]), torch.tensor([[-2.0]]))
    tensor(0.5000)
    """
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


def critic_wasserstein(real: Float[Tensor, "..."], fake: Float[Tensor, "..."]) -> Float[Tensor, ""]:
    r"""Compute the critic's Wasserstein loss: the teacher's scores as far above as possible.

    .. math:: \mathrm{mean} D(s) - \mathrm{mean} D(t)

    Use it with a `gradient_penalty` (Gulrajani et al., 2017, arXiv 1704.00028). Arguments are as in
    `critic_hinge`.

    >>> critic_wasserstein(torch.tensor([[0.5]]), torch.tensor([[-2.0]]))
    tensor(-2.5000)
    """
    return fake.mean() - real.mean()


def student_adversarial(fake: Float[Tensor, "..."]) -> Float[Tensor, ""]:
    r"""Compute the student's loss, low if the critic's score is high: :math:`-\mathrm{mean} D(s)`.

    >>> student_adversarial(torch.tensor([[-2.0]]))
    tensor(2.)
    """
    return -fake.mean()


def gradient_penalty(
    critic: Callable[[Tensor], Tensor],
    real: Float[Tensor, "batch classes _rows _cols"],
    fake: Float[Tensor, "batch classes rows cols"],
    generator: torch.Generator | None = None,
) -> Float[Tensor, ""]:
    r"""Penalise gradient norms of the critic other than 1 between the two networks' maps.

    .. math:: \frac{1}{N} \sum_n (\|\nabla_{x_n} \textstyle\sum D(x)\| - 1)^2, \quad
        x_n = \alpha_n t_n + (1 - \alpha_n) s_n, \quad \alpha_n \sim U(0, 1)

    The penalty of WGAN-GP (Gulrajani et al., 2017, arXiv 1704.00028), with one random
    :math:`\alpha` per image and the norm over all classes and positions. Only the critic's weights
    get a gradient; the teacher's logits (``real``) are resampled to the student's grid (``fake``).

    >>> gradient_penalty(lambda maps: 3 * maps, torch.zeros(2, 1, 1, 1), torch.ones(2, 1, 1, 1))
    tensor(4.)
    """
    real, fake = on_grid_of(fake, real.detach()), fake.detach()
    device = fake.device if generator is None else generator.device
    alpha = torch.rand(len(fake), 1, 1, 1, generator=generator, device=device, dtype=fake.dtype)
    alpha = alpha.to(fake.device)
    mixed = (alpha * real + (1 - alpha) * fake).requires_grad_()
    (slopes,) = torch.autograd.grad(critic(mixed).sum(), mixed, create_graph=True)
    steepness: Tensor = torch.linalg.vector_norm(slopes.flatten(1), dim=1)
    return (steepness - 1).square().mean()


class Adversarial(DistillationLoss):
    """SKDS's holistic part: a critic learns to tell the two networks' logits apart, as in a GAN.

    The student learns to produce logits that the critic takes for the teacher's, and the critic
    takes a step after each of the student's. Needs no labels; adds a network of about 3 million
    weights during training only, for which maps with fewer than 64 rows or columns are upsampled.

    Args:
        loss: The critic's loss: hinge, or Wasserstein with gradient penalty (wgan-gp), which costs
            the critic another forward and backward pass.
        critic_weight: Weight of the critic's whole loss; has almost no effect with adam.
        gradient_penalty: Weight of the penalty on gradient norms other than 1, for wgan-gp only.
        optimizer: Optimiser of the critic: adam with ``betas``, or sgd with ``sgd_momentum``.
        learning_rate: Learning rate of the critic.
        betas: Adam's decay rates of the running means of the gradient and of its square.
        sgd_momentum: Momentum of sgd.
        weight_decay: Weight decay of the critic; SKDS's authors use 0.0005 with sgd.
        schedule: The critic's learning rate: constant, or falling to 0 with exponent 0.9 (poly).
        weight: Weight relative to the task loss; SKDS's authors use 0.1.
    """

    determines_classes = False
    image_by_image = False

    def __init__(
        self,
        loss: AdversarialKind = "hinge",
        critic_weight: float = 0.1,
        gradient_penalty: float = 10.0,
        optimizer: CriticOptimizer = "adam",
        learning_rate: float = 4e-4,
        betas: Sequence[float] = (0.9, 0.99),
        sgd_momentum: float = 0.9,
        weight_decay: float = 0.0,
        schedule: CriticSchedule = "constant",
        weight: Weight = 0.001,
    ) -> None:
        super().__init__(weight)
        require_above_zero(critic_weight=critic_weight, learning_rate=learning_rate)
        require_at_least(0, gradient_penalty=gradient_penalty, weight_decay=weight_decay)
        if len(betas) != 2 or not all(0 <= share < 1 for share in (*betas, sgd_momentum)):
            raise ValueError(
                "expected two betas and an sgd_momentum, all at least 0 and below 1, "
                f"got {betas} and {sgd_momentum}; (0.9, 0.99) and 0.9 are usual"
            )
        self.loss, self.critic_weight, self.gradient_penalty = loss, critic_weight, gradient_penalty
        self.optimizer, self.learning_rate = optimizer, learning_rate
        self.betas, self.sgd_momentum = (betas[0], betas[1]), sgd_momentum
        self.weight_decay, self.schedule = weight_decay, schedule
        self.critic: Critic | None = None
        self._optimizer: torch.optim.Optimizer | None = None

    def prepare(self, student: Segmenter, teacher: Segmenter) -> None:
        """Build the critic and its optimiser."""
        self.critic = Critic(student.classes)
        weights, rate, decay = self.critic.parameters(), self.learning_rate, self.weight_decay
        if self.optimizer == "sgd":
            momentum = self.sgd_momentum
            self._optimizer = torch.optim.SGD(weights, rate, momentum, weight_decay=decay)
        else:
            self._optimizer = torch.optim.Adam(weights, rate, self.betas, weight_decay=decay)

    def forward(self, inputs: LossInputs) -> Float[Tensor, ""]:
        """Compute the student's adversarial loss; the critic gets no gradient."""
        critic, _ = self._require_critic()
        logits = inputs.student.logits
        with torch.autocast(logits.device.type, enabled=False):
            weights = {name: weight.detach() for name, weight in critic.named_parameters()}
            return student_adversarial(
                functional_call(critic, weights, _critic_input(critic, logits))
            )

    @torch.enable_grad()
    def after_step(self, inputs: LossInputs) -> dict[str, Float[Tensor, ""]]:
        """Train the critic for one step on both networks' logits; returns its weighted loss."""
        critic, optimizer = self._require_critic()
        fake = inputs.student.logits.detach()
        real = on_grid_of(fake, inputs.teacher.logits.detach())
        with torch.autocast(fake.device.type, enabled=False):
            fake, real = _critic_input(critic, fake), _critic_input(critic, real)
            scores = critic(fake)
            if self.loss == "hinge":
                value = critic_hinge(critic(real), scores)
            else:
                value = critic_wasserstein(critic(real), scores)
                value = value + self.gradient_penalty * gradient_penalty(critic, real, fake)
            value = self.critic_weight * value
            optimizer.zero_grad()
            value.backward()  # type: ignore[no-untyped-call]
        average_gradients(critic.parameters())
        left = 1 - inputs.progress if self.schedule == "poly" else 1.0
        for group in optimizer.param_groups:
            group["lr"] = self.learning_rate * left**0.9
        optimizer.step()
        optimizer.zero_grad()
        return {"critic": value.detach()}

    def optimizers(self) -> tuple[torch.optim.Optimizer, ...]:
        """List the critic's optimiser, once it is built."""
        return () if self._optimizer is None else (self._optimizer,)

    def _require_critic(self) -> tuple[Critic, torch.optim.Optimizer]:
        if self.critic is None or self._optimizer is None:
            raise ValueError(
                "expected a prepared loss, got one without a critic; "
                "call prepare(student, teacher) first, as Distillation does"
            )
        return self.critic, self._optimizer


def _critic_input(critic: Critic, logits: Tensor) -> Tensor:
    """Convert logits to the critic's precision and upsample them to its minimum size."""
    logits = to_float32(logits).to(critic.norm.weight.dtype)
    size = [max(SMALLEST, length) for length in logits.shape[2:]]
    if size == list(logits.shape[2:]):
        return logits
    return F.interpolate(logits, size, mode="bilinear", align_corners=False)
