"""A checkpoint and a retrieval split to one row of the history."""

from __future__ import annotations

import logging

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from flows.params import EvaluateParams
from flows.progress import ProgressLog
from flows.results import EvaluationResult
from tasks import evaluate as evaluation
from tasks.launch import stopping_children
from tasks.storage import Root

log = logging.getLogger(__name__)


@task(name="evaluate", task_run_name="{params.setting}", cache_policy=NO_CACHE)
def evaluate_task(params: EvaluateParams) -> EvaluationResult:
    root = Root(params.root_uri)
    progress = ProgressLog(log, params.setting, "pairs")
    done = evaluation.evaluate(
        root, params.setting, params.checkpoint(root), params.data(), params.scoring, params.seed, progress.follow
    )
    log.info(
        "%s: %sR@1 image-to-text %.1f, text-to-image %.1f",
        params.setting,
        "already done, " if done.skipped else "",
        100 * done.table_row.image_to_text[1],
        100 * done.table_row.text_to_image[1],
    )
    return EvaluationResult(
        row=done.row,
        table_row=done.table_row,
        chance=evaluation.chance_row(done.captions_per_image),
        skipped=done.skipped,
    )


@flow(name="evaluate", flow_run_name="evaluate {params.setting} on {params.dataset}/{params.split}")
def evaluate(params: EvaluateParams) -> EvaluationResult:
    """Score every image with every caption, and append the metrics to the history."""
    with stopping_children():
        return evaluate_task(params)
