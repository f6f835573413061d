"""The history as series of evaluations that can be compared: how recall moved, and whether it fell too far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pydantic import ValidationError

from model.downstream.retrieval.metrics import RetrievalMetrics, protocol_text
from tasks.errors import StageError
from tasks.evaluation.history import measured
from tasks.records import HistoryRow

_ROUNDING = 1e-9
"""A fall of exactly the margin is not too far."""


class Series(NamedTuple):
    """What evaluations have in common that can be compared.

    Data is known by its name and its numbers, not by its bytes: features that were extracted anew are to be held
    against the old ones. Where images came or went, a series of its own begins.
    """

    setting: str
    """With its variant, if it is one of an ablation."""
    data: str
    protocol: str
    """In words, with the numbers of images and captions, and what was left out."""

    def __str__(self) -> str:
        return f"{self.setting} on {self.data}, {self.protocol}"


@dataclass(frozen=True)
class Measure:
    """What one evaluation measured by one protocol, and the earlier ones of its series."""

    row: HistoryRow
    metrics: RetrievalMetrics
    before: Measure | None = field(repr=False)
    """The one before it."""
    best: Measure | None = field(repr=False)
    """The earlier one of the largest recall sum, the first of equals."""

    @property
    def series(self) -> Series:
        return Series(self.row.name, f"{self.row.dataset}/{self.row.split}", protocol_text(self.metrics))

    @property
    def recall_sum(self) -> float:
        """Of R@1, R@5 and R@10 both ways, as fractions: 6 at most."""
        return self.metrics.recall_sum

    @property
    def mean_recall(self) -> float:
        """The recall sum over the number of recalls in it: a fraction."""
        recalls = len(self.metrics.image_to_text_recall) + len(self.metrics.text_to_image_recall)
        return self.recall_sum / recalls

    @property
    def fall(self) -> float | None:
        """How far the mean recall is below that of the best earlier one; negative: above. None: there is none."""
        return None if self.best is None else self.best.mean_recall - self.mean_recall


@dataclass(frozen=True)
class Trend:
    """Measures, oldest first; and how many rows hold metrics of another kind, which are none of them."""

    measures: tuple[Measure, ...]
    unreadable: int

    def of(self, row: HistoryRow) -> Measure:
        """What a row of the history measured by its main protocol."""
        wanted = _same(Measure(row, measured(row.metrics)[0], None, None))
        return next(measure for measure in self.measures if _same(measure) == wanted)


def trend(rows: Sequence[HistoryRow]) -> Trend:
    """Every protocol of every row of the history, each beside the earlier ones of its series.

    What is measured again, because another protocol was asked for beside it, is there once.
    """
    measures: dict[tuple[Series, str, str], Measure] = {}
    last: dict[Series, Measure] = {}
    best: dict[Series, Measure] = {}
    unreadable = 0
    for row in rows:
        try:
            found = measured(row.metrics)
        except ValidationError:
            unreadable += 1
            continue
        for metrics in found:
            series = Measure(row, metrics, None, None).series
            measure = Measure(row, metrics, last.get(series), best.get(series))
            if measures.setdefault(_same(measure), measure) is not measure:
                continue
            last[series] = measure
            if measure.best is None or measure.recall_sum > measure.best.recall_sum:
                best[series] = measure
    return Trend(tuple(measures.values()), unreadable)


def _same(measure: Measure) -> tuple[Series, str, str]:
    """What is equal for measures of the same weights, data and protocol."""
    return measure.series, measure.row.checkpoint_fingerprint, measure.row.data_fingerprint


def check_fall(measure: Measure, max_drop: float) -> None:
    """Raise StageError where recall is further below the best earlier evaluation than a margin.

    Args:
        max_drop: of the mean recall, a fraction; see `EvaluateParams.max_drop`.
    """
    if measure.best is None or measure.fall is None or measure.fall <= max_drop + _ROUNDING:
        return
    best = measure.best
    raise StageError(
        f"recall fell: {measure.series}: mean recall {_percent(measure.mean_recall)} "
        f"(recall sum {_percent(measure.recall_sum)}) of {checkpoint_text(measure.row)} is {_percent(measure.fall)} "
        f"points below the best so far, {_percent(best.mean_recall)} ({_percent(best.recall_sum)}) of "
        f"{checkpoint_text(best.row)}, made {best.row.created_at[:10]}; max_drop allows {_percent(max_drop)}"
        f"{_other_data(measure)}"
    )


def comparison_sentence(measure: Measure) -> str:
    """`recall sum 407.6, 12.3 above the best of 4 earlier evaluations (...)`, for a log or a terminal."""
    text = f"recall sum {_percent(measure.recall_sum)}"
    if measure.best is None:
        return f"{text}, the first evaluation of {measure.series}"
    change = measure.recall_sum - measure.best.recall_sum
    how = f"{_percent(abs(change))} {'above' if change > 0 else 'below'}" if abs(change) > _ROUNDING else "equal to"
    return f"{text}, {how} the best earlier one ({checkpoint_text(measure.best.row)}){_other_data(measure)}"


def comparison_table(measure: Measure) -> list[dict[str, Any]]:
    """The best earlier evaluation, this one, and the difference; recalls in percent."""
    shown = [("this", measure)] if measure.best is None else [("best before", measure.best), ("this", measure)]
    lines: list[dict[str, Any]] = [
        {
            "evaluation": name,
            "run": one.row.run,
            "step": one.row.step,
            "checkpoint": one.row.checkpoint_fingerprint[:12],
            "data": f"{one.row.dataset}/{one.row.split} {one.row.data_fingerprint[:12]}",
            "made at (UTC)": one.row.created_at[:16].replace("T", " "),
            **{heading: round(100 * value, 2) for heading, value in _recalls(one).items()},
        }
        for name, one in shown
    ]
    if measure.best is not None:
        before, now = _recalls(measure.best), _recalls(measure)
        changes = {heading: round(100 * (now[heading] - before[heading]), 2) for heading in now if heading in before}
        lines.append({"evaluation": "difference", **changes})
    return lines


def _recalls(measure: Measure) -> dict[str, float]:
    recalls = {f"image-to-text R@{k}": value for k, value in measure.metrics.image_to_text_recall.items()}
    recalls |= {f"text-to-image R@{k}": value for k, value in measure.metrics.text_to_image_recall.items()}
    return recalls | {"recall sum": measure.recall_sum, "mean recall": measure.mean_recall}


def checkpoint_text(row: HistoryRow) -> str:
    """`finetune-15be9cd86f71 step 350`; rows of an older program name no step."""
    return row.run if row.step is None else f"{row.run} step {row.step:,}"


def _other_data(measure: Measure) -> str:
    """What a reader has to know before comparing the two."""
    if measure.best is None or measure.best.row.data_fingerprint == measure.row.data_fingerprint:
        return ""
    return "; features, captions or precision were others then"


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f}"
