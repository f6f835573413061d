"""What a run says while it works, on stderr: one line per shard, and inside long stages a line every few seconds.

On a terminal the download rewrites one live line instead, below the log lines.
"""

from __future__ import annotations

import logging
import math
import os
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TextIO

from model.progress import Progress
from tasks.records import ShardRef

ROOMS = ("flows", "tasks", "model", "feature_extraction")
EVERY_SECONDS = 3.0

_LIVE_EVERY_SECONDS = 0.2
_RATE_WINDOW_SECONDS = 60.0
_OUTCOMES_SHOWN = 5
_ERASE_LINE = "\r\x1b[K"


class _LineFormatter(logging.Formatter):
    """`12:03:04 download  message`, where download is the module that speaks; warnings and worse say so."""

    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        stage = record.name.rpartition(".")[2]
        level = "" if record.levelno <= logging.INFO else f"{record.levelname}: "
        line = f"{clock} {stage:9} {level}{record.getMessage()}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class TerminalHandler(logging.StreamHandler[TextIO]):
    """Log lines on a stream and, where that is a terminal, a live line that stays below them.

    One object writes both, so neither tears the other.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self.setFormatter(_LineFormatter())
        self._live = ""

    @property
    def rewrites(self) -> bool:
        """Whether a line can be rewritten in place here."""
        return self.stream.isatty() and os.environ.get("TERM") != "dumb"

    def show(self, text: str) -> None:
        """Put `text` in place of the live line, cut to the terminal's width; "" takes the line away."""
        with self._locked():
            self._live = text[: self._columns() - 1]
            self.stream.write(_ERASE_LINE + self._live)
            self.flush()

    def emit(self, record: logging.LogRecord) -> None:
        if not self._live:
            super().emit(record)
            return
        self.stream.write(_ERASE_LINE)
        super().emit(record)
        self.stream.write(self._live)
        self.flush()

    def _locked(self) -> threading.RLock:
        assert self.lock is not None
        return self.lock

    def _columns(self) -> int:
        try:
            return os.get_terminal_size(self.stream.fileno()).columns or 80
        except OSError:
            return 80


def log_to_stderr() -> None:
    """Send the four rooms' loggers to stderr, for a process that Prefect does not log for. May be called again."""
    # A job may be started with its stderr closed: then there is none.
    handler = logging.NullHandler() if sys.stderr is None else TerminalHandler(sys.stderr)
    for room in ROOMS:
        logger = logging.getLogger(room)
        logger.handlers.clear()
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


class DownloadProgress:
    """Progress of a download over all worker processes, from one thread of the process that hears them all.

    Where the logger's lines go to a terminal, one line is rewritten in place several times a second; elsewhere lines
    are logged, rarer the longer the run takes: 3 s apart at first, 60 s in the end. Use it as a context manager, so
    that the live line is taken away in the end.
    """

    def __init__(
        self,
        logger: logging.Logger,
        total: int,
        done: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`total` rows are to end, `done` of them did in shards that stood before this run."""
        self._logger = logger
        self._total = total
        self._clock = clock
        self._start = self._last = clock()
        self._finished = done
        self._counts: Counter[str] = Counter()
        self._running: dict[ShardRef, tuple[int, dict[str, int]]] = {}
        self._before = done
        self._ended_at: deque[tuple[float, int]] = deque([(self._start, 0)])
        self._terminal = _terminal_of(logger)

    def begin(self, ref: ShardRef, done: int) -> None:
        """Tell that `done` rows of a shard had ended in an earlier run: they are no part of the rate."""
        if ref not in self._running:  # Else its worker died, and another takes it over.
            self._running[ref] = (done, {})
            self._before += done

    def update(self, ref: ShardRef, done: int, counts: Mapping[str, int]) -> None:
        """Tell how many of a shard's rows have ended so far, and how: the shard's whole numbers, not the news."""
        self._running[ref] = (done, dict(counts))
        self._speak()

    def finish(self, ref: ShardRef, counts: Mapping[str, int]) -> None:
        """Tell how the rows of a shard ended, once it is committed; counts of rows, as in `update`."""
        self._running.pop(ref, None)
        self._finished += sum(counts.values())
        self._counts.update(counts)
        self._speak()

    def note(self, text: str) -> None:
        """Log a line at once: that the stage is paused, say, or that it goes on."""
        self._logger.info("download: %s", text)

    def close(self) -> None:
        if self._terminal is not None:
            self._terminal.show("")

    def __enter__(self) -> DownloadProgress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _speak(self) -> None:
        now = self._clock()
        every = _LIVE_EVERY_SECONDS if self._terminal is not None else _log_interval(now - self._start)
        if now - self._last < every:
            return
        self._last = now
        line = self._line(now)
        if self._terminal is not None:
            self._terminal.show(line)
        else:
            self._logger.info("%s", line)

    def _line(self, now: float) -> str:
        done = self._finished + sum(done for done, _ in self._running.values())
        counts = self._counts.copy()
        for _, shard_counts in self._running.values():
            counts.update(shard_counts)
        per_second = self._rate(now, done - self._before)
        left = f"{duration((self._total - done) / per_second)} left" if per_second > 0 else "time left unknown"
        # Rounded down: 100.0% is said when all is done.
        share = math.floor(1000 * done / self._total) / 10 if self._total else 100.0
        line = f"download: {done:,} of {self._total:,} rows ({share:.1f}%), {_rate_text(per_second)} a second, {left}"
        return f"{line}; {shares_text(counts)}" if counts.total() else line

    def _rate(self, now: float, ended: int) -> float:
        """rows a second over the last minute, from samples a second apart."""
        samples = self._ended_at
        while len(samples) > 1 and samples[1][0] <= now - _RATE_WINDOW_SECONDS:
            samples.popleft()
        then, ended_then = samples[0]
        if now - samples[-1][0] >= 1:
            samples.append((now, ended))
        # A shard that is begun again after its worker died takes its rows back.
        return max(0, ended - ended_then) / (now - then) if now > then else 0.0


def _terminal_of(logger: logging.Logger) -> TerminalHandler | None:
    """The handler that writes the logger's lines to a terminal, if there is one."""
    current: logging.Logger | None = logger
    while current is not None:
        for handler in current.handlers:
            if isinstance(handler, TerminalHandler) and handler.rewrites:
                return handler
        current = current.parent if current.propagate else None
    return None


def _log_interval(elapsed_seconds: float) -> float:
    """Seconds between two lines: a run of five hours writes some 350 of them."""
    if elapsed_seconds < 30:
        return EVERY_SECONDS
    if elapsed_seconds < 300:
        return 10.0
    return 30.0 if elapsed_seconds < 1800 else 60.0


def _rate_text(per_second: float) -> str:
    return f"{per_second:,.0f}" if per_second >= 10 else f"{per_second:.1f}"


def shares_text(counts: Mapping[str, int]) -> str:
    """`80.1% ok, 8.0% not_found, 11.9% other`: ok first, then the largest; what is beyond five is other."""
    total = sum(counts.values())
    ordered = sorted(counts.items(), key=lambda item: (item[0] != "ok", -item[1], item[0]))
    shown = [(name, number) for name, number in ordered[:_OUTCOMES_SHOWN] if number]
    other = sum(number for _, number in ordered[_OUTCOMES_SHOWN:])
    if other:
        shown.append(("other", other))
    return ", ".join(f"{number / total:.1%} {name}" for name, number in shown)


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
