"""Caption rows -> one image shard, its table of outcomes, and its receipt.

A failed URL is data: a row of the outcome table. A full disk, a bug or an interrupt is an error: it stops the shard,
and nothing of it is under a final name; what was fetched is in the shard's journal, and the next run goes on
from there. Requests finish in any order; the shard is written in key order, so its bytes depend only on what the
servers sent.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import astuple, dataclass
from typing import IO

from feature_extraction.samples.images import IMAGE_FORMAT, ImageSample, encode_image, read_image_shard
from feature_extraction.samples.tars import ShardError, write_tar
from tasks.config import DatasetConfig
from tasks.download.config import DownloadConfig, RetryConfig
from tasks.download.fetching import Progress, Session, count_hosts, fetch_rows
from tasks.download.journal import Journal, journal_file
from tasks.download.outcomes import OUTCOMES_FORMAT, RowOutcome, read_outcomes, write_outcomes
from tasks.download.settings import result_settings
from tasks.errors import UserError
from tasks.records import Outcome, Receipt, ShardRef, ShardResult, Stage, fingerprint
from tasks.rows.manifest import ManifestRow, read_manifest_shard
from tasks.storage.paths import image_receipt_path, image_shard_path, outcomes_path
from tasks.storage.root import Root, Stopwatch, now


@dataclass(frozen=True)
class Again:
    """Which rows of a finished shard are fetched again: all, or failures of some classes and age."""

    everything: bool = False
    failures: RetryConfig | None = None


NOTHING_AGAIN = Again()


def download_shard(
    root: Root,
    dataset: DatasetConfig,
    ref: ShardRef,
    session: Session,
    again: Again = NOTHING_AGAIN,
    on_progress: Progress | None = None,
) -> ShardResult:
    """Fetch and publish the images of one shard's rows, unless that was done before.

    Args:
        root: where the manifest lies and the shard goes.
        dataset: for its shard size.
        ref: which shard; see `manifest.list_shards`.
        session: where the images come from, with which limits, and what an image must be.
        again: what to do with a finished shard. Rows keep their keys; those not tried again keep their bytes.
        on_progress: called in this thread with the number of rows that have ended, per outcome; where failures are
            tried again, of those only.

    Returns:
        The receipt: counts per outcome over all manifest rows of the shard (they sum to its rows), and the digests
        of the tar and of the outcome table.

    Raises:
        UserError: there is no manifest, or it has no such shard; or failures are to be tried again in a shard that
            was never begun.
        StageError: another process is at work on this shard, or the network does not come back.
    """
    watch = Stopwatch()
    rows = read_manifest_shard(root, ref, dataset.shard_size)
    shard_fingerprint = _fingerprint(rows, session.config)
    done = root.done(image_receipt_path(ref.dataset, ref.split, ref.shard), shard_fingerprint)
    path = journal_file(root, ref)
    if not path.exists():
        if done is not None and again == NOTHING_AGAIN:
            return ShardResult(receipt=done, skipped=True)
        if done is None and again.failures is not None:
            raise UserError(f"shard {ref} was not downloaded yet, so it has no failures to try again")
    with Journal(path, shard_fingerprint, over_table=done is not None and not again.everything) as journal:
        if journal.over_table and again.everything:
            journal.restart(shard_fingerprint, over_table=False)
        # A journal that was begun over a published table needs it, even if a kill has left it without its receipt.
        before = _published(root, ref, rows) if journal.over_table else None
        wanted = [row for row in rows if row.key not in journal.outcomes and _is_wanted(row, before, again.failures)]
        ended = Counter(outcome.outcome.value for outcome in journal.outcomes.values())
        if before is None:
            ended.update(_unfetched(row).outcome.value for row in rows if not row.fetches)
        fetch_rows(wanted, session, journal, count_hosts(rows), before is None, ended, on_progress)
        if done is not None and before is not None and not journal.outcomes:
            journal.remove()
            return ShardResult(receipt=done, skipped=True)
        receipt = _commit(root, ref, rows, journal, before, done, shard_fingerprint, watch)
        journal.remove()
    return ShardResult(receipt=receipt, skipped=False)


def finished_shard(root: Root, dataset: DatasetConfig, ref: ShardRef, config: DownloadConfig) -> ShardResult | None:
    """The result of a finished shard without a journal, where `download_shard` would do nothing; else None.

    Raises:
        UserError: there is no manifest, or it has no such shard.
    """
    if journal_file(root, ref).exists():
        return None
    done = published_receipt(root, dataset, ref, config)
    return None if done is None else ShardResult(receipt=done, skipped=True)


def published_receipt(root: Root, dataset: DatasetConfig, ref: ShardRef, config: DownloadConfig) -> Receipt | None:
    """The receipt of a shard published from these rows with these settings.

    The shard may be being made again just now.

    Raises:
        UserError: there is no manifest, or it has no such shard.
    """
    shard_fingerprint = _fingerprint(read_manifest_shard(root, ref, dataset.shard_size), config)
    return root.done(image_receipt_path(ref.dataset, ref.split, ref.shard), shard_fingerprint)


def _fingerprint(rows: Sequence[ManifestRow], config: DownloadConfig) -> str:
    content = hashlib.sha256()
    for row in rows:
        content.update(repr(astuple(row)[:5]).encode())  # All but the detail, which decides nothing.
    formats = [IMAGE_FORMAT, OUTCOMES_FORMAT]
    settings = result_settings(config)
    return fingerprint({"formats": formats, "settings": settings, "rows": content.hexdigest()})


def _published(root: Root, ref: ShardRef, rows: Sequence[ManifestRow]) -> dict[str, RowOutcome] | None:
    """The published table of a shard by key; None where it or the tar is gone, or has other rows."""
    if not root.exists(image_shard_path(ref.dataset, ref.split, ref.shard)):
        return None
    if not root.exists(outcomes_path(ref.dataset, ref.split, ref.shard)):
        return None
    outcomes = {outcome.key: outcome for outcome in read_outcomes(root, ref)}
    return outcomes if list(outcomes) == [row.key for row in rows] else None


def _is_wanted(row: ManifestRow, before: Mapping[str, RowOutcome] | None, retry: RetryConfig | None) -> bool:
    """Whether a row's URL is to be requested now."""
    if not row.fetches:
        return False
    if before is None:
        return True
    outcome = before[row.key]
    return (
        retry is not None
        and outcome.outcome in retry.outcomes
        # Of any age includes the future: the clock may have been put back since.
        and (not retry.older_than_seconds or outcome.tried_at <= time.time() - retry.older_than_seconds)
    )


def _unfetched(row: ManifestRow) -> RowOutcome:
    """The outcome of a row that requests nothing."""
    if row.outcome:
        return RowOutcome(row.key, row.url, row.image_key, Outcome(row.outcome), row.detail)
    return RowOutcome(row.key, row.url, row.image_key, Outcome.DUPLICATE, f"same URL as {row.image_key}")


# --- publishing -----------------------------------------------------------------------------------------------------


def _commit(
    root: Root,
    ref: ShardRef,
    rows: Sequence[ManifestRow],
    journal: Journal,
    before: Mapping[str, RowOutcome] | None,
    done: Receipt | None,
    shard_fingerprint: str,
    watch: Stopwatch,
) -> Receipt:
    """Publish tar, table and receipt from the journal and what was published before."""
    outcomes = [_final(row, journal, before) for row in rows]
    tar_path = image_shard_path(ref.dataset, ref.split, ref.shard)
    table_path = outcomes_path(ref.dataset, ref.split, ref.shard)
    receipt_path = image_receipt_path(ref.dataset, ref.split, ref.shard)
    tar_name, table_name = tar_path.rsplit("/", 1)[-1], table_path.rsplit("/", 1)[-1]
    # While files change there is no receipt, so that nobody takes new bytes for old ones. The journal stays until
    # there is one again: it was begun over the table, and what it adds is the same over the old or the new files.
    root.remove(receipt_path)
    images_change = any(outcome.outcome is Outcome.OK for outcome in journal.outcomes.values())
    if done is not None and before is not None and not images_change:
        tar_digest = done.files[tar_name]
    else:
        with ExitStack() as stack:
            old = stack.enter_context(root.open(tar_path)) if before is not None else None
            tar_digest = root.publish(
                tar_path, lambda stream: write_tar(stream, _members(rows, outcomes, journal, old, str(ref)))
            )
    table_digest = root.publish(table_path, lambda stream: write_outcomes(stream, outcomes))
    receipt = Receipt(
        stage=Stage.DOWNLOAD,
        dataset=ref.dataset,
        split=ref.split,
        shard=ref.shard,
        fingerprint=shard_fingerprint,
        counts=dict(sorted(Counter(outcome.outcome.value for outcome in outcomes).items())),
        files={tar_name: tar_digest, table_name: table_digest},
        seconds=watch.seconds,
        created_at=now(),
    )
    root.publish_model(receipt_path, receipt)
    return receipt


def _final(row: ManifestRow, journal: Journal, before: Mapping[str, RowOutcome] | None) -> RowOutcome:
    if row.key in journal.outcomes:
        return journal.outcomes[row.key]
    return before[row.key] if before is not None else _unfetched(row)


def _members(
    rows: Sequence[ManifestRow],
    outcomes: Sequence[RowOutcome],
    journal: Journal,
    old_tar: IO[bytes] | None,
    shard: str,
) -> Iterator[tuple[str, bytes]]:
    """The tar's members in key order: images of the journal, and the old tar's where the journal has none."""
    old = iter(()) if old_tar is None else read_image_shard(old_tar, shard)
    for row, outcome in zip(rows, outcomes, strict=True):
        if outcome.outcome is not Outcome.OK:
            continue
        if row.key in journal.outcomes:
            jpeg = journal.jpeg(row.key)
        else:
            sample = next((sample for sample in old if sample.key == row.key), None)
            if sample is None:
                raise ShardError(f"shard {shard}, key {row.key}: its image is gone; run: unicoder-vl download --force")
            jpeg = sample.jpeg
        assert outcome.width is not None
        assert outcome.height is not None
        assert outcome.sha256 is not None
        size = (outcome.width, outcome.height)
        yield from encode_image(ImageSample(row.key, row.caption, row.url, size, outcome.sha256, jpeg))
