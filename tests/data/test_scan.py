import json
import os
import sys
import time

import pytest

from fakd.data import scan
from fakd.data.scan import cache_folder, files_below
from fakd.errors import InputError

BIG = scan._WORTH_KEEPING


@pytest.fixture
def big(tmp_path):
    """A folder whose list is worth keeping, last changed an hour ago."""
    folder = tmp_path / "big"
    (folder / "town").mkdir(parents=True)
    for number in range(BIG):
        (folder / "town" / f"{number}.png").touch()
    (folder / ".hidden").touch()
    return age(folder)


def age(folder, seconds=3600):
    then = time.time() - seconds
    for directory, _, _ in os.walk(folder):
        os.utime(directory, (then, then))
    return folder


def remembered(cache):
    return list(cache.glob("scans/*.json"))


def test_lists_relative_paths_in_order_without_hidden_files_and_folders(tmp_path):
    hidden = (".DS_Store", ".ipynb_checkpoints/a.png", "a/__MACOSX/z.png", "a/@eaDir/z.png/t.jpg")
    for name in ("b.png", "a/z.png", "a/b/c.txt", *hidden):
        (tmp_path / "x" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "x" / name).touch()
    assert files_below(tmp_path / "x") == ["a/b/c.txt", "a/z.png", "b.png"]


def test_follows_links_but_not_in_circles(tmp_path):
    (tmp_path / "x/in").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/a.png").touch()
    (tmp_path / "x/one").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "x/two").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "x/in/around").symlink_to(tmp_path / "x")
    (tmp_path / "x/outside").symlink_to(tmp_path)
    (tmp_path / "x/itself.png").symlink_to("itself.png")
    (tmp_path / "elsewhere/self").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "x/broken.png").symlink_to(tmp_path / "nothing")
    assert files_below(tmp_path / "x") == ["broken.png", "itself.png", "one/a.png", "two/a.png"]


def test_a_big_settled_folder_is_listed_once(big, cache, monkeypatch):
    first = files_below(big)
    assert len(first) == BIG
    assert len(remembered(cache)) == 1
    monkeypatch.setattr(os, "scandir", None)
    assert files_below(big) == first


@pytest.mark.parametrize("place", ["", "town", "new"])
def test_a_changed_folder_is_listed_again(big, cache, place):
    before = files_below(big)
    (big / place).mkdir(exist_ok=True)
    (big / place / "more.png").touch()
    assert set(files_below(big)) - set(before) == {f"{place}/more.png".lstrip("/")}


def test_a_removed_or_exchanged_folder_is_noticed(big, cache, tmp_path):
    files_below(big)
    times = os.stat(big).st_mtime_ns, os.stat(big / "town").st_mtime_ns
    (big / "town").rename(tmp_path / "was")
    (big / "town").mkdir()
    os.utime(big / "town", ns=(times[1], times[1]))
    os.utime(big, ns=(times[0], times[0]))
    assert files_below(big) == []


def test_a_folder_just_changed_is_not_remembered(big, cache):
    os.utime(big / "town")
    files_below(big)
    assert not remembered(cache)
    age(big, -3600)
    files_below(big)
    assert not remembered(cache)
    age(big)
    files_below(big)
    assert remembered(cache)


def test_small_folders_leave_no_trace(tmp_path, cache):
    (tmp_path / "x").mkdir()
    (tmp_path / "x/a.png").touch()
    files_below(age(tmp_path / "x"))
    assert not cache.exists()


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"format": 1}', b"\xff", "whole but wrong"]
)
def test_a_damaged_memory_is_rebuilt(big, cache, content):
    whole = files_below(big)
    (memory,) = remembered(cache)
    if content == "whole but wrong":
        wrong = json.loads(memory.read_text()) | {"files": [1, 2]}
        content = json.dumps(wrong)
    memory.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert files_below(big) == whole
    assert json.loads(memory.read_text())["files"] == whole


def test_without_a_writable_cache_it_works_all_the_same(big, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    for setting in (str(tmp_path / "file"), "off"):
        monkeypatch.setenv("FAKD_CACHE", setting)
        assert len(files_below(big)) == BIG
    assert cache_folder() is None


def test_where_the_cache_is(monkeypatch, tmp_path):
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("FAKD_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert str(cache_folder()) == "/x/fakd"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert str(cache_folder()) == "/home/me/.cache/fakd"


def test_it_says_so_when_listing_takes_long(big, cache, monkeypatch, capsys):
    files_below(big)
    assert capsys.readouterr() == ("", "")
    age(big, 7200)
    monkeypatch.setattr(scan, "_PATIENCE", 0.0)
    files_below(big)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert f"listing the files of {big}" in err


@pytest.mark.skipif(
    sys.platform == "win32" or not hasattr(os, "geteuid") or os.geteuid() == 0,
    reason="the super-user may read everything",
)
def test_a_folder_that_may_not_be_read_is_named(tmp_path):
    (tmp_path / "x/secret").mkdir(parents=True)
    (tmp_path / "x/secret").chmod(0)
    try:
        with pytest.raises(InputError, match=r"cannot list .*secret: Permission denied"):
            files_below(tmp_path / "x")
    finally:
        (tmp_path / "x/secret").chmod(0o755)
