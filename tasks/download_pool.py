"""Worker processes that download shards, and tell how far they are."""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from multiprocessing.queues import SimpleQueue
from types import TracebackType
from typing import Literal, Self

from tasks.config import DatasetConfig, DownloadConfig
from tasks.download import NOTHING_AGAIN, Again, download_shard, standing_shard
from tasks.fetching import Session
from tasks.network import NetworkGoneError
from tasks.records import ShardRef, ShardResult
from tasks.storage import Root
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
        on_event: takes the workers' events, from a thread of the pool's own.
    """

    def __init__(self, max_workers: int, config: DownloadConfig, on_event: Callable[[Event], None]) -> None:
        self._events: SimpleQueue[Event | None] = multiprocessing.get_context("spawn").SimpleQueue()
        self._config = config
        self._on_event = on_event
        self._listener = threading.Thread(target=self._listen, name="download-events", daemon=True)
        super().__init__(max_workers, _start, config, self._events)

    def __enter__(self) -> Self:
        self._listener.start()
        return super().__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, traceback)
        self._events.put(None)
        self._listener.join()

    def download(self, root_uri: str, dataset: DatasetConfig, ref: ShardRef, again: Again) -> Future[ShardResult]:
        """Download a shard in a worker; see `download_shard`. One that stands needs no worker.

        Raises:
            UserError: there is no manifest, or it has no such shard.
        """
        standing = standing_shard(Root(root_uri), dataset, ref, self._config) if again == NOTHING_AGAIN else None
        if standing is not None:
            ended = Counter(standing.receipt.counts)
            self._events.put(ShardEvent("begun", ref, ended))
            self._events.put(ShardEvent("ended", ref, ended))
            future: Future[ShardResult] = Future()
            future.set_result(standing)
            return future
        return self.submit(_work, root_uri, dataset, ref, again)

    def _listen(self) -> None:
        while (event := self._events.get()) is not None:
            self._on_event(event)


class _Worker:
    """What a worker process keeps."""

    def __init__(self, config: DownloadConfig, events: SimpleQueue[Event | None]) -> None:
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
                self._events.put(ShardEvent("going" if seen is not None else "begun", ref, ended))
                last = time.monotonic()
            seen = ended

        try:
            session = self._open(dataset, ref.split)
            result = download_shard(Root(root_uri), dataset, ref, session, again, report)
        except NetworkGoneError as error:
            self._gone = error
            raise
        self._events.put(ShardEvent("ended", ref, seen or Counter()))
        return result

    def _open(self, dataset: DatasetConfig, split: str) -> Session:
        """The session of the last shard, if it had the same source."""
        images = dataset.rows_config(split).images
        if self._session is not None:
            if self._session[0] == images:
                return self._session[1]
            self._session[1].source.close()
        session = Session(dataset, split, self._config, self._events.put)
        self._session = (images, session)
        return session


_worker: _Worker | None = None
"""Set in worker processes only."""


def _start(config: DownloadConfig, events: SimpleQueue[Event | None]) -> None:
    global _worker
    _worker = _Worker(config, events)


def _work(root_uri: str, dataset: DatasetConfig, ref: ShardRef, again: Again) -> ShardResult:
    assert _worker is not None
    return _worker.download(root_uri, dataset, ref, again)
