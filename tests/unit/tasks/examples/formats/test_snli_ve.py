from __future__ import annotations

import json
from pathlib import Path

import pytest

from tasks.errors import UserError
from tasks.examples.formats.snli_ve import read_hypotheses, read_labels
from tests.task_files import ROWS, text

PAIRS = str(ROWS / "snli_ve_pairs.jsonl")
FIRST = json.loads(text("snli_ve_pairs.jsonl").splitlines()[0])


def write_pairs(folder: Path, *rows: dict[str, object]) -> str:
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_real_rows_are_read() -> None:
    found = read_hypotheses(PAIRS)
    assert len(found.used) == 16 and {one.image for one in found.used} == {"2248275918", "402978771"}
    assert found.used[0].id == "2248275918.jpg#2r1c" and found.used[0].label == "contradiction"


@pytest.mark.parametrize("name", ["Flickr30K_ID", "Flickr30kID", "Flikr30kID"])
def test_the_picture_is_found_under_each_spelling(tmp_path: Path, name: str) -> None:
    row = {key: value for key, value in FIRST.items() if key != "Flickr30K_ID"} | {name: "12.jpg"}
    assert read_hypotheses(write_pairs(tmp_path, row)).used[0].image == "12"


def test_rows_that_the_authors_drop_are_counted(tmp_path: Path) -> None:
    path = write_pairs(
        tmp_path,
        FIRST,
        FIRST | {"pairID": "a", "gold_label": "-"},
        FIRST | {"pairID": "vg_1", "Flickr30K_ID": "vg_2"},
    )
    found = read_hypotheses(path)
    assert len(found.used) == 1
    assert found.dropped == {"no agreed label": ["a"], "no picture of Flickr30K": ["vg_1"]}
    predictions = tmp_path / "predictions.jsonl"
    predictions.write_text(
        "".join(json.dumps({"pairID": one, "label": "neutral"}) + "\n" for one in (FIRST["pairID"], "a"))
    )
    assert read_labels(str(predictions), found, path) == {FIRST["pairID"]: "neutral"}


@pytest.mark.parametrize(
    "first",
    [
        ",pairID,Flickr30kID,hypothesis,gold_label,explanation",
        json.dumps({"pairID": "1", "Explanation_1": "because"}),
    ],
)
def test_e_snli_ve_is_another_data_set(tmp_path: Path, first: str) -> None:
    (tmp_path / "esnlive_dev.csv").write_text(f"{first}\n0,1r1c,1.jpg,A man.,neutral,He is.\n")
    with pytest.raises(UserError, match=r"esnlive_dev\.csv is e-SNLI-VE, another data set"):
        read_hypotheses(str(tmp_path / "esnlive_dev.csv"))


def test_the_word_explanation_in_a_sentence_is_none(tmp_path: Path) -> None:
    assert read_hypotheses(write_pairs(tmp_path, FIRST | {"sentence2": "an explanation, given"})).used


def refused(tmp_path: Path, predictions: str, fields: tuple[str, str] = ("pairID", "label")) -> str:
    (tmp_path / "predictions").write_text(predictions)
    with pytest.raises(UserError) as error:
        read_labels(str(tmp_path / "predictions"), read_hypotheses(PAIRS), PAIRS, fields)
    return str(error.value)


def test_predictions_are_lines_or_tables_under_chosen_names(tmp_path: Path) -> None:
    found = read_hypotheses(PAIRS)
    table = tmp_path / "table.csv"
    table.write_text("score,id,answer\n" + "".join(f"1,{one.id},neutral\n" for one in found.used))
    assert len(read_labels(str(table), found, PAIRS, ("id", "answer"))) == 16
    assert "has no column pairID; its first line is 'score,id,answer'" in refused(tmp_path, table.read_text())
    assert "has rows without label, such as" in refused(tmp_path, '{"pairID": "1", "answer": "neutral"}\n')
    assert "line 2 has 1 cells; its first line has 2" in refused(tmp_path, "pairID,label\n1\n")


def test_labels_are_names(tmp_path: Path) -> None:
    message = refused(tmp_path, "pairID,label\n1,2\n")
    assert "has label '2'; expected one of entailment, neutral, contradiction; programs number labels dif" in message
    assert "'maybe'; expected one of entailment, neutral, contradiction" in refused(tmp_path, "pairID,label\n1,maybe\n")


def test_part_of_the_pairs_is_refused(tmp_path: Path) -> None:
    assert "lacks 15 of the 16" in refused(tmp_path, f"pairID,label\n{FIRST['pairID']},neutral\n")
    assert "lacks 16 of the 16" in refused(tmp_path, "pairID,label\n")
    assert "has no column pairID" in refused(tmp_path, "")
