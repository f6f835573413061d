"""The stages without Prefect, for a command whose runs nobody would see: it starts in a second."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from typing import Any

from feature_extraction.config import ExtractorConfig
from flows.params.evaluation import EvaluateParams
from flows.params.experiment import RebuildParams
from flows.params.shards import DownloadParams, ExtractParams, Params
from flows.params.training import FinetuneParams, PretrainParams
from flows.params.variants import SweepParams
from flows.results import EvaluationResult, RebuildResult, RetrievalResult, StageSummary, no_tables
from flows.steps import download as download_steps
from flows.steps import extract as extract_steps
from flows.steps import rebuild as rebuild_steps
from flows.steps.data_stages import DataStages, make_data
from flows.steps.download import Work, run_download
from flows.steps.evaluate import point_of, run_any_evaluate, run_evaluate
from flows.steps.experiments import Submit
from flows.steps.extract import run_extract
from flows.steps.rebuild import run_rebuild, write_rebuild_report
from flows.steps.shards import Collected, collect_shards
from flows.steps.sweep import compare, run_variants
from flows.steps.training import run_finetune, run_pretrain
from flows.views.progress import no_bar
from tasks.config import DatasetConfig, TextDatasetConfig
from tasks.download.captions import make_captions
from tasks.download.page import DownloadSummary, make_download_report
from tasks.download.pool import DownloadPool
from tasks.download.shard import Again
from tasks.download.text import TextResult, make_text
from tasks.evaluation.trend import check_fall
from tasks.extract.feature_manifest import write_feature_manifest
from tasks.extract.pool import ExtractorPool
from tasks.records import CheckpointRef, ShardRef, ShardResult, Stage
from tasks.reports.measure_table import Table
from tasks.reports.sweeps import Sweep
from tasks.rows.manifest import make_manifest
from tasks.storage.root import Root
from tasks.workers.launch import stopping_children


def download_directly(params: DownloadParams) -> list[StageSummary]:
    """Run the flow `download` without Prefect, in this process and its workers."""
    return run_download(params, DOWNLOAD)


def _text(root_uri: str, dataset: TextDatasetConfig, split: str, accept_changes: bool, again: bool) -> TextResult:
    return make_text(Root(root_uri), dataset, split, accept_changes, again)


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
    """Run the flow `extract` without Prefect, in this process and its workers."""
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


def pretrain_directly(params: PretrainParams) -> CheckpointRef:
    """Run the flow `pretrain` without Prefect, in this process and a child."""
    with stopping_children():
        return run_pretrain(params, no_bar)


def finetune_directly(params: FinetuneParams) -> CheckpointRef:
    """Run the flow `finetune` without Prefect, in this process and a child."""
    with stopping_children():
        return run_finetune(params, no_bar)


def evaluate_directly(params: EvaluateParams) -> EvaluationResult:
    """Run the flow `evaluate` without Prefect, in this process and a child."""
    with stopping_children():
        result = run_any_evaluate(params, no_bar)
    if params.max_drop is not None:
        check_fall(point_of(Root(params.root_uri), result.row), params.max_drop)
    return result


def rebuild_directly(params: RebuildParams) -> RebuildResult:
    """Run the flow `rebuild` without Prefect, for checked parameters whose rows are served."""
    return run_rebuild(params, REBUILD)


def sweep_directly(params: SweepParams) -> Sweep:
    """Run the flow `sweep` without Prefect, for checked parameters whose rows are served."""
    make_data(params.base, _DATA)
    return run_variants(params, trainings_directly, compare)


@contextmanager
def trainings_directly(at_once: int) -> Iterator[Submit]:
    """See `flows.steps.experiments.Trainings`."""
    pool = ThreadPoolExecutor(at_once)

    def submit(stage: Stage, params: Params, wait_for: Sequence[Any]) -> Future[Any]:
        return pool.submit(_run_after, wait_for, stage, params)

    try:
        with stopping_children():
            yield submit
    finally:  # The executor waits for its threads, and they for their children.
        pool.shutdown(cancel_futures=True)


def _run_after(wait_for: Sequence[Any], stage: Stage, params: Params) -> CheckpointRef | RetrievalResult:
    for before in wait_for:
        before.result()  # Raises the error that it failed with.
    match stage, params:
        case Stage.PRETRAIN, PretrainParams():
            return run_pretrain(params, no_bar)
        case Stage.FINETUNE, FinetuneParams():
            return run_finetune(params, no_bar)
        case Stage.EVALUATE, EvaluateParams():
            return run_evaluate(params, no_bar)
    raise AssertionError((stage, params))


def _show_nothing(params: RebuildParams, result: RebuildResult, tables: Sequence[Table]) -> None:
    """Show nothing: there is no Prefect page."""


DOWNLOAD = download_steps.Steps(_text, _manifest, _download_shards, _captions, _report, no_bar, no_tables)
EXTRACT = extract_steps.Steps(_extract_shards, _feature_manifest, no_bar, no_tables)
_DATA = DataStages(download_directly, extract_directly)
REBUILD = rebuild_steps.Steps(_DATA, trainings_directly, write_rebuild_report, _show_nothing)
