"""The flow `extract`: image shards to feature shards."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from prefect import flow, task, unmapped
from prefect.cache_policies import NO_CACHE

from feature_extraction.config import ExtractorConfig
from flows.operate.deployed import begin_run
from flows.params.changes import Changes, with_changes
from flows.params.shards import ExtractParams
from flows.results import StageSummary
from flows.steps.extract import Steps, log, run_extract
from flows.steps.shard_tasks import run_shards
from flows.steps.shards import Collected
from flows.views.artifacts import stage_tables
from flows.views.progress_bar import progress_bar
from tasks.extract.feature_manifest import write_feature_manifest
from tasks.extract.pool import ExtractorPool
from tasks.records import ShardRef, ShardResult
from tasks.storage.root import Root


@task(name="extract shard", task_run_name="{ref}", cache_policy=NO_CACHE)
def extract_task(root_uri: str, ref: ShardRef, config: ExtractorConfig, pool: ExtractorPool) -> ShardResult:
    return pool.extract(root_uri, ref, config).result()


@task(name="feature manifest", task_run_name="{dataset}/{split}", cache_policy=NO_CACHE)
def feature_manifest_task(
    root_uri: str, dataset: str, split: str, config: ExtractorConfig, missing: Collection[int]
) -> int:
    """Publish a split's feature manifest; return its number of images with regions."""
    manifest = write_feature_manifest(Root(root_uri), dataset, split, config, missing)
    return sum(shard.samples for shard in manifest.shards)


@flow(name="extract", flow_run_name="extract {params.names} in {params.root_uri}")
def extract(params: ExtractParams, changes: Changes | None = None) -> list[StageSummary]:
    """Detect the regions of every selected image under the root."""
    begin_run()
    params = with_changes(params, changes)
    return run_extract(params, Steps(_map_shards, feature_manifest_task, progress_bar, stage_tables))


def _map_shards(
    root_uri: str, refs: Sequence[ShardRef], config: ExtractorConfig, pool: ExtractorPool, max_workers: int
) -> Collected:
    parameters = {"root_uri": unmapped(root_uri), "config": unmapped(config), "pool": unmapped(pool)}
    return run_shards(extract_task, refs, parameters, max_workers, log)
