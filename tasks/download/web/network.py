"""Health of hosts and of the network, as learned from attempts.

Both are judged by failures in a row. A host whose URLs keep ending without an answer is left alone for a while; and
when attempt after attempt finds nothing alive anywhere, the fault is likely ours: then everything pauses instead of
burning the list, until a host that answered before can be connected to again.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

from tasks.download.config import DownloadConfig
from tasks.download.web.attempt import FetchError
from tasks.errors import StageError
from tasks.records import Outcome

# Suspicion needs this many attempts in a row that found nothing alive, at so many hosts. Where a fifth of all attempts
# do, as in old lists of links, twenty in a row by chance are one in 10^14.
SILENT_ATTEMPTS = 20
SILENT_HOSTS = 4

_PROBES = 3  # hosts tried before the network is held for gone
_KNOWN_ALIVE = 16
_MOST_HOSTS = 50_000
_FIRST_PROBE_WAIT, _LONGEST_PROBE_WAIT = 1.0, 30.0  # seconds
_DECIDED_HERE = (Outcome.DNS, Outcome.BAD_URL, Outcome.BLOCKED_ADDRESS, Outcome.OPTED_OUT)


class NetworkGoneError(StageError):
    """The network has been gone for longer than `outage_patience_seconds`."""


def host_of(url: str) -> str:
    """The server that a URL names, with its port; limits per host count by it."""
    return urlsplit(url).netloc.rpartition("@")[2].lower()


@dataclass
class _Trouble:
    """A host's failed URLs in a row, and the end of its rest (monotonic seconds)."""

    failures: int = 0
    down_until: float = 0.0
    detail: str = ""


class Network:
    """Health of hosts and of the network, shared by the shards that one process downloads. Safe to use from threads.

    Args:
        config: for its limits.
        connects: whether a connection to a URL's host can be made now.
        notice: is told of pauses, in words.
        names_proxy: the proxy that requests for a URL go through, in words; None where there is none.
    """

    def __init__(
        self,
        config: DownloadConfig,
        connects: Callable[[str], bool],
        notice: Callable[[str], None] = lambda text: None,
        clock: Callable[[], float] = time.monotonic,
        names_proxy: Callable[[str], str | None] = lambda url: None,
    ) -> None:
        self._config = config
        self._connects = connects
        self._notice = notice
        self._names_proxy = names_proxy
        self._clock = clock
        self._lock = threading.Lock()
        self._trouble: OrderedDict[str, _Trouble] = OrderedDict()
        self._alive: deque[str] = deque(maxlen=_KNOWN_ALIVE)  # URLs of different hosts that have answered
        self._silent = 0
        self._silent_urls: dict[str, str] = {}  # host -> one of its URLs

    # --- one host ---

    def down(self, host: str) -> str | None:
        """Why a host is left alone just now; None where its URLs may be requested.

        When its time is over the next caller gets None, and the others wait for what comes of that one request.
        """
        with self._lock:
            if not self._has_failed(host):
                return None
            trouble = self._trouble[host]
            if self._clock() >= trouble.down_until:
                trouble.down_until = self._clock() + self._config.host_down_seconds
                return None
            return f"not requested: {trouble.failures} URLs in a row of this host ended so: {trouble.detail}"[:200]

    def attempt_ended(self, host: str, error: FetchError | None, is_last: bool = True) -> None:
        """Record how an attempt at a URL ended; `error` is None where it was fetched.

        Any answer counts at once, but a failure only where it is the URL's last.
        """
        with self._lock:
            if error is None or not _counts_against_host(error):
                self._trouble.pop(host, None)
                return
            if not is_last:
                return
            trouble = self._trouble.setdefault(host, _Trouble())
            self._trouble.move_to_end(host)
            if len(self._trouble) > _MOST_HOSTS:
                self._trouble.popitem(last=False)
            trouble.failures += 1
            trouble.detail = error.detail
            trouble.down_until = self._clock() + self._config.host_down_seconds

    # --- the network itself ---

    def heard(self, url: str) -> None:
        """Record that the host of a URL answers."""
        with self._lock:
            self._silent = 0
            self._silent_urls.clear()
            if not self._alive or host_of(self._alive[-1]) != host_of(url):
                others = [known for known in self._alive if host_of(known) != host_of(url)]
                self._alive.clear()
                self._alive.extend([*others, url])

    def silence(self, url: str) -> None:
        """Record an attempt that nothing answered."""
        with self._lock:
            self._silent += 1
            if len(self._silent_urls) < SILENT_HOSTS:
                self._silent_urls.setdefault(host_of(url), url)

    @property
    def is_silent(self) -> bool:
        """True where nothing answered the last attempt."""
        with self._lock:
            return self._silent > 0

    @property
    def num_live_hosts(self) -> int:
        """Number of hosts that have answered, up to a limit that is more than enough."""
        with self._lock:
            return len(self._alive)

    def is_suspect(self, num_hosts: int) -> bool:
        """True where so much silence, at so many hosts, may be the network's fault.

        Args:
            num_hosts: hosts that are asked in all: of a list with one host, one is many.
        """
        with self._lock:
            if len(self._silent_urls) < min(SILENT_HOSTS, num_hosts):
                return False
            return self._silent >= SILENT_ATTEMPTS or all(self._has_failed(host) for host in self._silent_urls)

    def forgive(self, hosts: set[str]) -> None:
        """Forget the trouble of hosts that only an outage made fail."""
        with self._lock:
            for host in hosts:
                self._trouble.pop(host, None)

    def wait_until_back(self, stopped: threading.Event, unasked: Iterable[str] = ()) -> bool:
        """Find out whether the network is gone, and if so wait until it is back.

        Hosts that have answered before are connected to, others each time, and those that were silent.

        Args:
            stopped: set when nobody waits for the finding any more.
            unasked: URLs of other hosts. They are probed where none has answered yet: a list may begin with a long
                run of dead links.

        Returns:
            True if there was an outage: what failed during it deserves another try. False for a false alarm.

        Raises:
            NetworkGoneError: it is not back after `outage_patience_seconds`.
        """
        with self._lock:
            silent = self._silent
        unasked_urls = deque(unasked)
        begun = self._clock()
        fruitless = 0
        wait = _FIRST_PROBE_WAIT
        tried: dict[str, str] = {}  # host -> one of its URLs
        while not stopped.is_set():
            probes = self._next_probes(unasked_urls)
            tried.update((host_of(url), url) for url in probes)
            connected = next(filter(self._connects, probes), None)
            if connected is not None:
                if fruitless > 1:
                    self._notice(f"the network is back after {self._clock() - begun:.0f} s; going on")
                self.heard(connected)
                return fruitless > 0
            fruitless += 1
            gone = self._clock() - begun
            # Once is nothing to speak of: the first answer of all may be on its way.
            if fruitless > 1 and gone > self._config.outage_patience_seconds:
                raise NetworkGoneError(
                    f"the network has been gone for {gone:.0f} s: {silent} attempts in a row reached nothing, nor "
                    f"could {self._named(tried.values()) or f'any of {len(tried)} hosts'} be connected to; what was "
                    "fetched is kept, run the same command again when it is back"
                )
            if fruitless == 2:
                named = self._named(tried.values())
                why = f"{named} cannot be connected to" if named else "the network seems to be gone"
                self._notice(
                    f"paused: {silent} attempts in a row reached nothing, {why}; trying again for up to "
                    f"{self._config.outage_patience_seconds:.0f} s"
                )
            stopped.wait(wait)
            wait = min(2 * wait, _LONGEST_PROBE_WAIT)
        return fruitless > 0

    def _next_probes(self, unasked_urls: deque[str]) -> list[str]:
        """URLs of hosts to connect to next; one connection proves the network. Each call names others."""
        with self._lock:
            known = self._alive or unasked_urls
            chosen = list(known)[: -_PROBES - 1 : -1]
            known.rotate(_PROBES)
            return [*chosen, *self._silent_urls.values()]

    def _named(self, urls: Iterable[str]) -> str | None:
        """The proxies on the way to all of these URLs; None where some are reached without one."""
        proxies = {self._names_proxy(url) for url in urls}
        return None if None in proxies else " or ".join(sorted(filter(None, proxies))) or None

    def _has_failed(self, host: str) -> bool:
        return host in self._trouble and self._trouble[host].failures >= self._config.host_failures


def is_heard(error: FetchError) -> bool:
    """Whether a failed attempt proves that its host is there, and with it the network.

    Not where all was decided on this side: that there is no such name, that it is private, or what a robots.txt says
    may be known from before.
    """
    return error.alive and (error.status is not None or error.outcome not in _DECIDED_HERE)


def _counts_against_host(error: FetchError) -> bool:
    """Whether a failure counts against its host: no answer at all, or the host asks to be left alone."""
    if error.outcome is Outcome.TIMEOUT:
        return error.status is None
    if error.outcome is Outcome.HTTP_5XX:
        return error.retry_after is not None
    return error.outcome in (Outcome.DNS, Outcome.CONNECT, Outcome.RATE_LIMITED)
