"""A task of a test: how many dots are in a picture. Its main measure is an error, of which less is better."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from model.downstream.measures import Measure, Measured, MeasuredTask, TaskMeasures
from tasks.reports.measure_table import published_row
from tasks.reports.parts import TaskPart

ERROR = Measure(name="error", label="mean error", unit="number", decimals=2, higher_is_better=False)
ACCURACY = Measure(name="dots_right", label="accuracy", rule="Accuracy is the share of pictures counted right.")
EMPTY = Measure(name="empty", label="accuracy without dots", group="accuracy", head="no dots")


def read(metrics: Mapping[str, Any]) -> list[TaskMeasures]:
    if set(metrics) != {"pictures", "error", "accuracy", "empty"}:
        raise ValueError(f"no metrics of counting dots: {', '.join(metrics)}")
    error = metrics["error"]
    return [
        TaskMeasures(
            task="dots",
            protocol=f"{metrics['pictures']:,} pictures",
            examples=metrics["pictures"],
            measured=(
                Measured(measure=ACCURACY, value=metrics["accuracy"]),
                Measured(measure=EMPTY, value=metrics["empty"]),
                Measured(measure=ERROR, value=error, interval=(error - 0.25, error + 0.25)),
            ),
        )
    ]


PART = TaskPart(published=lambda row: [published_row("a paper", {ERROR: 0.5}, "Somebody, 2026")])

TASK = MeasuredTask(
    name="dots",
    subject="error",
    main=ERROR,
    brief=(ACCURACY,),
    read=read,
    others=(EMPTY,),
)
