from __future__ import annotations

from pathlib import Path

from tasks.reports.outcomes import outcomes_section, read_outcomes
from tasks.storage.root import Root
from tests.page import Page
from tests.scored import publish_data


def test_lost_rows_are_counted_per_split() -> None:
    html = outcomes_section({"web/train": {"ok": 90, "not_found": 7, "timeout": 3}, "test/test": {"ok": 5}})
    assert "web/train: 10 of 100 rows lost (10.0%)" in html
    assert "7 (7.00%)" in html and "3 (3.00%)" in html
    assert '<th scope="row">rows</th><td>100</td><td>5</td>' in html
    assert '<th scope="row">not_found</th><td>7</td><td>0</td>' in html
    assert "test/test: " not in html


def test_nothing_lost_is_said_and_nothing_downloaded_is_nothing() -> None:
    assert "No row was lost." in outcomes_section({"web/train": {"ok": 90}})
    assert outcomes_section({}) == ""


def test_names_are_escaped() -> None:
    evil = "<script>"
    assert "script" not in Page(outcomes_section({evil: {"ok": 1, evil: 1}})).tags


def test_outcomes_come_from_receipts(tmp_path: Path) -> None:
    root = Root(str(tmp_path))
    publish_data(root, [(0, "a caption")])
    found = read_outcomes(root, ["photos/train", "gone/train"])
    assert found == {"photos/train": {"ok": 1, "not_found": 3, "timeout": 1}}
