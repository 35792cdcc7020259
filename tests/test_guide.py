"""Every command of "Bring your own network" runs, on tiny networks with random weights."""

import shlex
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from fakd.cli import main
from foreign_networks import onnx_file, transformers_folder
from test_docs import GUIDE, blocks

SHORT = ["--schedule.steps=2", "--schedule.batch_size=2", "--augmentation.crop=[45,61]"]
TINY = {"smp:Unet": "smp:Unet?encoder_name=tu-mobilenetv3_small_050"}
NET = """
from torch import nn

def net(classes=12, width=8):
    return nn.Sequential(nn.Conv2d(3, width, 3, 4, 1), nn.ReLU(), nn.Conv2d(width, classes, 1))
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with everything that the guide speaks of."""
    for library in ("transformers", "segmentation_models_pytorch", "onnxruntime"):
        pytest.importorskip(library)
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    (tmp_path / "net.py").write_text(NET)
    network = nn.Sequential(nn.Conv2d(3, 8, 3, 4, 1), nn.ReLU(), nn.Conv2d(8, 12, 1)).eval()
    torch.save(network.state_dict(), "weights.pth")
    images = torch.rand(2, 3, 45, 61)
    torch.jit.trace(network, images).save("scripted.pt")
    sides = (dict.fromkeys((0, 2, 3), torch.export.Dim.AUTO),)
    program = torch.export.export(network, (images,), dynamic_shapes=sides)
    torch.export.save(program, "program.pt2")
    layers = SimpleNamespace(trunk=network[0], last=network[2])
    onnx_file(tmp_path / "model.onnx", layers, last=False)
    for name in ("segformer", "mask2former"):
        transformers_folder(name, tmp_path / name)
    return tmp_path


def shortened(words):
    """Let a command of the guide take seconds: small data, few steps, a small encoder."""
    words = [TINY.get(word, word).replace("resnet18", "tu-mobilenetv3_small_050") for word in words]
    place = words.index("--data")
    words[place + 1] = "scenes"
    data = ["--data.train=4", "--data.val=2", "--data.size=[53,75]"]
    extra = [] if words[0] == "evaluate" else [*SHORT]
    extra += ["--check_teacher=false"] if words[0] == "distill" else []
    return [*words, *data, *extra]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_every_command_of_the_guide_runs(place):
    lines = [line for block in blocks(GUIDE, "sh") for line in block.splitlines()]
    for line in lines:
        words = shlex.split(line)[1:]
        assert main(shortened(words)) == 0, line
    assert len(lines) == 14
