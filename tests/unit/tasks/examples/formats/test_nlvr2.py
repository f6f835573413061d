from __future__ import annotations

from pathlib import Path

import pytest

from tasks.errors import UserError
from tasks.examples.formats.nlvr2 import read_statements, read_truths

ROWS = '{"identifier": "dev-1-0-0", "label": "True"}\n\n{"identifier": "dev-1-1-0", "label": "False", "writer": "3"}\n'


def read(folder: Path, predictions: str, rows: str = ROWS) -> dict[str, bool]:
    (folder / "dev.json").write_text(rows)
    (folder / "predictions.csv").write_text(predictions)
    statements = read_statements(str(folder / "dev.json"))
    return read_truths(str(folder / "predictions.csv"), statements, "dev.json")


def test_predictions_are_read_in_any_case(tmp_path: Path) -> None:
    assert read(tmp_path, "dev-1-1-0,TRUE\ndev-1-0-0,false\n") == {"dev-1-0-0": False, "dev-1-1-0": True}


@pytest.mark.parametrize(
    ("predictions", "message"),
    [
        ("dev-1-0-0,True\n", "lacks 1 of the 2 that dev.json annotates, such as identifier dev-1-1-0"),
        ("identifier,prediction\ndev-1-0-0,True\n", "line 1 is 'identifier,prediction'; expected identifier,True"),
        ("dev-1-0-0,1\n", "line 1 is 'dev-1-0-0,1'"),
        ("dev-1-0-0,True\ndev-1-0-0,False\n", "has identifier dev-1-0-0 twice"),
        ("dev-1-0-0,True\ndev-1-1-0,False\ntest1-1-1-0,True\n", "has 1 that dev.json does not annotate"),
        ('dev-1-0-0,"True\n', "line 1 of NLVR2 predictions cannot be read"),
    ],
)
def test_wrong_predictions_are_named(tmp_path: Path, predictions: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        read(tmp_path, predictions)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ('{"identifier": "dev-1-0-0", "label": true}\n', "line 1 is none of NLVR2 statements: label"),
        ('{"identifier": "dev-1", "label": "True"}\n', "line 1 is none of NLVR2 statements: identifier"),
        ('{"identifier": "dev-1-0-0"}\n', "label: Field required"),
        ("[1, 2]\n", "line 1 is none of NLVR2 statements: its whole"),
        ("", "holds no NLVR2 statement"),
    ],
)
def test_wrong_statements_are_named(tmp_path: Path, rows: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        read(tmp_path, "", rows)
    assert message in str(error.value)
