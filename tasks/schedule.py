"""Which URL is requested next: so many per host, after a back-off that holds no thread, and not while all is silent."""

from __future__ import annotations

import heapq
import itertools
import random
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from tasks.attempt import FetchError
from tasks.config import DownloadConfig
from tasks.network import Network, NetworkGoneError, host_of
from tasks.records import Outcome


@dataclass(eq=False)
class Job:
    """One URL on its way. `seconds` is the time that its attempts took, together."""

    key: str
    url: str
    attempts: int = 0
    seconds: float = 0.0
    silent: bool = False
    """The last attempt found nothing alive out there."""
    host: str = field(init=False)

    def __post_init__(self) -> None:
        self.host = host_of(self.url)


class Schedule:
    """Hands out the URLs of one shard to threads.

    A thread calls `take`, makes one attempt, adds it to the job, and reports it with `answered` or `failed`. A job
    that is not to be tried again comes out through `on_final`, perhaps later and from another thread's call.

    Args:
        jobs: the URLs to request, first ones first.
        config: for its limits.
        network: what is known of hosts; shared with other shards of this process.
        num_hosts: different hosts in the whole shard.
        must_be_there: see `Network.is_suspect`.
        on_final: takes a job and the error it ended with. Must not block.
        on_gone: is told once that the network does not come back; nothing more is handed out then.
    """

    def __init__(
        self,
        jobs: Iterable[Job],
        config: DownloadConfig,
        network: Network,
        num_hosts: int,
        must_be_there: bool,
        on_final: Callable[[Job, FetchError], None],
        on_gone: Callable[[NetworkGoneError], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._network = network
        self._num_hosts = num_hosts
        self._must_be_there = must_be_there
        self._on_final = on_final
        self._on_gone = on_gone
        self._clock = clock
        self._changed = threading.Condition()
        self._stopped = threading.Event()
        self._ready = deque(jobs)
        self._parked: defaultdict[str, deque[Job]] = defaultdict(deque)  # by host that has its fill of requests
        self._delayed: list[tuple[float, int, Job]] = []  # heap, by the time they are due
        self._numbers = itertools.count()
        self._in_flight: defaultdict[str, int] = defaultdict(int)
        self._active = 0  # sum of the above
        self._resting: dict[str, float] = {}  # host -> until when it has asked for peace
        self._probing = False
        # Failed without a sign of life since: only final once it is sure that the network is there.
        self._doubtful: list[tuple[Job, FetchError]] = []

    def stop(self) -> None:
        """Hand out nothing more; whoever waits gets None."""
        with self._changed:
            self._stopped.set()
            self._changed.notify_all()

    def take(self) -> Job | None:
        """Wait for a URL that may be requested now; None when all have ended."""
        with self._changed:
            while not self._stopped.is_set():
                job = None if self._probing else self._next()
                if job is not None:
                    return job
                if not (self._delayed or self._active or self._probing):
                    # Nor is anything ready or parked: `_next` has taken all it could, and no host is busy.
                    self._settle()
                    self._changed.notify_all()
                    return None
                due = None if self._probing or not self._delayed else self._delayed[0][0] - self._clock()
                self._changed.wait(None if due is None else max(0.0, due))
            return None

    def answered(self, job: Job) -> None:
        """Report an attempt that brought an answer; the job has ended."""
        self._network.heard(job.url)
        self._network.url_ended(job.host, None)
        with self._changed:
            self._release(job)
            self._settle()
            self._changed.notify_all()

    def failed(self, job: Job, error: FetchError) -> None:
        """Report an attempt that failed: the job is tried again later, or has ended."""
        job.silent = not error.alive
        if job.silent:
            self._network.silence(job.url)
        else:
            self._network.heard(job.url)
        with self._changed:
            self._release(job)
            if not job.silent:
                self._settle()
            wait = self._retry_delay(job, error)
            if wait is not None:
                self._delay(job, self._clock() + wait)
            elif job.silent:
                self._doubtful.append((job, error))
            else:
                self._on_final(job, error)
            if wait is None:
                self._network.url_ended(job.host, error)
            probe = job.silent and not self._probing and self._is_suspect()
            self._probing = self._probing or probe
            self._changed.notify_all()
        if probe:
            self._probe()

    def _next(self) -> Job | None:
        """The first job that may be requested now."""
        now = self._clock()
        while self._delayed and self._delayed[0][0] <= now:
            self._ready.append(heapq.heappop(self._delayed)[2])
        while self._ready:
            job = self._ready.popleft()
            if self._in_flight[job.host] >= self._config.per_host:
                self._parked[job.host].append(job)
            elif self._resting.get(job.host, 0.0) > now:
                self._delay(job, self._resting[job.host])
            elif (why := self._network.down(job.host)) is not None:
                self._end_unrequested(job, why)
                self._ready.extendleft(self._parked.pop(job.host, ()))
            else:
                self._in_flight[job.host] += 1
                self._active += 1
                return job
        return None

    def _release(self, job: Job) -> None:
        self._in_flight[job.host] -= 1
        self._active -= 1
        if self._parked.get(job.host):
            self._ready.appendleft(self._parked[job.host].popleft())

    def _delay(self, job: Job, due: float) -> None:
        heapq.heappush(self._delayed, (due, next(self._numbers), job))

    def _retry_delay(self, job: Job, error: FetchError) -> float | None:
        """Seconds until the next attempt: exponential with jitter, or what the server asked for; None for no other."""
        if not error.transient or job.attempts > self._config.retries:
            return None
        if job.seconds >= self._config.deadline_seconds:
            return None
        jitter = random.uniform(0.5, 1.5)  # noqa: S311 (it spreads load, it hides nothing)
        wait = self._config.backoff_seconds * 2 ** (job.attempts - 1) * jitter
        if error.retry_after is None:
            return wait
        if error.retry_after > self._config.max_retry_after_seconds:
            return None
        self._resting[job.host] = max(self._resting.get(job.host, 0.0), self._clock() + error.retry_after)
        return max(wait, error.retry_after)

    def _end_unrequested(self, job: Job, why: str) -> None:
        error = FetchError(Outcome.HOST_DOWN, why)
        if self._network.is_silent:
            self._doubtful.append((job, error))
        else:
            self._on_final(job, error)

    # --- when nothing answers ---

    def _is_suspect(self) -> bool:
        return self._network.is_suspect(self._num_hosts, self._must_be_there)

    def _settle(self) -> None:
        """There is life: what failed has failed. While that is being found out, the finding decides."""
        if self._probing:
            return
        for job, error in self._doubtful:
            self._on_final(job, error)
        self._doubtful.clear()

    def _probe(self) -> None:
        """Find out whether the network is gone, in the thread that came to suspect it; the others wait."""
        try:
            outage = self._network.wait_until_back(self._stopped)
        except NetworkGoneError as error:
            self._on_gone(error)
            self.stop()
            return
        with self._changed:
            self._probing = False
            if outage:
                self._forgive()
            else:
                self._settle()
            self._changed.notify_all()

    def _forgive(self) -> None:
        """Give every job that failed during an outage all of its attempts again."""
        victims = [job for job, _ in self._doubtful]
        self._doubtful.clear()
        waiting = [job for *_, job in self._delayed if job.silent]
        self._network.forgive({job.host for job in [*victims, *waiting]})
        for job in [*victims, *waiting]:
            job.attempts, job.seconds, job.silent = 0, 0.0, False
        self._ready.extendleft(reversed(victims))
