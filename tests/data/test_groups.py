from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from fakd.data import folder
from fakd.data.groups import proposed_group, read_group
from fakd.errors import InputError
from fakd.inspection import inspect_data

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
        ("(", "not a regular expression"),
        ("clip", "one part in parentheses"),
        ("none.txt", "which does not exist"),
    ],
)
def test_what_names_no_groups_is_refused(tmp_path, value, words):
    with pytest.raises(InputError, match=words):
        read_group(value, tmp_path / "dataset.yaml")


CITIES = {"frankfurt": (2, 997), "lindau": (59, 0), "munster": (174, 0)}
CITYSCAPES = [
    f"{city}_{clip:06}_{19 + 331 * clip + 7 * step if every else 19:06}"
    for city, (clips, every) in CITIES.items()
    for clip in range(clips)
    for step in range(130 if every else 1)
]


@pytest.mark.parametrize(
    ("names", "groups"),
    [
        ([f"0016E5_{frame:05}" for frame in range(7959, 8161, 2)], {"0016E5"}),
        (
            [f"{clip}{frame:05}" for clip in ("0001TP_", "Seq05VD_f") for frame in range(20)],
            {"0001TP", "Seq05VD_f"},
        ),
        (CITYSCAPES, set(CITIES)),
        ([f"frame_{frame:06}" for frame in range(40)], {"frame"}),
        ([f"frame{frame:04}" for frame in (3, 4, 9, 12, 31, 57, 80, 81)], {"frame"}),
        ([f"video1_frame_{frame}" for frame in range(20)], {"video1_frame"}),
        ([f"MVI_1234_{frame:05}" for frame in range(20)], {"MVI_1234"}),
        ([f"take-{clip}/{frame:03}" for clip in "12" for frame in range(9)], {"take-1", "take-2"}),
        ([f"GOPR001{clip}-{frame}" for clip in "1" for frame in range(0, 90, 9)], {"GOPR0011"}),
    ],
)  # fmt: skip
def test_frames_are_known_by_their_names(names, groups):
    group = read_group(proposed_group(names), Path("dataset.yaml"))
    assert {group(name) for name in names} == groups


@pytest.mark.parametrize("step", [1, 5])
@pytest.mark.parametrize(
    "form",
    [
        "IMG_{:04}", "DSC_{:04}", "DSC{:05}", "DSCN{:04}", "P101{:04}", "_MG_{:04}", "DJI_{:04}",
        "{:04}", "{}", "photo{}", "image_{:05}", "ADE_val_{:08}", "COCO_val2014_{:012}",
        "2007_{:06}", "IMG_20240501_{:06}", "20240501_{:06}", "PXL_20240501_{:09}",
        "IMG-20240501-WA{:04}", "case_{:05}_0000", "{:06}_10", "clip{}",
    ],
)  # fmt: skip
def test_numbers_of_cameras_and_of_data_sets_are_no_frames(form, step):
    assert proposed_group([form.format(number) for number in range(1, 500, step)]) is None


def test_photos_of_several_days_or_cards_are_no_frames():
    days = [f"IMG_202405{day:02}_{time:06}" for day in range(1, 9) for time in range(0, 9000, 97)]
    cards = [f"{number // 100}CANON/IMG_{number:04}" for number in range(100, 500)]
    years = [f"{year}_{number:06}" for year in (2007, 2008) for number in range(0, 900, 11)]
    for names in (days, cards, years, [f"{number}_{number + 1}" for number in range(50)]):
        assert proposed_group(names) is None
    assert proposed_group([f"clip1_{frame}" for frame in range(7)]) is None


def test_a_description_has_a_margin_of_its_own(clips):
    described(clips)
    assert folder(clips).worthwhile == 1
    described(clips, worthwhile=0.5)
    assert folder(clips).worthwhile == 0.5
    for wrong in (0, "much", True):
        with pytest.raises(InputError, match="worthwhile must be mIoU between 0 and 100"):
            described(clips, worthwhile=wrong)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_list_of_groups_is_read_as_other_lists_and_what_it_lacks_is_said(clips, encoding):
    lines = "".join(f"{name}.png;{name[:5]}\r\n" for name in NAMES)
    (clips / "groups.csv").write_text(lines, encoding=encoding)
    assert described(clips, group="groups.csv") == [name[:5] for name in NAMES]
    assert not [each for each in folder(clips).remarks if "group" in each]
    (clips / "groups.csv").write_text("elsewhere/" + lines.splitlines()[0], encoding=encoding)
    (said,) = [each for each in folder(clips).remarks if "group" in each]
    assert "val: 8 of 8 images are in no group of" in said
    assert "count as independent" in said


def test_a_pattern_that_puts_nothing_together_is_said(clips):
    assert described(clips, group=r"(.+\d)$") == NAMES
    assert any("puts no two of 8 images" in each for each in folder(clips).remarks)


def test_data_check_proposes_groups_until_they_are_declared(clips):
    described(clips)
    said = [each.text for each in inspect_data(clips).findings]
    (line,) = [text for text in said if "look like frames of 2 clips" in text]
    described(clips, group=line.split("group: '")[1].split("'")[0])
    assert not any("frames" in each.text for each in inspect_data(clips).findings)


def test_data_check_proposes_no_group_that_holds_all(clips):
    described(clips)
    for name in NAMES:
        for kind in ("images", "masks"):
            file = clips / "val" / kind / f"{name}.png"
            file.rename(file.with_name(f"clip7_{NAMES.index(name)}.png"))
    said = " ".join(each.text for each in inspect_data(clips).findings)
    assert "look like frames of 1 clip, so scores describe that clip alone" in said
    assert "group:" not in said
