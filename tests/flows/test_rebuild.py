"""The demo, shrunk: rows to table through every stage, then again with nothing left to do."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from flows.params.experiment import RebuildParams
from flows.params.recipes import recipe
from flows.results import RebuildResult
from flows.steps.world import world_served
from flows.views.stage_texts import losses
from flows.views.status import downloads_pending, read_status, status_text
from model.downstream.retrieval.config import ScoringConfig
from tasks.errors import StageError
from tasks.evaluation.history import read_history
from tasks.records import Stage
from tasks.search import open_search
from tasks.storage.local_copy import local_copy
from tasks.storage.root import Root
from tasks.world.dataset import WorldConfig
from tests.s3_server import Bucket

pytestmark = [pytest.mark.flow, pytest.mark.usefixtures("prefect_harness")]

WORLD = WorldConfig(pretraining_images=24, retrieval_train=6, retrieval_val=2, retrieval_test=4, workers=1)


def shrunk(root_uri: str, name: str = "demo") -> RebuildParams:
    """A demo's parameters with fewer steps and smaller shards; everything else is the demo's."""
    params = recipe(name, root_uri)
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
    assert {summary.stage for summary in first.stages} == set(Stage) - {Stage.MANIFEST, Stage.TEXT}
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


def newest_artifact(key: str) -> Any:
    """Content of the newest version: rows of a table, or a text."""
    from prefect.artifacts import Artifact

    found = Artifact.get(key)
    assert found is not None and isinstance(found.data, str)
    return found.data if found.type == "markdown" else json.loads(found.data)


def test_prefect_shows_tables_and_a_card(first: RebuildResult, params: RebuildParams) -> None:
    shards = {row["split"]: row for row in newest_artifact("shards-download")}
    assert (shards["`web/train`"]["shards"], shards["`web/train`"]["failed"]) == (2, 0)
    outcomes = {row["split"]: row for row in newest_artifact("outcomes")}
    assert (outcomes["`web/train`"]["rows"], outcomes["`retrieval/test`"]["lost"]) == (27, "nothing")
    table = newest_artifact("retrieval")
    assert [row["setting"] for row in table] == ["`chance`", "`zero-shot`", "`task-specific`", "`pretrain+finetune`"]
    assert table[0]["t2i R@1"] == "25.0"
    assert "±" in table[1]["t2i R@1"]
    card = newest_artifact("result")
    assert card.startswith("# Retrieval on `retrieval/test`\n")
    assert f"`{first.report_path}`" in card
    assert "Made without" not in card
    assert [(row["stage"], row["done now"]) for row in newest_artifact("stages")][-1] == ("evaluate", "1")


def test_second_run_skips_everything_and_changes_nothing(
    first: RebuildResult, params: RebuildParams, caplog: pytest.LogCaptureFixture
) -> None:
    history = read_history(Root(params.root_uri))
    with caplog.at_level("INFO", "flows"):
        second = rebuilt(params)
    assert "done now: nothing" in caplog.messages
    assert {row["done now"] for row in newest_artifact("stages")} == {"0"}
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


def test_a_shard_that_fails_is_gone_on_without_where_it_may_and_made_up_for_later(
    first: RebuildResult, params: RebuildParams
) -> None:
    root = Path(params.root_uri)
    images = root / "datasets/web/train/images/images-00001.tar"
    whole = images.read_bytes()
    images.write_bytes(b"\xff" * len(whole))
    for path in root.glob("features/*/web/train/regions-00001.*"):
        path.unlink()
    with pytest.raises(StageError, match="1 of 5 shards failed: web/train/00001; the others are done"):
        rebuilt(params)
    partial = rebuilt(params.model_copy(update={"max_failed_share": 0.5}))
    (loss,) = losses(partial.stages)
    assert loss.startswith("extract of web/train went on without 1 of 2 shards (")
    assert {summary.stage for summary in partial.stages if summary.ran} == {
        Stage.PRETRAIN,
        Stage.FINETUNE,
        Stage.EVALUATE,
    }
    (specific,) = (summary for summary in partial.stages if summary.name == "task-specific")
    assert specific.skipped  # It has read nothing of the split.
    assert f"Not all of the data.</b> {loss}" in Path(partial.report_path).read_text()
    assert "## Made without all of the data" in newest_artifact("result")
    status = read_status(params, "--recipe demo")
    assert (status.splits[0].without_regions, status.next_command) == (1, "unicoder-vl extract --recipe demo")

    images.write_bytes(whole)
    again = rebuilt(params)
    assert {summary.stage for summary in again.stages if summary.ran} == {Stage.EXTRACT}
    assert again.table == first.table


def test_the_demo_of_another_family_has_the_same_regions_and_a_history_of_its_own(
    first: RebuildResult, params: RebuildParams, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", "flows"):
        other = rebuilt(shrunk(params.root_uri, "demo-uniter"))
    assert {summary.stage for summary in other.stages if summary.ran} == {
        Stage.PRETRAIN,
        Stage.FINETUNE,
        Stage.EVALUATE,
    }
    assert [row.setting for row in other.table] == [row.setting for row in first.table]
    compared = [message for message in caplog.messages if message.startswith("recall sum ")]
    assert len(compared) == 3 and all("the first evaluation of" in message for message in compared)
    assert "retrieval, UNITER" in Path(other.report_path).read_text()
    # And the first one's is what it was.
    assert rebuilt(params).table == first.table


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


def test_with_its_root_on_a_bucket_it_comes_to_the_same(
    first: RebuildResult, params: RebuildParams, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    there = shrunk(f"{bucket.uri}/root")
    result = rebuilt(there)
    assert (result.table, result.outcomes) == (first.table, first.outcomes)

    # The same runs, by name and by weights: a root may be copied from a disk to a bucket, or back.
    runs = {summary.name for summary in result.stages if summary.stage in (Stage.PRETRAIN, Stage.FINETUNE)}
    assert len(runs) == 3
    for run in runs:
        assert (
            bucket.get(f"root/runs/{run}/final.json") == Path(params.root_uri, "runs", run, "final.json").read_bytes()
        )
        assert {"job.json", "log.txt", "metrics.jsonl"} <= names(bucket, f"root/runs/{run}/")
    here, remote = (
        [row.model_dump(exclude={"created_at"}) for row in read_history(Root(uri)) if row.run in runs]
        for uri in (params.root_uri, there.root_uri)
    )
    assert sorted(here, key=lambda row: row["setting"]) == sorted(remote, key=lambda row: row["setting"])
    assert "Its image ranks " in bucket.get("root/report.html").decode()
    assert sum(path.endswith("/report.html") for path in bucket.paths("root/scores/")) == 3

    # On a machine that has nothing of it, nothing is done again either, and nothing of a run is kept.
    copy = local_copy(Root(there.root_uri))
    assert not copy.names("runs")
    for folder in ("cache", "fetched", "scores"):
        shutil.rmtree(copy.local(folder))
    again = rebuilt(there)
    assert all(summary.ran == 0 and summary.skipped > 0 for summary in again.stages)
    assert again.table == first.table
    assert read_status(there, "").next_command is None
    run = next(name for name in sorted(runs) if name.startswith("finetune"))
    local, distant = (found(root, run, "a red circle") for root in (params.root_uri, there.root_uri))
    assert local == distant and len(local) == 4


def found(root: str, run: str, text: str) -> list[tuple[str, float, str, tuple[int, int]]]:
    """What a search finds: key, score and caption of each picture, and the size of the picture itself."""
    search = open_search(root, run=run, images="retrieval/test", scoring=ScoringConfig(device="cpu", num_threads=1))
    return [(hit.key, hit.score, hit.caption, hit.picture().size) for hit in search.images(text)]


def names(bucket: Bucket, folder: str) -> set[str]:
    """Of the files in it."""
    return {path.removeprefix(folder) for path in bucket.paths(folder)}
