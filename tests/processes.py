"""Which processes run: what a test started, and what is left of it."""

from __future__ import annotations

import os
import time

import psutil

GONE = (psutil.NoSuchProcess, psutil.AccessDenied)
"""A process ended while it was looked at, or is another user's."""


def is_running(pid: int) -> bool:
    """Whether it has not ended; one that nobody has waited for yet has."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def children(pid: int) -> list[int]:
    """Numbers of those that a process has started, in order."""
    return sorted(child.pid for child in psutil.Process(pid).children())


def with_environment(**variables: str) -> list[psutil.Process]:
    """This user's running processes, but this one, whose environment has all of these."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and variables.items() <= process.environ().items():
                found.append(process)
        except GONE:
            continue
    return found


def naming(text: str) -> list[str]:
    """Command lines of running processes that hold this text."""
    found = []
    for process in psutil.process_iter():
        try:
            line = " ".join(process.cmdline())
        except GONE:
            continue
        if text in line:
            found.append(line)
    return found


def of_session(leader: int) -> list[int]:
    """Those that run now, of the session that this process began."""
    return [pid for pid in psutil.pids() if _session(pid) == leader and is_running(pid)]


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except OSError:
        return None


def wait_until_ended(pids: list[int], seconds: float = 30) -> None:
    """Return once none of them runs; AssertionError after so many seconds."""
    until = time.monotonic() + seconds
    while left := [pid for pid in pids if is_running(pid)]:
        assert time.monotonic() < until, f"still running: {left}"
        time.sleep(0.05)
