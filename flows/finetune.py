"""Feature shards of a retrieval dataset, and perhaps a pretrained checkpoint, to a retrieval checkpoint."""

from __future__ import annotations

import logging

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from flows.changes import Changes, with_changes
from flows.params import FinetuneParams
from flows.progress import ProgressLog
from flows.progress_bar import progress_bar
from flows.run_log import let_rooms_speak
from tasks import train
from tasks.launch import stopping_children
from tasks.records import CheckpointRef
from tasks.storage import Root

log = logging.getLogger(__name__)


@task(name="finetune", cache_policy=NO_CACHE)
def finetune_task(params: FinetuneParams) -> CheckpointRef:
    root, spec = Root(params.root_uri), params.spec()
    run = train.finetuning_run(root, spec)
    label = f"{run} ({'task-specific' if params.pretraining is None else 'from pretraining'})"
    with progress_bar(run) as show:
        checkpoint = train.finetune(root, spec, ProgressLog(log, label, "steps", show=show).follow)
    log.info("%s: %s, %d steps", label, "already done" if checkpoint.skipped else "done", checkpoint.step)
    return checkpoint


@flow(name="finetune", flow_run_name="finetune on {params.dataset}/{params.split}")
def finetune(params: FinetuneParams, changes: Changes | None = None) -> CheckpointRef:
    """Train retrieval by hinge loss, from a pretraining run or from scratch."""
    let_rooms_speak()
    params = with_changes(params, changes)
    with stopping_children():
        return finetune_task(params)
