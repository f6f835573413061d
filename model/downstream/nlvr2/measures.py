"""NLVR2's measures: accuracy over statements about pairs of pictures, and consistency over sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from model.downstream.figures import Group, TaskFigures, figures_reader, mean_figures
from model.downstream.measures import Measure, MeasuredTask


@dataclass(frozen=True)
class Statement:
    """A sentence about a pair of pictures.

    Attributes:
        id: SPLIT-SET-PAIR-SENTENCE.
        label: whether it is true of them.
    """

    id: str
    label: bool

    @property
    def picture_set(self) -> str:
        """Up to four pairs of pictures that were collected together, and share their sentences."""
        return "-".join(self.id.split("-")[:2])

    @property
    def sentence(self) -> str:
        """One sentence of a set; its text alone would not do, since sets share texts."""
        split, number, _, sentence = self.id.split("-")
        return f"{split}-{number}-{sentence}"


def nlvr2_figures(statements: Sequence[Statement], answers: Mapping[str, bool]) -> TaskFigures:
    """Accuracy, and consistency: the share of sentences that are judged right of every pair they were written for.

    The bootstrap draws sets of pictures: a sentence is about several pairs of its set.

    Args:
        answers: by statement id, one for every statement.
    """
    right = [answers[one.id] == one.label for one in statements]
    sentences: dict[str, bool] = {}
    set_of = {one.sentence: one.picture_set for one in statements}
    for one, is_right in zip(statements, right, strict=True):
        sentences[one.sentence] = sentences.get(one.sentence, True) and is_right
    sets = [one.picture_set for one in statements]
    return TaskFigures(
        task="nlvr2",
        protocol=f"{len(statements):,} statements, {len(sentences):,} sentences about {len(set(sets)):,} sets of "
        "pairs of pictures",
        examples=len(statements),
        images=len(set(sets)),
        figures=mean_figures(
            {
                "accuracy": Group(sets, np.array(right, np.float64)),
                "consistency": Group(
                    [set_of[sentence] for sentence in sentences], np.array(list(sentences.values()), np.float64)
                ),
            }
        ),
    )


ACCURACY = Measure(name="accuracy", label="accuracy", decimals=2)
CONSISTENCY = Measure(
    name="consistency",
    label="consistency",
    decimals=2,
    rule="Consistency is the share of sentences that are judged right of every pair of pictures.",
)

TASK = MeasuredTask(
    name="nlvr2",
    subject="accuracy",
    main=ACCURACY,
    brief=(ACCURACY, CONSISTENCY),
    read=figures_reader("nlvr2", (ACCURACY, CONSISTENCY)),
    brief_label="accuracy, consistency",
)
