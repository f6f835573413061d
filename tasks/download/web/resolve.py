"""Host name -> addresses, within a time limit, and which of them are public.

The system's resolver cannot be interrupted, so look-ups run in a few daemon threads and callers wait for them: until
their own deadline, no longer. A look-up that nobody waits for any more is left behind; it keeps neither the caller nor
the process. Equal look-ups in flight are one, and answers are kept for a while.
"""

from __future__ import annotations

import errno
import functools
import ipaddress
import queue
import socket
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import Enum

from tasks.errors import UserError

_AT_ONCE = 32
_KEPT = 20_000  # names; an answer takes about half a kilobyte
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class LookupEnd(Enum):
    """How a look-up ended."""

    FOUND = "found"
    NO_SUCH_NAME = "no such name"
    TEMPORARY = "temporary"
    FAILED = "failed"
    NOT_A_NAME = "not a name"


_KEPT_SECONDS = {LookupEnd.FOUND: 300.0, LookupEnd.NO_SUCH_NAME: 60.0}
_NO_SUCH_NAME = {socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)}


@dataclass(frozen=True)
class Lookup:
    """The name service's answer: addresses where it found some, else its words in `detail`."""

    end: LookupEnd
    addresses: tuple[str, ...] = ()
    detail: str = ""


@dataclass
class _Job:
    """One look-up in flight, and how many callers wait for it."""

    answer: Future[Lookup] = field(default_factory=Future)
    waiting: int = 0


class Resolver:
    """Looks names up for any number of threads at once.

    Addresses are kept for 300 s and "no such name" for 60 s, both for the 20,000 names asked for last; temporary
    failures are not kept.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._answers: dict[str, tuple[float, Lookup]] = {}  # name -> until when (monotonic), answer; oldest first
        self._in_flight: dict[str, _Job] = {}
        self._queue: queue.SimpleQueue[tuple[str, _Job] | None] = queue.SimpleQueue()
        self._workers = 0

    def close(self) -> None:
        """Let the threads end. A look-up in progress ends with its system call, or with the process."""
        with self._lock:
            workers, self._workers = self._workers, 0
        for _ in range(workers):
            self._queue.put(None)

    def look_up(self, host: str, seconds: float, fresh: bool = False) -> Lookup:
        """The addresses of a host, in the system's order of preference.

        Args:
            host: a name, or an address as a literal, which needs no look-up.
            seconds: longest wait. An answer that comes later is kept for those who ask again.
            fresh: ask the name service now, whatever is known.

        Raises:
            UserError: the process has no file descriptor left to ask with.
        """
        if _is_literal(host):
            return Lookup(LookupEnd.FOUND, (host,))
        host = host.lower()
        with self._lock:
            known = None if fresh else self._known(host)
            if known is not None:
                return known
            job = self._in_flight.get(host) or self._start(host)
            job.waiting += 1
        try:
            return job.answer.result(timeout=seconds)
        except TimeoutError:
            return Lookup(LookupEnd.TEMPORARY, detail="no answer in time")
        finally:
            with self._lock:
                job.waiting -= 1
                if job.waiting == 0 and job.answer.cancel():
                    del self._in_flight[host]

    def _known(self, host: str) -> Lookup | None:
        until, answer = self._answers.get(host, (0.0, None))
        return answer if time.monotonic() < until else None

    def _start(self, host: str) -> _Job:
        job = self._in_flight[host] = _Job()
        self._queue.put((host, job))
        if self._workers < min(len(self._in_flight), _AT_ONCE):
            self._workers += 1
            threading.Thread(target=self._work, name="look-up", daemon=True).start()
        return job

    def _work(self) -> None:
        while (next_job := self._queue.get()) is not None:
            host, job = next_job
            if not job.answer.set_running_or_notify_cancel():
                continue
            try:
                answer = _ask(host)
            except BaseException as error:  # noqa: BLE001 (handed to those who wait, not swallowed)
                with self._lock:
                    del self._in_flight[host]
                job.answer.set_exception(error)
                continue
            with self._lock:
                del self._in_flight[host]
                self._keep(host, answer)
            job.answer.set_result(answer)

    def _keep(self, host: str, answer: Lookup) -> None:
        self._answers.pop(host, None)
        seconds = _KEPT_SECONDS.get(answer.end)
        if seconds is None:
            return
        self._answers[host] = (time.monotonic() + seconds, answer)
        if len(self._answers) > _KEPT:
            del self._answers[next(iter(self._answers))]


def _ask(host: str) -> Lookup:
    try:
        answers = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        detail = error.strerror or "name not resolved"
        if error.errno in _NO_SUCH_NAME:
            return Lookup(LookupEnd.NO_SUCH_NAME, detail=detail)
        return Lookup(LookupEnd.TEMPORARY if error.errno == socket.EAI_AGAIN else LookupEnd.FAILED, detail=detail)
    except OSError as error:
        refuse_without_descriptors(error)
        return Lookup(LookupEnd.FAILED, detail=error.strerror or type(error).__name__)
    except ValueError:  # UnicodeError is one: a label that is empty, too long or holds a NUL
        return Lookup(LookupEnd.NOT_A_NAME, detail="host name cannot be encoded")
    return Lookup(LookupEnd.FOUND, tuple(dict.fromkeys(str(address[0]) for *_, address in answers)))


def refuse_without_descriptors(error: OSError) -> None:
    """Raise a UserError for an error of this machine, not of a server; let any other pass.

    Raises:
        UserError: the process or the machine has no file descriptor left.
    """
    if error.errno in (errno.EMFILE, errno.ENFILE):
        raise UserError(
            f"no connection can be opened: {error.strerror}; raise the limit (ulimit -n), or lower download.threads"
        ) from error


def _is_literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


@functools.lru_cache(maxsize=4096)
def is_public(address: str) -> bool:
    """True for public internet addresses, also within IPv6 forms that carry IPv4."""
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


def names_private_host(host: str) -> bool:
    """True where the spelling alone says that a host is private: `localhost`, or a literal private address.

    For when a proxy looks the name up. Old spellings of IPv4 addresses (`127.1`, `0x7f000001`) are seen through.
    """
    name = host.rstrip(".").lower()
    if name in ("localhost", "localhost.localdomain") or name.endswith(".localhost"):
        return True
    if _is_literal(name):
        return not is_public(name)
    try:
        return not is_public(socket.inet_ntoa(socket.inet_aton(name)))
    except (OSError, ValueError):
        return False
