"""Workers that download shards and report their progress."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future

from tasks.config import DatasetConfig
from tasks.download.config import DownloadConfig
from tasks.download.fetching import Session
from tasks.download.shard import NOTHING_AGAIN, Again, download_shard, finished_shard
from tasks.download.web.network import NetworkGoneError
from tasks.records import ShardRef, ShardResult
from tasks.storage.root import Root
from tasks.workers.events import Event, ShardReporter, Tell, tell_warnings
from tasks.workers.machines import RayConfig
from tasks.workers.memory import reuse_freed_memory
from tasks.workers.processes import Resources
from tasks.workers.reporting_pool import ReportingPool


class DownloadPool(ReportingPool):
    """Workers that download shards: `with DownloadPool(2, config, on_event) as pool: ...`.

    A worker keeps connections, names and what it knows of hosts from one shard to the next. Limits per host are its
    own: with N workers, a host gets N times as many requests.

    Args:
        max_workers: processes.
        config: limits, and what an image must be.
        on_event: takes the workers' events, from a thread of the pool's own. What it raises first is raised where the
            `with` block ends; the work goes on meanwhile.
        ray: the cluster whose workers these are; None: processes of this machine.

    Raises:
        UserError: as `ReportingPool`.
    """

    def __init__(
        self,
        max_workers: int,
        config: DownloadConfig,
        on_event: Callable[[Event], None],
        ray: RayConfig | None = None,
    ) -> None:
        self._config = config
        super().__init__(max_workers, on_event, _start, config, ray=ray)

    def download(self, root_uri: str, dataset: DatasetConfig, ref: ShardRef, again: Again) -> Future[ShardResult]:
        """Download a shard in a worker; see `download_shard`. A finished shard needs no worker.

        Raises:
            UserError: there is no manifest, or it has no such shard; or the workers of a cluster cannot be had.
        """
        finished = finished_shard(Root(root_uri), dataset, ref, self._config) if again == NOTHING_AGAIN else None
        if finished is not None:
            self.tell_finished(ref, Counter(finished.receipt.counts))
            future: Future[ShardResult] = Future()
            future.set_result(finished)
            return future
        self.check_shared("the root", root_uri)
        images = dataset.rows_config(ref.split).images
        if images is not None:
            self.check_shared(f"the folder of {dataset.name}/{ref.split}'s pictures", images)
        return self.submit(_work, root_uri, dataset, ref, again)


class _Worker:
    """State of a worker process."""

    def __init__(self, tell: Tell, config: DownloadConfig) -> None:
        self._tell = tell
        self._config = config
        self._session: tuple[str | None, Session] | None = None
        self._gone: NetworkGoneError | None = None

    def download(self, root_uri: str, dataset: DatasetConfig, ref: ShardRef, again: Again) -> ShardResult:
        if self._gone is not None:
            raise self._gone  # Waiting shards must not each wait as long again.
        reporter = ShardReporter(self._tell, ref)
        try:
            session = self._open(dataset, ref.split)
            result = download_shard(Root(root_uri), dataset, ref, session, again, reporter)
        except NetworkGoneError as error:
            self._gone = error
            raise
        reporter.end()
        return result

    def _open(self, dataset: DatasetConfig, split: str) -> Session:
        """Reuse the session of the last shard if it had the same source; else open one."""
        images = dataset.rows_config(split).images
        if self._session is not None:
            if self._session[0] == images:
                return self._session[1]
            self._session[1].source.close()
        session = Session(dataset, split, self._config, self._tell)
        self._session = (images, session)
        return session


_worker: _Worker | None = None
"""Set in worker processes only."""


def _start(tell: Tell, resources: Resources, config: DownloadConfig) -> None:
    global _worker
    reuse_freed_memory()
    tell_warnings(tell)
    _worker = _Worker(tell, config)


def _work(root_uri: str, dataset: DatasetConfig, ref: ShardRef, again: Again) -> ShardResult:
    assert _worker is not None
    return _worker.download(root_uri, dataset, ref, again)
