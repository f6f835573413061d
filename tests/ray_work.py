"""What workers of the Ray tests do: small work that tells where it was done. Imported by the workers, too."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tasks.extract import pool as extract_pool
from tasks.records import ShardRef
from tasks.workers.events import ShardReporter, Tell
from tasks.workers.processes import Resources

_tell: Tell
_resources: Resources


@dataclass(frozen=True)
class Place:
    """Where work was done."""

    pid: int
    node: str
    gpus: str | None
    num_cores: int


class UnreadableError(Exception):
    """An error that cannot be made from its pickle."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(one + two)


def start(tell: Tell, resources: Resources) -> None:
    global _tell, _resources
    _tell, _resources = tell, resources


def place(seconds: float = 0.0) -> Place:
    import ray

    time.sleep(seconds)
    node = ray.get_runtime_context().get_node_id()
    return Place(os.getpid(), node, os.environ.get("CUDA_VISIBLE_DEVICES"), _resources.num_cores)


def shard(ref: ShardRef, deaths: str = "", times: int = 0) -> Place:
    """Tell of a shard of three rows. So many times, die in the middle instead; `deaths` is a file to count them in."""
    reporter = ShardReporter(_tell, ref)
    reporter(Counter())
    if times and len(Path(deaths).read_text()) < times:
        with Path(deaths).open("a") as stream:
            stream.write(".")
        os.kill(os.getpid(), signal.SIGKILL)
    reporter(Counter(ok=2, failed=1))
    reporter.end()
    return place()


def fail(error: Exception) -> None:
    raise error


def fail_unreadably() -> None:
    raise UnreadableError("no ", "luck")


def tell(count: int) -> None:
    for number in range(count):
        _tell(f"event {number}")


def detector() -> tuple[int, int]:
    """The process, and which detector object it has."""
    assert extract_pool._worker is not None and extract_pool._worker.detector is not None
    return os.getpid(), id(extract_pool._worker.detector[2])
