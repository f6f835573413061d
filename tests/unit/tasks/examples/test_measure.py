"""Whole files of published rows: the values that official evaluators, and pycocotools, give for simple predictions."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from model.downstream.vqa.answers import answer_accuracy, normal_form, plain_form
from tasks.examples.measure import Measurement, measure_nlvr2, measure_refcoco, measure_vqa
from tests.task_files import ROWS, Box, nlvr2_rows, text, vqa_rows, write_json, write_refcoco

ANSWERED: dict[str, tuple[Callable[[dict[str, Any]], str], tuple[float, ...]]] = {
    "the most common answer": (lambda row: row["multiple_choice_answer"], (96.61, 93.43, 100.0, 96.54)),
    "yes": (lambda row: "yes", (20.85, 1.06, 62.19, 0.20)),
    "two": (lambda row: "two", (6.61, 0.11, 0.05, 19.97)),
    "the first annotator's": (lambda row: row["answers"][0]["answer"], (87.22, 77.80, 97.00, 87.30)),
    "capitals and a full stop": (lambda row: f"{row['multiple_choice_answer'].upper()}.", (61.50, 75.10, 47.06, 61.73)),
    "with an article": (lambda row: f"the {row['multiple_choice_answer']}", (61.50, 75.10, 47.06, 61.73)),
}
"""What is answered, and the accuracy over all questions, other, yes/no and number."""


def percent(found: Measurement, name: str) -> float:
    return round(100 * found.metrics.figures[name].value, 2)


def write_answers(folder: Path, answer: Callable[[dict[str, Any]], str]) -> str:
    results = [{"question_id": row["question_id"], "answer": answer(row)} for row in vqa_rows()]
    return write_json(folder / "results.json", results)


def by_type(found: Measurement) -> tuple[float, ...]:
    kinds = ("answer_type/other", "answer_type/yes/no", "answer_type/number")
    return tuple(percent(found, name) for name in ("accuracy", *kinds))


@pytest.mark.parametrize("rule", list(ANSWERED))
def test_vqa_is_to_the_digit_the_official_evaluators(tmp_path: Path, rule: str) -> None:
    answer, expected = ANSWERED[rule]
    found = measure_vqa(write_answers(tmp_path, answer), str(ROWS / "vqa_annotations.json.xz"))
    assert by_type(found) == expected and found.metrics.examples == 8977
    for accuracy in {"the most common answer": {97.42}, "two": {23.71}}.get(rule, ()):
        assert percent(found, "question_type/how many") == accuracy


def test_the_best_answers_of_the_3129_reach_their_ceiling(tmp_path: Path) -> None:
    known = set(json.loads(text("vqa_answer_list.json.xz")))

    def best(row: dict[str, Any]) -> str:
        given = [one["answer"] for one in row["answers"]]
        likely = {form(one) for one in given for form in (plain_form, normal_form)} & known
        return max(sorted(likely), key=lambda one: answer_accuracy(one, given), default="yes")

    found = measure_vqa(write_answers(tmp_path, best), str(ROWS / "vqa_annotations.json.xz"))
    assert by_type(found) == (93.07, 87.02, 100.0, 92.48)


@pytest.mark.parametrize(
    ("rule", "accuracy", "consistency"),
    [
        (lambda row: True, 0.5, 0.157706),
        (lambda row: "left" in row["sentence"], 0.502174, 0.160394),
        (lambda row: (row["label"] == "True") != (row["identifier"].split("-")[2] == "3"), 0.740870, 0.465950),
        (lambda row: row["label"] == "True", 1.0, 1.0),
    ],
)
def test_nlvr2_is_to_the_digit_the_official_scripts(
    tmp_path: Path, rule: Callable[[dict[str, str]], bool], accuracy: float, consistency: float
) -> None:
    predictions = tmp_path / "predictions.csv"
    predictions.write_text("".join(f"{row['identifier']},{rule(row)}\n" for row in nlvr2_rows()))
    figures = measure_nlvr2(str(predictions), str(ROWS / "nlvr2_balanced_dev.json.xz")).metrics.figures
    assert (round(figures["accuracy"].value, 6), round(figures["consistency"].value, 6)) == (accuracy, consistency)
    assert (figures["accuracy"].examples, figures["consistency"].examples) == (2300, 1116)


@pytest.mark.parametrize(
    ("name", "pick", "hits", "expressions"),
    [
        ("refcoco_unc_val", "largest", 4432, 10834),
        ("refcoco_unc_val", "leftmost", 4397, 10834),
        ("refcoco+_unc_testB", "largest", 2149, 4889),
        ("refcoco+_unc_testB", "leftmost", 2114, 4889),
        ("refcocog_umd_val", "largest", 2562, 4896),
        ("refcocog_umd_val", "leftmost", 2544, 4896),
    ],
)
def test_refcoco_finds_as_many_as_pycocotools(
    tmp_path: Path, name: str, pick: str, hits: int, expressions: int
) -> None:
    rules: dict[str, Callable[[Box], float]] = {"largest": lambda box: -box[2] * box[3], "leftmost": lambda box: box[0]}
    predictions, refs, instances = write_refcoco(tmp_path, name, rules[pick])
    found = measure_refcoco(predictions, refs, instances, "val", None, "above", "plain").metrics
    assert found.examples == expressions
    assert round(found.figures["accuracy"].value * expressions, 6) == hits
