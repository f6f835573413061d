"""A pool of workers that tell what they do while they do it."""

from __future__ import annotations

import contextvars
import multiprocessing
import os
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from multiprocessing.sharedctypes import Synchronized
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from tasks.errors import UserError
from tasks.records import ShardRef
from tasks.workers.events import Event, ShardEvent, Tell, send
from tasks.workers.machines import RayConfig
from tasks.workers.processes import Arguments, Result, Seat, WorkerPool

if TYPE_CHECKING:
    from tasks.workers.ray_workers import RayWorkers


RAY_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Under `uv run` the working directory, with all the data in it, would be sent to the cluster.
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    # What machines complain of would be printed on stdout, which has our results: a pattern of lines to skip.
    "RAY_DEDUP_LOGS_SKIP_REGEX": "^",
}
"""Environment variables that Ray reads when it is imported; whoever has set one keeps it."""


class ReportingPool:
    """Workers whose events are heard by one thread of this process.

    Args:
        max_workers: of this machine, or of the cluster.
        on_event: takes the events. What it raises first is raised where the `with` block ends; the work goes on
            meanwhile.
        start: called in every worker before its first work, with its `Tell`, its `Seat` and the `arguments`.
        ray: where the workers are; None: processes of this machine.
        num_gpus: on a cluster, each worker's share of a GPU.

    Raises:
        UserError: the package ray is asked for, and not installed.
    """

    def __init__(
        self,
        max_workers: int,
        on_event: Callable[[Event], None],
        start: Callable[..., None],
        *arguments: Any,
        ray: RayConfig | None = None,
        num_gpus: float = 0,
    ) -> None:
        self._events, self._pipe = multiprocessing.get_context("spawn").Pipe(duplex=False)
        self._trouble: Exception | None = None
        self._on_event = on_event
        # In the caller's context, which tells Prefect whose log lines these are.
        listen = partial(contextvars.copy_context().run, self._listen)
        self._listener = threading.Thread(target=listen, name="shard-events", daemon=True)
        self._tell: Tell = partial(send, self._pipe)
        self._workers: WorkerPool | RayWorkers
        if ray is None:
            counter = multiprocessing.get_context("spawn").Value("i", 0)
            self._workers = WorkerPool(max_workers, _start, counter, max_workers, start, self._tell, arguments)
        else:
            self._workers = _ray_workers(max_workers, ray, num_gpus, start, self._tell, arguments)

    def __enter__(self) -> Self:
        self._listener.start()
        self._workers.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._workers.__exit__(kind, error, traceback)
        self._pipe.close()  # Nobody else has it open: the workers have ended.
        self._listener.join()
        self._events.close()
        if self._trouble is not None and error is None:
            raise self._trouble

    def submit(
        self, work: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs
    ) -> Future[Result]:
        """Have `work` done in a worker."""
        return self._workers.submit(work, *args, **kwargs)

    def check_shared(self, what: str, uri: str) -> None:
        """Raise UserError where a path is a local one, and workers on other machines would find other files there."""
        if not isinstance(self._workers, WorkerPool):
            self._workers.check_shared(what, uri)

    def tell_standing(self, ref: ShardRef, ended: Counter[str]) -> None:
        """Say that a shard stood already, and how its rows or images had ended."""
        self._tell(ShardEvent("begun", ref, ended))
        self._tell(ShardEvent("ended", ref, ended))

    def _listen(self) -> None:
        while True:
            try:
                event: Event = self._events.recv()
            except EOFError:
                return
            try:
                self._on_event(event)
            except Exception as error:  # noqa: BLE001 (raised by `__exit__`; workers would wait for a pipe that is not read)
                self._trouble = self._trouble or error


def _start(
    counter: Synchronized[int], siblings: int, start: Callable[..., None], tell: Tell, arguments: tuple[Any, ...]
) -> None:
    """Begin a process of this machine: the workers share its GPUs, and the cores that this process may use."""
    with counter.get_lock():
        number = counter.value
        counter.value += 1
    # Fewer than the machine's in a container.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    start(tell, Seat(number, siblings, max(1, cores // siblings)), *arguments)


def _ray_workers(
    max_workers: int,
    config: RayConfig,
    num_gpus: float,
    start: Callable[..., None],
    tell: Tell,
    arguments: tuple[Any, ...],
) -> RayWorkers:
    for name, value in RAY_SETTINGS.items():
        os.environ.setdefault(name, value)
    try:
        from tasks.workers.ray_workers import RayWorkers
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise UserError(
            "workers on a Ray cluster need the package ray, which is not installed here; run: pip install 'ray>=2.60'"
        ) from error
    return RayWorkers(max_workers, config, num_gpus, start, tell, arguments)
