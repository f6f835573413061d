"""One URL -> its body, or why not. Bounded in time, bytes and redirects, and it never reaches into private networks.

The limits hold where the bytes flow. Every read of a response, headers included, waits at most until the deadline,
so a server that drips one byte at a time is cut off on time. Every connection resolves its host once, checks all
addresses and connects to one of those it checked, so neither a redirect nor a second DNS answer can lead elsewhere.

urllib3 is used directly: one pool and one TLS context serve all threads, and no cookie, netrc or proxy setting of
this machine leaks into requests. A look-up by the system's resolver cannot be interrupted; it has its own timeouts.
"""

from __future__ import annotations

import email.utils
import functools
import http.client
import io
import ipaddress
import random
import socket
import ssl
import time
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urljoin, urlsplit

import certifi
import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import (
    DecodeError,
    HTTPError,
    LocationParseError,
    LocationValueError,
    ProtocolError,
    SSLError,
)
from urllib3.exceptions import TimeoutError as PoolTimeoutError

from tasks.config import DownloadConfig
from tasks.manifest import is_web_url
from tasks.records import Outcome

# Trouble that may pass. TRUNCATED is retried where the transfer was cut, not where the picture itself is.
RETRYABLE = frozenset(
    {
        Outcome.DNS,
        Outcome.CONNECT,
        Outcome.TIMEOUT,
        Outcome.RATE_LIMITED,
        Outcome.HTTP_5XX,
        Outcome.TRUNCATED,
    }
)
_STATUS_OUTCOMES = {
    401: Outcome.FORBIDDEN,
    403: Outcome.FORBIDDEN,
    404: Outcome.NOT_FOUND,
    410: Outcome.NOT_FOUND,
    429: Outcome.RATE_LIMITED,
}
_REDIRECTS = (301, 302, 303, 307, 308)
_CHUNK = 1 << 16
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class FetchError(Exception):
    """A URL that gave no body: the outcome it ends as, one human phrase, and what the server said."""

    def __init__(
        self, outcome: Outcome, detail: str, status: int | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(detail)
        self.outcome = outcome
        self.detail = detail
        self.status = status
        self.retry_after = retry_after


@dataclass(frozen=True)
class Fetched:
    """How one URL ended. `body` is set exactly when `outcome` is OK; `status` is that of the last answer."""

    outcome: Outcome
    detail: str
    body: bytes | None
    status: int | None
    attempts: int
    seconds: float


@dataclass(frozen=True)
class _Attempt:
    """The limits of the attempt that runs in this thread, for the connections that urllib3 makes on its behalf."""

    config: DownloadConfig
    deadline: float

    def wait(self, at_most: float) -> float:
        """Seconds that the next socket operation may take.

        Raises:
            TimeoutError: the deadline has passed.
        """
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError(f"not finished after {self.config.deadline_seconds:g} s")
        return min(at_most, left)


_ATTEMPT: ContextVar[_Attempt] = ContextVar("attempt")


class Fetcher:
    """Fetches URLs, from any number of threads at once. Keeps connections alive between them."""

    def __init__(self, config: DownloadConfig) -> None:
        self._config = config
        tls = ssl.create_default_context()
        # Beside the system's authorities, for machines that have none.
        tls.load_verify_locations(certifi.where())
        self._pool = _GuardedPools(
            num_pools=2 * config.threads,
            maxsize=config.threads,
            headers={"User-Agent": config.user_agent},
            ssl_context=tls,
        )

    def close(self) -> None:
        self._pool.clear()

    def fetch(self, url: str, pause: Callable[[float], object] = time.sleep) -> Fetched:
        """Get a URL, trying again after trouble that may pass. `pause` waits that many seconds."""
        start = time.monotonic()
        for attempt in range(self._config.retries + 1):
            status, body, outcome, detail = None, None, Outcome.OK, ""
            try:
                status, body = self._attempt(url)
            except FetchError as error:
                status, outcome, detail = error.status, error.outcome, error.detail
                if outcome in RETRYABLE and attempt < self._config.retries:
                    pause(self._retry_delay(attempt, error.retry_after))
                    continue
            break
        return Fetched(outcome, detail, body, status, attempt + 1, round(time.monotonic() - start, 3))

    def _retry_delay(self, attempt: int, retry_after: float | None) -> float:
        """Seconds before the next attempt: exponential with jitter, or what the server asked for if that is longer."""
        jitter = random.uniform(0.5, 1.5)  # noqa: S311 (it spreads load, it hides nothing)
        backoff = self._config.backoff_seconds * 2**attempt * jitter
        return min(max(backoff, retry_after or 0.0), self._config.deadline_seconds)

    def _attempt(self, url: str) -> tuple[int, bytes]:
        """One try at a URL, redirects and body together under one deadline."""
        attempt = _Attempt(self._config, time.monotonic() + self._config.deadline_seconds)
        token = _ATTEMPT.set(attempt)
        try:
            for _ in range(self._config.max_redirects + 1):
                answer = self._one_request(url, attempt)
                if isinstance(answer, str):
                    url = answer
                else:
                    return answer
            raise FetchError(Outcome.TOO_MANY_REDIRECTS, f"more than {self._config.max_redirects} redirects")
        finally:
            _ATTEMPT.reset(token)

    def _one_request(self, url: str, attempt: _Attempt) -> tuple[int, bytes] | str:
        """The status and body of a URL, or where it redirects to."""
        try:
            response = self._pool.request(
                "GET",
                url,
                retries=False,
                redirect=False,
                preload_content=False,
                timeout=urllib3.Timeout(
                    connect=attempt.wait(self._config.connect_timeout_seconds),
                    read=attempt.wait(self._config.read_timeout_seconds),
                ),
            )
        except (HTTPError, TimeoutError) as error:
            raise _explain(error, status=None) from error
        finished = False
        try:
            if response.status in _REDIRECTS and "Location" in response.headers:
                return _redirect(url, response)
            _check_status(response)
            body = self._read(response)
            finished = True
            return response.status, body
        except (HTTPError, TimeoutError) as error:
            raise _explain(error, response.status) from error
        finally:
            if finished:
                response.release_conn()
            else:
                response.close()  # What is left unread would be taken for the next answer.

    def _read(self, response: urllib3.BaseHTTPResponse) -> bytes:
        limit = self._config.max_bytes
        declared = response.headers.get("Content-Length", "")
        if declared.isdecimal() and int(declared) > limit:
            raise FetchError(Outcome.TOO_LARGE, f"{declared} bytes, limit {limit}", response.status)
        body = io.BytesIO()
        for chunk in response.stream(_CHUNK, decode_content=True):
            if body.tell() + len(chunk) > limit:
                raise FetchError(Outcome.TOO_LARGE, f"more than {limit} bytes", response.status)
            body.write(chunk)
        return body.getvalue()


def _check_status(response: urllib3.BaseHTTPResponse) -> None:
    status = response.status
    if 200 <= status < 300:
        return
    outcome = _STATUS_OUTCOMES.get(status, Outcome.HTTP_5XX if status >= 500 else Outcome.HTTP_4XX)
    raise FetchError(outcome, f"HTTP {status}", status, _retry_after(response.headers.get("Retry-After")))


def _redirect(url: str, response: urllib3.BaseHTTPResponse) -> str:
    try:
        target = urljoin(url, response.headers["Location"])
    except ValueError as error:
        raise FetchError(Outcome.BAD_URL, "redirect to something that is no URL", response.status) from error
    if not is_web_url(target):
        scheme = urlsplit(target).scheme[:20]
        raise FetchError(Outcome.BAD_URL, f"redirect to a {scheme!r} address, not a web address", response.status)
    return target


def _retry_after(header: str | None) -> float | None:
    """Seconds that a Retry-After header asks for, in either of its forms; None where it is absent or unreadable."""
    if header is None:
        return None
    if header.strip().isdecimal():
        return float(header)
    try:
        when = email.utils.parsedate_to_datetime(header)
    except ValueError:
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return max(0.0, (when - datetime.now(UTC)).total_seconds())


def _explain(error: HTTPError | TimeoutError, status: int | None) -> FetchError:
    """The outcome for what urllib3 raised; `status` is None where no answer had begun."""
    match error:
        case TimeoutError() | PoolTimeoutError():
            return FetchError(Outcome.TIMEOUT, "no answer in time" if status is None else "body too slow", status)
        case SSLError():
            return FetchError(Outcome.TLS, _cause(error), status)
        case LocationParseError() | LocationValueError():
            return FetchError(Outcome.BAD_URL, "not a URL that can be requested", status)
        case DecodeError():
            return FetchError(Outcome.NOT_AN_IMAGE, "the body's Content-Encoding does not hold", status)
        case ProtocolError() if status is not None:
            return FetchError(Outcome.TRUNCATED, f"body broken off: {_cause(error)}", status)
        case ProtocolError():
            return FetchError(Outcome.CONNECT, f"no HTTP answer: {_cause(error)}", status)
        case _:
            raise error  # Not a kind that a server can cause: ours to find.


def _cause(error: BaseException) -> str:
    """The system's words for what lies under an exception of urllib3, without its object addresses."""
    inner: Any = error.args[-1] if error.args else error
    if isinstance(inner, ssl.SSLCertVerificationError):
        return f"certificate: {inner.verify_message}"[:200]
    if isinstance(inner, OSError) and inner.strerror:
        return inner.strerror[:200]
    return type(inner).__name__ if isinstance(inner, BaseException) else type(error).__name__


# --- connections that obey an attempt's limits ----------------------------------------------------------------------


class _DeadlineReader(io.RawIOBase):
    """The socket's stream, where every read waits at most until the attempt's deadline."""

    def __init__(self, sock: socket.socket, attempt: _Attempt) -> None:
        self._sock = sock
        # Keeps the descriptor open after http.client closes the socket, as its own reader would.
        self._stream = sock.makefile("rb", buffering=0)
        self._attempt = attempt

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.settimeout(self._attempt.wait(self._attempt.config.read_timeout_seconds))
        return self._stream.readinto(buffer)

    def close(self) -> None:
        self._stream.close()
        super().close()


class _DeadlineResponse(http.client.HTTPResponse):
    """An answer read under the deadline from its first header byte on. It is made in the thread that asked."""

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp.close()
        self.fp = io.BufferedReader(_DeadlineReader(sock, _ATTEMPT.get()))


class _GuardedHTTP(HTTPConnection):
    response_class = _DeadlineResponse

    def _new_conn(self) -> socket.socket:
        return _connect(self._dns_host, self.port or 80)


class _GuardedHTTPS(HTTPSConnection):
    response_class = _DeadlineResponse

    def _new_conn(self) -> socket.socket:
        return _connect(self._dns_host, self.port or 443)


class _HTTPPool(urllib3.HTTPConnectionPool):
    ConnectionCls = _GuardedHTTP


class _HTTPSPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _GuardedHTTPS


class _GuardedPools(urllib3.PoolManager):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.pool_classes_by_scheme = {"http": _HTTPPool, "https": _HTTPSPool}


def _connect(host: str, port: int) -> socket.socket:
    """A connection to one of a host's addresses, each of which has been checked.

    Raises:
        FetchError: dns, blocked_address, connect or timeout.
    """
    attempt = _ATTEMPT.get()
    addresses = _resolve(host, port)
    if not attempt.config.allow_private_addresses and not all(is_public(address) for address in addresses):
        raise FetchError(Outcome.BLOCKED_ADDRESS, f"{host[:100]} is not on the public network")
    failure = FetchError(Outcome.CONNECT, "no address to connect to")
    for address in addresses:
        try:
            wait = attempt.wait(attempt.config.connect_timeout_seconds)
            sock = socket.create_connection((address, port), timeout=wait)
        except TimeoutError:
            failure = FetchError(Outcome.TIMEOUT, "no connection in time")
        except OSError as error:
            failure = FetchError(Outcome.CONNECT, error.strerror or type(error).__name__)
        else:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return sock
    raise failure


def _resolve(host: str, port: int) -> list[str]:
    try:
        answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        raise FetchError(Outcome.DNS, error.strerror or "name not resolved") from error
    except UnicodeError as error:
        raise FetchError(Outcome.BAD_URL, "host name cannot be encoded") from error
    return list(dict.fromkeys(str(address[0]) for *_, address in answers))


@functools.lru_cache(maxsize=4096)
def is_public(address: str) -> bool:
    """True for addresses of the public internet, looking through IPv6 forms that carry an IPv4 address."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        carried = ip.ipv4_mapped or ip.sixtofour
        if carried is None and ip in _NAT64:
            carried = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if carried is not None:
            return is_public(str(carried))
        if ip.is_site_local:
            return False
    return ip.is_global and not ip.is_multicast
