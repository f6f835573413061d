"""Outcomes of the rows to be downloaded, by split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from tasks.pages.charts import bar_chart
from tasks.pages.page import render
from tasks.records import Outcome, Receipt
from tasks.storage.paths import captions_receipt_path
from tasks.storage.root import Root

Outcomes = Mapping[str, Mapping[str, int]]
"""DATASET/SPLIT -> outcome -> number of rows, as in the captions receipts."""


def read_outcomes(root: Root, splits: Sequence[str]) -> Outcomes:
    """Read the outcomes of these splits (DATASET/SPLIT), leaving out those without a captions receipt."""
    found = {}
    for name in splits:
        dataset, _, split = name.partition("/")
        receipt = root.read_model(captions_receipt_path(dataset, split), Receipt)
        if receipt is not None:
            found[name] = receipt.counts
    return found


def outcomes_section(outcomes: Outcomes) -> Markup:
    """A chart for each split that lost rows, and all numbers in a table."""
    if not outcomes:
        return Markup()
    names = sorted({name for counts in outcomes.values() for name, count in counts.items() if count} - {Outcome.OK})
    rows = [
        ["rows", *(f"{sum(counts.values()):,}" for counts in outcomes.values())],
        *([name, *(f"{counts.get(name, 0):,}" for counts in outcomes.values())] for name in [Outcome.OK.value, *names]),
    ]
    charts = []
    for split, counts in outcomes.items():
        total = sum(counts.values())
        lost = {name: count for name, count in counts.items() if name != Outcome.OK and count}
        if lost:
            many = sum(lost.values())
            charts.append(bar_chart(f"{split}: {many:,} of {total:,} rows lost ({many / total:.1%})", lost, total))
    return render("reports/outcomes.html", charts=charts, heads=["outcome", *outcomes], rows=rows)
