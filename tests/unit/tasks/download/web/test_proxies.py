"""Proxies of the environment are used as urllib.request would use them, and their passwords are never shown."""

from __future__ import annotations

import base64
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from tasks.download.web import network as network_room
from tasks.download.web.attempt import FetchError
from tasks.download.web.fetch import Fetcher
from tasks.download.web.network import Network, NetworkGoneError
from tasks.download.web.proxies import Proxies, Proxy
from tasks.errors import UserError
from tasks.records import Outcome
from tests.faults import CONFIG, JPEG, ProxyHandler, serving

PROXIED = CONFIG.model_copy(update={"env_proxies": True})
LOGIN = "Basic " + base64.b64encode("user:p@ss:wörd".encode()).decode()


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "request_method"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def proxy() -> Iterator[Any]:
    with serving(ProxyHandler) as server:
        yield server


@pytest.fixture
def secure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An https server whose certificate is good."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(tls)
    with serving(tls=tls) as server:
        yield server


def failure(url: str, seconds: float = 10.0, **changes: object) -> FetchError:
    fetcher = Fetcher(PROXIED.model_copy(update=changes))
    with pytest.raises(FetchError) as caught:
        fetcher.attempt(url, seconds)
    fetcher.close()
    return caught.value


# --- what the environment says --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"])
@pytest.mark.parametrize("address", ["http://proxy.example:3128", "proxy.example:3128", "http://proxy.example:3128/"])
def test_variables_are_read_in_either_case(monkeypatch: pytest.MonkeyPatch, name: str, address: str) -> None:
    monkeypatch.setenv(name, address)
    assert Proxies().for_host("http", "a.example", None) == Proxy("proxy.example", 3128)


def test_schemes_have_proxies_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://secure.example")
    proxies = Proxies()
    assert proxies.for_host("http", "a.example", None) is None
    assert proxies.for_host("https", "a.example", None) == Proxy("secure.example", 80)
    monkeypatch.setenv("ALL_PROXY", "http://[fd00::1]:8080")
    proxies = Proxies()
    assert str(proxies.for_host("http", "a.example", None)) == "[fd00::1]:8080"
    assert len(list(proxies)) == 2


@pytest.mark.parametrize(
    ("host", "port", "direct"),
    [
        ("a.example", None, True),
        ("b.a.example", 8080, True),
        ("10.0.0.1", None, True),
        ("other.example", 81, True),
        ("other.example", 80, False),
        ("nota.example", None, False),
    ],
)
def test_no_proxy_names_hosts_and_their_subdomains(
    monkeypatch: pytest.MonkeyPatch, host: str, port: int | None, direct: bool
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.example:1")
    monkeypatch.setenv("NO_PROXY", "a.example, 10.0.0.1,other.example:81")
    assert (Proxies().for_host("http", host, port) is None) == direct
    monkeypatch.setenv("NO_PROXY", "*")
    assert Proxies().for_host("http", host, port) is None


@pytest.mark.parametrize("address", ["socks5://user:secret@proxy.example:1080", "https://user:secret@proxy.example"])
def test_other_kinds_of_proxies_are_refused_at_once(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("ALL_PROXY", address)
    with pytest.raises(UserError, match=f"all_proxy .* a {address.split(':')[0]} proxy.*env_proxies") as caught:
        Fetcher(PROXIED)
    assert "secret" not in str(caught.value)
    Fetcher(PROXIED.model_copy(update={"env_proxies": False})).close()
    for name in ("HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://proxy.example:1")
    Fetcher(PROXIED).close()  # ALL_PROXY serves no scheme now


@pytest.mark.parametrize("address", ["http://user:secret@proxy:port", "http://", "http://user:secret@[proxy"])
def test_unreadable_proxy_is_refused_without_its_password(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("HTTP_PROXY", address)
    with pytest.raises(UserError, match=r"http_proxy .* cannot be read") as caught:
        Proxies()
    assert "secret" not in str(caught.value)


# --- through the proxy ----------------------------------------------------------------------------------------------


def test_http_goes_through_the_proxy_by_absolute_address(
    proxy: Any, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", proxy.url)
    fetcher = Fetcher(PROXIED)
    assert fetcher.attempt(server.url + "/ok/1", 10.0).body == JPEG
    fetcher.close()
    assert proxy.asked == [f"GET {server.url}/ok/1"]
    assert server.requests == {"/ok/1": 1}


def test_https_goes_through_a_tunnel_that_is_kept(proxy: Any, secure: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", proxy.url)
    fetcher = Fetcher(PROXIED)
    for number in range(3):
        assert fetcher.attempt(f"{secure.url}/ok/{number}", 10.0).body == JPEG
    fetcher.close()
    assert proxy.asked == [f"CONNECT localhost:{secure.port}"]


def test_proxy_is_not_used_where_it_is_switched_off_or_bypassed(
    proxy: Any, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", proxy.url)
    assert Fetcher(PROXIED.model_copy(update={"env_proxies": False})).attempt(server.url + "/ok/1", 10.0).body == JPEG
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    assert Fetcher(PROXIED).attempt(server.url + "/ok/2", 10.0).body == JPEG
    assert not proxy.asked


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_password_is_sent_to_the_proxy_and_never_shown(
    proxy: Any, server: Any, secure: Any, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    target = secure if scheme == "https" else server
    proxy.login = LOGIN
    monkeypatch.setenv(f"{scheme}_proxy", f"http://user:p%40ss%3Aw%C3%B6rd@127.0.0.1:{proxy.port}")
    assert Fetcher(PROXIED).attempt(target.url + "/ok/1", 10.0).body == JPEG
    assert "Proxy-Authorization" not in secure.headers_seen.get("/ok/1", {})

    monkeypatch.setenv(f"{scheme}_proxy", f"http://user:wrong@127.0.0.1:{proxy.port}")
    error = failure(target.url + "/ok/2")
    assert (error.outcome, error.status, error.transient) == (Outcome.HTTP_4XX, 407, False)
    assert "HTTP 407 Proxy Authentication Required" in error.detail
    assert "wrong" not in error.detail


@pytest.mark.parametrize(
    ("status", "outcome", "transient"), [(403, Outcome.FORBIDDEN, False), (502, Outcome.HTTP_5XX, True)]
)
def test_refused_tunnel_is_classed_by_its_status(
    proxy: Any, monkeypatch: pytest.MonkeyPatch, status: int, outcome: Outcome, transient: bool
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", proxy.url)
    proxy.refuses = status
    error = failure("https://a.example/1")
    assert (error.outcome, error.status, error.transient, error.alive) == (outcome, status, transient, True)
    assert error.detail.startswith(f"proxy: HTTP {status} ")


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_proxy_that_is_not_there_is_connect_and_named(monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        monkeypatch.setenv("ALL_PROXY", f"http://user:secret@127.0.0.1:{port}")
        error = failure(f"{scheme}://a.example/1")
    assert (error.outcome, error.detail) == (Outcome.CONNECT, f"proxy 127.0.0.1:{port}: Connection refused")
    assert (error.transient, error.alive) == (True, False)


def test_proxy_whose_name_is_unknown_is_connect_and_not_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setenv("ALL_PROXY", "http://proxy.example:3128")
    error = failure("http://a.example/1")
    assert (error.outcome, error.detail) == (Outcome.CONNECT, "proxy proxy.example:3128: Name or service not known")
    assert (error.transient, error.alive) == (True, False)


def test_limits_hold_through_the_proxy(proxy: Any, server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", proxy.url)
    assert failure(server.url + "/endless/1").outcome is Outcome.TOO_LARGE
    proxy.stalls = True
    for url in (server.url + "/drip/1", "https://a.example/1"):
        start = time.monotonic()
        assert failure(url, seconds=0.5).outcome is Outcome.TIMEOUT
        assert time.monotonic() - start < 5


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]", "169.254.169.254", "0x7f.1", "a.localhost"])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_private_hosts_are_not_asked_for_through_the_proxy(
    proxy: Any, monkeypatch: pytest.MonkeyPatch, scheme: str, host: str
) -> None:
    monkeypatch.setenv("ALL_PROXY", proxy.url)
    error = failure(f"{scheme}://{host}/latest/meta-data", allow_private_addresses=False)
    assert error.outcome is Outcome.BLOCKED_ADDRESS
    assert not proxy.asked


def test_private_proxy_may_be_used_for_public_hosts(proxy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", proxy.url)
    proxy.refuses = 404
    assert failure("http://a.example/1", allow_private_addresses=False).outcome is Outcome.NOT_FOUND
    assert proxy.asked == ["GET http://a.example/1"]


def test_redirect_to_a_private_host_is_refused_behind_the_proxy(
    proxy: Any, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", proxy.url)
    monkeypatch.setattr("tasks.download.web.fetch.names_private_host", lambda host: host == "localhost")
    server.away = f"http://localhost:{server.port}/ok/secret"
    assert failure(server.url + "/away/1", allow_private_addresses=False).outcome is Outcome.BLOCKED_ADDRESS
    assert server.requests == {"/away/1": 1}


def test_probe_connects_to_the_proxy(proxy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", proxy.url)
    fetcher = Fetcher(PROXIED)
    assert fetcher.connects("https://a.example/1")
    proxy.shutdown()
    proxy.server_close()
    assert not fetcher.connects("https://a.example/1")
    assert not proxy.asked


def test_pause_names_the_proxy_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network_room, "_FIRST_PROBE_WAIT", 0.01)
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        dead = f"127.0.0.1:{bound.getsockname()[1]}"
        monkeypatch.setenv("http_proxy", f"http://user:secret@{dead}")
        monkeypatch.setenv("NO_PROXY", "direct.example")
        fetcher = Fetcher(PROXIED)
        stopped = threading.Event()
        notices: list[str] = []

        def notice(text: str) -> None:
            notices.append(text)
            stopped.set()

        network = Network(PROXIED, fetcher.connects, notice, names_proxy=fetcher.names_proxy)
        network.silence("http://a.example/1")
        assert network.wait_until_back(stopped)
        named = f"the proxy {dead} (http_proxy in the environment)"
        why = f"reached nothing, {named} cannot be connected to"
        assert notices == [f"paused: 1 attempts in a row {why}; trying again for up to 1800 s"]
        impatient = PROXIED.model_copy(update={"outage_patience_seconds": 0.0})
        network = Network(impatient, fetcher.connects, names_proxy=fetcher.names_proxy)
        network.silence("http://a.example/1")
        with pytest.raises(NetworkGoneError, match=rf"nor could {re.escape(named)} be connected to; what was fetched"):
            network.wait_until_back(threading.Event())
        assert fetcher.names_proxy("http://direct.example/1") is None
        assert fetcher.names_proxy("https://a.example/1") is None
        fetcher.close()


def test_pause_names_no_proxy_where_some_hosts_are_reached_without_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network_room, "_FIRST_PROBE_WAIT", 0.01)
    config = PROXIED.model_copy(update={"outage_patience_seconds": 0.0})
    named = {"http://a.example/1": "the proxy p:1", "http://b.example/1": None}
    network = Network(config, lambda url: False, names_proxy=named.get)
    for url in named:
        network.silence(url)
    with pytest.raises(NetworkGoneError, match="nor could any of 2 hosts be connected to"):
        network.wait_until_back(threading.Event())
