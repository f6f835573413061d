"""Caption/URL rows to image shards and captions."""

from __future__ import annotations

import logging

from prefect import flow, task, unmapped
from prefect.cache_policies import NO_CACHE

from flows.params import DownloadParams
from flows.progress import ProgressLog, counts_text
from flows.results import StageSummary
from flows.shards import run_shards, summarize
from tasks.captions import make_captions
from tasks.config import DatasetConfig, DownloadConfig
from tasks.download import download_shard
from tasks.errors import StageError
from tasks.manifest import list_shards, make_manifest
from tasks.records import Outcome, ShardRef, ShardResult, Stage
from tasks.storage import Root

log = logging.getLogger(__name__)


@task(name="manifest", task_run_name="{dataset.name}/{split}", cache_policy=NO_CACHE)
def manifest_task(root_uri: str, dataset: DatasetConfig, split: str) -> ShardResult:
    return make_manifest(Root(root_uri), dataset, split)


@task(name="download shard", task_run_name="{ref}", cache_policy=NO_CACHE)
def download_task(root_uri: str, dataset: DatasetConfig, ref: ShardRef, config: DownloadConfig) -> ShardResult:
    progress = ProgressLog(log, f"{ref.dataset}/{ref.split} {ref.shard:05d}", "rows")
    return download_shard(Root(root_uri), dataset, ref, config, progress)


@task(name="captions", task_run_name="{dataset.name}/{split}", cache_policy=NO_CACHE)
def captions_task(root_uri: str, dataset: DatasetConfig, split: str) -> ShardResult:
    return make_captions(Root(root_uri), dataset, split)


@flow(name="download", flow_run_name="download to {params.root_uri}")
def download(params: DownloadParams) -> list[StageSummary]:
    """Fetch the images of every split of every dataset."""
    root = Root(params.root_uri)
    splits = [(dataset, split) for dataset in params.datasets for split in dataset.splits]
    for dataset, split in splits:
        manifest = manifest_task(params.root_uri, dataset, split)
        log.info("%s/%s: manifest of %s", dataset.name, split, counts_text(manifest.receipt.counts))
    work = [(dataset, ref) for dataset, split in splits for ref in list_shards(root, dataset, split)]
    results = run_shards(
        download_task,
        [ref for _, ref in work],
        {
            "root_uri": unmapped(params.root_uri),
            "dataset": [dataset for dataset, _ in work],
            "config": unmapped(params.download),
        },
        params.max_workers,
        log,
    )
    summaries = []
    for dataset, split in splits:
        captions = captions_task(params.root_uri, dataset, split)
        check_success_rate(f"{dataset.name}/{split}", captions.receipt.counts, params.download.min_success_rate)
        of_split = [
            result for result in results if (result.receipt.dataset, result.receipt.split) == (dataset.name, split)
        ]
        summaries.append(summarize(Stage.DOWNLOAD, f"{dataset.name}/{split}", of_split, captions.receipt.counts))
    return summaries


def check_success_rate(name: str, counts: dict[str, int], min_success_rate: float) -> None:
    """Raise StageError where fewer rows than asked for ended with an image."""
    rows, ok = sum(counts.values()), counts.get(Outcome.OK, 0)
    if ok < min_success_rate * rows:
        raise StageError(
            f"{name}: {ok:,} of {rows:,} rows ended ok, below download.min_success_rate={min_success_rate}: "
            f"{counts_text(counts)}"
        )
