"""Connections that obey the limits of the attempt that uses them.

Every connection looks its host up once, checks all addresses and connects to one of those it checked, so neither a
redirect nor a second answer of the name service can lead elsewhere. Every read, headers and TLS handshake included,
waits at most until the attempt's deadline, so a server that drips one byte at a time is cut off on time.
"""

from __future__ import annotations

import http.client
import logging
import re
import socket
import ssl
from typing import Any

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection

from tasks.download.config import DownloadConfig
from tasks.download.web.answers import OneAnswerPerRequest, OneAnswerPool
from tasks.download.web.attempt import FetchError, current_attempt, failed, refused
from tasks.download.web.proxies import Proxy
from tasks.download.web.reach import connect_to_any
from tasks.download.web.resolve import Lookup, LookupEnd, is_public
from tasks.records import Outcome

_TUNNEL_REFUSED = re.compile(r"Tunnel connection failed: (\d{3}) ?(.*)", re.DOTALL)


def guarded_pools(config: DownloadConfig, tls: ssl.SSLContext, proxy: Proxy | None) -> urllib3.PoolManager:
    """Connection pools that are used only while an attempt runs in the thread."""
    # They write of malformed headers, the first with a traceback. What servers send is data, and no news for a log.
    for name in ("urllib3.connection", "urllib3.response"):
        logging.getLogger(name).setLevel(logging.ERROR)
    options: dict[str, Any] = {
        "num_pools": 2 * config.threads,
        "maxsize": config.threads,
        "headers": _headers(config),
        "ssl_context": tls,
    }
    if proxy is None:
        pools = urllib3.PoolManager(**options)
    else:
        pools = urllib3.ProxyManager(f"http://{proxy}", proxy_headers=proxy.headers, **options)
    pools.pool_classes_by_scheme = {"http": _HTTPPool, "https": _HTTPSPool}
    return pools


def _headers(config: DownloadConfig) -> dict[str, str]:
    """Headers of every request."""
    ours = {"User-Agent": config.user_agent, "Accept": config.accept, "Accept-Language": config.accept_language}
    return {name: value for name, value in (ours | config.headers).items() if value is not None}


def open_socket(host: str, port: int, is_proxy: bool = False, fresh: bool = False) -> socket.socket:
    """Connect to one of a host's addresses, each of which has been checked.

    The connect timeout is for all of its addresses together.

    Args:
        host: name or literal address.
        port: TCP port.
        is_proxy: the host was configured by whoever runs this. It may be private, and its troubles are named as its.
        fresh: look the name up again, whatever is known.

    Raises:
        FetchError: dns, blocked_address, bad_url, connect or timeout; for a proxy always connect.
    """
    try:
        return _open(host, port, is_proxy, fresh)
    except FetchError as error:
        if not is_proxy:
            raise
        raise failed(Outcome.CONNECT, f"proxy {host}:{port}: {error.detail}") from error


def _open(host: str, port: int, is_proxy: bool, fresh: bool) -> socket.socket:
    attempt = current_attempt()
    found = attempt.resolver.look_up(host, attempt.wait(), fresh)
    if found.end is LookupEnd.NO_SUCH_NAME and not is_proxy:
        attempt.alive = True
    addresses = _addresses(found)
    allowed = is_proxy or attempt.config.allow_private_addresses
    if not allowed and not all(is_public(address) for address in addresses):
        raise failed(Outcome.BLOCKED_ADDRESS, f"{host} is not on the public network")
    try:
        sock = connect_to_any(addresses, port, attempt.wait(attempt.config.connect_timeout_seconds))
    except TimeoutError as error:
        raise failed(Outcome.TIMEOUT, "no connection in time") from error
    except OSError as error:
        raise failed(Outcome.CONNECT, error.strerror or type(error).__name__) from error
    attempt.alive = True
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def _addresses(found: Lookup) -> tuple[str, ...]:
    match found.end:
        case LookupEnd.FOUND:
            return found.addresses
        case LookupEnd.NOT_A_NAME:
            raise failed(Outcome.BAD_URL, found.detail)
        case _:
            raise failed(Outcome.DNS, found.detail, transient=found.end is LookupEnd.TEMPORARY)


# --- what urllib3 works with ----------------------------------------------------------------------------------------


class _GuardedHTTP(OneAnswerPerRequest, HTTPConnection):
    def _new_conn(self) -> socket.socket:
        return open_socket(self._dns_host, self.port or 80, is_proxy=self.proxy is not None)


class _GuardedHTTPS(OneAnswerPerRequest, HTTPSConnection):
    def _new_conn(self) -> socket.socket:
        sock = open_socket(self._dns_host, self.port or 443, is_proxy=self.proxy is not None)
        _limit_handshake(sock)
        return sock

    def _tunnel(self) -> None:
        """Ask the proxy for a tunnel.

        A refusal is classed by its status, as if the host itself had answered.
        """
        assert self.sock is not None
        try:
            super()._tunnel()
        except TimeoutError as error:
            raise failed(Outcome.TIMEOUT, "proxy: no tunnel in time") from error
        except (OSError, http.client.HTTPException) as error:
            answer = _TUNNEL_REFUSED.match(str(error))
            if answer is None:
                raise failed(Outcome.CONNECT, f"proxy: no tunnel: {type(error).__name__}") from error
            raise refused(int(answer[1]), answer[2], by="proxy: ") from error
        _limit_handshake(self.sock)

    def connect(self) -> None:
        """Connect and shake hands.

        An exception other than a FetchError can only be the handshake's.
        """
        try:
            super().connect()
        except TimeoutError as error:
            raise failed(Outcome.TIMEOUT, "TLS handshake not finished in time") from error
        except ssl.SSLCertVerificationError as error:
            raise failed(Outcome.TLS, f"certificate: {error.verify_message}") from error
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError, ConnectionError) as error:
            raise failed(Outcome.TLS, "TLS handshake broken off", transient=True) from error
        except ssl.SSLError as error:
            raise failed(Outcome.TLS, (error.reason or "handshake failed").replace("_", " ").lower()) from error
        except ValueError as error:
            raise failed(Outcome.BAD_URL, "host name that no certificate can have") from error


def _limit_handshake(sock: socket.socket) -> None:
    """Bound the TLS handshake by the attempt's deadline.

    Python counts a socket's timeout over the whole handshake, not per read.
    """
    attempt = current_attempt()
    sock.settimeout(attempt.wait(attempt.config.connect_timeout_seconds))


class _HTTPPool(OneAnswerPool, urllib3.HTTPConnectionPool):
    ConnectionCls = _GuardedHTTP


class _HTTPSPool(OneAnswerPool, urllib3.HTTPSConnectionPool):
    ConnectionCls = _GuardedHTTPS
