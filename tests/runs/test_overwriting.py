import os
from pathlib import Path

import pytest

from fakd.errors import InputError
from fakd.runs.folder import BEST, LAST, RESULT, RunFolder, write_json
from fakd.runs.overwriting import kept_runs, remove, set_aside, settle
from fakd.signals import Interrupted

OLD = {"schedule": {"steps": 10}, "seed": 0}
NEW = {"schedule": {"steps": 20}, "seed": 0}
OURS = ("result", "last", "best", "recipe")


def contents(folder):
    files = (file for file in folder.rglob("*") if file.is_file() and file.name != "run.lock")
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


@pytest.fixture
def finished(tmp_path):
    """A finished run, and what is in it."""
    with RunFolder(tmp_path / "a", OLD):
        for name in (LAST, BEST, "notes.txt"):
            (tmp_path / "a" / name).write_bytes(b"old")
        (tmp_path / "a" / "best").mkdir()
        (tmp_path / "a" / "best" / "model.safetensors").write_bytes(b"old")
        write_json(tmp_path / "a" / RESULT, {"miou": 1})
    return tmp_path / "a", contents(tmp_path / "a")


def overwrite(path, ending, *written):
    """Begin another run there, which writes files and then ends."""
    with RunFolder(path, NEW, "overwrite") as folder:
        for name in written:
            (path / name).write_bytes(b"new")
        assert f"kept in {kept_runs(path)[-1]}" in folder.remarks[0]
        raise ending


@pytest.mark.parametrize("ending", [InputError("bad"), Interrupted(2), KeyboardInterrupt()])
def test_a_new_run_that_ends_before_a_checkpoint_gives_the_old_one_back(finished, ending):
    path, before = finished
    with pytest.raises(type(ending)):
        overwrite(path, ending, "metrics.csv", BEST)
    assert contents(path) == before


def test_the_old_run_is_there_until_the_new_one_has_a_result(finished):
    path, _ = finished
    with pytest.raises(KeyboardInterrupt):
        overwrite(path, KeyboardInterrupt(), BEST, LAST)
    # That one has something to go on from, and so is not lost either.
    with pytest.raises(InputError):
        overwrite(path, InputError("bad"), BEST)
    assert (path / BEST).read_bytes() == (path / LAST).read_bytes() == b"new"
    assert (path / "overwritten-1" / BEST).read_bytes() == b"old"
    with RunFolder(path, OLD, "overwrite"):
        write_json(path / RESULT, {"miou": 2})
    assert not kept_runs(path)
    assert set(contents(path)) == {"environment.json", "notes.txt", "recipe.yaml", RESULT}


def test_after_a_kill_the_next_command_finds_the_old_run(finished):
    path, before = finished
    RunFolder(path, NEW, "overwrite")._held.close()  # as the kernel does
    with pytest.raises(InputError, match="finished run"):
        RunFolder(path, NEW)
    assert contents(path) == before
    RunFolder(path, NEW, "overwrite")._held.close()
    assert RunFolder(path, OLD, "reuse").result == {"miou": 1}


class Killed(BaseException):
    pass


def test_whenever_a_kill_comes_the_old_run_or_the_new_one_is_whole(tmp_path, monkeypatch):
    """Every call that changes the disk is the last one once, in both directions."""
    left = [0]

    def dying(call):
        def dies(*arguments, **options):
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            return call(*arguments, **options)

        return dies

    def run(folder, of, names=OURS):
        folder.mkdir(exist_ok=True)
        for name in names:
            (folder / name).write_text(of)

    def killed_at(number, work):
        with monkeypatch.context() as patch:
            for owner, name in (
                (os, "replace"),
                (Path, "unlink"),
                (Path, "mkdir"),
                (Path, "rmdir"),
            ):
                patch.setattr(owner, name, dying(getattr(owner, name)))
            left[0] = number
            try:
                work()
            except Killed:
                return True
        return False

    def story(folder, new, number):
        """Overwrite, let the new run come so far, settle; tell whether that was survived."""

        def work():
            if not kept_runs(folder):
                set_aside(folder, OURS)
                left[0] += 100
                run(folder, "new", new)
                left[0] -= 100
            settle(folder, OURS, "result", "last")

        died = killed_at(number, work)
        for more in range(12):  # and again while that is settled
            killed_at(more, lambda: settle(folder, OURS, "result", "last"))
        settle(folder, OURS, "result", "last")
        return died

    for new, expected in ((("recipe", "best"), "old"), (OURS, "new")):
        for number in range(40):
            folder = tmp_path / f"{expected}-{number}"
            run(folder, "old")
            died = story(folder, new, number)
            found = {file.name: file.read_text() for file in folder.iterdir()}
            assert set(found) == set(OURS)
            assert len(set(found.values())) == 1
            assert set(found.values()) <= {"old", expected}
            if not died:
                assert set(found.values()) == {expected}
                break
        assert 5 < number < 39


def test_only_what_runs_write_is_moved_and_removed(tmp_path):
    for name in ("recipe", "mine"):
        (tmp_path / name).write_text("")
    aside = set_aside(tmp_path, OURS)
    (aside / "mine too").write_text("")
    (tmp_path / "recipe").write_text("")
    (tmp_path / "result").write_text("")
    settle(tmp_path, OURS, "result", "last")
    assert (tmp_path / "mine").exists()
    assert [file.name for file in aside.iterdir()] == ["mine too"]
    remove(tmp_path, OURS)
    assert {file.name for file in tmp_path.iterdir()} == {"mine", aside.name}
    assert set_aside(tmp_path, OURS) is None
