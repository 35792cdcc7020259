import doctest

import pytest
import torch
from torch import nn

from fakd.losses import adversarial as critic_module
from fakd.losses.adversarial import Critic, SelfAttention, SpectralConv

CLASSES = 3


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
    with pytest.raises(ValueError, match="at least 64 x 64 positions, got 63 x 80; enlarge them"):
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


def test_examples_in_the_docstring_run():
    result = doctest.testmod(critic_module)
    assert result.attempted > 0
    assert result.failed == 0
