"""Worker processes that never outlive the process that started them."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

from tasks.workers.tether import die_with_parent

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

_FOR_THE_PARENT = (signal.SIGINT, signal.SIGHUP)
"""What a terminal sends to all of its processes, also while they still import: the parent decides."""

killers: set[Callable[[], None]] = set()
"""For each open pool whose workers are no children of this process: what kills them."""


@dataclass(frozen=True)
class Resources:
    """A worker's share of the GPUs and cores that it sees.

    Args:
        local_rank: rank of the worker, from 0, among those that see the same GPUs.
        num_local: number of these workers.
        num_cores: cores for this worker.
    """

    local_rank: int
    num_local: int
    num_cores: int


@contextmanager
def killing_workers() -> Iterator[None]:
    """Kill all workers when this block is interrupted: for a block inside a pool's, whose threads wait for them."""
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception):
            _kill_children()
            for kill in list(killers):
                kill()
        raise


def _kill_children() -> None:
    """An interrupt does not wait for shards; what they publish is whole or not there."""
    for worker in multiprocessing.active_children():
        worker.kill()


class WorkerPool:
    """So many processes, spawned when work first needs them: `with WorkerPool(2) as pool: pool.submit(work, 1)`.

    Workers are killed by the kernel when this process dies, however it dies (on Linux). Leaving the block waits for
    the running work and drops what waits; after an interrupt it waits for nothing.
    """

    def __init__(self, max_workers: int, start: Callable[..., None] | None = None, *arguments: Any) -> None:
        """`start(*arguments)` is called in every worker before its first work."""
        self._workers = ProcessPoolExecutor(
            max_workers,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_begin,
            initargs=(os.getpid(), start, arguments),
        )
        # Linux ties a worker's life to the thread that started it, not to the process, and callers are often
        # threads that end. This one stays until the pool is closed. Workers inherit what it blocks.
        self._starter = ThreadPoolExecutor(
            1, "worker-pool", signal.pthread_sigmask, (signal.SIG_BLOCK, _FOR_THE_PARENT)
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None and not isinstance(error, Exception):
            _kill_children()
        self._workers.shutdown(wait=True, cancel_futures=True)
        self._starter.shutdown()

    def submit(
        self, work: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs
    ) -> Future[Result]:
        """Submit `work` to a worker."""
        return self._starter.submit(self._workers.submit, work, *args, **kwargs).result()


def _begin(parent: int, start: Callable[..., None] | None, arguments: tuple[Any, ...]) -> None:
    die_with_parent(parent)
    for number in _FOR_THE_PARENT:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _FOR_THE_PARENT)
    if start is not None:
        start(*arguments)
