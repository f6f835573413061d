"""VQA's soft accuracy and its normal form: values of the official evaluator, and a slow obvious twin."""

from __future__ import annotations

import json

import pytest

from model.downstream.vqa.answers import answer_accuracy, normal_form, plain_form
from tests.task_files import text, vqa_rows


def slow_accuracy(answer: str, given: list[str]) -> float:
    """Annotator by annotator, as the evaluator describes it."""
    answer, given = plain_form(answer), [plain_form(one) for one in given]
    if len(set(given)) > 1:
        answer, given = normal_form(answer), [normal_form(one) for one in given]
    accuracies = []
    for place in range(len(given)):
        others = given[:place] + given[place + 1 :]
        accuracies.append(min(1, others.count(answer) / 3))
    return sum(accuracies) / len(accuracies)


@pytest.mark.parametrize(
    ("written", "normal"),
    [
        ("1,000", "1000"),
        ("2.5", "2.5"),
        ("3.", "3"),
        ("u.s.", "us"),
        ("black, white", "black white"),
        ("left/right", "left right"),
        ("t-shirt", "t shirt"),
        ("none", "0"),
        ("no.1", "no.1"),
        ("1,000-2,000", "10002000"),
        ("10:30 a.m.", "10:30 am"),
        ("a", ""),
        ("Dont", "don't"),
        ("st. louis", "st louis"),
        ("its", "its"),
        ("Twas the couldn'tve", "'twas couldn't've"),
        ("ow's'at somebody'd", "'ow's'at somebodyd"),
        ("Im", "im"),
        ("$5 100% #1", "$5 100% #1"),
        ("a TEN an Eleven", "10 eleven"),
        ("." * 33 + "x", ".x"),
    ],
)
def test_normal_forms(written: str, normal: str) -> None:
    assert normal_form(written) == normal


@pytest.mark.parametrize(
    ("answer", "given", "percent"),
    [
        *(("red", ["red"] * count + ["blue"] * (10 - count), min(30 * count, 100)) for count in range(5)),
        ("Yes", ["yes"] * 10, 0),
        ("yes.", ["yes"] * 10, 0),
        (" yes\n", ["yes"] * 10, 100),
        ("Yes", ["yes"] * 9 + ["no"], 100),
        ("yes.", ["yes"] * 9 + ["no"], 100),
        ("two", ["2"] * 10, 0),
        ("two", ["2"] * 9 + ["3"], 100),
        ("the red car", ["red car"] * 6 + ["car"] * 4, 100),
        ("dont know", ["don't know"] * 4 + ["?"] * 6, 100),
        ("its", ["it's"] * 5 + ["x"] * 5, 0),
        ("", ["a"] * 5 + ["b"] * 5, 100),
        ("black and white", ["black and white"] * 3 + ["black, white"] * 7, 90),
    ],
)
def test_worked_accuracies(answer: str, given: list[str], percent: float) -> None:
    assert 100 * answer_accuracy(answer, given) == pytest.approx(percent)
    assert answer_accuracy(answer, given) == pytest.approx(slow_accuracy(answer, given))


def test_the_closed_form_is_leave_one_out_on_real_answers() -> None:
    for row in vqa_rows()[::40]:
        given = [one["answer"] for one in row["answers"]]
        for answer in {*given, "yes", "2"}:
            assert answer_accuracy(answer, given) == pytest.approx(slow_accuracy(answer, given))


def test_answers_of_the_list_are_normal_forms() -> None:
    answers = json.loads(text("vqa_answer_list.json.xz"))
    assert len(answers) == 3129 and [answer for answer in answers if normal_form(answer) != answer] == []


def test_vl_bert_cleans_its_list_to_the_same_forms() -> None:
    values = json.loads(text("vlbert_values.json"))
    lines = zip(values["answer_lines"], values["answers_after_cleaning"], strict=True)
    pairs = [(line, cleaned) for line, cleaned in lines if line != "<unk>"]
    assert len(pairs) == 9 and [normal_form(line) for line, _ in pairs] == [cleaned for _, cleaned in pairs]
