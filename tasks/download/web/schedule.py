"""Which URL is requested next: a few per host, after a back-off without a thread, and none while all is silent."""

from __future__ import annotations

import heapq
import itertools
import random
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from tasks.download.config import DownloadConfig
from tasks.download.web.attempt import FetchError
from tasks.download.web.network import SILENT_HOSTS, Network, NetworkGoneError, host_of, is_heard
from tasks.records import Outcome

# A URL that was silent in so many outages fails for a reason of its own.
_MOST_OUTAGES = 3


@dataclass(eq=False)
class Job:
    """One URL on its way; `seconds` is the time of all its attempts."""

    key: str
    url: str
    attempts: int = 0
    seconds: float = 0.0
    error: FetchError | None = None
    """What the last attempt came to."""
    begun: float = 0.0
    """When the last attempt began, by the schedule's clock."""
    outages: int = 0
    """How often it was given all of its attempts again."""
    host: str = field(init=False)

    def __post_init__(self) -> None:
        self.host = host_of(self.url)

    @property
    def silent(self) -> bool:
        """True where nothing answered the last attempt."""
        return self.error is not None and not self.error.alive

    def renew(self) -> None:
        """Forget the attempts that fell into an outage."""
        self.attempts, self.seconds, self.error = 0, 0.0, None
        self.outages += 1


class Schedule:
    """Hands out the URLs of one shard to threads.

    A thread calls `take`, makes one attempt, adds it to the job, and reports it with `answered` or `failed`. A job
    that is not to be tried again comes out through `on_final`, perhaps later and from another thread's call.

    Args:
        jobs: the URLs to request, first ones first.
        config: for its limits.
        network: what is known of hosts; shared with other shards of this process.
        num_hosts: different hosts in the whole shard.
        must_be_there: False where only dead links may be left to ask; then silence means nothing until something
            has answered once.
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
        self._parked: defaultdict[str, deque[Job]] = defaultdict(deque)  # by host that is at its limit of requests
        # Heap, by the time they are due; of those due at once, first the ones that have been tried most.
        self._delayed: list[tuple[float, int, int, Job]] = []
        self._numbers = itertools.count()
        self._in_flight: defaultdict[str, int] = defaultdict(int)
        self._active = 0  # sum of the above
        self._resting: dict[str, float] = {}  # host -> until when it asked to be left alone
        self._probing = False
        self._back_at = float("-inf")  # when the last outage ended
        # Failed while nothing answered since: final only once the network is known to be there.
        self._doubtful: list[tuple[Job, FetchError]] = []

    def stop(self) -> None:
        """Hand out nothing more; waiting threads get None."""
        with self._changed:
            self._stopped.set()
            self._changed.notify_all()

    def take(self) -> Job | None:
        """Wait for a URL that may be requested now; None when all have ended."""
        while True:
            with self._changed:
                job = self._wait()
                if job is not None or self._stopped.is_set():
                    return job
                if not self._is_end_suspect():
                    self._settle()
                    self._changed.notify_all()
                    return None
                self._probing = True
            self._probe()

    def answered(self, job: Job) -> None:
        """End the job of an attempt that brought an answer."""
        self._network.heard(job.url)
        self._network.attempt_ended(job.host, None)
        with self._changed:
            self._release(job)
            self._settle()
            self._changed.notify()

    def failed(self, job: Job, error: FetchError) -> None:
        """Report a failed attempt: its job is tried again later, or has ended."""
        # Without the frames that it came through, which hold what was read so far: the job may wait for a minute.
        job.error = error.with_traceback(None)
        error.__cause__ = error.__context__ = None
        if job.silent:
            self._network.silence(job.url)
        elif is_heard(error):
            self._network.heard(job.url)
        with self._changed:
            self._release(job)
            if is_heard(error):
                self._settle()
            probe = False
            if job.silent and job.begun < self._back_at and job.outages < _MOST_OUTAGES:
                job.renew()
                self._ready.appendleft(job)
            else:
                wait = self._retry_delay(job, error)
                self._network.attempt_ended(job.host, error, is_last=wait is None)
                if wait is None:
                    self._end(job, error)
                else:
                    self._delay(job, max(self._clock() + wait, self._resting.get(job.host, 0.0)))
                probe = job.silent and not self._probing and self._is_suspect()
                self._probing = self._probing or probe
            self._changed.notify()
        if probe:
            self._probe()

    def _wait(self) -> Job | None:
        """Wait for a job that may be requested now; None when none is left or the schedule is stopped."""
        while not self._stopped.is_set():
            job = None if self._probing else self._next()
            if job is not None:
                job.begun = self._clock()
                if self._ready or self._delayed:
                    self._changed.notify()  # The next thread takes a ready job, or waits for one.
                return job
            if not (self._delayed or self._active or self._probing):
                # Nor is anything ready or parked: `_next` has taken all it could, and no host is busy.
                return None
            due = None if self._probing or not self._delayed else self._delayed[0][0] - self._clock()
            self._changed.wait(None if due is None else max(0.0, due))
        return None

    def _next(self) -> Job | None:
        """The first job that may be requested now."""
        now = self._clock()
        due = []
        while self._delayed and self._delayed[0][0] <= now:
            due.append(heapq.heappop(self._delayed)[-1])
        # What was begun goes first: only a URL's last failure tells that its host is down, and a host may have many.
        self._ready.extendleft(reversed(due))
        while self._ready:
            job = self._ready.popleft()
            if self._in_flight[job.host] >= self._config.per_host:
                if job.attempts:
                    self._parked[job.host].appendleft(job)
                else:
                    self._parked[job.host].append(job)
            elif self._resting.get(job.host, 0.0) > now:
                self._delay(job, self._resting[job.host])
            elif (why := self._network.down(job.host)) is not None:
                self._end(job, job.error or FetchError(Outcome.HOST_DOWN, why, alive=not self._network.is_silent))
                self._ready.extendleft(reversed(self._parked.pop(job.host, ())))
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
        heapq.heappush(self._delayed, (due, -job.attempts, next(self._numbers), job))

    def _retry_delay(self, job: Job, error: FetchError) -> float | None:
        """Seconds until the next attempt, by exponential back-off with jitter or the server's word; None for no
        other.
        """
        if not error.transient:
            return None
        if error.retry_after is not None:
            if error.retry_after > self._config.max_retry_after_seconds:
                return None
            # The wait holds for all of the host's URLs, even where this one is not tried again.
            self._resting[job.host] = max(self._resting.get(job.host, 0.0), self._clock() + error.retry_after)
        if job.attempts > self._config.retries or job.seconds >= self._config.deadline_seconds:
            return None
        jitter = random.uniform(0.5, 1.5)  # noqa: S311 (it spreads load, it hides nothing)
        return self._config.backoff_seconds * 2.0 ** (job.attempts - 1) * jitter

    def _end(self, job: Job, error: FetchError) -> None:
        """End a job. Where that may be the network's fault, it is final only once that is known."""
        if not error.alive and (self._must_be_there or self._network.num_live_hosts):
            self._doubtful.append((job, error))
        else:
            self._on_final(job, error)

    # --- when nothing answers ---

    def _is_suspect(self) -> bool:
        if not (self._must_be_there or self._network.num_live_hosts):
            return False
        return self._network.is_suspect(self._num_hosts)

    def _is_end_suspect(self) -> bool:
        """Whether the last URLs were silent: too few for a suspicion, but enough other hosts can be asked."""
        return bool(self._doubtful) and self._network.is_silent and self._network.num_live_hosts >= SILENT_HOSTS

    def _settle(self) -> None:
        """Make doubtful failures final, since something answers; while a probe runs, its finding decides."""
        if self._probing:
            return
        for job, error in self._doubtful:
            self._on_final(job, error)
        self._doubtful.clear()

    def _probe(self) -> None:
        """Find out in this thread whether the network is gone, while the others wait."""
        with self._changed:
            unasked = {job.host: job.url for job in self._ready}
        try:
            outage = self._network.wait_until_back(self._stopped, unasked.values())
        except NetworkGoneError as error:
            self._on_gone(error)
            self.stop()
            return
        with self._changed:
            self._probing = False
            if outage:
                self._back_at = self._clock()
                self._forgive()
            self._settle()
            self._changed.notify_all()

    def _forgive(self) -> None:
        """Give every job that failed during an outage all of its attempts again."""
        ended, self._doubtful = self._doubtful, []
        affected = []
        for job, error in ended:
            if job.outages < _MOST_OUTAGES:
                affected.append(job)
            else:
                self._doubtful.append((job, error))
        delayed = (job for *_, job in self._delayed)
        waiting = [job for job in itertools.chain(self._ready, delayed, *self._parked.values()) if job.silent]
        for job in itertools.chain(affected, waiting):
            job.renew()
        self._network.forgive({job.host for job in itertools.chain(affected, waiting)})
        self._ready.extendleft(reversed(affected))
