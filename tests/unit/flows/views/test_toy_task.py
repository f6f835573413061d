"""A task that nothing knew before goes through history, trend, fall check and tables by its description alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.commands.app import app
from flows.commands.evaluation import evaluation_text
from flows.evaluate import comparison_key
from flows.params.recipes import recipe
from flows.results import EvaluationResult
from flows.views.history_text import HistoryResult, history_text
from flows.views.result_card import evaluation_card
from flows.views.status import read_status, status_text
from model.downstream.tasks import TASKS
from tasks.errors import StageError
from tasks.evaluation.history import append_history, find_row, read_history
from tasks.evaluation.trend import check_fall, comparison_sentence, comparison_table, trend
from tasks.records import HistoryRow
from tasks.reports.history import history_section
from tasks.reports.measure_table import table_html, table_text
from tasks.reports.measures import evaluation_section, measures_tables
from tasks.reports.parts import PARTS
from tasks.reports.report import Scored, write_evaluation_report
from tasks.reports.sweeps import Sweep, VariantRow, publish_sweep, sweep_text
from tasks.storage.paths import HISTORY
from tasks.storage.root import Root
from tests import toy_task
from tests.page import Page
from tests.regions import DATASET, EXTRACTOR, SPLIT
from tests.scored import IMAGES, publish_data


@pytest.fixture(autouse=True)
def dots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TASKS, "dots", "tests.toy_task")
    monkeypatch.setitem(PARTS, "dots", "tests.toy_task")


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
    assert CliRunner().invoke(app, ["history", "--root", root.uri, "--task", "retrieval"]).exit_code == 2
    printed = CliRunner().invoke(app, ["history", "--root", root.uri, "--json"], catch_exceptions=False).stdout
    (series,) = json.loads(printed)["series"]
    assert (series["task"], series["values"]) == ("dots", [2.0, 1.0, 1.5])
    assert (series["lines"][0]["dots_right"], series["best"]["error"]) == (0.5, 1.0)
    assert history_text(HistoryResult.model_validate_json(printed)) == done.stdout.rstrip("\n")


def test_the_page_charts_what_the_task_shows_in_brief(root: Root) -> None:
    rows = read_history(root)
    html = history_section([*rows, row(1.0, 4, task="ears")], "dots", rows[2])
    assert html.count("<polyline") == 1 and "accuracy, this evaluation ringed" in html
    assert {"accuracy", "62.5", "75.0", "50.0"} <= set(Page(html).text)
    assert "recall" not in html.lower() and "2026-01-04" not in html


def test_status_counts_it_and_takes_it_for_no_evaluation_of_the_experiment(root: Root) -> None:
    assert find_row(root, "pretrain+finetune", "1", "d") is None
    status = read_status(recipe("demo", root.uri), "--recipe demo")
    assert status.other_tasks == {"dots": 3} and not any(status.evaluated.values())
    assert "evaluate dots            3 evaluations in the history" in status_text(status).splitlines()


def test_tables_and_cards_show_what_it_measured_beside_a_published_row() -> None:
    (table,) = measures_tables([row(1.0, 1), row(1.5, 2)], toy_task.PART.published(row(1.0, 1)))
    assert table_text(table).splitlines() == [
        "                                                  accuracy",
        "setting                      accuracy mean error   no dots",
        "pretrain+finetune (seed 0)       75.0       1.00      50.0",
        "  ± 95%                                    ±0.25",
        "pretrain+finetune (seed 0)       62.5       1.50      50.0",
        "  ± 95%                                    ±0.25",
        "",
        "1,000 pictures. Accuracy is the share of pictures counted right.",
    ]
    assert {"accuracy", "mean error", "no dots", "published", "a paper", "0.50"} <= set(Page(table_html(table)).text)
    assert "<b>1.00</b>" in table_html(table) and "<b>1.50</b>" not in table_html(table)
    assert "Published: Somebody, 2026." in table_html(table)
    result = EvaluationResult(row=row(1.0, 1), fall=None, comparison="the first", report_path=None, skipped=False)
    card = evaluation_card("data", result)
    assert "| setting | accuracy | mean error | accuracy without dots |" in card
    assert "| `pretrain+finetune` | 75.0 | 1.00 ± 0.25 | 50.0 |" in card
    assert evaluation_text(result).startswith(table_text(result.tables()[0]))
    assert result.counts() == {"examples": 1000}


def test_its_page_has_its_own_sections_its_charts_and_its_curves(tmp_path: Path) -> None:
    root = Root(str(tmp_path))
    publish_data(root, [(number, f"dog {number}") for number in range(IMAGES)])
    shown = row(1.0, 1).model_copy(update={"dataset": DATASET, "split": SPLIT})
    append_history(root, shown)
    lines = [{"step": step, "loss": 1 / step, "validation_dots_right": 0.25, "validation_error": 3} for step in (1, 2)]
    root.publish_bytes(f"runs/{shown.run}/metrics.jsonl", "".join(json.dumps(line) + "\n" for line in lines).encode())
    scored = Scored(shown, EXTRACTOR)
    html = Path(write_evaluation_report(root, scored, [evaluation_section(shown)])).read_text()
    assert "Published: Somebody, 2026." in html
    assert scored.name != Scored(shown.model_copy(update={"task": "retrieval"}), EXTRACTOR).name
    assert html.index("<h2>Dots</h2>") < html.index("<h2>Error over time</h2>") < html.index("<h2>Training</h2>")
    assert "This evaluation: mean error 1.00 (lower is better), the first evaluation of" in html
    assert "<figcaption>accuracy and error</figcaption>" in html and "validation_dots_right" in html
    assert "validation_error" not in html and "recall" not in html.lower()


def test_a_sweep_has_its_table_and_its_chart(tmp_path: Path) -> None:
    results = [
        EvaluationResult(row=row(error, 1), fall=None, comparison="", report_path=None, skipped=False)
        for error in (2.0, 1.0)
    ]
    variants = [
        VariantRow(name=f"{number} layers", value=number, setting="pretrain+finetune", runs=(), **result.of_variant())
        for number, result in enumerate(results, 1)
    ]
    sweep = Sweep(
        task="dots",
        ablation="layers",
        name="dots-layers",
        dataset="dots",
        split="val",
        variants=tuple(variants),
        page_path="p",
        created_at="2026-01-01T00:00:00+00:00",
    )
    assert sweep_text(sweep).splitlines()[:5] == [
        "Layers, pretrain+finetune on dots/val, seed 0",
        "",
        "                                accuracy",
        "setting    accuracy mean error   no dots",
        "1 layers       50.0       2.00      50.0",
    ]
    publish_sweep(Root(str(tmp_path)), sweep, {})
    html = (tmp_path / "sweeps/dots-layers.html").read_text()
    assert html.count("<polyline") == 1 and "accuracy <b>75%</b>" in html
    assert "Published" not in html and "recall" not in html.lower()
    content = json.loads((tmp_path / "sweeps/dots-layers.json").read_text())
    del content["params"]
    assert Sweep.model_validate(content) == sweep


def test_an_artifact_is_named_after_what_is_measured() -> None:
    assert comparison_key(row(1.0, 1)) == "error-pretrain-finetune-dots-val"
