"""What extraction is, step by step, whoever runs the steps: Prefect tasks, or nothing but this process."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from feature_extraction.config import ExtractorConfig
from flows.progress import Show, StageProgress
from flows.results import StageSummary
from flows.shard_params import ExtractParams
from flows.shards import summarize
from tasks.errors import UserError
from tasks.extract_pool import ExtractorPool
from tasks.feature_manifest import missing_shards
from tasks.manifest import list_shards
from tasks.records import Receipt, ShardRef, ShardResult, Stage
from tasks.storage import Root, image_receipt_path

log = logging.getLogger("flows.extract")


@dataclass(frozen=True)
class Steps:
    """The steps, as functions. `shards` works on many at once and returns their results in order."""

    shards: Callable[[str, Sequence[ShardRef], ExtractorConfig, ExtractorPool, int], list[ShardResult]]
    manifest: Callable[[str, str, str, ExtractorConfig], int]
    bar: Callable[[str], AbstractContextManager[Show]]


def run_extract(params: ExtractParams, steps: Steps) -> list[StageSummary]:
    """Regions of all images that are selected and have none yet; and the manifest of each split that has all.

    Raises:
        UserError: images are missing, the extractor cannot be loaded, or nothing is selected.
        StageError: shards failed.
    """
    root = Root(params.root_uri)
    splits = params.selected_splits()
    refs = [ref for dataset, split in splits for ref in list_shards(root, dataset, split) if params.selects(ref)]
    if not refs:
        raise UserError(f"shards={params.shards!r}, part={params.part!r} select no shard under {params.root_uri}")
    with (
        steps.bar("extract") as show,
        StageProgress(log, "extract", "images", _images(root, refs), show=show) as progress,
        ExtractorPool(params.max_workers, progress.hear) as pool,
    ):
        results = steps.shards(params.root_uri, refs, params.extractor, pool, params.max_workers)
    summaries = []
    for dataset, split in splits:
        of_split = [
            result for result in results if (result.receipt.dataset, result.receipt.split) == (dataset.name, split)
        ]
        summaries.append(summarize(Stage.EXTRACT, f"{dataset.name}/{split}", of_split))
        # Other machines may be at the rest: whichever ends last finds nothing missing.
        missing = [] if params.selects_all else missing_shards(root, dataset.name, split, params.extractor)
        if missing:
            log.info("%s/%s: %d shards have no regions yet; its manifest waits", dataset.name, split, len(missing))
        else:
            steps.manifest(params.root_uri, dataset.name, split, params.extractor)
    return summaries


def _images(root: Root, refs: Sequence[ShardRef]) -> int:
    """Images in these shards, as far as they were downloaded."""
    paths = [image_receipt_path(ref.dataset, ref.split, ref.shard) for ref in refs]
    receipts = [root.read_model(path, Receipt) for path in paths]
    return sum(receipt.counts.get("ok", 0) for receipt in receipts if receipt is not None)
