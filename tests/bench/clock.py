"""CPU time of this process, its threads and its finished children; and what a whole command costs."""

from __future__ import annotations

import os
import resource
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil


def cpu_seconds() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def cpu_cost(work: Callable[[], object], rounds: int) -> float:
    """Least CPU seconds of a round, after one that warms up: other programs only ever add."""
    work()
    costs = []
    for _ in range(rounds):
        begun = cpu_seconds()
        work()
        costs.append(cpu_seconds() - begun)
    return min(costs)


@dataclass(frozen=True)
class CommandCost:
    """CPU and wall seconds of a command with all its processes, and the most memory they held together, in bytes.

    Memory is proportional set size: pages that processes share count once. 0 where the system does not tell it.
    """

    cpu_seconds: float
    wall_seconds: float
    peak_pss: int


def run_command(command: Sequence[str], log: Path, environment: Mapping[str, str], cwd: Path) -> CommandCost:
    """Run a command to its end, its output in a file.

    Raises:
        RuntimeError: it failed; with the end of its output.
    """
    begun = time.monotonic()
    with log.open("wb") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT, env=dict(environment), cwd=cwd)
    ended = threading.Event()
    peak = [0]

    def watch() -> None:
        while not ended.wait(0.2):
            peak[0] = max(peak[0], _tree_pss(process.pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        _, status, usage = os.wait4(process.pid, 0)
    except BaseException:
        process.kill()
        raise
    finally:
        ended.set()
        watcher.join()
    wall = time.monotonic() - begun
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise RuntimeError(
            f"{command[0]} ended with code {process.returncode}: {log.read_text(errors='replace')[-2000:]}"
        )
    return CommandCost(usage.ru_utime + usage.ru_stime, wall, peak[0])


def _tree_pss(root: int) -> int:
    """Bytes that a process and all its descendants hold now."""
    total = 0
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(root)
        for one in (process, *process.children(recursive=True)):
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied):  # A process may end while it is looked at.
                total += getattr(one.memory_full_info(), "pss", 0)
    return total
