"""The steps of a download, for Prefect tasks or this process alone."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from flows.params.shards import DownloadParams
from flows.results import SHARD_FAILED, StageSummary, Tables
from flows.steps.shards import Collected, check_failed, is_tolerable, summarize
from flows.views.progress import Bar, StageProgress, counts_text
from tasks.config import DatasetConfig, TextDatasetConfig
from tasks.download.journal import is_locked, journal_file, journaled_shards
from tasks.download.page import PAGE as REPORT_PAGE
from tasks.download.page import DownloadSummary
from tasks.download.pool import DownloadPool
from tasks.download.settings import check_settings, keep_settings
from tasks.download.shard import Again, published_receipt
from tasks.download.text import TextResult, check_no_text
from tasks.errors import StageError, UserError
from tasks.made_from import check_no_order
from tasks.records import Outcome, Receipt, ShardRef, ShardResult, Stage
from tasks.rows.manifest import drop_shards_beyond, list_shards, manifest_receipt
from tasks.storage.paths import image_receipt_path
from tasks.storage.root import Root

log = logging.getLogger("flows.download")

Splits = Sequence[tuple[DatasetConfig, str]]
Work = Sequence[tuple[DatasetConfig, ShardRef]]


@dataclass(frozen=True)
class Steps:
    """The steps as functions.

    `shards` takes many at once; `captions` is told which shards to leave out; `text` whether changes are accepted, and
    whether all is made again.
    """

    text: Callable[[str, TextDatasetConfig, str, bool, bool], TextResult]
    manifest: Callable[[str, DatasetConfig, str, bool], ShardResult]
    shards: Callable[[str, Work, DownloadPool, Again, int], Collected]
    captions: Callable[[str, DatasetConfig, str, Collection[int]], ShardResult]
    report: Callable[[str, Sequence[tuple[str, str]]], DownloadSummary]
    bar: Bar
    tables: Tables


def run_download(params: DownloadParams, steps: Steps) -> list[StageSummary]:
    """Make text shards; and manifests, image shards, captions and the report, for all that is selected and missing.

    Raises:
        UserError: rows or settings are not those that the root was begun with; or nothing is selected.
        StageError: more shards of a split failed than may, or fewer rows than asked for ended with an image. What
            is finished has its captions and its report by then.
    """
    texts = [_make_text(dataset, split, params, steps) for dataset, split in params.selected_texts()]
    if texts:
        steps.tables(texts)
    return texts + (_download_images(params, steps) if params.selected_splits() else [])


def _make_text(dataset: TextDatasetConfig, split: str, params: DownloadParams, steps: Steps) -> StageSummary:
    result = steps.text(params.root_uri, dataset, split, params.accepts_changes, params.force)
    name = f"{dataset.name}/{split}"
    log.info("%s: text has %s", name, counts_text(result.counts))
    return StageSummary(stage=Stage.TEXT, name=name, ran=result.ran, skipped=result.skipped, counts=result.counts)


def _download_images(params: DownloadParams, steps: Steps) -> list[StageSummary]:
    root = Root(params.root_uri)
    splits = params.selected_splits()
    _check_alone(root, splits, params)
    for dataset, split in splits:
        check_no_order(root, dataset.name, split)
        check_no_text(root, dataset.name, split)
        if not params.accepts_changes:
            check_settings(root, dataset, split, params.download)
        if params.retry is None:
            _begin_split(root, dataset, split, params, steps)
    work = _select_shards(root, splits, params)
    again = Again(everything=params.force, failures=params.retry)
    with (
        steps.bar("download") as show,
        StageProgress(log, "download", "rows", _rows_to_end(root, work, params), show=show) as progress,
        DownloadPool(params.max_workers, params.download, progress.hear, params.ray) as pool,
    ):
        collected = steps.shards(params.root_uri, work, pool, again, params.max_workers)
    summaries = [_finish_split(root, dataset, split, collected, params, steps) for dataset, split in splits]
    if not (all(result.skipped for result in collected.results) and root.exists(REPORT_PAGE)):
        page = steps.report(params.root_uri, [(dataset.name, split) for dataset, split in splits]).page
        log.info("what became of every row, and why: %s", page)
    steps.tables(summaries)
    check_failed(summaries, params.max_failed_share, log)
    for summary in summaries:
        check_success_rate(summary.name, summary.counts, params.download.min_success_rate)
    return summaries


def check_success_rate(name: str, counts: Mapping[str, int], min_success_rate: float) -> None:
    """Raise StageError where fewer rows than asked for ended with an image."""
    rows, ok = sum(counts.values()), counts.get(Outcome.OK, 0)
    if ok < min_success_rate * rows:
        raise StageError(
            f"{name}: {ok:,} of {rows:,} rows ended ok, below download.min_success_rate={min_success_rate}: "
            f"{counts_text(counts)}"
        )


def _check_alone(root: Root, splits: Splits, params: DownloadParams) -> None:
    """Raise UserError early where another process works on one of the selected shards."""
    for dataset, split in splits:
        for shard in journaled_shards(root, dataset.name, split):
            ref = ShardRef(dataset=dataset.name, split=split, shard=shard)
            if params.selects_shard(shard) and is_locked(root, ref):
                raise UserError(
                    f"another command is downloading shard {ref} under {root.uri} just now; let it end, or choose "
                    "other shards with --shards"
                )


def _begin_split(root: Root, dataset: DatasetConfig, split: str, params: DownloadParams, steps: Steps) -> None:
    manifest = steps.manifest(params.root_uri, dataset, split, params.accepts_changes)
    keep_settings(root, dataset, split, params.download)
    drop_shards_beyond(root, dataset.name, split, len(list_shards(root, dataset, split)))
    state = "has" if manifest.skipped else "made with"
    log.info("%s/%s: manifest %s %s", dataset.name, split, state, counts_text(manifest.receipt.counts))


def _select_shards(root: Root, splits: Splits, params: DownloadParams) -> list[tuple[DatasetConfig, ShardRef]]:
    """The shards to work on. Failures are tried again only in shards that were begun."""
    selected = [
        (dataset, ref)
        for dataset, split in splits
        for ref in list_shards(root, dataset, split)
        if params.selects_shard(ref.shard)
    ]
    if not selected:
        there = ", ".join(f"0 to {len(list_shards(root, d, split)) - 1} of {d.name}/{split}" for d, split in splits)
        raise UserError(f"shards={params.shards!r} selects none: there are {there}")
    if params.retry is None:
        return selected
    begun = [(dataset, ref) for dataset, ref in selected if _is_begun(root, ref)]
    if not begun:
        raise UserError("none of the selected shards was downloaded yet, so there are no failures to try again")
    if len(begun) < len(selected):
        log.info("%d of %d shards were not begun yet and are left alone", len(selected) - len(begun), len(selected))
    return begun


def _is_begun(root: Root, ref: ShardRef) -> bool:
    return root.exists(image_receipt_path(ref.dataset, ref.split, ref.shard)) or journal_file(root, ref).exists()


def _rows_to_end(root: Root, work: Work, params: DownloadParams) -> int:
    """Number of rows in this run: all of the selected shards, or the failures that are tried again."""
    if params.retry is None:
        rows = {(d.name, ref.split): manifest_receipt(root, d.name, ref.split).counts["rows"] for d, ref in work}
        return sum(_shard_rows(dataset, rows[dataset.name, ref.split], ref.shard) for dataset, ref in work)
    receipts = [_receipt(root, ref) for _, ref in work]
    return sum(receipt.counts.get(name, 0) for receipt in receipts if receipt for name in params.retry.outcomes)


def _receipt(root: Root, ref: ShardRef) -> Receipt | None:
    return root.read_model(image_receipt_path(ref.dataset, ref.split, ref.shard), Receipt)


def _finish_split(
    root: Root, dataset: DatasetConfig, split: str, collected: Collected, params: DownloadParams, steps: Steps
) -> StageSummary:
    """Make captions if all shards but the permitted failures are there; return the summary, with rows per outcome."""
    name = f"{dataset.name}/{split}"
    summary = summarize(Stage.DOWNLOAD, name, collected.of(dataset.name, split))
    refs = list_shards(root, dataset, split)
    # The old files of a failed shard may be of other rows or settings, where these were why it was to be made anew.
    lost = {
        one.ref.shard for one in summary.failed if published_receipt(root, dataset, one.ref, params.download) is None
    }
    receipts = {ref.shard: receipt for ref in refs if (receipt := _receipt(root, ref)) and ref.shard not in lost}
    if len(receipts) + len(lost) == len(refs) and is_tolerable(summary, params.max_failed_share):
        counts = steps.captions(params.root_uri, dataset, split, sorted(lost)).receipt.counts
    else:
        log.info("%s: captions wait for %d of %d shards", name, len(refs) - len(receipts), len(refs))
        sums: Counter[str] = Counter()
        for receipt in receipts.values():
            sums.update(receipt.counts)
        counts = dict(sums)
    if lost:
        rows = manifest_receipt(root, dataset.name, split).counts["rows"]
        counts = {**counts, SHARD_FAILED: sum(_shard_rows(dataset, rows, shard) for shard in lost)}
    return summary.model_copy(update={"counts": counts})


def _shard_rows(dataset: DatasetConfig, rows: int, shard: int) -> int:
    """Number of a split's rows in a shard."""
    return min(dataset.shard_size, rows - shard * dataset.shard_size)
