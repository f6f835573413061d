"""Progress events of workers: processes of this machine, or of a Ray cluster."""

from __future__ import annotations

import logging
import pickle
import select
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Literal

from tasks.records import ShardRef

if TYPE_CHECKING:
    pass

_REPORT_SECONDS = 0.2
_LONGEST_TEXT = select.PIPE_BUF // 8
"""Characters of four bytes at most, and room for what pickle adds."""


@dataclass(frozen=True)
class ShardEvent:
    """Progress of one shard: rows or images that have ended so far, by outcome."""

    kind: Literal["begun", "going", "ended"]
    ref: ShardRef
    ended: Counter[str]


Event = ShardEvent | str
"""Text is something that the user should know."""


Tell = Callable[[Event], None]
"""Takes an event to the process that listens."""


def send(pipe: Connection, event: Event) -> None:
    """Send an event whole, even while other threads send.

    The kernel keeps messages of this size together. A lock, as a queue has, would stay locked for ever when its holder
    is killed.
    """
    message = pickle.dumps(event[:_LONGEST_TEXT] if isinstance(event, str) else event)
    assert len(message) < select.PIPE_BUF - 4, "an event is longer than a pipe takes at once"
    pipe.send_bytes(message)


class _ToldWarnings(logging.Handler):
    """Log handler that passes a worker's lines on as events."""

    def __init__(self, tell: Tell) -> None:
        super().__init__(logging.WARNING)
        self._tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        self._tell(f"{record.levelname}: {record.getMessage()}")


def tell_warnings(tell: Tell) -> None:
    """Send this worker's warnings to the listening process, which knows where its user reads."""
    for room in ("tasks", "feature_extraction"):
        logging.getLogger(room).addHandler(_ToldWarnings(tell))
        logging.getLogger(room).propagate = False


class ShardReporter:
    """Reports one shard's progress, a few times a second at most."""

    def __init__(self, tell: Tell, ref: ShardRef) -> None:
        self._tell, self._ref = tell, ref
        self._seen: Counter[str] | None = None
        self._last = 0.0

    def __call__(self, ended: Counter[str]) -> None:
        """Report what has ended so far; the first call says what had ended before this run."""
        if self._seen is None or time.monotonic() - self._last >= _REPORT_SECONDS:
            kind: Literal["begun", "going"] = "begun" if self._seen is None else "going"
            self._tell(ShardEvent(kind, self._ref, ended))
            self._last = time.monotonic()
        self._seen = ended

    def end(self) -> None:
        self._tell(ShardEvent("ended", self._ref, self._seen or Counter()))
