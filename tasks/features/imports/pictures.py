"""The pictures of each imported shard, and each one's row in the foreign files."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import Literal
from urllib.parse import unquote, urlsplit

from tasks.download.outcomes import read_outcome_columns
from tasks.errors import UserError
from tasks.features.imports.sources import ForeignSource
from tasks.records import Outcome, Receipt, Record, ShardRef
from tasks.storage import paths
from tasks.storage.root import Root

Match = Literal["order", "name", "number", "key"]
"""How a picture's row is found: see `name_function`; `order` takes the rows themselves as the pictures."""


class Picture(Record):
    """A picture of a shard: `size` of the stored image, `row` of the files; None where unknown."""

    key: str
    name: str
    size: tuple[int, int] | None
    row: int | None


class ShardPictures:
    """The pictures of every shard of a split.

    Matched ones are those of the image shard of the same number, so that shard 42 stays shard 42; with `order`, a
    shard holds so many rows of the files.
    """

    def __init__(
        self, root: Root, dataset: str, split: str, match: Match, shard_size: int, source: ForeignSource
    ) -> None:
        """Raise UserError where the split's pictures are needed and incomplete, or present and unmatched."""
        self._root, self._dataset, self._split = root, dataset, split
        self._match, self._shard_size, self._source = match, shard_size, source
        if match == "order":
            if root.exists(paths.manifest_path(dataset, split)):
                raise UserError(
                    f"{dataset}/{split} has rows under {root.uri}, whose captions would be given the features of other "
                    "pictures; add --match name, number or key"
                )
            self.shards = -(-source.numbers // shard_size)
        else:
            self.shards = self._image_shards()

    def _image_shards(self) -> int:
        """Number of image shards, which are complete once the split's captions are."""
        folder = paths.image_receipt_path(self._dataset, self._split, 0).rpartition("/")[0]
        found = [re.fullmatch(r"images-(\d{5,})\.json", name) for name in self._root.names(folder)]
        numbers = sorted(int(match.group(1)) for match in found if match)
        captions = self._root.read_model(paths.captions_receipt_path(self._dataset, self._split), Receipt)
        if captions is None or captions.missing or not numbers or numbers != list(range(len(numbers))):
            raise UserError(
                f"--match {self._match} needs the pictures of {self._dataset}/{self._split}, and they are not complete "
                f"under {self._root.uri}; run: unicoder-vl download"
            )
        return len(numbers)

    def of_shard(self, shard: int) -> Iterator[Picture]:
        """The pictures of a shard, by key."""
        return self._numbered(shard) if self._match == "order" else self._matched(shard)

    def _numbered(self, shard: int) -> Iterator[Picture]:
        first = shard * self._shard_size
        for number in range(first, min(first + self._shard_size, self._source.numbers)):
            row = self._source.row(number)
            if row is not None:
                size = self._source.picture_size
                yield Picture(key=self._source.key(row), name=row.image_id, size=size, row=number)

    def _matched(self, shard: int) -> Iterator[Picture]:
        name_of = name_function(self._match)
        ref = ShardRef(dataset=self._dataset, split=self._split, shard=shard)
        table = read_outcome_columns(self._root, ref, ["key", "url", "outcome", "width", "height"])
        for line in table.to_pylist():
            if line["outcome"] == Outcome.OK:
                name = line["key"] if self._match == "key" else picture_name(line["url"])
                row = self._source.named(name_of(name))
                size = (line["width"], line["height"])
                yield Picture(key=line["key"], name=name, size=size, row=None if row is None else row.number)


def picture_name(url: str) -> str:
    """The file name in a URL or path, without its suffix."""
    path = unquote(urlsplit(url).path) if "://" in url else url
    return PurePosixPath(path).stem


def name_function(match: Match) -> Callable[[str], str]:
    """The part of an id and of a picture's name that has to be equal.

    That is all of it, but for a suffix that an id may have; or, with `number`, the last number in it, so that 132417 is
    COCO_train2014_000000132417.
    """
    return _last_number if match == "number" else _without_suffix


def _without_suffix(name: str) -> str:
    return re.sub(r"\.(?:jpe?g|png|gif|webp)$", "", name, flags=re.IGNORECASE)


def _last_number(name: str) -> str:
    digits = re.findall(r"\d+", _without_suffix(name))
    return str(int(digits[-1])) if digits else name
