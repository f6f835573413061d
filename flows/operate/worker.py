"""A Prefect worker that is stopped without loss.

Asked to stop, Prefect's own worker kills its runs (SIGKILL) and is gone within a second: no checkpoint is written, and
the runs stay Running on the server until the automation finds them. This one asks them first, as a cancellation does,
and waits: training writes its checkpoint, and each run says itself that it has ended. And it outlasts a server that is
away (`flows.operate.lasting`).
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from threading import Event
from types import FrameType

import psutil

from tasks.workers import tether
from tasks.workers.launch import GRACE_SECONDS

log = logging.getLogger(__name__)

STOP_SECONDS = GRACE_SECONDS + 15
"""For a run's processes to end, and for the run to tell the server."""

_WORKER_SECONDS = 10.0
_LOOK_EVERY_SECONDS = 0.2
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def run_worker(arguments: Sequence[str], stop_seconds: float = STOP_SECONDS) -> int:
    """Run `prefect worker start` with these arguments until it ends, or this process is asked to stop.

    A second signal stops at once. The worker dies with this process, and its runs end when it does
    (`flows.operate.deployed`), even by SIGKILL.

    Returns:
        The exit status of the worker; 0 where this process was asked to stop.
    """
    stopping = Event()

    def stop(number: int, frame: FrameType | None) -> None:
        if stopping.is_set():
            raise KeyboardInterrupt
        stopping.set()

    before = {number: signal.signal(number, stop) for number in _SIGNALS}
    # In a session of its own: Ctrl-C in a terminal is for this process, which decides.
    command = tether.command("flows.operate.worker_process", "worker", "start", *arguments)
    process = subprocess.Popen(command, start_new_session=True)
    try:
        while process.poll() is None and not stopping.is_set():
            stopping.wait(_LOOK_EVERY_SECONDS)
        if process.poll() is not None:
            return process.returncode
        _end_runs(process.pid, stop_seconds)
    finally:
        _end_worker(process)
        for number, handler in before.items():
            signal.signal(number, handler)
    return 0


def _end_runs(worker: int, seconds: float) -> None:
    """SIGTERM to each run, once, those that are begun meanwhile too; return when all have ended, or time is up."""
    asked: set[int] = set()
    until = time.monotonic() + seconds
    while (runs := _children(worker)) and time.monotonic() < until:
        for run in runs - asked:
            log.info("asking the run in process %d to end; waiting %.0f s at most", run, seconds)
            with suppress(ProcessLookupError):
                os.kill(run, signal.SIGTERM)
        asked |= runs
        time.sleep(_LOOK_EVERY_SECONDS)


def _end_worker(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(_WORKER_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _children(parent: int) -> set[int]:
    """Processes that a process has started, and that have not ended."""
    try:
        children = psutil.Process(parent).children()
    except psutil.NoSuchProcess:
        return set()
    return {child.pid for child in children if _is_running(child)}


def _is_running(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
