"""VQA v2's published files: annotations, and results as its leaderboard takes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, TypeAdapter

from model.downstream.vqa.measures import Question
from tasks.examples.formats.files import PublishedRow, check_complete, read_json, unique


def _texts(answers: Any) -> Any:
    """Texts of annotators' answers, ten objects a row; what is none of these is left as it is, to be refused.

    Two million objects of their own, those of a whole split, would take three times as long to read.
    """
    if not isinstance(answers, list):
        return answers
    return [one.get("answer") if isinstance(one, dict) else one for one in answers]


class _Annotation(PublishedRow):
    question_id: int
    image_id: int | str
    answers: Annotated[list[str], BeforeValidator(_texts)] = Field(min_length=1)
    answer_type: str
    question_type: str


class _Annotations(PublishedRow):
    annotations: list[_Annotation] = Field(min_length=1)


class _Result(PublishedRow):
    question_id: int
    answer: str


def read_questions(uri: str) -> list[Question]:
    """Read `v2_mscoco_*_annotations.json`."""
    rows = read_json(uri, "VQA annotations", TypeAdapter(_Annotations)).annotations
    unique([row.question_id for row in rows], uri, "question_id")
    return [
        Question(
            id=row.question_id,
            image=str(row.image_id),
            answers=tuple(row.answers),
            answer_type=row.answer_type,
            question_type=row.question_type,
        )
        for row in rows
    ]


def read_answers(uri: str, questions: Sequence[Question], annotations: str) -> dict[int, str]:
    """Read results `[{"question_id": 1, "answer": "yes"}]`, which must be of exactly these questions."""
    rows = read_json(uri, "VQA results", TypeAdapter(list[_Result]))
    ids = [row.question_id for row in rows]
    unique(ids, uri, "question_id")
    check_complete(ids, [one.id for one in questions], (uri, annotations), "question_id")
    return {row.question_id: row.answer for row in rows}
