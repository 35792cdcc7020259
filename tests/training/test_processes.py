"""Two processes see together what one sees alone."""

import torch
import torch.multiprocessing as multiprocessing

from fakd.data import scenes
from fakd.models import pspnet
from fakd.settings import Hardware, Inference, Settings
from fakd.training.start import start
from fakd.training.validation import validate


def network():
    torch.manual_seed(0)
    return pspnet("mobilenetv3_small_050", 12, channels=16).eval()


def share(rank, port, path):
    import os

    os.environ |= {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": "2",
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "NODE_RANK": "0",
        "TORCHELASTIC_RUN_ID": "test",
        "GROUP_RANK": "0",
        "LOCAL_WORLD_SIZE": "2",
    }
    torch.set_num_threads(1)
    fabric = start(Hardware(accelerator="cpu", devices=2), seed=0)
    data = scenes(train=2, val=5, size=(32, 48))
    settings = Settings(inference=Inference())
    scores = validate(fabric, network(), data.val, settings)
    if fabric.is_global_zero:
        torch.save({"pixels": scores.pixels, "iou": scores.iou}, path)
    torch.distributed.destroy_process_group()


def test_validation_over_two_processes_equals_one(tmp_path):
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    multiprocessing.spawn(share, args=(port, tmp_path / "two"), nprocs=2)
    two = torch.load(tmp_path / "two", weights_only=True)
    data = scenes(train=2, val=5, size=(32, 48))
    one = validate(start(Hardware(accelerator="cpu"), 0), network(), data.val, Settings())
    assert torch.equal(two["pixels"], one.pixels)
    torch.testing.assert_close(two["iou"], one.iou, equal_nan=True)
