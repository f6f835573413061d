"""Process many shards, with one log line each; a broken shard does not stop the others."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

from feature_extraction.samples.tars import ShardError
from flows.results import FailedShard, StageSummary
from flows.views.progress import counts_text
from flows.views.stage_texts import MOST_NAMED, lost_text, num_shards
from tasks.download.web.network import NetworkGoneError
from tasks.errors import StageError, StorageError, UserError, WorkersGoneError, is_disk_full
from tasks.records import ShardRef, ShardResult, Stage

_LOGGED = 100
_REASON_CHARACTERS = 500
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Collected:
    """Results of many shards: those that succeeded, in order, and those that failed."""

    results: Sequence[ShardResult]
    failed: Sequence[FailedShard]

    def of(self, dataset: str, split: str) -> Collected:
        """The results of one split."""
        return Collected(
            [one for one in self.results if (one.receipt.dataset, one.receipt.split) == (dataset, split)],
            [one for one in self.failed if (one.ref.dataset, one.ref.split) == (dataset, split)],
        )


def collect_shards(
    refs: Sequence[ShardRef], ended: Iterable[tuple[ShardRef, ShardResult | BaseException]], logger: logging.Logger
) -> Collected:
    """Wait for all shards.

    Args:
        refs: the shards, in the order of what is returned.
        ended: each of them with its result, or what it failed with, as they end.

    Raises:
        UserError: a shard failed because of the input.
        StageError, OSError: a shard failed of what would break those that wait, too: the disk is full, the network or
            the store is gone, a worker was killed. Either way, they are not begun.
    """
    results: dict[ShardRef, ShardResult] = {}
    failed: dict[ShardRef, FailedShard] = {}
    bugs: set[type[BaseException]] = set()
    for number, (ref, result) in enumerate(ended, 1):
        if isinstance(result, BaseException):
            _raise_if_hopeless(result)
            failed[ref] = FailedShard(ref=ref, reason=_reason(result))
            if len(failed) <= _LOGGED:
                logger.error("%s failed: %s [%d/%d]", _shard_name(ref), failed[ref].reason, number, len(refs))
            if not isinstance(result, StageError | ShardError | OSError) and type(result) not in bugs:
                bugs.add(type(result))
                logger.error("where that %s comes from:", type(result).__name__, exc_info=result)
            if len(failed) == _LOGGED:
                logger.error("%d shards failed; further ones are only named at the end", _LOGGED)
        else:
            results[ref] = result
            if not result.skipped:
                logger.info("%s [%d/%d]", _result_line(result), number, len(refs))
    _log_skipped(list(results.values()), logger)
    return Collected([results[ref] for ref in refs if ref in results], [failed[ref] for ref in refs if ref in failed])


def summarize(stage: Stage, name: str, collected: Collected) -> StageSummary:
    """Sum up one split; its counts are over the shards that were made."""
    counts: Counter[str] = Counter()
    for result in collected.results:
        counts.update(result.receipt.counts)
    skipped = sum(result.skipped for result in collected.results)
    return StageSummary(
        stage=stage,
        name=name,
        ran=len(collected.results) - skipped,
        skipped=skipped,
        counts=dict(counts),
        failed=tuple(collected.failed),
    )


def is_tolerable(summary: StageSummary, max_failed_share: float) -> bool:
    """Whether the next step may go on without a split's failed shards."""
    return may_fail(len(summary.failed), num_shards(summary), max_failed_share)


def may_fail(failed: int, shards: int, max_failed_share: float) -> bool:
    """Whether so many of a split's shards may fail."""
    return failed <= max_failed_share * shards + _ROUNDING


def check_failed(summaries: Sequence[StageSummary], max_failed_share: float, logger: logging.Logger) -> None:
    """Log the failed shards that the stage goes on without.

    Raises:
        StageError: of some split, more shards failed than may.
    """
    if not all(is_tolerable(summary, max_failed_share) for summary in summaries):
        raise StageError(_failure_text(summaries, max_failed_share))
    for summary in summaries:
        if summary.failed:
            logger.warning(
                "%s: going on without %s; run the command again to try them again", summary.name, lost_text(summary)
            )


def _failure_text(summaries: Sequence[StageSummary], max_failed_share: float) -> str:
    failed = [one for summary in summaries for one in summary.failed]
    total = sum(map(num_shards, summaries))
    names = ", ".join(str(one.ref) for one in failed[:MOST_NAMED]) + (", ..." if len(failed) > MOST_NAMED else "")
    beyond = [summary.name for summary in summaries if not is_tolerable(summary, max_failed_share)]
    share = f", more of {', '.join(beyond)} than max_failed_share={max_failed_share:g} allows" * bool(max_failed_share)
    others = "the others are done, " if len(failed) < total else ""
    return (
        f"{len(failed)} of {total} shards failed: {names}{share}; {others}run the command again for these. "
        f"The first failed with {failed[0].reason}"
    )


def _shard_name(ref: ShardRef) -> str:
    return f"{ref.dataset}/{ref.split} {ref.shard:05d}"


def _reason(error: BaseException) -> str:
    """An error in one line, with its type where it does not explain itself."""
    text = " ".join(str(error).split())
    kind = "" if isinstance(error, StageError) else f"{type(error).__name__}: "
    return f"{kind}{text}"[:_REASON_CHARACTERS]


def _result_line(result: ShardResult) -> str:
    receipt = result.receipt
    name = f"{receipt.dataset}/{receipt.split} {receipt.shard:05d}"
    remark = f", {result.remark}" if result.remark else ""
    return f"{name}: {counts_text(receipt.counts)} ({receipt.seconds:.1f} s{remark})"


def _log_skipped(results: Sequence[ShardResult], logger: logging.Logger) -> None:
    skipped = Counter(f"{one.receipt.dataset}/{one.receipt.split}" for one in results if one.skipped)
    for name, number in skipped.items():
        logger.info("%s: %d %s already done", name, number, "shard" if number == 1 else "shards")


def _raise_if_hopeless(error: BaseException) -> None:
    """Raise an error that the waiting shards would meet, too: thousands of equal lines help nobody."""
    if isinstance(error, UserError | NetworkGoneError | StorageError | WorkersGoneError):
        raise error
    if isinstance(error, OSError) and is_disk_full(error):
        raise error
    if isinstance(error, BrokenProcessPool):
        raise StageError(
            "a worker process was killed, most likely because memory ran short; what is done is kept: run the same "
            "command again, with fewer workers if it happens again"
        ) from error
