"""Stages' work in words and table rows: for the log, the terminal, the report and Prefect's page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from flows.results import SHARD_FAILED, FailedShard, StageSummary
from tasks.records import ShardRef, Stage

_SHARD_STAGES = (Stage.TEXT, Stage.DOWNLOAD, Stage.EXTRACT)


def done_text(stages: Sequence[StageSummary], skipped: bool = False) -> str:
    """Work in words, such as `9 download shards, 2 finetune runs`: done now or, with `skipped`, before."""
    sums: Counter[Stage] = Counter()
    for summary in stages:
        sums[summary.stage] += summary.skipped if skipped else summary.ran
    return ", ".join(f"{number:,} {_unit(stage, number)}" for stage, number in sums.items() if number) or "nothing"


def _unit(stage: Stage, number: int) -> str:
    if stage == Stage.EVALUATE:
        return "evaluation" if number == 1 else "evaluations"
    unit = "shard" if stage in _SHARD_STAGES else "run"
    return f"{stage.value} {unit if number == 1 else f'{unit}s'}"


def losses(stages: Sequence[StageSummary]) -> list[str]:
    """A sentence for each split and stage that lost shards: `download of web/train: 1 of 6 shards failed ...`.

    What extraction could not have, because its download failed, is told once.
    """
    sentences, told = [], set[ShardRef]()
    for summary in stages:
        news = summary.model_copy(update={"failed": tuple(one for one in summary.failed if one.ref not in told)})
        if news.failed:
            shards = num_shards(summary)
            sentences.append(f"{summary.stage.value} of {summary.name} went on without {lost_text(news, shards)}")
        told.update(one.ref for one in news.failed)
    return sentences


MOST_NAMED = 8


def lost_text(summary: StageSummary, shards: int | None = None) -> str:
    """Lost shards in words: `2 of 6 shards (1,000 rows), which failed: 00001, 00004`.

    `shards` is that 6, unless all are in the summary.
    """
    unit = "rows" if summary.stage == Stage.DOWNLOAD else "images"
    lost = summary.counts.get(SHARD_FAILED)
    of = f" ({lost:,} {unit})" if lost is not None else ""
    total = num_shards(summary) if shards is None else shards
    return f"{len(summary.failed)} of {total} shards{of}, which failed: {_named(summary.failed)}"


def num_shards(summary: StageSummary) -> int:
    """Number of shards looked at."""
    return summary.ran + summary.skipped + len(summary.failed)


def _named(failed: Sequence[FailedShard]) -> str:
    return ", ".join(f"{one.ref.shard:05d}" for one in failed[:MOST_NAMED]) + (
        ", ..." if len(failed) > MOST_NAMED else ""
    )
