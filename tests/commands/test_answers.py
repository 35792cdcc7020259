"""Asking once, continuing, sharing, and learning from what was stored, by the command line."""

import json
import os
import shutil
import signal

import numpy as np
import pytest
import yaml
from PIL import Image

from fakd import cli
from fakd.answers import Stored
from fakd.answers.store import open_answers
from fakd.data import scenes
from fakd.models import pspnet, save
from fakd.runs.folder import read_json
from fakd.training import answering
from forked import CONTEXT

DATA = ["--data=scenes", "--data.train=8", "--data.val=4", "--data.size=[32, 48]"]
SMALL = ["--schedule.steps=2", "--schedule.batch_size=2", "--augmentation.crop=[32, 48]"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    network = pspnet("mobilenetv3_small_050", 12, channels=16)
    save(network, "t.safetensors", class_names=None, palette=None)
    return tmp_path


def answer(*flags):
    return cli.main(["answer", "--teacher=t.safetensors", *DATA, "--shard=3", *flags])


def distill(teacher, *flags, run="s"):
    student = ["--student=pspnet", "--student.backbone=mobilenetv3_small_050"]
    student.append("--student.channels=16")
    given = [f"--teacher={teacher}", "--check_teacher=false", f"--run={run}"]
    return cli.main(["distill", *given, *student, *DATA, *SMALL, *flags])


def shards(folder):
    return sorted(folder.glob("*/*.safetensors"))


def test_what_is_asked_once_is_learnt_from(folder, capsys):
    assert answer("--out=a") == 0
    said = capsys.readouterr().out
    assert "12 images to process" in said
    assert "a: 12 images" in said
    assert len(shards(folder / "a")) == 5
    assert distill("a") == 0
    assert "changes of colour" in capsys.readouterr().out
    recipe = yaml.safe_load((folder / "s" / "recipe.yaml").read_text())
    assert recipe["teacher"]["class_path"] == "fakd.answers.Stored"
    assert cli.main(["distill", "--recipe=s/recipe.yaml", "--existing=reuse"]) == 0


@pytest.mark.parametrize("more", [[], ["--inference.flip=true"]])
def test_a_teacher_answers_as_precisely_as_is_said(folder, more):
    """In 16 bits it says the same but for their rounding, whatever the precision of a step is."""
    kinds = {"a": "fp32", "b": "bf16"}
    for out, kind in kinds.items():
        flags = ["--format=float16", f"--hardware.teacher_precision={kind}", *more]
        assert answer(f"--out={out}", *flags, "--hardware.precision=bf16-mixed") == 0
    assert answer("--out=c", "--format=float16", *more) == 0
    stores = {name: open_answers(Stored(folder / name), 12) for name in "abc"}
    a, b, c = (
        np.stack([each.read("val", k, (32, 48)).logits for k in range(4)])
        for each in stores.values()
    )
    assert np.array_equal(a, c)
    assert not np.array_equal(a, b)
    assert np.abs(a - b).max() < 0.1 * np.abs(a).max()


def test_a_run_is_not_reused_for_other_answers(folder, capsys):
    assert answer("--out=a") == 0
    assert distill("a") == 0
    shutil.rmtree(folder / "a")
    assert answer("--out=a", "--format=float16") == 0
    assert distill("a", "--existing=reuse") == 2
    assert "the teacher has changed" in capsys.readouterr().err


def test_stored_16_bit_answers_teach_what_the_network_does(folder):
    assert answer("--out=a", "--format=float16") == 0
    whole = ["--augmentation.scale=[1, 1]", "--augmentation.photometric=false"]
    for teacher, run in (("a", "s"), ("t.safetensors", "l")):
        assert distill(teacher, *whole, "--augmentation.flip=0", run=run) == 0
    stored, live = (read_json(folder / run / "result.json")["final"] for run in ("s", "l"))
    assert stored["miou"] == pytest.approx(live["miou"], abs=0.5)


def test_a_store_is_continued_and_what_was_there_stays(folder, capsys):
    assert answer("--out=a") == 0
    first, *others = shards(folder / "a")
    kept = {each: each.stat().st_mtime_ns for each in others}
    whole = first.read_bytes()
    first.unlink()
    assert distill("a") == 2
    assert "4 of 5 shards" in capsys.readouterr().err
    assert answer("--out=a") == 0
    assert first.read_bytes() == whole
    assert {each: each.stat().st_mtime_ns for each in others} == kept


def test_another_teacher_or_format_is_refused_and_nothing_is_touched(folder, capsys):
    assert answer("--out=a") == 0
    before = {each: each.read_bytes() for each in shards(folder / "a")}
    assert answer("--out=a", "--format=float16") == 2
    assert "other settings" in capsys.readouterr().err
    network = pspnet("mobilenetv3_small_050", 12, channels=16)
    save(network, "t.safetensors", class_names=None, palette=None)
    assert answer("--out=a") == 2
    assert "another teacher" in capsys.readouterr().err
    assert {each: each.read_bytes() for each in shards(folder / "a")} == before


def make_bitmaps(root):
    """Write data whose images are files without compression, all of one size."""
    draw = np.random.default_rng(0)
    for split, count in {"train": 6, "val": 2}.items():
        for kind in ("images", "masks"):
            (root / split / kind).mkdir(parents=True)
        for number in range(count):
            image = draw.integers(0, 255, (32, 48, 3), "u1")
            Image.fromarray(image).save(root / split / "images" / f"{number}.bmp")
            mask = draw.integers(0, 12, (32, 48), "u1")
            Image.fromarray(mask).save(root / split / "masks" / f"{number}.png")
    classes = [{"name": f"class {number}"} for number in range(12)]
    (root / "dataset.yaml").write_text(yaml.safe_dump({"name": "d", "classes": classes}))


def test_images_in_another_order_are_noticed_where_all_files_have_one_size(folder, capsys):
    make_bitmaps(folder / "d")
    assert cli.main(["answer", "--teacher=t.safetensors", "--data=d", "--out=a"]) == 0
    learn = [*SMALL, "--teacher=a", "--data=d", "--check_teacher=false"]
    learn += ["--student=pspnet", "--student.backbone=mobilenetv3_small_050"]
    assert cli.main(["distill", *learn, "--run=s"]) == 0
    capsys.readouterr()
    one, other = (folder / "d" / "train" / "images" / f"{number}.bmp" for number in (1, 4))
    assert one.stat().st_size == other.stat().st_size
    for each, renamed in ((one, "x"), (other, one), (folder / "x", other)):
        each.rename(folder / "x" if renamed == "x" else renamed)
    assert cli.main(["distill", *learn, "--run=t"]) == 2
    assert "a was made from another train image" in capsys.readouterr().err
    assert not (folder / "t").exists()


def test_an_unfinished_store_is_not_continued_with_changed_images(folder, capsys):
    make_bitmaps(folder / "d")
    command = ["answer", "--teacher=t.safetensors", "--data=d", "--out=a", "--shard=2"]
    assert cli.main(command) == 0
    last = folder / "a" / "train" / "000002.safetensors"
    whole = last.read_bytes()
    last.unlink()
    changed = folder / "d" / "train" / "images" / "0.bmp"
    before = changed.read_bytes()
    Image.new("RGB", (48, 32), (9, 9, 9)).save(changed)
    capsys.readouterr()
    assert cli.main(command) == 2
    assert "made from another train image" in capsys.readouterr().err
    assert not last.exists()
    changed.write_bytes(before)
    assert cli.main(command) == 0
    assert last.read_bytes() == whole


@pytest.mark.slow
def test_processes_share_the_work(folder, forked_commands):
    assert answer("--out=alone") == 0
    assert answer("--out=shared", "--parallel=2") == 0
    for one, other in zip(shards(folder / "alone"), shards(folder / "shared"), strict=True):
        assert one.read_bytes() == other.read_bytes()


def dying(folder, arguments):
    """Answer until killed in the second shard."""
    answered, records = 0, answering.records

    def counted(*given, **options):
        nonlocal answered
        for record in records(*given, **options):
            answered += 1
            # Four are answered to tell the time, three make the first shard.
            if answered == 9:
                os.kill(os.getpid(), signal.SIGKILL)
            yield record

    answering.records = counted
    os.chdir(folder)
    cli.main(arguments)


def test_a_worker_that_dies_loses_the_shard_it_was_at_and_no_other(folder):
    assert answer("--out=alone") == 0
    arguments = ["answer", "--teacher=t.safetensors", *DATA, "--shard=3", "--out=a"]
    worker = CONTEXT.Process(target=dying, args=(str(folder), arguments))
    worker.start()
    worker.join()
    assert worker.exitcode == -signal.SIGKILL
    (whole,) = shards(folder / "a")
    before = whole.stat().st_mtime_ns
    assert answer("--out=a") == 0
    assert whole.stat().st_mtime_ns == before
    assert not (folder / "a" / "locks").exists()
    for one, other in zip(shards(folder / "alone"), shards(folder / "a"), strict=True):
        assert one.read_bytes() == other.read_bytes()


@pytest.mark.slow
def test_processes_that_fail_are_told_of_and_what_they_did_stays(folder, capsys, forked_commands):
    assert answer("--out=a") == 0
    gone = shards(folder / "a")[0]
    gone.unlink()
    (folder / "a" / "train" / gone.name).mkdir()
    assert answer("--out=a", "--parallel=1") == 1
    assert "1 of 1 processes failed" in capsys.readouterr().err
    assert len(shards(folder / "a")) == 5


def test_what_fails_before_a_process_begins_is_no_success(folder, monkeypatch):
    def refuse(*_):
        raise RuntimeError("no process")

    monkeypatch.setattr("fakd.commands.answer.run", refuse)
    with pytest.raises(RuntimeError, match="no process"):
        answer("--out=a", "--parallel=2")


@pytest.mark.parametrize(
    "flags",
    [
        ["--inference.flip=true", "--inference.scales=[1, 0.5]", "--format=topk", "--k=3"],
        ["--inference.window=24", "--stride=4", "--batch_size=3"],
        ["--features=true", "--format=float16", "--batch_size=2"],
    ],
)
def test_images_may_be_shown_in_other_ways(folder, flags):
    assert answer("--out=a", *flags) == 0
    manifest = json.loads((folder / "a" / "manifest.json").read_text())
    loss = "features-l2" if "--features=true" in flags else "cwd"
    assert distill("a", f"--distillation={loss}") == 0
    assert (manifest["settings"]["stride"] is None) == ("--features=true" in flags)


@pytest.mark.parametrize(
    ("flags", "scale", "noted"),
    [([], 0.5, "as in its training, with"), (["--inference.scale=0.75"], 0.75, "evaluated with")],
)
def test_a_teacher_is_shown_images_as_in_its_training(folder, capsys, flags, scale, noted):
    network = pspnet("mobilenetv3_small_050", 12, channels=16)
    extra = {"inference": {"scale": 0.5}}
    save(network, "t.safetensors", class_names=None, palette=None, extra=extra)
    assert answer("--out=a", *flags) == 0
    manifest = json.loads((folder / "a" / "manifest.json").read_text())
    assert manifest["settings"]["inference"]["scale"] == scale
    assert f"{noted} --inference.scale 0.5" in " ".join("".join(capsys.readouterr()).split())


def test_several_teachers_of_other_classes_are_scored_each_and_together(folder, capsys):
    assert answer("--out=a") == 0
    ours = scenes(1, 1).class_names
    content = {"classes": {name: [(number + 1) % 12] for number, name in enumerate(ours)}}
    (folder / "map.yaml").write_text(yaml.safe_dump(content))
    teachers = [
        {"source": "a", "weight": 2, "classes_from": "map.yaml"},
        {"source": "t.safetensors"},
    ]
    (folder / "two.yaml").write_text(yaml.safe_dump({"teachers": teachers}))
    assert distill("two.yaml", run="s") == 0
    recipe = yaml.safe_load((folder / "s" / "recipe.yaml").read_text())
    assert recipe["teacher"]["init_args"]["weights"] == [2.0, 1.0]
    assert distill("two.yaml", "--check_teacher=true", run="x") in (0, 2)
    said = capsys.readouterr().out
    assert "teacher a  val mIoU" in said
    assert "teacher t.safetensors  val mIoU" in said


def test_class_maps_are_proposed_scored_and_used(folder, capsys):
    assert answer("--out=a") == 0
    assert cli.main(["classes", "a", *DATA, "--out=map.yaml", "--images=2"]) == 0
    said = capsys.readouterr().out
    assert "mIoU" in said
    content = yaml.safe_load((folder / "map.yaml").read_text())
    assert content["rest"] == "ignore"
    assert distill("a", "--classes_from=map.yaml") == 0
    recipe = yaml.safe_load((folder / "s" / "recipe.yaml").read_text())
    assert recipe["classes_from"] == content
    assert cli.main(["classes", "a", *DATA, "--out=map.yaml"]) == 2


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--format=topk", "--k=12"], "below the teacher's 12"),
        (["--features=true", "--stride=4"], "--features needs"),
        (["--stride=0"], "--stride of at least 1"),
        (["--shard=0"], "at least 1"),
        (["--on=ray"], "needs --parallel"),
        (["--hardware.devices=2"], "--parallel"),
    ],
)
def test_what_cannot_be_asked_is_refused_before_a_folder_is_made(folder, capsys, flags, said):
    assert answer("--out=a", *flags) == 2
    assert said in capsys.readouterr().err
    assert not (folder / "a").exists()
