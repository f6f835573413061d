"""Opt-outs are read as sites mean them; robots.txt is read once per host and obeyed at every hop."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tasks.download.web import robots as robots_room
from tasks.download.web.attempt import FetchError
from tasks.download.web.fetch import Fetcher
from tasks.download.web.robots import RobotsRules, opts_out, product_token
from tasks.records import Outcome
from tests.faults import CONFIG, JPEG, serving

OPT_OUTS = ("noai", "noimageai", "noindex", "noimageindex")
ASKING = CONFIG.model_copy(update={"robots_txt": True})


@pytest.mark.parametrize(
    ("user_agent", "token"),
    [
        ("unicoder-vl/0.1 (research image fetcher)", "unicoder-vl"),
        ("Unicoder-VL", "unicoder-vl"),
        ("my_bot (a@b.example)", "my_bot"),
        ("  bot;x", "bot"),
    ],
)
def test_product_token_is_the_first_product(user_agent: str, token: str) -> None:
    assert product_token(user_agent) == token


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        ([], None),
        ([""], None),
        (["all"], None),
        (["noai"], "noai"),
        ([" NoAI "], "noai"),
        (["nofollow, noindex"], "noindex"),
        (["nofollow", "noimageai"], "noimageai"),
        (["none"], "none"),
        (["noaibot"], None),
        (["unicoder-vl: noai"], "noai"),
        (["Unicoder-VL:NOAI"], "noai"),
        (["*: noai"], "noai"),
        (["googlebot: noindex"], None),
        (["googlebot: nofollow, noindex"], None),  # the name limits what follows it
        (["googlebot: noindex, unicoder-vl: noai"], "noai"),
        (["googlebot: noindex", "noindex"], "noindex"),
        (["unavailable_after: 25 Jun 2010 15:00:00 PST"], None),
        (["unavailable_after: Friday, 25-Jun-10 15:00:00 UTC, noindex"], "noindex"),
        (["otherbot: unavailable_after: 25 Jun 2010 15:00:00 PST, noindex"], None),
        (["max-snippet: 20, max-image-preview: large, noindex"], "noindex"),
    ],
)
def test_directives_count_when_they_are_for_us(headers: list[str], found: str | None) -> None:
    assert opts_out(headers, OPT_OUTS, "unicoder-vl") == found


def test_none_means_noindex_only_where_that_counts() -> None:
    assert opts_out(["none"], ("noai",), "unicoder-vl") is None


def failure(fetcher: Fetcher, url: str, seconds: float = 10.0) -> FetchError:
    with pytest.raises(FetchError) as caught:
        fetcher.attempt(url, seconds)
    return caught.value


def test_robots_txt_is_not_asked_for_by_default(server: Any) -> None:
    server.robots = b"User-agent: *\nDisallow: /\n"
    assert Fetcher(CONFIG).attempt(server.url + "/ok/1", 10.0).body == JPEG
    assert server.requests == {"/ok/1": 1}


def test_disallowed_picture_is_not_requested(server: Any) -> None:
    server.robots = b"User-agent: *\nDisallow: /ok/private\n"
    fetcher = Fetcher(ASKING)
    error = failure(fetcher, server.url + "/ok/private/1")
    assert (error.outcome, error.detail, error.transient) == (Outcome.OPTED_OUT, "robots.txt", False)
    assert fetcher.attempt(server.url + "/ok/public", 10.0).body == JPEG
    assert server.requests == {"/robots.txt": 1, "/ok/public": 1}
    assert len(server.clients) == 1


def test_group_of_our_name_goes_before_that_of_all(server: Any) -> None:
    server.robots = b"\xef\xbb\xbfUser-agent: Unicoder-VL\nDisallow: /404/\n\nUser-agent: *\nDisallow: /\n"
    fetcher = Fetcher(ASKING)
    assert fetcher.attempt(server.url + "/ok/1", 10.0).body == JPEG
    assert failure(fetcher, server.url + "/404/1").outcome is Outcome.OPTED_OUT


@pytest.mark.parametrize("robots", [404, 403, 410, 429, b"", b"<html>not found</html>", b"\xff\xfe\x00"])
def test_no_rules_allow_everything(server: Any, robots: int | bytes) -> None:
    server.robots = robots
    fetcher = Fetcher(ASKING)
    for number in range(2):
        assert fetcher.attempt(f"{server.url}/ok/{number}", 10.0).body == JPEG
    assert server.requests["/robots.txt"] == 1


def test_failing_robots_txt_ends_the_url_and_is_asked_for_again(server: Any) -> None:
    server.robots = 503
    server.extra_headers = [("Retry-After", "7")]
    fetcher = Fetcher(ASKING)
    error = failure(fetcher, server.url + "/ok/1")
    assert (error.outcome, error.detail) == (Outcome.HTTP_5XX, "robots.txt: HTTP 503 Service Unavailable")
    assert (error.status, error.retry_after, error.transient, error.alive) == (503, 7.0, True, True)
    assert server.requests == {"/robots.txt": 1}
    server.robots = 404
    assert fetcher.attempt(server.url + "/ok/1", 10.0).body == JPEG


def test_host_that_cannot_be_reached_keeps_its_class() -> None:
    with serving() as server:
        url = server.url + "/ok/1"
    error = failure(Fetcher(ASKING), url)
    assert (error.outcome, error.detail) == (Outcome.CONNECT, "robots.txt: Connection refused")
    assert (error.transient, error.alive) == (True, False)
    refusing = Fetcher(ASKING.model_copy(update={"allow_private_addresses": False}))
    assert failure(refusing, url).outcome is Outcome.BLOCKED_ADDRESS


def test_robots_txt_may_redirect_and_its_own_opt_out_means_nothing(server: Any) -> None:
    server.extra_headers = [("X-Robots-Tag", "noindex")]
    server.robots = b"User-agent: *\nDisallow: /ok/private\n"
    with serving() as host:
        host.robots = server.url + "/robots.txt"
        fetcher = Fetcher(ASKING)
        assert fetcher.attempt(host.url + "/ok/1", 10.0).body == JPEG
        assert failure(fetcher, host.url + "/ok/private").outcome is Outcome.OPTED_OUT
        assert host.requests == {"/robots.txt": 1, "/ok/1": 1}
    assert server.requests == {"/robots.txt": 1}


def test_every_host_on_the_way_is_asked(server: Any) -> None:
    with serving() as target:
        target.robots = b"User-agent: *\nDisallow: /ok/\n"
        server.away = target.url + "/ok/1"
        assert failure(Fetcher(ASKING), server.url + "/away/1").outcome is Outcome.OPTED_OUT
        assert target.requests == {"/robots.txt": 1}
    assert server.requests == {"/robots.txt": 1, "/away/1": 1}


def test_long_robots_txt_counts_as_far_as_it_is_read(server: Any) -> None:
    rules = b"User-agent: *\nDisallow: /ok/first\n"
    server.robots = rules + b"#" * robots_room.ROBOTS_BYTES + b"\nDisallow: /ok/last\n"
    fetcher = Fetcher(ASKING)
    assert failure(fetcher, server.url + "/ok/first").outcome is Outcome.OPTED_OUT
    assert fetcher.attempt(server.url + "/ok/last", 10.0).body == JPEG


def test_time_for_robots_txt_is_part_of_the_urls(server: Any) -> None:
    server.robots = "/drip/1"
    error = failure(Fetcher(ASKING), server.url + "/ok/1", seconds=0.5)
    assert (error.outcome, error.detail) == (Outcome.TIMEOUT, "robots.txt: body too slow")


def test_robots_txt_is_read_once_however_many_ask(server: Any) -> None:
    server.robots = b"User-agent: *\nDisallow: /private\n"
    fetcher = Fetcher(ASKING)
    with ThreadPoolExecutor(8) as pool:
        bodies = list(pool.map(lambda n: fetcher.attempt(f"{server.url}/ok/{n}", 20.0).body, range(32)))
    assert bodies == [JPEG] * 32
    assert server.requests["/robots.txt"] == 1


def test_those_who_wait_read_nothing_and_share_the_failure_which_is_then_forgotten() -> None:
    reads: list[str] = []
    begun, go = threading.Event(), threading.Event()

    def read(url: str) -> bytes | None:
        reads.append(url)
        begun.set()
        go.wait(20)
        raise FetchError(Outcome.CONNECT, "refused")

    rules = RobotsRules(read, "bot")
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(rules.allow, "http://a.example/1", 20)
        assert begun.wait(20)
        second = pool.submit(rules.allow, "http://A.example/2", 20)
        with pytest.raises(TimeoutError):
            rules.allow("http://a.example/3", 0.2)
        assert reads == ["http://a.example/robots.txt"]
        go.set()
        assert isinstance(first.exception(), FetchError)
        assert isinstance(second.exception(), FetchError)
    with pytest.raises(FetchError):
        rules.allow("http://a.example/4", 20)
    assert len(reads) == 2


def test_memory_of_rules_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(robots_room, "_KEPT", 2)
    reads: list[str] = []
    rules = RobotsRules(lambda url: reads.append(url), "bot")
    for host in ("a", "b", "a", "c", "a", "b"):
        assert rules.allow(f"http://user:pw@{host}/1", 5)
    assert reads == [f"http://{host}/robots.txt" for host in ("a", "b", "c", "b")]
