from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tasks.errors import UserError
from tasks.examples.formats.vcr import COLUMNS, read_items, read_probabilities
from tests.task_files import ROWS, text

SAMPLE = str(ROWS / "vcr_train_sample.jsonl")


def test_a_real_item_is_read() -> None:
    (item,) = read_items(SAMPLE)
    assert (item.id, item.answer, item.rationale) == ("train-0", 1, 1) and "@0.jpg" in item.image


def test_the_test_split_has_no_labels(tmp_path: Path) -> None:
    row = {key: value for key, value in json.loads(text("vcr_train_sample.jsonl")).items() if "label" not in key}
    (tmp_path / "test.jsonl").write_text(json.dumps(row))
    with pytest.raises(UserError, match="annot_id train-0 has no labels, as in the test split"):
        read_items(str(tmp_path / "test.jsonl"))


def table(*rows: list[str], header: list[str] | None = None) -> str:
    return "".join(",".join(row) + "\n" for row in (header or list(COLUMNS), *rows))


def test_columns_are_found_by_their_names(tmp_path: Path) -> None:
    assert len(COLUMNS) == 21 and COLUMNS[-1] == "rationale_conditioned_on_a3_3"
    values = [f"{number / 100:.2f}" for number in range(20)]
    header, row = list(COLUMNS), ["train-0", *values]
    (tmp_path / "a.csv").write_text(table(row, header=header))
    (tmp_path / "b.csv").write_text(table(row[::-1], header=header[::-1]))
    for name in ("a.csv", "b.csv"):
        answers, rationales = read_probabilities(str(tmp_path / name), read_items(SAMPLE), SAMPLE)
        assert answers.tolist() == [[0.0, 0.01, 0.02, 0.03]]
        assert np.array_equal(rationales[0, 2], [0.12, 0.13, 0.14, 0.15])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (table(header=list(COLUMNS[:-1])), "lacks rationale_conditioned_on_a3_3; its first line names 20 columns"),
        (table(header=[*COLUMNS, "split"]), "has a column too many; its first line names 22 columns, expected 21"),
        (table(["train-0", *["0.5"] * 19]), "line 2 has 20 cells, expected 21"),
        (table(["train-0", *["1.5"] * 20]), "line 2 has '1.5' for a probability"),
        (table(["train-0", *["nan"] * 20]), "line 2 has 'nan' for a probability"),
        (table(["train-0", *["x"] * 20]), "line 2 has 'x' for a probability"),
        (table(["train-1", *["0"] * 20]), "lacks 1 of the 1 that"),
        (table(["train-0", *["0"] * 20], ["train-0", *["0"] * 20]), "has annot_id train-0 twice"),
        ("", "lacks annot_id; its first line names 0 columns"),
    ],
)
def test_wrong_predictions_are_named(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "predictions.csv").write_text(content)
    with pytest.raises(UserError) as error:
        read_probabilities(str(tmp_path / "predictions.csv"), read_items(SAMPLE), SAMPLE)
    assert message in str(error.value)
