"""`run_module` with small real child modules: progress, failures, and no survivor whatever happens."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import BaseModel

from model.progress import Progress
from tasks.errors import StageError, UserError
from tasks.workers.launch import run_module, stopping_children
from tests.processes import is_running

REPOSITORY = Path(__file__).parents[4]


class Job(BaseModel):
    pid_file: str


PROGRESS_LINE = '{"stage": "sleep", "done": 1, "total": 2, "unit": "naps", "per_second": 0.5}'

BAD_INPUT = '{"error": "vocab.txt: empty file", "bad_input": true}'

# Reports its own pid and that of a grandchild in its group, then sleeps.
SLEEPER = f"""
import json, os, subprocess, sys, time, pathlib
job = json.loads(pathlib.Path(sys.argv[sys.argv.index("--config") + 1]).read_text())
grandchild = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
pathlib.Path(job["pid_file"]).write_text(f"{{os.getpid()}} {{grandchild.pid}}")
print({PROGRESS_LINE!r}, flush=True)
time.sleep(60)
"""


@pytest.fixture
def child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes a module `child_module` of this source, importable by the child process."""
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{REPOSITORY}")

    def make(source: str) -> None:
        (tmp_path / "child_module.py").write_text(source)

    return make


def run(tmp_path: Path, on_progress: Callable[[Progress], None] = lambda _: None, grace_seconds: float = 5) -> None:
    job = Job(pid_file=str(tmp_path / "pids"))
    run_module("child_module", job, tmp_path / "run/job.json", tmp_path / "run/log.txt", on_progress, grace_seconds)


def wait_until(condition: Callable[[], bool], seconds: float = 10) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def pids(tmp_path: Path) -> list[int]:
    return [int(pid) for pid in (tmp_path / "pids").read_text().split()]


def test_progress_arrives_and_both_streams_are_logged(child: Callable[[str], None], tmp_path: Path) -> None:
    child(f"import sys\nprint('a library speaks')\nprint({PROGRESS_LINE!r})\nprint('on stderr', file=sys.stderr)")
    reports: list[Progress] = []
    run(tmp_path, reports.append)
    assert [(report.done, report.total, report.unit) for report in reports] == [(1, 2, "naps")]
    log = (tmp_path / "run/log.txt").read_text()
    assert "a library speaks" in log and "on stderr" in log and '"naps"' in log


def test_bad_input_is_a_user_error_in_the_childs_words(child: Callable[[str], None], tmp_path: Path) -> None:
    child(f"import sys\nprint({BAD_INPUT!r})\nprint('noise', file=sys.stderr)\nsys.exit(2)")
    with pytest.raises(UserError, match=r"^vocab.txt: empty file$"):
        run(tmp_path)


def test_what_a_failed_child_said_comes_with_the_name_of_its_log(child: Callable[[str], None], tmp_path: Path) -> None:
    child(f"import sys\nprint({BAD_INPUT.replace('true', 'false')!r})\nsys.exit(1)")
    with pytest.raises(StageError, match=r"^vocab.txt: empty file \(log: .*log\.txt\)$"):
        run(tmp_path)


def test_failure_names_the_log_and_shows_its_end(child: Callable[[str], None], tmp_path: Path) -> None:
    child("raise OSError('disk full')")
    with pytest.raises(RuntimeError, match=r"ended with 1; its log is .*log\.txt(.|\n)*disk full"):
        run(tmp_path)


def test_signal_is_named(child: Callable[[str], None], tmp_path: Path) -> None:
    child("import os\nos.kill(os.getpid(), 9)")
    with pytest.raises(RuntimeError, match="was killed by SIGKILL"):
        run(tmp_path)


def test_exception_in_progress_ends_the_whole_group(child: Callable[[str], None], tmp_path: Path) -> None:
    child(SLEEPER)

    def interrupt(_: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, interrupt)
    assert wait_until(lambda: not any(is_running(pid) for pid in pids(tmp_path)))


def test_child_that_ignores_sigterm_is_killed_after_the_grace(child: Callable[[str], None], tmp_path: Path) -> None:
    child("import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + SLEEPER)

    def interrupt(_: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, interrupt, grace_seconds=0.3)
    assert wait_until(lambda: not any(is_running(pid) for pid in pids(tmp_path)))


def test_grandchild_left_behind_by_a_finished_child_is_killed(child: Callable[[str], None], tmp_path: Path) -> None:
    child(SLEEPER.replace("time.sleep(60)\n", "\n"))
    run(tmp_path)
    assert wait_until(lambda: not is_running(pids(tmp_path)[1]))


def test_interrupt_of_the_main_thread_stops_a_child_of_another(child: Callable[[str], None], tmp_path: Path) -> None:
    child(SLEEPER)
    errors: list[BaseException] = []

    def lane() -> None:
        try:
            run(tmp_path)
        except RuntimeError as error:
            errors.append(error)

    thread = threading.Thread(target=lane)
    with pytest.raises(KeyboardInterrupt), stopping_children(grace_seconds=5):
        thread.start()
        assert wait_until((tmp_path / "pids").exists)
        raise KeyboardInterrupt
    thread.join(5)
    assert "SIGTERM" in str(errors[0])
    assert wait_until(lambda: not any(is_running(pid) for pid in pids(tmp_path)))


@pytest.mark.skipif(sys.platform != "linux", reason="the parent-death signal is Linux's")
def test_kill_9_of_the_parent_kills_the_child(child: Callable[[str], None], tmp_path: Path) -> None:
    child(SLEEPER)
    code = (
        "from pathlib import Path; from pydantic import create_model; from tasks.workers.launch import run_module;"
        f"t = Path({str(tmp_path)!r});"
        "run_module('child_module', create_model('Job', pid_file=str)(pid_file=str(t / 'pids')), t / 'job.json',"
        " t / 'log.txt', lambda _: None)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=REPOSITORY)
    try:
        assert wait_until(lambda: (tmp_path / "pids").exists() and len(pids(tmp_path)) == 2)
        child_pid, grandchild_pid = pids(tmp_path)
        assert is_running(child_pid)
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        assert wait_until(lambda: not is_running(child_pid))
    finally:
        parent.kill()
        os.kill(grandchild_pid, signal.SIGKILL)  # A sleeper of the test's own; the kernel signals children alone.


@pytest.mark.slow("torchrun with two processes")
def test_processes_that_work_together_speak_through_one_and_stop_together(
    child: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under torchrun, whose own exit status and group say nothing of its processes."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    child(
        f"""
import os, pathlib, sys, time
rank = int(os.environ["RANK"])
assert os.environ["WORLD_SIZE"] == "2"
pathlib.Path({str(tmp_path)!r}, f"rank{{rank}}").write_text(str(os.getpid()))
if rank == 0 and not pathlib.Path({str(tmp_path)!r}, "refuse").exists():
    while not pathlib.Path({str(tmp_path)!r}, "rank1").exists():
        time.sleep(0.02)
    print({PROGRESS_LINE!r}, flush=True)
elif rank == 0:
    print({BAD_INPUT!r}, flush=True)
    sys.exit(2)
time.sleep(60)
"""
    )

    def together(on_progress: Callable[[Progress], None]) -> None:
        paths = tmp_path / "run/job.json", tmp_path / "run/log.txt"
        with stopping_children():
            run_module("child_module", Job(pid_file=""), *paths, on_progress, num_processes=2)

    def interrupt(_: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        together(interrupt)
    ranks = [int((tmp_path / f"rank{rank}").read_text()) for rank in range(2)]
    assert wait_until(lambda: not any(is_running(pid) for pid in ranks))

    (tmp_path / "refuse").touch()
    with pytest.raises(UserError, match=r"^vocab.txt: empty file$"):
        together(lambda _: None)
    ranks = [int((tmp_path / f"rank{rank}").read_text()) for rank in range(2)]
    assert wait_until(lambda: not any(is_running(pid) for pid in ranks))
