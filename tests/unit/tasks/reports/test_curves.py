from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tasks.errors import UserError
from tasks.reports.curves import runs_behind, training_curves, training_splits
from tasks.storage.root import Root
from tests.page import Page


@pytest.fixture
def root(tmp_path: Path) -> Root:
    return Root(str(tmp_path))


def write_metrics(root: Root, run: str, *rows: dict[str, float]) -> None:
    root.publish_bytes(f"runs/{run}/metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())


def write_job(root: Root, run: str, start: str | None) -> None:
    job = {"train": {"name": f"{run}/train"}, "checkpoint_path": start, "encoder": {"hidden_size": 8}}
    root.publish_bytes(f"runs/{run}/job.json", json.dumps(job).encode())


def test_losses_and_fractions_are_drawn_apart_and_housekeeping_is_not(root: Root) -> None:
    write_metrics(
        root,
        "finetune-1",
        {"step": 1, "loss": 2.0, "accuracy": 0.1, "learning_rate": 0.001, "steps_per_second": 3, "skipped": 0},
        {"step": 2, "image_to_text_r1": 0.3, "image_to_text_r10": 0.9, "recall_sum": 2.5},
        {"step": 3, "loss": 1.0, "accuracy": 0.625},
    )
    html = training_curves(root, ["finetune-1"])
    legends = re.findall(r"</span>(\w+) <b>([^<]+)</b>", html)
    assert legends == [("loss", "1"), ("accuracy", "62%"), ("image_to_text_r1", "30%")]


def test_runs_stand_in_the_order_given_and_others_are_left_out(root: Root) -> None:
    for run in ("a", "b", "c"):
        write_metrics(root, run, {"step": 1, "loss": 2.0})
    assert re.findall("<h3>(.)</h3>", training_curves(root, ["c", "a", "gone"])) == ["c", "a"]


def test_line_that_is_still_being_written_is_left_out(root: Root) -> None:
    root.publish_bytes("runs/pretrain-1/metrics.jsonl", b'{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
    assert "loss <b>2</b>" in training_curves(root, ["pretrain-1"])


def test_broken_metrics_line_is_named(root: Root) -> None:
    root.publish_bytes("runs/pretrain-1/metrics.jsonl", b'{"step": 1, "loss": 2.0}\n{"loss": 2.0}\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl, line 2 is not a row of metrics"):
        training_curves(root, ["pretrain-1"])


def test_names_are_escaped(root: Root) -> None:
    write_metrics(root, "run-1", {"step": 1, "<script>": 2.0})
    assert "script" not in Page(training_curves(root, ["run-1"])).tags


def test_a_finetuning_run_comes_after_the_pretraining_it_started_from(root: Root) -> None:
    write_job(root, "pretrain-1", None)
    write_job(root, "finetune-1", "/elsewhere/runs/pretrain-1/checkpoints/step-0001400")  # a root may be moved
    assert runs_behind(root, "finetune-1") == ["pretrain-1", "finetune-1"]
    assert runs_behind(root, "pretrain-1") == ["pretrain-1"]
    assert training_splits(root, ["pretrain-1", "finetune-1"]) == ["pretrain-1/train", "finetune-1/train"]


def test_weights_from_elsewhere_are_no_run_of_this_root(root: Root) -> None:
    write_job(root, "finetune-1", "/elsewhere/runs/pretrain-9/checkpoints/step-0001400")
    assert runs_behind(root, "finetune-1") == ["finetune-1"]
    assert runs_behind(root, "gone") == ["gone"] and training_splits(root, ["gone"]) == []
