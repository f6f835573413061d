"""Training curves, from the metrics.jsonl that each run writes."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from pathlib import PurePath

from markupsafe import Markup
from pydantic import BaseModel, ConfigDict

from model.downstream.measures import Measure, MeasuredTask
from model.downstream.tasks import TASKS, measured_task
from tasks.errors import UserError
from tasks.pages.charts import line_chart
from tasks.pages.page import render
from tasks.reports.run_warnings import run_warnings
from tasks.storage.paths import run_folder
from tasks.storage.root import Root

# Of what a run writes down: these are no curves that a reader compares. What each of several corpora gave has a slash.
_NOT_DRAWN = re.compile(
    r"step|learning_rate|gradient_norm|(steps|samples|tokens)_per_second|filled_share|wait_share|peak_memory_gib|skipped(_samples|_negatives)?|matching_stalled|dropped_captions|.+/.+"
)
Curves = dict[str, list[tuple[float, float]]]
"""Metric -> (step, value) points."""

_HELD_OUT = "validation_"
_ACCURACY = re.compile(".*accuracy")


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True)

    name: str


class _Job(BaseModel):
    """The part of a run's job.json that says what it learned from, and which weights it started from."""

    model_config = ConfigDict(frozen=True)

    train: _Data
    also: tuple[_Data, ...] = ()
    checkpoint_path: str | None = None


def runs_behind(root: Root, run: str) -> list[str]:
    """The run, after the one whose checkpoint it started from where that is under this root, too."""
    job = _read_job(root, run)
    if job is None or job.checkpoint_path is None:
        return [run]
    start = PurePath(job.checkpoint_path).parent.parent.name  # RUN/checkpoints/step-0000100
    return [start, run] if root.exists(run_folder(start)) else [run]


def training_splits(root: Root, runs: Sequence[str]) -> list[str]:
    """DATASET/SPLIT that each existing run learned from."""
    jobs = [_read_job(root, run) for run in runs]
    return [data.name for job in jobs if job is not None for data in (job.train, *job.also)]


def training_curves(root: Root, runs: Sequence[str]) -> Markup:
    """Losses, and accuracies and what tasks measure, of each run that has written any.

    Raises:
        UserError: a finished line of a run's metrics is not a row of metrics.
    """
    blocks = []
    for run in runs:
        path = f"{run_folder(run)}/metrics.jsonl"
        if not root.exists(path):
            continue
        curves = _curves(root.path(path), root.read_bytes(path))
        measured = {name: found for name in curves if (found := _measure(name)) is not None}
        fractions: Curves = {}
        others: Curves = {}
        for name, points in curves.items():
            is_fraction = measured[name][1].unit == "percent" if name in measured else _ACCURACY.fullmatch(name)
            (fractions if is_fraction else others)[name] = points
        labels = dict.fromkeys(["accuracy", *(task.brief_label or task.subject for task, _ in measured.values())])
        charts = [line_chart("losses", others, "step", percent=False)] if others else []
        charts += [line_chart(" and ".join(labels), fractions, "step", percent=True)] if fractions else []
        if charts:
            blocks.append({"name": run, "warnings": run_warnings(root, [run]), "charts": charts})
    return render("reports/curves.html", runs=blocks)


def _read_job(root: Root, run: str) -> _Job | None:
    return root.read_model(f"{run_folder(run)}/job.json", _Job)


def _measure(name: str) -> tuple[MeasuredTask, Measure] | None:
    """Of which task a value is a measure, on held-out data or not, that it shows in brief."""
    plain = name.removeprefix(_HELD_OUT)
    return next(((task, one) for task in _tasks() for one in task.brief if one.name == plain), None)


def _is_drawn(name: str) -> bool:
    """Of what a task measures, the measures in brief stand for the others."""
    plain = name.removeprefix(_HELD_OUT)
    is_measure = any(plain in task.names for task in _tasks())
    return _measure(name) is not None if is_measure else _NOT_DRAWN.fullmatch(name) is None


def _tasks() -> list[MeasuredTask]:
    return [measured_task(name) for name in TASKS]


def _curves(path: str, content: bytes) -> Curves:
    """Metric -> (step, value) points of a metrics.jsonl. A last line without newline is still being written."""
    curves: Curves = {}
    drawn: dict[str, bool] = {}
    for number, line in enumerate(content.splitlines(keepends=True), 1):
        if not line.endswith(b"\n"):
            continue
        try:
            row = json.loads(line)
            step = float(row["step"])
            drawn |= {name: _is_drawn(name) for name in row.keys() - drawn.keys()}
            values = {name: float(value) for name, value in row.items() if drawn[name]}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path}, line {number} is not a row of metrics ({error}); remove that line") from error
        for name, value in values.items():
            if math.isfinite(value):
                curves.setdefault(name, []).append((step, value))
    if any(curve == curves.get("loss") for name, curve in curves.items() if name != "loss"):
        del curves["loss"]  # Of a run with one loss, which is there under its name.
    return curves
