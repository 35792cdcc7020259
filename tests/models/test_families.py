"""Networks of every family: fed as their own library feeds them, and through a whole run."""

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import fakd
from fakd.data import scenes
from fakd.losses import ChannelKL, PixelKL
from fakd.models import open_network
from fakd.settings import Augmentation, Hardware, Schedule
from fakd.training.objective import Distillation
from foreign_networks import (
    CLASSES,
    MASK_CLASSIFIERS,
    SMP,
    TORCHVISION,
    TRANSFORMERS,
    transformers_folder,
)

SIZES = [(53, 75), (64, 97), (101, 70)]
QUICK = ("segformer", "mask2former", "eomt")
"""One of each kind: any size, multiples, one size, blue first, auxiliary heads, masks."""


def quick_first(names, quick):
    return [n if n in quick else pytest.param(n, marks=pytest.mark.slow) for n in names]


FAMILIES = quick_first(TRANSFORMERS, QUICK)
TINY = "encoder_name=tu-mobilenetv3_small_050"
WORDS = [
    *(f"smp:{name}?{TINY}" for name in SMP),
    *(f"torchvision:{name}" for name in TORCHVISION),
    "timm:mobilenetv3_small_050",
]
WORDS = quick_first(WORDS, (f"smp:Unet?{TINY}", WORDS[-2], WORDS[-1]))


@pytest.fixture
def folder(tmp_path):
    pytest.importorskip("transformers")
    return tmp_path / "network"


def as_its_library_shows(folder, images):
    """Prepare 8-bit images with a network's own processor, but at their own size."""
    from transformers import AutoImageProcessor

    processor = AutoImageProcessor.from_pretrained(folder)
    options = [
        each for each in ("do_resize", "do_center_crop", "do_pad") if hasattr(processor, each)
    ]
    options = dict.fromkeys(options, False)
    return processor(list(images), return_tensors="pt", **options)["pixel_values"]


@pytest.mark.parametrize("name", FAMILIES)
def test_logits_are_those_of_the_original_after_its_own_processor(name, folder):
    original = transformers_folder(name, folder)
    adapted = open_network(f"hf:{folder}").eval()
    given = {"task_inputs": adapted.input_task_inputs} if name == "oneformer" else {}
    assert adapted.classes == CLASSES
    for size in SIZES:
        images = torch.randint(0, 256, (1, 3, *size), dtype=torch.uint8)
        shown = as_its_library_shows(folder, images)
        torch.testing.assert_close(adapted.feed(images / 255), shown, rtol=0, atol=1e-5)
        fitted = adapted.answer.sizes.fit(shown, adapted.answer.stride)
        with torch.no_grad():
            answer, prediction = original(fitted.images, **given), adapted(images / 255)
        if name in MASK_CLASSIFIERS:
            chances = answer.class_queries_logits.softmax(-1)[..., :-1]
            masks = answer.masks_queries_logits.sigmoid()
            scores = torch.einsum("bqc,bqhw->bchw", chances, masks)
            torch.testing.assert_close(prediction.logits.exp(), scores, rtol=0, atol=1e-5)
            assert adapted.classifier is None
            continue
        expected, said = answer.logits, prediction.logits
        if fitted.padded_from is None:
            how = {"mode": "bilinear", "align_corners": adapted.align_corners}
            said = F.interpolate(said, expected.shape[-2:], **how)
        else:
            expected = expected[..., : said.shape[-2], : said.shape[-1]]
        torch.testing.assert_close(said, expected, rtol=0, atol=1e-5)
        tap = adapted.classifier
        again = F.conv2d(prediction.features, tap.weight, tap.bias)
        torch.testing.assert_close(again, prediction.logits, rtol=0, atol=1e-5)


def check_run(teacher, student, tmp_path, logits_only=False):
    """Distil for two steps with FA, then load, evaluate and predict; one step with KL."""
    data = scenes(train=4, val=2, size=(53, 75))
    covariance = "logits" if logits_only else "diagonal"
    result = fakd.distill(
        teacher,
        student,
        data,
        tmp_path / "run",
        ChannelKL(strength=1.0, covariance=covariance),
        schedule=Schedule(steps=2, batch_size=2),
        augmentation=Augmentation(crop=(45, 61)),
        hardware=Hardware(accelerator="cpu"),
        check_teacher=False,
    )
    scores = {
        name: fakd.evaluate(tmp_path / "run" / f"{name}.safetensors", data, accelerator="cpu")
        for name in ("best", "final")
    }
    assert scores["best"]["miou"] == pytest.approx(result["best"]["miou"], abs=1e-3)
    assert scores["final"]["miou"] == pytest.approx(result["final"]["miou"], abs=1e-3)
    network = fakd.load(tmp_path / "run")
    image = tmp_path / "image.png"
    Image.fromarray(torch.randint(0, 256, (70, 101, 3), dtype=torch.uint8).numpy()).save(image)
    assert fakd.predict(network, image, tmp_path / "out", accelerator="cpu") == 1
    asked = open_network(teacher, CLASSES).eval()
    objective = Distillation(asked, network.train(), PixelKL())
    images = torch.rand(2, 3, 45, 61)
    with torch.no_grad():
        answer = asked(images)
    labels, labelled = torch.zeros(2, 45, 61).long(), torch.tensor([True, True])
    terms = objective(network(images), labels, labelled, 0.0, answer).terms
    terms["distillation"].backward()
    assert all(torch.isfinite(value) for value in terms.values())
    return fakd.load(tmp_path / "run")


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_teaches_and_learns(name, folder, tmp_path):
    transformers_folder(name, folder)
    word = f"hf:{folder}"
    masks = name in MASK_CLASSIFIERS
    network = check_run(word, word, tmp_path, logits_only=masks)

    import transformers

    left = tmp_path / "run" / "best"
    kind = getattr(transformers, type(network.network).__name__)
    again = kind.from_pretrained(left).eval()
    assert list(again.config.id2label.values()) == list(scenes(train=1, val=1).class_names)
    images = torch.rand(1, 3, *(network.answer.sizes.fixed or (64, 96)))
    given = {"task_inputs": network.input_task_inputs} if name == "oneformer" else {}
    with torch.no_grad():
        first = (network.network(images, **given), again(images, **given))
    for mine, theirs in zip(first[0].values(), first[1].values(), strict=True):
        if isinstance(mine, torch.Tensor):
            # Of logits, some of which are in the thousands.
            largest = max(1.0, float(theirs.abs().max()))
            torch.testing.assert_close(mine / largest, theirs / largest, rtol=0, atol=1e-5)


@pytest.mark.parametrize("word", WORDS)
def test_a_network_built_by_its_word_teaches_and_learns(word, tmp_path):
    scheme = word.partition(":")[0]
    pytest.importorskip({"smp": "segmentation_models_pytorch"}.get(scheme, scheme))
    network = check_run(word, word, tmp_path, logits_only="lraspp" in word)
    if scheme != "smp":
        return
    import segmentation_models_pytorch as smp

    again = smp.from_pretrained(tmp_path / "run" / "best").eval()
    images = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(network.network(images), again(images), rtol=0, atol=1e-5)
