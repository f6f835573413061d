"""Names are looked up once for all who ask, within their time, and private addresses are known as such."""

from __future__ import annotations

import errno
import socket
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from tasks.download.web import resolve as resolve_room
from tasks.download.web.resolve import Lookup, LookupEnd, Resolver, is_public, names_private_host
from tasks.errors import UserError


class Names:
    """A name service: answers what it is told, counts questions, and waits while `hold` is set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: Counter[str] = Counter()
        self.most_at_once = 0
        self.answer: object = [(2, 1, 6, "", ("8.8.8.8", 0)), (10, 1, 6, "", ("2606:4700::1111", 0, 0, 0))]
        self.go = threading.Event()
        self.go.set()
        self._lock = threading.Lock()
        self._now = 0
        monkeypatch.setattr(socket, "getaddrinfo", self._ask)

    def _ask(self, host: str, port: None, **_: object) -> object:
        with self._lock:
            self.asked[host] += 1
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
        self.go.wait(30)
        with self._lock:
            self._now -= 1
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    return Names(monkeypatch)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that cached answers are judged by, in seconds; change its one element."""
    now = [1000.0]
    monkeypatch.setattr(resolve_room.time, "monotonic", lambda: now[0])
    return now


def test_addresses_come_in_the_systems_order_once_each(names: Names) -> None:
    names.answer = [(2, 1, 6, "", (address, 0)) for address in ("9.9.9.9", "8.8.8.8", "9.9.9.9")]
    assert Resolver().look_up("a.example", 5) == Lookup(LookupEnd.FOUND, ("9.9.9.9", "8.8.8.8"))


@pytest.mark.parametrize("literal", ["127.0.0.1", "::1", "fe80::1%eth0"])
def test_literal_addresses_need_no_look_up(names: Names, literal: str) -> None:
    assert Resolver().look_up(literal, 5) == Lookup(LookupEnd.FOUND, (literal,))
    assert not names.asked


@pytest.mark.parametrize(
    ("answer", "end", "kept"),
    [
        ([(2, 1, 6, "", ("8.8.8.8", 0))], LookupEnd.FOUND, 300),
        (socket.gaierror(socket.EAI_NONAME, "no"), LookupEnd.NO_SUCH_NAME, 60),
        (socket.gaierror(socket.EAI_AGAIN, "later"), LookupEnd.TEMPORARY, 0),
        (socket.gaierror(socket.EAI_FAIL, "broken"), LookupEnd.FAILED, 0),
        (OSError(errno.ECONNREFUSED, "refused"), LookupEnd.FAILED, 0),
        (UnicodeError("label too long"), LookupEnd.NOT_A_NAME, 0),
    ],
)
def test_answers_are_kept_as_long_as_their_kind_deserves(
    names: Names, clock: list[float], answer: object, end: LookupEnd, kept: int
) -> None:
    names.answer = answer
    resolver = Resolver()
    assert resolver.look_up("A.example", 5).end is end
    clock[0] += max(kept - 1, 0)
    assert resolver.look_up("a.example", 5).end is end
    assert names.asked["a.example"] == (1 if kept else 2)
    clock[0] += 2
    resolver.look_up("a.example", 5)
    assert names.asked["a.example"] == (2 if kept else 3)


def test_fresh_look_up_asks_whatever_is_known_and_replaces_it(names: Names) -> None:
    resolver = Resolver()
    resolver.look_up("a.example", 5)
    names.answer = [(2, 1, 6, "", ("1.1.1.1", 0))]
    assert resolver.look_up("a.example", 5, fresh=True).addresses == ("1.1.1.1",)
    assert resolver.look_up("a.example", 5).addresses == ("1.1.1.1",)
    assert names.asked["a.example"] == 2


def test_memory_of_names_is_bounded(names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolve_room, "_KEPT", 3)
    resolver = Resolver()
    for host in ("a", "b", "c", "d"):
        resolver.look_up(host, 5)
    for host in ("d", "c", "b", "a"):
        resolver.look_up(host, 5)
    assert names.asked == {"a": 2, "b": 1, "c": 1, "d": 1}


def test_equal_look_ups_in_flight_are_one(names: Names) -> None:
    names.go.clear()
    resolver = Resolver()
    with ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(resolver.look_up, "a.example", 20) for _ in range(8)]
        while not names.asked:
            time.sleep(0.01)
        names.go.set()
        assert {future.result().addresses for future in waiting} == {("8.8.8.8", "2606:4700::1111")}
    assert names.asked == {"a.example": 1}


def test_look_ups_at_once_are_bounded(names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolve_room, "_AT_ONCE", 3)
    names.go.clear()
    resolver = Resolver()
    with ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(resolver.look_up, f"{number}.example", 20) for number in range(8)]
        while len(names.asked) < 3:
            time.sleep(0.01)
        names.go.set()
        assert all(future.result().end is LookupEnd.FOUND for future in waiting)
    assert names.most_at_once == 3


def test_late_answer_serves_those_who_ask_again(names: Names) -> None:
    names.go.clear()
    resolver = Resolver()
    start = time.monotonic()
    assert resolver.look_up("a.example", 0.1) == Lookup(LookupEnd.TEMPORARY, detail="no answer in time")
    assert time.monotonic() - start < 5
    names.go.set()
    assert resolver.look_up("a.example", 20).end is LookupEnd.FOUND
    assert names.asked == {"a.example": 1}


def test_look_up_that_nobody_waits_for_any_more_is_not_begun(names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolve_room, "_AT_ONCE", 1)
    names.go.clear()
    resolver = Resolver()
    resolver.look_up("slow.example", 0.05)
    resolver.look_up("given-up.example", 0.05)
    names.go.set()
    assert resolver.look_up("last.example", 20).end is LookupEnd.FOUND
    assert names.asked == {"slow.example": 1, "last.example": 1}


def test_bug_in_a_look_up_reaches_those_who_wait(names: Names) -> None:
    names.answer = KeyError("a bug")
    resolver = Resolver()
    with pytest.raises(KeyError, match="a bug"):
        resolver.look_up("a.example", 5)
    names.answer = OSError(errno.EMFILE, "Too many open files")
    with pytest.raises(UserError, match="ulimit -n"):
        resolver.look_up("a.example", 5)


def test_threads_end_when_it_is_closed(names: Names) -> None:
    before = threading.active_count()
    resolver = Resolver()
    resolver.look_up("a.example", 5)
    assert threading.active_count() == before + 1
    resolver.close()
    deadline = time.monotonic() + 20
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True),
        ("2606:4700::1111", True),
        ("64:ff9b::808:808", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::1", False),
        ("fd00::1", False),
        ("fe80::1%eth0", False),
        ("::ffff:127.0.0.1", False),
        ("2002:7f00:1::", False),
        ("64:ff9b::7f00:1", False),
    ],
)
def test_public_addresses_are_told_from_private_ones(address: str, public: bool) -> None:
    assert is_public(address) is public


@pytest.mark.parametrize(
    ("host", "private"),
    [
        ("localhost", True),
        ("LOCALHOST.", True),
        ("a.localhost", True),
        ("127.0.0.1", True),
        ("127.1", True),
        ("0x7f000001", True),
        ("2130706433", True),
        ("::1", True),
        ("10.0.0.1", True),
        ("134744072", False),
        ("8.8.8.8", False),
        ("localhost.example", False),
        ("intranet", False),
        ("käse.example", False),
        ("", False),
    ],
)
def test_private_hosts_are_known_by_their_spelling(host: str, private: bool) -> None:
    assert names_private_host(host) is private
