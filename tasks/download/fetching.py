"""Fetch the URLs of one shard into its journal: threads request, decode and check."""

from __future__ import annotations

import hashlib
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

from tasks.config import DatasetConfig
from tasks.download.config import DownloadConfig
from tasks.download.journal import Journal
from tasks.download.local_pictures import PictureFolder
from tasks.download.outcomes import RowOutcome
from tasks.download.pictures.images import PictureError, accept_picture
from tasks.download.web.attempt import FetchError
from tasks.download.web.fetch import Answer, Fetcher
from tasks.download.web.network import Network, host_of
from tasks.download.web.schedule import Job, Schedule
from tasks.records import Outcome
from tasks.rows.manifest import ManifestRow

Progress = Callable[[Counter[str]], None]
"""Takes the number of rows per outcome that have ended so far."""

# Decoded pictures are the largest thing in memory: this many at once in a process, whatever the thread count.
_DECODING = threading.BoundedSemaphore(2)


class Source(Protocol):
    """Where images come from: the web, or a folder."""

    def attempt(self, url: str, seconds: float) -> Answer: ...

    def close(self) -> None: ...


class Session:
    """State that a process keeps between shards: open connections, resolved names, hosts that are down."""

    def __init__(
        self,
        dataset: DatasetConfig,
        split: str,
        config: DownloadConfig,
        notice: Callable[[str], None] = lambda text: None,
    ) -> None:
        images = dataset.rows_config(split).images
        self.config = config
        self.source: Source
        if images is None:
            fetcher = Fetcher(config)
            self.source = fetcher
            self.network = Network(config, fetcher.connects, notice, names_proxy=fetcher.names_proxy)
        else:
            self.source = PictureFolder(images, config.max_bytes)
            self.network = Network(config, lambda url: True, notice)
        self._threads: list[threading.Thread] = []

    def start_threads(self, number: int, work: Callable[[], None]) -> None:
        """Start threads that do `work`, once those of an interrupted shard have ended: hosts count requests."""
        self.join_threads()
        for thread in range(number):
            # Daemons: after an error nobody waits for servers, and the process may end while they are still read from.
            self._threads.append(threading.Thread(target=work, name=f"fetch-{thread}", daemon=True))
            self._threads[-1].start()

    def join_threads(self) -> None:
        """Wait until all threads that were started have ended."""
        for thread in self._threads:
            if thread.ident is not None:  # Else the system had no room for it.
                thread.join()
        self._threads.clear()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.source.close()


def fetch_rows(
    rows: Sequence[ManifestRow],
    session: Session,
    journal: Journal,
    num_hosts: int,
    must_be_there: bool,
    ended: Counter[str],
    on_progress: Progress | None,
) -> None:
    """Fetch every row's URL, and append its outcome to the journal.

    Args:
        rows: to fetch, in the order in which they are begun.
        session: where from, and with which limits.
        journal: takes outcomes and images.
        num_hosts: different hosts in the whole shard.
        must_be_there: False where the rows are known to be troubled; see `Schedule`.
        ended: rows per outcome that had ended before; those that end now are counted in.
        on_progress: called in this thread with `ended`, at first and after each row.

    Raises:
        StageError: the network does not come back. What was fetched is in the journal.
    """
    if on_progress is not None:
        on_progress(ended)
    if not rows:
        return
    config = session.config
    by_key = {row.key: row for row in rows}
    # What has ended, waiting for the disk. Errors come by the same way; whatever is raised there is raised here.
    results: queue.SimpleQueue[tuple[RowOutcome, bytes | None] | BaseException] = queue.SimpleQueue()
    room = threading.Semaphore(config.threads)  # for images in that queue
    schedule = Schedule(
        [Job(row.key, row.url) for row in rows],
        config,
        session.network,
        num_hosts,
        must_be_there,
        on_final=lambda job, error: results.put((_failure(job, by_key[job.key], error), None)),
        on_gone=results.put,
    )

    def work() -> None:
        job = None
        try:
            while (job := schedule.take()) is not None:
                answer = _attempt(job, session.source, config, schedule)
                if answer is not None:
                    result = _judge(job, by_key[job.key], answer, config)
                    if result[1] is not None:
                        room.acquire()
                    results.put(result)
        except BaseException as error:  # noqa: BLE001 (the thread that waits for results raises it)
            if job is not None:
                error.add_note(f"while fetching key {job.key}: {job.url}")
            results.put(error)

    num_threads = min(config.threads, len(rows))
    try:
        session.start_threads(num_threads, work)
        for _ in rows:
            result = results.get()
            if isinstance(result, BaseException):
                raise result
            outcome, jpeg = result
            journal.append(outcome, jpeg)
            if jpeg is not None:
                room.release()
            ended[outcome.outcome.value] += 1
            if on_progress is not None:
                on_progress(ended)
    finally:
        schedule.stop()
        room.release(num_threads)
    session.join_threads()


def count_hosts(rows: Sequence[ManifestRow]) -> int:
    return len({host_of(row.url) for row in rows if row.fetches})


def _attempt(job: Job, source: Source, config: DownloadConfig, schedule: Schedule) -> Answer | None:
    """Try a job's URL once and report it to the schedule; None where it failed."""
    begun = time.monotonic()
    try:
        answer = source.attempt(job.url, config.deadline_seconds - job.seconds)
    except FetchError as error:
        job.attempts += 1
        job.seconds += time.monotonic() - begun
        schedule.failed(job, error)
        return None
    job.attempts += 1
    job.seconds += time.monotonic() - begun
    schedule.answered(job)
    return answer


def _failure(job: Job, row: ManifestRow, error: FetchError) -> RowOutcome:
    return replace(_ended(job, row, error.outcome, error.status), detail=error.detail)


def _judge(job: Job, row: ManifestRow, answer: Answer, config: DownloadConfig) -> tuple[RowOutcome, bytes | None]:
    """The outcome of a body, and its JPEG where that is ok."""
    try:
        with _DECODING:
            jpeg, (width, height) = accept_picture(answer.body, config)
    except PictureError as error:
        return replace(_ended(job, row, error.outcome, answer.status), detail=error.detail), None
    digest = hashlib.sha256(answer.body).hexdigest()
    outcome = _ended(job, row, Outcome.OK, answer.status)
    return replace(outcome, width=width, height=height, bytes=len(jpeg), sha256=digest), jpeg


def _ended(job: Job, row: ManifestRow, outcome: Outcome, status: int | None) -> RowOutcome:
    return RowOutcome(
        key=row.key,
        url=row.url,
        image_key=row.image_key,
        outcome=outcome,
        attempts=job.attempts,
        tried_at=int(time.time()) if job.attempts else 0,
        seconds=round(job.seconds, 3),
        http_status=status,
    )
