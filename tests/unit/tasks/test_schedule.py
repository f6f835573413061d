"""URLs are requested as often as they deserve, so many at once per host, and none is lost while the network is gone."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from tasks.attempt import FetchError
from tasks.config import DownloadConfig
from tasks.network import Network, NetworkGoneError, host_of
from tasks.records import Outcome
from tasks.schedule import Job, Schedule

CONFIG = DownloadConfig(threads=4, backoff_seconds=0.001, retries=2, outage_patience_seconds=5.0)

Attempt = Callable[[str], FetchError | None]
"""Stands for the web: what an attempt at a URL comes to; None is an answer."""

SILENCE = FetchError(Outcome.CONNECT, "Connection refused", transient=True, alive=False)
UNAVAILABLE = FetchError(Outcome.HTTP_5XX, "HTTP 503", status=503, transient=True, alive=True)
MISSING = FetchError(Outcome.NOT_FOUND, "HTTP 404", status=404, transient=False, alive=True)


class Run:
    """Works through URLs with real threads, and keeps what became of each."""

    def __init__(
        self,
        urls: Sequence[str],
        attempt: Attempt,
        connects: Callable[[str], bool] = lambda url: True,
        must_be_there: bool = True,
        network: Network | None = None,
        **changes: Any,
    ) -> None:
        self.config = CONFIG.model_copy(update=changes)
        self.notices: list[str] = []
        self.network = network or Network(self.config, connects, self.notices.append)
        self.requests: Counter[str] = Counter()
        self.order: list[str] = []
        self.most_at_once: Counter[str] = Counter()
        self.answered: set[str] = set()
        self.ended: dict[str, FetchError] = {}
        self.gone: NetworkGoneError | None = None
        self._attempt = attempt
        self._lock = threading.Lock()
        self._in_flight: Counter[str] = Counter()
        jobs = [Job(f"{number:09d}", url) for number, url in enumerate(urls)]
        hosts = len({job.host for job in jobs})
        self._schedule = Schedule(
            jobs,
            self.config,
            self.network,
            hosts,
            must_be_there,
            self._final,
            lambda error: setattr(self, "gone", error),
        )
        threads = [threading.Thread(target=self._work, daemon=True) for _ in range(self.config.threads)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
            assert not thread.is_alive(), "the schedule never ended"

    def outcomes(self) -> Counter[str]:
        counts = Counter(error.outcome.value for error in self.ended.values())
        counts["answered"] = len(self.answered)
        return counts

    def _final(self, job: Job, error: FetchError) -> None:
        assert job.url not in self.ended and job.url not in self.answered
        self.ended[job.url] = error

    def _work(self) -> None:
        while (job := self._schedule.take()) is not None:
            host = host_of(job.url)
            with self._lock:
                self.requests[job.url] += 1
                self.order.append(job.url)
                self._in_flight[host] += 1
                self.most_at_once[host] = max(self.most_at_once[host], self._in_flight[host])
            time.sleep(0.001)
            error = self._attempt(job.url)
            with self._lock:
                self._in_flight[host] -= 1
            job.attempts += 1
            if error is None:
                with self._lock:
                    self.answered.add(job.url)
                self._schedule.answered(job)
            else:
                self._schedule.failed(job, error)


def urls(hosts: int, each: int) -> list[str]:
    return [f"http://h{host}.example/{number}" for number in range(each) for host in range(hosts)]


def test_every_url_is_requested_once_and_no_host_by_too_many() -> None:
    run = Run(urls(3, 40), lambda url: None, threads=16, per_host=2)
    assert set(run.requests.values()) == {1} and len(run.answered) == 120
    assert set(run.most_at_once.values()) == {2}


def test_lasting_failure_costs_one_request_and_passing_trouble_three() -> None:
    run = Run(["http://a.example/404", "http://b.example/503"], lambda url: MISSING if "404" in url else UNAVAILABLE)
    assert run.requests == {"http://a.example/404": 1, "http://b.example/503": 3}
    assert run.outcomes() == {"not_found": 1, "http_5xx": 1, "answered": 0}


def test_trouble_that_passes_ends_in_an_answer() -> None:
    seen: Counter[str] = Counter()

    def once(url: str) -> FetchError | None:
        seen[url] += 1
        return UNAVAILABLE if seen[url] == 1 else None

    run = Run(urls(2, 10), once)
    assert set(run.requests.values()) == {2} and len(run.answered) == 20


def test_back_off_holds_no_thread() -> None:
    slow, quick = "http://a.example/503", "http://b.example/1"
    run = Run([slow, quick], lambda url: UNAVAILABLE if url == slow else None, threads=1, backoff_seconds=0.05)
    assert run.order[:2] == [slow, quick] and run.requests[slow] == 3


def test_url_whose_time_is_used_up_is_not_tried_again() -> None:
    ended: list[Job] = []
    job = Job("0", "http://a.example/1")
    schedule = Schedule(
        [job], CONFIG, Network(CONFIG, lambda url: True), 1, True, lambda job, _: ended.append(job), lambda _: None
    )
    taken = schedule.take()
    assert taken is job
    job.attempts, job.seconds = 1, CONFIG.deadline_seconds
    schedule.failed(job, UNAVAILABLE)
    assert ended == [job] and schedule.take() is None


def test_host_that_asks_for_peace_gets_it_and_others_go_on() -> None:
    asked: list[float] = []

    def attempt(url: str) -> FetchError | None:
        if "busy" in url and not asked:
            asked.append(time.monotonic())
            return FetchError(Outcome.RATE_LIMITED, "HTTP 429", 429, retry_after=0.3, transient=True, alive=True)
        if "busy" in url:
            asked.append(time.monotonic())
        return None

    run = Run(["http://busy.example/1", "http://busy.example/2", *urls(1, 5)], attempt, threads=1)
    assert min(later - asked[0] for later in asked[1:]) >= 0.3
    assert run.order[0] == "http://busy.example/1" and "busy" not in run.order[1]
    assert len(run.answered) == 7


def test_host_that_asks_for_too_much_peace_is_not_asked_again() -> None:
    limited = FetchError(Outcome.RATE_LIMITED, "HTTP 429", 429, retry_after=3600.0, transient=True, alive=True)
    run = Run(["http://a.example/1"], lambda url: limited)
    assert run.requests["http://a.example/1"] == 1
    assert run.outcomes()["rate_limited"] == 1


def test_dead_host_stops_costing_requests() -> None:
    dead = [f"http://dead.example/{number}" for number in range(100)]
    alive = urls(5, 40)
    mixed = [url for pair in zip(dead * 2, alive, strict=True) for url in pair]
    run = Run(list(dict.fromkeys(mixed)), lambda url: SILENCE if "dead" in url else None, retries=0, host_failures=6)
    assert len(run.answered) == 200
    requested = sum(number for url, number in run.requests.items() if "dead" in url)
    assert 6 <= requested <= 6 + CONFIG.threads
    assert run.outcomes()["host_down"] == 100 - requested
    down = next(error for error in run.ended.values() if error.outcome is Outcome.HOST_DOWN)
    assert "URLs in a row" in down.detail and "Connection refused" in down.detail


def test_host_that_was_down_is_tried_again_after_a_while() -> None:
    clock = [0.0]
    network = Network(CONFIG, lambda url: True, clock=lambda: clock[0])
    for _ in range(CONFIG.host_failures):
        assert network.down("a.example") is None
        network.url_ended("a.example", SILENCE)
    assert network.down("a.example") is not None
    clock[0] += CONFIG.host_down_seconds
    assert network.down("a.example") is None  # one may try
    assert network.down("a.example") is not None  # the others wait for what comes of it
    network.url_ended("a.example", None)
    assert network.down("a.example") is None


def test_answers_of_any_kind_keep_a_host_up() -> None:
    network = Network(CONFIG, lambda url: True)
    for number in range(50):
        network.url_ended("a.example", SILENCE if number % 5 else MISSING)
    assert network.down("a.example") is None


def interrupted(urls: Sequence[str], after: int) -> tuple[Run, list[str]]:
    """A run whose network goes after so many requests, and comes back as soon as the pause was announced."""
    notices: list[str] = []
    requests = itertools.count(1)
    network = Network(CONFIG, lambda url: bool(notices), notices.append)
    attempt: Attempt = lambda url: SILENCE if next(requests) > after and not notices else None  # noqa: E731
    return Run(urls, attempt, network=network, retries=0), notices


def test_outage_loses_no_url() -> None:
    run, notices = interrupted(urls(10, 20), after=30)
    assert len(run.answered) == 200 and not run.ended
    assert len(notices) == 2 and "paused" in notices[0] and "back" in notices[1]


def test_outage_of_the_only_host_is_waited_for_too() -> None:
    run, notices = interrupted(urls(1, 100), after=0)
    assert len(run.answered) == 100 and not run.ended
    assert len(notices) == 2


def test_network_that_does_not_come_back_ends_the_stage() -> None:
    run = Run(urls(5, 20), lambda url: SILENCE, lambda url: False, outage_patience_seconds=0.0)
    assert run.gone is not None and "gone" in str(run.gone) and "kept" in str(run.gone)
    assert not run.ended  # nothing is burned


def test_many_dead_links_in_a_row_are_no_outage_while_a_known_host_connects() -> None:
    alive = ["http://good.example/1"]
    run = Run(
        [*alive, *urls(40, 2)], lambda url: None if "good" in url else SILENCE, lambda url: "good" in url, retries=0
    )
    assert run.notices == []
    assert run.outcomes() == {"connect": 80, "answered": 1}


def test_where_only_dead_links_are_left_silence_is_no_outage() -> None:
    run = Run(urls(40, 2), lambda url: SILENCE, lambda url: False, must_be_there=False, retries=0)
    assert run.gone is None
    assert run.outcomes() == {"connect": 80, "answered": 0}


def test_stop_wakes_everybody() -> None:
    schedule = Schedule(
        [Job("0", "http://a.example/1")],
        CONFIG,
        Network(CONFIG, lambda url: True),
        1,
        True,
        lambda *_: None,
        lambda _: None,
    )
    assert schedule.take() is not None
    waiting = threading.Thread(target=schedule.take, daemon=True)
    waiting.start()
    schedule.stop()
    waiting.join(10)
    assert not waiting.is_alive()
