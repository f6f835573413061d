"""The flow `download`: caption/URL rows to image shards and captions, and files of text to text shards."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from prefect import flow, task, unmapped
from prefect.cache_policies import NO_CACHE

from flows.operate.deployed import begin_run
from flows.params.changes import Changes, with_changes
from flows.params.shards import DownloadParams
from flows.results import StageSummary
from flows.steps.download import Steps, Work, log, run_download
from flows.steps.shard_tasks import run_shards
from flows.steps.shards import Collected
from flows.views.artifacts import stage_tables
from flows.views.progress_bar import progress_bar
from tasks.config import DatasetConfig, TextDatasetConfig
from tasks.download.captions import make_captions
from tasks.download.page import DownloadSummary, make_download_report
from tasks.download.pool import DownloadPool
from tasks.download.shard import Again
from tasks.download.text import TextResult, make_text
from tasks.records import ShardRef, ShardResult
from tasks.rows.manifest import make_manifest
from tasks.storage.root import Root


@task(name="text", task_run_name="{dataset.name}/{split}", cache_policy=NO_CACHE)
def text_task(root_uri: str, dataset: TextDatasetConfig, split: str, accept_changes: bool, again: bool) -> TextResult:
    return make_text(Root(root_uri), dataset, split, accept_changes, again)


@task(name="manifest", task_run_name="{dataset.name}/{split}", cache_policy=NO_CACHE)
def manifest_task(root_uri: str, dataset: DatasetConfig, split: str, accept_changes: bool) -> ShardResult:
    return make_manifest(Root(root_uri), dataset, split, accept_changes)


@task(name="download shard", task_run_name="{ref}", cache_policy=NO_CACHE)
def download_task(
    root_uri: str, dataset: DatasetConfig, ref: ShardRef, again: Again, pool: DownloadPool
) -> ShardResult:
    return pool.download(root_uri, dataset, ref, again).result()


@task(name="captions", task_run_name="{dataset.name}/{split}", cache_policy=NO_CACHE)
def captions_task(root_uri: str, dataset: DatasetConfig, split: str, missing: Collection[int]) -> ShardResult:
    return make_captions(Root(root_uri), dataset, split, missing)


@task(name="download report", task_run_name="report", cache_policy=NO_CACHE)
def report_task(root_uri: str, splits: Sequence[tuple[str, str]]) -> DownloadSummary:
    return make_download_report(Root(root_uri), splits)


@flow(name="download", flow_run_name="{params.work} {params.names} in {params.root_uri}")
def download(params: DownloadParams, changes: Changes | None = None) -> list[StageSummary]:
    """Fetch the images of the selected splits, or try their failures again."""
    begin_run()
    params = with_changes(params, changes)
    steps = Steps(text_task, manifest_task, _map_shards, captions_task, report_task, progress_bar, stage_tables)
    return run_download(params, steps)


def _map_shards(root_uri: str, work: Work, pool: DownloadPool, again: Again, max_workers: int) -> Collected:
    parameters = {
        "root_uri": unmapped(root_uri),
        "dataset": [dataset for dataset, _ in work],
        "again": unmapped(again),
        "pool": unmapped(pool),
    }
    return run_shards(download_task, [ref for _, ref in work], parameters, max_workers, log)
