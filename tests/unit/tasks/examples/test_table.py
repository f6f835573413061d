"""Examples are read as they were written, joined to their images, and refused by row and field."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model.data.examples import FORMAT, SCHEMA, load_examples
from model.errors import InputError
from tasks.examples.table import ExamplesReceipt, write_examples
from tasks.storage.paths import examples_path, examples_receipt_path
from tasks.storage.root import Root

GOLDEN = Path(__file__).parents[3] / "golden" / "examples-1.parquet"
ROWS: list[dict[str, Any]] = [
    {"id": "q1", "image_keys": ["a"], "texts": ["is it red"], "raw_id": "1", "target_index": 7},
    {
        "id": "q2",
        "image_keys": ["b", "a"],
        "texts": ["one", "two"],
        "raw_id": "2",
        "target_answers": [{"answer": "red", "score": 1.0}, {"answer": "", "score": 0.5}],
    },
    {
        "id": "q3",
        "image_keys": ["b"],
        "texts": ["the cat"],
        "boxes": [[0, 0, 5, 5], [1, 2, 3, 4]],
        "choices": ["x", "y"],
        "target_box": 1,
        "raw_id": "3",
    },
    {"id": "q4", "image_keys": ["gone"], "texts": ["where"], "raw_id": "4"},
]


def check(path: Path) -> None:
    examples = load_examples(path, ["a", "b"])
    assert list(examples.ids) == ["q1", "q2", "q3"] and list(examples.missing) == ["q4"]
    assert examples.image_rows.tolist() == [[0, -1], [1, 0], [1, -1]]
    assert [list(texts) for texts in examples.texts] == [["is it red"], ["one", "two"], ["the cat"]]
    assert examples.target_index.tolist() == [7, -1, -1] and examples.target_box.tolist() == [-1, -1, 1]
    assert examples.target_answers == [[], [("red", 1.0), ("", 0.5)], []]
    assert examples.boxes[0] is None
    np.testing.assert_array_equal(examples.boxes[2], np.array([[0, 0, 5, 5], [1, 2, 3, 4]], np.float32))
    assert [list(choices) for choices in examples.choices] == [[], [], ["x", "y"]]


def test_a_table_is_read_as_it_was_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = Root(str(tmp_path))
    receipt = write_examples(root, "toy", "dogs", "val", ROWS, {"no picture": 2})
    with caplog.at_level(logging.WARNING):
        check(tmp_path / examples_path("dogs", "val"))
    assert "1 of 4 examples are left out" in caplog.text and caplog.text.rstrip().endswith("q4")
    assert root.read_model(examples_receipt_path("dogs", "val"), ExamplesReceipt) == receipt
    assert (receipt.format, receipt.used, receipt.dropped) == (FORMAT, 4, {"no picture": 2})


def test_a_table_of_before_still_reads() -> None:
    check(GOLDEN)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"id": "q1"}, "row 1 ('q1'): id comes twice"),
        ({"image_keys": []}, "row 1 ('x'): image_keys is []; it needs one or two keys"),
        ({"image_keys": ["a", "b", "c"]}, "image_keys is ['a', 'b', 'c']"),
        ({"texts": []}, "texts is []; it needs one or more"),
        ({"boxes": [[3, 0, 3, 5]]}, "boxes has [3, 0, 3, 5]"),
        ({"target_index": 2, "choices": ["a", "b"]}, "target_index is 2; it must be from 0 to 1"),
        ({"target_box": 0}, "target_box is set but boxes is not"),
        ({"target_index": 0, "target_box": 0, "boxes": [[0, 0, 1, 1]]}, "target_index and target_box are both set"),
        ({"target_answers": [{"answer": "a", "score": 2.0}]}, "a score that is not from 0 to 1"),
    ],
)
def test_a_wrong_row_is_named_and_nothing_is_written(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    row = {"id": "x", "image_keys": ["a"], "texts": ["t"], "raw_id": "9"} | change
    with pytest.raises(InputError) as refused:
        write_examples(Root(str(tmp_path)), "toy", "dogs", "val", [ROWS[0], row])
    assert said in str(refused.value) and str(refused.value).startswith("examples of dogs/val, row 1")
    assert not (tmp_path / examples_path("dogs", "val")).exists()


def test_another_file_is_no_table_of_examples(tmp_path: Path) -> None:
    path = tmp_path / "examples.parquet"
    with pytest.raises(InputError, match="there is no table of examples"):
        load_examples(path, ["a"])
    path.write_bytes(b"nonsense")
    with pytest.raises(InputError, match="cannot be read"):
        load_examples(path, ["a"])
    pq.write_table(pa.table({"id": ["a"]}), path)
    with pytest.raises(InputError, match="says no format, not examples/1"):
        load_examples(path, ["a"])
    pq.write_table(pa.table({"id": [1]}).replace_schema_metadata({"format": FORMAT}), path)
    with pytest.raises(InputError, match="column id holds int64, not string"):
        load_examples(path, ["a"])
    pq.write_table(pa.Table.from_pylist([], schema=SCHEMA), path)
    with pytest.raises(InputError, match="none of 0 examples has its images"):
        load_examples(path, ["a"])
