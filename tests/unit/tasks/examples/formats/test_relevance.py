from __future__ import annotations

from pathlib import Path

import pytest

from tasks.errors import UserError
from tasks.examples.formats.relevance import AdvertisementColumns, ScoreColumns, read_advertisements, read_scores
from tests.task_files import ROWS

ADS = str(ROWS / "ads_rows.tsv")


def test_rows_of_the_published_table_are_read() -> None:
    found = read_advertisements(ADS, AdvertisementColumns())
    assert [one.is_relevant for one in found] == [True, False, True, False, True]
    assert (found[0].id, found[0].image) == ("2935782 1942925", "2935782")


def test_columns_may_have_names_and_no_text_is_missing(tmp_path: Path) -> None:
    (tmp_path / "ads.csv").write_text('key,query,relevant\n1,"None, ever",1\nNA,"a ""b""",0\n')
    columns = AdvertisementColumns(("key",), "key", "relevant")
    found = read_advertisements(str(tmp_path / "ads.csv"), columns)
    assert [(one.id, one.is_relevant) for one in found] == [("1", True), ("NA", False)]
    (tmp_path / "scores.csv").write_text("score,key\n2,NA\n1e-3,1\n")
    scores = read_scores(str(tmp_path / "scores.csv"), found, "ads.csv", ScoreColumns(("key",), "score"))
    assert scores == {"NA": 2.0, "1": 0.001}
    assert read_scores(str(tmp_path / "scores.csv"), found, "ads.csv", ScoreColumns(("key",), "0")) == scores


def test_quotes_are_characters_in_a_table_with_tabs(tmp_path: Path) -> None:
    (tmp_path / "ads.tsv").write_text('1\t5" screen\t1\n2\t"big\t0\n')
    found = read_advertisements(str(tmp_path / "ads.tsv"), AdvertisementColumns(("0",), "1", "2"))
    assert [one.image for one in found] == ['5" screen', '"big']


def test_scores_may_come_row_by_row(tmp_path: Path) -> None:
    found = read_advertisements(ADS, AdvertisementColumns(id=None))
    (tmp_path / "scores.txt").write_text("0.5\n0.25\n1\n2\n3\n")
    columns = ScoreColumns(id=None, score="0")
    assert read_scores(str(tmp_path / "scores.txt"), found, ADS, columns)[found[1].id] == 0.25
    (tmp_path / "scores.txt").write_text("0.5\n0.25\n")
    with pytest.raises(UserError, match=r"has 2 rows and .*ads_rows.tsv 5; by rows"):
        read_scores(str(tmp_path / "scores.txt"), found, ADS, columns)


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ("2935782\t1942925\thigh\n", "line 1 has 'high' for a score"),
        ("2935782\t1942925\tinf\n", "line 1 has 'inf' for a score"),
        ("2935782\t1942925\n", "line 1 of scores has 2 cells, so no column 2, counted from 0"),
        ("2935782\t1942925\t1\n", "lacks 4 of the 5 that"),
        ("2935782\t1942925\t1\n2935782\t1942925\t2\n", "has pair 2935782 1942925 twice"),
    ],
)
def test_wrong_scores_are_named(tmp_path: Path, scores: str, message: str) -> None:
    (tmp_path / "scores.tsv").write_text(scores)
    with pytest.raises(UserError) as error:
        read_scores(str(tmp_path / "scores.tsv"), read_advertisements(ADS, AdvertisementColumns()), ADS, ScoreColumns())
    assert message in str(error.value)


def test_wrong_columns_are_named() -> None:
    with pytest.raises(UserError, match="line 1 has label 'Klutch' in column 7; expected 1 where relevant, else 0"):
        read_advertisements(ADS, AdvertisementColumns(label="7"))
    with pytest.raises(UserError, match="has no column 'label'; its first line is"):
        read_advertisements(ADS, AdvertisementColumns(label="label"))
    with pytest.raises(UserError, match="so no column 12"):
        read_advertisements(ADS, AdvertisementColumns(label="12"))
