"""https: certificates are verified, connections kept, and a handshake is cut off in time like everything else."""

from __future__ import annotations

import socket
import ssl
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from tasks.download.web.attempt import FetchError
from tasks.download.web.fetch import Fetcher
from tasks.records import Outcome
from tests.faults import CONFIG, DRIP_SECONDS, JPEG, raw_server, serving


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def context(authority: trustme.CA, name: str) -> ssl.SSLContext:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(tls)
    return tls


@pytest.fixture
def secure(authority: trustme.CA, trusted: None) -> Iterator[Any]:
    with serving(tls=context(authority, "localhost")) as server:
        yield server


@pytest.fixture
def trusted(authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The authority is the machine's own."""
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))


def failure(url: str, seconds: float = 10.0, **changes: object) -> FetchError:
    fetcher = Fetcher(CONFIG.model_copy(update=changes))
    with pytest.raises(FetchError) as caught:
        fetcher.attempt(url, seconds)
    fetcher.close()
    return caught.value


def test_verified_host_answers_over_one_kept_connection(secure: Any) -> None:
    fetcher = Fetcher(CONFIG)
    for number in range(5):
        assert fetcher.attempt(f"{secure.url}/ok/{number}", 10.0).body == JPEG
    fetcher.close()
    assert len(secure.clients) == 1


def test_wrong_host_name_is_tls_for_good(authority: trustme.CA, trusted: None) -> None:
    with serving(tls=context(authority, "other.example")) as server:
        error = failure(server.url + "/ok/1")
    assert (error.outcome, error.transient, error.alive) == (Outcome.TLS, False, True)
    assert error.detail.startswith("certificate: Hostname mismatch")
    assert not server.requests


def test_unknown_authority_is_tls_for_good(trusted: None) -> None:
    with serving(tls=context(trustme.CA(), "localhost")) as server:
        error = failure(server.url + "/ok/1")
    assert (error.outcome, error.transient) == (Outcome.TLS, False)
    assert error.detail.startswith("certificate: unable to get local issuer certificate")
    assert not server.requests


def test_plain_server_behind_https_is_tls_for_good(server: Any) -> None:
    error = failure(server.url.replace("http:", "https:") + "/ok/1")
    assert (error.outcome, error.transient, error.alive) == (Outcome.TLS, False, True)
    assert error.detail
    assert "_ssl.c" not in error.detail


def _close(connection: socket.socket) -> None:
    connection.recv(1000)


def _reset(connection: socket.socket) -> None:
    connection.recv(1000)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@pytest.mark.parametrize("behave", [_close, _reset])
def test_handshake_broken_off_may_be_tried_again(behave: Any) -> None:
    with raw_server(behave) as port:
        error = failure(f"https://127.0.0.1:{port}/1")
    assert (error.outcome, error.detail) == (Outcome.TLS, "TLS handshake broken off")
    assert (error.transient, error.alive) == (True, True)


def _drip(connection: socket.socket) -> None:
    """The head of a long handshake record, and then its bytes one by one."""
    connection.recv(1000)
    connection.sendall(b"\x16\x03\x03\x40\x00\x02\x00\x3f\xfc")
    for _ in range(400):
        connection.sendall(b"\x00")
        time.sleep(DRIP_SECONDS)


def test_dripping_handshake_is_cut_off_at_the_deadline() -> None:
    with raw_server(_drip) as port:
        start = time.monotonic()
        error = failure(f"https://127.0.0.1:{port}/1", seconds=0.5)
        assert 0.4 < time.monotonic() - start < 5
    assert (error.outcome, error.detail) == (Outcome.TIMEOUT, "TLS handshake not finished in time")
    assert (error.transient, error.alive) == (True, True)


def test_dripping_handshake_is_cut_off_by_the_connect_timeout() -> None:
    with raw_server(_drip) as port:
        start = time.monotonic()
        error = failure(f"https://127.0.0.1:{port}/1", connect_timeout_seconds=0.3)
        assert time.monotonic() - start < 5
    assert error.outcome is Outcome.TIMEOUT


@pytest.mark.parametrize(
    ("path", "outcome"),
    [("/drip/1", Outcome.TIMEOUT), ("/dripheader/1", Outcome.TIMEOUT), ("/truncated/1", Outcome.TRUNCATED)],
)
def test_limits_hold_within_tls(secure: Any, path: str, outcome: Outcome) -> None:
    start = time.monotonic()
    assert failure(secure.url + path, seconds=0.7).outcome is outcome
    assert time.monotonic() - start < 5


def test_redirect_between_http_and_https_is_followed(secure: Any, server: Any) -> None:
    server.away = secure.url + "/ok/1"
    fetcher = Fetcher(CONFIG)
    assert fetcher.attempt(server.url + "/away/1", 10.0).body == JPEG
    fetcher.close()
    assert (server.requests, secure.requests) == ({"/away/1": 1}, {"/ok/1": 1})


def test_private_address_is_refused_before_any_handshake() -> None:
    with serving() as server:
        url = server.url.replace("http:", "https:") + "/1"
        assert failure(url, allow_private_addresses=False).outcome is Outcome.BLOCKED_ADDRESS
