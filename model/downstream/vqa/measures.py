"""VQA's measures: soft accuracy over all questions, by answer type and by question type."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from model.downstream.figures import Group, TaskFigures, figures_reader, mean_figures
from model.downstream.measures import Measure, MeasuredTask
from model.downstream.vqa.answers import answer_accuracy

ANSWER_TYPES = ("yes/no", "number", "other")
PROTOCOL = "soft accuracy by the rules of VQA's official evaluator"


@dataclass(frozen=True)
class Question:
    """A question with its annotators' answers.

    Attributes:
        image: COCO's image id, as text.
        answers: ten.
        answer_type: yes/no, number or other.
        question_type: its first words, such as "how many".
    """

    id: int
    image: str
    answers: tuple[str, ...]
    answer_type: str
    question_type: str


def vqa_figures(questions: Sequence[Question], answers: Mapping[int, str]) -> TaskFigures:
    """Soft accuracy of answers.

    Args:
        answers: by question id, one for every question.
    """
    accuracies = np.array([answer_accuracy(answers[one.id], one.answers) for one in questions])
    images = [one.image for one in questions]
    groups = {"accuracy": Group(images, accuracies)}
    for name, kinds in (
        ("answer_type", [one.answer_type for one in questions]),
        ("question_type", [one.question_type for one in questions]),
    ):
        for kind, rows in _by_kind(kinds):
            groups[f"{name}/{kind}"] = Group([images[row] for row in rows], accuracies[rows])
    return TaskFigures(
        task="vqa",
        protocol=f"{PROTOCOL}: {len(questions):,} questions about {len(set(images)):,} pictures",
        examples=len(questions),
        images=len(set(images)),
        figures=mean_figures(groups),
    )


def _by_kind(kinds: Sequence[str]) -> Iterator[tuple[str, list[int]]]:
    """The rows of each kind, in alphabetical order."""
    rows: dict[str, list[int]] = {}
    for row, kind in enumerate(kinds):
        rows.setdefault(kind, []).append(row)
    yield from sorted(rows.items())


ACCURACY = Measure(
    name="accuracy",
    label="accuracy",
    decimals=2,
    rule="An answer is as right as annotators agree with it: a third for each of the nine others, at most 1.",
)
BY_ANSWER_TYPE = tuple(
    Measure(name=f"answer_type/{kind}", label=f"{kind} questions", group="by answer type", head=kind, decimals=2)
    for kind in ANSWER_TYPES
)

TASK = MeasuredTask(
    name="vqa",
    subject="accuracy",
    main=ACCURACY,
    brief=(ACCURACY,),
    read=figures_reader("vqa", (ACCURACY, *BY_ANSWER_TYPE)),
    others=BY_ANSWER_TYPE,
)
