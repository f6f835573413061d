"""docs/tasks.md: each of its commands is typed, on small files under the names of the page."""

from __future__ import annotations

import json
import pickle
import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.commands.app import app
from tasks.examples.formats.vcr import COLUMNS
from tests.task_files import text, vqa_rows, write_json

PAGE = (Path(__file__).parents[2] / "docs/tasks.md").read_text(encoding="utf-8")
COMMANDS = [line for block in re.findall(r"^```sh\n(.*?)^```$", PAGE, re.M | re.S) for line in block.splitlines()]
PRINTED = {
    "vqa": "vqa_results.json",
    "nlvr2": "consistency",
    "snli-ve": "contradiction",
    "refcoco": "IoU > 0.5, widths as they are: 11 expressions about 1 pictures",
    "vcr": "Q->AR",
    "relevance": '"auc":{"value":0.5,',
}
"""A part of what each command prints."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """All files that the page names."""
    monkeypatch.chdir(tmp_path)
    questions = vqa_rows()[:20]
    write_json(tmp_path / "v2_mscoco_val2014_annotations.json", {"annotations": questions})
    write_json(
        tmp_path / "vqa_results.json", [{"question_id": one["question_id"], "answer": "yes"} for one in questions]
    )
    statements = text("nlvr2_balanced_dev.json.xz").splitlines()[:20]
    (tmp_path / "dev.json").write_text("\n".join(statements))
    ids = [json.loads(line)["identifier"] for line in statements]
    (tmp_path / "nlvr2_predictions.csv").write_text("".join(f"{one},True\n" for one in ids))
    pairs = text("snli_ve_pairs.jsonl")
    (tmp_path / "snli_ve_dev.jsonl").write_text(pairs)
    labels = [{"pairID": json.loads(line)["pairID"], "label": "neutral"} for line in pairs.splitlines()]
    (tmp_path / "snli_ve_predictions.jsonl").write_text("".join(json.dumps(one) + "\n" for one in labels))
    refs = json.loads(text("refcoco_refs.json"))
    (tmp_path / "refs(unc).p").write_bytes(pickle.dumps(refs, protocol=2))
    (tmp_path / "instances.json").write_text(text("refcoco_instances.json"))
    boxes = [{"sent_id": one["sent_id"], "pred_box": [0, 0, 99, 99]} for ref in refs for one in ref["sentences"]]
    write_json(tmp_path / "boxes.json", boxes)
    (tmp_path / "val.jsonl").write_text(text("vcr_train_sample.jsonl"))
    (tmp_path / "vcr_probabilities.csv").write_text(f"{','.join(COLUMNS)}\ntrain-0{',0.25' * 20}\n")
    (tmp_path / "ads.tsv").write_text(text("ads_rows.tsv"))
    names = [line.split("\t")[:2] for line in text("ads_rows.tsv").splitlines()]
    (tmp_path / "scores.tsv").write_text("".join(f"{first}\t{second}\t1\n" for first, second in names))
    return tmp_path


def test_the_page_has_a_command_a_task() -> None:
    assert [line.split()[2] for line in COMMANDS] == list(PRINTED)


@pytest.mark.parametrize("line", COMMANDS, ids=list(PRINTED))
def test_a_command_of_the_page_prints_its_measures(folder: Path, line: str) -> None:
    before = sorted(folder.iterdir())
    words = shlex.split(line)
    result = CliRunner().invoke(app, words[1:], catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    assert PRINTED[words[2]] in result.stdout
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize("task", list(PRINTED))
def test_the_page_names_every_option_of_its_tasks(task: str) -> None:
    shown = CliRunner().invoke(app, ["measure", task, "--help"], env={"COLUMNS": "200"}).stdout
    options = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", shown)) - {"--help"}
    assert len(options) >= 3 and options <= set(re.findall(r"--[a-z][a-z-]+", PAGE))
