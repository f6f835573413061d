"""A task that nothing knew before goes through history, trend, fall check and tables by its description alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.commands.app import app
from flows.evaluate import comparison_key
from flows.views.history_text import HistoryResult, history_text
from model.downstream.tasks import TASKS
from tasks.errors import StageError
from tasks.evaluation.history import append_history, read_history
from tasks.evaluation.trend import check_fall, comparison_sentence, comparison_table, trend
from tasks.records import HistoryRow
from tasks.reports.history import history_section
from tasks.storage.paths import HISTORY
from tasks.storage.root import Root
from tests.page import Page


@pytest.fixture(autouse=True)
def dots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TASKS, "dots", "tests.toy_task")


def row(error: float, checkpoint: int, task: str = "dots", **metrics: float) -> HistoryRow:
    return HistoryRow(
        task=task,
        setting="pretrain+finetune",
        run="finetune-0123456789ab",
        dataset="dots",
        split="val",
        seed=0,
        metrics={"pictures": 1000, "error": error, "accuracy": 1 - error / 4, "empty": 0.5} | metrics,
        step=checkpoint,
        checkpoint_fingerprint=str(checkpoint),
        data_fingerprint="d",
        code_version="1",
        created_at=f"2026-01-0{checkpoint}T03:04:05+00:00",
    )


@pytest.fixture
def root(tmp_path: Path) -> Root:
    root = Root(str(tmp_path))
    for checkpoint, error in enumerate((2.0, 1.0, 1.5), 1):
        append_history(root, row(error, checkpoint))
    return root


def test_a_row_names_its_task_and_is_there_once(root: Root) -> None:
    append_history(root, row(2.0, 1))
    lines = (Path(root.uri) / HISTORY).read_text().splitlines()
    assert [json.loads(line)["task"] for line in lines] == ["dots"] * 3
    assert [one.task for one in read_history(root)] == ["dots"] * 3


def test_less_is_better_where_the_task_says_so(root: Root) -> None:
    first, best, last = trend(read_history(root)).points
    assert first.best is None and best.best is first and last.best is best
    assert (best.fall, last.fall) == (-1.0, 0.5)
    check_fall(best, 0.0)
    check_fall(last, 0.5)
    with pytest.raises(StageError) as rose:
        check_fall(last, 0.25)
    assert str(rose.value) == (
        "error rose: pretrain+finetune on dots/val, 1,000 pictures: mean error 1.50 of finetune-0123456789ab step 3 is "
        "0.50 above the best so far, 1.00 of finetune-0123456789ab step 2, made 2026-01-02; max_drop allows 0.25"
    )
    assert comparison_sentence(last) == (
        "mean error 1.50 (lower is better), 0.50 above the best earlier one (finetune-0123456789ab step 2)"
    )
    difference = comparison_table(last)[-1]
    assert difference == {
        "evaluation": "difference",
        "accuracy": -12.5,
        "accuracy without dots": 0.0,
        "mean error": 0.5,
    }


def test_history_tells_it_beside_other_tasks(root: Root) -> None:
    append_history(root, row(1.0, 4, task="ears"))
    append_history(root, row(1.0, 5, surprise=1.0))
    done = CliRunner().invoke(app, ["history", "--root", root.uri], catch_exceptions=False)
    assert done.stdout.splitlines() == [
        "pretrain+finetune on dots/val, 1,000 pictures",
        "                                                          mean  against  against",
        "made at (UTC)     run                    step  accuracy  error   before     best",
        "2026-01-01 03:04  finetune-0123456789ab     1      50.0   2.00                   best",
        "2026-01-02 03:04  finetune-0123456789ab     2      75.0   1.00    -1.00    -1.00 best",
        "2026-01-03 03:04  finetune-0123456789ab     3      62.5   1.50    +0.50    +0.50 rose",
        "trend 094",
        "mean error: first 2.00, best 1.00 (finetune-0123456789ab step 2), last 1.50",
        "",
        "left out, as this program does not know their metrics: 2 rows",
    ]
    printed = CliRunner().invoke(app, ["history", "--root", root.uri, "--json"], catch_exceptions=False).stdout
    (series,) = json.loads(printed)["series"]
    assert (series["task"], series["values"]) == ("dots", [2.0, 1.0, 1.5])
    assert (series["lines"][0]["accuracy"], series["best"]["error"]) == (0.5, 1.0)
    assert history_text(HistoryResult.model_validate_json(printed)) == done.stdout.rstrip("\n")


def test_the_page_charts_what_the_task_shows_in_brief(root: Root) -> None:
    rows = read_history(root)
    html = history_section([*rows, row(1.0, 4, task="ears")], "dots", rows[2])
    assert html.count("<polyline") == 1 and "accuracy, this evaluation ringed" in html
    assert {"accuracy", "62.5", "75.0", "50.0"} <= set(Page(html).text)
    assert "recall" not in html.lower() and "2026-01-04" not in html


def test_an_artifact_is_named_after_what_is_measured() -> None:
    assert comparison_key(row(1.0, 1)) == "error-pretrain-finetune-dots-val"
