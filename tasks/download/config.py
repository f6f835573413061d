"""Settings of the download, and of another try for what failed."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import Field, field_validator

from feature_extraction.identity import Identity
from tasks.config import Config
from tasks.records import Outcome

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


class DownloadConfig(Config):
    """How images are fetched, checked and kept.

    Fields marked as no part of the identity say how the work is done (threads, time limits, retries, user agent,
    success floor): changing one makes no shard stale. The others decide which images a shard holds, and their bytes.
    """

    threads: Annotated[int, Identity.NEVER] = Field(default=32, ge=1, description="requests in flight per shard")
    per_host: Annotated[int, Identity.NEVER] = Field(
        default=8, ge=1, description="requests in flight per host and worker process"
    )
    connect_timeout_seconds: Annotated[float, Identity.NEVER] = Field(
        default=5.0, gt=0, description="longest wait for a connection, seconds"
    )
    read_timeout_seconds: Annotated[float, Identity.NEVER] = Field(
        default=10.0, gt=0, description="longest silence of a server, seconds"
    )
    deadline_seconds: Annotated[float, Identity.NEVER] = Field(
        default=30.0,
        gt=0,
        description="longest time spent on one URL: name look-up, connection, redirects, headers and body of all "
        "attempts together, seconds; waits between attempts are not counted",
    )
    retries: Annotated[int, Identity.NEVER] = Field(
        default=2, ge=0, description="further attempts after a failure of a retryable class"
    )
    backoff_seconds: Annotated[float, Identity.NEVER] = Field(
        default=0.5, ge=0, description="wait before the first retry; doubles each time"
    )
    max_retry_after_seconds: Annotated[float, Identity.NEVER] = Field(
        default=60.0, ge=0, description="longest wait that a server's Retry-After is granted; asked for more: no retry"
    )
    host_failures: Annotated[int, Identity.NEVER] = Field(
        default=6,
        ge=1,
        description="URLs in a row of one host that end without an answer, or with a plea to come back later, before "
        "it counts as down; its other URLs then end as host_down, unrequested",
    )
    host_down_seconds: Annotated[float, Identity.NEVER] = Field(
        default=600.0, ge=0, description="how long a host counts as down before one URL of it is tried again, seconds"
    )
    outage_patience_seconds: Annotated[float, Identity.NEVER] = Field(
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
    user_agent: Annotated[str, Identity.NEVER] = Field(
        default="unicoder-vl/0.1 (research image fetcher)",
        min_length=1,
        description="sent with every request; put an address of yours into it",
    )
    accept: Annotated[str | None, Identity.NEVER] = Field(
        default="image/jpeg,image/*;q=0.9,*/*;q=0.5",
        min_length=1,
        description="the Accept header sent with every request: JPEG first, as other pictures are converted to it; "
        "None sends none, which some servers answer with 403 or 406",
    )
    accept_language: Annotated[str | None, Identity.NEVER] = Field(
        default=None, min_length=1, description="the Accept-Language header sent with every request; None sends none"
    )
    headers: Annotated[dict[str, str], Identity.NEVER] = Field(
        default={},
        description="further headers sent with every request, to every host, such as a Referer; shown with the "
        "other parameters",
    )
    opt_out_directives: tuple[str, ...] = Field(
        default=("noai", "noimageai", "noindex", "noimageindex"),
        description="an answer whose X-Robots-Tag has one of these ends as opted_out; empty: the header is ignored",
    )
    robots_txt: bool = Field(default=False, description="ask every host for its robots.txt first, and obey it")
    env_proxies: Annotated[bool, Identity.NEVER] = Field(
        default=True, description="use HTTP_PROXY, HTTPS_PROXY and NO_PROXY of the environment"
    )
    allow_private_addresses: bool = Field(
        default=False, description="fetch from loopback and private networks; off, such a URL is blocked_address"
    )
    min_success_rate: Annotated[float, Identity.NEVER] = Field(
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
