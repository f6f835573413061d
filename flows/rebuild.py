"""All stages, end to end: rows in, retrieval table and report out."""

from __future__ import annotations

import logging
from typing import Any

from prefect import flow, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.task_runners import ThreadPoolTaskRunner

from flows.download import download
from flows.evaluate import evaluate_task
from flows.extract import extract
from flows.finetune import finetune_task
from flows.params import RebuildParams
from flows.pretrain import pretrain_task
from flows.results import EvaluationResult, RebuildResult, StageSummary
from tasks.evaluate import evaluation_name
from tasks.extractor import extractor_fingerprint
from tasks.gallery import GALLERY_RULE, make_gallery
from tasks.launch import stopping_children
from tasks.records import CheckpointRef, HistoryRow, Stage
from tasks.report import SettingRow, make_report
from tasks.storage import Root, Stopwatch

log = logging.getLogger(__name__)


@flow(name="rebuild", flow_run_name="rebuild {params.root_uri}")
def rebuild(params: RebuildParams) -> RebuildResult:
    """Download, extract, pretrain, finetune, evaluate every setting, report. What stands already is not done again."""
    watch = Stopwatch()
    downloads = download(params.for_download())
    extractions = extract(params.for_extract())
    checkpoints, evaluations = _train_and_evaluate(params)
    table = (evaluations[0].chance, *(evaluation.table_row for evaluation in evaluations))
    outcomes = {summary.name: summary.counts for summary in downloads}
    report_path = report_task(params, table, outcomes, evaluations[-1].row)
    return RebuildResult(
        root_uri=params.root_uri,
        table=table,
        outcomes=outcomes,
        stages=(
            *downloads,
            *extractions,
            *(_of_checkpoint(checkpoint) for checkpoint in checkpoints),
            *(_of_evaluation(evaluation) for evaluation in evaluations),
        ),
        report_path=report_path,
        seconds=watch.seconds,
    )


def _train_and_evaluate(params: RebuildParams) -> tuple[list[CheckpointRef], list[EvaluationResult]]:
    """Every training run and its evaluation, `params.max_trainings` processes at once.

    They are submitted so that each waits only for earlier ones: with any number of workers the queue moves on. What
    the last evaluation needs comes first.
    """
    runner: ThreadPoolTaskRunner[Any] = ThreadPoolTaskRunner(max_workers=params.max_trainings)
    with stopping_children(), runner:
        pretrained = runner.submit(pretrain_task, {"params": params.for_pretrain()})
        training = [pretrained]
        evaluating = {}
        if params.task_specific is not None:
            specific = runner.submit(finetune_task, {"params": params.for_finetune(params.task_specific)})
            training.append(specific)
            evaluating["task-specific"] = runner.submit(
                evaluate_task, {"params": params.for_evaluate("task-specific")}, wait_for=[specific]
            )
        finetuned = runner.submit(finetune_task, {"params": params.for_finetune()}, wait_for=[pretrained])
        training.append(finetuned)
        evaluating["zero-shot"] = runner.submit(
            evaluate_task, {"params": params.for_evaluate("zero-shot")}, wait_for=[pretrained]
        )
        evaluating["pretrain+finetune"] = runner.submit(
            evaluate_task, {"params": params.for_evaluate("pretrain+finetune")}, wait_for=[finetuned]
        )
        checkpoints = [future.result() for future in training]
        return checkpoints, [evaluating[setting].result() for setting in params.settings]


@task(name="report", cache_policy=NO_CACHE)
def report_task(
    params: RebuildParams, table: tuple[SettingRow, ...], outcomes: dict[str, dict[str, int]], shown: HistoryRow
) -> str:
    """The page, with the gallery of one evaluation, and the table as a Prefect artifact."""
    root = Root(params.root_uri)
    extractor, _ = extractor_fingerprint(params.extractor)
    evaluation = evaluation_name(shown.dataset, shown.split, shown.checkpoint_fingerprint, shown.data_fingerprint)
    gallery = make_gallery(root, evaluation, shown.dataset, shown.split, extractor)
    title = f"{params.pretraining_dataset.name} to {params.retrieval_dataset.name}/{params.evaluation_split}"
    rule = f"Setting {shown.setting}. {GALLERY_RULE}"
    path = make_report(root, title, list(table), outcomes, params.model_dump(mode="json"), gallery, rule)
    create_table_artifact(key="retrieval", table=[row.model_dump(mode="json") for row in table], description=title)
    log.info("%s", path)
    return str(path)


def _of_checkpoint(checkpoint: CheckpointRef) -> StageSummary:
    return StageSummary(
        stage=checkpoint.stage,
        name=checkpoint.run,
        ran=int(not checkpoint.skipped),
        skipped=int(checkpoint.skipped),
        counts={"steps": checkpoint.step},
    )


def _of_evaluation(evaluation: EvaluationResult) -> StageSummary:
    return StageSummary(
        stage=Stage.EVALUATE,
        name=evaluation.row.setting,
        ran=int(not evaluation.skipped),
        skipped=int(evaluation.skipped),
        counts={"images": evaluation.table_row.images, "captions": evaluation.table_row.captions},
    )
