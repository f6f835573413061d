"""Download and extraction without Prefect, for a command whose runs nobody would see: it starts in a second."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, as_completed

from feature_extraction.config import ExtractorConfig
from flows import download_steps, extract_steps
from flows.download_steps import Work, run_download
from flows.extract_steps import run_extract
from flows.progress import no_bar
from flows.results import StageSummary, no_tables
from flows.shard_params import DownloadParams, ExtractParams
from flows.shards import Collected, collect_shards
from tasks.captions import make_captions
from tasks.config import DatasetConfig
from tasks.download import Again
from tasks.download_pool import DownloadPool
from tasks.download_report import DownloadSummary, make_download_report
from tasks.extract_pool import ExtractorPool
from tasks.feature_manifest import write_feature_manifest
from tasks.manifest import make_manifest
from tasks.records import ShardRef, ShardResult
from tasks.storage import Root


def download_directly(params: DownloadParams) -> list[StageSummary]:
    """What the flow `download` does, in this process and its workers."""
    return run_download(params, DOWNLOAD)


def _manifest(root_uri: str, dataset: DatasetConfig, split: str, accept_changes: bool) -> ShardResult:
    return make_manifest(Root(root_uri), dataset, split, accept_changes)


def _captions(root_uri: str, dataset: DatasetConfig, split: str, missing: Collection[int]) -> ShardResult:
    return make_captions(Root(root_uri), dataset, split, missing)


def _report(root_uri: str, splits: Sequence[tuple[str, str]]) -> DownloadSummary:
    return make_download_report(Root(root_uri), splits)


def _download_shards(root_uri: str, work: Work, pool: DownloadPool, again: Again, max_workers: int) -> Collected:
    futures = {pool.download(root_uri, dataset, ref, again): ref for dataset, ref in work}
    return collect_shards([ref for _, ref in work], _as_they_end(futures), download_steps.log)


def extract_directly(params: ExtractParams) -> list[StageSummary]:
    """What the flow `extract` does, in this process and its workers."""
    return run_extract(params, EXTRACT)


def _extract_shards(
    root_uri: str, refs: Sequence[ShardRef], config: ExtractorConfig, pool: ExtractorPool, max_workers: int
) -> Collected:
    futures = {pool.extract(root_uri, ref, config): ref for ref in refs}
    return collect_shards(refs, _as_they_end(futures), extract_steps.log)


def _feature_manifest(
    root_uri: str, dataset: str, split: str, config: ExtractorConfig, missing: Collection[int]
) -> int:
    manifest = write_feature_manifest(Root(root_uri), dataset, split, config, missing)
    return sum(shard.samples for shard in manifest.shards)


def _as_they_end(
    futures: Mapping[Future[ShardResult], ShardRef],
) -> Iterator[tuple[ShardRef, ShardResult | BaseException]]:
    for future in as_completed(futures):
        yield futures[future], future.exception() or future.result()


DOWNLOAD = download_steps.Steps(_manifest, _download_shards, _captions, _report, no_bar, no_tables)
EXTRACT = extract_steps.Steps(_extract_shards, _feature_manifest, no_bar, no_tables)
