"""What a dataset is and how its images are fetched; and which machines train together."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from tasks.logins import has_login, without_login
from tasks.records import Outcome


class Config(BaseModel):
    """Base of this room's configs: immutable, and unknown fields are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def _plain_name(name: str) -> str:
    if not name or not all(c.isascii() and (c.isalnum() or c in "-_") for c in name):
        raise ValueError(f"{name!r} becomes a folder name: use letters, digits, '-' and '_'")
    return name


def _no_login(uri: str) -> str:
    if has_login(uri):
        raise ValueError(
            f"{without_login(uri)} came with a login, which records would show: leave it out, or fetch the file first"
        )
    return uri


Name = Annotated[str, AfterValidator(_plain_name)]
Uri = Annotated[str, AfterValidator(_no_login)]


RowsForm = Literal["tsv", "csv", "parquet", "karpathy", "coco", "tokens"]


class RowsConfig(Config):
    """Where the rows of one split come from, and how they are written."""

    rows: Uri = Field(
        min_length=1,
        description="path or fsspec URI of the rows; what is packed (gzip, bzip2, xz, zstd) is unpacked, and text is "
        "UTF-8 or UTF-16. A relative path is relative to the working directory",
    )
    form: RowsForm | None = Field(
        default=None,
        description="tsv: caption TAB url, no header, no quoting, as Google publishes it; csv (also with semicolons or "
        "tabs) and parquet: named columns; karpathy: dataset_flickr30k.json or dataset_coco.json; coco: COCO's own "
        "captions json; tokens: name#0 TAB caption, as Flickr8k. None: by the name's end, .json by its content",
    )
    caption_column: str = Field(default="caption", description="csv, parquet: name of the caption column")
    url_column: str | None = Field(
        default=None,
        description="csv, parquet: name of the URL (or file name) column. None: url; with images, whichever of file, "
        "file_name, filename, image and url there is",
    )
    url_first: bool = Field(default=False, description="tsv: url TAB caption, as Conceptual 12M is published")
    images: Uri | None = Field(
        default=None,
        description="folder or fsspec URI of pictures on disk: the rows then hold file names below it, and nothing is "
        "requested from any network. Needed for karpathy, coco and tokens",
    )
    select: tuple[str, ...] | None = Field(
        default=None,
        description="karpathy: which of the file's splits; None: the one of this split's name, and with train also "
        "restval",
    )
    names: Uri | None = Field(
        default=None,
        description="path or fsspec URI of a list of file names, one a line: only their rows belong to this split",
    )


class DatasetConfig(Config):
    """A named list of caption/URL rows, in one or more splits."""

    name: Name = Field(description="folder name of the dataset under the root")
    splits: dict[Name, Uri | RowsConfig] = Field(
        min_length=1,
        description="split -> its rows; a plain string is the path or URI of rows whose name tells their form",
    )
    shard_size: int = Field(default=1024, ge=1, description="manifest rows per image shard")

    def rows_config(self, split: str) -> RowsConfig:
        """The rows of one split.

        Raises:
            KeyError: the dataset has no such split.
        """
        rows = self.splits[split]
        return RowsConfig(rows=rows) if isinstance(rows, str) else rows


class NodesConfig(Config):
    """Machines that train one run together: which one this is, and where the first one listens. As torchrun has it."""

    nnodes: int = Field(ge=2, description="how many machines")
    node_rank: int = Field(ge=0, description="number of this machine; 0 writes the run, the others follow")
    master_addr: str = Field(min_length=1, description="host name or address of machine 0")
    master_port: int = Field(default=29500, ge=1, le=65535, description="free port of machine 0")

    @model_validator(mode="after")
    def _check_rank(self) -> NodesConfig:
        if self.node_rank >= self.nnodes:
            raise ValueError(f"node_rank={self.node_rank}: {self.nnodes} nodes are 0 to {self.nnodes - 1}")
        return self

    def __str__(self) -> str:
        return f"node {self.node_rank} of {self.nnodes}"


class RetryConfig(Config):
    """Which failures of finished shards are tried again."""

    outcomes: tuple[Outcome, ...] = Field(
        default=tuple(outcome for outcome in Outcome if outcome.retryable),
        min_length=1,
        description="classes of failures to try again; by default those that may pass",
    )
    older_than_seconds: float = Field(default=0.0, ge=0, description="only those last tried at least so long ago")

    @field_validator("outcomes")
    @classmethod
    def _check_outcomes(cls, outcomes: tuple[Outcome, ...]) -> tuple[Outcome, ...]:
        for outcome in outcomes:
            if outcome in (Outcome.OK, Outcome.DUPLICATE, Outcome.BAD_ROW):
                raise ValueError(f"{outcome.value} is no failure that a request could mend")
        return outcomes


# Headers of a request that `DownloadConfig.headers` cannot hold.
_OWN_FIELDS = {"user-agent": "user_agent", "accept": "accept", "accept-language": "accept_language"}
_OURS = frozenset(
    {
        "accept-encoding",
        "connection",
        "content-length",
        "expect",
        "host",
        "keep-alive",
        "range",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)


def _fits_header(value: str) -> bool:
    return value.isascii() and value.isprintable()


class DownloadConfig(Config):
    """How images are fetched, checked and kept."""

    threads: int = Field(default=32, ge=1, description="requests in flight per shard")
    per_host: int = Field(default=8, ge=1, description="requests in flight per host and worker process")
    connect_timeout_seconds: float = Field(default=5.0, gt=0, description="longest wait for a connection, seconds")
    read_timeout_seconds: float = Field(default=10.0, gt=0, description="longest silence of a server, seconds")
    deadline_seconds: float = Field(
        default=30.0,
        gt=0,
        description="longest time spent on one URL: name look-up, connection, redirects, headers and body of all "
        "attempts together, seconds; waits between attempts are not counted",
    )
    retries: int = Field(default=2, ge=0, description="further attempts after a failure of a retryable class")
    backoff_seconds: float = Field(default=0.5, ge=0, description="wait before the first retry; doubles each time")
    max_retry_after_seconds: float = Field(
        default=60.0, ge=0, description="longest wait that a server's Retry-After is granted; asked for more: no retry"
    )
    host_failures: int = Field(
        default=6,
        ge=1,
        description="URLs in a row of one host that end without an answer, or with a plea to come back later, before "
        "it counts as down; its other URLs then end as host_down, unrequested",
    )
    host_down_seconds: float = Field(
        default=600.0, ge=0, description="how long a host counts as down before one URL of it is tried again, seconds"
    )
    outage_patience_seconds: float = Field(
        default=1800.0,
        ge=0,
        description="longest pause while the network itself is gone; then the stage fails, seconds",
    )
    max_bytes: int = Field(default=20_000_000, ge=1, description="largest body read, bytes")
    max_redirects: int = Field(default=5, ge=0, description="redirects followed per URL")
    max_pixels: int = Field(default=50_000_000, ge=1, description="largest width x height decoded, pixels")
    min_side: int = Field(default=32, ge=1, description="smallest width and height kept, pixels")
    short_side: int | None = Field(
        default=512, ge=32, description="larger images are shrunk to this shorter side, pixels; None keeps every size"
    )
    jpeg_quality: int = Field(default=90, ge=1, le=100, description="quality of images that must be re-encoded")
    user_agent: str = Field(
        default="unicoder-vl/0.1 (research image fetcher)",
        min_length=1,
        description="sent with every request; put an address of yours into it",
    )
    accept: str | None = Field(
        default="image/jpeg,image/*;q=0.9,*/*;q=0.5",
        min_length=1,
        description="the Accept header sent with every request: JPEG first, as other pictures are converted to it; "
        "None sends none, which some servers answer with 403 or 406",
    )
    accept_language: str | None = Field(
        default=None, min_length=1, description="the Accept-Language header sent with every request; None sends none"
    )
    headers: dict[str, str] = Field(
        default={},
        description="further headers sent with every request, to every host, such as a Referer; shown with the "
        "other parameters",
    )
    opt_out_directives: tuple[str, ...] = Field(
        default=("noai", "noimageai", "noindex", "noimageindex"),
        description="an answer whose X-Robots-Tag has one of these ends as opted_out; empty: the header is ignored",
    )
    robots_txt: bool = Field(default=False, description="ask every host for its robots.txt first, and obey it")
    env_proxies: bool = Field(default=True, description="use HTTP_PROXY, HTTPS_PROXY and NO_PROXY of the environment")
    allow_private_addresses: bool = Field(
        default=False, description="fetch from loopback and private networks; off, such a URL is blocked_address"
    )
    min_success_rate: float = Field(
        default=0.0, ge=0, le=1, description="share of rows that must end ok, else the flow fails with the table"
    )

    @field_validator("user_agent", "accept", "accept_language")
    @classmethod
    def _check_header_value(cls, value: str | None) -> str | None:
        if value is not None and not _fits_header(value):
            raise ValueError("it is sent in a header of HTTP: use printable ASCII characters only")
        return value

    @field_validator("headers")
    @classmethod
    def _check_headers(cls, headers: dict[str, str]) -> dict[str, str]:
        for name, value in headers.items():
            if not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", name) or not _fits_header(value):
                raise ValueError(f"{name!r} is no header of HTTP: use printable ASCII characters only")
            if name.lower() in _OWN_FIELDS:
                raise ValueError(f"{name} has a field of its own: {_OWN_FIELDS[name.lower()]}")
            if name.lower() in _OURS or name.lower().startswith(("if-", "proxy-")):
                raise ValueError(
                    f"{name} decides how a connection is used or what an answer holds, so it is not yours to set"
                )
        if len({name.lower() for name in headers}) < len(headers):
            raise ValueError("a header is named twice")
        return headers
