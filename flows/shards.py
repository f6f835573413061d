"""Many shards, whoever works on them: one log line per shard, and a broken shard does not stop the others."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures.process import BrokenProcessPool

from flows.progress import counts_text
from flows.results import StageSummary
from tasks.errors import StageError, StorageError, UserError, is_disk_full
from tasks.records import ShardRef, ShardResult, Stage
from tasks.web.network import NetworkGoneError

_NAMED = 8


def collect_shards(
    refs: Sequence[ShardRef], ended: Iterable[tuple[ShardRef, ShardResult | BaseException]], logger: logging.Logger
) -> list[ShardResult]:
    """Wait for all shards.

    Args:
        refs: the shards, in the order of the results.
        ended: each of them with its result, or what it failed with, as they end.

    Raises:
        UserError: a shard failed because of the input; the first such message.
        StageError: shards failed otherwise. Either way, the other shards were done first; but where none of those
            that wait could do better (the disk is full, the network or the store is gone, a worker was killed), they
            are not begun.
    """
    results: dict[ShardRef, ShardResult] = {}
    errors: dict[ShardRef, BaseException] = {}
    for number, (ref, result) in enumerate(ended, 1):
        if isinstance(result, BaseException):
            _raise_if_hopeless(result)
            errors[ref] = result
            logger.error("%s: %s", _shard_name(ref), result)
        else:
            results[ref] = result
            if not result.skipped:
                logger.info("%s [%d/%d]", _result_line(result), number, len(refs))
    _raise_first(errors, len(refs))
    _log_skipped(list(results.values()), logger)
    return [results[ref] for ref in refs]


def summarize(
    stage: Stage, name: str, results: Sequence[ShardResult], counts: dict[str, int] | None = None
) -> StageSummary:
    """The summary of one split; `counts` are the sums over its shards unless given."""
    if counts is None:
        sums: dict[str, int] = defaultdict(int)
        for result in results:
            for key, number in result.receipt.counts.items():
                sums[key] += number
        counts = dict(sums)
    skipped = sum(result.skipped for result in results)
    return StageSummary(stage=stage, name=name, ran=len(results) - skipped, skipped=skipped, counts=counts)


def _shard_name(ref: ShardRef) -> str:
    return f"{ref.dataset}/{ref.split} {ref.shard:05d}"


def _result_line(result: ShardResult) -> str:
    receipt = result.receipt
    name = f"{receipt.dataset}/{receipt.split} {receipt.shard:05d}"
    remark = f", {result.remark}" if result.remark else ""
    return f"{name}: {counts_text(receipt.counts)} ({receipt.seconds:.1f} s{remark})"


def _log_skipped(results: Sequence[ShardResult], logger: logging.Logger) -> None:
    skipped: dict[str, int] = defaultdict(int)
    for result in results:
        if result.skipped:
            skipped[f"{result.receipt.dataset}/{result.receipt.split}"] += 1
    for name, number in skipped.items():
        logger.info("%s: %d %s already done", name, number, "shard" if number == 1 else "shards")


def _raise_if_hopeless(error: BaseException) -> None:
    """Raise what the shards that wait would fail with, too: a list of thousands shall not end in so many lines."""
    if isinstance(error, NetworkGoneError | StorageError) or (isinstance(error, OSError) and is_disk_full(error)):
        raise error
    if isinstance(error, BrokenProcessPool):
        raise StageError(
            "a worker process was killed, most likely because memory ran short; what is done is kept: run the same "
            "command again, with fewer workers if it happens again"
        ) from error


def _raise_first(errors: dict[ShardRef, BaseException], total: int) -> None:
    for error in errors.values():
        if isinstance(error, UserError):
            raise error
    if errors:
        named = ", ".join(str(ref) for ref in list(errors)[:_NAMED]) + (", ..." if len(errors) > _NAMED else "")
        first = next(iter(errors.values()))
        others = "the others are done, " if len(errors) < total else ""
        kind = "" if isinstance(first, StageError) else f"{type(first).__name__}: "
        raise StageError(
            f"{len(errors)} of {total} shards failed: {named}; {others}run the command again for these. "
            f"The first failed with {kind}{first}"
        ) from first
