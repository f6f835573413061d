"""What came of an experiment or an evaluation, on one card of markdown for Prefect's page."""

from __future__ import annotations

import platform
import shlex
from collections.abc import Sequence

from flows.params.experiment import RebuildParams
from flows.results import EvaluationResult, RebuildResult, StageSummary
from flows.views.markdown import code, code_block, escaped, table
from flows.views.progress import counts_text, duration
from flows.views.stage_texts import losses
from model.downstream.retrieval.measures import DIRECTIONS
from tasks.evaluation.setting_row import SettingRow
from tasks.records import Outcome
from tasks.reports.retrieval.recall_table import PRECISIONS, protocol_of

_HEADS = {"image_to_text": "i2t", "text_to_image": "t2i"}
RECALL_NOTE = (
    "Recall@k in percent, i2t image-to-text, t2i text-to-image; a query ranks every candidate, and ties count against "
    "it. ± is half of the 95% bootstrap interval."
)


def recall_rows(rows: Sequence[SettingRow]) -> list[dict[str, str]]:
    """The recall table with a text for each cell: `39.0 ± 9.0`."""
    return [_recall_row(row) for row in rows]


def _recall_row(row: SettingRow) -> dict[str, str]:
    shown = {"setting": code(row.setting)}
    for direction, _ in DIRECTIONS:
        for k, recall in row.recalls(direction).items():
            shown[f"{_HEADS[direction]} R@{k}"] = _percent(recall) + _half_width(row, f"{direction}_r{k}")
        for kind, head in PRECISIONS:
            value: float | None = getattr(row, name := f"{direction}_{kind}")
            if value is not None:
                shown[f"{_HEADS[direction]} {head}"] = _percent(value) + _half_width(row, name)
    return shown | {"sum": _percent(row.recall_sum)}


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f}"


def _half_width(row: SettingRow, name: str) -> str:
    if row.intervals is None or name not in row.intervals:
        return ""
    low, high = row.intervals[name]
    return f" ± {50 * (high - low):.1f}"


def stage_rows(stages: Sequence[StageSummary]) -> list[dict[str, str]]:
    """What each stage did, a row for each split, run or evaluation."""
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
    tables: Sequence[Sequence[SettingRow]],
    warnings: Sequence[str] = (),
) -> str:
    """What was trained on what, how it retrieves, what was lost on the way, and what shows more.

    Args:
        params: of the experiment.
        result: of the rebuild.
        tables: rows of the recall table for each protocol, the main one first.
        warnings: what was found wrong with its training runs, a sentence each.
    """
    data, test = params.pretraining_dataset.name, f"{params.retrieval_dataset.name}/{params.evaluation_split}"
    root = shlex.quote(params.root_uri)
    parts = [
        f"# Retrieval on {code(test)}",
        f"Pretrained on {code(f'{data}/train')}, finetuned on {code(f'{params.retrieval_dataset.name}/train')}, "
        f"under {code(params.root_uri)} on {code(platform.node())}.",
        *(f"{table(recall_rows(rows))}\n\n{_protocol(rows)}" for rows in tables),
        RECALL_NOTE,
        *_warnings(warnings),
    ]
    lost = losses(result.stages)
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
    """What was scored, how well, beside chance and what it was before, and what shows more.

    Args:
        warnings: what was found wrong with the training runs behind it, a sentence each.
    """
    row = result.row
    tables = [(result.chance, result.table_row), *((one.chance, one.row) for one in result.also)]
    step = "" if row.step is None else f" at step {row.step:,}"
    page = (
        f"The page of this evaluation is {code(result.report_path)}."
        if result.report_path is not None
        else f"There is no page of it: {escaped(result.no_report)}."
    )
    parts = [
        f"# {code(row.name)} on {code(f'{row.dataset}/{row.split}')}",
        f"Run {code(row.run)}{step}, under {code(root_uri)} on {code(platform.node())}.",
        *(f"{table(recall_rows(rows))}\n\n{_protocol(rows)}" for rows in tables),
        RECALL_NOTE,
        *(
            f"{table(recall_rows([one.row]))}\n\n{_protocol([one.row])}"
            + (f" {escaped(_capital(one.unscored))}." if one.unscored else "")
            for one in result.positives
        ),
        *_warnings(warnings),
        f"{escaped(_capital(result.comparison))}.",
        page,
        code_block([f"unicoder-vl history --root {shlex.quote(root_uri)}"]),
    ]
    return "\n\n".join(parts)


def _warnings(warnings: Sequence[str]) -> list[str]:
    return [f"**Warning.** {escaped(warning)}." for warning in warnings]


def _protocol(rows: Sequence[SettingRow]) -> str:
    return f"{escaped(_capital(protocol_of(rows[-1])))}."


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _rows_text(counts: dict[str, int]) -> str:
    rows, ok = sum(counts.values()), counts.get(Outcome.OK, 0)
    lost = {outcome: number for outcome, number in counts.items() if outcome != Outcome.OK}
    return f"{ok:,} of {rows:,} have an image; lost: {counts_text(lost)}"


def _bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)
