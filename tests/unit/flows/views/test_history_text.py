"""The history for people: series of comparable evaluations, what fell, and a trend; readable at 100 columns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from flows.commands.app import app
from flows.views.history_text import HistoryFilter, HistoryResult, history_text, read_series, trend_line
from tasks.errors import UserError
from tasks.evaluation.history import append_history
from tasks.records import HistoryRow, Stage
from tasks.storage.paths import HISTORY
from tasks.storage.root import Root


def add(root: Root, number: int, recall: float, setting: str = "zero-shot", **changes: Any) -> None:
    recalls = {"1": recall, "5": recall, "10": recall}
    fields = {
        "setting": setting,
        "run": f"{'pretrain' if setting == 'zero-shot' else 'finetune'}-0123456789ab",
        "dataset": "retrieval",
        "split": "test",
        "seed": 0,
        "metrics": {
            "images": 1000,
            "captions": 5000,
            "image_to_text_recall": recalls,
            "text_to_image_recall": recalls,
            "image_to_text_median_rank": 1,
            "text_to_image_median_rank": 1,
        },
        "stage": Stage.PRETRAIN,
        "step": 1000 * number,
        "checkpoint_fingerprint": str(number),
        "data_fingerprint": "d",
        "code_version": "1",
        "created_at": f"2026-01-{1 + number % 28:02d}T03:04:05+00:00",
    }
    append_history(root, HistoryRow.model_validate(fields | changes))


@pytest.fixture
def root(tmp_path: Path) -> Root:
    root = Root(str(tmp_path))
    for number, recall in enumerate((0.5, 0.6, 0.55, 0.7)):
        add(root, number, recall)
    add(root, 100, 0.9, "pretrain+finetune")
    return root


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["history", *arguments], catch_exceptions=False)


def test_the_table_tells_changes_falls_and_the_trend(root: Root) -> None:
    result = run("--root", root.uri)
    assert result.exit_code == 0
    zero_shot, finetuned = result.stdout.rstrip().split("\n\n")
    assert zero_shot.splitlines() == [
        "zero-shot on retrieval/test, 1,000 images x 5,000 captions",
        "                                                image-to    text-to  recall  against  against",
        "made at (UTC)     run                     step  text R@1  image R@1     sum   before     best",
        "2026-01-01 03:04  pretrain-0123456789ab      0      50.0       50.0   300.0                   best",
        "2026-01-02 03:04  pretrain-0123456789ab  1,000      60.0       60.0   360.0    +60.0    +60.0 best",
        "2026-01-03 03:04  pretrain-0123456789ab  2,000      55.0       55.0   330.0    -30.0    -30.0 fell",
        "2026-01-04 03:04  pretrain-0123456789ab  3,000      70.0       70.0   420.0    +90.0    +60.0 best",
        "trend 0429",
        "recall sum: first 300.0, best 420.0 (pretrain-0123456789ab step 3,000), last 420.0",
    ]
    assert finetuned.splitlines()[0] == "pretrain+finetune on retrieval/test, 1,000 images x 5,000 captions"


def test_two_hundred_evaluations_are_read_at_once_and_the_trend_fits(tmp_path: Path) -> None:
    root = Root(str(tmp_path))
    for number in range(1, 201):
        add(root, number, 0.2 if number == 150 else number / 400)
    text = run("--root", root.uri, "--last", "5").stdout
    lines = text.splitlines()
    assert [line.split()[3] for line in lines[3:8]] == ["196,000", "197,000", "198,000", "199,000", "200,000"]
    assert lines[8] == "(195 earlier)"
    digits = lines[9].removeprefix("trend ")
    assert len(digits) == 60 and digits[0] == "0" and digits[-1] == "9"
    assert digits[44] < digits[43] and digits[44] < digits[45]  # 150 of 200 is in the 45th of 60: the fall is seen
    assert max(map(len, lines)) <= 100
    assert len(run("--root", root.uri).stdout.splitlines()) == 200 + 5


def test_a_line_that_a_kill_has_cut_is_left_out(root: Root, tmp_path: Path) -> None:
    whole = run("--root", root.uri).stdout
    with (tmp_path / HISTORY).open("ab") as stream:
        stream.write(b'{"setting": "zero-sh')
    assert run("--root", root.uri).stdout == whole


def test_filters_choose_and_changes_stay_as_they_were(root: Root) -> None:
    (series,) = read_series(root, HistoryFilter(setting="zero-shot", last=1)).series
    (line,) = series.lines
    assert (line.against_before, line.against_best) == (pytest.approx(0.9), pytest.approx(0.6))
    assert len(series.values) == 4
    (series,) = read_series(root, HistoryFilter(run="finetune")).series
    assert series.name.startswith("pretrain+finetune on")
    assert len(read_series(root, HistoryFilter(on="retrieval/test")).series) == 2


def test_a_filter_that_finds_nothing_names_what_there_is(root: Root) -> None:
    with pytest.raises(UserError, match=r"no evaluation with --on web/test; --on has retrieval/test$"):
        read_series(root, HistoryFilter(on="web/test"))
    result = run("--root", root.uri, "--run", "x", "--setting", "zero-shot")
    assert result.exit_code == 2
    assert "--run has finetune-0123456789ab, pretrain-0123456789ab; --setting has pretrain+finetune" in result.stderr


def test_an_empty_history_says_what_to_run(tmp_path: Path) -> None:
    result = run("--root", str(tmp_path / "none"))
    assert result.exit_code == 0
    assert f"run: unicoder-vl evaluate --run RUN --on DATASET/SPLIT --root {tmp_path / 'none'}" in result.stdout
    assert not (tmp_path / "none").exists()


def test_json_holds_what_the_text_tells(root: Root) -> None:
    result = HistoryResult.model_validate_json(run("--root", root.uri, "--json").stdout)
    assert history_text(result) == run("--root", root.uri).stdout.rstrip("\n")
    assert [line.row.step for line in result.series[0].lines] == [0, 1000, 2000, 3000]


def test_rows_of_another_kind_are_told(root: Root) -> None:
    add(root, 7, 0.5, metrics={"accuracy": 1})
    assert "left out, as this program does not know their metrics: 1 rows" in run("--root", root.uri).stdout


@pytest.mark.parametrize(
    ("values", "digits"),
    [([0.5], "9"), ([0.5, 0.5], "99"), ([1.0, 2.0], "09"), ([0, 1, 2, 3, 4, 5, 6, 7, 8, 9], "0123456789")],
)
def test_a_digit_a_value(values: list[float], digits: str) -> None:
    assert trend_line(values) == digits


def test_of_more_values_than_columns_the_lowest_of_neighbours_stays() -> None:
    assert trend_line([9, 5, 1, 9, 9, 9, 9], width=3) == "409"  # 9 5 | 1 9 | 9 9 9


def test_json_has_retrievals_values_under_the_names_of_before(root: Root) -> None:
    series = json.loads(run("--root", root.uri, "--json").stdout)["series"][0]
    assert series["recall_sums"] == series["values"] == pytest.approx([3.0, 3.6, 3.3, 4.2])
    assert series["best"]["recall_sum"] == pytest.approx(4.2)
    assert (series["lines"][2]["image_to_text_r1"], series["lines"][2]["text_to_image_r1"]) == (0.55, 0.55)
