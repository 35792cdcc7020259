import weakref
from dataclasses import asdict, replace

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from fakd.errors import InputError
from fakd.inference import (
    _starts,
    inference_remark,
    predict_classes,
    predict_logits,
    resolve_inference,
    score,
    to_unit,
)
from fakd.metrics import Scores, confusion_matrix
from fakd.models import pspnet
from fakd.settings import Inference
from fakd.types import Prediction, Segmenter


class Colours(Segmenter):
    """Names the strongest colour channel; its grid is half the image's."""

    classes = 3

    def forward(self, images):
        return Prediction(F.avg_pool2d(images, 2, ceil_mode=True))

    @property
    def classifier(self):
        return None


class Lopsided(Segmenter):
    """Looks to one side only, so that a mirror image tells it something else."""

    classes = 3

    def forward(self, images):
        return Prediction(3 * images.roll(2, -1))

    @property
    def classifier(self):
        return None


@pytest.fixture
def images():
    return torch.rand(2, 3, 20, 26, generator=torch.Generator().manual_seed(0))


def test_one_window_is_the_whole_image(images):
    whole = predict_logits(Colours(), images, Inference())
    assert whole.shape == (2, 3, 20, 26)
    window = predict_logits(Colours(), images, Inference(window=26, stride=10))
    torch.testing.assert_close(window, whole)


def test_overlapping_windows_are_averaged(images):
    """A slow reference: every window by itself, summed and divided pixel by pixel."""
    window, stride = 12, 8
    total, visits = torch.zeros(2, 3, 20, 26), torch.zeros(20, 26)
    for top in (0, 8):
        for left in (0, 8, 14):  # the last would overrun and ends at the border instead
            part = images[:, :, top : top + window, left : left + window]
            logits = F.interpolate(Colours()(part).logits, part.shape[-2:], mode="bilinear")
            total[:, :, top : top + window, left : left + window] += logits
            visits[top : top + window, left : left + window] += 1
    actual = predict_logits(Colours(), images, Inference(window=window, stride=stride))
    torch.testing.assert_close(actual, total / visits)


def test_scale_keeps_the_original_resolution(images):
    logits = predict_logits(Colours(), images, Inference(scale=0.5))
    assert logits.shape == (2, 3, 20, 26)
    small = F.interpolate(images, (10, 13), mode="bilinear")
    seen = F.interpolate(Colours()(small).logits, (10, 13), mode="bilinear")
    torch.testing.assert_close(logits, F.interpolate(seen, (20, 26), mode="bilinear"))


def test_a_base_is_what_the_image_is_fitted_into():
    ade = Inference(base=(2048, 512))
    # Sizes of mmcv's rescaling: the smaller ratio of the two sides, halves rounded up.
    assert ade.size((512, 683)) == (512, 683)
    assert ade.size((683, 512)) == (683, 512)
    assert ade.size((256, 256)) == (512, 512)
    assert ade.size((1500, 2250)) == (512, 768)
    assert ade.size((300, 2000)) == (307, 2048)
    assert ade.size((2000, 300)) == (2048, 307)
    assert Inference(base=(520, 520)).size((375, 500)) == (390, 520)
    assert ade.size((512, 683), 1.75) == (896, 1195)
    assert Inference(scale=0.5, base=(2048, 512)).size((512, 683), 0.5) == (128, 171)
    assert Inference(scale=0.5).size((21, 33)) == (11, 17)


def test_the_network_sees_the_fitted_size(images):
    seen = []

    class Watched(Segmenter):
        classes = 3

        def forward(self, images):
            seen.append(tuple(images.shape[-2:]))
            return Prediction(images)

        @property
        def classifier(self):
            return None

    settings = Inference(base=(60, 40), scales=(0.5, 1.0), flip=True)
    assert predict_logits(Watched(), images, settings).shape == images.shape
    # 20 x 26: the larger factor that keeps within 60 and 40 is 2; half of it, 1.
    assert seen == [(20, 26)] * 2 + [(40, 52)] * 2


def test_views_are_averaged_as_probabilities(images):
    """A slow reference: each size and its mirror by itself, softmax, mean."""
    network, expected = Lopsided(), 0
    for factor in (0.5, 1.0, 1.75):
        for mirrored in (False, True):
            shown = images.flip(-1) if mirrored else images
            logits = predict_logits(network, shown, Inference(scale=factor))
            probabilities = logits.softmax(1)
            expected = expected + (probabilities.flip(-1) if mirrored else probabilities) / 6
    settings = Inference(scales=(0.5, 1.0, 1.75), flip=True)
    actual = predict_logits(network, images, settings)
    torch.testing.assert_close(actual.exp(), expected)
    byte = (images * 255).byte()
    said = predict_classes(network, byte, settings)
    assert torch.equal(said, predict_logits(network, to_unit(byte), settings).argmax(1))


def test_confident_views_do_not_underflow(images):
    class Certain(Segmenter):
        classes = 3

        def forward(self, images):
            return Prediction(500 * images)

        @property
        def classifier(self):
            return None

    assert predict_logits(Certain(), images, Inference(flip=True)).isfinite().all()


def test_a_mirror_image_tells_an_equivariant_network_nothing(images):
    plain = predict_logits(Colours(), images, Inference())
    averaged = predict_logits(Colours(), images, Inference(flip=True))
    torch.testing.assert_close(averaged, plain.log_softmax(1))
    lopsided = predict_logits(Lopsided(), images, Inference()).log_softmax(1)
    assert (predict_logits(Lopsided(), images, Inference(flip=True)) - lopsided).abs().max() > 0.01


def test_one_further_scale_is_a_plain_scale(images):
    for factor in (1.0, 0.6):
        one = predict_logits(Lopsided(), images, Inference(scales=(factor,)))
        assert torch.equal(one, predict_logits(Lopsided(), images, Inference(scale=factor)))


class Drawn(Segmenter):
    """Answers at random on a third of the grid, as its argument's size and sum decide."""

    def __init__(self, classes=11, ruled_out=(), full=False):
        super().__init__()
        self.classes, self.ruled_out, self.full = classes, list(ruled_out), full

    def forward(self, images):
        sides = [side if self.full else max(1, side // 3) for side in images.shape[-2:]]
        seed = int(images.double().sum() * 1e6) % 2**31
        generator = torch.Generator().manual_seed(seed)
        logits = torch.randn(len(images), self.classes, *sides, generator=generator)
        logits[:, self.ruled_out] = -float("inf")
        return Prediction(logits)

    @property
    def classifier(self):
        return None


def slow(network, images, inference):
    """One view after the other, each window enlarged by itself, pixels divided by their visits."""

    def resized(maps, size):
        return F.interpolate(maps, size, mode="bilinear", align_corners=network.align_corners)

    size, total = images.shape[-2:], []
    for factor in inference.scales:
        for mirrored in (False, True) if inference.flip else (False,):
            seen = images.flip(-1) if mirrored else images
            shown = inference.size(tuple(size), factor)
            seen = seen if shown == tuple(size) else F.interpolate(seen, shown, mode="bilinear")
            window = inference.window or max(shown)
            stride = inference.stride or max(1, window * 2 // 3)
            votes = torch.zeros(len(images), network.classes, *shown, dtype=torch.float64)
            visits = torch.zeros(shown, dtype=torch.float64)
            for top in _starts(shown[0], window, stride):
                for left in _starts(shown[1], window, stride):
                    part = seen[..., top : top + window, left : left + window]
                    rows, cols = part.shape[-2:]
                    weight = torch.ones(rows, cols, dtype=torch.float64)
                    if inference.blend:
                        for i in range(rows):
                            for j in range(cols):
                                angles = torch.tensor([(i + 1) / (rows + 1), (j + 1) / (cols + 1)])
                                weight[i, j] = torch.sin(torch.pi * angles.double()).pow(2).prod()
                    answer = resized(network(part).logits.double(), (rows, cols))
                    votes[..., top : top + rows, left : left + cols] += weight * answer
                    visits[top : top + rows, left : left + cols] += weight
            logits = resized(votes / visits, size)
            total.append(logits.flip(-1) if mirrored else logits)
    if len(total) == 1:
        return total[0]
    return torch.stack([each.softmax(1) for each in total]).mean(0).log()


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"scale": 0.7},
        {"window": 13, "stride": 9},
        {"window": 12, "stride": 5, "scale": 1.3, "blend": True},
        {"window": 14, "stride": 9, "flip": True, "scales": (0.8, 1.0)},
        {"window": 100, "blend": True},
    ],
)
def test_tiles_are_parts_of_the_slow_whole(monkeypatch, align_corners, full, settings):
    network, inference = Drawn(full=full), Inference(**settings)
    network.align_corners = align_corners
    byte = torch.randint(0, 256, (2, 3, 20, 27), generator=torch.Generator().manual_seed(1)).byte()
    expected = slow(network, to_unit(byte), inference)
    for width, numbers in ((128, 2**20), (8, 500), (5, 1)):
        monkeypatch.setattr("fakd.bilinear.TILE_WIDTH", width)
        monkeypatch.setattr("fakd.bilinear.TILE_NUMBERS", {"cpu": numbers})
        found = predict_logits(network, to_unit(byte), inference)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)
        assert torch.equal(predict_classes(network, byte, inference), found.argmax(1))


@pytest.mark.parametrize(
    "settings", [{}, {"scale": 0.7}, {"window": 13, "stride": 9}, {"flip": True}]
)
def test_a_class_ruled_out_stays_ruled_out_where_maps_are_resized(settings):
    byte = torch.randint(0, 256, (1, 3, 20, 27), generator=torch.Generator().manual_seed(1)).byte()
    logits = predict_logits(Drawn(4, ruled_out=[0, 2]), to_unit(byte), Inference(**settings))
    assert (logits[:, [0, 2]] == -float("inf")).all()
    assert logits[:, [1, 3]].isfinite().all()


class _Largest(TorchDispatchMode):
    """Remembers the largest tensor of floats that anything returned."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor) and made.is_floating_point():
            self.numbers = max(self.numbers, made.untyped_storage().nbytes() // 4)
        return made


@pytest.mark.parametrize("settings", [{}, {"window": 96}, {"scale": 0.5, "flip": True}])
def test_no_map_of_all_classes_at_full_resolution_exists(monkeypatch, settings):
    monkeypatch.setattr("fakd.bilinear.TILE_NUMBERS", {"cpu": 2**14})
    image = torch.zeros(1, 3, 200, 300, dtype=torch.uint8)
    with _Largest() as seen:
        predict_classes(Drawn(60), image, Inference(**settings))
    assert 0 < seen.numbers <= 60 * 200 * 300 // 9


@pytest.mark.parametrize(
    ("side", "window", "stride", "expected"),
    [
        (2048, 769, 513, [0, 513, 1026, 1279]),
        (1024, 769, 513, [0, 255]),
        (520, 480, 320, [0, 40]),
        (390, 480, 320, [0]),
        (480, 480, 320, [0]),
        (800, 480, 320, [0, 320]),
        (801, 480, 320, [0, 320, 321]),
    ],
)
def test_windows_begin_where_mmsegmentation_has_them(side, window, stride, expected):
    assert _starts(side, window, stride) == expected


def test_a_note_tells_in_which_flags_training_differed():
    network = Colours()
    assert inference_remark(network, Inference()) is None
    # As a file of weights has it: written before there were mirrors, and with lists for tuples.
    network.extra = {"inference": {"scale": 0.5, "window": None, "stride": None}}
    same = inference_remark(network, Inference(scale=0.5))
    assert same == "images are shown to the network as in its training, with --inference.scale 0.5"
    other = inference_remark(network, Inference())
    assert "with the defaults of --inference; during its training" in other
    assert "evaluated with --inference.scale 0.5, so" in other
    network.extra = {"inference": {**asdict(Inference(flip=True)), "base": [64, 32]}}
    same = inference_remark(network, Inference(base=(64, 32), flip=True))
    assert same.endswith("as in its training, with --inference.base [64,32] --inference.flip true")
    note = inference_remark(network, Inference(window=9))
    assert "shown to the network with --inference.window 9; during its training" in note
    assert "--inference.window null --inference.base [64,32] --inference.flip true, so" in note


TRAINED = {
    "scale": 0.5,
    "window": 20,
    "stride": 10,
    "scales": [1.0, 2.0],
    "batch_size": 8,
    "new": 1,
}
AS_TRAINED = Inference(scale=0.5, window=20, stride=10, scales=(1.0, 2.0))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, AS_TRAINED),
        ({}, AS_TRAINED),
        ({"flip": True}, replace(AS_TRAINED, flip=True)),
        ({"scale": 1.0}, replace(AS_TRAINED, scale=1.0)),
        ({"window": None}, replace(AS_TRAINED, window=None, stride=None)),
        ({"window": 5}, replace(AS_TRAINED, window=5, stride=None)),
        ({"stride": 5}, replace(AS_TRAINED, stride=5)),
        # A network trained at half size is not to halve the size that is asked for.
        ({"base": [64, 32]}, replace(AS_TRAINED, scale=1.0, base=(64, 32))),
        ({"batch_size": 4}, replace(AS_TRAINED, batch_size=4)),
        (Inference(), Inference()),
        (Inference(flip=True), Inference(flip=True)),
    ],
)
def test_what_is_not_given_is_as_in_training(given, expected):
    network = Colours()
    network.extra = {"inference": TRAINED}
    found = resolve_inference(network, given)
    assert found == expected
    assert found.batch_size == expected.batch_size


def test_without_a_record_of_training_the_defaults_hold():
    assert resolve_inference(Colours()) == Inference()
    assert resolve_inference(Colours(), {"window": 9}) == Inference(window=9)
    with pytest.raises(InputError, match=r"no inference\.flop; expected some of scale, "):
        resolve_inference(Colours(), {"flop": True})


def test_score_counts_every_labelled_pixel():
    image = torch.zeros(3, 8, 8, dtype=torch.uint8)
    image[1] = 255
    labels = torch.full((8, 8), 1, dtype=torch.int16)
    labels[0] = -1
    network = Colours().train()
    matrix = score(network, [(image, labels)], Inference(), torch.device("cpu"))
    assert matrix.tolist() == [[0, 0, 0], [0, 56, 0], [0, 0, 0]]
    assert network.training


def test_scores_of_a_stream_are_those_of_all_pixels_at_once():
    generator = torch.Generator().manual_seed(2)
    images = [torch.randint(0, 256, (3, 8 + i, 12), generator=generator).byte() for i in range(5)]
    labels = [torch.randint(0, 3, image.shape[1:], generator=generator).short() for image in images]
    labels[1][:4] = -1
    alive = []

    def stream():
        for image, truth in zip(images, labels, strict=True):
            copy = image.clone()
            alive.append(weakref.ref(copy))
            # Only the sample before may still be held, by the loop that asks for this one.
            assert sum(reference() is not None for reference in alive) <= 2
            yield copy, truth
            del copy

    matrix = score(Colours(), stream(), Inference(), torch.device("cpu"))
    said = [predict_classes(Colours(), image[None], Inference())[0] for image in images]
    pixels = [torch.cat([part.flatten() for part in parts]) for parts in (said, labels)]
    assert torch.equal(matrix, confusion_matrix(*pixels, 3))
    assert Scores.from_matrix(matrix).miou == Scores.from_matrix(confusion_matrix(*pixels, 3)).miou


class Convolved(Segmenter):
    """Answers for each image of a batch as for that image alone."""

    classes = 5

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.Conv2d(3, 5, 3, 2, 1)

    def forward(self, images):
        return Prediction(self.layer(images))

    @property
    def classifier(self):
        return None


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"window": 20, "blend": True},
        {"flip": True, "scales": (0.8, 1.3)},
        {"base": (40, 30)},
    ],
)
def test_batches_of_one_size_score_as_images_alone(settings, monkeypatch):
    """Also where tiles split images, and sizes come in turns: each image has its own counts."""
    monkeypatch.setattr("fakd.bilinear.TILE_WIDTH", 8)
    monkeypatch.setattr("fakd.bilinear.TILE_NUMBERS", {"cpu": 500})
    network = Convolved()
    generator = torch.Generator().manual_seed(3)
    sizes = [(24, 32), (30, 20), (24, 32), (24, 32), (26, 26), (30, 20), (24, 32)]
    images = [torch.randint(0, 256, (3, *size), generator=generator).byte() for size in sizes]
    labels = [
        torch.randint(-1, network.classes, size, generator=generator).short() for size in sizes
    ]
    found = {}
    for count in (1, 3):
        each, given = {}, Inference(**settings, batch_size=count)
        pairs = zip(images, labels, strict=True)
        matrix = score(network, pairs, given, torch.device("cpu"), each.__setitem__)
        assert sorted(each) == [*range(len(sizes))]
        assert torch.equal(sum(each.values()), matrix)
        assert [int(each[k].sum()) for k in sorted(each)] == [int((m >= 0).sum()) for m in labels]
        found[count] = [each[k] for k in sorted(each)]
    for one, three in zip(found[1], found[3], strict=True):
        # A tie may be broken otherwise by the last bit.
        assert (one - three).abs().sum() <= 4


def test_images_of_one_size_are_shown_together_and_few_wait():
    shown = []

    class Watching(Colours):
        def forward(self, images):
            shown.append(tuple(images.shape[::2]))
            return super().forward(images)

    sizes = [4, 5, 4, 5, 5, 6, 7, 8, 4, 9, 10, 11, 12, 4]
    pairs = [
        (torch.zeros(3, side, 8, dtype=torch.uint8), torch.zeros(side, 8, dtype=torch.int16))
        for side in sizes
    ]
    score(Watching(), iter(pairs), Inference(batch_size=2), torch.device("cpu"))
    assert shown[:2] == [(2, 4), (2, 5)]
    assert sum(count for count, _ in shown) == len(sizes)
    assert max(count for count, _ in shown) == 2
    # Eight wait at most, then one goes alone.
    assert shown[2] == (1, 5)
    shown.clear()
    score(Watching(), iter(pairs), Inference(), torch.device("cpu"))
    assert shown == [(1, side) for side in sizes]


def test_the_number_of_images_shown_together_tells_no_two_settings_apart():
    assert Inference(batch_size=4) == Inference()
    assert "batch_size" not in Inference(batch_size=4).views()
    network = Colours()
    network.extra = {"inference": {"flip": False}}
    assert inference_remark(network, Inference(batch_size=4)) is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"scale": 0.0},
        {"batch_size": 0},
        {"stride": 4},
        {"window": 0},
        {"window": 4, "stride": 5},
        {"base": (0, 4)},
        {"scales": ()},
        {"scales": (1.0, -1.0)},
    ],
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(InputError, match="inference"):
        Inference(**wrong)


def test_what_is_too_large_for_the_memory_is_refused_and_looked_at_once(monkeypatch):
    network = pspnet("mobilenetv3_small_050", 3, channels=8).eval()
    images = torch.zeros(1, 3, 64, 96, dtype=torch.uint8)
    asked = []

    def count(network, size, learns):
        asked.append(size)
        return 10**6

    monkeypatch.setattr("fakd.models.memory_estimate.bytes_of_image", count)
    for place in ("fakd.memory", "fakd.models.memory_estimate"):
        monkeypatch.setattr(f"{place}.free_memory", lambda device: 2 * 10**6)
    for _ in range(2):
        predict_classes(network, images, Inference())
    predict_classes(network, images, Inference(window=32, stride=32, scale=2.0))
    assert asked == [(64, 96), (32, 32)]
    with pytest.raises(InputError, match=r"512 x 768 pixels at a time .*; give inference.window"):
        predict_classes(network, images, Inference(scale=8.0, window=16))
