"""Settings and summary of an import."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from feature_extraction.foreign.boxes import BoxForm
from feature_extraction.samples.regions import Encoding
from tasks.features.imports.pictures import Match
from tasks.records import Record


class ImportConfig(BaseModel):
    """What is imported, and how it is stored."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sources: tuple[Path, ...] = Field(
        description="TSV files of one form, one folder of .npz files, or one of UNITER's image databases"
    )
    detector: str = Field(
        min_length=1, description="name of what made the features; those of equal names count as one feature set"
    )
    vocabulary: Path | None = Field(
        default=None,
        description="file with one label name a line, without the background. None names the classes by number; "
        "of VinVL's files, which hold names, it takes those",
    )
    match: Match = Field(
        default="order",
        description="what finds a picture's row. order: pictures are the rows, numbered; those of UNITER's databases "
        "have their names there as keys. name: the file name in the "
        "picture's URL, without its suffix. number: the last number in it. key: our own key",
    )
    background_first: bool = Field(
        default=False, description="class numbers in .npz files count the background as 0, as some versions wrote them"
    )
    boxes: BoxForm | None = Field(
        default=None,
        description="pixels: corners in pixels of the size that the files state. normalised: as shares of width and "
        "height. None: as the first pictures of each file tell, and an error where they do not",
    )
    feature_dim: int | None = Field(
        default=None,
        ge=1,
        description="D; in TSVs it tells whether features are float16, float32 or float64. None: as what they hold",
    )
    max_regions: int | None = Field(
        default=None,
        ge=1,
        le=1000,
        description="R; more are cut, best kept. None: the number of boxes if the first pictures all have the same, "
        "else 100",
    )
    encoding: Encoding = Field(default="sqrt8", description="fp16 where features are below zero")
    class_scores: Literal["none", "all"] | None = Field(
        default=None,
        description="all: the distribution over all classes is stored, of files that hold it as soft_labels or "
        "cls_prob with the background first. None: all of UNITER's databases that have it, none of other files",
    )
    shard_size: int = Field(default=1024, ge=1, description="pictures a shard; with match=order only")


class TextSummary(Record):
    """What became of the texts of a database."""

    texts: int = Field(description="captions stored")
    changed: int = Field(description="stored ones that the vocabulary cuts into other pieces than the database has")
    lost: dict[str, int] = Field(
        description="texts left out. no picture: the image database lacks it; two pictures: of NLVR2 or VCR; absent: "
        "id2len.json names them, but there is no entry; unlisted: entries that id2len.json lacks; damaged"
    )
    examples: dict[str, tuple[str, ...]] = Field(description="a few names of each: pictures for no picture, else texts")


class ImportSummary(Record):
    """What an import did. Counts are of the whole split, whenever its shards were made."""

    extractor: str = Field(description="fingerprint of the feature set; its first twelve digits name the folder")
    folder: str = Field(description="where the feature shards lie")
    form: str = Field(description="whose form the files are of")
    shards: int = Field(description="of the split")
    skipped: int = Field(description="shards that were there before")
    replaced: int = Field(description="shards that were there before, made from other files or pictures")
    counts: dict[str, int] = Field(
        description="pictures ok, failed and missing; regions; cut: pictures with more than R; "
        "reshaped: pictures whose stored shape is another than the file's; outside: pictures with boxes that are empty "
        "or leave them by more than a pixel"
    )
    unused_rows: int = Field(description="rows of the files that no picture of the split has")
    repeated_rows: int = Field(description="rows with the id of an earlier one, which are not read")
    ignored: dict[str, int] = Field(
        default={}, description="entries of UNITER's values that are no features, by name, of the pictures read now"
    )
    absent: int = Field(default=0, description="names in the lists of UNITER's database that have no entry")
    unlisted: int = Field(default=0, description="entries of UNITER's database that its list of box counts lacks")
    examples: dict[str, tuple[str, ...]] = Field(description="a few ids: unused, missing")
    imported_captions: TextSummary | None = Field(
        default=None, description="where texts were imported with the features"
    )
