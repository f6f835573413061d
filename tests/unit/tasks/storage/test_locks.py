"""Work under one name is done by one process at a time, and nothing of the lock is left."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tasks.errors import StageError
from tasks.storage.locks import alone, check_free
from tasks.storage.root import Root

REPOSITORY = Path(__file__).parents[4]


def test_work_of_one_name_is_done_once_at_a_time(tmp_path: Path) -> None:
    root = Root(str(tmp_path))
    with alone(root, "run-1", "training run-1"):
        with (
            pytest.raises(
                StageError, match=r"another process is training run-1 under .* just now; let it end, then run"
            ),
            alone(root, "run-1", "training run-1"),
        ):
            pytest.fail("two are at it")
        with pytest.raises(StageError, match="another process is training run-1 under"):
            check_free(root, "run-1", "training run-1")
        check_free(root, "run-2", "training run-2")
        with alone(root, "run-2", "training run-2"):
            pass
    assert list(tmp_path.iterdir()) == []
    check_free(root, "run-1", "training run-1")
    assert list(tmp_path.iterdir()) == []
    with alone(root, "run-1", "training run-1"):
        pass


def test_a_root_on_an_object_store_is_locked_on_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    root = Root("memory://locks")
    with (
        alone(root, "run", "training"),
        pytest.raises(StageError, match="under memory://locks"),
        alone(root, "run", "training"),
    ):
        pytest.fail("two are at it")
    assert root.names("") == []


def test_a_killed_process_leaves_a_file_and_no_lock(tmp_path: Path) -> None:
    program = f"""
import os, signal
from tasks.storage.locks import alone
from tasks.storage.root import Root
with alone(Root({str(tmp_path)!r}), "run", "training"):
    os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, check=False)
    assert [path.name for path in (tmp_path / "locks").iterdir()] == ["run.lock"]
    with alone(Root(str(tmp_path)), "run", "training"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_of_many_at_once_never_two_are_inside(tmp_path: Path) -> None:
    root, inside, done = Root(str(tmp_path)), [], []

    def work() -> None:
        while len(done) < 200:
            try:
                with alone(root, "run", "training"):
                    inside.append(1)
                    assert len(inside) == 1
                    inside.pop()
                    done.append(1)
            except StageError:
                pass

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(done) >= 200 and not inside
