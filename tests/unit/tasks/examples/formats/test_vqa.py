from __future__ import annotations

import json
from pathlib import Path

import pytest

from tasks.errors import UserError
from tasks.examples.formats.vqa import read_answers, read_questions
from tests.task_files import ROWS, write_json

OFFICIAL = str(ROWS / "vqa_official_rows.json")


def test_the_official_layout_is_read() -> None:
    first, second = read_questions(OFFICIAL)
    assert len(first.answers) == len(second.answers) == 10
    assert {first.image, second.image} == {"212679", "578174"}


def results() -> list[dict[str, object]]:
    return [{"question_id": one.id, "answer": "yes"} for one in read_questions(OFFICIAL)]


def refused(tmp_path: Path, content: object) -> str:
    path = content if isinstance(content, str) else json.dumps(content)
    (tmp_path / "results.json").write_text(path)
    with pytest.raises(UserError) as error:
        read_answers(str(tmp_path / "results.json"), read_questions(OFFICIAL), OFFICIAL)
    return str(error.value)


def test_results_are_of_every_question_or_refused(tmp_path: Path) -> None:
    whole = results()
    path = write_json(tmp_path / "whole.json", whole)
    assert len(read_answers(path, read_questions(OFFICIAL), OFFICIAL)) == 2
    assert f"lacks 1 of the 2 that {OFFICIAL} annotates, such as question_id" in refused(tmp_path, whole[:1])
    assert "lacks 2 of the 2" in refused(tmp_path, [])
    assert "has 1 that" in refused(tmp_path, [*whole, {"question_id": 5, "answer": "no"}])
    assert "twice" in refused(tmp_path, [*whole, whole[0]])


def test_half_a_file_is_none(tmp_path: Path) -> None:
    assert "its JSON breaks off" in refused(tmp_path, json.dumps(results())[:-9])
    assert "its JSON breaks off" in refused(tmp_path, "")


def test_numbers_are_no_texts_and_texts_no_numbers(tmp_path: Path) -> None:
    message = refused(tmp_path, [{"question_id": "1", "answer": "yes"}])
    assert "0.question_id: Input should be a valid integer (it is '1')" in message
    assert "0.answer: Input should be a valid string (it is 2)" in refused(tmp_path, [{"question_id": 1, "answer": 2}])
    assert "0.answer: Field required" in refused(tmp_path, [{"question_id": 1}])
    assert "should be a valid array" in refused(tmp_path, {"results": []}) or "list" in refused(
        tmp_path, {"results": []}
    )


def test_questions_are_no_annotations(tmp_path: Path) -> None:
    path = write_json(tmp_path / "questions.json", {"questions": []})
    with pytest.raises(UserError, match=r"questions\.json holds no VQA annotations: annotations: Field required"):
        read_questions(path)


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ([{"answer": "yes"}, {"text": "no"}], "annotations.0.answers.1: Input should be a valid string (it is None)"),
        ([{"answer": 2}], "annotations.0.answers.0: Input should be a valid string (it is 2)"),
        ("yes", "annotations.0.answers: Input should be a valid array (it is 'yes')"),
        ([], "annotations.0.answers: List should have at least 1 item"),
    ],
)
def test_wrong_answers_of_annotators_are_named(tmp_path: Path, answers: object, message: str) -> None:
    row = {"question_id": 1, "image_id": 2, "answer_type": "other", "question_type": "is", "answers": answers}
    with pytest.raises(UserError) as error:
        read_questions(write_json(tmp_path / "annotations.json", {"annotations": [row]}))
    assert message in str(error.value)
