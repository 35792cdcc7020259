"""What a class path may name."""

import pytest

from fakd.cli import main
from fakd.errors import InputError
from fakd.imports import find


@pytest.mark.parametrize(
    "path",
    ["os.system", "builtins.eval", "subprocess.Popen", "torch.os.system", "shutil.rmtree",
     "pathlib.Path", "posix.remove", "fakd.files.os.remove"],
)  # fmt: skip
def test_nothing_of_pythons_own_is_found(path):
    with pytest.raises(InputError, match="comes with Python itself"):
        find(path)


@pytest.mark.parametrize(
    "path", ["torch.nn.Conv2d", "torchvision.transforms.v2.RandomGrayscale", "fakd.data.scenes"]
)
def test_libraries_are_found(path):
    assert find(path).__name__ == path.rpartition(".")[2]


def test_ones_own_module_is_found_whatever_it_holds(tmp_path, monkeypatch):
    (tmp_path / "mine_only.py").write_text(
        "from functools import partial\n\ndef net(classes):\n    return classes\n\n"
        "small = partial(net, 3)\n"
    )
    monkeypatch.chdir(tmp_path)
    assert find("mine_only.net")(2) == 2
    assert find("mine_only.small")() == 3


@pytest.mark.parametrize("where", ["network", "data", "augmentation.extra"])
def test_a_recipe_of_a_stranger_runs_no_command(where, tmp_path, capsys):
    spec = f"{{class_path: os.system, init_args: {{command: 'touch {tmp_path / 'run'}'}}}}"
    parts = {
        "network": "{class_path: fakd.models.pspnet, init_args: {backbone: resnet18}}",
        "data": "{class_path: fakd.data.scenes}",
        "augmentation.extra": "null",
    }
    parts[where] = spec
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        f"network: {parts['network']}\ndata: {parts['data']}\nrun: {tmp_path / 'r'}\n"
        f"augmentation: {{extra: {parts['augmentation.extra']}}}\n"
    )
    assert main(["train", f"--recipe={recipe}"]) == 2
    assert "os.system comes with Python itself" in capsys.readouterr().err
    assert [*tmp_path.iterdir()] == [recipe]
