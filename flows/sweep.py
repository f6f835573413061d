"""The flow `sweep`: variants of one experiment, trained and scored side by side: the paper's ablations."""

from __future__ import annotations

from typing import Any

from prefect import flow, tags, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run

from flows.download import download
from flows.extract import extract
from flows.operate.deployed import begin_run
from flows.params.changes import Changes, with_changes
from flows.params.checks import check_rebuild
from flows.params.variants import SweepParams
from flows.steps.data_stages import DataStages, make_data
from flows.steps.sweep import compare, run_variants
from flows.steps.world import rows_ready
from flows.training_tasks import training_tasks
from tasks.reports.sweeps import Sweep, VariantRow, sweep_tables, sweep_text


@flow(name="sweep", flow_run_name="sweep {params.ablation} of {params.base.name} in {params.base.root_uri}")
def sweep(params: SweepParams, changes: Changes | None = None) -> Sweep:
    """Download and extract once, train and evaluate every variant, compare. What is finished is not done again.

    Raises:
        VariantsFailedError: some variants failed. The others were not held up, and the table is there.
    """
    begin_run()
    params = with_changes(params, changes)
    # Prefect does not hand tags down to subflows.
    with rows_ready(params.base) as base, tags(*flow_run.tags):
        check_rebuild(base)  # Check before the download, which may take days.
        make_data(base, DataStages(download, extract))
    return run_variants(params, training_tasks, compare_task)


@task(name="compare", task_run_name="compare", cache_policy=NO_CACHE)
def compare_task(params: SweepParams, rows: list[VariantRow]) -> Sweep:
    """Write the table as a page, as JSON and as a Prefect artifact."""
    result = compare(params, rows)
    create_table_artifact(
        key=f"sweep-{params.ablation}",
        table=_artifact_rows(result),
        description=f"```\n{sweep_text(result)}\n```",
    )
    return result


def _artifact_rows(sweep: Sweep) -> list[dict[str, Any]]:
    """What each variant measured by the main protocol, if anything."""
    measured = {row.name: row for table in sweep_tables(sweep)[:1] for row in table.rows}
    rows = []
    for variant in sweep.variants:
        shown: dict[str, Any] = {"variant": variant.name, "setting": variant.setting}
        if variant.name in measured:
            row = measured[variant.name]
            values = {one.measure.label: one.value for one in row.measured.values() if one.measure.shown == "always"}
            shown |= {"protocol": row.protocol, "seed": row.seed, **values}
        rows.append(shown | {"error": variant.error})
    return rows
