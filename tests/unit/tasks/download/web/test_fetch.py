"""One attempt at a URL ends in time with a body or a classed failure, whatever the server does."""

from __future__ import annotations

import email.utils
import gzip
import json
import resource
import socket
import struct
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.download.web import connect as connect_room
from tasks.download.web import fetch as fetch_room
from tasks.download.web.attempt import FetchError
from tasks.download.web.fetch import Answer, Fetcher
from tasks.download.web.resolve import is_public
from tasks.errors import UserError
from tasks.records import Outcome
from tests.faults import CONFIG, JPEG, bomb, raw_server


def fetch(url: str, seconds: float = 10.0, **changes: object) -> Answer:
    fetcher = Fetcher(CONFIG.model_copy(update=changes))
    try:
        return fetcher.attempt(url, seconds)
    finally:
        fetcher.close()


def failure(url: str, seconds: float = 10.0, **changes: object) -> FetchError:
    with pytest.raises(FetchError) as caught:
        fetch(url, seconds, **changes)
    return caught.value


def unused_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])


# --- what a server says ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/ok/1", "/gzip/1"])
def test_body_arrives_unpacked_after_one_request(server: Any, path: str) -> None:
    assert fetch(server.url + path) == Answer(JPEG, 200)
    assert server.requests == {path: 1}


@pytest.mark.parametrize(
    ("path", "outcome", "detail", "transient"),
    [
        ("/304/1", Outcome.HTTP_4XX, "HTTP 304 Not Modified", False),
        ("/400/1", Outcome.HTTP_4XX, "HTTP 400 Bad Request", False),
        ("/401/1", Outcome.FORBIDDEN, "HTTP 401 Unauthorized", False),
        ("/403/1", Outcome.FORBIDDEN, "HTTP 403 Forbidden", False),
        ("/404/1", Outcome.NOT_FOUND, "HTTP 404 Not Found", False),
        ("/407/1", Outcome.HTTP_4XX, "HTTP 407 Proxy Authentication Required", False),
        ("/408/1", Outcome.TIMEOUT, "HTTP 408 Request Timeout", True),
        ("/410/1", Outcome.GONE, "HTTP 410 Gone", False),
        ("/429/1", Outcome.RATE_LIMITED, "HTTP 429 Too Many Requests", True),
        ("/451/1", Outcome.FORBIDDEN, "HTTP 451 Unavailable For Legal Reasons", False),
        ("/500/1", Outcome.HTTP_5XX, "HTTP 500 Internal Server Error", True),
        ("/501/1", Outcome.HTTP_5XX, "HTTP 501 Not Implemented", False),
        ("/503/1", Outcome.HTTP_5XX, "HTTP 503 Service Unavailable", True),
        ("/505/1", Outcome.HTTP_5XX, "HTTP 505 HTTP Version Not Supported", False),
        ("/599/1", Outcome.HTTP_5XX, "HTTP 599", True),
    ],
)
def test_status_ends_as_its_outcome(server: Any, path: str, outcome: Outcome, detail: str, transient: bool) -> None:
    error = failure(server.url + path)
    assert (error.outcome, error.detail, error.transient) == (outcome, detail, transient)
    assert (error.status, error.alive, server.requests[path]) == (int(path.split("/")[1]), True, 1)


@pytest.mark.parametrize(
    ("path", "outcome", "transient", "requests"),
    [
        ("/loop/1", Outcome.TOO_MANY_REDIRECTS, False, 4),
        ("/large/1", Outcome.TOO_LARGE, False, 1),
        ("/declared/1", Outcome.TOO_LARGE, False, 1),
        ("/undeclared/1", Outcome.TOO_LARGE, False, 1),
        ("/endless/1", Outcome.TOO_LARGE, False, 1),
        ("/inflating/1", Outcome.TOO_LARGE, False, 1),
        ("/bomb/1", Outcome.TOO_LARGE, False, 1),
        ("/nogzip/1", Outcome.NOT_AN_IMAGE, False, 1),
        ("/truncated/1", Outcome.TRUNCATED, True, 1),
        ("/chunkcut/1", Outcome.TRUNCATED, True, 1),
        ("/chunkminus/1", Outcome.TRUNCATED, True, 1),
        ("/reset/1", Outcome.CONNECT, True, 1),
        ("/hangup/1", Outcome.CONNECT, True, 1),
        ("/garbage/1", Outcome.CONNECT, True, 1),
        ("/twolengths/1", Outcome.CONNECT, True, 1),
    ],
)
def test_fault_ends_as_its_outcome_after_so_many_requests(
    server: Any, path: str, outcome: Outcome, transient: bool, requests: int
) -> None:
    bomb()  # Made before a client waits for it.
    error = failure(server.url + path)
    assert (error.outcome, error.transient, server.requests[path]) == (outcome, transient, requests)
    assert error.alive
    assert error.detail
    assert "0x" not in error.detail


def test_details_are_the_raw_facts(server: Any) -> None:
    half = len(JPEG) // 2
    assert failure(server.url + "/truncated/1").detail == f"body broken off: {half} of {len(JPEG)} bytes"
    assert failure(server.url + "/reset/1").detail == "no HTTP answer: Connection reset by peer"
    assert failure(server.url + "/hangup/1").detail == "no HTTP answer: connection closed"
    assert failure(server.url + "/declared/1").detail == "300000000 bytes, limit 100000"


def test_detail_is_short_and_printable_whatever_the_server_writes() -> None:
    def shout(connection: socket.socket) -> None:
        connection.recv(1000)
        connection.sendall(b"HTTP/1.1 404 " + b"\x1b[31m no\t" * 200 + b"\r\nContent-Length: 0\r\n\r\n")

    with raw_server(shout) as port:
        error = failure(f"http://127.0.0.1:{port}/1")
    assert (error.outcome, len(error.detail)) == (Outcome.NOT_FOUND, 200)
    assert error.detail.startswith("HTTP 404 ?[31m no ?[31m no")


def test_malformed_headers_fill_no_log(caplog: pytest.LogCaptureFixture) -> None:
    def mumble(connection: socket.socket) -> None:
        connection.recv(1000)
        connection.sendall(b"HTTP/1.1 200 OK\r\nno colon\r\nContent-Length: 5\r\n\r\n12345")

    with raw_server(mumble) as port:
        fetch(f"http://127.0.0.1:{port}/1")
    assert caplog.records == []


def test_endless_body_is_read_only_to_the_limit(server: Any) -> None:
    failure(server.url + "/endless/1")
    assert server.sent < 20_000_000  # what socket buffers take, not what ten seconds would


def test_body_of_declared_length_over_the_limit_is_not_read(server: Any) -> None:
    failure(server.url + "/declared/1")
    assert server.sent < 20_000_000


_MEMORY = """
import json, resource, sys
from tasks.download.config import DownloadConfig
from tasks.download.web.attempt import FetchError
from tasks.download.web.fetch import Fetcher
fetcher = Fetcher(DownloadConfig(allow_private_addresses=True, env_proxies=False))
fetcher.attempt(sys.argv[1] + "/ok/1", 30)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
outcomes = []
for path in sys.argv[2:]:
    try:
        fetcher.attempt(sys.argv[1] + path, 60)
    except FetchError as error:
        outcomes.append(error.outcome)
print(json.dumps([outcomes, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before]))
"""


def run(code: str, *arguments: str) -> str:
    root = Path(__file__).parents[5]
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=True, timeout=120).stdout


def test_memory_is_bounded_by_the_limit_not_by_the_body(server: Any) -> None:
    """The default limit is 20 MB; the bodies are 300 MB, 300 MB, endless, and a bomb of 200 MB."""
    output = run(_MEMORY, server.url, "/declared/1", "/undeclared/1", "/endless/1", "/bomb/1")
    outcomes, grown_kib = json.loads(output)
    assert outcomes == ["too_large"] * 4
    assert grown_kib < 80 * 1024


_HEAD_LINES = st.sampled_from(
    [
        b"Content-Length: 5", b"Content-Length: -1", b"Content-Length: " + b"9" * 5000, b"Content-Length: 5, 6",
        b"Transfer-Encoding: chunked", b"Transfer-Encoding: gzip, chunked", b"Transfer-Encoding: x",
        b"Content-Encoding: gzip", b"Content-Encoding: gzip, gzip", b"Content-Encoding: " + b"gzip," * 10,
        b"Location: /x", b"Location: ", b"Location: http://[::1", b"Location: http://a:b/", b"Location: \\\\a",
        b"Location: http://\xe2\x84\x80.example/", b"Location: http://%00/", b"Location: http://" + b"a" * 300,
        b"Retry-After: \xb2", b"Retry-After: Mon, 99 Foo 0000 99:99:99 +99999999", b"X-Robots-Tag: ,:,",
        b"Connection: close", b"no colon", b" folded", b": nameless", b"\x00: \xff", b"Long: " + b"a" * 70_000,
    ]
)  # fmt: skip
_STATUSES = st.sampled_from([b"200 OK", b"200", b"206 Part", b"204 None", b"302 Found", b"404", b"abc", b"101 X"])
_HEADS = st.tuples(_STATUSES, st.lists(_HEAD_LINES, min_size=1, max_size=4))
_BODIES = st.sampled_from(
    [
        b"",
        b"12345",
        gzip.compress(b"12345", mtime=0),
        b"5\r\n12345\r\n0\r\n\r\n",
        b"zz\r\n",
        b"-5\r\nabc",
        b"f" * 18 + b"\r\na",
    ]
)


def test_whatever_bytes_a_server_sends_end_as_a_body_or_a_classed_failure() -> None:
    answer = b""

    def behave(connection: socket.socket) -> None:
        connection.recv(10_000)
        connection.sendall(answer)
        connection.shutdown(socket.SHUT_WR)
        connection.recv(10_000)

    @settings(max_examples=400, deadline=None, derandomize=True, database=None)
    @given(head=_HEADS, body=_BODIES, noise=st.lists(st.tuples(st.integers(0, 500), st.integers(0, 255)), max_size=2))
    def attempt(head: tuple[bytes, list[bytes]], body: bytes, noise: list[tuple[int, int]]) -> None:
        nonlocal answer
        content = bytearray(b"\r\n".join([b"HTTP/1.1 " + head[0], *head[1], b"", body]))
        for place, byte in noise:
            content[place % len(content)] = byte
        answer = bytes(content)
        with suppress(FetchError):
            fetcher.attempt(f"http://127.0.0.1:{port}/1", 5.0)

    with raw_server(behave) as port:
        fetcher = Fetcher(CONFIG.model_copy(update={"max_redirects": 0}))
        attempt()
        fetcher.close()


# --- time -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("path", "status"), [("/drip/1", 200), ("/dripheader/1", None)])
def test_dripping_server_is_cut_off_at_the_deadline(server: Any, path: str, status: int | None) -> None:
    start = time.monotonic()
    error = failure(server.url + path, seconds=0.5)
    assert 0.4 < time.monotonic() - start < 5
    assert (error.outcome, error.status, error.transient, error.alive) == (Outcome.TIMEOUT, status, True, True)


def test_silent_server_is_given_up_after_the_read_timeout(server: Any) -> None:
    start = time.monotonic()
    error = failure(server.url + "/hang/1", read_timeout_seconds=0.2)
    assert time.monotonic() - start < 5
    assert (error.outcome, error.detail, error.alive) == (Outcome.TIMEOUT, "no answer in time", True)


def test_deadline_holds_for_redirects_and_body_together(server: Any) -> None:
    server.away = "/drip/1"
    start = time.monotonic()
    assert failure(server.url + "/away/1", seconds=0.5).outcome is Outcome.TIMEOUT
    assert time.monotonic() - start < 5


def test_status_stands_where_its_body_does_not_come(server: Any) -> None:
    assert failure(server.url + "/dripgone/1", seconds=0.5).outcome is Outcome.GONE


def test_attempt_without_any_time_left_is_a_timeout(server: Any) -> None:
    error = failure(server.url + "/ok/1", seconds=0.0)
    assert (error.outcome, error.alive) == (Outcome.TIMEOUT, False)
    assert not server.requests


def test_connection_that_is_never_accepted_is_given_up_in_time() -> None:
    # A listener whose queue is full: the system lets further connections wait.
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        fillers = []
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
            fillers.append(filler)
        start = time.monotonic()
        error = failure(f"http://127.0.0.1:{listener.getsockname()[1]}/1", connect_timeout_seconds=0.3)
        assert time.monotonic() - start < 5
        for filler in fillers:
            filler.close()
    assert (error.outcome, error.detail) == (Outcome.TIMEOUT, "no connection in time")
    assert (error.transient, error.alive) == (True, False)


# --- names and addresses --------------------------------------------------------------------------------------------


def test_nothing_listening_is_connect() -> None:
    error = failure(f"http://127.0.0.1:{unused_port()}/1")
    assert (error.outcome, error.detail, error.status) == (Outcome.CONNECT, "Connection refused", None)
    assert (error.transient, error.alive) == (True, False)


@pytest.mark.parametrize(
    ("code", "words", "transient", "alive"),
    [
        (socket.EAI_NONAME, "Name or service not known", False, True),
        (socket.EAI_AGAIN, "Temporary failure in name resolution", True, False),
        (socket.EAI_FAIL, "Non-recoverable failure in name resolution", False, False),
    ],
)
def test_name_that_does_not_resolve_is_dns(
    monkeypatch: pytest.MonkeyPatch, code: int, words: str, transient: bool, alive: bool
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise socket.gaierror(code, words)

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    error = failure("http://nowhere.example/1")
    assert (error.outcome, error.detail, error.transient, error.alive) == (Outcome.DNS, words, transient, alive)


def test_name_service_that_does_not_answer_costs_the_deadline_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: time.sleep(20))
    start = time.monotonic()
    error = failure("http://slow.example/1", seconds=0.3)
    assert time.monotonic() - start < 5
    assert (error.outcome, error.detail) == (Outcome.DNS, "no answer in time")
    assert (error.transient, error.alive) == (True, False)


@pytest.mark.parametrize("url", ["http://exa mple/1", f"http://{'a' * 70}.example/1", "http://a..b/1", "http://[1/"])
def test_host_that_cannot_be_asked_for_is_bad_url(url: str) -> None:
    error = failure(url)
    assert (error.outcome, error.transient) == (Outcome.BAD_URL, False)


def test_machine_without_descriptors_is_an_error_and_no_outcome(server: Any) -> None:
    fetcher = Fetcher(CONFIG)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket() as lowest_free:
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free.fileno(), hard))
        try:
            with pytest.raises(UserError, match=r"Too many open files.*ulimit"):
                fetcher.attempt(server.url + "/ok/1", 10.0)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_loopback_is_refused_by_default(server: Any) -> None:
    error = failure(server.url + "/ok/1", allow_private_addresses=False)
    assert (error.outcome, error.transient, error.alive) == (Outcome.BLOCKED_ADDRESS, False, True)
    assert not server.requests


def test_redirect_into_a_private_network_is_refused(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # The first hop counts as public, so that there is one; 127.0.0.2 is as private as it ever was.
    monkeypatch.setattr(connect_room, "is_public", lambda address: address == "127.0.0.1" or is_public(address))
    server.away = f"http://127.0.0.2:{server.port}/ok/secret"
    assert failure(server.url + "/away/1", allow_private_addresses=False).outcome is Outcome.BLOCKED_ADDRESS
    assert server.requests == {"/away/1": 1}


def test_name_with_one_private_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def answers(host: str, port: int | None, **_: object) -> list[tuple[object, ...]]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, port)) for ip in ("8.8.8.8", "10.0.0.1")]

    monkeypatch.setattr(socket, "getaddrinfo", answers)
    error = failure("http://rebinding.example/1", allow_private_addresses=False)
    assert error.outcome is Outcome.BLOCKED_ADDRESS


# --- redirects ------------------------------------------------------------------------------------------------------


def test_redirect_is_followed(server: Any) -> None:
    assert fetch(server.url + "/redirect/1") == Answer(JPEG, 200)
    assert server.requests == {"/redirect/1": 1, "/ok/after-redirect": 1}


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://a.example/1", "http://[1/", "gopher://a/"])
def test_redirect_leaves_the_web_never(server: Any, target: str) -> None:
    server.away = target
    assert failure(server.url + "/away/1").outcome is Outcome.BAD_URL
    assert server.requests == {"/away/1": 1}


def test_redirect_address_may_be_raw_utf8(server: Any) -> None:
    server.away = "/ok/käse".encode().decode("latin-1")
    assert fetch(server.url + "/away/1").body == JPEG
    assert server.requests["/ok/k%C3%A4se"] == 1


def test_dead_end_of_a_redirect_is_not_silence_of_the_host_asked(server: Any) -> None:
    server.away = f"http://127.0.0.1:{unused_port()}/1"
    error = failure(server.url + "/away/1")
    assert (error.outcome, error.alive) == (Outcome.CONNECT, True)


# --- Retry-After ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_handed_on_however_long(server: Any, status: int) -> None:
    server.extra_headers = [("Retry-After", "86400")]
    error = failure(f"{server.url}/{status}/1")
    assert (error.status, error.retry_after, error.transient) == (status, 86400.0, True)
    server.extra_headers = []
    assert failure(f"{server.url}/{status}/2").retry_after is None


def test_retry_after_may_be_a_date() -> None:
    soon = email.utils.format_datetime(datetime.now(UTC) + timedelta(seconds=100))
    assert fetch_room._retry_after(soon) == pytest.approx(100, abs=5)
    assert fetch_room._retry_after("Thu, 01 Jan 1970 00:00:00 GMT") == 0.0


@pytest.mark.parametrize(
    "header",
    [
        *("soon", "", "-1", "\u0663", "Thu, 01 Jan 99999 00:00:00 GMT", "1 Jan 2020 00:00 +9999999999"),
        *("Fri, 31 Feb 2031 25:61:61 GMT", "Mon, 32 Jan 2030 00:00:00 GMT"),
    ],
)
def test_unreadable_retry_after_is_none(header: str) -> None:
    assert fetch_room._retry_after(header) is None


# --- connections and manners ----------------------------------------------------------------------------------------


def test_connection_is_kept_also_after_short_failures_and_redirects(server: Any) -> None:
    fetcher = Fetcher(CONFIG)
    for path in ("/ok/1", "/404/1", "/redirect/1", "/503/1", "/ok/2"):
        try:
            fetcher.attempt(server.url + path, 10.0)
        except FetchError as error:
            assert error.status in (404, 503)
    fetcher.close()
    assert len(server.clients) == 1


def test_request_is_honest_and_holds_nothing_of_this_machine(server: Any) -> None:
    fetch(server.url.replace("//", "//user:secret@") + "/ok/1#fragment")
    headers = server.headers_seen["/ok/1"]
    assert headers.pop("Host") == server.url.removeprefix("http://")
    assert headers == {"Accept-Encoding": "identity", "User-Agent": CONFIG.user_agent, "Accept": CONFIG.accept}


def test_pictures_are_asked_for_so_that_no_server_need_refuse(server: Any) -> None:
    """A JPEG is wanted most, as it keeps its bytes, but whatever there is will do."""
    fetch(server.url + "/ok/1")
    offers = dict(part.partition(";q=")[::2] for part in server.headers_seen["/ok/1"]["Accept"].split(","))
    weights = {kind: float(weight or 1) for kind, weight in offers.items()}
    assert weights["image/jpeg"] > weights["image/*"] > weights["*/*"] > 0


def test_request_says_what_it_is_told_to(server: Any) -> None:
    fetch(server.url + "/ok/1", accept=None, accept_language="de, en;q=0.5", headers={"Referer": "http://a.example/"})
    headers = server.headers_seen["/ok/1"]
    assert "Accept" not in headers
    assert (headers["Accept-Language"], headers["Referer"]) == ("de, en;q=0.5", "http://a.example/")


def test_many_threads_share_one_fetcher(server: Any) -> None:
    fetcher = Fetcher(CONFIG)
    with ThreadPoolExecutor(8) as pool:
        bodies = list(pool.map(lambda n: fetcher.attempt(f"{server.url}/ok/{n}", 10.0).body, range(64)))
    fetcher.close()
    assert bodies == [JPEG] * 64
    assert len(server.clients) <= 8


@pytest.mark.parametrize(
    ("headers", "detail"),
    [
        ([("X-Robots-Tag", "noai")], "X-Robots-Tag: noai"),
        ([("x-robots-tag", "all"), ("X-ROBOTS-TAG", "nofollow, NoImageIndex")], "X-Robots-Tag: noimageindex"),
        ([("X-Robots-Tag", "unicoder-vl: noindex")], "X-Robots-Tag: noindex"),
    ],
)
def test_opt_out_costs_one_request(server: Any, headers: list[tuple[str, str]], detail: str) -> None:
    server.extra_headers = headers
    error = failure(server.url + "/ok/1")
    assert (error.outcome, error.detail, error.status) == (Outcome.OPTED_OUT, detail, 200)
    assert not error.transient
    assert server.requests == {"/ok/1": 1}


def test_opt_out_is_known_before_the_body_is_read(server: Any) -> None:
    server.extra_headers = [("X-Robots-Tag", "noai")]
    assert failure(server.url + "/large/1").outcome is Outcome.OPTED_OUT


def test_opt_out_on_a_redirect_ends_the_url_there(server: Any) -> None:
    server.extra_headers = [("X-Robots-Tag", "noai")]
    assert failure(server.url + "/redirect/1").outcome is Outcome.OPTED_OUT
    assert server.requests == {"/redirect/1": 1}


def test_opt_outs_of_others_and_when_switched_off_do_not_count(server: Any) -> None:
    server.extra_headers = [("X-Robots-Tag", "otherbot: noai")]
    assert fetch(server.url + "/ok/1").body == JPEG
    server.extra_headers = [("X-Robots-Tag", "noai")]
    assert fetch(server.url + "/ok/2", opt_out_directives=()).body == JPEG
    assert failure(server.url + "/404/1").outcome is Outcome.NOT_FOUND


# --- is the network there? ------------------------------------------------------------------------------------------


def test_probe_connects_and_requests_nothing(server: Any) -> None:
    fetcher = Fetcher(CONFIG)
    assert fetcher.connects(server.url + "/ok/1")
    assert not fetcher.connects(f"http://127.0.0.1:{unused_port()}/1")
    assert not fetcher.connects("http://a..b/1")
    fetcher.close()
    assert not server.requests


def test_probe_asks_for_the_name_anew(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fetcher = Fetcher(CONFIG)
    url = f"http://localhost:{server.port}/ok/1"
    assert fetcher.attempt(url, 10.0).body == JPEG

    def gone(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(
        "tasks.download.web.connect.connect_to_any", lambda *_, **__: pytest.fail("a cached name was used")
    )
    monkeypatch.setattr(socket, "getaddrinfo", gone)
    assert not fetcher.connects(url)
    monkeypatch.undo()
    assert fetcher.connects(url)
    fetcher.close()


def test_probe_does_not_wait_longer_than_the_connect_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: time.sleep(20))
    fetcher = Fetcher(CONFIG.model_copy(update={"connect_timeout_seconds": 0.2}))
    start = time.monotonic()
    assert not fetcher.connects("http://slow.example/1")
    assert time.monotonic() - start < 5
    fetcher.close()


_EXIT = """
import socket, time
from tasks.download.config import DownloadConfig
from tasks.download.web.attempt import FetchError
from tasks.download.web.fetch import Fetcher
socket.getaddrinfo = lambda *_, **__: time.sleep(60)
fetcher = Fetcher(DownloadConfig(env_proxies=False))
try:
    fetcher.attempt("http://slow.example/1", 0.2)
except FetchError as error:
    print(error.outcome)
fetcher.close()
"""


def test_look_up_left_behind_does_not_keep_the_process() -> None:
    start = time.monotonic()
    assert run(_EXIT) == "dns\n"
    assert time.monotonic() - start < 40


def test_reset_after_some_headers_is_connect() -> None:
    def cut(connection: socket.socket) -> None:
        connection.recv(1000)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Le")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    with raw_server(cut) as port:
        error = failure(f"http://127.0.0.1:{port}/1")
    assert (error.outcome, error.status, error.alive) == (Outcome.CONNECT, None, True)
