"""Of many shards: which errors stop the rest, and how what failed is said."""

from __future__ import annotations

import errno
import logging
from concurrent.futures.process import BrokenProcessPool

import pytest

from feature_extraction.samples.tars import ShardError
from flows.results import FailedShard, StageSummary
from flows.steps.shards import check_failed, collect_shards
from tasks.download.web.network import NetworkGoneError
from tasks.errors import StageError, UserError
from tasks.records import ShardRef, ShardResult, Stage

REFS = [ShardRef(dataset="web", split="train", shard=shard) for shard in range(3)]
log = logging.getLogger("test_collect_shards")


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), OSError, "No space left"),
        (
            NetworkGoneError("the network has been gone for 9 s"),
            NetworkGoneError,
            "^the network has been gone for 9 s$",
        ),
        (UserError("the weights are not there"), UserError, "^the weights are not there$"),
        (BrokenProcessPool("terminated abruptly"), StageError, "^a worker process was killed, .* run the same command"),
    ],
)
def test_what_no_other_shard_can_escape_ends_the_stage_at_once(
    error: Exception, kind: type[Exception], message: str, caplog: pytest.LogCaptureFixture
) -> None:
    waiting = iter((ref, error) for ref in REFS)
    with pytest.raises(kind, match=message):
        collect_shards(REFS, waiting, log)
    assert [ref for ref, _ in waiting] == REFS[1:]
    assert not caplog.records  # it is said once, by whoever ends


def test_a_failed_shard_has_a_line_with_its_reason_and_the_others_go_on(caplog: pytest.LogCaptureFixture) -> None:
    ended: list[tuple[ShardRef, ShardResult | BaseException]] = [
        (REFS[2], ShardError("key 7:\n its image is gone")),
        (REFS[0], StageError("it is locked")),
        (REFS[1], KeyError("a bug")),
    ]
    collected = collect_shards(REFS, ended, log)
    assert [(one.ref.shard, one.reason) for one in collected.failed] == [
        (0, "it is locked"),
        (1, "KeyError: 'a bug'"),
        (2, "ShardError: key 7: its image is gone"),
    ]
    assert caplog.messages == [
        "web/train 00002 failed: ShardError: key 7: its image is gone [1/3]",
        "web/train 00000 failed: it is locked [2/3]",
        "web/train 00001 failed: KeyError: 'a bug' [3/3]",
        "where that KeyError comes from:",
    ]


def test_the_log_of_a_stage_that_fails_everywhere_stays_short(caplog: pytest.LogCaptureFixture) -> None:
    refs = [ShardRef(dataset="web", split="train", shard=shard) for shard in range(300)]
    collected = collect_shards(refs, ((ref, StageError("it is locked")) for ref in refs), log)
    assert len(collected.failed) == 300
    assert len(caplog.messages) == 101
    assert caplog.messages[-1] == "100 shards failed; further ones are only named at the end"


def split_summary(name: str, failed: int, made: int) -> StageSummary:
    dataset, _, split = name.partition("/")
    shards = tuple(
        FailedShard(ref=ShardRef(dataset=dataset, split=split, shard=shard), reason="it is locked")
        for shard in range(failed)
    )
    return StageSummary(stage=Stage.DOWNLOAD, name=name, ran=made, skipped=0, failed=shards)


def test_others_are_only_called_done_where_there_are_others() -> None:
    with pytest.raises(StageError) as raised:
        check_failed([split_summary("web/train", 3, 0)], 0.0, log)
    assert str(raised.value) == (
        "3 of 3 shards failed: web/train/00000, web/train/00001, web/train/00002; run the command again for these. "
        "The first failed with it is locked"
    )


@pytest.mark.parametrize(("failed", "share", "may"), [(29, 0.29, True), (30, 0.29, False), (1, 0.0, False)])
def test_so_many_of_a_hundred_shards_may_fail(failed: int, share: float, may: bool) -> None:
    """0.29 * 100 is a little less than 29 in binary."""
    summaries = [split_summary("web/train", failed, 100 - failed)]
    if may:
        check_failed(summaries, share, log)
    else:
        with pytest.raises(StageError, match=f"^{failed} of 100 shards failed: web/train/00000"):
            check_failed(summaries, share, log)


def test_every_split_has_its_own_share(caplog: pytest.LogCaptureFixture) -> None:
    train, val = split_summary("web/train", 1, 99), split_summary("web/val", 1, 1)
    with pytest.raises(StageError, match=r"more of web/val than max_failed_share=0\.1 allows; the others are done"):
        check_failed([train, val], 0.1, log)
    check_failed([train], 0.1, log)
    assert caplog.messages == [
        "web/train: going on without 1 of 100 shards, which failed: 00000; run the command again to try them again"
    ]
