"""Every row holds its own picture, whatever a server sends on a connection that is kept."""

from __future__ import annotations

import random
import socket
import ssl
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import trustme

from tasks.download.web import connect as connect_room
from tasks.download.web.attempt import FetchError
from tasks.download.web.fetch import Fetcher
from tasks.records import Outcome
from tests.faults import CONFIG, picture, raw_server

PATIENT = CONFIG.model_copy(update={"connect_timeout_seconds": 20.0, "read_timeout_seconds": 20.0, "env_proxies": True})
DIRECT = PATIENT.model_copy(update={"env_proxies": False})
BRIEF = PATIENT.model_copy(update={"read_timeout_seconds": 0.2})
OK = b"HTTP/1.1 200 OK\r\n"
EARLY = b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\nContent-Length: 40\r\n\r\n"


def own(number: int) -> bytes:
    """The picture of a row."""
    return picture(f"hsl({number * 7 % 360}, 80%, 50%)")


OTHER = picture("white")
"""The picture of no row."""


def answer(body: bytes, *lines: bytes, status: bytes = OK) -> bytes:
    return status + b"".join(line + b"\r\n" for line in (b"Content-Length: %d" % len(body), *lines)) + b"\r\n" + body


def chunked(body: bytes, trailers: bytes = b"") -> bytes:
    half = len(body) // 2
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:half], body[half:]))
    return chunks + b"0\r\n" + trailers + b"\r\n"


# What is sent for a row's picture, and the row gets it.
GIVEN: dict[str, Callable[[bytes], bytes]] = {
    "plain": answer,
    "early": lambda body: EARLY + answer(body),
    "interim": lambda body: (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\nA: b\r\n\r\n" + EARLY + answer(body)
    ),
    "switched": lambda body: b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n" + answer(body),
    "newline": lambda body: answer(body) + b"\r\n",
    "behind": lambda body: answer(body) + b"x" * 20_000,
    "twice": lambda body: answer(body) + answer(OTHER),
    "thrice": lambda body: answer(body) + 2 * answer(OTHER + bytes(9000)),
    "hinted-twice": lambda body: EARLY + answer(body) + EARLY + answer(OTHER),
    "chunked": lambda body: OK + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(body),
    "trailers": lambda body: (
        OK + b"Transfer-Encoding: chunked\r\nTrailer: A\r\n\r\n" + chunked(body, b"A: 1\r\nB: 2\r\n")
    ),
    "chunked-twice": lambda body: OK + b"Transfer-Encoding: Chunked\r\n\r\n" + chunked(body) + answer(OTHER),
    "both": lambda body: OK + b"Content-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(body),
    "both-long": lambda body: OK + b"Transfer-Encoding: chunked\r\nContent-Length: 99999\r\n\r\n" + chunked(body),
    "same-length-twice": lambda body: answer(body, b"Content-Length: %d" % len(body)),
    "plus": lambda body: OK + b"Content-Length: +%d\r\n\r\n" % len(body) + body,
    "old": lambda body: answer(body, b"Connection: keep-alive", status=b"HTTP/1.0 200 OK\r\n"),
    "old-twice": lambda body: answer(body, b"Keep-Alive: 5", status=b"HTTP/1.0 200 OK\r\n") + answer(OTHER),
    "closing": lambda body: answer(body, b"Connection: close") + answer(OTHER),
    "closing-second": lambda body: (
        answer(body, b"Connection: keep-alive", b"Connection: Upgrade, Close") + answer(OTHER)
    ),
}
# What the row comes to, and what is sent for it.
REFUSED: dict[str, tuple[Outcome | bytes, Callable[[bytes], bytes]]] = {
    "no-content": (b"", lambda body: answer(OTHER, status=b"HTTP/1.1 204 No Content\r\n")),
    "not-modified": (Outcome.HTTP_4XX, lambda body: answer(OTHER, status=b"HTTP/1.1 304 Not Modified\r\n")),
    "not-modified-chunked": (
        Outcome.HTTP_4XX,
        lambda body: b"HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(OTHER),
    ),
    "head-like": (Outcome.TIMEOUT, lambda body: answer(body)[: -len(body)]),
    "missing": (Outcome.NOT_FOUND, lambda body: answer(b"no", status=b"HTTP/1.1 404 Not Found\r\n") + answer(OTHER)),
    "endless": (Outcome.CONNECT, lambda body: 200 * EARLY + answer(body)),
    "broken-chunk": (Outcome.TRUNCATED, lambda body: OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\n" + body),
    "two-lengths": (Outcome.CONNECT, lambda body: answer(body, b"Content-Length: 7") + answer(OTHER)),
}


class Odd:
    """A server that keeps its connections, whatever it says, and answers by the path: `/KIND/ROW`."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.connections: Counter[str] = Counter()
        """By kind and row: how many requests its connection had seen before."""
        self._tls = tls

    def serve(self, connection: socket.socket) -> None:
        before = 0
        if self._tls is not None:
            head = connection.recv(1, socket.MSG_PEEK)
            if head == b"C":  # a tunnel
                read_head(connection)
                connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            connection = self._tls.wrap_socket(connection, server_side=True)
        while head := read_head(connection):
            kind, row = head.split()[1].decode().split("/")[-2:]
            self.connections[f"{kind}/{row}"] = before
            connection.sendall(self.says(kind, own(int(row)), before))
            before += 1

    def says(self, kind: str, body: bytes, before: int) -> bytes:
        if kind == "late":  # what nobody asked for comes when the next request is on its way
            return before * answer(OTHER) + answer(body)
        return GIVEN[kind](body) if kind in GIVEN else REFUSED[kind][1](body)


def read_head(connection: socket.socket) -> bytes:
    head = b""
    while b"\r\n\r\n" not in head and (more := connection.recv(10_000)):
        head += more
    return head


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@contextmanager
def address(way: str, monkeypatch: pytest.MonkeyPatch, authority: trustme.CA, path: Path) -> Iterator[str]:
    """Where a server of odd answers is found, on one of the ways there."""
    tls = None
    if way in ("https", "tunnel"):
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("localhost", "a.example").configure_cert(tls)
        authority.cert_pem.write_to_path(str(path))
        monkeypatch.setenv("SSL_CERT_FILE", str(path))
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    with raw_server(Odd(tls).serve) as port:
        if way in ("proxy", "tunnel"):
            monkeypatch.setenv("all_proxy", f"http://127.0.0.1:{port}")
        yield {
            "http": f"http://127.0.0.1:{port}",
            "https": f"https://localhost:{port}",
            "proxy": "http://a.example",
            "tunnel": "https://a.example",
        }[way]


def fetched(fetcher: Fetcher, url: str) -> bytes | Outcome:
    """What a URL comes to after as many attempts as a failure deserves."""
    for _ in range(3):
        try:
            return fetcher.attempt(url, 60.0).body
        except FetchError as error:
            outcome = error.outcome
            if not error.transient:
                break
    return outcome


def due(path: str) -> bytes | Outcome:
    """What a row is to come to."""
    kind, row = path.split("/")
    return REFUSED[kind][0] if kind in REFUSED else own(int(row))


@pytest.mark.parametrize(("way", "threads"), [("http", 1), ("http", 4), ("https", 4), ("proxy", 4), ("tunnel", 4)])
def test_every_row_holds_its_own_picture(
    way: str, threads: int, monkeypatch: pytest.MonkeyPatch, authority: trustme.CA, tmp_path: Path
) -> None:
    kinds = [*GIVEN, *(kind for kind in REFUSED if kind != "head-like"), "late"]
    # Plain ones between them: theirs are the rows that would get what others left behind.
    rows = [f"{kind}/{row}" for row, kind in enumerate(kinds + len(kinds) * ["plain"])]
    random.Random(threads).shuffle(rows)
    with address(way, monkeypatch, authority, tmp_path / "ca.pem") as base:
        fetcher = Fetcher(PATIENT)
        with ThreadPoolExecutor(threads) as pool:
            ends = dict(zip(rows, pool.map(lambda row: fetched(fetcher, f"{base}/{row}"), rows), strict=True))
        fetcher.close()
    assert ends == {row: due(row) for row in rows}


@pytest.mark.parametrize(
    ("way", "kind"),
    [("http", kind) for kind in (*GIVEN, *REFUSED, "late")]
    + [(way, kind) for way in ("https", "proxy", "tunnel") for kind in ("early", "twice", "behind", "late")],
)
def test_row_after_an_odd_one_holds_its_own_picture(
    way: str, kind: str, monkeypatch: pytest.MonkeyPatch, authority: trustme.CA, tmp_path: Path
) -> None:
    """Each kind by itself: while no other has spoilt the server's name, its connections are kept where they can be."""
    rows = [f"{path}/{row}" for row, path in enumerate(("plain", kind, "plain", kind, "plain"))]
    with address(way, monkeypatch, authority, tmp_path / "ca.pem") as base:
        fetcher = Fetcher(BRIEF if kind == "head-like" else PATIENT)
        ends = {row: fetched(fetcher, f"{base}/{row}") for row in rows}
        fetcher.close()
    assert ends == {row: due(row) for row in rows}


@pytest.mark.parametrize("kind", ["plain", "early", "interim", "chunked", "trailers", "old"])
def test_connection_is_kept_after_answers_that_end_where_they_say(kind: str) -> None:
    odd = Odd()
    with raw_server(odd.serve) as port:
        fetcher = Fetcher(DIRECT)
        for number in range(3):
            assert fetcher.attempt(f"http://127.0.0.1:{port}/{kind}/{number}", 60.0).body == own(number)
        fetcher.close()
    assert odd.connections[f"{kind}/2"] == 2


@pytest.mark.parametrize(
    "kind", ["behind", "twice", "both", "same-length-twice", "plus", "closing-second", "not-modified", "missing"]
)
def test_connection_is_not_kept_where_there_is_doubt(kind: str) -> None:
    odd = Odd()
    with raw_server(odd.serve) as port:
        fetcher = Fetcher(DIRECT)
        for path in (f"{kind}/0", "plain/1"):
            fetched(fetcher, f"http://127.0.0.1:{port}/{path}")
        fetcher.close()
    assert odd.connections["plain/1"] == 0


def test_answer_that_came_before_its_request_is_nobodys() -> None:
    """After its first answer the server sends another, unasked, and only then the next request is made."""
    sent = threading.Event()

    def serve(connection: socket.socket) -> None:
        while head := read_head(connection):
            row = int(head.split()[1].rpartition(b"/")[-1])
            connection.sendall(answer(own(row)))
            asked.wait(10)
            connection.sendall(answer(OTHER))
            sent.set()

    asked = threading.Event()
    with raw_server(serve) as port:
        fetcher = Fetcher(DIRECT)
        assert fetcher.attempt(f"http://127.0.0.1:{port}/1", 60.0).body == own(1)
        asked.set()
        assert sent.wait(10)
        for row in (2, 3, 4):
            assert fetched(fetcher, f"http://127.0.0.1:{port}/{row}") == own(row)
        fetcher.close()


@pytest.mark.parametrize(
    ("status", "outcome"),
    [(b"200 OK", Outcome.CONNECT), (b"302 Found", Outcome.CONNECT), (b"403 No", Outcome.FORBIDDEN)],
)
def test_server_that_speaks_first_can_turn_us_away_and_no_more(
    status: bytes, outcome: Outcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = threading.Event()
    real = connect_room.open_socket

    def serve(connection: socket.socket) -> None:
        connection.sendall(answer(OTHER, b"Location: /2", status=b"HTTP/1.1 " + status + b"\r\n"))
        sent.set()
        read_head(connection)

    def open_and_wait(host: str, port: int, is_proxy: bool = False) -> socket.socket:
        sock = real(host, port, is_proxy)
        assert sent.wait(10)
        return sock

    monkeypatch.setattr(connect_room, "open_socket", open_and_wait)
    with raw_server(serve) as port:
        fetcher = Fetcher(DIRECT)
        with pytest.raises(FetchError) as caught:
            fetcher.attempt(f"http://127.0.0.1:{port}/1", 60.0)
        fetcher.close()
    assert caught.value.outcome is outcome
    assert (outcome is Outcome.CONNECT) == (
        caught.value.detail == "no HTTP answer: answered before the request was sent"
    )
