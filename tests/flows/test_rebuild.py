"""The demo, shrunk: rows to table through every stage, then again with nothing left to do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flows.params import RebuildParams
from flows.recipes import recipe
from flows.results import RebuildResult
from flows.status import downloads_pending, read_status, status_text
from flows.world import world_served
from tasks.history import read_history
from tasks.records import Stage
from tasks.storage import Root
from tasks.world.dataset import WorldConfig

pytestmark = [pytest.mark.flow, pytest.mark.usefixtures("prefect_harness")]

WORLD = WorldConfig(pretraining_images=24, retrieval_train=6, retrieval_val=2, retrieval_test=4, workers=1)


def shrunk(root_uri: str) -> RebuildParams:
    """The demo's parameters with fewer steps and smaller shards; everything else is the demo's."""
    params = recipe("demo", root_uri)
    short: dict[str, Any] = {"steps": 4, "batch_size": 4, "checkpoint_steps": 2, "log_steps": 1}
    assert params.task_specific is not None
    return params.model_copy(
        update={
            "pretraining_dataset": params.pretraining_dataset.model_copy(update={"shard_size": 16}),
            "pretrain": params.pretrain.model_copy(update=short),
            "finetune": params.finetune.model_copy(update=short),
            "task_specific": params.task_specific.model_copy(update=short),
            "max_workers": 1,
        }
    )


def rebuilt(params: RebuildParams) -> RebuildResult:
    from flows.rebuild import rebuild

    with world_served(params, WORLD):
        return rebuild(params)


@pytest.fixture(scope="module")
def params(tmp_path_factory: pytest.TempPathFactory) -> RebuildParams:
    return shrunk(str(tmp_path_factory.mktemp("root")))


@pytest.fixture(scope="module")
def first(prefect_harness: None, params: RebuildParams) -> RebuildResult:
    status = read_status(params, "--recipe demo")
    assert status.next_command == "unicoder-vl download --recipe demo"
    assert downloads_pending(params)
    return rebuilt(params)


def test_table_has_every_setting_beside_chance(first: RebuildResult) -> None:
    assert [row.setting for row in first.table] == ["chance", "zero-shot", "task-specific", "pretrain+finetune"]
    assert {(row.images, row.captions) for row in first.table} == {(4, 20)}
    assert first.table[0].text_to_image[1] == 1 / 4
    assert all(0 <= row.image_to_text[1] <= row.image_to_text[5] <= 1 for row in first.table)


def test_every_row_is_accounted_for(first: RebuildResult) -> None:
    totals = {name: sum(counts.values()) for name, counts in first.outcomes.items()}
    assert totals == {"web/train": 24 + 3, "retrieval/train": 30, "retrieval/val": 10, "retrieval/test": 20}
    assert first.outcomes["web/train"]["bad_row"] == 3
    assert first.outcomes["web/train"]["not_found"] >= 1


def test_everything_ran_once_and_left_its_files(first: RebuildResult, params: RebuildParams) -> None:
    assert all(summary.skipped == 0 and summary.ran > 0 for summary in first.stages)
    assert {summary.stage for summary in first.stages} == set(Stage) - {Stage.MANIFEST}
    assert Path(first.report_path).is_file()
    history = read_history(Root(params.root_uri))
    assert sorted(row.setting for row in history) == sorted(params.settings)
    assert len({row.checkpoint_fingerprint for row in history}) == 3
    assert len(list(Path(params.root_uri).glob("scores/*/report.html"))) == 3
    assert not list(Path(params.root_uri).rglob("*.part"))


def test_report_shows_retrieved_images_of_the_finetuned_model(first: RebuildResult) -> None:
    html = Path(first.report_path).read_text()
    assert "Setting pretrain+finetune. Nothing is picked by hand" in html
    # Four images, each the own one of a shown caption; a caption shows all four, and each is shown with its captions.
    assert html.count("Its image ranks ") == html.count("Its best caption ranks ") == 4
    assert html.count("data:image/jpeg") == 16 + 4


def test_result_is_json(first: RebuildResult) -> None:
    assert RebuildResult.model_validate_json(first.model_dump_json()) == first
    assert json.loads(first.model_dump_json())["table"][0]["setting"] == "chance"


def test_second_run_skips_everything_and_changes_nothing(first: RebuildResult, params: RebuildParams) -> None:
    history = read_history(Root(params.root_uri))
    second = rebuilt(params)
    assert all(summary.ran == 0 and summary.skipped > 0 for summary in second.stages)
    assert second.table == first.table
    assert second.outcomes == first.outcomes
    assert read_history(Root(params.root_uri)) == history


def test_lost_feature_shard_is_made_again_and_nothing_else(first: RebuildResult, params: RebuildParams) -> None:
    (shard,) = Path(params.root_uri).glob("features/*/retrieval/val/regions-00000.tar")
    before = shard.read_bytes()
    shard.unlink()
    again = rebuilt(params)
    assert {summary.name for summary in again.stages if summary.ran} == {"retrieval/val"}
    assert shard.read_bytes() == before


def test_status_afterwards(first: RebuildResult, params: RebuildParams) -> None:
    status = read_status(params, "--recipe demo")
    assert status.next_command is None
    assert status.splits[0].name == "web/train"
    assert status.splits[0].outcomes == first.outcomes["web/train"]
    assert {run.state for run in status.runs} == {"done"}
    assert "everything is done" in status_text(status)
    other_seed = read_status(params.with_seed(9), "--recipe demo --seed 9")
    assert other_seed.next_command == "unicoder-vl pretrain --recipe demo --seed 9"
    assert other_seed.splits == status.splits
