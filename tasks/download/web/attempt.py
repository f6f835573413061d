"""One attempt at a URL: how long it may take, and how it fails.

urllib3 makes connections when it needs them, in the thread that asks. So the attempt that runs in a thread is kept
where whatever works for it in this thread finds it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from tasks.download.config import DownloadConfig
from tasks.download.web.resolve import Resolver
from tasks.records import Outcome

_STATUS_OUTCOMES = {
    401: Outcome.FORBIDDEN,
    403: Outcome.FORBIDDEN,
    404: Outcome.NOT_FOUND,
    408: Outcome.TIMEOUT,
    410: Outcome.GONE,
    429: Outcome.RATE_LIMITED,
    451: Outcome.FORBIDDEN,
}
_LASTING_STATUSES = (501, 505)  # Not implemented, HTTP version not supported: asking again changes nothing.
_TRANSIENT = (Outcome.CONNECT, Outcome.TIMEOUT, Outcome.RATE_LIMITED, Outcome.HTTP_5XX, Outcome.TRUNCATED)
_SILENT = (Outcome.DNS, Outcome.CONNECT, Outcome.TIMEOUT)  # what an attempt that heard nothing can end as
_DETAIL_LENGTH = 200


class FetchError(Exception):
    """A failed attempt at a URL.

    Attributes:
        outcome: what the URL ends as, unless a further attempt changes it.
        detail: the raw facts in at most 200 printable characters: the server's status line, the system's words.
        status: of the last answer's head; None where there was none.
        retry_after: seconds that the server asked us to stay away, however many; None where it did not ask.
        transient: worth another attempt within this run. Of dns only what the name service itself calls temporary,
            of tls only a handshake that was broken off.
        alive: False where we waited for an answer and nothing came: no connection was made, nor did the name service
            say for certain that there is no such name. A dead host looks so, and a dead network.
    """

    def __init__(
        self,
        outcome: Outcome,
        detail: str,
        status: int | None = None,
        retry_after: float | None = None,
        transient: bool | None = None,
        alive: bool = False,
    ) -> None:
        words = " ".join(detail.split())
        self.detail = "".join(c if c.isprintable() else "?" for c in words)[:_DETAIL_LENGTH]
        super().__init__(self.detail)
        self.outcome = outcome
        self.status = status
        self.retry_after = retry_after
        self.transient = outcome in _TRANSIENT if transient is None else transient
        self.alive = alive


class Attempt:
    """One attempt at a URL: its limits, and what is known of its answers.

    Attributes:
        alive: something has answered.
        doubt: why the answer that was read last may be another request's; empty where it is surely its own.
    """

    def __init__(self, config: DownloadConfig, resolver: Resolver, seconds: float) -> None:
        self.config = config
        self.resolver = resolver
        self.alive = False
        self.doubt = ""
        self._deadline = time.monotonic() + seconds

    def wait(self, at_most: float = float("inf")) -> float:
        """Seconds that the next operation may take.

        Raises:
            TimeoutError: the deadline has passed.
        """
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the deadline has passed")
        return min(at_most, left)


_ATTEMPT: ContextVar[Attempt] = ContextVar("attempt")


@contextmanager
def attempting(config: DownloadConfig, resolver: Resolver, seconds: float) -> Iterator[None]:
    """Run the block as one attempt that ends after `seconds`: all connections of this thread belong to it."""
    token = _ATTEMPT.set(Attempt(config, resolver, seconds))
    try:
        yield
    finally:
        _ATTEMPT.reset(token)


def current_attempt() -> Attempt:
    """The attempt that runs in this thread."""
    return _ATTEMPT.get()


def failed(
    outcome: Outcome,
    detail: str,
    status: int | None = None,
    retry_after: float | None = None,
    transient: bool | None = None,
) -> FetchError:
    """The error that ends the attempt running in this thread."""
    alive = _ATTEMPT.get().alive or outcome not in _SILENT
    return FetchError(outcome, detail, status, retry_after, transient, alive)


def refused(status: int, reason: str | None, retry_after: float | None = None, by: str = "") -> FetchError:
    """The error for an answer that is neither a success nor a redirect."""
    outcome = _STATUS_OUTCOMES.get(status, Outcome.HTTP_5XX if status >= 500 else Outcome.HTTP_4XX)
    transient = False if status in _LASTING_STATUSES else None
    return failed(outcome, f"{by}HTTP {status} {reason or ''}", status, retry_after, transient)
