"""Parameters of the two stages that work shard by shard: download and extraction."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, model_validator

from feature_extraction.config import ExtractorConfig
from flows.params.fields import Download, Extractor
from tasks.config import DatasetConfig, TextDatasetConfig, Uri
from tasks.download.config import DownloadConfig, RetryConfig
from tasks.records import ShardRef
from tasks.workers.machines import RayConfig


class Params(BaseModel):
    """Base of this room's models: immutable, and unknown fields are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ShardParams(Params):
    """Datasets under a root, and the splits and shards of them to work on."""

    root_uri: Uri = Field(description="folder or fsspec URI under which everything is kept")
    datasets: tuple[DatasetConfig, ...] = Field(min_length=1, description="what each is and where its rows are")
    only: tuple[str, ...] | None = Field(default=None, description="dataset/split names to work on; None: all")
    shards: str | None = Field(
        default=None,
        pattern=r"^\d+(-\d+)?(,\d+(-\d+)?)*$",
        description="shards of each split to work on, such as 0-99,120; None: all",
    )
    max_failed_share: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="of the shards of each split, so many may fail without failing the stage; what comes after goes "
        "on without them, and says so. 0.02 is two in a hundred",
    )
    ray: RayConfig | None = Field(
        default=None, description="a Ray cluster whose workers work on shards; None: processes of this machine"
    )

    @model_validator(mode="after")
    def _check_selection(self) -> ShardParams:
        for first, last in self._shard_ranges():
            if first > last:
                raise ValueError(f"shards={self.shards!r}: {first}-{last} runs backwards")
        known = self._split_names()
        for name in self.only or ():
            if name not in known:
                raise ValueError(f"there is no split {name!r}; known are {', '.join(known)}")
        return self

    def selected_splits(self) -> list[tuple[DatasetConfig, str]]:
        return [
            (dataset, split)
            for dataset in self.datasets
            for split in dataset.splits
            if self.only is None or f"{dataset.name}/{split}" in self.only
        ]

    @property
    def names(self) -> str:
        """Names of the datasets, for people."""
        return ", ".join(dict.fromkeys(name.partition("/")[0] for name in self._split_names()))

    def _split_names(self) -> list[str]:
        """Every dataset/split that can be selected."""
        return [f"{dataset.name}/{split}" for dataset in self.datasets for split in dataset.splits]

    def selects_shard(self, shard: int) -> bool:
        return self.shards is None or any(first <= shard <= last for first, last in self._shard_ranges())

    def _shard_ranges(self) -> list[tuple[int, int]]:
        parts = [part.partition("-") for part in (self.shards or "").split(",") if part]
        return [(int(first), int(last or first)) for first, _, last in parts]


class DownloadParams(ShardParams):
    """Parameters of a download: caption/URL rows to image shards, and files of text to text shards."""

    datasets: tuple[DatasetConfig, ...] = Field(default=(), description="what each is and where its rows are")
    texts: tuple[TextDatasetConfig, ...] = Field(default=(), description="corpora of text alone, and their files")
    download: Download = DownloadConfig()
    max_workers: int = Field(default=2, ge=1, description="shards downloaded at once, one process each")
    retry: RetryConfig | None = Field(
        default=None, description="try failures of finished shards again, and do nothing else; None: download"
    )
    force: bool = Field(default=False, description="download the selected shards again though they are finished")
    accept_changes: bool = Field(
        default=False,
        description="go on under a root begun with other rows or settings; what they change is downloaded anew",
    )

    @model_validator(mode="after")
    def _check_names(self) -> DownloadParams:
        names = self._split_names()
        if not names:
            raise ValueError("there is nothing to download: neither datasets nor texts")
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None and self.texts:
            raise ValueError(f"{twice} is the name of two splits: give the text another one")
        if not self.selected_splits() and not self.selected_texts():
            raise ValueError("shards and failures are of images, and only text is selected, which is made as a whole")
        return self

    @model_validator(mode="after")
    def _check_force(self) -> DownloadParams:
        if self.retry is not None and self.force:
            raise ValueError("retry and force exclude each other: all of a shard is downloaded again, or its failures")
        return self

    def selected_texts(self) -> list[tuple[TextDatasetConfig, str]]:
        """The splits of text to work on: none where shards or failures are, which only images have."""
        if self.shards is not None or self.retry is not None:
            return []
        return [
            (dataset, split)
            for dataset in self.texts
            for split in dataset.splits
            if self.only is None or f"{dataset.name}/{split}" in self.only
        ]

    def _split_names(self) -> list[str]:
        return super()._split_names() + [f"{text.name}/{split}" for text in self.texts for split in text.splits]

    @property
    def work(self) -> str:
        """The kind of work, in a word."""
        return "download" if self.retry is None else "retry failures of"

    @property
    def accepts_changes(self) -> bool:
        """Whether other rows or settings are accepted, as they are by downloading all again."""
        return self.accept_changes or self.force


class ExtractParams(ShardParams):
    """Parameters of an extraction: image shards to feature shards."""

    extractor: Extractor = ExtractorConfig()
    max_workers: int = Field(
        default=1, ge=1, description="shards extracted at once, one process each: as many as there are GPUs"
    )
    part: str | None = Field(
        default=None,
        pattern=r"^\d+/[1-9]\d*$",
        description="I/N: of the selected shards, those whose number leaves I when divided by N. For N machines that "
        "share a root, I from 0 to N - 1; None: all",
    )

    @model_validator(mode="after")
    def _check_part(self) -> ExtractParams:
        number, count = self._part
        if number >= count:
            raise ValueError(f"part={self.part!r}: parts of {count} are 0/{count} to {count - 1}/{count}")
        return self

    def selects(self, ref: ShardRef) -> bool:
        """Whether this run works on a shard of a selected split."""
        number, count = self._part
        return self.selects_shard(ref.shard) and ref.shard % count == number

    @property
    def selects_all(self) -> bool:
        """Whether no shard of the selected splits is left out."""
        return self.shards is None and self._part[1] == 1

    @property
    def _part(self) -> tuple[int, int]:
        number, _, count = (self.part or "0/1").partition("/")
        return int(number), int(count)
