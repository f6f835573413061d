"""Runs end in order when their worker is stopped, or killed. Prefect's own worker is played: it is what takes long."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="what outlives its parent is killed by Linux alone")

REPOSITORY = Path(__file__).parents[4]

RUN = """
import signal, sys, time
from pathlib import Path
from flows.operate.deployed import end_with_worker

def stop(number, frame):
    time.sleep(0.5)
    print("a line for the worker", flush=True)
    Path("ended").write_text("in order")
    sys.exit(1)

signal.signal(signal.SIGTERM, stop)
end_with_worker()
Path("begun").touch()
time.sleep(60)
"""

WORKER = f"""
import signal, subprocess, sys
from pathlib import Path

run = subprocess.Popen([sys.executable, "-c", {RUN!r}], stdout=subprocess.PIPE, start_new_session=True)

def stop(number, frame):
    if run.poll() is None:  # What Prefect's does with a run.
        run.kill()
        Path("killed").touch()
    sys.exit(0)

signal.signal(signal.SIGTERM, stop)
while True:
    signal.pause()
"""


@pytest.fixture
def worker(tmp_path: Path) -> subprocess.Popen[bytes]:
    """`run_worker` in a process of its own, once its run has begun."""
    played = tmp_path / "played" / "prefect"
    played.mkdir(parents=True)
    (played / "__init__.py").touch()
    (played / "__main__.py").write_text(WORKER)
    process = subprocess.Popen(
        [sys.executable, "-c", "import sys; from flows.operate.worker import run_worker; sys.exit(run_worker([]))"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{played.parent}{os.pathsep}{REPOSITORY}"},
    )
    wait_for(tmp_path / "begun")
    return process


def wait_for(path: Path) -> None:
    until = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < until, f"{path} does not come"
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_worker_that_is_stopped_lets_its_run_end(
    worker: subprocess.Popen[bytes], tmp_path: Path, number: signal.Signals
) -> None:
    worker.send_signal(number)
    assert worker.wait(60) == 0
    assert (tmp_path / "ended").exists()
    assert not (tmp_path / "killed").exists()


def test_a_run_ends_in_order_though_its_worker_is_killed_and_nobody_reads_what_it_prints(
    worker: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    worker.kill()
    worker.wait()
    wait_for(tmp_path / "ended")
    assert not (tmp_path / "killed").exists()
