"""Variants of one experiment, trained and scored beside each other: the paper's ablations."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from prefect import flow, tags, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run
from prefect.task_runners import ThreadPoolTaskRunner

from flows.changes import Changes, with_changes
from flows.checks import check_rebuild
from flows.data_stages import make_data
from flows.deployed import begin_run
from flows.trainings import Experiment, Submitted, submit_experiments
from flows.variants import SweepParams, Variant
from flows.world import rows_ready
from tasks import train
from tasks.errors import StageError, UserError
from tasks.launch import stopping_children
from tasks.reports.recall_table import protocol_of
from tasks.reports.setting_row import DIRECTIONS
from tasks.storage import Root, now, sweep_path
from tasks.sweeps import Sweep, VariantRow, VariantsFailedError, publish_sweep, sweep_text

log = logging.getLogger(__name__)


@flow(name="sweep", flow_run_name="sweep {params.ablation} of {params.base.name} in {params.base.root_uri}")
def sweep(params: SweepParams, changes: Changes | None = None) -> Sweep:
    """Download and extract once, train and evaluate every variant, compare. What stands already is not done again.

    Raises:
        VariantsFailedError: some variants failed. The others were not held up, and the table is there.
    """
    begin_run()
    params = with_changes(params, changes)
    # Prefect does not hand tags down to subflows.
    with rows_ready(params.base) as base, tags(*flow_run.tags):
        check_rebuild(base)  # Not after days of downloading.
        make_data(base)
    result = compare_task(params, _train_and_evaluate(params))
    if result.failed:
        raise VariantsFailedError(result)
    return result


def _train_and_evaluate(params: SweepParams) -> list[VariantRow]:
    variants = params.variants()
    if params.ablation != "settings":
        _log_runs(variants)
    runner: ThreadPoolTaskRunner[Any] = ThreadPoolTaskRunner(max_workers=params.base.max_trainings)
    with runner, stopping_children():  # The runner waits for its threads, and they for their children.
        submitted = submit_experiments(runner, [Experiment(variant.params, variant.setting) for variant in variants])
        return [_outcome(variant, one) for variant, one in zip(variants, submitted, strict=True)]


def _log_runs(variants: Sequence[Variant]) -> None:
    """Progress is told by the names of runs: say whose they are."""
    for variant in variants:
        pretraining = variant.params.for_pretrain()
        run = train.pretraining_run(Root(pretraining.root_uri), pretraining.spec())
        log.info("%s begins with %s", variant.name, run)


def _outcome(variant: Variant, submitted: Submitted) -> VariantRow:
    """Wait for a variant; what it failed of is its row's, and the others go on."""
    row = VariantRow(name=variant.name, value=variant.value, setting=variant.setting, runs=(), recalls=())
    try:
        trained = submitted.result()
    except (StageError, UserError, OSError) as error:
        log.error("%s failed: %s", variant.name, error)
        return row.model_copy(update={"error": str(error)})
    recalls = (trained.evaluation.table_row, *(table.row for table in trained.evaluation.also))
    return row.model_copy(update={"runs": tuple(one.run for one in trained.checkpoints), "recalls": recalls})


@task(name="compare", task_run_name="compare", cache_policy=NO_CACHE)
def compare_task(params: SweepParams, rows: list[VariantRow]) -> Sweep:
    """The table as a page, as JSON and as a Prefect artifact."""
    root = Root(params.base.root_uri)
    result = Sweep(
        ablation=params.ablation,
        name=params.name,
        dataset=params.base.retrieval_dataset.name,
        split=params.base.evaluation_split,
        variants=tuple(rows),
        page_path=root.path(sweep_path(params.name, "html")),
        created_at=now(),
    )
    publish_sweep(root, result, params.model_dump(mode="json"))
    create_table_artifact(
        key=f"sweep-{params.ablation}",
        table=[_artifact_row(row) for row in rows],
        description=f"```\n{sweep_text(result)}\n```",
    )
    log.info("%s", result.page_path)
    return result


def _artifact_row(row: VariantRow) -> dict[str, Any]:
    """Recalls by the main protocol, if there are any."""
    shown: dict[str, Any] = {"variant": row.name, "setting": row.setting}
    for main in row.recalls[:1]:
        shown |= {"protocol": protocol_of(main), "seed": main.seed}
        for direction, label in DIRECTIONS:
            shown |= {f"{label} R@{k}": recall for k, recall in main.recalls(direction).items()}
    return shown | {"error": row.error}
