"""What every loss of the package owes its caller, whatever its settings."""

import copy
import importlib
import inspect
import pickle
import pkgutil
from dataclasses import replace
from functools import partial
from typing import Literal

import pytest
import torch
import torch.nn.functional as F
import yaml
from torch._subclasses.fake_tensor import FakeTensorMode

from fakd import losses
from fakd.covariance import ClassCovariance, LogitStatistics
from fakd.losses import (
    PRESETS,
    Adversarial,
    ChannelKL,
    CrossImageSimilarity,
    FeatureChannelKL,
    FeatureDistance,
    HardLabels,
    IntraClassVariation,
    MemoryContrast,
    PairwiseSimilarity,
    PixelKL,
    Relational,
    WeightedSum,
    preset,
)
from fakd.losses.margin import margin_counts, median_of
from fakd.runs.recipe import describe
from fakd.specs import build
from fakd.types import IGNORE, DistillationLoss, LossInputs, Prediction
from stand_ins import Shown

CLASSES, CHANNELS, WIDER = 4, 3, 5
MEMORY = {"pixel_slots": 9, "region_slots": 4, "contrast_pixels": 12, "contrast_regions": 8}
ON_LOGITS = [
    partial(PixelKL),
    partial(ChannelKL),
    *(
        partial(PixelKL, bound=bound, strength=0.7)
        for bound in ("marginal", "difference", "tilted")
    ),
    partial(PixelKL, bound="difference", strength=0.7, covariance="full", spare_own_class=True),
    partial(PixelKL, bound="tilted", strength=0.7, covariance="full", temperature=2.0),
    partial(PixelKL, strength=0.7, covariance="full", spare_own_class=True),
    partial(PixelKL, strength=0.7, covariance="logits"),
    partial(ChannelKL, strength=0.7),
    partial(ChannelKL, strength=0.7, covariance="full", spare_own_class=True, temperature=2.0),
    partial(ChannelKL, strength=0.7, covariance="logits"),
    partial(PixelKL, class_weights=[0.5, 2.0, 0.0, 1.0], temperature=2.0),
    partial(PixelKL, class_weights="auto", strength=0.7, bound="difference"),
    partial(ChannelKL, class_weights=[0.5, 2.0, 0.0, 1.0], temperature=2.0),
    partial(ChannelKL, class_weights="auto", strength=0.7, covariance="full"),
    partial(ChannelKL, strength=0.3, strength_unit="margin", temperature=2.0),
    partial(ChannelKL, strength=0.3, strength_unit="margin", covariance="logits"),
    partial(PixelKL, strength=0.3, strength_unit="margin", bound="tilted", covariance="full"),
    partial(PixelKL, strength=0.3, strength_unit="margin", classifier_gradient=False),
    partial(PixelKL, strength=0.7, bound="difference", classifier_gradient=False),
]
OTHERS = [
    partial(Relational, temperature=2.0, intra=0.5),
    partial(HardLabels),
    partial(HardLabels, threshold=0.3),
    partial(FeatureDistance),
    partial(FeatureDistance, kind="cosine", alignment="conv-bn-relu"),
    partial(FeatureChannelKL, divisor="student", alignment="conv-bias"),
    partial(PairwiseSimilarity),
    partial(PairwiseSimilarity, scale=0.5, detach_norm=True),
    partial(IntraClassVariation),
    partial(IntraClassVariation, normalise="valid"),
    partial(CrossImageSimilarity),
    partial(CrossImageSimilarity, pool=2),
    partial(MemoryContrast, **MEMORY),
    partial(MemoryContrast, **MEMORY, mask_unwritten=True, pixel_sampling="legacy"),
    partial(Adversarial),
    partial(Adversarial, loss="wgan-gp", optimizer="sgd", schedule="poly"),
    partial(WeightedSum, {"pixels": PixelKL(strength=0.5), "features": FeatureDistance()}),
]
PUBLISHED = [partial(preset, name) for name in PRESETS]
LOSSES = [*ON_LOGITS, *OTHERS, *PUBLISHED]


def name_of(make):
    settings = ", ".join(f"{name}={value}" for name, value in make.keywords.items())
    return " ".join([make.func.__name__, *(str(each) for each in make.args[:1]), settings])


def cases(makes, slow=()):
    marked = [
        pytest.param(make, marks=pytest.mark.slow) if make in slow else make for make in makes
    ]
    return pytest.mark.parametrize("make", marked, ids=[*map(name_of, makes)])


every_loss = cases(LOSSES)


def parts_of(loss):
    """A loss that is no sum, or the losses of a sum."""
    return list(loss.losses.values()) if isinstance(loss, WeightedSum) else [loss]


def has(loss, kind):
    return any(isinstance(part, kind) for part in parts_of(loss))


def prepared(make, seed=0):
    torch.manual_seed(seed)
    loss = make() if callable(make) else make
    loss.prepare(Shown(CHANNELS, CLASSES), Shown(WIDER, CLASSES))
    return loss.double()


def tensors(dtype=torch.float64, scale=1.0):
    generator = torch.Generator().manual_seed(0)
    draw = partial(torch.randn, generator=generator, dtype=dtype)
    labels = torch.randint(CLASSES, (2, 3, 2), generator=generator)
    labels[0, 0] = IGNORE
    features, weight = draw(2, CHANNELS, 3, 2), draw(CLASSES, CHANNELS, 1, 1)
    teacher = draw(2, CLASSES, 3, 2) * scale, draw(2, WIDER, 3, 2) * scale
    return features * scale, weight, teacher, labels


def inputs_for(loss, features, weight, teacher, labels, covariance=None):
    logits = F.conv2d(features, weight)
    student, statistics = Prediction(logits, features), None
    if loss.covariance is not None:
        fed = logits if loss.covariance == "logits" else features
        if covariance is None:
            covariance = ClassCovariance(CLASSES, fed.shape[1], loss.covariance, None, IGNORE)
            covariance.to(torch.promote_types(features.dtype, torch.float32))
            covariance.update(fed, labels)
        margin = median_of(margin_counts(logits, labels != IGNORE)) if loss.margin else None
        statistics = LogitStatistics(covariance, weight, labels, margin)
    return LossInputs(student, Prediction(*teacher), labels, statistics, progress=0.8)


def drawn(loss, inputs):
    """The value of a loss that may draw at random."""
    torch.manual_seed(5)
    return loss(inputs)


def assert_same(found, expected):
    # Not to the last bit, which depends on where in memory a convolution's numbers lie.
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


def snapshot(loss):
    return copy.deepcopy([loss.state_dict(), *(each.state_dict() for each in loss.optimizers())])


def restore(loss, state):
    own, *others = copy.deepcopy(state)
    loss.load_state_dict(own)
    for optimizer, other in zip(loss.optimizers(), others, strict=True):
        optimizer.load_state_dict(other)


def test_every_loss_of_the_package_is_under_this_contract():
    modules = pkgutil.walk_packages(losses.__path__, f"{losses.__name__}.")
    found = {
        kind
        for module in modules
        for _, kind in inspect.getmembers(importlib.import_module(module.name), inspect.isclass)
        if issubclass(kind, DistillationLoss) and not inspect.isabstract(kind)
    }
    assert found == {make.func for make in [*ON_LOGITS, *OTHERS]}


@every_loss
def test_a_value_is_a_finite_scalar_and_its_terms_add_up_to_it(make):
    loss, inputs = prepared(make), inputs_for(make(), *tensors())
    state = snapshot(loss)
    value = drawn(loss, inputs)
    assert value.shape == ()
    assert value.isfinite()
    restore(loss, state)
    torch.manual_seed(5)
    terms = loss.terms(inputs)
    torch.testing.assert_close(sum(terms.values()), value)
    assert not terms.keys() & {"task", "auxiliary"}
    assert all(measure.isfinite() for measure in loss.measures(inputs).values())


@every_loss
def test_a_loss_says_whether_it_sees_that_all_logits_of_a_class_rise(make):
    """One that does not leaves it to labels which class a pixel is."""
    loss, inputs = prepared(make).eval(), inputs_for(make(), *tensors())
    if isinstance(loss, Adversarial):
        # A critic sees the rise, but not which image a map belongs to.
        assert not loss.determines_classes
        return
    logits = inputs.student.logits.clone()
    logits[:, 1] += 0.7
    risen = replace(inputs, student=inputs.student._replace(logits=logits))
    change = float((drawn(loss, risen) - drawn(loss, inputs)).detach())
    assert (abs(change) > 1e-9) == loss.determines_classes


@every_loss
def test_gradients_are_right_and_reach_features_and_classifier_only(make):
    loss, (features, weight, teacher, labels) = prepared(make), tensors()
    inputs = inputs_for(loss, features, weight, teacher, labels)
    covariance = inputs.statistics and inputs.statistics.covariance
    drawn(loss, inputs)  # A memory has something to compare with.
    # From here on in evaluation, for then critic and memory stay as they are.
    loss.eval()
    for tensor in (features, weight, *teacher):
        tensor.requires_grad_()

    def value(features, weight):
        return drawn(loss, inputs_for(loss, features, weight, teacher, labels, covariance))

    # The tilted bound takes its tilt as given, a relative strength its lambda, and a norm or a
    # classifier is left out on purpose: finite differences do not; see test_augmentation and
    # test_pairwise.
    exact = not any(
        getattr(part, "bound", None) == "tilted"
        or getattr(part, "detach_norm", False)
        or part.margin
        or not getattr(part, "classifier_gradient", True)
        for part in parts_of(loss)
    )
    if exact:
        assert torch.autograd.gradcheck(value, (features, weight), fast_mode=True)
    value(features, weight).backward()
    assert features.grad.abs().sum() > 0
    on_logits = has(loss, PixelKL | ChannelKL | Relational | HardLabels | Adversarial)
    assert weight.grad is None or (weight.grad.abs().sum() > 0) == on_logits
    assert all(each.grad is None for each in teacher)
    assert covariance is None or not any(buffer.requires_grad for buffer in covariance.buffers())


@every_loss
def test_the_order_of_the_batch_does_not_matter(make):
    # But for what a memory remembers, image by image.
    loss, (features, weight, teacher, labels) = prepared(make), tensors()
    loss.train(not has(loss, MemoryContrast))
    state = snapshot(loss)
    forward = drawn(loss, inputs_for(loss, features, weight, teacher, labels))
    restore(loss, state)
    backwards = (each.flip(0) for each in teacher)
    turned = inputs_for(loss, features.flip(0), weight, backwards, labels.flip(0))
    torch.testing.assert_close(drawn(loss, turned), forward, rtol=1e-10, atol=1e-12)


@every_loss
def test_the_memory_format_does_not_matter(make):
    loss, (features, weight, teacher, labels) = prepared(make), tensors()
    state = snapshot(loss)
    expected = drawn(loss, inputs_for(loss, features, weight, teacher, labels))
    restore(loss, state)
    features, *teacher = (x.to(memory_format=torch.channels_last) for x in (features, *teacher))
    found = drawn(loss, inputs_for(loss, features, weight, teacher, labels))
    torch.testing.assert_close(found, expected)


@every_loss
def test_autocast_and_half_precision_inputs_are_computed_in_float32(make):
    loss, (features, weight, teacher, labels) = prepared(make).float(), tensors()
    features, weight, *teacher = (x.bfloat16().float() for x in (features, weight, *teacher))
    inputs = inputs_for(loss, features, weight, teacher, labels)
    state = snapshot(loss)
    expected = drawn(loss, inputs)
    assert expected.dtype == torch.float32
    student, other = (
        Prediction(seen.logits.bfloat16(), seen.features.bfloat16())
        for seen in (inputs.student, inputs.teacher)
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        restore(loss, state)
        assert drawn(loss, inputs).equal(expected)
        restore(loss, state)
        rounded = drawn(loss, replace(inputs, student=student, teacher=other))
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, expected, rtol=0.05, atol=0.02)


@cases(ON_LOGITS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_extreme_logits_give_finite_losses_and_gradients(make, dtype):
    loss, (features, weight, teacher, labels) = make(), tensors(torch.float32)
    inputs = inputs_for(loss, features, weight, teacher, labels)
    logits = (teacher[0].roll(1, 1).sign() * 1e4).to(dtype).requires_grad_()
    extreme = replace(
        inputs,
        student=Prediction(logits),
        teacher=Prediction((teacher[0].sign() * 1e4).to(dtype)),
    )
    value = loss(extreme)
    value.backward()
    assert value.isfinite()
    assert value > 100
    assert logits.grad.isfinite().all()


@every_loss
def test_a_batch_without_a_label_gives_a_finite_loss_and_gradient(make):
    loss, (features, weight, teacher, labels) = prepared(make), tensors()
    features.requires_grad_()
    inputs = inputs_for(loss, features, weight, teacher, torch.full_like(labels, IGNORE))
    value = drawn(loss, inputs)
    value.backward()
    assert value.isfinite()
    assert features.grad is None or features.grad.isfinite().all()
    assert all(each.isfinite() for each in loss.after_step(inputs).values())


@cases([make for make in LOSSES if not has(make(), MemoryContrast)])
def test_no_step_waits_for_the_device(make, monkeypatch):
    """A fake tensor has no values: whatever asks for one, such as `.item()`, raises.

    All but the memory, whose labels decide how many rows are written: it waits once a batch.
    """
    monkeypatch.setattr("fakd.membership.is_on_host", lambda values: False)
    with FakeTensorMode():
        loss = make()
        loss.prepare(Shown(CHANNELS, CLASSES), Shown(WIDER, CLASSES))
        features, weight = torch.randn(2, CHANNELS, 3, 2), torch.randn(CLASSES, CHANNELS, 1, 1)
        teacher = torch.randn(2, CLASSES, 3, 2), torch.randn(2, WIDER, 3, 2)
        features.requires_grad_()
        labels = torch.zeros(2, 3, 2, dtype=torch.int64)
        inputs = inputs_for(loss, features, weight, teacher, labels)
        loss(inputs).backward()
        loss.measures(inputs)


@cases(LOSSES, slow=PUBLISHED)
def test_nothing_is_kept_between_calls_but_declared_state(make):
    """The same state, inputs and draws give the same value, whatever was called in between."""
    loss, inputs = prepared(make), inputs_for(make(), *tensors())

    def step():
        value = drawn(loss, inputs)
        return {"loss": value.detach(), **loss.after_step(inputs), **loss.measures(inputs)}

    before = snapshot(loss)
    drawn(loss, inputs)
    after = loss.state_dict()
    moved = {name for name in after if not torch.equal(after[name], before[0][name])}
    # Statistics that a batch norm gathers aside, those alone have state who say so.
    own = {name for name in moved if "running_" not in name and "num_batches" not in name}
    assert bool(own) == has(loss, Adversarial | MemoryContrast)
    restore(loss, before)
    first, second = step(), step()
    if not moved:
        assert_same(second, first)
    restore(loss, before)
    assert_same(step(), first)


@every_loss
def test_state_survives_a_checkpoint_and_a_pickle(make):
    inputs = inputs_for(make(), *tensors())
    loss, resumed = prepared(make), prepared(make, seed=1)
    drawn(loss, inputs)
    loss.after_step(inputs)
    restore(resumed, snapshot(loss))
    copied = pickle.loads(pickle.dumps(loss))
    expected = drawn(loss, inputs)
    for other in (resumed, copied):
        assert_same(drawn(other, inputs), expected)


@cases([make for make in LOSSES if not isinstance(make(), WeightedSum)])
def test_a_weight_scales_the_gradient_and_not_the_value(make):
    (features, *others), gradients = tensors(), []
    for weight in (1.0, 0.25):
        arguments = make().arguments | {"weight": weight}
        loss = prepared(lambda arguments=arguments: type(make())(**arguments)).eval()
        assert loss.weight == weight
        total = WeightedSum({"only": loss}).eval()
        own = features.clone().requires_grad_()
        inputs = inputs_for(loss, own, *others)
        value = drawn(total, inputs)
        torch.testing.assert_close(value, weight * drawn(loss, inputs))
        gradients.append(torch.autograd.grad(value, own)[0])
    torch.testing.assert_close(gradients[1], 0.25 * gradients[0])


@every_loss
def test_a_loss_is_what_its_recipe_says(make):
    written = yaml.safe_load(yaml.safe_dump(describe(make())))
    again = build(written)
    assert describe(again) == written
    inputs = inputs_for(again, *tensors())
    found = [drawn(prepared(each), inputs) for each in (make, lambda: build(written))]
    assert_same(*found)


def test_default_weights_and_settings():
    assert (ChannelKL().weight, PixelKL().weight) == (5.0, 1.0)
    for make in (ChannelKL, PixelKL):
        assert make().covariance is None
        assert make(strength=1.0).covariance == "diagonal"
        assert make(strength=1.0, covariance="full", momentum=0.9).momentum == 0.9


@pytest.mark.parametrize("weight", [-1.0, float("inf"), float("nan")])
def test_impossible_weights_are_refused(weight):
    for make in (PixelKL, MemoryContrast, partial(Own, 2)):
        with pytest.raises(ValueError, match=f"expected weight of at least 0, got {weight}"):
            make(weight=weight)


class Own(DistillationLoss):
    """Somebody's loss, which keeps none of its arguments under their names."""

    def __init__(self, power: int, kind: Literal["a", "b"] = "a", weight: float = 3.0, **rest: int):
        super().__init__(weight)
        self.exponent = power + sum(rest.values())

    def forward(self, inputs):
        return inputs.student.logits.pow(self.exponent).mean()


class Plain(DistillationLoss):
    """Somebody's loss without a weight."""

    def __init__(self, table: torch.Tensor | None = None):
        super().__init__()

    def forward(self, inputs):
        return inputs.student.logits.mean()


def test_anyones_loss_is_described_by_what_it_was_given():
    given = {"power": 2, "kind": "a", "weight": 3.0, "more": 1}
    for loss in (Own(2, more=1), copy.deepcopy(Own(2, more=1))):
        assert describe(loss) == {"class_path": f"{__name__}.Own", "init_args": given}
        assert loss.exponent == 3
    assert Plain().weight == 1.0
    # No file could hold a tensor, so that it is called by what it is.
    assert describe(Plain(torch.zeros(2)))["init_args"] == {"table": "torch.Tensor"}


def test_mistakes_in_anyones_loss_are_named_as_ever():
    with pytest.raises(TypeError, match=r"Plain\.__init__\(\) got an unexpected keyword argument"):
        Plain(strange=1)
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'power'"):
        Own()
    with pytest.raises(ValueError, match=r"expected kind to be one of \('a', 'b'\), got 'c'"):
        Own(2, kind="c")
