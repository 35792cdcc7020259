"""Students that come ready: words that open, in numbers that others can count."""

import json

import huggingface_hub
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import fakd
from fakd import specs
from fakd.cli import main
from fakd.errors import InputError
from fakd.models import students, weights
from fakd.models.catalogue import activation_bytes
from fakd.sources import resolve

SOME = [
    "timm:lcnet_035?channels=48&output_stride=16",
    "timm:mobilenetv2_050?head=deeplabv3plus&channels=64&output_stride=16",
    "timm:resnet18?channels=64&output_stride=16",
    "smp:Unet?encoder_name=tu-mobilenetv3_small_100",
    "transformers.MobileNetV2ForSemanticSegmentation?config=transformers.MobileNetV2Config",
]


@pytest.fixture
def empty_cache(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(weights, "find_package", lambda _: None)
    monkeypatch.setattr(students, "find_package", lambda _: None)
    return tmp_path


@pytest.mark.parametrize("word", students.STUDENTS)
def test_every_word_is_one_for_a_network(word):
    specs.check_spec(resolve(word), word, counted=True)


@pytest.mark.parametrize("word", SOME)
def test_numbers_are_those_of_the_network_run_for_real(word):
    size, classes = (64, 96), 7
    found = next(iter(students.list_students(classes, size, [word]))).row
    network = fakd.models.open_network(word, classes).eval()
    assert found.parameters == sum(each.numel() for each in network.parameters())
    network.auxiliary_head = None
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        seen = network(torch.rand(1, 3, *size))
    assert found.flops == counter.get_total_flops() > 0
    assert found.channels == seen.features.shape[1]
    assert found.stride == size[0] // seen.logits.shape[2]


def test_what_a_step_keeps_is_counted_once():
    images = torch.rand(2, 3, 8, 12)
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 5, 1))
    # The ReLU keeps its output, which the second convolution keeps too.
    expected = 4 * 2 * 8 * 12 * (3 + 4)
    assert activation_bytes(network, images) == expected
    assert activation_bytes(network.to("meta"), images.to("meta")) == expected


@pytest.mark.parametrize("word", SOME)
def test_what_a_step_keeps_is_told_without_computing(word):
    found = next(iter(students.list_students(7, (64, 96), [word])))
    network = fakd.models.open_network(word, 7).train()
    # Drop-out may keep its mask in another type where it computes.
    real = activation_bytes(network, torch.rand(2, 3, 64, 96)) / 2
    assert found.activations == pytest.approx(real, rel=0.01)


@pytest.mark.slow
def test_all_are_of_the_sizes_promised():
    found = [each.row.parameters for each in students.list_students(19, (64, 64))]
    assert len(found) == len(students.STUDENTS) >= 30
    assert 3e5 <= min(found) < 4e5
    assert 1e7 < max(found) <= 1.2e7


def test_words_that_name_a_library_that_is_missing_are_left_out(monkeypatch):
    monkeypatch.setattr(students, "find_spec", lambda _: None)
    assert students.installed() == [each for each in students.STUDENTS if each[:5] == "timm:"]


def put_into_cache(cache, repository):
    folder = cache / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("abc")
    (folder / "snapshots" / "abc").mkdir(parents=True)
    (folder / "snapshots" / "abc" / "model.safetensors").write_bytes(b"weights")


@pytest.mark.parametrize(
    ("word", "repository"),
    [
        ("timm:lcnet_050", "timm/lcnet_050.ra2_in1k"),
        ("smp:Unet?encoder_name=mobilenet_v2", "smp-hub/mobilenet_v2.imagenet"),
        ("smp:Unet?encoder_name=tu-lcnet_050", "timm/lcnet_050.ra2_in1k"),
    ],
)
def test_weights_are_here_if_the_hub_has_left_them_here(word, repository, empty_cache):
    assert students.imagenet_location(resolve(word)) == "hub"
    put_into_cache(empty_cache, repository)
    assert students.imagenet_location(resolve(word)) == "here"


@pytest.mark.parametrize("word", ["timm:lcnet_035", SOME[-1]])
def test_weights_may_be_nowhere(word, empty_cache):
    assert students.imagenet_location(resolve(word)) == ""


def test_the_word_of_a_student_has_the_weights_that_are_here(monkeypatch):
    word = "timm:tf_efficientnet_lite0?channels=8"
    monkeypatch.setattr(students, "find_package", lambda _: "weights.pth")
    found = next(iter(students.list_students(2, (64, 64), [word])))
    assert found.word == f"{word}&weights=imagenet"
    assert resolve(found.word)["init_args"]["weights"] == "imagenet"


def test_arguments_stand_behind_a_question_mark():
    assert resolve("pspnet?backbone=resnet18&channels=8") == specs.make_spec(
        "fakd.models.pspnet", backbone="resnet18", channels=8
    )
    assert resolve("pspnet") == specs.make_spec("fakd.models.pspnet")
    network = fakd.models.open_network("pspnet?backbone=timm/lcnet_035&channels=8", 5)
    assert network.classes == 5
    with pytest.raises(InputError, match="no network psnet; did you mean pspnet"):
        resolve("psnet?backbone=resnet18")
    with pytest.raises(InputError, match="needs backbone"):
        fakd.models.open_network("pspnet", 5)


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(students, "installed", lambda: SOME[:3])


@pytest.mark.slow
def test_the_table_is_sorted_by_any_column(few, capsys, tmp_path):
    out = tmp_path / "students.json"
    assert main(["students", "--size=64,64", f"--out={out}"]) == 0
    text = capsys.readouterr().out
    assert [text.index(word) for word in SOME[:3]] == sorted(text.index(w) for w in SOME[:3])
    rows = json.loads(out.read_text())
    assert [row["student"] for row in rows] == SOME[:3]
    assert rows[0]["parameters"] == 350_520
    for order in ("-parameters", "-gflops", "-width"):
        found = main(["students", "--size=64,64", f"--out={out}", f"--sort={order}"])
        values = [
            row[{"g": "GFLOPs"}.get(order[1], order[1:])] for row in json.loads(out.read_text())
        ]
        assert found == 0
        assert values == sorted(values, reverse=True)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--sort=gflop"], "did you mean gflops"),
        (["--size=0,64"], "at least 1"),
        (["--classes=0"], "at least 1"),
        (["--out=a.csv"], "must end in .json"),
    ],
)
def test_what_cannot_be_is_refused(flags, said, few, capsys):
    assert main(["students", *flags]) == 2
    assert said in capsys.readouterr().err
