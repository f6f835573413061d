"""Settings of a dataset's rows."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from tasks.storage.logins import has_login, without_login


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
    """Source and form of the rows of one split."""

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


class TextDatasetConfig(Config):
    """A named corpus of text alone, in one or more splits."""

    name: Name = Field(description="folder name of the corpus under the root")
    splits: dict[Name, Annotated[tuple[Uri, ...], Field(min_length=1)]] = Field(
        min_length=1,
        description="split -> its files, one passage a line, in order: paths or fsspec URIs, or patterns such as "
        "more/*.txt.gz, whose files are sorted by name. What is packed is unpacked, and text is UTF-8 or UTF-16",
    )
    shard_passages: int = Field(default=262_144, ge=1, description="passages per text shard")
