"""What a task measured over examples, as `metrics.json`, a history row and `unicoder-vl measure --json` hold it.

Most measures are means over examples, each of which belongs to one image: `mean_figures` gives them all, with their
bootstrap intervals over images, from the same resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from model.downstream.bootstrap import SEED, Values, drawn_times, percentile_intervals
from model.downstream.measures import Measure, Measured, TaskMeasures


class Figure(BaseModel):
    """The value of one measure."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    value: float = Field(description="a fraction")
    interval: tuple[float, float] | None = Field(description="95% bootstrap over images; None: undefined")
    examples: int = Field(description="that it is measured over")


class TaskFigures(BaseModel):
    """What one evaluation of a task measured over its examples."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: str
    protocol: str = Field(description="what counts as right, in words; figures of another protocol cannot be compared")
    examples: int = Field(description="questions, statements, expressions, ...")
    images: int = Field(description="or sets of images, that the bootstrap draws")
    figures: dict[str, Figure] = Field(description="by the name of the measure, the main one first")


@dataclass(frozen=True)
class Group:
    """Examples whose mean is one measure.

    Attributes:
        images: the image of each example, the one that it is drawn with.
        values: (examples,) what each scores, in [0, 1].
    """

    images: Sequence[str]
    values: Values


def mean_figures(groups: Mapping[str, Group]) -> dict[str, Figure]:
    """The mean of each group with its interval; no group may be empty."""
    names = {image: None for group in groups.values() for image in group.images}
    number = {image: place for place, image in enumerate(names)}
    sums, counts = np.zeros((len(number), len(groups))), np.zeros((len(number), len(groups)))
    for column, group in enumerate(groups.values()):
        rows = np.fromiter((number[image] for image in group.images), np.int64, len(group.images))
        sums[:, column] = np.bincount(rows, group.values, len(number))
        counts[:, column] = np.bincount(rows, minlength=len(number))
    drawn = []
    for times in drawn_times(len(number), np.random.default_rng(SEED)):
        examples = times @ counts
        drawn.append(np.where(examples > 0, times @ sums / np.maximum(examples, 1), np.nan))
    intervals = percentile_intervals(np.concatenate(drawn))
    return {
        name: Figure(value=float(group.values.mean()), interval=interval, examples=len(group.values))
        for (name, group), interval in zip(groups.items(), intervals, strict=True)
    }


def figures_reader(task: str, measures: Sequence[Measure]) -> Callable[[Mapping[str, Any]], list[TaskMeasures]]:
    """The `read` of a `MeasuredTask` whose metrics are `TaskFigures`.

    Args:
        measures: those that tables show; figures of other names stay in the metrics.
    """

    def read(metrics: Mapping[str, Any]) -> list[TaskMeasures]:
        found = TaskFigures.model_validate(metrics)
        if found.task != task:
            raise ValueError(f"these are metrics of {found.task}, not of {task}")
        return [task_measures(found, measures)]

    return read


def task_measures(found: TaskFigures, measures: Sequence[Measure]) -> TaskMeasures:
    """The figures that tables show, in the order of the measures."""
    return TaskMeasures(
        task=found.task,
        protocol=found.protocol,
        examples=found.examples,
        measured=tuple(
            Measured(measure=measure, value=figure.value, interval=figure.interval)
            for measure in measures
            if (figure := found.figures.get(measure.name)) is not None
        ),
    )
