"""What a dataset is and how its images are fetched."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


class Config(BaseModel):
    """Base of this room's configs: immutable, and unknown fields are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def _plain_name(name: str) -> str:
    if not name or not all(c.isascii() and (c.isalnum() or c in "-_") for c in name):
        raise ValueError(f"{name!r} becomes a folder name: use letters, digits, '-' and '_'")
    return name


Name = Annotated[str, AfterValidator(_plain_name)]


class DatasetConfig(Config):
    """A named list of caption/URL rows, in one or more splits."""

    name: Name = Field(description="folder name of the dataset under the root")
    splits: dict[Name, str] = Field(
        min_length=1,
        description="split -> path or fsspec URI of its rows (caption TAB url, no header, .gz allowed). "
        "A relative path is relative to the working directory",
    )
    shard_size: int = Field(default=1024, ge=1, description="manifest rows per image shard")


class DownloadConfig(Config):
    """How images are fetched, checked and kept."""

    threads: int = Field(default=32, ge=1, description="requests in flight per shard")
    connect_timeout_seconds: float = Field(default=5.0, gt=0, description="longest wait for a connection, seconds")
    read_timeout_seconds: float = Field(default=10.0, gt=0, description="longest silence of a server, seconds")
    deadline_seconds: float = Field(
        default=30.0, gt=0, description="longest time for one URL: redirects and body together, one attempt, seconds"
    )
    retries: int = Field(default=2, ge=0, description="further attempts after a failure of a retryable class")
    backoff_seconds: float = Field(default=0.5, ge=0, description="wait before the first retry; doubles each time")
    max_bytes: int = Field(default=20_000_000, ge=1, description="largest body read, bytes")
    max_redirects: int = Field(default=5, ge=0, description="redirects followed per URL")
    max_pixels: int = Field(default=50_000_000, ge=1, description="largest width x height decoded, pixels")
    min_side: int = Field(default=32, ge=1, description="smallest width and height kept, pixels")
    short_side: int | None = Field(
        default=512, ge=32, description="larger images are shrunk to this shorter side, pixels; None keeps every size"
    )
    jpeg_quality: int = Field(default=90, ge=1, le=100, description="quality of images that must be re-encoded")
    user_agent: str = Field(default="unicoder-vl/0.1 (research image fetcher)", min_length=1)
    allow_private_addresses: bool = Field(
        default=False, description="fetch from loopback and private networks; off, such a URL is blocked_address"
    )
    min_success_rate: float = Field(
        default=0.0, ge=0, le=1, description="share of rows that must end ok, else the flow fails with the table"
    )
