"""The proxies that the environment names, and which requests go through them."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies_environment, proxy_bypass_environment  # type: ignore[attr-defined]

from tasks.errors import UserError


@dataclass(frozen=True)
class Proxy:
    """A plain HTTP proxy, and the variable that names it.

    `headers` hold its password, if it has one; `str` is `host:port` and never shows that.
    """

    host: str
    port: int
    headers: dict[str, str] = field(default_factory=dict, repr=False, hash=False)
    variable: str = field(default="", compare=False)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Proxies:
    """HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY in either case, as set when this is made.

    They mean what they mean to urllib.request: a name in NO_PROXY includes its subdomains, and `*` for all
    hosts. ALL_PROXY serves the schemes that have no variable of their own.

    Raises:
        UserError: a proxy is not an `http://` one, or its address cannot be read.
    """

    def __init__(self) -> None:
        self._environment = getproxies_environment()
        self._by_scheme: dict[str, Proxy] = {}
        for scheme in ("http", "https"):
            for variable in (scheme, "all"):
                if variable in self._environment:
                    self._by_scheme[scheme] = _parse(self._environment[variable], f"{variable}_proxy")
                    break

    def __iter__(self) -> Iterator[Proxy]:
        """Every proxy once."""
        return iter(set(self._by_scheme.values()))

    def for_host(self, scheme: str, host: str, port: int | None) -> Proxy | None:
        """The proxy that a request goes through; None where it goes straight to the host."""
        proxy = self._by_scheme.get(scheme)
        if proxy is None or proxy_bypass_environment(host if port is None else f"{host}:{port}", self._environment):
            return None
        return proxy


def _parse(address: str, variable: str) -> Proxy:
    """Parse a proxy's address, with or without `http://`.

    Messages hold neither its password nor anything like one.
    """
    try:
        parts = urlsplit(address if "://" in address else f"http://{address}")
        scheme, host, port = parts.scheme, parts.hostname, parts.port or 80
    except ValueError:
        scheme, host = "http", None
    if scheme != "http":
        raise UserError(
            f"{variable} in the environment names a {scheme} proxy, and only http:// proxies are supported; "
            "name one, or set download.env_proxies to false"
        )
    if not host:
        raise UserError(
            f"{variable} in the environment cannot be read; expected http://host:port, or set download.env_proxies "
            "to false"
        )
    if parts.username is None:
        return Proxy(host, port, variable=variable)
    login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return Proxy(host, port, {"Proxy-Authorization": f"Basic {base64.b64encode(login.encode()).decode()}"}, variable)
