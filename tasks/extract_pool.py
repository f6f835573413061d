"""Worker processes that extract shards, each with its own detector and, where there are any, its own GPU."""

from __future__ import annotations

import multiprocessing
import os
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.sharedctypes import Synchronized
from typing import TYPE_CHECKING

from feature_extraction.config import ExtractorConfig
from tasks.extract import extract_shard, load_on_device, standing_shard
from tasks.extractor import extractor_fingerprint
from tasks.records import ShardRef, ShardResult
from tasks.shard_events import Event, ReportingPool, ShardReporter, send_warnings
from tasks.storage import Root

if TYPE_CHECKING:
    from feature_extraction.detector import Detector

_MAX_DECODERS = 8
"""Threads that decode and resize pictures, per worker: some 50 to 100 pictures a second each."""


class ExtractorPool(ReportingPool):
    """Worker processes that extract shards: `with ExtractorPool(2, on_event) as pool: ...`.

    A worker takes the GPU of its number (modulo their count) and its share of the cores. Whichever is free takes the
    next shard.

    Args:
        max_workers: processes; one for each GPU is what a machine with GPUs wants.
        on_event: takes the workers' events, from a thread of the pool's own; see `ReportingPool`.
    """

    def __init__(self, max_workers: int, on_event: Callable[[Event], None]) -> None:
        counter = multiprocessing.get_context("spawn").Value("i", 0)
        super().__init__(max_workers, on_event, _start, counter, max_workers)

    def extract(self, root_uri: str, ref: ShardRef, config: ExtractorConfig) -> Future[ShardResult]:
        """Extract a shard in a worker; see `extract_shard`. One that stands already needs no worker.

        Raises:
            UserError: as `standing_shard`.
        """
        standing = standing_shard(Root(root_uri), ref, config)
        if standing is not None:
            self.tell_standing(ref, images_of(standing))
            future: Future[ShardResult] = Future()
            future.set_result(standing)
            return future
        return self.submit(_work, root_uri, ref, config)


def images_of(result: ShardResult) -> Counter[str]:
    """How the images of a shard ended: ok or failed."""
    return Counter({name: result.receipt.counts.get(name, 0) for name in ("ok", "failed")})


@dataclass
class _Worker:
    """What a worker process is and keeps."""

    pipe: Connection
    number: int
    siblings: int
    detector: tuple[ExtractorConfig, str, Detector] | None = None

    @property
    def num_cores(self) -> int:
        """Its share of the cores that this process may use: fewer than the machine's in a container."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return max(1, cores // self.siblings)

    def extract(self, root: Root, ref: ShardRef, config: ExtractorConfig) -> ShardResult:
        reporter = ShardReporter(self.pipe, ref)
        reporter(Counter())
        num_threads = min(self.num_cores, _MAX_DECODERS)
        result = extract_shard(root, ref, config, load=self._load, num_threads=num_threads, on_progress=reporter)
        reporter.end()
        return result

    def _load(self, config: ExtractorConfig) -> Detector:
        """The detector of the last shard, unless its config or its files have changed."""
        extractor, _ = extractor_fingerprint(config)
        if self.detector is None or self.detector[:2] != (config, extractor):
            self.detector = None  # Two would not fit the GPU.
            self.detector = (config, extractor, load_on_device(config, self.number, self.siblings, self.num_cores))
        return self.detector[2]


_worker: _Worker | None = None
"""Set in worker processes only."""


def _start(pipe: Connection, counter: Synchronized[int], siblings: int) -> None:
    global _worker
    send_warnings(pipe)
    with counter.get_lock():
        _worker = _Worker(pipe, counter.value, siblings)
        counter.value += 1


def _work(root_uri: str, ref: ShardRef, config: ExtractorConfig) -> ShardResult:
    assert _worker is not None
    return _worker.extract(Root(root_uri), ref, config)
