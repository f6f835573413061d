"""Results of an experiment or an evaluation, on one card of markdown for Prefect's page."""

from __future__ import annotations

import platform
import shlex
from collections.abc import Sequence

from flows.params.experiment import RebuildParams
from flows.results import EvaluationResult, RebuildResult, StageSummary
from flows.views.markdown import code, code_block, escaped, table
from flows.views.progress import counts_text, duration
from flows.views.stage_texts import losses
from model.downstream.tasks import measured_task
from tasks.records import FIRST_TASK, Outcome
from tasks.reports.measure_table import Table, table_cells

_INTERVALS = "± is half of the 95% bootstrap interval."


def table_rows(shown: Table) -> list[dict[str, str]]:
    """A table of measures with a text for each cell: `39.0 ± 9.0`."""
    return [{**row, "setting": code(row["setting"])} for row in table_cells(shown)]


def measures_note(task: str) -> str:
    """How the tables of a task are to be read."""
    return " ".join(filter(None, [measured_task(task).short_rule, _INTERVALS]))


def stage_rows(stages: Sequence[StageSummary]) -> list[dict[str, str]]:
    """Each stage's work, a row for each split, run or evaluation."""
    return [
        {
            "stage": summary.stage.value,
            "of": code(summary.name),
            "done now": f"{summary.ran:,}",
            "done before": f"{summary.skipped:,}",
            "failed": f"{len(summary.failed):,}",
        }
        for summary in stages
    ]


def rebuild_card(
    params: RebuildParams,
    result: RebuildResult,
    tables: Sequence[Table],
    warnings: Sequence[str] = (),
    dropped: Sequence[str] = (),
) -> str:
    """The card of an experiment: data, retrieval, losses on the way, and where to see more.

    Args:
        params: of the experiment.
        result: of the rebuild.
        tables: what was measured, by protocol, the main one first.
        warnings: what was found wrong with its training runs, a sentence each.
        dropped: what its training runs left out, a sentence each.
    """
    data, test = params.for_pretrain().learnt_from, f"{params.retrieval_dataset.name}/{params.evaluation_split}"
    task, root = FIRST_TASK, shlex.quote(params.root_uri)
    parts = [
        f"# {task.capitalize()} on {code(test)}",
        f"Pretrained on {code(data)}, finetuned on {code(f'{params.retrieval_dataset.name}/train')}, "
        f"under {code(params.root_uri)} on {code(platform.node())}.",
        *map(_table, tables),
        measures_note(task),
        *_warnings(warnings),
    ]
    lost = [*losses(result.stages), *dropped]
    if lost:
        parts += ["## Made without all of the data", _bullets([escaped(line) for line in lost])]
    parts += [
        "## Rows and their images",
        _bullets([f"{code(name)}: {_rows_text(counts)}" for name, counts in result.outcomes.items()]),
        f"## This run ({duration(result.seconds)})",
        table(stage_rows(result.stages)),
        "## More",
        f"The page with pictures, losses and curves is {code(result.report_path)}.",
        code_block([f"unicoder-vl history --root {root}", f"unicoder-vl status --root {root}"]),
    ]
    return "\n\n".join(parts)


def evaluation_card(root_uri: str, result: EvaluationResult, warnings: Sequence[str] = ()) -> str:
    """The card of an evaluation: scores beside chance and beside earlier ones, and where to see more.

    Args:
        warnings: what was found wrong with the training runs behind it, a sentence each.
    """
    row = result.row
    step = "" if row.step is None else f" at step {row.step:,}"
    page = (
        f"The page of this evaluation is {code(result.report_path)}."
        if result.report_path is not None
        else f"There is no page of it: {escaped(result.no_report)}."
    )
    parts = [
        f"# {code(row.name)} on {code(f'{row.dataset}/{row.split}')}",
        f"Run {code(row.run)}{step}, under {code(root_uri)} on {code(platform.node())}.",
        *map(_table, result.tables()),
        measures_note(row.task),
        *(_table(shown) + (f" {escaped(_capital(note))}." if note else "") for shown, note in result.other_tables()),
        *_warnings(warnings),
        f"{escaped(_capital(result.comparison))}.",
        page,
        code_block([f"unicoder-vl history --root {shlex.quote(root_uri)}"]),
    ]
    return "\n\n".join(parts)


def _warnings(warnings: Sequence[str]) -> list[str]:
    return [f"**Warning.** {escaped(warning)}." for warning in warnings]


def _table(shown: Table) -> str:
    """With what was measured over what below."""
    return f"{table(table_rows(shown))}\n\n{escaped(_capital(shown.protocol))}."


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _rows_text(counts: dict[str, int]) -> str:
    rows, ok = sum(counts.values()), counts.get(Outcome.OK, 0)
    lost = {outcome: number for outcome, number in counts.items() if outcome != Outcome.OK}
    return f"{ok:,} of {rows:,} have an image; lost: {counts_text(lost)}"


def _bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)
