"""Map a Prefect task over shards."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any

from prefect.futures import as_completed
from prefect.task_runners import ThreadPoolTaskRunner
from prefect.tasks import Task

from flows.steps.shards import Collected, collect_shards
from tasks.records import ShardRef, ShardResult
from tasks.workers.processes import killing_workers


def run_shards(
    task: Task[Any, ShardResult],
    refs: Sequence[ShardRef],
    parameters: dict[str, Any],
    max_workers: int,
    logger: logging.Logger,
) -> Collected:
    """Run a task for every shard, `max_workers` at once; see `collect_shards`.

    Args:
        task: takes `ref` and `parameters`.
        refs: the shards, in the order of the results.
        parameters: of `runner.map`: a list with one value per shard, or `unmapped(value)`.

    Raises:
        UserError, StageError: as `collect_shards`.
    """
    if not refs:
        return Collected([], [])
    runner: ThreadPoolTaskRunner[ShardResult] = ThreadPoolTaskRunner(max_workers=max_workers)

    def ended() -> Iterator[tuple[ShardRef, ShardResult | BaseException]]:
        futures = runner.map(task, {"ref": list(refs), **parameters})
        names = {future.task_run_id: ref for future, ref in zip(futures, refs, strict=True)}
        for future in as_completed(list(futures)):
            result: object = future.result(raise_on_failure=False)
            assert isinstance(result, ShardResult | BaseException)
            yield names[future.task_run_id], result

    with runner, killing_workers():  # The runner waits for its threads, and they for the workers.
        return collect_shards(refs, ended(), logger)
