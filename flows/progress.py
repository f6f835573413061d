"""What a run says while it works: one line per shard, and a line every few seconds inside long stages, on stderr."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Mapping

from model.progress import Progress

ROOMS = ("flows", "tasks", "model", "feature_extraction")
EVERY_SECONDS = 3.0


class _LineFormatter(logging.Formatter):
    """`12:03:04 download  message`, where download is the module that speaks; warnings and worse say so."""

    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        stage = record.name.rpartition(".")[2]
        level = "" if record.levelno <= logging.INFO else f"{record.levelname}: "
        line = f"{clock} {stage:9} {level}{record.getMessage()}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def log_to_stderr() -> None:
    """Send the four rooms' loggers to stderr, for a process that Prefect does not log for. May be called again."""
    for room in ROOMS:
        logger = logging.getLogger(room)
        logger.handlers.clear()
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(_LineFormatter())
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False


class ProgressLog:
    """Logs progress of one piece of work, at most a line every few seconds. Safe to call from several threads."""

    def __init__(
        self,
        logger: logging.Logger,
        name: str,
        unit: str,
        every_seconds: float = EVERY_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._logger = logger
        self._name = name
        self._unit = unit
        self._every = every_seconds
        self._clock = clock
        self._start = self._last = clock()
        self._lock = threading.Lock()

    def __call__(self, done: int, total: int) -> None:
        """Report how much is done; the rate is the mean since this object was made."""
        self.report(done, total, done / max(self._clock() - self._start, 1e-9))

    def follow(self, progress: Progress) -> None:
        """Report what a training or scoring process says of itself."""
        self.report(progress.done, progress.total, progress.per_second, progress.unit, progress.metrics)

    def report(
        self,
        done: int,
        total: int,
        per_second: float,
        unit: str | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        with self._lock:
            now = self._clock()
            if now - self._last < self._every:
                return
            self._last = now
        remaining = duration((total - done) / per_second) if per_second > 0 else "unknown"
        numbers = "".join(f", {name} {value:.4g}" for name, value in (metrics or {}).items())
        self._logger.info(
            "%s: %s of %s %s, %s a second, %s left%s",
            self._name,
            f"{done:,}",
            f"{total:,}",
            unit or self._unit,
            f"{per_second:,.1f}",
            remaining,
            numbers,
        )


def duration(seconds: float) -> str:
    """`4.2 s`, `3 min 20 s`, `5 h 12 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def counts_text(counts: Mapping[str, int]) -> str:
    """`1,000 ok, 12 not_found`: what came to nothing is left out, and the largest number comes first after ok."""
    ordered = sorted(counts.items(), key=lambda item: (item[0] != "ok", -item[1], item[0]))
    return ", ".join(f"{number:,} {name}" for name, number in ordered if number) or "nothing"
