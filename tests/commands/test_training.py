"""The training commands through the real command line, on made-up data."""

import csv
import json
import shutil
import time

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

import fakd
from fakd.cli import main
from fakd.runs.folder import read_checkpoint_state, read_curves
from fakd.training.loop import Training
from forked import start, until

SMALL = ["--data.train=8", "--data.val=4", "--data.size=[32,48]", "--augmentation.crop=[32,48]"]
DATA = ["--data=scenes", *SMALL]
BLUR = {"class_path": "torchvision.transforms.v2.GaussianBlur", "init_args": {"kernel_size": 5}}
NETWORK = ["pspnet", "--{0}.backbone=mobilenetv3_small_050", "--{0}.channels=16"]


def network(flag, channels=16):
    return [
        f"--{flag}=pspnet",
        f"--{flag}.backbone=mobilenetv3_small_050",
        f"--{flag}.channels={channels}",
    ]


def train(run, *more, steps=4):
    return main(
        ["train", *network("network"), *DATA, f"--run={run}", f"--schedule.steps={steps}",
         "--schedule.batch_size=2", "--intervals.log=2", "--intervals.save=2", *more]
    )  # fmt: skip


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "teacher"
    assert train(run, steps=6) == 0
    return run


def distill(teacher, run, *more, steps=4):
    return main(
        ["distill", f"--teacher={teacher}", *network("student", 8), *DATA, f"--run={run}",
         f"--schedule.steps={steps}", "--schedule.batch_size=2", "--check_teacher=false",
         "--intervals.log=1", *more]
    )  # fmt: skip


def weights(run, name="final"):
    return load_file(run / f"{name}.safetensors")


def test_a_run_holds_what_repeats_and_explains_it(teacher):
    result = json.loads((teacher / "result.json").read_text())
    assert result["steps"] == 6
    assert set(result["final"]["classes"]) == set(fakd.data.scenes(1, 1, (32, 48)).class_names)
    recipe = yaml.safe_load((teacher / "recipe.yaml").read_text())
    assert recipe["schedule"]["steps"] == 6
    assert recipe["network"]["init_args"]["backbone"] == "mobilenetv3_small_050"
    assert (teacher / "environment.json").is_file()
    assert list(teacher.glob("events.out.tfevents*"))
    loaded = fakd.load(teacher)
    assert not loaded.training


def test_evaluating_otherwise_than_in_training_is_pointed_out(teacher, capsys):
    arguments = ["evaluate", f"--network={teacher}", *DATA[:1], *SMALL[:3]]
    assert main(arguments) == 0
    assert "note:" not in capsys.readouterr().out
    assert main([*arguments, "--inference.scale=0.5"]) == 0
    assert "evaluated with --inference.scale 1.0" in capsys.readouterr().out


def test_what_a_run_is_scored_with_is_the_default_of_its_evaluation(teacher, tmp_path):
    network = fakd.load(teacher)
    network.extra["inference"] |= {"scale": 0.5}
    weights, out = tmp_path / "half.safetensors", tmp_path / "scores.json"
    names, palette = network.class_names, network.palette
    fakd.models.save(network, weights, class_names=names, palette=palette, extra=network.extra)
    found = {}
    for scale in (None, 0.5, 1.0):
        flags = [] if scale is None else [f"--inference.scale={scale}"]
        arguments = ["evaluate", str(weights), *DATA[:1], *SMALL[:3], f"--out={out}"]
        assert main([*arguments, *flags]) == 0
        found[scale] = json.loads(out.read_text())
    assert found[None] == found[0.5]
    assert found[1.0]["inference"] != found[0.5]["inference"]
    assert found[1.0]["classes"] != found[0.5]["classes"]


def test_the_recipe_of_a_run_gives_the_same_weights(teacher, tmp_path):
    assert (
        main(["train", f"--recipe={teacher / 'recipe.yaml'}", f"--run={tmp_path / 'again'}"]) == 0
    )
    first, second = weights(teacher), weights(tmp_path / "again")
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_distilling_writes_a_student_and_its_curves(teacher, tmp_path):
    assert distill(teacher, tmp_path / "student", "--distillation=cwd-fa") == 0
    with (tmp_path / "student" / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {"task", "auxiliary", "distillation", "lambda", "augmentation"} <= rows[0].keys()
    assert float(rows[0]["lambda"]) < float(rows[2]["lambda"]) < 1
    assert not [name for name in weights(tmp_path / "student") if "teacher" in name]


def test_a_teacher_with_other_class_names_is_pointed_out(teacher, tmp_path, capsys):
    network_ = fakd.load(teacher)
    data = fakd.data.scenes(train=8, val=4, size=(32, 48))
    path = tmp_path / "renamed.safetensors"
    names = ("street", *data.class_names[1:])
    fakd.models.save(network_, path, class_names=names, palette=data.palette)
    assert distill(path, tmp_path / "student", steps=2) == 0
    printed = capsys.readouterr().out
    assert "1 class names of the teacher differ" in printed
    assert "'street' against 'road'" in printed


def test_students_differ_by_method_but_not_by_start(teacher, tmp_path):
    """One step: the losses differ, the data and the initial weights do not."""
    rows = {}
    for name, more in {"cwd": [], "fakd": ["--distillation=cwd-fa"]}.items():
        assert distill(teacher, tmp_path / name, *more, steps=2) == 0
        with (tmp_path / name / "metrics.csv").open(newline="") as file:
            rows[name] = next(csv.DictReader(file))
    assert rows["cwd"]["task"] == rows["fakd"]["task"]
    assert "lambda" in rows["fakd"]
    assert "lambda" not in rows["cwd"]
    # Strength starts at zero, so the very first loss is CWD's.
    assert rows["cwd"]["distillation"] == rows["fakd"]["distillation"]


def test_the_python_function_is_the_command(teacher, tmp_path):
    data = fakd.data.scenes(train=8, val=4, size=(32, 48))
    torch.manual_seed(0)
    student = fakd.models.pspnet("mobilenetv3_small_050", data.classes, channels=8)
    result = fakd.distill(
        teacher=teacher,
        student=student,
        data=data,
        distillation=fakd.losses.ChannelKL(),
        run=tmp_path / "api",
        schedule=fakd.Schedule(steps=4, batch_size=2),
        augmentation=fakd.data.Augmentation(crop=(32, 48)),
        check_teacher=False,
    )
    assert result["steps"] == 4
    assert distill(teacher, tmp_path / "cli") == 0
    api, cli = weights(tmp_path / "api"), weights(tmp_path / "cli")
    assert all(torch.equal(api[name], cli[name]) for name in api)


def test_a_finished_run_is_not_overwritten(teacher, tmp_path, capsys):
    before = (teacher / "best.safetensors").stat().st_mtime_ns
    assert train(teacher, steps=6) == 2
    assert "contains a finished run" in capsys.readouterr().err
    assert (teacher / "best.safetensors").stat().st_mtime_ns == before


def files_of_scenes(root):
    """Four training and two validation scenes as files."""
    data = fakd.data.scenes(train=4, val=2, size=(32, 48))
    for split in ("train", "val"):
        for kind in ("images", "masks"):
            (root / split / kind).mkdir(parents=True)
        for index, sample in enumerate(getattr(data, split)):
            picture = Image.fromarray(sample.image.permute(1, 2, 0).numpy())
            picture.save(root / split / "images" / f"{index}.png")
            mask = root / split / "masks" / f"{index}.png"
            Image.fromarray(sample.labels.byte().numpy()).save(mask)
    (root / "dataset.yaml").write_text(yaml.safe_dump({"classes": list(data.class_names)}))


def test_a_broken_image_stops_the_run_or_is_left_out_and_counted(tmp_path, capsys):
    files_of_scenes(tmp_path)
    image = tmp_path / "train" / "images" / "2.png"
    image.write_bytes(image.read_bytes()[:200])
    arguments = ["train", *network("network"), f"--data={tmp_path}", f"--run={tmp_path / 'run'}"]
    arguments += ["--schedule.steps=6", "--schedule.batch_size=2", "--augmentation.crop=[32,48]"]
    arguments += ["--intervals.save=1"]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert str(image) in error
    assert "--broken skip" in error
    # The same command with that option goes on where it stopped.
    assert main([*arguments, "--broken=skip"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert printed.count(f"left out: cannot decode {image}") == 1
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    # Six steps of two samples are three rounds over four images.
    assert 2 <= result["skipped_samples"] <= 3


def test_what_each_validation_image_counts_adds_up_to_the_score(teacher):
    result = json.loads((teacher / "result.json").read_text())
    counts = np.load(teacher / "images.npz")
    assert counts["hit"].shape == (4, len(result["final"]["classes"]))
    assert counts["names"].tolist() == ["val/00000", "val/00001", "val/00002", "val/00003"]
    hit, truth, said = (counts[name].sum(0) for name in ("hit", "truth", "said"))
    for index, scores in enumerate(result["final"]["classes"].values()):
        assert scores["pixels"] == truth[index]
        union = truth[index] + said[index] - hit[index]
        iou = 100 * hit[index] / union if union else None
        assert scores["iou"] == (None if iou is None else pytest.approx(iou, abs=1e-4))
    assert result["peak_memory_bytes"] > 10**8


def test_a_preset_is_written_out_and_each_of_its_terms_logged(teacher, tmp_path):
    assert distill(teacher, tmp_path / "run", "--distillation=ifvd-cirkd", steps=2) == 0
    recipe = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())
    parts = recipe["distillation"]["init_args"]["losses"]
    assert parts["intra_class"]["class_path"] == "fakd.losses.IntraClassVariation"
    assert parts["intra_class"]["init_args"]["weight"] == 20.0
    with (tmp_path / "run" / "metrics.csv").open(newline="") as file:
        row = next(csv.DictReader(file))
    assert {"pixel", "intra_class", "holistic", "holistic/critic"} <= row.keys()


def test_the_alignment_to_a_wider_teacher_learns_with_the_student(teacher, tmp_path):
    learnt = {}
    for rate in (1e-9, 0.01):
        more = ["--distillation=features-l2", f"--schedule.learning_rate={rate}"]
        assert distill(teacher, tmp_path / str(rate), *more, steps=2) == 0
        checkpoint = weights(tmp_path / str(rate), "last")
        learnt[rate] = {k: v for k, v in checkpoint.items() if k.startswith("objective.")}
    still, moved = learnt.values()
    aligned = [name for name in still if name.endswith("weight") and still[name].dim() == 4]
    assert aligned, list(still)
    assert not [name for name in aligned if torch.allclose(still[name], moved[name], atol=1e-6)]


def test_a_mistyped_preset_is_named(teacher, tmp_path, capsys):
    assert distill(teacher, tmp_path / "run", "--distillation=cirdk") == 2
    assert "did you mean cirkd?" in capsys.readouterr().err


def test_unlabelled_images_are_distilled(teacher, tmp_path):
    files_of_scenes(tmp_path)
    for mask in (tmp_path / "train" / "masks").iterdir():
        mask.unlink()
    (tmp_path / "train" / "masks").rmdir()
    arguments = ["distill", f"--teacher={teacher}", *network("student"), f"--data={tmp_path}"]
    arguments += [f"--run={tmp_path / 'run'}", "--schedule.steps=2", "--schedule.batch_size=2"]
    arguments += ["--augmentation.crop=[32,48]", "--check_teacher=false", "--intervals.log=1"]
    assert main(arguments) == 0
    with (tmp_path / "run" / "metrics.csv").open(newline="") as file:
        row = next(csv.DictReader(file))
    assert "task" not in row
    assert float(row["distillation"]) > 0


@pytest.mark.parametrize(("given", "used", "warned"), [
    ([], "PixelKL", False),
    (["--distillation=pd"], "PixelKL", False),
    (["--distillation=cwd"], "ChannelKL", True),
])  # fmt: skip
def test_without_labels_the_loss_must_say_which_class_a_pixel_is(
    teacher, tmp_path, capsys, given, used, warned
):
    files_of_scenes(tmp_path)
    shutil.rmtree(tmp_path / "train" / "masks")
    arguments = ["distill", f"--teacher={teacher}", *network("student"), f"--data={tmp_path}"]
    arguments += [f"--run={tmp_path / 'run'}", "--schedule.steps=1", "--schedule.batch_size=2"]
    arguments += ["--augmentation.crop=[32,48]", "--check_teacher=false", *given]
    assert main(arguments) == 0
    recipe = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())
    assert recipe["distillation"]["class_path"] == f"fakd.losses.{used}"
    assert ("classes are arbitrary" in "".join(capsys.readouterr())) == warned


def test_a_killed_run_continues_to_bit_identical_weights(teacher, tmp_path):
    """SIGKILL at whatever moment the run is in, twice, then to the end."""
    arguments = [
        "distill", f"--teacher={teacher}", *network("student", 8), *DATA,
        "--schedule.steps=24", "--schedule.batch_size=2", "--intervals.save=3",
        "--intervals.log=1", "--intervals.evaluate=8", "--hardware.threads=1",
        "--check_teacher=false",
    ]  # fmt: skip
    assert_the_same_after_two_kills(arguments, tmp_path, at=(3, 6))


def of_both_kinds(folder, *flags):
    """Begin a command's flags: four images, two of which keep their labels."""
    return [
        f"--data={folder}", "--data.labelled=2", "--augmentation.crop=[32,48]",
        "--hardware.threads=1", "--hardware.accelerator=cpu", "--schedule.batch_size=4", *flags,
    ]  # fmt: skip


@pytest.mark.slow
def test_a_killed_run_on_images_with_and_without_labels_continues_to_the_same_weights(
    teacher, tmp_path
):
    files_of_scenes(tmp_path)
    settings = ["--schedule.unlabelled_share=0.5", "--distillation=cwd-fa", "--check_teacher=false",
                "--augmentation.mix=classmix", "--task.confidence=0.1"]  # fmt: skip
    arguments = ["distill", f"--teacher={teacher}", *network("student", 8),
                 *of_both_kinds(tmp_path, *settings), "--schedule.steps=16", "--intervals.save=2",
                 "--intervals.log=1", "--intervals.evaluate=8"]  # fmt: skip
    assert_the_same_after_two_kills(arguments, tmp_path, at=(2, 6))


@pytest.mark.slow
def test_a_killed_run_that_favours_rare_classes_continues_to_the_same_weights(teacher, tmp_path):
    files_of_scenes(tmp_path)
    settings = ["--schedule.unlabelled_share=0.5", "--schedule.rare=0.1", "--check_teacher=false",
                "--task.confidence=0.1"]  # fmt: skip
    arguments = ["distill", f"--teacher={teacher}", *network("student", 8),
                 *of_both_kinds(tmp_path, *settings), "--schedule.steps=12", "--intervals.save=2",
                 "--intervals.log=1", "--intervals.evaluate=12"]  # fmt: skip
    assert_the_same_after_two_kills(arguments, tmp_path, at=(2, 6))


def test_images_without_labels_are_spoken_for_and_said(teacher, tmp_path, capsys):
    files_of_scenes(tmp_path)
    run = [*of_both_kinds(tmp_path, "--schedule.steps=2"), f"--run={tmp_path / 'run'}"]
    asked = ["distill", f"--teacher={teacher}", *network("student", 8), "--check_teacher=false"]
    assert main([*asked, *run]) == 0
    said = capsys.readouterr()
    assert "2 of 4 training images have no labels" in said.out + said.err
    assert main(["train", *network("network", 8), *run, "--existing=overwrite"]) == 0


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--data.labelled=4", "--schedule.unlabelled_share=0.5"], "needs unlabelled training"),
        (["--data.labelled=7"], "labelled asks for 7 images, but train has 4"),
        (["--schedule.unlabelled_share=1.5"], "schedule.unlabelled_share from 0 to 1"),
        (["--data.unlabelled=nowhere"], "there is no folder of unlabelled images"),
    ],
)
def test_a_share_that_cannot_be_leaves_no_folder(teacher, tmp_path, capsys, flags, reason):
    files_of_scenes(tmp_path)
    run = [*of_both_kinds(tmp_path, "--schedule.steps=2"), f"--run={tmp_path / 'run'}", *flags]
    assert main(["distill", f"--teacher={teacher}", *network("student", 8), *run]) == 2
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def assert_the_same_after_two_kills(arguments, folder, at):
    """Train once as it is, and once killed as soon as a checkpoint has at least these steps."""
    assert main([*arguments, f"--run={folder / 'whole'}"]) == 0
    command = [*arguments, f"--run={folder / 'killed'}"]
    last = folder / "killed" / "last.safetensors"
    for number, step in enumerate(at):
        process = start(command, folder / "log")
        until(
            lambda step=step: last.exists() and read_checkpoint_state(last)["step"] >= step, process
        )
        time.sleep(0.02 * number)
        process.kill()
        process.join()
        assert not (folder / "killed" / "result.json").exists()
    process = start(command, folder / "log")
    process.join()
    assert process.exitcode == 0, (folder / "log").read_text()
    for name in ("final", "last"):
        whole, killed = weights(folder / "whole", name), weights(folder / "killed", name)
        assert whole.keys() == killed.keys()
        assert all(torch.equal(whole[key], killed[key]) for key in whole)
    whole, killed = (read_curves(folder / name / "metrics.csv") for name in ("whole", "killed"))
    for rows in (whole, killed):
        for row in rows:
            row.pop("images/s", None)
    assert whole == killed


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ("--task.class_weights=[1,2]", "each of 12 classes, got 2"),
        ("--optimizer.nesterof=true", "did you mean nesterov?"),
        ("--freeze=bakcbone", "there is no bakcbone in the network"),
        ("--freeze=*", "a network with all weights frozen"),
        ("--schedule.accumulate=3", "a multiple of 3"),
        ("--ema=1", "expected ema between 0 and 1"),
        ('--augmentation.extra={"class_path": "torchvision.transforms.v2.Blur"}', "there is no"),
        ("--augmentation.mix=copypaste", "augmentation.mix"),
    ],
)
def test_settings_that_do_not_fit_the_run_leave_no_folder(tmp_path, capsys, wrong, expected):
    arguments = ["train", *network("network", 8), *DATA, f"--run={tmp_path / 'run'}"]
    assert main([*arguments, "--schedule.steps=2", "--schedule.batch_size=4", wrong]) == 2
    assert expected in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


AWAY = {"from": 5, "to": 0, "schedule": "cosine", "start": 0.25, "end": 0.75}
EVERYTHING = {
    "class_path": "fakd.losses.WeightedSum",
    "init_args": {
        "losses": {
            "channel": {
                "class_path": "fakd.losses.ChannelKL",
                "init_args": {"strength": 1.0, "class_weights": "auto", "weight": AWAY},
            },
            "pixel": {
                "class_path": "fakd.losses.PixelKL",
                "init_args": {
                    "class_weights": [1.0 + k for k in range(12)],
                    "weight": {"from": 0.5, "to": 0, "end": 0.8},
                },
            },
            "features": {
                "class_path": "fakd.losses.FeatureDistance",
                "init_args": {"kind": "cosine", "weight": {**AWAY, "from": 1}},
            },
        }
    },
}


def everything_on(teacher, mix, steps):
    """Settings of which each leaves something behind that a checkpoint must hold."""
    return [
        "distill", f"--teacher={teacher}", *network("student", 8), *DATA, "--hardware.threads=1",
        "--schedule.batch_size=4", "--schedule.accumulate=2", "--schedule.shape=cosine",
        "--schedule.warmup=2", "--schedule.clip=1", "--schedule.clip_value=0.1",
        "--optimizer=AdamW", "--optimizer.betas=[0.8,0.99]", "--optimizer.head_multiplier=5",
        "--optimizer.decay_norms=false", "--task.class_weights=auto", "--task.dice=1",
        "--task.lovasz=0.5", "--task.hardest=0.7", "--task.label_smoothing=0.1", "--ema=0.9",
        "--freeze=backbone", "--freeze.until=5", "--intervals.save=1", "--intervals.evaluate=4",
        f"--schedule.steps={steps}", "--check_teacher=false", "--intervals.log=1",
        f"--distillation={json.dumps(EVERYTHING)}",
        "--augmentation.rotation=20", f"--augmentation.mix={mix}",
        f"--augmentation.extra={json.dumps(BLUR)}",
    ]  # fmt: skip


@pytest.mark.slow
def test_a_run_with_everything_on_that_is_killed_continues_to_the_same_bits(teacher, tmp_path):
    """While frozen and fading, and again after thawing."""
    arguments = everything_on(teacher, "cutmix", steps=12)
    assert_the_same_after_two_kills(arguments, tmp_path, at=(2, 6))


def test_a_run_with_everything_on_resumes_to_the_same_bits(teacher, tmp_path):
    """Interrupted while frozen, at thawing and after it; all state is in the checkpoint."""
    arguments = everything_on(teacher, "classmix", steps=8)
    assert main([*arguments, f"--run={tmp_path / 'whole'}"]) == 0
    save = Training._save

    def stopping_after(step):
        def stop(self, done):
            save(self, done)
            if done == step:
                raise KeyboardInterrupt

        return stop

    for step in (4, 5, 6):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Training, "_save", stopping_after(step))
            assert main([*arguments, f"--run={tmp_path / 'parts'}"]) == 130
    assert main([*arguments, f"--run={tmp_path / 'parts'}"]) == 0
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    recipe = tmp_path / "whole" / "recipe.yaml"
    assert yaml.safe_load(recipe.read_text())["augmentation"]["extra"] == BLUR
    mistyped = '--augmentation.extra={"class_path": "torchvision.transforms.v2.Blur"}'
    assert main(["distill", str(recipe), f"--run={tmp_path / 'other'}", mistyped]) == 2
    assert main(["distill", str(recipe), f"--run={tmp_path / 'again'}"]) == 0
    again = weights(tmp_path / "again")
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_another_optimiser_does_not_inherit_what_sgd_usually_has(tmp_path):
    arguments = ["train", *network("network", 8), *DATA, "--schedule.steps=1"]
    for kind, expected in (
        ("SGD", {"weight_decay": 5e-4, "arguments": {"momentum": 0.9}}),
        ("AdamW", {"weight_decay": None, "arguments": {}}),
    ):
        run = tmp_path / kind
        assert (
            main([*arguments, "--schedule.batch_size=4", f"--optimizer={kind}", f"--run={run}"])
            == 0
        )
        recipe = yaml.safe_load((run / "recipe.yaml").read_text())
        assert expected.items() <= recipe["optimizer"].items()
        assert recipe["schedule"]["learning_rate"] == (0.01 if kind == "SGD" else 1e-4)


def test_a_finished_run_is_extended_by_more_steps(tmp_path, capsys):
    run = tmp_path / "run"
    arguments = [
        "train", *network("network", 8), *DATA, f"--run={run}", "--schedule.batch_size=4",
        "--schedule.shape=constant", "--intervals.log=1", "--hardware.threads=1",
    ]  # fmt: skip
    assert main([*arguments, "--schedule.steps=3"]) == 0
    first = weights(run)
    capsys.readouterr()
    assert main([*arguments, "--schedule.steps=3", "--existing=extend"]) == 2
    assert "needs a larger --schedule.steps" in capsys.readouterr().err
    assert main([*arguments, "--schedule.steps=5", "--seed=1", "--existing=extend"]) == 2
    assert "another recipe (seed: 0 -> 1)" in capsys.readouterr().err
    assert (run / "result.json").is_file()
    assert main([*arguments, "--schedule.steps=5", "--existing=extend"]) == 0
    assert "extended from 3 to 5 steps" in capsys.readouterr().out
    assert json.loads((run / "result.json").read_text())["steps"] == 5
    assert main([*arguments, "--schedule.steps=5", f"--run={tmp_path / 'whole'}"]) == 0
    whole, extended = weights(tmp_path / "whole"), weights(run)
    # A constant rate and the same batches: as if it had never ended.
    assert all(torch.equal(whole[name], extended[name]) for name in whole)
    assert not all(torch.equal(first[name], extended[name]) for name in first)


@pytest.mark.parametrize(
    "flags",
    [
        ["--optimizer.fused=true", "--optimizer.foreach=true"],
        ["--optimizer.betas=[0.9]"],
        ["--schedule.power=-1"],
    ],
)
def test_what_an_optimiser_or_schedule_cannot_take_is_one_line(flags, tmp_path, capsys):
    run = tmp_path / "run"
    arguments = ["train", *network("network", 8), *DATA, f"--run={run}", "--optimizer=AdamW"]
    assert main([*arguments, "--schedule.steps=2", "--schedule.batch_size=2", *flags]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("fakd: error:")
    assert "\n" not in error
    assert not run.exists()


def test_a_run_without_its_checkpoint_is_not_extended(tmp_path, capsys):
    run = tmp_path / "run"
    arguments = ["train", *network("network", 8), *DATA, f"--run={run}", "--schedule.batch_size=2"]
    assert main([*arguments, "--schedule.steps=2"]) == 0
    (run / "last.safetensors").unlink()
    before = (run / "final.safetensors").read_bytes()
    assert main([*arguments, "--schedule.steps=4", "--existing=extend"]) == 2
    assert "last.safetensors is missing" in capsys.readouterr().err
    assert (run / "final.safetensors").read_bytes() == before


def test_scores_go_into_json_files_only(teacher, tmp_path, capsys):
    kept = tmp_path / "dataset.yaml"
    kept.write_text("classes: [a]\n")
    assert main(["evaluate", f"--network={teacher}", "--data=scenes", "--data.val=1",
                 f"--out={kept}"]) == 2  # fmt: skip
    assert "--out must end in .json" in capsys.readouterr().err
    assert kept.read_text() == "classes: [a]\n"
