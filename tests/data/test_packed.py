"""Pictures in tar shards and in tables, read as files are."""

import io
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from fakd.cli import main
from fakd.data import Augmentation, folder, training_batches
from fakd.errors import InputError

CROP = Augmentation(crop=(16, 16), scale=(1.0, 1.0), photometric=False)


def pixels_of(seed):
    return np.random.default_rng(seed).integers(0, 256, (20, 24, 3), dtype=np.uint8)


def png(seed):
    file = io.BytesIO()
    Image.fromarray(pixels_of(seed)).save(file, "PNG")
    return file.getvalue()


def pack(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as shard:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            shard.addfile(entry, io.BytesIO(content))


@pytest.fixture
def root(tmp_path, monkeypatch):
    """Four labelled images, and what is packed beside them."""
    monkeypatch.setenv("FAKD_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "data"
    for split in ("train", "val"):
        for name in ("images", "masks"):
            (root / split / name).mkdir(parents=True)
        for each in range(4):
            seed = each + (100 if split == "val" else 0)
            (root / split / "images" / f"{each}.png").write_bytes(png(seed))
            mask = Image.fromarray(np.full((20, 24), each % 2, np.uint8))
            mask.save(root / split / "masks" / f"{each}.png")
    (root / "dataset.yaml").write_text("classes: [a, b]\n")
    return root


def shards(root):
    first = {f"d/{n:03d}.png": png(200 + n) for n in range(3)}
    pack(root / "more" / "00.tar", {**first, "d/000.seg.png": b"a mask", "d/000.json": b"{}"})
    pack(root / "more" / "01.tar", {f"{n:03d}.png": png(300 + n) for n in range(2)})


def test_members_of_shards_are_training_images(root):
    shards(root)
    train = folder(root, unlabelled=str(root / "more" / "*.tar")).train
    names = [train.name(index) for index in range(4, len(train))]
    assert names == ["00/d/000", "00/d/001", "00/d/002", "01/000", "01/001"]
    assert train.labelled_indices() == [0, 1, 2, 3]
    for index, seed in zip(range(4, 9), (200, 201, 202, 300, 301), strict=True):
        sample = train[index]
        assert sample.labels is None
        assert np.array_equal(sample.image.permute(1, 2, 0).numpy(), pixels_of(seed))
        assert train.stamp(index) == str(len(png(seed)))
    assert len(set(train.identity())) == len(list(train.identity()))


def test_shards_are_read_alike_by_workers_and_after_a_resumption(root):
    shards(root)
    train = folder(root, unlabelled=str(root / "more" / "*.tar")).train

    def images(first, **more):
        options = {"unlabelled_share": 0.5, **more}
        return [each.images for each in training_batches(train, CROP, 4, 0, first, 6, **options)]

    whole = images(0)
    for one, other in zip(whole[3:], images(3, workers=1), strict=True):
        assert torch.equal(one, other)


def test_an_index_is_remembered_while_its_shard_is_the_same(root, monkeypatch):
    monkeypatch.setattr("fakd.data.shards._WORTH_KEEPING", 1)
    shards(root)
    given = str(root / "more" / "*.tar")
    fingerprint = folder(root, unlabelled=given).fingerprint()
    opened, read = tarfile.open, []
    monkeypatch.setattr(tarfile, "open", lambda *a, **k: read.append(a) or opened(*a, **k))
    assert folder(root, unlabelled=given).fingerprint() == fingerprint
    assert read == []
    pack(root / "more" / "01.tar", {f"{n:03d}.png": png(400 + n) for n in range(3)})
    read.clear()
    assert folder(root, unlabelled=given).fingerprint() != fingerprint
    assert len(read) == 1


def test_a_copy_of_a_validation_image_in_a_shard_is_left_out(root):
    pack(root / "more.tar", {"w.png": png(7), "x.png": png(101), "y.png": png(8)})
    data = folder(root, unlabelled=str(root / "more.tar"))
    assert any(
        "1 unlabelled image is left out, identical to images of val" in each
        for each in data.remarks
    )
    assert [data.train.name(index)[-1] for index in range(len(data.train))][-2:] == ["w", "y"]


def mask_png(number):
    file = io.BytesIO()
    Image.fromarray(np.full((20, 24), number % 2, np.uint8)).save(file, "PNG")
    return file.getvalue()


def labelled_shards(root):
    """The pairs of the folder in shards: the key, then what it is."""
    for split, seeds in (("train", range(4)), ("val", range(100, 104))):
        for shard, places in enumerate(((0, 1), (2, 3))):
            members = {}
            for place in places:
                members[f"./d/{place}.png"] = png(seeds[place])
                members[f"./d/{place}.seg.png"] = mask_png(place)
                members[f"./d/{place}.json"] = b"{}"
            pack(root / split / f"{shard:02d}.tar", members)
    description = root / "shards.yaml"
    description.write_text(
        "classes: [a, b]\n"
        "train: {images: 'train/*.tar/{name}.png', masks: 'train/*.tar/{name}.seg.png'}\n"
        "val: {images: 'val/*.tar/{name}.png', masks: 'val/*.tar/{name}.seg.png'}\n"
    )
    return description


def table(root):
    """The same pairs in tables."""
    datasets = pytest.importorskip("datasets")
    features = {"photo": datasets.Image(), "classes": datasets.Image()}
    for split, seeds in (("train", range(4)), ("val", range(100, 104))):
        content = {
            "photo": [{"bytes": png(seed), "path": None} for seed in seeds],
            "classes": [{"bytes": mask_png(place), "path": None} for place in range(4)],
        }
        made = datasets.Dataset.from_dict(content, features=datasets.Features(features))
        made.save_to_disk(str(root / "tables" / split))
    description = root / "tables.yaml"
    description.write_text(
        "classes: [a, b]\n"
        "train: {images: 'hf:tables/train/{name}.photo', masks: 'hf:tables/train/{name}.classes'}\n"
        "val: {images: 'hf:tables/val/{name}.photo', masks: 'hf:tables/val/{name}.classes'}\n"
    )
    return description


@pytest.mark.parametrize("described", [labelled_shards, table])
def test_images_and_masks_within_other_files_are_those_of_a_folder(root, described):
    plain, data = folder(root), folder(described(root))
    for split in ("train", "val"):
        packed, files = getattr(data, split), getattr(plain, split)
        assert packed.labelled_indices() == files.labelled_indices() == [0, 1, 2, 3]
        for one, other in zip(packed, files, strict=True):
            assert torch.equal(one.image, other.image)
            assert torch.equal(one.labels, other.labels)
    batches = [
        [*training_batches(each.train, CROP, 4, 0, 0, 2, workers=workers)]
        for each, workers in ((plain, 0), (data, 0), (data, 1))
    ]
    for one, other, third in zip(*batches, strict=True):
        for packed in (other, third):
            assert torch.equal(one.images, packed.images)
            assert torch.equal(one.labels, packed.labels)


def test_names_of_members_and_a_copy_of_the_shards(root, tmp_path):
    data = folder(labelled_shards(root))
    assert [data.train.name(index) for index in range(4)] == [
        "00/d/0",
        "00/d/1",
        "01/d/2",
        "01/d/3",
    ]
    fingerprint = data.fingerprint()
    (root / "take.txt").write_text("00/d/0\n01/d/2\n")
    description = root / "shards.yaml"
    text = description.read_text()
    description.write_text(text.replace("seg.png'}", "seg.png', list: take.txt}", 1))
    assert len(folder(description).train) == 2
    description.write_text(text)
    root.rename(tmp_path / "copy")
    assert folder(tmp_path / "copy" / "shards.yaml").fingerprint() == fingerprint
    # A mask changed in place is another state of the data.
    pack(
        tmp_path / "copy/train/00.tar",
        {f"d/{n}.png": png(n) for n in (0, 1)} | {f"d/{n}.seg.png": mask_png(1) for n in (0, 1)},
    )
    assert folder(tmp_path / "copy" / "shards.yaml").fingerprint() != fingerprint


@pytest.mark.parametrize("described", [labelled_shards, table])
def test_pictures_within_other_files_are_inspected(root, described, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # where the picture goes
    described = described(root)
    assert main(["data", "check", str(described)]) == 0
    assert "4 images" in " ".join(capsys.readouterr().out.split())


def test_a_member_without_its_mask_is_refused_by_name(root):
    description = labelled_shards(root)
    pack(root / "train" / "02.tar", {"d/9.png": png(9)})
    with pytest.raises(
        InputError, match=r"no mask .*\*\.tar/02/d/9\.seg\.png for image .*02\.tar/d/9"
    ):
        folder(description)
    (root / "train" / "02.tar").unlink()
    description.write_text(description.read_text().replace("val/*.tar", "none/*.tar"))
    with pytest.raises(InputError, match=r"no tar shards match .*none/\*\.tar"):
        folder(description)


def cut(path, more):
    """Leave the first of two members, and some bytes of the second's header."""
    pack(path, {"a.png": png(1), "b.png": png(2)})
    with tarfile.open(path) as tar:
        second = tar.getmember("b.png").offset
    path.write_bytes(path.read_bytes()[: second + more])


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (lambda path: None, "no tar shards match"),
        (lambda path: path.write_bytes(b"no tar" * 200), "is not a complete tar file"),
        (lambda path: cut(path, 0), "is not a complete tar file: its end is missing; copy it"),
        (lambda path: cut(path, 100), "is not a complete tar file: its end is missing; copy it"),
        (lambda path: pack(path, {"a.txt": b"words"}), "holds no image"),
    ],
)
def test_what_is_no_shard_is_refused(root, write, reason):
    write(root / "x.tar")
    with pytest.raises(InputError, match=reason):
        folder(root, unlabelled=str(root / "x.tar"))


def test_rows_of_a_table_are_training_images(root):
    datasets = pytest.importorskip("datasets")
    content = {"photo": [{"bytes": png(500 + n), "path": None} for n in range(3)], "n": [1, 2, 3]}
    features = datasets.Features({"photo": datasets.Image(), "n": datasets.Value("int64")})
    datasets.Dataset.from_dict(content, features=features).save_to_disk(str(root / "table"))
    data = folder(root, unlabelled=f"hf:{root / 'table'}")
    train = data.train
    assert [train.name(index) for index in range(4, 7)] == [f"table/{n:08d}" for n in range(3)]
    for index in range(3):
        found = train[4 + index].image.permute(1, 2, 0).numpy()
        assert np.array_equal(found, pixels_of(500 + index))
    (batch,) = training_batches(train, CROP, 4, 0, 0, 1, workers=1, unlabelled_share=1.0)
    assert not batch.labelled.any()
    with pytest.raises(InputError, match="nowhere is not a folder"):
        folder(root, unlabelled="hf:nowhere")
    with pytest.raises(InputError, match="cannot be read by datasets"):
        folder(root, unlabelled=f"hf:{root / 'train'}")


def video(path, frames):
    av = pytest.importorskip("av")
    with av.open(str(path), "w", format="mp4") as file:
        stream = file.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = 64, 48, "yuv420p", 4
        for number in range(frames):
            shade = np.full((48, 64, 3), 12 * number, np.uint8)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(shade, format="rgb24")))
        file.mux(stream.encode(None))


def test_one_in_three_frames_of_a_video_is_a_training_image(root):
    video(root / "clip.mp4", 20)
    train = folder(root, unlabelled=f"{root / 'clip.mp4'}?every=3").train
    names = [train.name(index) for index in range(4, len(train))]
    assert names == [f"clip/{1 + 3 * n:06d}" for n in range(7)]
    # In any order, and from any worker.
    for place in (5, 0, 6, 3):
        image = train[4 + place].image
        assert image.shape == (3, 48, 64)
        assert float(image.float().mean()) == pytest.approx(12 * 3 * place, abs=4)
    (batch,) = training_batches(train, CROP, 4, 0, 0, 1, workers=1, unlabelled_share=1.0)
    assert len({train.stamp(int(index)) for index in batch.indices}) == 4


def test_what_is_no_video_is_refused(root):
    pytest.importorskip("av")
    (root / "x.mp4").write_bytes(b"no video")
    for text, reason in (
        ("x.mp4?every=2", "cannot be decoded as a video"),
        ("y.mp4?every=2", "there is no video"),
        ("x.mp4", r"for example .*x.mp4\?every=10"),
    ):
        with pytest.raises(InputError, match=reason):
            folder(root, unlabelled=str(root / text))
