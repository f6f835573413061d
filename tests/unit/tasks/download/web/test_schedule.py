"""URLs are requested as often as they deserve, so many at once per host, and none is lost while the network is gone."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from tasks.download.config import DownloadConfig
from tasks.download.web import network as network_room
from tasks.download.web.attempt import FetchError
from tasks.download.web.network import Network, NetworkGoneError, host_of, is_heard
from tasks.download.web.schedule import Job, Schedule
from tasks.records import Outcome

CONFIG = DownloadConfig(threads=4, backoff_seconds=0.001, retries=2, outage_patience_seconds=5.0)

Attempt = Callable[[str], FetchError | None]
"""Stands for the web: what an attempt at a URL comes to; None is an answer."""

SILENCE = FetchError(Outcome.CONNECT, "Connection refused", transient=True, alive=False)
UNAVAILABLE = FetchError(Outcome.HTTP_5XX, "HTTP 503", status=503, transient=True, alive=True)
MISSING = FetchError(Outcome.NOT_FOUND, "HTTP 404", status=404, transient=False, alive=True)
NO_SUCH_NAME = FetchError(Outcome.DNS, "no such name", transient=False, alive=True)


@pytest.fixture(autouse=True)
def _quick_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network_room, "_FIRST_PROBE_WAIT", 0.05)


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


def test_each_wait_is_twice_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random, "uniform", lambda least, most: 1.0)
    asked: list[float] = []

    def attempt(url: str) -> FetchError:
        asked.append(time.monotonic())
        return UNAVAILABLE

    Run(["http://a.example/1"], attempt, retries=3, backoff_seconds=0.05)
    waits = [later - earlier for earlier, later in itertools.pairwise(asked)]
    assert len(waits) == 3 and all(wait >= least for wait, least in zip(waits, (0.05, 0.1, 0.2), strict=True))


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


def test_dead_host_is_down_long_before_each_of_its_urls_was_tried() -> None:
    """What was begun goes first: else a thousand URLs of it would all cost one attempt before any had cost three."""
    dead = [f"http://dead.example/{number}" for number in range(400)]

    def attempt(url: str) -> FetchError | None:
        if "dead" not in url:
            return None
        time.sleep(0.004)  # Longer than the back-off, as a timeout is: other URLs take the host's places meanwhile.
        return SILENCE

    run = Run([*dead, *urls(1, 5)], attempt, threads=8, per_host=4)
    assert sum(number for url, number in run.requests.items() if "dead" in url) < 100
    assert len(run.answered) == 5 and len(run.ended) == 400
    down = [url for url, error in run.ended.items() if error.outcome is Outcome.HOST_DOWN]
    assert all(run.requests[url] == 0 for url in down) and len(down) > 300  # what was tried says what came of it


def test_dead_host_is_down_soon_where_its_urls_are_far_apart_too() -> None:
    dead = [f"http://dead.example/{number}" for number in range(60)]
    mixed = [url for number, link in enumerate(dead) for url in (link, *urls(10, 60)[number * 10 : number * 10 + 10])]
    run = Run(mixed, lambda url: SILENCE if "dead" in url else None)
    assert len(run.answered) == 600
    assert sum(run.requests[url] > 0 for url in dead) < 30


def test_host_that_asks_for_peace_for_ever_counts_as_down() -> None:
    busy = FetchError(Outcome.HTTP_5XX, "HTTP 503", 503, retry_after=0.01, transient=True, alive=True)
    run = Run([f"http://busy.example/{number}" for number in range(300)], lambda url: busy, threads=8)
    assert run.requests.total() < 100
    assert run.outcomes()["host_down"] > 200


def test_peace_is_kept_after_a_last_attempt_too() -> None:
    asked: list[float] = []

    def attempt(url: str) -> FetchError | None:
        asked.append(time.monotonic())
        if len(asked) > 1:
            return None
        return FetchError(Outcome.RATE_LIMITED, "HTTP 429", 429, retry_after=0.3, transient=True, alive=True)

    Run(["http://busy.example/1", "http://busy.example/2"], attempt, threads=1, retries=0)
    assert asked[1] - asked[0] >= 0.3


def test_answer_of_the_host_under_trial_brings_it_back_even_where_it_is_no_picture() -> None:
    network = Network(CONFIG.model_copy(update={"host_down_seconds": 0.05}), lambda url: True)
    for _ in range(CONFIG.host_failures):
        network.attempt_ended("h0.example", SILENCE)
    time.sleep(0.06)
    seen: Counter[str] = Counter()

    def asleep(url: str) -> FetchError | None:
        seen[url] += 1
        return UNAVAILABLE if seen.total() == 1 else None

    run = Run(urls(1, 6), asleep, network=network, threads=1, backoff_seconds=0.01)
    assert len(run.answered) == 6


def test_host_that_was_down_is_tried_again_after_a_while() -> None:
    clock = [0.0]
    network = Network(CONFIG, lambda url: True, clock=lambda: clock[0])
    for _ in range(CONFIG.host_failures):
        assert network.down("a.example") is None
        network.attempt_ended("a.example", SILENCE)
    assert network.down("a.example") is not None
    clock[0] += CONFIG.host_down_seconds
    assert network.down("a.example") is None  # one may try
    assert network.down("a.example") is not None  # the others wait for what comes of it
    network.attempt_ended("a.example", None)
    assert network.down("a.example") is None


def test_answers_of_any_kind_keep_a_host_up() -> None:
    network = Network(CONFIG, lambda url: True)
    for number in range(50):
        network.attempt_ended("a.example", SILENCE if number % 5 else MISSING)
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


def test_first_answers_that_are_on_their_way_make_a_pause_needless() -> None:
    """A shard begins with dead links, which fail at once; the first hosts that are there take a moment to answer."""

    def attempt(url: str) -> FetchError | None:
        if "slow" not in url:
            return SILENCE
        time.sleep(0.02)
        return None

    run = Run(
        ["http://slow.example/", *urls(20, 2)],
        attempt,
        lambda url: "slow" in url,
        outage_patience_seconds=0.0,
        threads=16,
        retries=0,
    )
    assert run.gone is None and run.notices == []
    assert run.outcomes() == {"connect": 40, "answered": 1}


def test_list_that_begins_with_a_long_run_of_dead_links_is_no_outage() -> None:
    """Nothing has answered yet; hosts further down the list can be connected to."""
    alive = [f"http://alive{host}.example/" for host in range(30)]
    run = Run(
        [*urls(40, 2), *alive],
        lambda url: None if "alive" in url else SILENCE,
        lambda url: "alive" in url,
        outage_patience_seconds=0.0,
        retries=0,
    )
    assert run.gone is None and run.notices == []
    assert run.outcomes() == {"connect": 80, "answered": 30}


def test_outage_of_the_only_host_is_waited_for_too() -> None:
    run, notices = interrupted(urls(1, 100), after=0)
    assert len(run.answered) == 100 and not run.ended
    assert len(notices) == 2


def test_what_waits_for_its_next_attempt_has_all_of_them_again_after_an_outage() -> None:
    """Silent once, then unavailable once: with a single retry, that is one too many unless the first is forgiven."""
    notices: list[str] = []
    network = Network(CONFIG, lambda url: bool(notices), notices.append)
    seen: Counter[str] = Counter()

    def attempt(url: str) -> FetchError | None:
        if not notices:
            return SILENCE
        seen[url] += 1
        return UNAVAILABLE if seen[url] == 1 else None

    run = Run(urls(10, 3), attempt, network=network, retries=1, backoff_seconds=0.2)
    assert len(run.answered) == 30 and len(notices) == 2


def test_hosts_that_were_silent_in_an_outage_only_are_not_down_after_it() -> None:
    config = CONFIG.model_copy(update={"host_failures": 1, "retries": 0})
    notices: list[str] = []
    network = Network(config, lambda url: bool(notices), notices.append)
    run = Run(urls(10, 20), lambda url: None if notices else SILENCE, network=network, retries=0, host_failures=1)
    assert len(run.answered) == 200 and not run.ended


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


def test_what_needs_no_host_proves_none() -> None:
    """A name that does not exist, a private address, rules read long ago: all may be known without any network."""
    assert not is_heard(NO_SUCH_NAME) and not is_heard(SILENCE)
    assert not is_heard(FetchError(Outcome.BLOCKED_ADDRESS, "private", alive=True))
    assert not is_heard(FetchError(Outcome.OPTED_OUT, "robots.txt", alive=True))
    assert is_heard(FetchError(Outcome.OPTED_OUT, "X-Robots-Tag: noai", 200, alive=True))
    assert is_heard(MISSING) and is_heard(FetchError(Outcome.TLS, "handshake", alive=True))


def test_names_that_do_not_exist_are_no_witnesses_of_an_outage() -> None:
    """Failures tried again: half of the names are gone, the other hosts are dead. That is no outage, however silent."""
    attempt: Attempt = lambda url: SILENCE if int(url[8:].split(".")[0]) > 20 else NO_SUCH_NAME  # noqa: E731
    run = Run(urls(60, 2), attempt, lambda url: False, must_be_there=False, retries=0)
    assert run.gone is None and run.notices == []
    assert run.outcomes() == {"connect": 78, "dns": 42, "answered": 0}


def test_names_that_do_not_exist_do_not_make_failures_final_during_an_outage() -> None:
    notices: list[str] = []
    network = Network(CONFIG, lambda url: bool(notices), notices.append)
    requests = itertools.count(1)

    def attempt(url: str) -> FetchError | None:
        if "h9." in url:
            return NO_SUCH_NAME
        return SILENCE if next(requests) > 30 and not notices else None

    run = Run(urls(10, 20), attempt, network=network, retries=0)
    assert len(run.answered) == 180 and {host_of(url) for url in run.ended} == {"h9.example"}
    assert len(notices) == 2


def test_dead_links_without_a_witness_end_at_once_where_they_are_expected() -> None:
    ended_before_the_last: list[int] = []

    def attempt(url: str) -> FetchError:
        ended_before_the_last.append(len(run_ended))
        return SILENCE

    run_ended: list[str] = []
    config = CONFIG.model_copy(update={"retries": 0})
    jobs = [Job(str(number), f"http://h{number}.example/") for number in range(50)]
    schedule = Schedule(
        jobs, config, Network(config, lambda url: False), 50, False, lambda job, _: run_ended.append(job.key), print
    )
    while (job := schedule.take()) is not None:
        job.attempts += 1
        schedule.failed(job, attempt(job.url))
    assert ended_before_the_last == list(range(50))  # a kill loses nothing


def test_last_urls_of_a_list_are_not_lost_to_an_outage() -> None:
    """Three silent hosts are too few for a suspicion, but five others have answered before."""
    notices: list[str] = []
    network = Network(CONFIG, lambda url: bool(notices), notices.append)
    silent = ("x0.", "x1.", "x2.")
    last = [f"http://{name}example/1" for name in silent]
    run = Run(
        [*urls(5, 4), *last],
        lambda url: SILENCE if any(name in url for name in silent) and not notices else None,
        network=network,
        threads=1,
    )
    assert len(run.answered) == 23 and not run.ended
    assert len(notices) == 2


def test_dead_links_at_the_end_of_a_list_are_no_outage_while_others_connect() -> None:
    run = Run([*urls(5, 4), "http://dead.example/"], lambda url: SILENCE if "dead" in url else None, threads=1)
    assert run.notices == [] and run.outcomes() == {"connect": 1, "answered": 20}


def test_attempt_begun_during_an_outage_and_ended_after_it_does_not_count() -> None:
    """A thread is still waiting for a connection when the network comes back."""
    notices: list[str] = []
    network = Network(CONFIG, lambda url: bool(notices), notices.append)
    slow = "http://slow.example/1"
    requests: Counter[str] = Counter()

    def attempt(url: str) -> FetchError | None:
        requests[url] += 1
        if url == slow and requests[url] == 1:
            until = time.monotonic() + 20
            while len(notices) < 2 and time.monotonic() < until:
                time.sleep(0.005)
            time.sleep(0.05)
            return SILENCE
        return None if notices else SILENCE

    run = Run([slow, *urls(6, 20)], attempt, network=network, retries=0)
    assert len(notices) == 2
    assert requests[slow] == 2 and len(run.answered) == 121 and not run.ended


def test_network_that_comes_and_goes_does_not_keep_a_dead_link_for_ever() -> None:
    """Witnesses fail once and then connect, each time: every suspicion turns into an outage."""
    calls: Counter[int] = Counter()
    lock = threading.Lock()

    def connects(url: str) -> bool:
        with lock:
            calls[0] += 1
            return calls[0] % 12 == 0

    run = Run(urls(8, 3), lambda url: SILENCE, connects, retries=0, outage_patience_seconds=60.0)
    assert run.outcomes()["answered"] == 0 and len(run.ended) == 24
    assert max(run.requests.values()) <= 4


def test_outage_is_judged_by_other_witnesses_each_time() -> None:
    """The three hosts that answered last have died for themselves; an earlier one can still be connected to."""
    network = Network(CONFIG, lambda url: "h0." in url)
    for host in range(6):
        network.heard(f"http://h{host}.example/")
    network.silence("http://h5.example/")
    assert network.wait_until_back(threading.Event())
    network.silence("http://h5.example/")
    assert not network.wait_until_back(threading.Event())  # now it is known whom to ask


@pytest.mark.parametrize("error", [None, MISSING, UNAVAILABLE], ids=["answered", "failed", "failed for now"])
def test_request_that_ends_wakes_a_thread_for_the_next(error: FetchError | None) -> None:
    """The thread that made it is busy with the picture; the host may have its next request meanwhile."""
    config = CONFIG.model_copy(update={"per_host": 1, "backoff_seconds": 60.0})
    jobs = [Job(str(number), f"http://a.example/{number}") for number in range(2)]
    schedule = Schedule(jobs, config, Network(config, lambda url: True), 1, True, lambda *_: None, lambda _: None)
    first = schedule.take()
    assert first is jobs[0]
    taken: list[Job | None] = []
    waiting = threading.Thread(target=lambda: taken.append(schedule.take()), daemon=True)
    waiting.start()
    time.sleep(0.05)  # so that it waits; if it is late, it need not be woken
    first.attempts = 1
    if error is None:
        schedule.answered(first)
    else:
        schedule.failed(first, error)
    waiting.join(10)
    assert taken == [jobs[1]]


def test_idle_threads_sleep() -> None:
    """One host keeps two of twelve threads busy; an answer does not wake the ten others."""
    looks = 0
    original = Schedule._next

    def counting(self: Schedule) -> Job | None:
        nonlocal looks
        looks += 1
        return original(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Schedule, "_next", counting)
        run = Run(urls(1, 200), lambda url: None, threads=12, per_host=2)
    assert len(run.answered) == 200
    assert looks < 200 * 4


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
