"""Files are published and locked also where the file system does less than a local disk."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from model import publish
from model.publish import Lock, sync_folder, write_whole


@pytest.fixture
def refuse(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str, int], None]:
    """refuse("flock", errno): the file system of `tmp_path / "root"` answers so; of fsync, for folders only."""
    (tmp_path / "root").mkdir()
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    publish._warn_of_no_locks.cache_clear()

    def is_there(descriptor: int) -> bool:
        return Path(f"/proc/self/fd/{descriptor}").readlink().is_relative_to(tmp_path / "root")

    def refuse(call: str, number: int) -> None:
        module = fcntl if call == "flock" else os
        real = getattr(module, call)

        def answer(descriptor: int, *arguments: int) -> None:
            is_file = call == "fsync" and stat.S_ISREG(os.fstat(descriptor).st_mode)
            if is_there(descriptor) and not is_file:
                raise OSError(number, os.strerror(number))
            real(descriptor, *arguments)

        monkeypatch.setattr(module, call, answer)

    return refuse


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_where_there_are_no_locks_processes_of_this_machine_are_kept_apart(
    refuse: Callable[[str, int], None], tmp_path: Path, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    refuse("flock", number)
    path = tmp_path / "root/run.lock"
    with caplog.at_level(logging.WARNING), Lock(path) as one, Lock(path) as other, Lock(path, create=False) as third:
        assert one.try_hold()
        assert not other.try_hold() and third.is_held()
        one.close()
        assert not third.is_held()
        assert other.try_hold()
        with Lock(tmp_path / "root/another.lock") as another:
            assert another.try_hold()
    assert caplog.text.count("knows no locks") == 1 and str(tmp_path / "root") in caplog.text


def test_another_error_of_a_lock_is_one(refuse: Callable[[str, int], None], tmp_path: Path) -> None:
    refuse("flock", errno.EIO)
    with Lock(tmp_path / "root/run.lock") as lock, pytest.raises(OSError, match="Input/output error"):
        lock.hold()


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.EBADF])
def test_a_folder_that_cannot_be_synced_holds_nothing_up(
    refuse: Callable[[str, int], None], tmp_path: Path, number: int
) -> None:
    refuse("fsync", number)
    write_whole(tmp_path / "root/a.json", "whole")
    assert (tmp_path / "root/a.json").read_text() == "whole"


def test_a_folder_on_a_broken_disk_is_an_error(refuse: Callable[[str, int], None], tmp_path: Path) -> None:
    refuse("fsync", errno.EIO)
    with pytest.raises(OSError, match="Input/output error"):
        sync_folder(tmp_path / "root")


def test_a_lock_is_on_its_file_until_that_is_another(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    with Lock(path) as lock:
        assert lock.is_on(path)
        path.unlink()
        assert not lock.is_on(path)
        path.touch()
        assert not lock.is_on(path)
    with pytest.raises(FileNotFoundError):
        Lock(tmp_path / "absent.lock", create=False)
