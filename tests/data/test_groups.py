from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from fakd.data import folder
from fakd.data.groups import proposed_group, read_group
from fakd.errors import InputError
from fakd.inspection import inspected

NAMES = [f"clip{clip}_{frame:04}" for clip in range(2) for frame in range(4)]


@pytest.fixture
def clips(tmp_path):
    for split in ("train", "val"):
        for name in NAMES:
            for kind in ("images", "masks"):
                file = tmp_path / split / kind / f"{name}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                noise = np.random.default_rng(len(split)).integers(0, 2, (8, 8))
                Image.fromarray(noise.astype(np.uint8)).save(file)
    return tmp_path


def described(root, **more):
    (root / "dataset.yaml").write_text(yaml.safe_dump({"classes": ["road", "car"], **more}))
    val = folder(root).val
    return [val.group(index) for index in range(len(val))]


def test_a_pattern_a_list_or_a_folder_says_which_images_belong_together(clips):
    assert described(clips) == [None] * 8
    assert described(clips, group=r"(.+)_\d+") == ["clip0"] * 4 + ["clip1"] * 4
    assert described(clips, group="folder") == ["."] * 8
    (clips / "groups.csv").write_text("".join(f"{name},g{name[-1]}\n" for name in NAMES[1:]))
    assert described(clips, group="groups.csv") == ["clip0_0000", *(f"g{n[-1]}" for n in NAMES[1:])]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (3, "group must be folder, a pattern such as"),
        ("(", "no regular expression"),
        ("clip", "one part in parentheses"),
        ("none.txt", "which is no file"),
    ],
)
def test_what_names_no_groups_is_refused(tmp_path, value, words):
    with pytest.raises(InputError, match=words):
        read_group(value, tmp_path / "dataset.yaml")


def test_frames_are_known_by_their_names():
    frames = [f"0016E5_{frame:05}" for frame in range(7959, 8161, 2)]
    group = read_group(proposed_group(frames), Path("dataset.yaml"))
    assert {group(name) for name in frames} == {"0016E5"}
    assert proposed_group([f"photo{number}" for number in range(50)]) is None
    assert proposed_group([f"2007_{number:06}" for number in range(4)]) is None
    assert proposed_group([f"{number}_{number + 1}" for number in range(50)]) is None


def test_data_check_proposes_groups_until_they_are_declared(clips):
    described(clips)
    said = [each.text for each in inspected(clips).findings]
    (line,) = [text for text in said if "look like frames of 2 clips" in text]
    described(clips, group=line.split("group: '")[1].split("'")[0])
    assert not any("frames" in each.text for each in inspected(clips).findings)
