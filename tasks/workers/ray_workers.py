"""So many workers on a Ray cluster, with the interface of `tasks.workers.processes.WorkerPool`.

Ray places the workers and gives each its GPU. One worker is one process, which stays and takes shard after shard, so
that a detector is loaded once; a thread of this process waits for each. (Ray's own tasks would load it for each shard,
as would those of prefect-ray, which cannot be cancelled either.)

A worker that dies, with its machine or without, is replaced where there is room, and its shard given to whichever is
free first. That is mostly the replacement, on the same machine, which has the journal of an unfinished download;
elsewhere, and in the next run, such a shard is fetched from its beginning, unless the machines share XDG_CACHE_HOME.
"""

from __future__ import annotations

import math
import pickle
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from tasks.errors import StageError, UserError, WorkersGoneError
from tasks.records import ShardRef
from tasks.workers.events import Tell
from tasks.workers.machines import RayConfig
from tasks.workers.processes import Arguments, Result, killers
from tasks.workers.ray_actor import Ended
from tasks.workers.ray_cluster import RayCluster, RayWorker, WorkerDiedError

_LIVES = 3
"""Workers that may die at one shard before it fails."""
_STARTS = 3
"""Times in a row that a worker may fail to start before its place is given up."""
_START_SECONDS = 300.0
_TICK_SECONDS = 1.0
"""A thread that waits for a worker looks so often whether it still should."""


@dataclass
class _Job:
    name: str
    work: bytes
    future: Future[Any]
    deaths: int = 0


class RayWorkers:
    """Workers on a cluster: `with RayWorkers(16, config, 1.0, start, tell, ()) as workers: workers.submit(work, 1)`.

    The cluster is joined, and the workers are started, when work first needs them. Ray kills them when this process
    dies, however it dies. Leaving the block waits for the running work and drops what waits; after an interrupt it
    waits for nothing.

    Args:
        max_workers: processes.
        config: the cluster.
        num_gpus: share of a GPU for each.
        start: called in every worker before its first work, with its `Tell`, its `Resources` and the arguments.
        tell: takes the workers' events, from many threads.
        arguments: of `start`.
    """

    def __init__(
        self,
        max_workers: int,
        config: RayConfig,
        num_gpus: float,
        start: Callable[..., None],
        tell: Tell,
        arguments: tuple[Any, ...],
    ) -> None:
        self._max_workers, self._config, self._num_gpus = max_workers, config, num_gpus
        self._tell = tell
        self._start = pickle.dumps((start, arguments))
        self._joining = threading.Lock()
        self._cluster: RayCluster | None = None
        self._threads: list[threading.Thread] = []
        self._changed = threading.Condition()
        # What follows is changed by those who hold it.
        self._jobs: deque[_Job] = deque()
        self._workers: set[RayWorker] = set()
        self._places = max_workers
        self._trouble: Exception | None = None
        self._last_reason = ""
        self._closed = self._killed = False

    def __enter__(self) -> Self:
        killers.add(self._kill)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None and not isinstance(error, Exception):
            self._kill()
        with self._changed:
            self._closed = True
            dropped = list(self._jobs)
            self._jobs.clear()
            self._changed.notify_all()
        for job in dropped:
            job.future.cancel()
        for thread in self._threads:
            thread.join()
        if self._cluster is not None:
            self._cluster.leave()
        killers.discard(self._kill)

    def submit(
        self, work: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs
    ) -> Future[Result]:
        """Have `work` done by a worker.

        Raises:
            UserError: the cluster cannot be joined, or has no room for the workers.
        """
        self._join()
        name = next((str(arg) for arg in args if isinstance(arg, ShardRef)), work.__name__)
        job = _Job(name, pickle.dumps((work, args, kwargs)), Future())
        with self._changed:
            if self._trouble is not None:
                job.future.set_exception(self._trouble)
            else:
                self._jobs.append(job)
                self._changed.notify()
        return job.future

    def check_shared(self, what: str, uri: str) -> None:
        """Raise UserError where a path is a local one, and not all machines of the cluster share it."""
        self._join().check_shared(what, uri)

    def _join(self) -> RayCluster:
        """The cluster, with its workers on their way. Where it cannot be had it is not tried again."""
        with self._joining:
            if self._cluster is None:
                if self._trouble is not None:
                    raise self._trouble
                try:
                    self._cluster = RayCluster(
                        self._max_workers, self._config, self._num_gpus, lambda: not self._killed
                    )
                except UserError as error:
                    self._trouble = error
                    raise
                for number in range(self._max_workers):
                    thread = threading.Thread(target=self._keep, args=(number,), name=f"ray-worker-{number}")
                    thread.daemon = True
                    thread.start()
                    self._threads.append(thread)
            return self._cluster

    def _kill(self) -> None:
        with self._changed:
            self._closed = self._killed = True
            for worker in self._workers:
                worker.kill()
            self._changed.notify_all()

    def _keep(self, number: int) -> None:
        """Keep one place filled with a worker, and the worker busy, until there is no more to do."""
        try:
            while (worker := self._begin_worker(number)) is not None:
                try:
                    self._keep_busy(worker)
                    return
                except WorkerDiedError:
                    continue
                finally:
                    self._part_with(worker)
        finally:
            self._give_up()

    def _begin_worker(self, number: int) -> RayWorker | None:
        """A worker that is there and waits for work; None where none is wanted any more, or none can be had."""
        assert self._cluster is not None
        for _ in range(_STARTS):
            with self._changed:
                if self._closed:
                    return None
                worker = self._cluster.new_worker(number, self._start)
                self._workers.add(worker)
            try:
                worker.machine = self._answer(worker, "machine", seconds=max(_START_SECONDS, self._config.wait_seconds))
                return worker
            except (WorkerDiedError, TimeoutError) as error:
                self._part_with(worker)
                if not self._closed:
                    self._last_reason = str(error) or "no room, or it took too long"
                    self._tell(f"WARNING: a worker did not start: {self._last_reason}")
        return None

    def _part_with(self, worker: RayWorker) -> None:
        with self._changed:
            self._workers.discard(worker)
        worker.kill()

    def _give_up(self) -> None:
        """Do without this place; where it was the last, nobody is left to wait for."""
        with self._changed:
            self._places -= 1
            if self._closed:
                return
            if self._places:
                self._tell(f"WARNING: goes on with {self._places} workers")
                return
            self._trouble = WorkersGoneError(
                f"no worker is left on the Ray cluster, and none could be started ({self._last_reason}); what is done "
                "is kept: look whether all machines are there (`ray status`) and have this package installed, and run "
                "the same command again"
            )
            waiting = list(self._jobs)
            self._jobs.clear()
        for job in waiting:
            job.future.set_exception(self._trouble)

    def _keep_busy(self, worker: RayWorker) -> None:
        """Give a worker one job after the other. Raises WorkerDiedError; its job is then another's."""
        while (job := self._next_job()) is not None:
            if not job.future.running() and not job.future.set_running_or_notify_cancel():
                continue
            try:
                ended = self._work(worker, job)
            except WorkerDiedError as error:
                self._hand_over(job, worker, error)
                raise
            except BaseException as error:  # A bug: somebody waits for the future all the same.
                job.future.set_exception(error)
                raise
            if ended.error is None:
                job.future.set_result(ended.result)
            else:
                job.future.set_exception(ended.error)

    def _next_job(self) -> _Job | None:
        with self._changed:
            self._changed.wait_for(lambda: self._jobs or self._closed)
            return self._jobs.popleft() if self._jobs else None

    def _work(self, worker: RayWorker, job: _Job) -> Ended:
        worker.ask("begin", job.work)
        while True:
            events, pickled = self._answer(worker, "news")
            for event in events:
                self._tell(pickle.loads(event))  # noqa: S301 (of `ShardActor`, which runs our code)
            if pickled is not None:
                ended: Ended = pickle.loads(pickled)  # noqa: S301 (as above)
                return ended

    def _hand_over(self, job: _Job, worker: RayWorker, error: WorkerDiedError) -> None:
        job.deaths += 1
        with self._changed:
            if not self._closed and job.deaths < _LIVES:
                self._jobs.appendleft(job)
                self._changed.notify()
                self._tell(f"WARNING: {job.name}: its worker on {worker.machine} died ({error}); another takes it over")
                return
        if self._killed:
            job.future.set_exception(StageError("interrupted"))
            return
        times = "a worker" if job.deaths == 1 else f"{job.deaths} workers"
        job.future.set_exception(
            StageError(
                f"{times} died at it, the last on {worker.machine} ({error}); most likely memory ran short: give fewer "
                "workers a machine, with a larger ray.cpus_each"
            )
        )

    def _answer(self, worker: RayWorker, method: str, seconds: float | None = None) -> Any:
        """A worker's answer.

        Args:
            worker: who is asked.
            method: of `ShardActor`.
            seconds: longest wait for a worker that starts, and is wanted only until the pool is closed; None: one at
                work, which is waited for until the pool is killed.

        Raises:
            WorkerDiedError: it is dead, or not wanted any more.
            TimeoutError: after so many seconds.
        """
        end = time.monotonic() + (math.inf if seconds is None else seconds)
        wait = worker.ask(method)
        while True:
            try:
                return wait(_TICK_SECONDS)
            except TimeoutError:
                if self._killed or (seconds is not None and self._closed):
                    raise WorkerDiedError("not wanted any more") from None
                if time.monotonic() > end:
                    raise
