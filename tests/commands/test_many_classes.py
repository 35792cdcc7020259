"""More classes than 8 bits can tell apart, from the files of a folder to predicted masks."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import fakd
from fakd import models
from fakd.cli import main
from fakd.data import folder
from fakd.inference import predict_classes
from fakd.settings import Inference
from fakd.types import IGNORE

CLASSES = 300
IDS = np.arange(32 * 48).reshape(32, 48) % CLASSES
IDS[:2] = 2**16 - 1
NETWORK = ["--network=pspnet", "--network.backbone=mobilenetv3_small_050", "--network.channels=16"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("many")
    dice = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in "ab":
            pixels = {
                "images": dice.integers(0, 256, (32, 48, 3), dtype=np.uint8),
                "masks": np.roll(IDS, ord(name)).astype(np.uint16),
            }
            for kind, array in pixels.items():
                path = root / split / kind / f"{split}_{name}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(path)
    names = ", ".join(f"class{number}" for number in range(CLASSES))
    (root / "dataset.yaml").write_text(f"classes: [{names}]\n")
    return root


def run(*arguments) -> None:
    assert main([str(each) for each in arguments]) == 0


@pytest.fixture(scope="module")
def trained(root, tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "teacher"
    steps = ["--schedule.steps=1", "--schedule.batch_size=2", "--augmentation.crop=[32,48]"]
    run("train", *NETWORK, f"--data={root}", f"--run={path}", *steps, "--hardware.threads=1")
    return path


def test_labels_are_the_ids_of_the_masks(root):
    data = folder(root)
    assert len(set(data.palette)) == data.classes == CLASSES
    expected = np.where(np.roll(IDS, ord("a")) < CLASSES, np.roll(IDS, ord("a")), IGNORE)
    assert (expected == 255).any()
    assert data.val[0].labels.dtype == torch.int16
    assert np.array_equal(data.val[0].labels.numpy(), expected)


def test_masks_of_8_and_16_bits_ignore_their_largest_id_unless_a_class_has_it(tmp_path, root):
    def labels(text, kind, *ids):
        for split in ("train", "val"):
            for part, pixels in (("images", np.zeros((1, len(ids), 3), np.uint8)),
                                 ("masks", np.array([ids], kind))):  # fmt: skip
                path = tmp_path / split / part / f"{split}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)
        (tmp_path / "dataset.yaml").write_text(text)
        return folder(tmp_path).val[0].labels[0].tolist()

    assert labels("classes: [a, b]\n", np.uint8, 0, 1, 255) == [0, 1, IGNORE]
    assert labels("classes: [a, b]\n", np.uint16, 0, 1, 255, 65535) == [0, 1, IGNORE, IGNORE]
    wide = f"classes: [{', '.join(f'c{i}' for i in range(32767))}]\n"
    assert labels(wide, np.uint16, 0, 255, 256, 32766, 65535) == [0, 255, 256, 32766, IGNORE]
    last = "classes: [{name: a, id: 0}, {name: b, id: 65535}]\n"
    assert labels(last, np.uint16, 0, 255, 65535) == [0, IGNORE, 1]


def test_a_step_is_trained_and_evaluated(root, trained, tmp_path):
    assert len(json.loads((trained / "result.json").read_text())["final"]["classes"]) == CLASSES
    out = tmp_path / "scores.json"
    run("evaluate", f"--network={trained}", f"--data={root}", f"--out={out}")
    scores = json.loads(out.read_text())["classes"]
    labelled = sum(each["pixels"] for each in scores.values())
    assert labelled == 2 * (32 - 2) * 48
    counts = np.bincount(IDS[2:].ravel(), minlength=CLASSES)
    assert scores["class255"]["pixels"] == 2 * counts[255]
    assert scores["class299"]["pixels"] == 2 * counts[299]


@pytest.mark.parametrize(
    "method",
    ["cwd-fa", *(pytest.param(name, marks=pytest.mark.slow) for name in ("ifvd-cirkd", "cirkd"))],
)
def test_methods_that_look_at_labels_run(root, trained, tmp_path, method):
    student = [each.replace("network", "student", 1) for each in NETWORK]
    small = ["--schedule.steps=1", "--schedule.batch_size=2", "--augmentation.crop=[32,48]"]
    teacher = [f"--teacher={trained}", "--check_teacher=false", f"--distillation={method}"]
    path = tmp_path / "run"
    run("distill", *teacher, *student, f"--data={root}", f"--run={path}", *small)
    assert (path / "result.json").is_file()


def test_predicted_masks_hold_every_id(root, trained, tmp_path):
    images, weights = root / "val" / "images", tmp_path / "network.safetensors"
    network, sample = fakd.load(trained).eval(), folder(root).val[0]
    network.classifier.bias.data[200:] += 0.5
    models.save(network, weights, class_names=network.class_names, palette=network.palette)
    run("predict", f"--network={weights}", f"--images={images}", f"--out={tmp_path / 'out'}")
    expected = predict_classes(network, sample.image[None], Inference())[0].numpy()
    with Image.open(tmp_path / "out" / "masks" / "val_a.png") as mask:
        assert mask.mode.startswith("I")
        assert np.array_equal(np.array(mask), expected)
    assert expected.max() > 255


def test_the_check_finds_nothing_to_fix(root, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run("data", "check", root)
    said = capsys.readouterr().out
    assert said.rstrip().endswith("nothing to fix"), said[-600:]
