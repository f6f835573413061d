"""The flow `finetune`: feature shards, and perhaps a pretrained checkpoint, to a retrieval checkpoint."""

from __future__ import annotations

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from flows.operate.deployed import begin_run
from flows.params.changes import Changes, with_changes
from flows.params.training import FinetuneParams
from flows.steps.training import run_finetune
from flows.views.progress_bar import progress_bar
from tasks.records import CheckpointRef
from tasks.workers.launch import stopping_children


@task(name="finetune", task_run_name="{params.setting}", cache_policy=NO_CACHE)
def finetune_task(params: FinetuneParams) -> CheckpointRef:
    return run_finetune(params, progress_bar)


@flow(name="finetune", flow_run_name="{params.setting} on {params.dataset}/{params.split} in {params.root_uri}")
def finetune(params: FinetuneParams, changes: Changes | None = None) -> CheckpointRef:
    """Train retrieval by hinge loss, from a pretraining run or from scratch."""
    begin_run()
    params = with_changes(params, changes)
    with stopping_children():
        return finetune_task(params)
