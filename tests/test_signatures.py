import pytest

from fakd import cli
from fakd.settings import Inference


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], None),
        (["--inference.scale=0.5"], {"scale": 0.5}),
        # The default of a setting, and null, say as much as any other value.
        (["--inference.scale=1"], {"scale": 1.0}),
        (["--inference.window=null", "--inference.flip"], {"window": None, "flip": True}),
        (["--inference.base=64,32"], {"base": (64, 32)}),
    ],
)
@pytest.mark.parametrize("command", ["evaluate", "predict", "serve", "export"])
def test_settings_that_are_not_given_are_left_open(command, flags, expected):
    required = {
        "evaluate": ["--network=x", "--data=scenes"],
        "predict": ["--network=x", "--images=y", "--out=z"],
        "serve": ["x"],
        "export": ["x"],
    }[command]
    name, given = cli.command_of([command, *required, *flags])
    assert cli.parse(name, given)["inference"] == expected


def test_help_promises_no_default_where_training_decides(capsys):
    for command, default in {"evaluate": False, "train": True}.items():
        assert cli.main([command, "--help", "inference"]) == 0
        assert ("default 1.0" in capsys.readouterr().out) == default


def test_a_recipe_gives_settings_like_flags(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("network: x\ndata: scenes\ninference:\n  scale: 0.5\n  window: 9\n")
    found = cli.parse("evaluate", [str(recipe), "--inference.window=5"])
    assert found["inference"] == {"scale": 0.5, "window": 5}
    recipe.write_text("network: x\ndata: scenes\ninference: null\n")
    assert cli.parse("evaluate", [str(recipe)])["inference"] is None


@pytest.mark.parametrize("command", ["evaluate", "predict", "export", "disagree"])
def test_a_recipe_before_all_flags_is_no_network(command):
    assert cli.command_of([command, "r.yaml", "--out=x"]) == (command, ["r.yaml", "--out=x"])
    given = cli.command_of([command, "net.safetensors", "--out=x"])[1]
    assert given[0].endswith("=net.safetensors")


def test_settings_of_training_have_their_defaults():
    given = ["--network=pspnet", "--data=scenes", "--run=r", "--inference.flip=true"]
    assert cli.parse("train", given)["inference"] == Inference(flip=True)


def test_a_printed_recipe_leaves_open_what_was_not_given(capsys):
    given = ["--network=x", "--data=scenes", "--inference.flip=true", "--print_config"]
    with pytest.raises(SystemExit):
        cli.parse("evaluate", given)
    assert "inference:\n  flip: true\n" in capsys.readouterr().out.replace("\n\n", "\n")
