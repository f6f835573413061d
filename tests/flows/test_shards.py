"""Mapping over shards: a broken shard does not stop the others, and the error names it."""

from __future__ import annotations

import json
import logging

import pytest
from prefect import flow, task, unmapped
from prefect.artifacts import Artifact
from prefect.cache_policies import NO_CACHE

from flows.steps.shard_tasks import run_shards
from flows.steps.shards import Collected, summarize
from flows.views.artifacts import stage_tables
from tasks.errors import StageError, UserError
from tasks.records import Receipt, ShardRef, ShardResult, Stage

pytestmark = [pytest.mark.flow, pytest.mark.usefixtures("prefect_harness")]

REFS = [ShardRef(dataset="web", split="train", shard=shard) for shard in range(4)]
log = logging.getLogger("test_shards")
DONE: list[int] = []
"""Shards that were worked on. Not a parameter: Prefect hands tasks copies of lists."""


def result(ref: ShardRef, skipped: bool) -> ShardResult:
    receipt = Receipt(
        stage=Stage.DOWNLOAD,
        dataset=ref.dataset,
        split=ref.split,
        shard=ref.shard,
        fingerprint="f",
        counts={"ok": 10},
        files={},
        seconds=1.5,
        created_at="2026-01-01T00:00:00+00:00",
    )
    return ShardResult(receipt=receipt, skipped=skipped)


@task(cache_policy=NO_CACHE)
def work(ref: ShardRef, broken: dict[int, Exception]) -> ShardResult:
    if ref.shard in broken:
        raise broken[ref.shard]
    DONE.append(ref.shard)
    return result(ref, skipped=ref.shard == 3)


@flow
def mapped(broken: dict[int, Exception]) -> Collected:
    return run_shards(work, REFS, {"broken": unmapped(broken)}, max_workers=2, logger=log)


def test_results_come_in_order_with_a_line_each(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, log.name)
    collected = mapped({})
    assert collected.failed == []
    assert [result.receipt.shard for result in collected.results] == [0, 1, 2, 3]
    lines = [record.getMessage() for record in caplog.records if record.name == log.name]
    assert sorted(line.partition(" [")[0] for line in lines) == [
        "web/train 00000: 10 ok (1.5 s)",
        "web/train 00001: 10 ok (1.5 s)",
        "web/train 00002: 10 ok (1.5 s)",
        "web/train: 1 shard already done",
    ]


def test_broken_shards_are_named_and_the_others_done() -> None:
    DONE.clear()
    collected = mapped({0: OSError("a bad sector"), 2: StageError("it is locked")})
    assert [(one.ref.shard, one.reason) for one in collected.failed] == [
        (0, "OSError: a bad sector"),
        (2, "it is locked"),
    ]
    assert sorted(DONE) == [1, 3]


def test_bad_input_ends_the_stage() -> None:
    DONE.clear()
    with pytest.raises(UserError, match="weights are missing"):
        mapped({1: UserError("weights are missing")})


def test_failed_shards_are_a_table_whose_texts_are_not_live() -> None:
    @flow
    def failing() -> None:
        broken = {1: StageError("404 at https://example.org/[x](javascript:alert(1))")}
        collected = run_shards(work, REFS, {"broken": unmapped(broken)}, max_workers=2, logger=log)
        stage_tables([summarize(Stage.EXTRACT, "web/train", collected)])

    failing()
    found = Artifact.get("failed-shards-extract")
    assert found is not None and isinstance(found.data, str)
    (row,) = json.loads(found.data)
    assert (row["split"], row["shard"]) == ("`web/train`", "00001")
    assert row["reason"] == r"404 at https\:\/\/example\.org\/\[x\]\(javascript\:alert\(1\)\)"
    shards = Artifact.get("shards-extract")
    assert shards is not None and isinstance(shards.data, str)
    assert [(row["done now"], row["done before"], row["failed"]) for row in json.loads(shards.data)] == [(2, 1, 1)]
