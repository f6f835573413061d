"""Of many shards: which errors stop the rest, and how what failed is said."""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool

import pytest

from flows.shards import collect_shards
from tasks.errors import StageError
from tasks.records import ShardRef, ShardResult
from tasks.web.network import NetworkGoneError

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


def test_others_are_only_called_done_where_there_are_others() -> None:
    def ended() -> Iterator[tuple[ShardRef, ShardResult | BaseException]]:
        yield from ((ref, StageError("it is locked")) for ref in REFS)

    with pytest.raises(StageError) as raised:
        collect_shards(REFS, ended(), log)
    assert str(raised.value) == (
        "3 of 3 shards failed: web/train/00000, web/train/00001, web/train/00002; run the command again for these. "
        "The first failed with it is locked"
    )
