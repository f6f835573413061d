"""SNLI-VE's measures: accuracy over pairs of picture and hypothesis, and by label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from model.downstream.figures import Group, TaskFigures, figures_reader, mean_figures
from model.downstream.measures import Measure, MeasuredTask

LABELS = ("entailment", "neutral", "contradiction")
"""Names, never numbers: programs number them differently."""


@dataclass(frozen=True)
class Hypothesis:
    """A sentence that a picture entails, leaves open or contradicts.

    Attributes:
        id: SNLI's pairID.
        image: Flickr30K's id, without .jpg.
        label: one of LABELS.
    """

    id: str
    image: str
    label: str


def snli_ve_figures(hypotheses: Sequence[Hypothesis], answers: Mapping[str, str]) -> TaskFigures:
    """Accuracy over all hypotheses and over those of each label.

    Args:
        answers: a label by id, one for every hypothesis.
    """
    right = np.array([answers[one.id] == one.label for one in hypotheses], np.float64)
    images = [one.image for one in hypotheses]
    groups = {"accuracy": Group(images, right)}
    for label in LABELS:
        rows = [row for row, one in enumerate(hypotheses) if one.label == label]
        if rows:
            groups[f"label/{label}"] = Group([images[row] for row in rows], right[rows])
    return TaskFigures(
        task="snli-ve",
        protocol=f"{len(hypotheses):,} hypotheses about {len(set(images)):,} pictures",
        examples=len(hypotheses),
        images=len(set(images)),
        figures=mean_figures(groups),
    )


ACCURACY = Measure(name="accuracy", label="accuracy", decimals=2)
BY_LABEL = tuple(
    Measure(name=f"label/{label}", label=f"accuracy where {label}", group="by label", head=label, decimals=2)
    for label in LABELS
)

TASK = MeasuredTask(
    name="snli-ve",
    subject="accuracy",
    main=ACCURACY,
    brief=(ACCURACY,),
    read=figures_reader("snli-ve", (ACCURACY, *BY_LABEL)),
    others=BY_LABEL,
)
