"""The flow `pretrain`: feature shards to a pretrained checkpoint."""

from __future__ import annotations

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from flows.operate.deployed import begin_run
from flows.params.changes import Changes, with_changes
from flows.params.training import PretrainParams
from flows.steps.training import run_pretrain
from flows.views.progress_bar import progress_bar
from tasks.records import CheckpointRef
from tasks.workers.launch import stopping_children


@task(name="pretrain", task_run_name="pretrain", cache_policy=NO_CACHE)
def pretrain_task(params: PretrainParams) -> CheckpointRef:
    return run_pretrain(params, progress_bar)


@flow(name="pretrain", flow_run_name="pretrain on {params.learnt_from} in {params.root_uri}")
def pretrain(params: PretrainParams, changes: Changes | None = None) -> CheckpointRef:
    """Train the encoder on masked words, masked object labels and matching."""
    begin_run()
    params = with_changes(params, changes)
    with stopping_children():
        return pretrain_task(params)
