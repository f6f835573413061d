"""Small JSON records that tasks hand to each other. No images, no tensors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer


class Record(BaseModel):
    """Base of every record: immutable, and unknown fields are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Outcome(StrEnum):
    """The outcome of one caption row. Every input row ends as exactly one of these; the list is closed.

    `duplicate` occurs in a shard's own table only: the URL is an earlier row's, which fetches it for both. The
    captions receipt counts such a row under the outcome of that fetch.
    """

    OK = "ok"
    DUPLICATE = "duplicate"
    BAD_ROW = "bad_row"
    BAD_URL = "bad_url"
    BLOCKED_ADDRESS = "blocked_address"
    OPTED_OUT = "opted_out"
    DNS = "dns"
    CONNECT = "connect"
    TLS = "tls"
    TIMEOUT = "timeout"
    HOST_DOWN = "host_down"
    NOT_FOUND = "not_found"
    GONE = "gone"
    FORBIDDEN = "forbidden"
    RATE_LIMITED = "rate_limited"
    HTTP_4XX = "http_4xx"
    HTTP_5XX = "http_5xx"
    TOO_MANY_REDIRECTS = "too_many_redirects"
    TOO_LARGE = "too_large"
    NOT_AN_IMAGE = "not_an_image"
    TRUNCATED = "truncated"
    BOMB = "bomb"
    TOO_SMALL = "too_small"

    @property
    def retryable(self) -> bool:
        """Whether this outcome may pass: `--only-failed` tries it again unless told otherwise."""
        return self in _RETRYABLE


_RETRYABLE = frozenset(
    {
        Outcome.DNS,
        Outcome.CONNECT,
        Outcome.TLS,
        Outcome.TIMEOUT,
        Outcome.HOST_DOWN,
        Outcome.RATE_LIMITED,
        Outcome.HTTP_5XX,
        Outcome.TRUNCATED,
    }
)


class Stage(StrEnum):
    """The hops of the data's journey that leave receipts."""

    MANIFEST = "manifest"
    DOWNLOAD = "download"
    TEXT = "text"
    EXTRACT = "extract"
    PRETRAIN = "pretrain"
    FINETUNE = "finetune"
    EVALUATE = "evaluate"


class FileDigest(Record):
    """Size and sha256 of a published file."""

    bytes: int
    sha256: str = Field(pattern=r"^[\w-]*$", description="names files of caches, so nothing that leads out of one")


class Receipt(Record):
    """The last file written beside a shard. Same fingerprint: the work is done; other or absent: redo it.

    `counts` maps an outcome (or another named count, such as `regions`) to a number of rows.
    """

    stage: Stage
    dataset: str
    split: str
    shard: int
    fingerprint: str
    counts: dict[str, int]
    files: dict[str, FileDigest]
    seconds: float = Field(description="wall time of the work, in seconds")
    created_at: str = Field(description="UTC, ISO 8601")
    missing: tuple[int, ...] = Field(
        default=(), description="of captions: the shards of their split that failed, whose rows are not counted"
    )

    @model_serializer(mode="wrap")
    def _leave_out_nothing_missing(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Write a complete shard's receipt as before anything could be missing."""
        fields: dict[str, Any] = dump(self)
        if not self.missing:
            del fields["missing"]
        return fields

    def content_digest(self) -> str:
        """Digest of the shard's content, not of its time: equal bytes leave later stages valid."""
        return fingerprint({name: digest.sha256 for name, digest in self.files.items()})


class ShardResult(Record):
    """The result of a shard's task: its receipt, and whether the work had been done before."""

    receipt: Receipt
    skipped: bool
    remark: str = Field(default="", description="for the shard's line in the log; not kept")


class ShardRef(Record):
    """One shard by name: dataset, split and number. Shard 42 stays shard 42 from download to batch."""

    dataset: str
    split: str
    shard: int

    def __str__(self) -> str:
        return f"{self.dataset}/{self.split}/{self.shard:05d}"


class CheckpointRef(Record):
    """A finished training run: the place of its final checkpoint, and what made it."""

    run: str = Field(description="folder name of the run")
    stage: Stage
    uri: str = Field(description="folder of the checkpoint, save_pretrained layout")
    step: int
    fingerprint: str
    skipped: bool = Field(default=False, description="True when the run was already complete")


FIRST_TASK = "retrieval"
"""The task of history rows that name none."""


class HistoryRow(Record):
    """One evaluation: metrics and their provenance. Appended, never changed."""

    task: str = Field(default=FIRST_TASK, description="what was evaluated, see model/downstream/tasks.py")
    setting: str = Field(description="zero-shot, task-specific, pretrain+finetune, ...")
    variant: str | None = Field(default=None, description="what an ablation changed, such as 3 layers; None: nothing")
    run: str
    dataset: str
    split: str
    seed: int
    metrics: dict[str, Any] = Field(
        description="what the task measured, as its `read` takes it; of retrieval metrics.json of the scores: "
        "RetrievalMetrics of the main protocol, and under `also` of the others"
    )
    stage: Stage | None = Field(default=None, description="of the run; None in rows of an older program")
    step: int | None = Field(default=None, description="of the checkpoint; None in rows of an older program")
    checkpoint_fingerprint: str
    data_fingerprint: str
    code_version: str
    created_at: str

    @property
    def name(self) -> str:
        """Setting and variant, the unit compared over time."""
        return self.setting if self.variant is None else f"{self.setting}, {self.variant}"

    @model_serializer(mode="wrap")
    def _without_first_task(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Rows of the first task name none, as before there were others: an older program reads them."""
        content: dict[str, Any] = handler(self)
        if self.task == FIRST_TASK:
            del content["task"]
        return content


def fingerprint(value: Mapping[str, Any]) -> str:
    """Sha256 of a JSON-able mapping in canonical form (sorted keys, no spaces)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
