"""The Triton kernel against the plain path, in Triton's interpreter where there is no GPU."""

import os
import subprocess
import sys

import pytest
import torch

from fakd.cli import main

SCRIPT = """
import sys
import torch
from fakd.training.task import cross_entropy
from fakd.training.upsampled import summed_cross_entropy
from fakd.types import IGNORE

device = torch.device(sys.argv[1])
SIZES = {
    "small": [((2, 3), (6, 7)), ((1, 2), (3, 5))],
    "all": [((4, 4), (16, 16)), ((3, 5), (17, 31)), ((1, 1), (9, 7)), ((6, 2), (7, 20))],
}
GIVEN = [
    (0.0, False, False, torch.float64), (0.2, True, False, torch.float64),
    (0.2, False, True, torch.float64), (0.0, True, True, torch.float32),
]

def found(triton):
    logits.grad = None
    summed = summed_cross_entropy(logits, labels, weights, smoothing, counted, aligned, triton)
    options = {"class_weights": weights, "label_smoothing": smoothing, "hardest": 0.3}
    hard = cross_entropy(logits, labels, **options, align_corners=aligned, triton=triton)
    (0.7 * summed + hard).backward()
    return summed.detach(), hard.detach(), logits.grad.clone()

for size, shown in SIZES[sys.argv[2]]:
    for smoothing, weighed, aligned, kind in GIVEN:
        generator = torch.Generator().manual_seed(sum(size) + sum(shown))
        logits = 4 * torch.randn(2, 5, *size, generator=generator, dtype=kind)
        labels = torch.randint(IGNORE, 5, (2, *shown), generator=generator).to(device)
        counted = torch.rand(2, *shown, generator=generator).to(device) < 0.8
        weights = None
        if weighed:
            weights = torch.tensor([0.5, 2.0, 0.0, 1.0, 3.0], dtype=kind, device=device)
        logits = logits.to(device).requires_grad_()
        limits = {} if kind == torch.float32 else {"rtol": 1e-12, "atol": 1e-12}
        kernels = found(True)
        torch.testing.assert_close(kernels, found(False), **limits)
        # Nothing is added in an order of chance.
        assert all(torch.equal(*pair) for pair in zip(kernels, found(True)))
print("equal")
"""


def told(script, *arguments, **environment):
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        capture_output=True,
        text=True,
        env=os.environ | environment,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("sizes", ["small", "all"])
def test_the_kernel_gives_what_the_plain_path_gives(sizes):
    pytest.importorskip("triton")
    assert told(SCRIPT, "cpu", sizes, TRITON_INTERPRET="1") == "equal\n"


@pytest.mark.gpu
def test_on_a_gpu_too():
    pytest.importorskip("triton")
    assert told(SCRIPT, "cuda", "all") == "equal\n"


COMPILED = """
import sys
import torch, triton, triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from fakd.training.triton_cross_entropy import _cells

names = _cells.arg_names
integers = ("corner", "classes", "rows", "cols", "height", "width")
kinds = {name: "*fp32" for name in names} | dict.fromkeys(integers, "i32")
kinds |= {name: "*i32" for name in ("top", "high", "left", "wide")}
kinds |= {"labels": "*i64"}
for smoothed in (False, True):
    known = {"smoothed": smoothed, "padded": 256, "pixels": 32, "exact": tl.float32}
    constants = {(names.index(name),): value for name, value in known.items()}
    source = ASTSource(_cells, kinds | dict.fromkeys(known, "constexpr"), constants)
    target = GPUTarget("cuda", int(sys.argv[1]), 32)
    made = triton.compile(source, target=target, options={"num_warps": 8})
    print(len(made.asm["cubin"]) > 0)
"""


@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 90])
def test_the_kernel_compiles_for_gpus(capability, tmp_path):
    pytest.importorskip("triton")
    lines = told(COMPILED, str(capability), TRITON_CACHE_DIR=str(tmp_path)).splitlines()
    assert lines == ["True"] * 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="there it works")
def test_without_a_gpu_it_is_refused_before_the_run_begins(tmp_path, capsys):
    run = tmp_path / "run"
    network = ["--network=pspnet", "--network.backbone=mobilenetv3_small_050"]
    flags = ["--hardware.triton", f"--run={run}", "--schedule.steps=1"]
    assert main(["train", *network, "--data=scenes", "--data.train=2", "--data.val=1", *flags]) == 2
    assert "needs Triton and a CUDA device, not cpu; leave it out" in capsys.readouterr().err
    assert not run.exists()
