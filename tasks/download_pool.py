"""Worker processes that download shards, and tell how far they are."""

from __future__ import annotations

import multiprocessing
import pickle
import select
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Literal, Self

from tasks.config import DatasetConfig, DownloadConfig
from tasks.download import NOTHING_AGAIN, Again, download_shard, standing_shard
from tasks.fetching import Session
from tasks.memory import reuse_freed_memory
from tasks.records import ShardRef, ShardResult
from tasks.storage import Root
from tasks.web.network import NetworkGoneError
from tasks.workers import WorkerPool


@dataclass(frozen=True)
class ShardEvent:
    """How far a shard is: its rows that have ended so far, per outcome."""

    kind: Literal["begun", "going", "ended"]
    ref: ShardRef
    ended: Counter[str]


Event = ShardEvent | str
"""Text is something that the user should know."""

_REPORT_SECONDS = 0.2


class DownloadPool(WorkerPool):
    """Worker processes that download shards: `with DownloadPool(2, config, on_event) as pool: ...`.

    A worker keeps connections, names and what it knows of hosts from one shard to the next.

    Args:
        max_workers: processes.
        config: limits, and what an image must be.
        on_event: takes the workers' events, from a thread of the pool's own. What it raises first is raised where the
            `with` block ends; the work goes on meanwhile.
    """

    def __init__(self, max_workers: int, config: DownloadConfig, on_event: Callable[[Event], None]) -> None:
        self._events, self._tell = multiprocessing.get_context("spawn").Pipe(duplex=False)
        self._trouble: Exception | None = None
        self._config = config
        self._on_event = on_event
        self._listener = threading.Thread(target=self._listen, name="download-events", daemon=True)
        super().__init__(max_workers, _start, config, self._tell)

    def __enter__(self) -> Self:
        self._listener.start()
        return super().__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, traceback)
        self._tell.close()  # Nobody else has it open: the workers have ended.
        self._listener.join()
        self._events.close()
        if self._trouble is not None and error is None:
            raise self._trouble

    def download(self, root_uri: str, dataset: DatasetConfig, ref: ShardRef, again: Again) -> Future[ShardResult]:
        """Download a shard in a worker; see `download_shard`. One that stands needs no worker.

        Raises:
            UserError: there is no manifest, or it has no such shard.
        """
        standing = standing_shard(Root(root_uri), dataset, ref, self._config) if again == NOTHING_AGAIN else None
        if standing is not None:
            ended = Counter(standing.receipt.counts)
            _send(self._tell, ShardEvent("begun", ref, ended))
            _send(self._tell, ShardEvent("ended", ref, ended))
            future: Future[ShardResult] = Future()
            future.set_result(standing)
            return future
        return self.submit(_work, root_uri, dataset, ref, again)

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


def _send(pipe: Connection, event: Event) -> None:
    """Send an event whole, whoever else sends at the same time.

    The kernel keeps messages of this size together. A lock, as a queue has, would stay locked for ever when its holder
    is killed.
    """
    message = pickle.dumps(event)
    assert len(message) < select.PIPE_BUF - 4, "an event is longer than a pipe takes at once"
    pipe.send_bytes(message)


class _Worker:
    """What a worker process keeps."""

    def __init__(self, config: DownloadConfig, events: Connection) -> None:
        self._config = config
        self._events = events
        self._session: tuple[str | None, Session] | None = None
        self._gone: NetworkGoneError | None = None

    def download(self, root_uri: str, dataset: DatasetConfig, ref: ShardRef, again: Again) -> ShardResult:
        if self._gone is not None:
            raise self._gone  # Shards that wait shall not each wait as long again.
        seen: Counter[str] | None = None
        last = 0.0

        def report(ended: Counter[str]) -> None:
            nonlocal seen, last
            if seen is None or time.monotonic() - last >= _REPORT_SECONDS:
                self._say(ShardEvent("going" if seen is not None else "begun", ref, ended))
                last = time.monotonic()
            seen = ended

        try:
            session = self._open(dataset, ref.split)
            result = download_shard(Root(root_uri), dataset, ref, session, again, report)
        except NetworkGoneError as error:
            self._gone = error
            raise
        self._say(ShardEvent("ended", ref, seen or Counter()))
        return result

    def _say(self, event: Event) -> None:
        _send(self._events, event)

    def _open(self, dataset: DatasetConfig, split: str) -> Session:
        """The session of the last shard, if it had the same source."""
        images = dataset.rows_config(split).images
        if self._session is not None:
            if self._session[0] == images:
                return self._session[1]
            self._session[1].source.close()
        session = Session(dataset, split, self._config, self._say)
        self._session = (images, session)
        return session


_worker: _Worker | None = None
"""Set in worker processes only."""


def _start(config: DownloadConfig, events: Connection) -> None:
    global _worker
    reuse_freed_memory()
    _worker = _Worker(config, events)


def _work(root_uri: str, dataset: DatasetConfig, ref: ShardRef, again: Again) -> ShardResult:
    assert _worker is not None
    return _worker.download(root_uri, dataset, ref, again)
