"""One URL -> its body, or why not. Bounded in time, bytes and redirects, and it never reaches into private networks.

This is one attempt; when to try again is `tasks.download.web.schedule`'s to decide, from what a `FetchError` says. The
limits hold where the bytes flow: see `tasks.download.web.connect`.

urllib3 is used directly: one pool and one TLS context serve all threads, and no cookie or netrc entry of this machine
leaks into requests.
"""

from __future__ import annotations

import email.utils
import http.client
import io
import ssl
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from http.client import RemoteDisconnected
from urllib.parse import urljoin, urlsplit

import certifi
import urllib3
from urllib3.exceptions import (
    DecodeError,
    HTTPError,
    IncompleteRead,
    InvalidHeader,
    LocationParseError,
    LocationValueError,
    ProtocolError,
    SSLError,
)
from urllib3.exceptions import TimeoutError as PoolTimeoutError
from urllib3.util import parse_url

from tasks.download.config import DownloadConfig
from tasks.download.web.attempt import FetchError, attempting, current_attempt, failed, refused
from tasks.download.web.connect import guarded_pools, open_socket
from tasks.download.web.proxies import Proxies, Proxy
from tasks.download.web.resolve import Resolver, names_private_host
from tasks.download.web.robots import ROBOTS_BYTES, RobotsRules, opts_out, product_token
from tasks.records import Outcome
from tasks.rows.read import is_web_url

_REDIRECTS = (301, 302, 303, 307, 308)
_CHUNK = 1 << 16
_PORTS = {"http": 80, "https": 443}
# What keeps a robots.txt from being known. Whatever else goes wrong with it, a site has no rules then.
_NO_RULES_KNOWN = frozenset(
    {
        Outcome.BLOCKED_ADDRESS,
        Outcome.DNS,
        Outcome.CONNECT,
        Outcome.TLS,
        Outcome.TIMEOUT,
        Outcome.HTTP_5XX,
        Outcome.TRUNCATED,
    }
)


@dataclass(frozen=True)
class Answer:
    """A URL's body, unpacked, and the status that came with it: 2xx, or None where no server was asked."""

    body: bytes
    status: int | None


class Fetcher:
    """Fetches URLs, from any number of threads at once. Keeps connections and what it learned of hosts between them.

    TLS certificates are verified against the system's authorities (SSL_CERT_FILE and SSL_CERT_DIR name others) and
    certifi's. Behind a proxy of the environment, names are looked up by the proxy: what is spelled as a private host is
    refused here, and what else it may reach is the proxy's to decide.

    Raises:
        UserError: the environment names a proxy that cannot be used.
    """

    def __init__(self, config: DownloadConfig) -> None:
        self._config = config
        tls = ssl.create_default_context()
        # Beside the system's authorities, for machines that have none.
        tls.load_verify_locations(certifi.where())
        self._resolver = Resolver()
        self._proxies = Proxies() if config.env_proxies else None
        self._pools = {proxy: guarded_pools(config, tls, proxy) for proxy in (None, *(self._proxies or ()))}
        self._agent = product_token(config.user_agent)
        self._opt_outs = frozenset(directive.lower() for directive in config.opt_out_directives)
        self._robots = RobotsRules(self._robots_txt, self._agent) if config.robots_txt else None

    def close(self) -> None:
        """Close the connections that wait for further use."""
        for pools in self._pools.values():
            pools.clear()
        self._resolver.close()

    def attempt(self, url: str, seconds: float) -> Answer:
        """Try once to get a URL.

        Args:
            url: an http or https URL; its fragment and login are not sent.
            seconds: the longest that this may take: name look-ups, connections, TLS handshakes, redirects, headers,
                body and, where asked for, robots.txt together.

        Raises:
            FetchError: there is no body.
            UserError: this process has run out of file descriptors.
        """
        with attempting(self._config, self._resolver, seconds):
            return self._follow(url)

    def connects(self, url: str) -> bool:
        """Whether a connection to the URL's host, or to the proxy on the way, can be made now. Nothing is requested.

        The name is looked up anew and a new connection made, within the connect timeout: what was known before the
        network went away proves nothing.
        """
        with attempting(self._config, self._resolver, self._config.connect_timeout_seconds):
            try:
                parts = parse_url(url)
                host, port = (parts.host or "").strip("[]"), parts.port or _PORTS[parts.scheme or "http"]
                proxy = self._proxy(url)
                if proxy is None:
                    open_socket(host, port, fresh=True).close()
                else:
                    open_socket(proxy.host, proxy.port, is_proxy=True, fresh=True).close()
            except (FetchError, LocationParseError, TimeoutError):
                return False
            return True

    def names_proxy(self, url: str) -> str | None:
        """The proxy that requests for the URL go through, in words; None: they go straight to its host."""
        if self._proxies is None:
            return None
        try:
            parts = parse_url(url)
        except LocationParseError:
            return None
        proxy = self._proxies.for_host(parts.scheme or "http", (parts.host or "").strip("[]"), parts.port)
        return None if proxy is None else f"the proxy {proxy} ({proxy.variable} in the environment)"

    def _follow(self, url: str, is_robots: bool = False) -> Answer:
        """The answer at the end of a URL's redirects."""
        for _ in range(self._config.max_redirects + 1):
            answer = self._request(url, is_robots)
            if isinstance(answer, Answer):
                return answer
            url = answer
        raise failed(Outcome.TOO_MANY_REDIRECTS, f"more than {self._config.max_redirects} redirects")

    def _request(self, url: str, is_robots: bool) -> Answer | str:
        """The answer to one request, or where it redirects to."""
        if self._robots is not None and not is_robots:
            self._obey_robots(self._robots, url)
        response = self._send(url)
        reusable = False
        try:
            redirects = response.status in _REDIRECTS and "Location" in response.headers
            succeeds = 200 <= response.status < 300
            if (redirects or succeeds) and not is_robots:
                self._obey_header(response)
            body = b""
            if redirects or not succeeds:
                reusable = _take_rest(response)
            else:
                body = _read_robots(response) if is_robots else self._read(response)
                reusable = not is_robots or len(body) < ROBOTS_BYTES
            doubt = current_attempt().doubt
            if doubt:
                raise failed(Outcome.CONNECT, f"no HTTP answer: {doubt}", response.status)
            if redirects:
                return _redirect(url, response)
            if not succeeds:
                raise refused(response.status, response.reason, _retry_after(response.headers.get("Retry-After")))
            return Answer(body, response.status)
        except (HTTPError, TimeoutError) as error:
            raise _explain(error, response.status) from error
        finally:
            if reusable:
                response.release_conn()
            else:
                response.close()  # What is left unread would be taken for the next answer.

    def _send(self, url: str) -> urllib3.BaseHTTPResponse:
        """Make the request and read the answer's head."""
        attempt = current_attempt()
        try:
            return self._pools[self._proxy(url)].urlopen(
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

    def _proxy(self, url: str) -> Proxy | None:
        """The proxy that a request for the URL goes through; None: straight to its host."""
        if self._proxies is None or len(self._pools) == 1:
            return None
        parts = parse_url(url)
        host = (parts.host or "").strip("[]")
        proxy = self._proxies.for_host(parts.scheme or "http", host, parts.port)
        if proxy is not None and not self._config.allow_private_addresses and names_private_host(host):
            raise failed(Outcome.BLOCKED_ADDRESS, f"{host} is not on the public network")
        return proxy

    def _obey_header(self, response: urllib3.BaseHTTPResponse) -> None:
        directive = opts_out(response.headers.getlist("X-Robots-Tag"), self._opt_outs, self._agent)
        if directive is not None:
            raise failed(Outcome.OPTED_OUT, f"X-Robots-Tag: {directive}", response.status)

    def _obey_robots(self, robots: RobotsRules, url: str) -> None:
        try:
            allowed = robots.allow(url, current_attempt().wait())
        except TimeoutError as error:
            raise failed(Outcome.TIMEOUT, "robots.txt: no answer in time") from error
        if not allowed:
            raise failed(Outcome.OPTED_OUT, "robots.txt")

    def _robots_txt(self, url: str) -> bytes | None:
        """The start of a robots.txt; None where the site has none."""
        try:
            return self._follow(url, is_robots=True).body
        except FetchError as error:
            if error.outcome not in _NO_RULES_KNOWN:
                return None
            raise failed(
                error.outcome, f"robots.txt: {error.detail}", error.status, error.retry_after, error.transient
            ) from error

    def _read(self, response: urllib3.BaseHTTPResponse) -> bytes:
        limit = self._config.max_bytes
        declared = response.length_remaining or 0
        if declared > limit:
            raise failed(Outcome.TOO_LARGE, f"{declared} bytes, limit {limit}", response.status)
        if declared and "Content-Encoding" not in response.headers:
            return response.read()  # In one piece: no more than was declared ever comes out.
        body = io.BytesIO()
        for chunk in _chunks(response):
            if body.tell() + len(chunk) > limit:
                raise failed(Outcome.TOO_LARGE, f"more than {limit} bytes", response.status)
            body.write(chunk)
        return body.getvalue()


def _chunks(response: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
    try:
        yield from response.stream(_CHUNK, decode_content=True)
    except ValueError as error:  # A negative chunk length gets past urllib3, as far as the stream.
        raise ProtocolError("bad chunk", error) from error


def _read_robots(response: urllib3.BaseHTTPResponse) -> bytes:
    """What counts of a robots.txt: its first `ROBOTS_BYTES`."""
    text = b""
    for chunk in _chunks(response):
        text += chunk
        if len(text) >= ROBOTS_BYTES:
            break
    return text[:ROBOTS_BYTES]


def _take_rest(response: urllib3.BaseHTTPResponse) -> bool:
    """Read and forget a short body that nobody wants, so that its connection can serve the next request.

    Returns:
        Whether it can. Not where the body is long, of unknown length, or does not come: the answer stands without it.
    """
    declared = response.length_remaining
    if declared is None or declared > _CHUNK:
        return False
    try:
        response.read(decode_content=False)
    except (HTTPError, TimeoutError):
        return False
    return True


def _redirect(url: str, response: urllib3.BaseHTTPResponse) -> str:
    location = response.headers["Location"]
    with suppress(UnicodeError):  # Headers are read as Latin-1; addresses in them are UTF-8 unless plain ASCII.
        location = location.encode("latin-1").decode()
    try:
        target = urljoin(url, location)
        scheme = urlsplit(target).scheme[:20]
    except ValueError as error:
        raise failed(Outcome.BAD_URL, "redirect to something that is no URL", response.status) from error
    if not is_web_url(target):
        raise failed(Outcome.BAD_URL, f"redirect to a {scheme!r} address, not a web address", response.status)
    return target


def _retry_after(header: str | None) -> float | None:
    """Seconds that a Retry-After header asks for, in either of its forms; None where it is absent or unreadable.

    Not by `urllib3.Retry.parse_retry_after`: it takes dates that there are none of (31 Feb 25:61:61), years away.
    """
    if header is None:
        return None
    if header.isascii() and header.strip().isdecimal():
        return float(header)
    try:
        when = email.utils.parsedate_to_datetime(header)
    except (ValueError, OverflowError):
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return max(0.0, (when - datetime.now(UTC)).total_seconds())


def _explain(error: HTTPError | TimeoutError, status: int | None) -> FetchError:
    """The error for what urllib3 raised; `status` is None where no answer had begun."""
    match error:
        case TimeoutError() | PoolTimeoutError():
            return failed(Outcome.TIMEOUT, "no answer in time" if status is None else "body too slow", status)
        case LocationParseError() | LocationValueError():
            return failed(Outcome.BAD_URL, "not a URL that can be requested", status)
        case DecodeError():
            return failed(Outcome.NOT_AN_IMAGE, "the body's Content-Encoding does not hold", status)
        case SSLError() if status is None:
            return failed(Outcome.TLS, f"no HTTP answer: {_words(error)}")
        case ProtocolError() | InvalidHeader() if status is None:
            return failed(Outcome.CONNECT, f"no HTTP answer: {_words(error)}")
        case ProtocolError() | SSLError():
            return failed(Outcome.TRUNCATED, f"body broken off: {_words(error)}", status)
        case _:
            raise error  # Not a kind that a server can cause: ours to find.


def _words(error: HTTPError) -> str:
    """The system's words for what lies under an exception of urllib3, without its object addresses."""
    inner = error.args[-1] if error.args else error
    match inner:
        case http.client.IncompleteRead(partial=bytes(partial), expected=int(missing)):
            return f"{len(partial)} of {len(partial) + missing} bytes"
        case IncompleteRead():
            return f"{inner.partial} of {inner.partial + inner.expected} bytes"
        case RemoteDisconnected():
            return "connection closed"
        case ssl.SSLError(reason=str(reason)):
            return reason.replace("_", " ").lower()
        case OSError(strerror=str(strerror)):
            return strerror
        case _:
            return type(inner if isinstance(inner, BaseException) else error).__name__
