"""A host is reached by whichever of its addresses answers, in time, however many others are dead."""

from __future__ import annotations

import errno
import os
import resource
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from tasks.download.web import reach as reach_room
from tasks.download.web.attempt import FetchError
from tasks.download.web.fetch import Fetcher
from tasks.download.web.reach import connect_to_any, in_turn
from tasks.errors import UserError
from tasks.records import Outcome
from tests.faults import CONFIG, JPEG, serving

DEAD = [f"127.0.0.{number}" for number in range(2, 9)]


@contextmanager
def silent(addresses: list[str], port: int) -> Iterator[None]:
    """Addresses that answer nothing: the queues of their listeners are full, so the system drops what comes."""
    with ExitStack() as stack:
        for address in addresses:
            try:
                listener = stack.enter_context(socket.create_server((address, port), backlog=0))
            except OSError as error:
                pytest.skip(f"this machine has one loopback address only: {error}")
            for _ in range(4):
                filler = stack.enter_context(socket.socket())
                filler.setblocking(False)
                filler.connect_ex(listener.getsockname())
        yield


@pytest.fixture
def live() -> Iterator[int]:
    """The port of a listener on 127.0.0.1."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@pytest.mark.parametrize(
    ("addresses", "expected"),
    [
        (["1::", "2::", "3::", "4::", "5::", "1.1.1.1"], ["1::", "1.1.1.1", "2::", "3::", "4::", "5::"]),
        (["1.1.1.1", "2.2.2.2", "1::", "2::"], ["1.1.1.1", "1::", "2.2.2.2", "2::"]),
        (["1.1.1.1", "2.2.2.2"], ["1.1.1.1", "2.2.2.2"]),
        (["fe80::1%lo"], ["fe80::1%lo"]),
        ([], []),
    ],
)
def test_families_come_in_turn(addresses: list[str], expected: list[str]) -> None:
    assert in_turn(addresses) == expected


def test_live_address_is_found_behind_silent_ones(live: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reach_room, "_HEAD_START", 0.02)
    with silent(DEAD, live), connect_to_any([*DEAD, "127.0.0.1"], live, 10.0) as sock:
        assert sock.getpeername() == ("127.0.0.1", live)
        assert sock.gettimeout() == 10.0


def test_slow_address_is_still_waited_for_when_later_ones_fail(live: int) -> None:
    with silent(DEAD[:1], live), connect_to_any([*DEAD[:2], "127.0.0.1"], live, 10.0) as sock:
        assert sock.getpeername()[0] == "127.0.0.1"


def test_live_address_is_found_behind_those_that_refuse(live: int) -> None:
    with connect_to_any([*DEAD, "127.0.0.1"], live, 10.0) as sock:
        assert sock.getpeername() == ("127.0.0.1", live)


def test_time_is_for_all_addresses_together(live: int) -> None:
    start = time.monotonic()
    with silent(DEAD, live), pytest.raises(TimeoutError):
        connect_to_any(DEAD, live, 0.3)
    assert 0.2 < time.monotonic() - start < 5


def test_refusal_tells_more_than_what_this_machine_lacks(live: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here an address without a route stands for a machine without IPv6."""
    begin = reach_room._begin

    def unreachable(address: str, port: int) -> socket.socket:
        if ":" in address:
            raise OSError(errno.ENETUNREACH, os.strerror(errno.ENETUNREACH))
        return begin(address, port)

    monkeypatch.setattr(reach_room, "_begin", unreachable)
    with pytest.raises(OSError, match="Connection refused"):
        connect_to_any(["127.0.0.2", "2606:4700::1"], live, 10.0)
    with pytest.raises(OSError, match="Network is unreachable"):
        connect_to_any(["2606:4700::1", "2606:4700::2"], live, 10.0)


def test_machine_without_descriptors_is_named_and_nothing_stays_open(live: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with silent(DEAD[:1], live), socket.socket() as lowest_free:
        number = lowest_free.fileno()
        lowest_free.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (number + 1, hard))
        try:
            with pytest.raises(UserError, match="ulimit -n"):
                connect_to_any([*DEAD[:1], "127.0.0.1"], live, 10.0)
            socket.socket().close()  # There is room again.
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_host_with_many_dead_addresses_of_one_family_is_fetched_from(monkeypatch: pytest.MonkeyPatch) -> None:
    """Six IPv6 addresses that lead nowhere, then one of IPv4."""
    families = [(socket.AF_INET6, f"::ffff:{address}") for address in DEAD[:6]] + [(socket.AF_INET, "127.0.0.1")]

    def answers(*_: object, **__: object) -> list[tuple[object, ...]]:
        return [(family, socket.SOCK_STREAM, 6, "", (address, 0)) for family, address in families]

    with serving() as server, silent(DEAD[:6], server.port):
        monkeypatch.setattr(socket, "getaddrinfo", answers)
        fetcher = Fetcher(CONFIG)
        assert fetcher.attempt(f"http://many.example:{server.port}/ok/1", 10.0).body == JPEG
        families.pop()
        with pytest.raises(FetchError) as caught:
            Fetcher(CONFIG.model_copy(update={"connect_timeout_seconds": 0.3})).attempt(
                f"http://many.example:{server.port}/ok/1", 10.0
            )
        fetcher.close()
    assert caught.value.outcome in (Outcome.TIMEOUT, Outcome.CONNECT)  # the latter on a machine without IPv6
