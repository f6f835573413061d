"""Image shards to feature shards."""

from __future__ import annotations

import logging

from prefect import flow, task, unmapped
from prefect.cache_policies import NO_CACHE

from feature_extraction.config import ExtractorConfig
from flows.params import ExtractParams
from flows.results import StageSummary
from flows.shard_tasks import run_shards
from flows.shards import summarize
from tasks.extract import ExtractorPool, write_feature_manifest
from tasks.manifest import list_shards
from tasks.records import ShardRef, ShardResult, Stage
from tasks.storage import Root

log = logging.getLogger(__name__)


@task(name="extract shard", task_run_name="{ref}", cache_policy=NO_CACHE)
def extract_task(root_uri: str, ref: ShardRef, config: ExtractorConfig, pool: ExtractorPool) -> ShardResult:
    return pool.extract(root_uri, ref, config).result()


@task(name="feature manifest", task_run_name="{dataset}/{split}", cache_policy=NO_CACHE)
def feature_manifest_task(root_uri: str, dataset: str, split: str, config: ExtractorConfig) -> int:
    """Number of images with regions in the split."""
    return sum(shard.samples for shard in write_feature_manifest(Root(root_uri), dataset, split, config).shards)


@flow(name="extract", flow_run_name="extract in {params.root_uri}")
def extract(params: ExtractParams) -> list[StageSummary]:
    """Detect the regions of every image shard under the root."""
    root = Root(params.root_uri)
    splits = [(dataset, split) for dataset in params.datasets for split in dataset.splits]
    refs = [ref for dataset, split in splits for ref in list_shards(root, dataset, split)]
    with ExtractorPool(params.max_workers) as pool:
        results = run_shards(
            extract_task,
            refs,
            {
                "root_uri": unmapped(params.root_uri),
                "config": unmapped(params.extractor),
                "pool": unmapped(pool),
            },
            params.max_workers,
            log,
        )
    summaries = []
    for dataset, split in splits:
        feature_manifest_task(params.root_uri, dataset.name, split, params.extractor)
        of_split = [
            result for result in results if (result.receipt.dataset, result.receipt.split) == (dataset.name, split)
        ]
        summaries.append(summarize(Stage.EXTRACT, f"{dataset.name}/{split}", of_split))
    return summaries
