"""What a run says while it works, on stderr: one line per shard, and inside long stages a line every few seconds.

On a terminal, download and extraction rewrite one live line instead, below the log lines.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from types import TracebackType

from flows.views.terminal import terminal_of
from model.progress import Progress
from tasks.records import ShardRef
from tasks.workers.events import Event, ShardEvent

EVERY_SECONDS = 3.0

_LIVE_EVERY_SECONDS = 0.2
_RATE_WINDOW_SECONDS = 60.0
_OUTCOMES_SHOWN = 5
_FEW = 10
"""Ends after which the time left is estimated; or a tenth of a short list, or a thousandth of a long one."""


Show = Callable[[float], None]
"""Takes how much is done, from 0 to 1, each time that it changes: see `flows.views.progress_bar`."""

Bar = Callable[[str], AbstractContextManager[Show]]
"""Makes a progress bar of a name: that of `flows.views.progress_bar`, or `no_bar`."""


@contextmanager
def no_bar(name: str) -> Iterator[Show]:
    """In the place of `flows.views.progress_bar.progress_bar` where Prefect is not there to show one."""
    yield lambda share: None


class ProgressLog:
    """Logs progress of one piece of work, at most a line every few seconds. Safe to call from several threads."""

    def __init__(
        self,
        logger: logging.Logger,
        name: str,
        unit: str,
        every_seconds: float = EVERY_SECONDS,
        clock: Callable[[], float] = time.monotonic,
        show: Show = lambda share: None,
    ) -> None:
        self._logger = logger
        self._show = show
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
        if progress.note:
            self._logger.info("%s: %s", self._name, progress.note)
        self.report(progress.done, progress.total, progress.per_second, progress.unit, progress.metrics)

    def report(
        self,
        done: int,
        total: int,
        per_second: float,
        unit: str | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        if total:
            self._show(done / total)
        with self._lock:
            now = self._clock()
            if now - self._last < self._every:
                return
            self._last = now
        remaining = duration((total - done) / per_second) if per_second > 0 else "unknown"
        numbers = "".join(f", {name} {value:.4g}" for name, value in (metrics or {}).items())
        self._logger.info(
            "%s: %s of %s %s, %s, %s left%s",
            self._name,
            f"{done:,}",
            f"{total:,}",
            unit or self._unit,
            _rate_text(per_second),
            remaining,
            numbers,
        )


class StageProgress:
    """Progress of a stage over all its worker processes, from one thread of the process that hears them all.

    Where the logger's lines go to a terminal, one line is rewritten in place several times a second; elsewhere lines
    are logged, rarer the longer the run takes: 3 s apart at first, 60 s in the end. Use it as a context manager, so
    that the live line is taken away in the end.
    """

    def __init__(
        self,
        logger: logging.Logger,
        stage: str,
        unit: str,
        total: int,
        clock: Callable[[], float] = time.monotonic,
        show: Show = lambda share: None,
    ) -> None:
        """`total` rows or images, whatever `unit` says, are to end."""
        self._logger = logger
        self._show = show
        self._stage, self._unit = stage, unit
        self._total = total
        self._clock = clock
        self._start = self._last = clock()
        self._finished = 0
        self._counts: Counter[str] = Counter()
        self._running: dict[ShardRef, tuple[int, dict[str, int]]] = {}
        self._before = 0
        self._ended_at: deque[tuple[float, int]] = deque([(self._start, 0)])
        self._terminal = terminal_of(logger)

    def hear(self, event: Event) -> None:
        """Take an event of the workers."""
        match event:
            case str():
                self.note(event)
            case ShardEvent(kind="begun"):
                self.begin(event.ref, event.ended.total())
            case ShardEvent(kind="going"):
                self.update(event.ref, event.ended.total(), event.ended)
            case ShardEvent(kind="ended"):
                self.finish(event.ref, event.ended)

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
        self._logger.info("%s: %s", self._stage, text)

    def close(self) -> None:
        if self._terminal is not None:
            self._terminal.show("")

    def __enter__(self) -> StageProgress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _speak(self) -> None:
        if self._total:
            self._show(self._done() / self._total)
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
        done = self._done()
        counts = self._counts.copy()
        for _, shard_counts in self._running.values():
            counts.update(shard_counts)
        ended = done - self._before
        per_second = self._rate(now, ended)
        # The first rows come late: connections are made, a model is loaded.
        knows = per_second > 0 and ended >= max(self._total / 1000, min(self._total / 10, _FEW))
        left = f"{duration((self._total - done) / per_second)} left" if knows else "time left unknown"
        # Rounded down: 100.0% is said when all is done.
        share = math.floor(1000 * done / self._total) / 10 if self._total else 100.0
        line = f"{self._stage}: {done:,} of {self._total:,} {self._unit} ({share:.1f}%)"
        line += f", {_rate_text(per_second)}, {left}"
        return f"{line}; {shares_text(counts)}" if counts.total() else line

    def _done(self) -> int:
        return self._finished + sum(done for done, _ in self._running.values())

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


def _log_interval(elapsed_seconds: float) -> float:
    """Seconds between two lines: a run of five hours writes some 350 of them."""
    if elapsed_seconds < 30:
        return EVERY_SECONDS
    if elapsed_seconds < 300:
        return 10.0
    return 30.0 if elapsed_seconds < 1800 else 60.0


def _rate_text(per_second: float) -> str:
    """`1,200 a second`, `4.2 a second`, `2.6 a minute`."""
    if per_second >= 10:
        return f"{per_second:,.0f} a second"
    slow = 0 < per_second < 0.1
    return f"{60 * per_second:.1f} a minute" if slow else f"{per_second:.1f} a second"


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
