"""Ad relevance's measure: the area under the ROC curve over pairs of query and advertisement."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from model.downstream.figures import Figure, TaskFigures, figures_reader
from model.downstream.measures import Measure, MeasuredTask
from model.downstream.relevance.auc import auc_interval, roc_auc


@dataclass(frozen=True)
class Advertisement:
    """A query with an advertisement that answers it, or does not.

    Attributes:
        id: of the pair.
        image: of the advertisement's picture.
        is_relevant: whether it answers the query.
    """

    id: str
    image: str
    is_relevant: bool


def relevance_figures(advertisements: Sequence[Advertisement], scores: Mapping[str, float]) -> TaskFigures:
    """Area under the ROC curve, which both classes are needed for.

    Args:
        scores: by id, one for every pair.
    """
    labels = np.array([one.is_relevant for one in advertisements])
    if labels.all() or not labels.any():
        only = "relevant" if labels.all() else "not relevant"
        raise ValueError(f"all {len(labels):,} pairs are {only}, so the area under the ROC curve is undefined")
    values = np.array([scores[one.id] for one in advertisements])
    _, images = np.unique([one.image for one in advertisements], return_inverse=True)
    low, high = auc_interval(labels, values, images)
    auc = Figure(value=roc_auc(labels, values), interval=None if math.isnan(low) else (low, high), examples=len(labels))
    return TaskFigures(
        task="relevance",
        protocol=f"{len(labels):,} pairs, {int(labels.sum()):,} of them relevant, with {int(images.max()) + 1:,} "
        "pictures",
        examples=len(labels),
        images=int(images.max()) + 1,
        figures={"auc": auc},
    )


AUC = Measure(
    name="auc",
    label="ROC AUC",
    decimals=2,
    rule="The area under the ROC curve is the chance that a relevant pair scores above another; ties count half.",
)

TASK = MeasuredTask(name="relevance", subject="AUC", main=AUC, brief=(AUC,), read=figures_reader("relevance", (AUC,)))
