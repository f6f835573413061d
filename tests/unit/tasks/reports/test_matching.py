from __future__ import annotations

import json
from pathlib import Path

import pytest

from tasks.reports.curves import training_curves
from tasks.reports.matching import matching_warnings
from tasks.storage.root import Root


@pytest.fixture
def root(tmp_path: Path) -> Root:
    return Root(str(tmp_path))


def write(root: Root, *stalled: float | None, pretrain: object = None) -> None:
    """A run with a line of metrics for each judgement; None: of a line that none was made of."""
    rows = [
        {"step": 100 * number, "loss": 2.0, "vlm_accuracy": 0.504}
        | ({} if value is None else {"matching_stalled": value})
        for number, value in enumerate(stalled, 1)
    ]
    root.publish_bytes("runs/pretrain-1/metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())
    if pretrain is not None:
        root.publish_bytes("runs/pretrain-1/job.json", json.dumps({"pretrain": pretrain}).encode())


def test_the_last_judgement_counts(root: Root) -> None:
    settings = {"matching": "paired", "matching_weight": 1.0, "optim": {"learning_rate": 1e-4}, "steps": 5}
    write(root, None, 0.0, 1.0, None, pretrain=settings)
    (warning,) = matching_warnings(root, ["pretrain-1", "gone"])
    assert warning == (
        "Matching of pretrain-1 was no better than a guess at step 300 (50.4% of the pairs right), so retrieval starts "
        "from chance; on small data pretrain.objectives.vlm=10 and pretrain.optim.learning_rate=2e-4 help "
        "(docs/own-data.md)"
    )
    write(root, None, 1.0, 0.0, None, pretrain=settings)
    assert matching_warnings(root, ["pretrain-1"]) == []


@pytest.mark.parametrize("pretrain", [None, {}])
def test_runs_of_earlier_versions_and_without_a_job_say_what_they_can(root: Root, pretrain: object) -> None:
    write(root, None, pretrain=pretrain)
    assert matching_warnings(root, ["pretrain-1"]) == []
    write(root, 1.0, pretrain=pretrain)
    (warning,) = matching_warnings(root, ["pretrain-1"])
    assert "pretrain.matching=paired, pretrain.objectives.vlm=10 and" in warning


def test_the_warning_stands_above_the_curves_which_do_not_draw_it(root: Root) -> None:
    write(root, 0.0, 1.0)
    html = training_curves(root, ["pretrain-1"])
    assert '<h3>pretrain-1</h3><p class="warn">Matching of pretrain-1 was no better than a guess' in html
    assert "matching_stalled" not in html
