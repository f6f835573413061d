"""Downloading without Prefect, for a command whose runs nobody would see: it starts in a second."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, as_completed

from flows.download_steps import Steps, Work, log, run_download
from flows.params import DownloadParams
from flows.results import StageSummary
from flows.shards import collect_shards
from tasks.captions import make_captions
from tasks.config import DatasetConfig
from tasks.download import Again
from tasks.download_pool import DownloadPool
from tasks.download_report import DownloadSummary, make_download_report
from tasks.manifest import make_manifest
from tasks.records import ShardRef, ShardResult
from tasks.storage import Root


def download_directly(params: DownloadParams) -> list[StageSummary]:
    """What the flow `download` does, in this process and its workers."""
    return run_download(params, Steps(_manifest, _shards, _captions, _report))


def _manifest(root_uri: str, dataset: DatasetConfig, split: str, accept_changes: bool) -> ShardResult:
    return make_manifest(Root(root_uri), dataset, split, accept_changes)


def _captions(root_uri: str, dataset: DatasetConfig, split: str) -> ShardResult:
    return make_captions(Root(root_uri), dataset, split)


def _report(root_uri: str, splits: Sequence[tuple[str, str]]) -> DownloadSummary:
    return make_download_report(Root(root_uri), splits)


def _shards(root_uri: str, work: Work, pool: DownloadPool, again: Again, max_workers: int) -> list[ShardResult]:
    futures = {pool.download(root_uri, dataset, ref, again): ref for dataset, ref in work}

    def ended() -> Iterator[tuple[ShardRef, ShardResult | BaseException]]:
        future: Future[ShardResult]
        for future in as_completed(futures):
            yield futures[future], future.exception() or future.result()

    return collect_shards([ref for _, ref in work], ended(), log)
