import codecs
import errno
import os
import re
import subprocess
import sys

import pytest
import yaml

from fakd.errors import InputError
from fakd.files import expand_user, read_yaml, write_atomically, write_text, yaml_text


def test_a_full_disk_keeps_the_old_file_and_leaves_no_rubbish(tmp_path):
    path = tmp_path / "weights"
    write_atomically(path, lambda file: file.write_text("old"))

    def fill(file):
        file.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(InputError, match=r"No space left on device; the previous one is intact"):
        write_atomically(path, fill)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_errors_that_are_not_the_disks_pass_through(tmp_path):
    def fail(file):
        raise KeyError("mine")

    with pytest.raises(KeyError):
        write_atomically(tmp_path / "a", fail)
    assert not list(tmp_path.iterdir())


def test_files_are_as_open_to_others_as_the_user_lets_them_be(tmp_path):
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "a", lambda file: (file.touch(0o600), file.write_text("x")))
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("name", ["x" * 255, "\u6771" * 85])
def test_names_may_have_all_bytes_that_the_system_allows(tmp_path, name):
    write_text(tmp_path / name, os.fsdecode(b"caf\xe9"))
    assert (tmp_path / name).read_bytes() == b"caf\xe9"
    assert list(tmp_path.iterdir()) == [tmp_path / name]


LIMITED = """
import resource, sys
from pathlib import Path
import numpy as np
from safetensors.numpy import save_file
from fakd.errors import InputError
from fakd.files import write_atomically

def stream(file):
    with file.open("wb") as open_file:
        np.savez(open_file, array)

array = np.random.default_rng(0).random(10_000)
ways = {
    "text": lambda file: file.write_text("x" * 10_000),
    "npz": stream,
    "safetensors": lambda file: save_file({"a": array}, file),
}
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
for name, write in ways.items():
    try:
        write_atomically(Path(sys.argv[1], name), write)
    except InputError as error:
        print(error)
"""


def test_the_systems_reason_is_told_whichever_library_meets_it(tmp_path):
    # In a process of its own: the limit, which acts as a quota does, holds for test logs as well.
    done = subprocess.run(
        [sys.executable, "-B", "-c", LIMITED, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
    )
    for name, line in zip(("text", "npz", "safetensors"), done.stdout.splitlines(), strict=True):
        assert re.search(f"could not write .*{name}: File too large", line)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"a: 1\nb: 2\na: 3\n", "a.yaml: a occurs twice, in lines 1 and 3; keep one"),
        (b"b:\n  c: 1\n  c: 1\n", "a.yaml: c occurs twice, in lines 2 and 3"),
        (b"a: [\nb: 1\n", "a.yaml: line 1: not valid YAML"),
        (b"a: 'x\nb: 2\n", "a.yaml: line 1: not valid YAML: while scanning a quoted scalar"),
        (b"a:\n\tb: 1\n", "a.yaml: line 2: .* indent with spaces"),
        (b"a: 1\nb: caf\xe9\n", "a.yaml must be UTF-8, and is not in line 2; save it as UTF-8"),
        (b"- 1\n", "a.yaml must contain lines of the form 'key: value': it contains a list"),
        (b"", "a.yaml must contain .*: it contains nothing"),
        (b"[" * 5000, "a.yaml: not valid YAML"),
        (b"a: !!python/name:os.system x\n", "a.yaml: line 1: not valid YAML"),
        (b"a: \x00\n", "a.yaml must be UTF-8, and holds characters of 0; save it as UTF-8"),
        ("a: 1\n".encode("utf-32"), r"a\.yaml must be UTF-8, .*; save it as UTF-8"),
        ("a: 1\n".encode("utf-16-le"), "a.yaml must be UTF-8, .*; save it as UTF-8"),
    ],
)
def test_what_is_wrong_with_yaml_is_said_in_a_line_with_its_place(tmp_path, content, reason):
    (tmp_path / "a.yaml").write_bytes(content)
    with pytest.raises(InputError, match=reason) as caught:
        read_yaml(tmp_path / "a.yaml")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_yaml_is_read_by_its_mark(tmp_path, encoding):
    (tmp_path / "a.yaml").write_bytes("a: Straße\n".encode(encoding))
    assert read_yaml(tmp_path / "a.yaml") == {"a": "Straße"}
    assert codecs.BOM_UTF8 not in (tmp_path / "a.yaml").read_text(encoding).encode()


def test_numbers_dates_and_anchors_are_what_their_writers_mean(tmp_path):
    (tmp_path / "a.yaml").write_text(
        "x-shared: &s {rate: 1e-2, power: 5E3}\n.more: 1\na: {<<: *s, power: 1}\nrun: 2026-11-22\n"
        "steps: [010, 1:30, 10, -3, 0, 0x1f]\n"
    )
    assert read_yaml(tmp_path / "a.yaml") == {
        "a": {"rate": 0.01, "power": 1},
        "run": "2026-11-22",
        "steps": ["010", "1:30", 10, -3, 0, 31],
    }


def test_text_that_looks_like_something_else_is_written_so_that_it_stays_text():
    content = {"a": "1e5", "b": "1e-2", "c": "12:30", "d": "no", "e": "車", "f": 1e-5, "g": "010"}
    assert yaml.safe_load(yaml_text(content)) == content


def test_a_null_character_is_in_no_path():
    with pytest.raises(InputError, match="null character"):
        expand_user("runs/a\0b")


def test_folders_made_for_a_file_are_gone_again_where_it_fails(tmp_path):
    def fill(file):
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "there").mkdir()
    with pytest.raises(InputError):
        write_atomically(tmp_path / "there" / "a" / "b" / "file", fill)
    assert [path.name for path in tmp_path.rglob("*")] == ["there"]
    write_text(tmp_path / "there" / "a" / "b" / "file", "x")
    with pytest.raises(InputError):
        write_atomically(tmp_path / "there" / "a" / "new" / "file", fill)
    assert (tmp_path / "there" / "a" / "b" / "file").read_text() == "x"
    assert not (tmp_path / "there" / "a" / "new").exists()
