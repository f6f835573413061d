"""CPU time of this process, its threads and its finished children."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable


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
