"""The steps of an extraction, for Prefect tasks or this process alone."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from feature_extraction.config import ExtractorConfig
from flows.params.shards import ExtractParams
from flows.results import SHARD_FAILED, FailedShard, StageSummary, Tables
from flows.steps.shards import Collected, check_failed, is_tolerable, may_fail, summarize
from flows.views.progress import Bar, StageProgress
from tasks.config import DatasetConfig
from tasks.errors import UserError
from tasks.extract.feature_manifest import missing_shards
from tasks.extract.pool import ExtractorPool
from tasks.records import Receipt, ShardRef, Stage
from tasks.rows.manifest import list_shards
from tasks.storage.paths import captions_receipt_path, image_receipt_path
from tasks.storage.root import Root

log = logging.getLogger("flows.extract")

_NO_IMAGES = "it has no images: its download failed; run: unicoder-vl download"


@dataclass(frozen=True)
class Steps:
    """The steps as functions. `shards` takes many at once; `manifest` is told which shards to leave out."""

    shards: Callable[[str, Sequence[ShardRef], ExtractorConfig, ExtractorPool, int], Collected]
    manifest: Callable[[str, str, str, ExtractorConfig, Collection[int]], int]
    bar: Bar
    tables: Tables


def run_extract(params: ExtractParams, steps: Steps) -> list[StageSummary]:
    """Extract the missing regions of all selected images, and write complete splits' manifests.

    Shards that the download has gone on without count as failed here, too: `max_failed_share` is of what a split has
    to begin with.

    Raises:
        UserError: images are missing, the extractor cannot be loaded, or nothing is selected.
        StageError: more shards of a split failed than may.
    """
    root = Root(params.root_uri)
    splits = params.selected_splits()
    refs = [ref for dataset, split in splits for ref in list_shards(root, dataset, split) if params.selects(ref)]
    if not refs:
        raise UserError(f"shards={params.shards!r}, part={params.part!r} select no shard under {params.root_uri}")
    lost = _without_images(root, params)
    there = [ref for ref in refs if ref not in lost]
    with (
        steps.bar("extract") as show,
        StageProgress(log, "extract", "images", _images(root, there), show=show) as progress,
        ExtractorPool(params.max_workers, progress.hear, params.ray, params.extractor.device) as pool,
    ):
        collected = steps.shards(params.root_uri, there, params.extractor, pool, params.max_workers)
    failed = [FailedShard(ref=ref, reason=_NO_IMAGES) for ref in refs if ref in lost] + list(collected.failed)
    collected = Collected(collected.results, failed)
    summaries = [_finish_split(root, dataset, split, collected, params, steps) for dataset, split in splits]
    steps.tables(summaries)
    check_failed(summaries, params.max_failed_share, log)
    return summaries


def _without_images(root: Root, params: ExtractParams) -> set[ShardRef]:
    """The selected shards whose download failed, which the captions leave out.

    Raises:
        UserError: they are more than may fail.
    """
    lost: set[ShardRef] = set()
    for dataset, split in params.selected_splits():
        captions = root.read_model(captions_receipt_path(dataset.name, split), Receipt)
        refs = [ref for ref in list_shards(root, dataset, split) if params.selects(ref)]
        missing = [ref for ref in refs if captions is not None and ref.shard in captions.missing]
        if not may_fail(len(missing), len(refs), params.max_failed_share):
            raise UserError(
                f"{len(missing)} of {len(refs)} image shards of {dataset.name}/{split} are missing, because their "
                "download failed; run: unicoder-vl download, or go on without them by max_failed_share"
            )
        lost.update(missing)
    return lost


def _finish_split(
    root: Root, dataset: DatasetConfig, split: str, collected: Collected, params: ExtractParams, steps: Steps
) -> StageSummary:
    """Write the manifest if all shards but the permitted failures are there; return the summary."""
    name = f"{dataset.name}/{split}"
    summary = summarize(Stage.EXTRACT, name, collected.of(dataset.name, split))
    if summary.failed:
        images = _images(root, [one.ref for one in summary.failed])
        summary = summary.model_copy(update={"counts": {**summary.counts, SHARD_FAILED: images}})
    if not is_tolerable(summary, params.max_failed_share):
        return summary
    if not params.selects_all and not root.exists(captions_receipt_path(dataset.name, split)):
        log.info("%s: its manifest waits for the rest of its images", name)  # Some shards were tried before the others.
        return summary
    lost = sorted(one.ref.shard for one in summary.failed)
    # Other machines may be at the rest: whichever ends last finds nothing missing.
    absent = [] if params.selects_all else missing_shards(root, dataset.name, split, params.extractor)
    waiting = [ref for ref in absent if ref.shard not in lost]
    if waiting:
        log.info("%s: %d shards have no regions yet; its manifest waits", name, len(waiting))
    else:
        steps.manifest(params.root_uri, dataset.name, split, params.extractor, lost)
    return summary


def _images(root: Root, refs: Sequence[ShardRef]) -> int:
    """Number of downloaded images in these shards."""
    paths = [image_receipt_path(ref.dataset, ref.split, ref.shard) for ref in refs]
    receipts = [root.read_model(path, Receipt) for path in paths]
    return sum(receipt.counts.get("ok", 0) for receipt in receipts if receipt is not None)
