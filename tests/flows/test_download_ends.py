"""A download that is not let alone: a second one beside it, signals, a worker killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.faults import serving

REPOSITORY = Path(__file__).parents[2]
SETTINGS = ("allow_private_addresses=true", "min_side=8", "threads=2", "env_proxies=false", "read_timeout_seconds=60")


@pytest.fixture
def server() -> Iterator[Any]:
    with serving() as running:
        yield running


def command(root: Path, *more: str) -> list[str]:
    options = [part for setting in SETTINGS for part in ("--set", setting)]
    rows = ["--rows", str(root.parent / "rows.tsv"), "--shard-size", "4", "--root", str(root), "--workers", "1"]
    return [sys.executable, "-m", "flows", "download", *rows, *options, "--set", "deadline_seconds=60", *more]


@pytest.fixture
def running(server: Any, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A download of three shards, held up in the second one by a server that says nothing; ended with the test."""
    paths = ["ok", "ok", "ok", "ok", "ok", "hang", "ok", "ok", "ok", "ok", "ok", "ok"]
    rows = "".join(f"caption {number}\t{server.url}/{path}/{number}\n" for number, path in enumerate(paths))
    (tmp_path / "rows.tsv").write_text(rows)
    (tmp_path / "temporary").mkdir()
    process = subprocess.Popen(
        command(tmp_path / "root"),
        cwd=REPOSITORY,
        env=os.environ | {"TMPDIR": str(tmp_path / "temporary")},
        stderr=subprocess.PIPE,
        text=True,
    )
    journal = tmp_path / "root/datasets/web/train/journal/00001.journal"
    wait_for(lambda: journal.exists() and all(f"00000000{row}".encode() in journal.read_bytes() for row in (4, 6, 7)))
    wait_for(lambda: server.requests["/hang/5"] == 1)
    yield process
    process.kill()
    process.communicate(timeout=60)


def wait_for(happened: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_second_download_of_the_same_shards_is_refused_and_changes_nothing(
    running: subprocess.Popen[str], tmp_path: Path
) -> None:
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "root").rglob("*") if path.is_file()}
    second = command(tmp_path / "root", "--accept-changes", "--set", "short_side=64")
    refused = subprocess.run(second, cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    assert refused.returncode == 2
    assert "another command is downloading shard web/train/00001" in refused.stderr
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "root").rglob("*") if path.is_file()} == before
    other = subprocess.run(command(tmp_path / "root", "--shards", "2"), cwd=REPOSITORY, timeout=60)
    assert other.returncode == 0
    assert running.poll() is None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signal_to_end_leaves_nothing_behind_but_what_was_fetched(
    running: subprocess.Popen[str], tmp_path: Path, number: signal.Signals
) -> None:
    running.send_signal(number)
    _, said = running.communicate(timeout=60)
    assert running.returncode == 128 + number
    assert said.endswith("interrupted; the same command goes on from here\n")
    assert "Traceback" not in said and "leaked" not in said
    assert list((tmp_path / "root").rglob("*.journal")) and not list((tmp_path / "temporary").iterdir())


def test_killed_worker_is_one_sentence_and_the_same_command_goes_on(
    running: subprocess.Popen[str], server: Any, tmp_path: Path
) -> None:
    os.kill(worker_of(running.pid), signal.SIGKILL)
    _, said = running.communicate(timeout=60)
    assert running.returncode == 1
    assert said.splitlines()[-1].startswith("a worker process was killed")
    assert "ERROR" not in said and "Traceback" not in said
    again = command(tmp_path / "root", "--set", "read_timeout_seconds=0.2", "--set", "retries=0")
    assert subprocess.run(again, cwd=REPOSITORY, timeout=60).returncode == 0
    assert {path: count for path, count in server.requests.items() if count != 1} == {"/hang/5": 2}


def worker_of(parent: int) -> int:
    children = [
        child.pid
        for child in psutil.Process(parent).children()
        if any("spawn_main" in part for part in child.cmdline())
    ]
    (worker,) = children
    return worker
