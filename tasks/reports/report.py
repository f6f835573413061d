"""The result of an experiment as one self-contained HTML page: no server, no network, no script.

A whole rebuild has ROOT/report.html, and each evaluation ROOT/scores/EVALUATION/report.html.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from model.downstream.tasks import measured_task
from tasks.evaluation.evaluate import evaluation_name
from tasks.evaluation.history import read_history
from tasks.evaluation.trend import comparison_sentence, trend
from tasks.features.feature_sets import FeatureSet
from tasks.pages.page import minute, render
from tasks.records import HistoryRow
from tasks.reports.curves import runs_behind, training_curves, training_splits
from tasks.reports.history import history_section
from tasks.reports.outcomes import Outcomes, outcomes_section, read_outcomes
from tasks.reports.regions import regions_section
from tasks.storage.paths import REPORT, scores_folder
from tasks.storage.root import Root, now

Section = tuple[str, Markup]
"""Heading and content of a part of a page; one without content is left out."""


@dataclass(frozen=True)
class Scored:
    """A finished evaluation; `extractor` is the fingerprint of the extractor whose regions were scored."""

    row: HistoryRow
    extractor: str

    @property
    def name(self) -> str:
        """Folder under ROOT/scores."""
        row = self.row
        return evaluation_name(row.dataset, row.split, row.checkpoint_fingerprint, row.data_fingerprint, row.task)

    @property
    def features(self) -> FeatureSet:
        return FeatureSet(self.extractor, self.row.dataset, self.row.split)


def write_report(
    root: Root,
    title: str,
    own: Sequence[Section],
    outcomes: Outcomes,
    params: Mapping[str, Any],
    evaluations: Sequence[Scored],
    losses: Sequence[str] = (),
) -> str:
    """Write the page of a whole experiment to ROOT/report.html, and return its full name.

    Args:
        root: where everything lies.
        title: heading of the page.
        own: the task's sections, such as its tables and pictures; they come first.
        outcomes: of the download.
        params: JSON-able parameters of the experiment.
        evaluations: of each setting; regions are shown of the last one.
        losses: a sentence for each split that it went on without some shards of.

    Raises:
        UserError: scores, captions or features are missing, or a file is not of the right form.
        ShardError: a shard is damaged.
    """
    shown = evaluations[-1]
    runs = dict.fromkeys(run for scored in evaluations for run in runs_behind(root, scored.row.run))
    sections = [
        *own,
        ("Rows lost on the way", _warnings(losses) + outcomes_section(outcomes)),
        ("Regions", regions_section(root, shown.features)),
        ("Training", training_curves(root, list(runs))),
        (_over_time(shown.row), history_section(read_history(root), shown.row.task)),
        ("Parameters", _json("All parameters as JSON", params)),
    ]
    return _publish(root, REPORT, title, "", sections)


def write_evaluation_report(root: Root, scored: Scored, own: Sequence[Section]) -> str:
    """Write the page of one evaluation to ROOT/scores/EVALUATION/report.html, and return its full name.

    Args:
        root: where everything lies.
        scored: the evaluation, whose row is in the history already.
        own: the task's sections, such as its tables and pictures; they come first.

    Raises:
        UserError: scores, captions or features are missing, or a file is not of the right form.
        ShardError: a shard is damaged.
    """
    row = scored.row
    data = f"{row.dataset}/{row.split}"
    runs = runs_behind(root, row.run)
    history = read_history(root)
    comparable = [other for other in history if (other.dataset, other.split) == (row.dataset, row.split)]
    about = f"This evaluation: {comparison_sentence(trend(history).of(row))}."
    splits = dict.fromkeys([data, *training_splits(root, runs)])
    sections = [
        *own,
        (_over_time(row), history_section(comparable, row.task, row, about)),
        ("Training", training_curves(root, runs)),
        ("Regions", regions_section(root, scored.features)),
        ("Rows lost on the way", outcomes_section(read_outcomes(root, list(splits)))),
        ("Provenance", _json("The row of the history as JSON", row.model_dump(mode="json"))),
    ]
    step = "" if row.step is None else f", step {row.step:,}"
    about_run = f"Run {row.run}{step}, seed {row.seed}, scored at {minute(row.created_at)} UTC. "
    return _publish(root, f"{scores_folder(scored.name)}/{REPORT}", f"{row.setting} on {data}", about_run, sections)


def _over_time(row: HistoryRow) -> str:
    return f"{measured_task(row.task).subject.capitalize()} over time"


def _warnings(losses: Sequence[str]) -> Markup:
    return Markup().join(Markup('<p class="warn"><b>Not all of the data.</b> {}</p>').format(loss) for loss in losses)


def _json(summary: str, content: Mapping[str, Any]) -> Markup:
    text = json.dumps(content, indent=2, ensure_ascii=False)
    return Markup("<details><summary>{}</summary><pre>{}</pre></details>").format(summary, text)


def _publish(root: Root, path: str, title: str, about: str, sections: Sequence[tuple[str, Markup]]) -> str:
    """Publish a page with links to its sections; empty ones are left out."""
    there = [(f"part-{number}", name, content) for number, (name, content) in enumerate(sections, 1) if content]
    note = f"{about}Page made at {minute(now())} UTC."
    page = render("reports/report.html", title=title, note=note, sections=there)
    root.publish_bytes(path, page.encode())
    return root.path(path)
