"""Run trainings and evaluations as Prefect tasks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from prefect import Task
from prefect.futures import PrefectFuture
from prefect.task_runners import ThreadPoolTaskRunner

from flows.evaluate import evaluate_task
from flows.finetune import finetune_task
from flows.params.shards import Params
from flows.pretrain import pretrain_task
from flows.steps.experiments import Submit
from tasks.records import Stage
from tasks.workers.launch import stopping_children

_TASKS: dict[Stage, Task[..., Any]] = {
    Stage.PRETRAIN: pretrain_task,
    Stage.FINETUNE: finetune_task,
    Stage.EVALUATE: evaluate_task,
}


@contextmanager
def training_tasks(at_once: int) -> Iterator[Submit]:
    """See `flows.steps.experiments.Trainings`."""
    runner: ThreadPoolTaskRunner[Any] = ThreadPoolTaskRunner(max_workers=at_once)

    def submit(stage: Stage, params: Params, wait_for: Sequence[Any]) -> PrefectFuture[Any]:
        return runner.submit(_TASKS[stage], {"params": params}, wait_for=wait_for)

    with runner, stopping_children():  # The runner waits for its threads, and they for their children.
        yield submit
