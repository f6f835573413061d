"""The steps of a sweep, for Prefect tasks or this process alone."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from flows.params.variants import SweepParams, Variant
from flows.steps.experiments import Experiment, Submitted, Trainings, submit_experiments
from tasks.errors import StageError, UserError
from tasks.reports.sweeps import Sweep, VariantRow, VariantsFailedError, publish_sweep
from tasks.storage.paths import sweep_path
from tasks.storage.root import Root, now
from tasks.training.run_name import run_name

log = logging.getLogger("flows.sweep")


def run_variants(
    params: SweepParams, trainings: Trainings, compare: Callable[[SweepParams, list[VariantRow]], Sweep]
) -> Sweep:
    """Train and evaluate every variant, once the data is there, and compare. What is finished is not done again.

    Raises:
        VariantsFailedError: some variants failed. The others were not held up, and the table is there.
    """
    result = compare(params, _train_and_evaluate(params, trainings))
    if result.failed:
        raise VariantsFailedError(result)
    return result


def _train_and_evaluate(params: SweepParams, trainings: Trainings) -> list[VariantRow]:
    variants = params.variants()
    if params.ablation != "settings":
        _log_runs(variants)
    with trainings(params.base.max_trainings) as submit:
        submitted = submit_experiments(submit, [Experiment(variant.params, variant.setting) for variant in variants])
        return [_outcome(variant, one) for variant, one in zip(variants, submitted, strict=True)]


def _log_runs(variants: Sequence[Variant]) -> None:
    """Log which runs belong to which variant: progress lines name only runs."""
    for variant in variants:
        pretraining = variant.params.for_pretrain()
        run = run_name(Root(pretraining.root_uri), pretraining.spec())
        log.info("%s begins with %s", variant.name, run)


def _outcome(variant: Variant, submitted: Submitted) -> VariantRow:
    """Wait for a variant; a failure goes into its row, and the others go on."""
    row = VariantRow(name=variant.name, value=variant.value, setting=variant.setting, runs=())
    try:
        trained = submitted.result()
    except (StageError, UserError, OSError) as error:
        log.error("%s failed: %s", variant.name, error)
        return row.model_copy(update={"error": str(error)})
    runs = tuple(one.run for one in trained.checkpoints)
    return row.model_copy(update={"runs": runs, **trained.evaluation.of_variant()})


def compare(params: SweepParams, rows: list[VariantRow]) -> Sweep:
    """Write the table as a page and as JSON."""
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
    log.info("%s", result.page_path)
    return result
