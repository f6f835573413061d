"""`unicoder-vl measure`: what it prints, and one sentence for what it cannot measure."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from flows.commands.app import app
from tests.task_files import ROWS, text, write_json

PAIRS = str(ROWS / "snli_ve_pairs.jsonl")
OFFICIAL = str(ROWS / "vqa_official_rows.json")


def measure(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["measure", *arguments], catch_exceptions=False)


@pytest.fixture
def labels(tmp_path: Path) -> str:
    """Right predictions for SNLI-VE's pairs, and one for a pair without a label."""
    rows = [json.loads(line) for line in text("snli_ve_pairs.jsonl").splitlines()]
    lines = [f"{row['pairID']},{row['gold_label']}" for row in rows] + ["more,neutral"]
    (tmp_path / "labels.csv").write_text("\n".join(["pairID,label", *lines]))
    (tmp_path / "pairs.jsonl").write_text(
        text("snli_ve_pairs.jsonl") + json.dumps(rows[0] | {"pairID": "more", "gold_label": "-"})
    )
    return str(tmp_path / "labels.csv")


def test_the_table_says_what_was_measured_and_what_did_not_count(labels: str, tmp_path: Path) -> None:
    result = measure("snli-ve", "--predictions", labels, "--annotations", str(tmp_path / "pairs.jsonl"))
    assert result.exit_code == 0, result.stderr
    first, second, third, *_, last = result.stdout.splitlines()
    assert first.strip() == "by label"
    assert second.split() == ["setting", "accuracy", "entailment", "neutral", "contradiction"]
    assert third.split() == ["labels.csv", "100.00", "100.00", "100.00", "100.00"]
    assert "16 hypotheses about 2 pictures" in result.stdout
    assert last == f"1 rows of {tmp_path}/pairs.jsonl do not count: no agreed label"


def test_json_has_every_figure(tmp_path: Path) -> None:
    ids = [one["question_id"] for one in json.loads(text("vqa_official_rows.json"))["annotations"]]
    path = write_json(tmp_path / "results.json", [{"question_id": one, "answer": "fork"} for one in ids])
    result = measure("vqa", "--predictions", path, "--annotations", OFFICIAL, "--json")
    content = json.loads(result.stdout)
    assert set(content) == {"predictions", "annotations", "metrics", "dropped"}
    figures = content["metrics"]["figures"]
    assert next(iter(figures)) == "accuracy" and any(name.startswith("question_type/") for name in figures)
    assert set(figures["accuracy"]) == {"value", "interval", "examples"}


def test_what_cannot_be_measured_is_one_sentence(tmp_path: Path) -> None:
    half = write_json(tmp_path / "half.json", [{"question_id": 212679000, "answer": "yes"}])
    (tmp_path / "esnlive_dev.csv").write_text(",pairID,Flickr30kID,hypothesis,gold_label,explanation\n")
    refs = str(ROWS / "refcoco_refs.json")
    umd = ("--instances", str(ROWS / "refcoco_instances.json"), "--split", "test")
    same = str(tmp_path / "same.tsv")
    Path(same).write_text("1\t1\ta\n")
    tries = {
        ("vqa", half, OFFICIAL): "lacks",
        ("snli-ve", PAIRS, str(tmp_path / "esnlive_dev.csv")): "is e-SNLI-VE, another data set",
        ("refcoco", half, refs, *umd): "has no split test; there are val",
        ("relevance", same, same, "--label-column", "1", "--score-column", "0", "--by-row"): "all 1 pairs are relevant",
        ("relevance", same, same, "--id-columns", "0,"): "columns '0,' cannot be read",
        ("vcr", "nowhere.csv", "nowhere.jsonl"): "VCR items not found: nowhere.jsonl",
    }
    for (task, predicted, annotated, *others), message in tries.items():
        result = measure(task, "--predictions", predicted, "--annotations", annotated, *others)
        assert (result.exit_code, result.stdout) == (2, ""), (task, result.output)
        assert message in result.stderr and result.stderr.count("\n") == 1


def test_an_unknown_task_is_refused_with_those_there_are() -> None:
    assert measure("ears").exit_code == 2
    shown = measure("--help").stdout
    assert all(name in shown for name in ("vqa", "nlvr2", "snli-ve", "refcoco", "vcr", "relevance"))
