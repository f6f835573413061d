"""VCR's measures: answers (Q->A), rationales given the true answer (QA->R), and both (Q->AR)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from model.downstream.bootstrap import Values
from model.downstream.figures import Group, TaskFigures, figures_reader, mean_figures
from model.downstream.measures import Measure, MeasuredTask

CHOICES = 4


@dataclass(frozen=True)
class Item:
    """A question with four answers and four rationales.

    Attributes:
        id: annot_id.
        image: img_fn.
        answer: place of the true answer, from 0.
        rationale: place of the true rationale, from 0.
    """

    id: str
    image: str
    answer: int
    rationale: int


def vcr_figures(items: Sequence[Item], answers: Values, rationales: Values) -> TaskFigures:
    """The three accuracies.

    QA->R looks only at the rationales given the true answer. Q->AR asks for both of one item to be right, which is not
    the product of the two. Of equal probabilities the first counts as chosen.

    Args:
        answers: (items, 4) probabilities.
        rationales: (items, 4, 4) probabilities of rationales, given each answer.
    """
    true_answers = np.array([one.answer for one in items])
    true_rationales = np.array([one.rationale for one in items])
    given_truth = rationales[np.arange(len(items)), true_answers]
    answered = answers.argmax(1) == true_answers
    reasoned = given_truth.argmax(1) == true_rationales
    images = [one.image for one in items]
    right = {"q_to_a": answered, "qa_to_r": reasoned, "q_to_ar": answered & reasoned}
    return TaskFigures(
        task="vcr",
        protocol=f"{len(items):,} questions about {len(set(images)):,} pictures",
        examples=len(items),
        images=len(set(images)),
        figures=mean_figures({name: Group(images, values.astype(np.float64)) for name, values in right.items()}),
    )


ANSWERS = Measure(name="q_to_a", label="Q->A", decimals=2)
RATIONALES = Measure(name="qa_to_r", label="QA->R", decimals=2)
BOTH = Measure(
    name="q_to_ar",
    label="Q->AR",
    decimals=2,
    rule="QA->R is of rationales given the true answer; Q->AR asks for both of one question to be right.",
)

TASK = MeasuredTask(
    name="vcr",
    subject="accuracy",
    main=BOTH,
    brief=(ANSWERS, RATIONALES, BOTH),
    read=figures_reader("vcr", (ANSWERS, RATIONALES, BOTH)),
)
