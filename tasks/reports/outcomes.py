"""What became of the rows that were to be downloaded, by split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from tasks.pages.charts import bar_chart
from tasks.records import Outcome, Receipt
from tasks.storage.paths import captions_receipt_path
from tasks.storage.root import Root

Outcomes = Mapping[str, Mapping[str, int]]
"""DATASET/SPLIT -> outcome -> number of rows, as in the captions receipts."""


def read_outcomes(root: Root, splits: Sequence[str]) -> Outcomes:
    """Of these splits (DATASET/SPLIT); those that have no captions receipt are left out."""
    found = {}
    for name in splits:
        dataset, _, split = name.partition("/")
        receipt = root.read_model(captions_receipt_path(dataset, split), Receipt)
        if receipt is not None:
            found[name] = receipt.counts
    return found


def outcomes_section(outcomes: Outcomes) -> str:
    """A chart for each split that lost rows, and all numbers in a table."""
    if not outcomes:
        return ""
    names = sorted({name for counts in outcomes.values() for name, count in counts.items() if count} - {Outcome.OK})
    heads = "".join(f'<th scope="col">{escape(split)}</th>' for split in outcomes)
    lines = []
    for name in ["rows", Outcome.OK.value, *names]:
        numbers = (sum(counts.values()) if name == "rows" else counts.get(name, 0) for counts in outcomes.values())
        cells = "".join(f"<td>{number:,}</td>" for number in numbers)
        lines.append(f'<tr><th scope="row">{escape(name)}</th>{cells}</tr>')
    charts = []
    for split, counts in outcomes.items():
        total = sum(counts.values())
        lost = {name: count for name, count in counts.items() if name != Outcome.OK and count}
        if lost:
            many = sum(lost.values())
            charts.append(bar_chart(f"{split}: {many:,} of {total:,} rows lost ({many / total:.1%})", lost, total))
    return (
        (f'<div class="charts">{"".join(charts)}</div>' if charts else "<p>No row was lost.</p>")
        + f'<div class="wide"><table><thead><tr><th scope="col">outcome</th>{heads}</tr></thead>'
        + f"<tbody>{''.join(lines)}</tbody></table></div>"
    )
