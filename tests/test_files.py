import errno
import os

import pytest

from fakd.errors import InputError
from fakd.files import write_atomically, write_text


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
