import pytest
import torch

import fakd
from fakd.cli import main
from fakd.models import pspnet, save


@pytest.mark.slow
def test_models_are_listed_in_numbers(capsys):
    assert main(["models", "--classes=19"]) == 0
    text = capsys.readouterr().out
    assert "12,790,086" in text  # PSPNet-R18 at 19 classes, models specification
    assert main(["models", "--published=true"]) == 0
    text = capsys.readouterr().out
    assert "pspnet_r101-d8_512x512_160k_ade20k_20200615_100650-967c316f.pth" in text
    assert "54.74" in text


def test_convert_there_and_back(tmp_path, capsys):
    torch.manual_seed(0)
    network = pspnet("resnet18", 5)
    names, palette = tuple("abcde"), tuple((i, i, i) for i in range(5))
    source = tmp_path / "ours.safetensors"
    save(network, source, class_names=names, palette=palette)
    assert main(["convert", f"--source={source}", f"--target={tmp_path / 'mm.pth'}"]) == 0
    arguments = [
        "convert",
        f"--source={tmp_path / 'mm.pth'}",
        f"--target={tmp_path / 'b.safetensors'}",
    ]
    assert main(arguments) == 0
    back = fakd.load(tmp_path / "b.safetensors")
    assert back.class_names == names
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(back(images).logits, network.eval()(images).logits)
    assert main(arguments) == 2
    assert "exists" in capsys.readouterr().err
    assert main(["convert", f"--source={source}", f"--target={tmp_path / 'x.onnx'}"]) == 2
    assert ".safetensors or .pth" in capsys.readouterr().err
