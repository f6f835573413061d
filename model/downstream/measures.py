"""What a task measures, described once for everything that shows or compares it. Imports neither torch nor numpy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from model.config import FinetuneLoopConfig


class Measure(BaseModel):
    """A number that tells how good a model is at a task."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="in JSON, such as text_to_image_r1")
    label: str = Field(description="for people, such as text-to-image R@1")
    group: str = Field(default="", description="heading over neighbouring columns of a table; empty: none")
    head: str = Field(default="", description="of its column, below the group; empty: the label")
    short: str = Field(default="", description="of its column where groups have no heading; empty: the label")
    rule: str = Field(default="", description="how it is to be read: a sentence or two below tables that have it")
    shown: Literal["always", "tables", "pages"] = Field(
        default="always", description="in which tables: all; those of pages and terminals; those of pages only"
    )
    unit: Literal["percent", "number"] = Field(
        default="percent", description="percent: a fraction that is shown times 100; number: shown as it is"
    )
    decimals: int = Field(default=1, description="digits after the point, as shown")
    higher_is_better: bool = True

    @property
    def column(self) -> str:
        """Head of its column."""
        return self.head or self.label

    @property
    def short_column(self) -> str:
        """Head of its column where groups have no heading."""
        return self.short or self.label

    def text(self, value: float) -> str:
        return f"{self.scaled(value):,.{self.decimals}f}"

    def change(self, difference: float) -> str:
        """A difference of two values, with its sign."""
        return f"{self.scaled(difference):+,.{self.decimals}f}"

    def scaled(self, value: float) -> float:
        """As it is shown: in percent, or as it is."""
        return 100 * value if self.unit == "percent" else value

    def gain(self, before: float, now: float) -> float:
        """By how much `now` is better than `before`; negative: worse."""
        return now - before if self.higher_is_better else before - now


class Measured(BaseModel):
    """The value of a measure."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    measure: Measure
    value: float
    interval: tuple[float, float] | None = Field(default=None, description="95%; None: not known")


class TaskMeasures(BaseModel):
    """What one evaluation of a task measured, by one protocol."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: str
    protocol: str = Field(description="what was measured over what, in words, with the number of examples")
    qualifier: str = Field(default="", description="the protocol in a word, where it is not the task's usual one")
    examples: int = Field(description="queries, questions, statements, ...: what the measures are means over")
    measured: tuple[Measured, ...] = Field(description="in the order in which they are shown")

    def get(self, name: str) -> Measured | None:
        """What was measured under a name; None: nothing was."""
        return next((one for one in self.measured if one.measure.name == name), None)

    def value(self, measure: Measure) -> float:
        """What was measured.

        Raises:
            ValueError: nothing was.
        """
        found = self.get(measure.name)
        if found is None:
            raise ValueError(f"{self.task} metrics have no {measure.name}")
        return found.value


@dataclass(frozen=True)
class MeasuredTask:
    """A task as history, trend, fall check, tables and pages know it.

    Attributes:
        name: as in `HistoryRow.task`.
        subject: what is measured, in a word: recall, accuracy.
        main: the measure that says which of two evaluations is better.
        brief: the measures of tables with little room, and of charts over time; the main one need not be among them.
        read: an evaluation's metrics, as its history row holds them, to measures: a list by protocol, the main one
            first. Raises ValueError, such as pydantic's ValidationError, where these are no metrics of this task.
        brief_label: what those are together, above charts that have them all: recall@1; empty: the subject.
        watched: the measure that `max_drop` is about; None: the main one. It gets better or worse as the main one does.
        others: what is measured beside all these.
        short_rule: how the short heads of columns are to be read.
        config: settings of its finetuning; None: nothing is trained for it.
        trained_by: the module whose `TRAINED` is its training (`task.py`, which imports torch).
        series_name: under which `history --json` lists the main values of a series, beside `values`.
    """

    name: str
    subject: str
    main: Measure
    brief: tuple[Measure, ...]
    read: Callable[[Mapping[str, Any]], Sequence[TaskMeasures]]
    watched: Measure | None = None
    brief_label: str = ""
    others: tuple[Measure, ...] = ()
    short_rule: str = ""
    config: type[FinetuneLoopConfig] | None = None
    trained_by: str | None = None
    series_name: str = "values"

    @property
    def names(self) -> frozenset[str]:
        """Of all measures."""
        return frozenset(measure.name for measure in (self.main, self.watch, *self.brief, *self.others))

    @property
    def watch(self) -> Measure:
        return self.watched or self.main

    def measures(self, metrics: Mapping[str, Any]) -> Sequence[TaskMeasures]:
        """What an evaluation measured, by protocol, the main one first; each has all that the task is told by.

        Raises:
            ValueError: these are no metrics of this task.
        """
        found = self.read(metrics)
        if not found:
            raise ValueError(f"{self.name} metrics hold no measures")
        for one in found:
            for measure in (self.main, self.watch, *self.brief):
                one.value(measure)
        return found
