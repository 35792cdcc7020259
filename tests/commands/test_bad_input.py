"""Every mistake gets one line that names it, exit code 2, and nothing is written."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from fakd import models
from fakd.cli import main, parse
from fakd.runs.folder import read_checkpoint_state

NETWORK = ["--network=pspnet", "--network.backbone=mobilenetv3_small_050", "--network.channels=8"]
DATA = ["--data=scenes", "--data.train=4", "--data.val=2", "--data.size=[32,48]"]


def refused(capsys, arguments):
    assert main([str(argument) for argument in arguments]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("fakd: error: ")
    assert "\n" not in error
    assert "Traceback" not in error
    return error


@pytest.fixture
def weight_file(tmp_path, tiny_network):
    path = tmp_path / "network.safetensors"
    models.save(tiny_network, path, class_names=None, palette=None)
    return path


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["trian"], "did you mean train"),
        (["train", *DATA, "--run=x"], "network"),
        (["train", *NETWORK, *DATA, "--run=x", "--schedule.stps=3"], "did you mean schedule.steps"),
        (["train", *NETWORK, *DATA, "--run=x", "--network.bakbone=a"], "network.backbone"),
        (["train", *NETWORK, *DATA, "--run=x", "--schedule.steps=many"], "schedule.steps"),
        (["train", *NETWORK, *DATA, "--run=x", "--schedule.steps=0"], "schedule.steps"),
        (["train", *NETWORK, *DATA, "--run=x", "--network.backbone=nonet"], "nonet"),
        (["train", *NETWORK, "--data=nowhere/at/all", "--run=x"], "nowhere/at/all"),
        (["train", *NETWORK, *DATA, "--run=x", "--hardware.accelerator=abacus"], "abacus"),
        (["train", *NETWORK, *DATA, "--run=x", "--recipe=missing.yaml"], "missing.yaml"),
        (["evaluate", "--network=nowhere", *DATA], "nowhere"),
        (["predict", "--network=nowhere", "--images=a", "--out=b"], "nowhere"),
        (["distill", "--teacher=gone", "--student=pspnet", *DATA, "--run=x",
          "--student.backbone=mobilenetv3_small_050"], "gone"),
        (["distill", "--teacher=.", "--student=pspnet", *DATA, "--run=x",
          "--distillation=ChannelKL", "--distillation.strenght=1"], "distillation.strength"),
        (["distill", "--teacher=gone", "--student=pspnet", *DATA, "--run=x",
          "--distillation.strength=1"], "give it before its options, such as --distillation Chan"),
        (["distill", "--teacher=.", "--student=pspnet", *DATA, "--run=x",
          "--distillation=ChannelKL", "--distillation.strength=much"], "much"),
        (["compare", "--teacher=gone", "--student=pspnet", *DATA, "--run=x",
          "--student.backbone=mobilenetv3_small_050"], "gone does not exist"),
        (["compare", "--teacher=.", "--student=pspnet", *DATA, "--run=x",
          "--student.backbone=mobilenetv3_small_050",
          "--methods={own: {distillation: cwd, schedule: {shape: cosin}}}"], "schedule.shape"),
        (["compare", "--teacher=.", "--student=pspnet", *DATA, "--run=x",
          "--student.backbone=mobilenetv3_small_050",
          "--methods={own: {distillation: cwd, schedule: {epochs: 2}}}"], "not epochs"),
        (["train", *NETWORK, *DATA, "--run=x", "--schedule.steps=4", "--freeze=backbone",
          "--freeze.until=4"], "freeze.until before the last of 4 steps"),
    ],
)  # fmt: skip
def test_command_line_mistakes(capsys, tmp_path, monkeypatch, arguments, expected):
    monkeypatch.chdir(tmp_path)
    assert expected in refused(capsys, arguments)
    assert not list(tmp_path.iterdir())


def test_a_mistyped_key_in_a_recipe_is_named(capsys, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("schedule:\n  lerning_rate: 0.1\n")
    error = refused(capsys, ["train", "--recipe", recipe, *NETWORK, *DATA, "--run", tmp_path / "r"])
    assert "lerning_rate" in error
    assert "learning_rate" in error


def test_a_recipe_for_another_command_is_recognised(capsys, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("teacher: {class_path: fakd.models.load, init_args: {path: a}}\n")
    error = refused(capsys, ["train", "--recipe", recipe, *NETWORK, *DATA, "--run", tmp_path / "r"])
    assert "there is no teacher in fakd train; that is for fakd distill" in error


@pytest.mark.parametrize(
    ("loss", "weight", "instead"),
    [
        ("{class_path: ChannelKL}", "weight: 7.5", "write distillation.init_args.weight: 7.5"),
        ("cwd", "weight: null", "but an argument of the loss; leave it out"),
        (
            "{class_path: fakd.losses.WeightedSum, init_args: {weights: {a: 2.0}, losses: {}}}",
            "",
            "write losses.a.init_args.weight: 2.0",
        ),
    ],
)
def test_weights_where_version_0_1_wrote_them_are_refused(capsys, tmp_path, loss, weight, instead):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"distillation: {loss}\n{weight}\n")
    assert refused(capsys, ["distill", "--recipe", recipe]).strip().endswith(instead)
    flags = ["distill", "--distillation=ChannelKL", "--weight=3"]
    assert "give distillation.weight, an argument of the loss instead" in refused(capsys, flags)


def test_teacher_and_student_must_have_the_same_classes(capsys, tmp_path):
    path = tmp_path / "seven.safetensors"
    network = models.pspnet("mobilenetv3_small_050", 7, channels=8)
    models.save(network, path, class_names=None, palette=None)
    arguments = ["distill", "--teacher", path, "--student=pspnet", *DATA, "--run", tmp_path / "r",
                 "--student.backbone=mobilenetv3_small_050", "--student.channels=8"]  # fmt: skip
    assert "teacher has 7 classes, the student 12" in refused(capsys, arguments)
    assert not (tmp_path / "r").exists()
    assert "has 7 classes" in refused(capsys, ["evaluate", "--network", path, *DATA])


def test_a_loaded_network_must_fit_the_data(capsys, tmp_path):
    path = tmp_path / "seven.safetensors"
    network = models.pspnet("mobilenetv3_small_050", 7, channels=8)
    models.save(network, path, class_names=None, palette=None)
    arguments = ["train", "--network", path, *DATA, "--run", tmp_path / "r"]
    assert "network has 7 classes, scenes has 12" in refused(capsys, arguments)
    assert not (tmp_path / "r").exists()


def test_a_blind_teacher_is_refused_before_training(capsys, tmp_path, tiny_network):
    tiny_network.classifier.weight.data.zero_()
    tiny_network.classifier.bias.data[3] = 1.0
    weight_file = tmp_path / "blind.safetensors"
    models.save(tiny_network, weight_file, class_names=None, palette=None)
    arguments = ["distill", "--teacher", weight_file, "--student=pspnet", *DATA,
                 "--student.backbone=mobilenetv3_small_050", "--student.channels=8",
                 "--schedule.batch_size=2", "--schedule.steps=2", "--run", tmp_path / "r",
                 "--augmentation.crop=[32,48]"]  # fmt: skip
    assert "no better than predicting one class" in refused(capsys, arguments)


def test_a_damaged_or_pickled_checkpoint_is_not_read(capsys, tmp_path, weight_file):
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(weight_file.read_bytes()[:1000])
    assert "damaged" in refused(capsys, ["evaluate", "--network", damaged, *DATA])

    class Bomb:
        def __reduce__(self):
            return (exec, (f"open({str(tmp_path / 'exploded')!r}, 'w')",))

    pickled = tmp_path / "pickled.pth"
    torch.save({"state_dict": {}, "meta": Bomb()}, pickled)
    refused(capsys, ["evaluate", "--network", pickled, *DATA])
    assert not (tmp_path / "exploded").exists()


def test_a_checkpoint_of_another_network_is_refused_on_resume(capsys, tmp_path):
    common = [*DATA, "--schedule.steps=2", "--schedule.batch_size=2", "--run", tmp_path / "r",
              "--augmentation.crop=[32,48]"]  # fmt: skip
    assert main([str(a) for a in ["train", *NETWORK, *common]]) == 0
    (tmp_path / "r" / "result.json").unlink()
    save_file({"network.a": torch.zeros(1)}, tmp_path / "r" / "last.safetensors",
              {"state": json.dumps({"step": 1}), "format": "1"})  # fmt: skip
    assert "belongs to another network" in refused(capsys, ["train", *NETWORK, *common])


def test_no_space_while_saving_keeps_the_last_checkpoint(capsys, tmp_path, monkeypatch):
    import fakd.training.checkpoint as checkpoint

    common = [*DATA, "--schedule.steps=4", "--schedule.batch_size=2", "--run", tmp_path / "r",
              "--augmentation.crop=[32,48]", "--intervals.save=1"]  # fmt: skip
    real, calls = checkpoint.save_file, []

    def fill(tensors, file, metadata):
        calls.append(file)
        if len(calls) == 3:
            file.write_bytes(b"half")
            raise OSError(28, "No space left on device")
        real(tensors, file, metadata=metadata)

    monkeypatch.setattr(checkpoint, "save_file", fill)
    error = refused(capsys, ["train", *NETWORK, *common])
    assert "No space left on device; the previous one is intact" in error
    assert read_checkpoint_state(tmp_path / "r" / "last.safetensors")["step"] == 2
    assert main([str(a) for a in ["train", *NETWORK, *common]]) == 0


def test_a_function_of_the_users_that_fails_is_named(capsys, tmp_path, monkeypatch):
    (tmp_path / "failing_nets.py").write_text("def boom(classes):\n    raise KeyError('ouch')\n")
    monkeypatch.syspath_prepend(tmp_path)
    flags = ["train", "--network=failing_nets.boom", *DATA, f"--run={tmp_path / 'x'}"]
    assert "failing_nets.boom cannot be built with classes=12: KeyError: 'ouch'" in refused(
        capsys, flags
    )
    assert not (tmp_path / "x").exists()


def test_a_printed_recipe_without_a_loss_is_read_again(capsys, tmp_path, weight_file):
    flags = ["distill", f"--teacher={weight_file}", "--student=pspnet", *DATA, "--run=x"]
    flags += ["--student.backbone=mobilenetv3_small_050", "--print_config"]
    with pytest.raises(SystemExit):
        main(flags)
    recipe = tmp_path / "printed.yaml"
    recipe.write_text(capsys.readouterr().out)
    assert "distillation: null" in recipe.read_text()
    assert parse("distill", ["--recipe", str(recipe)])["distillation"] is None


def test_what_a_flag_says_in_a_word_a_recipe_may_too(tmp_path):
    recipe = tmp_path / "short.yaml"
    recipe.write_text("optimizer: AdamW\nfreeze: backbone\n")
    read = parse("train", ["--recipe", str(recipe), *NETWORK, *DATA, "--run=x"])
    assert read["optimizer"].kind == "AdamW"
    assert read["freeze"].names == ("backbone",)


@pytest.mark.parametrize(
    ("flag", "expected"),
    [
        ("--schedule.learning_rate=nan", "expected a number, got nan"),
        ("--schedule.learning_rate=.inf", "schedule.learning_rate above 0, got inf"),
        ("--task.class_weights=foo", "task.class_weights: expected 'auto' or a list, got foo"),
        ("--schedule.steps=1.5", "schedule.steps: expected a whole number, got 1.5"),
        ("--optimizer.arguments={a: 1, a: 2}", "a occurs twice"),
        ("--network.backbone=null", "needs backbone"),
        ("--optimizer.arguments={0: 1}", "optimizer.arguments: expected names, got 0"),
        ('--network={"class_path": "fakd.models.pspnet", "init_args": [1]}', "must map names"),
    ],
)
def test_a_value_that_cannot_be_is_named_with_what_may_stand_there(capsys, flag, expected):
    assert expected in refused(capsys, ["train", *NETWORK, *DATA, "--run=x", flag])


def test_what_a_builder_of_torchvision_would_drop_is_refused(capsys):
    network = "--network=torchvision.models.segmentation.lraspp_mobilenet_v3_large"
    flags = [network, "--network.num_clases=3", *DATA, "--run=x"]
    assert "did you mean network.num_classes" in refused(capsys, ["train", *flags])


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ({}, "is not a readable checkpoint ('state'); give --existing overwrite"),
        ({"state": "{}"}, "in format 0 instead of 1; resume with that version, or give --existing"),
        ({"state": "{", "format": "1"}, "is not a readable checkpoint"),
        ({"state": '{"step": 1, "decay": 1}', "format": "1"}, "contains decay, unknown to fakd"),
    ],
)
def test_a_checkpoint_that_cannot_be_continued_is_named_with_a_way_out(
    capsys, tmp_path, metadata, reason
):
    common = [*DATA, "--schedule.steps=1", "--schedule.batch_size=2", "--run", tmp_path / "r",
              "--augmentation.crop=[32,48]"]  # fmt: skip
    assert main([str(a) for a in ["train", *NETWORK, *common]]) == 0
    (tmp_path / "r" / "result.json").unlink()
    save_file({"network.a": torch.zeros(1)}, tmp_path / "r" / "last.safetensors", metadata)
    error = refused(capsys, ["train", *NETWORK, *common])
    assert "last.safetensors" in error
    assert reason in error


@pytest.mark.parametrize(
    "change",
    [
        lambda info: {**info, "palette": [[1, 2]] * 12},
        lambda info: {key: value for key, value in info.items() if key != "class_names"},
        lambda info: {**info, "mean": "x"},
        lambda info: {**info, "std": [1.0]},
        lambda info: {**info, "class_names": [1] * 12},
        lambda info: {**info, "extra": 3},
        lambda info: [1],
        lambda info: None,
    ],
)
def test_damaged_metadata_are_named_with_their_file(capsys, weight_file, change):
    with safe_open(weight_file, "pt") as file:
        information = json.loads(file.metadata()["fakd"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    save_file(tensors, weight_file, {"fakd": json.dumps(change(information))})
    error = refused(capsys, ["evaluate", "--network", weight_file, *DATA])
    assert f"the metadata of {weight_file} are damaged" in error
