import math
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fakd.losses import adversarial
from fakd.losses.adversarial import (
    Adversarial,
    Critic,
    SelfAttention,
    SpectralConv,
    critic_hinge,
    critic_wasserstein,
    gradient_penalty,
    student_adversarial,
)
from fakd.losses.grid import on_grid_of
from fakd.models import pspnet
from fakd.runs.recipe import describe
from fakd.types import LossInputs, Prediction

CLASSES = 3
RATE, BETAS, MOMENTUM, DECAY, WEIGHT = 4e-4, (0.9, 0.99), 0.9, 5e-4, 0.1


class SlowCritic:
    """The critic layer by layer from a state dict: own convolution, norm, attention and iteration.

    Keeps its own u, v and running statistics. Its weights are leaves that can be trained.
    """

    def __init__(self, critic):
        state = {name: value.clone() for name, value in critic.state_dict().items()}
        weights = {name for name, _ in critic.named_parameters()}
        self.weights = {name: state[name].requires_grad_() for name in weights}
        self.buffers = {name: value for name, value in state.items() if name not in weights}

    def state(self):
        return {**self.weights, **self.buffers}

    def __call__(self, logits):
        maps = self.normalise(logits)
        for layer, attention in ((0, None), (2, None), (4, 6), (7, 9)):
            maps = self.convolve(maps, f"layers.{layer}.conv", self.normal_weight(layer), 2, 1)
            maps = torch.where(maps > 0, maps, 0.1 * maps)
            if attention is not None:
                maps = self.attend(maps, f"layers.{attention}")
        return self.convolve(maps, "layers.10", self.weights["layers.10.weight"], 1, 0)

    def normalise(self, logits):
        scaled, count = [], logits[:, 0].numel()
        for c in range(logits.shape[1]):
            pixels = logits[:, c]
            mean = pixels.sum() / count
            variance = ((pixels - mean) ** 2).sum() / count
            for name, now in (("mean", mean), ("var", variance * count / (count - 1))):
                running = self.buffers[f"norm.running_{name}"]
                running[c] = 0.9 * running[c] + 0.1 * now.detach()
            weight, bias = self.weights["norm.weight"][c], self.weights["norm.bias"][c]
            scaled.append(weight * (pixels - mean) / (variance + 1e-5).sqrt() + bias)
        return torch.stack(scaled, dim=1)

    def normal_weight(self, layer):
        weight = self.weights[f"layers.{layer}.conv.weight"]
        matrix = weight.reshape(len(weight), -1)
        u = self.buffers[f"layers.{layer}.left"]
        v = matrix.detach().T @ u
        v = v / ((v**2).sum().sqrt() + 1e-12)
        u = matrix.detach() @ v
        u = u / ((u**2).sum().sqrt() + 1e-12)
        self.buffers[f"layers.{layer}.left"], self.buffers[f"layers.{layer}.right"] = u, v
        return weight / (u[:, None] * matrix * v).sum()

    def convolve(self, maps, name, weight, stride, padding):
        size = weight.shape[-1]
        patches = nn.functional.unfold(maps, size, padding=padding, stride=stride)
        rows, cols = ((length + 2 * padding - size) // stride + 1 for length in maps.shape[2:])
        out = weight.flatten(1) @ patches + self.weights[f"{name}.bias"][:, None]
        return out.view(len(maps), len(weight), rows, cols)

    def attend(self, maps, name):
        projected = [
            self.convolve(maps, f"{name}.{part}", self.weights[f"{name}.{part}.weight"], 1, 0)
            for part in ("query", "key", "value")
        ]
        images = []
        for query, key, value in zip(*(part.flatten(2) for part in projected), strict=True):
            attended = []
            for i in range(query.shape[1]):
                score = (query[:, i, None] * key).sum(0)
                share = (score - score.max()).exp()
                attended.append((share / share.sum() * value).sum(1))
            images.append(torch.stack(attended, dim=1))
        context = torch.stack(images).view(maps.shape)
        return self.weights[f"{name}.gamma"] * context + maps


def critic_and_logits(size=(64, 64), batch=2, seed=0):
    torch.manual_seed(seed)
    critic = Critic(CLASSES).double()
    with torch.no_grad():
        # Away from its start, where attention is the identity and the norm has no weight.
        for name, weight in critic.named_parameters():
            if "gamma" in name or "norm" in name:
                weight.normal_(0.5)
    return critic, torch.randn(batch, CLASSES, *size, dtype=torch.float64)


def slopes_of(score, *leaves):
    return torch.autograd.grad(score.sin().sum(), leaves)


@pytest.mark.parametrize(
    ("size", "scores"),
    [((64, 64), (1, 1)), ((65, 65), (1, 1)), ((97, 64), (3, 1)), ((64, 128), (1, 5))],
)
def test_scores_statistics_and_gradients_equal_the_slow_critic(size, scores):
    critic, logits = critic_and_logits(size)
    slow = SlowCritic(critic)
    logits.requires_grad_()
    names = [name for name, _ in critic.named_parameters()]
    for _ in range(2):
        found, expected = critic(logits), slow(logits)
        assert found.shape == (2, 1, *scores)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    state = critic.state_dict()
    for name, value in slow.buffers.items():
        if name != "norm.num_batches_tracked":
            torch.testing.assert_close(state[name], value, rtol=0, atol=1e-12)
    found = slopes_of(found, logits, *critic.parameters())
    expected = slopes_of(expected, logits, *(slow.weights[name] for name in names))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)


def test_scores_do_not_depend_on_the_order_of_the_batch_or_of_memory():
    critic, logits = critic_and_logits(batch=3)
    critic.eval()
    expected = critic(logits)
    torch.testing.assert_close(critic(logits.flip(0)).flip(0), expected)
    torch.testing.assert_close(critic(logits.to(memory_format=torch.channels_last)), expected)


def test_power_iteration_is_torchs():
    torch.manual_seed(0)
    own, theirs = SpectralConv(2, 5).double(), nn.Conv2d(2, 5, 4, stride=2, padding=1).double()
    theirs.load_state_dict(own.conv.state_dict())
    # The older of torch's two; the newer one updates u before v.
    nn.utils.spectral_norm(theirs)
    theirs.weight_u.copy_(own.left)
    maps = torch.randn(1, 2, 6, 6, dtype=torch.float64)
    for _ in range(3):
        found, expected = own(maps), theirs(maps)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
        torch.testing.assert_close(own.left, theirs.weight_u, rtol=0, atol=1e-10)
        torch.testing.assert_close(own.right, theirs.weight_v, rtol=0, atol=1e-10)
    (one,) = slopes_of(found, own.conv.weight)
    (other,) = slopes_of(expected, theirs.weight_orig)
    torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


def test_power_iteration_finds_the_largest_singular_value():
    torch.manual_seed(0)
    conv = SpectralConv(2, 5)
    for vector in (conv.left, conv.right):
        assert vector.norm().item() == pytest.approx(1)
    maps = torch.randn(1, 2, 6, 6)
    for _ in range(100):
        conv(maps)
    largest = torch.linalg.matrix_norm(conv.conv.weight.flatten(1), ord=2)
    found = conv.left @ conv.conv.weight.flatten(1) @ conv.right
    assert found.item() == pytest.approx(largest.item(), rel=1e-5)


def test_evaluation_leaves_all_state_alone():
    critic, logits = critic_and_logits()
    critic(logits)
    before = {name: value.clone() for name, value in critic.state_dict().items()}
    critic.eval()
    first, second = critic(logits), critic(logits)
    assert first.equal(second)
    assert all(before[name].equal(value) for name, value in critic.state_dict().items())


def test_each_forward_keeps_its_own_singular_vectors_for_the_backward_pass():
    torch.manual_seed(0)
    conv, maps = SpectralConv(2, 5).double(), torch.randn(1, 2, 6, 6, dtype=torch.float64)
    start = {name: value.clone() for name, value in conv.state_dict().items()}
    (expected,) = slopes_of(conv(maps), conv.conv.weight)
    conv.load_state_dict(start)
    first = conv(maps)
    conv(maps)
    conv(maps)
    (found,) = slopes_of(first, conv.conv.weight)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)


def test_attention_starts_as_the_identity_and_attends_by_hand():
    torch.manual_seed(0)
    attention, maps = SelfAttention(8), torch.randn(2, 8, 3, 4)
    assert attention(maps).equal(maps)
    # One position knows nothing but itself: value(x) * gamma + x.
    with torch.no_grad():
        attention.gamma.fill_(2.0)
    lone = maps[:, :, :1, :1]
    torch.testing.assert_close(attention(lone), 2 * attention.value(lone) + lone)


def test_can_be_differentiated_twice():
    # Small, as a finite difference needs a pass for every number.
    torch.manual_seed(0)
    layers = nn.Sequential(SpectralConv(2, 8), nn.Tanh(), SelfAttention(8)).double().eval()
    with torch.no_grad():
        layers[2].gamma.fill_(0.7)
    maps = torch.randn(1, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: layers(x).sin().sum(), (maps,))


def test_a_batch_norm_made_for_several_devices_changes_nothing():
    critic, logits = critic_and_logits()
    other = Critic(CLASSES).double()
    other.load_state_dict(critic.state_dict())
    other = nn.SyncBatchNorm.convert_sync_batchnorm(other)
    # The synchronised norm itself refuses to run on a processor.
    assert isinstance(other.norm, nn.SyncBatchNorm)
    assert other(logits).equal(critic(logits))


def test_small_maps_are_refused():
    with pytest.raises(ValueError, match="at least 64 x 64 positions, got 63 x 80; upsample them"):
        Critic(CLASSES)(torch.zeros(2, CLASSES, 63, 80))


def test_layers_have_the_published_sizes():
    shapes = [tuple(weight.shape) for weight in Critic(19).parameters() if weight.dim() == 4]
    assert shapes == [
        (64, 19, 4, 4),
        (128, 64, 4, 4),
        (256, 128, 4, 4),
        *[(32, 256, 1, 1), (32, 256, 1, 1), (256, 256, 1, 1)],
        (512, 256, 4, 4),
        *[(64, 512, 1, 1), (64, 512, 1, 1), (512, 512, 1, 1)],
        (1, 512, 4, 4),
    ]


def test_construction_follows_the_global_seed():
    states = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        states.append(Critic(CLASSES).state_dict())
    assert all(states[0][name].equal(states[1][name]) for name in states[0])
    assert not states[0]["layers.0.left"].equal(states[2]["layers.0.left"])


def prepared(seed=0, **settings):
    network = pspnet("mobilenetv3_small_050", CLASSES, channels=8)
    torch.manual_seed(seed)
    loss = Adversarial(**settings)
    loss.prepare(network, network)
    return loss


def inputs_of(seed=0, size=(64, 64), dtype=torch.float64, progress=0.0):
    generator = torch.Generator().manual_seed(seed)
    student, teacher = torch.randn(2, 2, CLASSES, *size, generator=generator, dtype=dtype)
    labels = torch.full((2, *size), -1)
    student.requires_grad_()
    return LossInputs(Prediction(student), Prediction(teacher), labels, None, progress)


def scores():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 2, 1, 1, 3, generator=generator, dtype=torch.float64).requires_grad_()


def test_losses_of_scores_equal_loops_with_right_gradients():
    real, fake = scores()
    hinge = distance = student = 0.0
    for r, f in zip(real.flatten().tolist(), fake.flatten().tolist(), strict=True):
        hinge += (max(0.0, 1 - r) + max(0.0, 1 + f)) / 6
        distance += (f - r) / 6
        student += -f / 6
    assert critic_hinge(real, fake).item() == pytest.approx(hinge, abs=1e-12)
    found = critic_wasserstein(real, fake).item()
    assert found == pytest.approx(distance, abs=1e-12)
    assert student_adversarial(fake).item() == pytest.approx(student, abs=1e-12)
    pair = scores().detach()
    for function in (critic_hinge, critic_wasserstein):
        assert torch.autograd.gradcheck(function, [each.requires_grad_() for each in pair])


def test_gradient_penalty_is_that_of_a_critic_with_a_known_slope():
    # D(x) = w . x^2 / 2 has the slope w * x, so a penalty and a gradient one can write down.
    real, fake = inputs_of(size=(2, 3)).teacher.logits, inputs_of(size=(2, 3)).student.logits
    weight = torch.randn(CLASSES, 2, 3, dtype=torch.float64, requires_grad=True)
    found = gradient_penalty(
        lambda x: (weight * x**2).sum((1, 2, 3)) / 2, real, fake, torch.Generator().manual_seed(5)
    )
    generator = torch.Generator().manual_seed(5)
    expected = 0.0
    for r, f in zip(real, fake.detach(), strict=True):
        alpha = torch.rand(1, generator=generator, dtype=torch.float64)
        slope = weight * (alpha * r + (1 - alpha) * f)
        expected = expected + ((slope**2).sum().sqrt() - 1) ** 2 / 2
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    (one,) = torch.autograd.grad(found, weight)
    (other,) = torch.autograd.grad(expected, weight)
    torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_gradient_penalty_reaches_the_critic_only_and_survives_flat_critics():
    inputs = inputs_of(size=(4, 4))
    real, fake = inputs.teacher.logits.requires_grad_(), inputs.student.logits
    weight = torch.zeros(CLASSES, 4, 4, dtype=torch.float64, requires_grad=True)
    value = gradient_penalty(lambda x: weight * x, real, fake)
    value.backward()
    assert value.item() == 1
    assert weight.grad.isfinite().all()
    assert real.grad is None
    assert fake.grad is None


def test_gradient_penalty_brings_the_teacher_to_the_students_grid():
    fake, real = torch.randn(2, CLASSES, 4, 4), torch.randn(2, CLASSES, 7, 3)

    def of(teacher):
        generator = torch.Generator().manual_seed(0)
        return gradient_penalty(lambda x: x**2, teacher, fake, generator)

    assert of(real).equal(of(on_grid_of(fake, real)))


def test_the_students_loss_is_minus_the_mean_score_and_leaves_the_critic_alone():
    loss, inputs = prepared(), inputs_of()
    loss.critic.double()
    slow = SlowCritic(loss.critic)
    value = loss(inputs)
    expected = -slow(inputs.student.logits).mean()
    torch.testing.assert_close(value, expected, rtol=0, atol=1e-10)
    (slope,) = torch.autograd.grad(expected, inputs.student.logits)
    value.backward()
    torch.testing.assert_close(inputs.student.logits.grad, slope, rtol=0, atol=1e-10)
    assert slope.abs().sum() > 0
    assert all(weight.grad is None for weight in loss.critic.parameters())
    assert all(weight.requires_grad for weight in loss.critic.parameters())
    # It is a pass in training mode: power iteration and running statistics move.
    state = loss.critic.state_dict()
    for name in ("layers.0.left", "layers.7.right", "norm.running_mean", "norm.running_var"):
        torch.testing.assert_close(state[name], slow.buffers[name], rtol=0, atol=1e-12)


class HandTrained:
    """The critic's training written out: slow critic, formulas of the losses and of the steps."""

    def __init__(self, critic):
        self.critic = SlowCritic(critic)
        weights = self.critic.weights
        self.first, self.second = (
            {name: torch.zeros_like(w) for name, w in weights.items()} for _ in range(2)
        )

    def loss(self, kind, student, teacher):
        fake, real = self.critic(student), self.critic(teacher)
        if kind == "hinge":
            margins = F.relu(1 - real).sum() + F.relu(1 + fake).sum()
            return WEIGHT * margins / real.numel()
        alpha = torch.rand(len(student), dtype=torch.float64)[:, None, None, None]
        between = (alpha * teacher + (1 - alpha) * student).requires_grad_()
        (slope,) = torch.autograd.grad(self.critic(between).sum(), between, create_graph=True)
        norms = (slope**2).sum((1, 2, 3)).sqrt()
        return WEIGHT * (fake.mean() - real.mean() + 10 * ((norms - 1) ** 2).mean())

    def step(self, number, kind, optimizer, rate, student, teacher):
        self.critic(student)  # the student's own loss comes first
        value = self.loss(kind, student, teacher)
        weights = self.critic.weights
        slopes = torch.autograd.grad(value, list(weights.values()))
        with torch.no_grad():
            for (name, weight), slope in zip(weights.items(), slopes, strict=True):
                if optimizer == "sgd":
                    slope = slope + DECAY * weight
                    self.first[name] = MOMENTUM * self.first[name] + slope
                    weight -= rate * self.first[name]
                    continue
                self.first[name] = BETAS[0] * self.first[name] + (1 - BETAS[0]) * slope
                self.second[name] = BETAS[1] * self.second[name] + (1 - BETAS[1]) * slope**2
                mean = self.first[name] / (1 - BETAS[0] ** number)
                square = self.second[name] / (1 - BETAS[1] ** number)
                weight -= rate * mean / (square.sqrt() + 1e-8)
        return value.detach()


@pytest.mark.parametrize(
    ("kind", "optimizer", "schedule"),
    [
        pytest.param("hinge", "adam", "constant", marks=pytest.mark.slow),
        ("wgan-gp", "sgd", "poly"),
    ],
)
def test_three_steps_equal_training_by_hand(kind, optimizer, schedule):
    decay = DECAY if optimizer == "sgd" else 0.0
    loss = prepared(loss=kind, optimizer=optimizer, weight_decay=decay, schedule=schedule)
    loss.critic.double()
    hand = HandTrained(loss.critic)
    for number in range(1, 4):
        inputs = inputs_of(seed=number, progress=(number - 1) / 4)
        rate = RATE * ((1 - inputs.progress) ** 0.9 if schedule == "poly" else 1)
        loss(inputs).backward()
        torch.manual_seed(number)
        found = loss.after_step(inputs)
        torch.manual_seed(number)
        student, teacher = inputs.student.logits.detach(), inputs.teacher.logits
        expected = hand.step(number, kind, optimizer, rate, student, teacher)
        assert found.keys() == {"critic"}
        torch.testing.assert_close(found["critic"], expected, rtol=0, atol=1e-9)
    state, slow = loss.critic.state_dict(), hand.critic.state()
    assert state.keys() == slow.keys()
    # Adam divides a slope by its size, so that one of 0 up to rounding may give any step: that of
    # the biases of keys, which the softmax ignores.
    for name, value in slow.items():
        if "num_batches" not in name and not ("key.bias" in name and optimizer == "adam"):
            torch.testing.assert_close(state[name], value, rtol=1e-7, atol=1e-8, msg=name)
    (trained,) = loss.optimizers()
    names = {"adam": [("exp_avg", hand.first), ("exp_avg_sq", hand.second)]}
    for name, weight in loss.critic.named_parameters():
        for key, moments in names.get(optimizer, [("momentum_buffer", hand.first)]):
            torch.testing.assert_close(
                trained.state[weight][key], moments[name], rtol=1e-6, atol=1e-9
            )


def test_the_critic_learns_to_tell_them_apart_and_the_student_to_fool_it():
    loss = prepared(learning_rate=1e-3)
    inputs = inputs_of(dtype=torch.float32)
    smooth = F.avg_pool2d(inputs.teacher.logits, 9, stride=1, padding=4) * 5
    inputs = replace(inputs, teacher=Prediction(smooth))
    values = [loss.after_step(inputs)["critic"].item() for _ in range(12)]
    assert values[-1] < 0.5 * values[0]
    before = loss(inputs)
    (slope,) = torch.autograd.grad(before, inputs.student.logits)
    moved = inputs.student.logits.detach() - 0.5 * slope / slope.abs().max()
    loss.critic.eval()
    still = loss(inputs)
    assert loss(replace(inputs, student=Prediction(moved))) < still


@pytest.mark.parametrize("kind", ["hinge", "wgan-gp"])
def test_the_critics_step_leaves_both_networks_alone(kind):
    loss, inputs = prepared(loss=kind), inputs_of(dtype=torch.float32)
    teacher = inputs.teacher.logits.requires_grad_()
    before = [weight.clone() for weight in loss.critic.parameters()]
    with torch.no_grad():
        value = loss.after_step(inputs)["critic"]
    assert not value.requires_grad
    assert inputs.student.logits.grad is None
    assert teacher.grad is None
    assert all(weight.grad is None for weight in loss.critic.parameters())
    pairs = zip(before, loss.critic.parameters(), strict=True)
    assert any(not torch.equal(old, new) for old, new in pairs)


@pytest.mark.parametrize("kind", ["hinge", "wgan-gp"])
@pytest.mark.parametrize("size", [(1, 1), (7, 90)])
def test_small_maps_are_enlarged_for_the_critic(kind, size):
    values = []
    inputs = inputs_of(size=size, dtype=torch.float32)
    grown = [
        F.interpolate(p.logits, [max(64, n) for n in size], mode="bilinear", align_corners=False)
        for p in (inputs.student, inputs.teacher)
    ]
    large = replace(inputs, student=Prediction(grown[0]), teacher=Prediction(grown[1]))
    for each in (inputs, large):
        loss = prepared(loss=kind)
        value = loss(each)
        if each is inputs:
            value.backward()
        values.append([value, loss.after_step(each)["critic"]])
    for one, other in zip(*values, strict=True):
        assert one.equal(other)
    assert inputs.student.logits.grad.isfinite().all()


@pytest.mark.parametrize("kind", ["hinge", "wgan-gp"])
def test_half_precision_and_autocast_are_computed_in_float32(kind):
    inputs = inputs_of(dtype=torch.float32)
    half = replace(
        inputs,
        student=Prediction(inputs.student.logits.bfloat16()),
        teacher=Prediction(inputs.teacher.logits.bfloat16()),
    )
    rounded = replace(
        half,
        student=Prediction(half.student.logits.float()),
        teacher=Prediction(half.teacher.logits.float()),
    )
    values = []
    for each, enabled in ((rounded, False), (half, True)):
        loss = prepared(loss=kind)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            values.append([loss(each), loss.after_step(each)["critic"]])
    for one, other in zip(*values, strict=True):
        assert other.dtype == torch.float32
        assert one.equal(other)


@pytest.mark.parametrize("kind", ["hinge", "wgan-gp"])
def test_constant_and_extreme_logits_are_finite(kind):
    inputs = inputs_of(dtype=torch.float32)
    for scale in (0.0, 1e4):
        logits = (inputs.student.logits.detach() * scale).requires_grad_()
        each = replace(
            inputs, student=Prediction(logits), teacher=Prediction(inputs.teacher.logits * scale)
        )
        loss = prepared(loss=kind)
        value = loss(each)
        value.backward()
        assert value.isfinite()
        assert logits.grad.isfinite().all()
        assert loss.after_step(each)["critic"].isfinite()
        assert all(weight.isfinite().all() for weight in loss.critic.parameters())


def test_teachers_on_another_grid_come_to_the_students():
    inputs = inputs_of(dtype=torch.float32)
    teacher = F.interpolate(inputs.teacher.logits, (40, 90), mode="bilinear")
    here = on_grid_of(inputs.student.logits, teacher)
    values = [
        prepared().after_step(replace(inputs, teacher=Prediction(each)))["critic"]
        for each in (teacher, here)
    ]
    assert values[0].equal(values[1])


def test_processes_average_the_critics_gradients_before_its_step(monkeypatch):
    loss, seen = prepared(optimizer="sgd"), []
    before = [weight.clone() for weight in loss.critic.parameters()]

    def cancel(parameters):
        for parameter in parameters:
            seen.append(parameter.grad.abs().sum().item())
            parameter.grad.zero_()

    monkeypatch.setattr(adversarial, "average_gradients", cancel)
    loss.after_step(inputs_of(dtype=torch.float32))
    assert len(seen) == len(before)
    assert sum(seen) > 0
    pairs = zip(before, loss.critic.parameters(), strict=True)
    assert all(old.equal(new) for old, new in pairs)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_resuming_equals_going_on(optimizer):
    settings = {"loss": "wgan-gp", "optimizer": optimizer, "schedule": "poly"}

    def step(loss, number):
        inputs = inputs_of(seed=number, dtype=torch.float32, progress=number / 4)
        torch.manual_seed(number)
        return loss(inputs), loss.after_step(inputs)["critic"]

    whole = prepared(seed=0, **settings)
    step(whole, 0)
    resumed = prepared(seed=1, **settings)
    resumed.load_state_dict(whole.state_dict())
    resumed.optimizers()[0].load_state_dict(deepcopy(whole.optimizers()[0].state_dict()))
    for number in (1, 2):
        for one, other in zip(step(whole, number), step(resumed, number), strict=True):
            assert one.equal(other)
    state = resumed.state_dict()
    assert all(state[name].equal(value) for name, value in whole.state_dict().items())


def test_the_critic_trains_apart_and_starts_from_the_global_seed():
    loss, same = prepared(), prepared()
    (optimizer,) = loss.optimizers()
    own = {id(weight) for group in optimizer.param_groups for weight in group["params"]}
    assert own == {id(weight) for weight in loss.parameters()}
    assert all(
        one.equal(other)
        for one, other in zip(loss.state_dict().values(), same.state_dict().values(), strict=True)
    )


def test_settings_reach_the_optimizer():
    group = prepared().optimizers()[0].param_groups[0]
    assert isinstance(prepared().optimizers()[0], torch.optim.Adam)
    assert (group["lr"], tuple(group["betas"]), group["weight_decay"]) == (RATE, BETAS, 0.0)
    sgd = prepared(optimizer="sgd", weight_decay=DECAY, learning_rate=1.0, sgd_momentum=0.5)
    group = sgd.optimizers()[0].param_groups[0]
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (1.0, 0.5, DECAY)
    assert isinstance(sgd.optimizers()[0], torch.optim.SGD)
    assert Adversarial().weight == 0.001
    arguments = describe(Adversarial())["init_args"]
    assert arguments == {
        "loss": "hinge",
        "critic_weight": WEIGHT,
        "gradient_penalty": 10.0,
        "optimizer": "adam",
        "learning_rate": RATE,
        "betas": [*BETAS],
        "sgd_momentum": MOMENTUM,
        "weight_decay": 0.0,
        "schedule": "constant",
        "weight": 0.001,
    }
    assert describe(Adversarial(**arguments)) == describe(Adversarial())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"critic_weight": 0.0}, "expected critic_weight above 0, got 0.0"),
        ({"learning_rate": math.nan}, "expected learning_rate above 0, got nan"),
        ({"gradient_penalty": -1.0}, "expected gradient_penalty of at least 0, got -1.0"),
        ({"weight_decay": math.inf}, "expected weight_decay of at least 0, got inf"),
        ({"betas": (0.9,)}, r"expected two betas and an sgd_momentum, .* got \(0.9,\) and 0.9"),
        ({"betas": (0.9, 1.0)}, "expected two betas"),
        ({"sgd_momentum": -0.1}, "expected two betas"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Adversarial(**settings)


def test_a_loss_that_was_not_prepared_says_so():
    loss = Adversarial()
    assert loss.optimizers() == ()
    for use in (loss, loss.after_step):
        with pytest.raises(ValueError, match=r"call prepare\(student, teacher\) first"):
            use(inputs_of())
