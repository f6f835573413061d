from __future__ import annotations

import pytest

from model.downstream.vqa.measures import Question, vqa_figures


def test_each_kind_of_question_has_its_mean() -> None:
    questions = [
        Question(1, "7", ("yes",) * 9 + ("no",), "yes/no", "is the"),
        Question(2, "7", ("2",) * 3 + ("3",) * 7, "number", "how many"),
        Question(3, "8", ("red",) * 10, "other", "what color"),
        Question(4, "8", ("a dog",) * 4 + ("cat",) * 6, "other", "what color"),
    ]
    found = vqa_figures(questions, {1: "no", 2: "two", 3: "Red", 4: "dog"})
    values = {name: figure.value for name, figure in found.figures.items()}
    assert values == pytest.approx(
        {
            "accuracy": (0.3 + 0.9 + 0 + 1) / 4,
            "answer_type/yes/no": 0.3,
            "answer_type/number": 0.9,
            "answer_type/other": 0.5,
            "question_type/is the": 0.3,
            "question_type/how many": 0.9,
            "question_type/what color": 0.5,
        }
    )
    assert next(iter(values)) == "accuracy" and (found.examples, found.images) == (4, 2)
    assert found.figures["answer_type/other"].examples == 2
