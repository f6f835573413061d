"""Loopback is spoken to directly whatever proxies the environment names; for other hosts these stay what they were."""

from __future__ import annotations

import os
from urllib.request import getproxies_environment, proxy_bypass_environment

import pytest

from tasks.download.web.proxies import Proxies, Proxy
from tasks.workers.loopback import bypass_proxies_on_loopback, is_loopback


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "ftp_proxy"):
        for spelling in (name, name.upper()):
            monkeypatch.setenv(spelling, "")  # So that what is set here is gone after the test.
            monkeypatch.delenv(spelling)


@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"])
def test_loopback_is_bypassed_and_other_hosts_keep_their_proxy(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "http://proxy.example:3128")
    bypass_proxies_on_loopback()
    proxies = Proxies()
    for host in ("127.0.0.1", "localhost", "::1"):
        assert proxies.for_host("http", host, 4200) is None
    assert proxies.for_host("http", "pictures.example", None) == Proxy("proxy.example", 3128)


@pytest.mark.parametrize("variable", ["no_proxy", "NO_PROXY"])
def test_what_the_user_has_listed_stays(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv("http_proxy", "http://proxy.example:3128")
    monkeypatch.setenv(variable, "intranet.example, localhost")
    for _ in range(2):
        bypass_proxies_on_loopback()
        assert os.environ["no_proxy"] == os.environ["NO_PROXY"] == "intranet.example,localhost,127.0.0.1,::1"
    assert proxy_bypass_environment("intranet.example", getproxies_environment())


def test_all_hosts_bypassed_stays_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://proxy.example:3128")
    monkeypatch.setenv("no_proxy", "*")
    bypass_proxies_on_loopback()
    assert os.environ["no_proxy"] == "*"


def test_an_environment_without_proxies_is_left_alone() -> None:
    before = dict(os.environ)
    bypass_proxies_on_loopback()
    assert dict(os.environ) == before


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:4200/api", "http://127.9.0.1", "http://[::1]:4200", "http://localhost"]
)
def test_loopback_is_known(url: str) -> None:
    assert is_loopback(url)


@pytest.mark.parametrize(
    "url", ["https://prefect.example/api", "http://127.example", "http://10.0.0.1:4200", "http://["]
)
def test_other_hosts_are_not_loopback(url: str) -> None:
    assert not is_loopback(url)
