"""Hundreds of short runs with real threads, random faults, outages and stops: whatever happens, every URL ends once."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter

import pytest

from tasks.download.config import DownloadConfig
from tasks.download.web import network as network_room
from tasks.download.web.attempt import FetchError
from tasks.download.web.network import Network, NetworkGoneError
from tasks.download.web.schedule import Job, Schedule
from tasks.records import Outcome

RUNS = 300
FAULTS = (
    FetchError(Outcome.CONNECT, "refused", transient=True, alive=False),
    FetchError(Outcome.TIMEOUT, "no connection in time", transient=True, alive=False),
    FetchError(Outcome.DNS, "no such name", transient=False, alive=True),
    FetchError(Outcome.BLOCKED_ADDRESS, "private", alive=True),
    FetchError(Outcome.NOT_FOUND, "HTTP 404", 404, alive=True),
    FetchError(Outcome.HTTP_5XX, "HTTP 503", 503, transient=True, alive=True),
    FetchError(Outcome.HTTP_5XX, "HTTP 503", 503, retry_after=0.003, transient=True, alive=True),
    FetchError(Outcome.RATE_LIMITED, "HTTP 429", 429, retry_after=0.002, transient=True, alive=True),
    FetchError(Outcome.RATE_LIMITED, "HTTP 429", 429, retry_after=900.0, transient=True, alive=True),
)
SILENCE = FAULTS[0]


class RandomRun:
    """One run over random URLs of random hosts, each with a temper of its own."""

    def __init__(self, seed: int) -> None:
        chance = self.chance = random.Random(seed)
        self.config = DownloadConfig(
            threads=chance.randint(1, 12),
            per_host=chance.randint(1, 4),
            retries=chance.randint(0, 2),
            backoff_seconds=chance.choice((0.0, 0.0005)),
            host_failures=chance.randint(1, 6),
            host_down_seconds=chance.choice((0.0, 0.004, 600.0)),
            outage_patience_seconds=chance.choice((0.0, 60.0, 60.0)),
        )
        num_hosts = chance.choice((1, 2, 5, 30))
        self.tempers = [chance.choice((0.0, 0.1, 0.9, 1.0)) for _ in range(num_hosts)]
        self.jobs = [
            Job(str(number), f"http://h{chance.randrange(num_hosts)}.example/{number}")
            for number in range(chance.randint(1, 60))
        ]
        # The network is gone from one request on, until it has been asked for so many times.
        self.gone_from = chance.choice((10**9, chance.randint(0, 40)))
        self.back_after = chance.choice((0, 3, 20, 10**9)) if self.config.outage_patience_seconds == 0.0 else 20
        self.stops_at = chance.choice((10**9,) * 4 + (chance.randint(0, 60),))
        self.lock = threading.Lock()
        self.requests: Counter[str] = Counter()
        self.in_flight: Counter[str] = Counter()
        self.ended: Counter[str] = Counter()
        self.witnessed = 0
        self.complaints: list[str] = []
        self.errors: list[NetworkGoneError] = []
        self.schedule = Schedule(
            self.jobs,
            self.config,
            Network(self.config, self._connects),
            num_hosts,
            chance.random() < 0.7,
            lambda job, error: self._end(job),
            self.errors.append,
        )
        self.stopped = False
        threads = [threading.Thread(target=self._work, daemon=True) for _ in range(self.config.threads)]
        for thread in threads:
            thread.start()
        until = time.monotonic() + 60
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))
        self.hanging = sum(thread.is_alive() for thread in threads)

    def _is_gone(self) -> bool:
        return self.requests.total() > self.gone_from and self.witnessed < self.back_after

    def _connects(self, url: str) -> bool:
        with self.lock:
            self.witnessed += 1
            return not self._is_gone() and self.chance.random() < 0.8

    def _end(self, job: Job) -> None:
        with self.lock:
            self.ended[job.key] += 1

    def _work(self) -> None:
        while (job := self.schedule.take()) is not None:
            with self.lock:
                self.requests[job.key] += 1
                self.in_flight[job.host] += 1
                if self.in_flight[job.host] > self.config.per_host:
                    self.complaints.append(f"{self.in_flight[job.host]} requests at once for {job.host}")
                if job.attempts > self.config.retries:
                    self.complaints.append(f"attempt {job.attempts + 1} at {job.url}")
                error = None
                if self._is_gone():
                    error = SILENCE
                elif self.chance.random() < self.tempers[int(job.host[1:].split(".")[0])]:
                    error = self.chance.choice(FAULTS)
                stops = self.requests.total() == self.stops_at
            if self.requests.total() % 3 == 0:
                time.sleep(0.0003)
            with self.lock:
                self.in_flight[job.host] -= 1
            job.attempts += 1
            if error is None:
                self._end(job)
                self.schedule.answered(job)
            else:
                self.schedule.failed(job, error)
            if stops:
                self.stopped = True
                self.schedule.stop()


@pytest.mark.slow("many URLs, threads and faults")
def test_every_url_ends_once_whatever_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network_room, "_FIRST_PROBE_WAIT", 0.001)
    monkeypatch.setattr(network_room, "_LONGEST_PROBE_WAIT", 0.002)
    gone = stopped = forgiven = 0
    for seed in range(RUNS):
        run = RandomRun(seed)
        assert run.hanging == 0, f"seed {seed}: {run.hanging} threads wait for ever"
        assert run.complaints == [], f"seed {seed}"
        assert not run.ended or max(run.ended.values()) == 1, f"seed {seed}: a URL ended twice"
        if run.errors:
            assert len(run.errors) == 1, f"seed {seed}"
            gone += 1
        elif not run.stopped:
            assert len(run.ended) == len(run.jobs), f"seed {seed}: {len(run.jobs) - len(run.ended)} URLs never ended"
        most = (run.config.retries + 1) * (1 + max(job.outages for job in run.jobs))
        assert max(run.requests.values(), default=0) <= most, f"seed {seed}"
        stopped += run.stopped
        forgiven += any(job.outages for job in run.jobs)
    assert min(gone, stopped, forgiven) > 5, "the runs are too tame to prove anything"
