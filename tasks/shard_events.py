"""Worker processes that tell how far their shards are."""

from __future__ import annotations

import contextvars
import logging
import multiprocessing
import pickle
import select
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Literal, Self

from tasks.records import ShardRef
from tasks.workers import WorkerPool

_REPORT_SECONDS = 0.2
_LONGEST_TEXT = select.PIPE_BUF // 8
"""Characters of four bytes at most, and room for what pickle adds."""


@dataclass(frozen=True)
class ShardEvent:
    """How far a shard is: its rows or images that have ended so far, per outcome."""

    kind: Literal["begun", "going", "ended"]
    ref: ShardRef
    ended: Counter[str]


Event = ShardEvent | str
"""Text is something that the user should know."""


class ReportingPool(WorkerPool):
    """Worker processes whose events are heard by one thread of this process.

    Args:
        max_workers: processes.
        on_event: takes the events. What it raises first is raised where the `with` block ends; the work goes on
            meanwhile.
        start: called in every worker before its first work, with the pipe for `send` and then the `arguments`.
    """

    def __init__(
        self, max_workers: int, on_event: Callable[[Event], None], start: Callable[..., None], *arguments: Any
    ) -> None:
        self._events, self.pipe = multiprocessing.get_context("spawn").Pipe(duplex=False)
        self._trouble: Exception | None = None
        self._on_event = on_event
        # In the caller's context, which tells Prefect whose log lines these are.
        listen = partial(contextvars.copy_context().run, self._listen)
        self._listener = threading.Thread(target=listen, name="shard-events", daemon=True)
        super().__init__(max_workers, start, self.pipe, *arguments)

    def __enter__(self) -> Self:
        self._listener.start()
        return super().__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, traceback)
        self.pipe.close()  # Nobody else has it open: the workers have ended.
        self._listener.join()
        self._events.close()
        if self._trouble is not None and error is None:
            raise self._trouble

    def tell_standing(self, ref: ShardRef, ended: Counter[str]) -> None:
        """Say that a shard stood already, and how its rows or images had ended."""
        send(self.pipe, ShardEvent("begun", ref, ended))
        send(self.pipe, ShardEvent("ended", ref, ended))

    def _listen(self) -> None:
        while True:
            try:
                event: Event = self._events.recv()
            except EOFError:
                return
            try:
                self._on_event(event)
            except Exception as error:  # noqa: BLE001 (raised by `__exit__`; workers would wait for a pipe that is not read)
                self._trouble = self._trouble or error


def send(pipe: Connection, event: Event) -> None:
    """Send an event whole, whoever else sends at the same time.

    The kernel keeps messages of this size together. A lock, as a queue has, would stay locked for ever when its holder
    is killed.
    """
    message = pickle.dumps(event)
    assert len(message) < select.PIPE_BUF - 4, "an event is longer than a pipe takes at once"
    pipe.send_bytes(message)


class _WarningsToPipe(logging.Handler):
    """Passes a worker's log lines on as events, cut to what a pipe takes at once."""

    def __init__(self, pipe: Connection) -> None:
        super().__init__(logging.WARNING)
        self._pipe = pipe

    def emit(self, record: logging.LogRecord) -> None:
        send(self._pipe, f"{record.levelname}: {record.getMessage()}"[:_LONGEST_TEXT])


def send_warnings(pipe: Connection) -> None:
    """Have this worker's warnings told by the process that listens: it knows where its user reads."""
    for room in ("tasks", "feature_extraction"):
        logging.getLogger(room).addHandler(_WarningsToPipe(pipe))
        logging.getLogger(room).propagate = False


class ShardReporter:
    """Tells of one shard as it goes, a few times a second at most."""

    def __init__(self, pipe: Connection, ref: ShardRef) -> None:
        self._pipe, self._ref = pipe, ref
        self._seen: Counter[str] | None = None
        self._last = 0.0

    def __call__(self, ended: Counter[str]) -> None:
        """Take what has ended so far; the first call says what had ended before this run."""
        if self._seen is None or time.monotonic() - self._last >= _REPORT_SECONDS:
            kind: Literal["begun", "going"] = "begun" if self._seen is None else "going"
            send(self._pipe, ShardEvent(kind, self._ref, ended))
            self._last = time.monotonic()
        self._seen = ended

    def end(self) -> None:
        send(self._pipe, ShardEvent("ended", self._ref, self._seen or Counter()))
