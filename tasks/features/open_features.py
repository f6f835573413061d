"""Open a feature set for inspection: its extractor, receipts and shards."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

from feature_extraction.samples.regions import RegionLayout
from feature_extraction.samples.tars import ShardError
from tasks.errors import UserError
from tasks.extractor import ExtractorRecord
from tasks.features.feature_sets import FeatureSet
from tasks.features.lookup import read_layout
from tasks.made_from import check_shards
from tasks.records import Receipt
from tasks.storage import paths
from tasks.storage.root import Root


@dataclass(frozen=True)
class OpenFeatures:
    """A feature set's extractor, the selected shards' receipts by number, and the layout."""

    root: Root
    features: FeatureSet
    extractor: ExtractorRecord
    receipts: dict[int, Receipt]

    def samples(self, shard: int) -> int:
        """Images of a shard with regions, or with none found."""
        return self.receipts[shard].counts.get("ok", 0)

    @contextmanager
    def shard(self, shard: int) -> Iterator[tuple[IO[bytes], str]]:
        """A feature shard to read from, and its full name for errors.

        Raises:
            ShardError: it is missing, or not of the size that its receipt says.
        """
        path = f"{self.features.folder}/{paths.region_shard_name(shard)}"
        name = self.root.path(path)
        expected = self.receipts[shard].files[paths.region_shard_name(shard)].bytes
        size = self.root.size(path)
        if size is None:
            raise ShardError(f"{name} is missing though its receipt is there; run: unicoder-vl extract")
        if size != expected:
            raise ShardError(f"{name} has {size:,} bytes, its receipt says {expected:,}; run: unicoder-vl extract")
        with self.root.open(path) as stream:
            yield stream, name

    def layout(self) -> RegionLayout:
        """The layout of the records, from the first shard that has any.

        Raises:
            UserError: none has.
            ShardError: that shard is damaged.
        """
        for shard in self.receipts:
            if self.samples(shard):
                with self.shard(shard) as (stream, name):
                    return read_layout(stream, name)
        raise UserError(
            f"the selected shards of {self.features} hold no image; the download's report says what became of them"
        )


def open_features(root: Root, features: FeatureSet, selects: Callable[[int], bool]) -> OpenFeatures:
    """Read the receipts of the shards whose numbers are selected.

    Raises:
        UserError: there is no such feature set, or none of its shards is selected; or one of them was made from other
            images than the root has now.
    """
    path = paths.extractor_path(features.extractor)
    record = root.read_model(path, ExtractorRecord)
    if record is None:
        raise UserError(f"{root.path(path)} is missing: these features are not there; run: unicoder-vl extract")
    matches = [re.fullmatch(r"regions-(\d{5,})\.json", name) for name in root.names(features.folder)]
    there = sorted(int(match.group(1)) for match in matches if match)
    if not there:
        raise UserError(f"no feature shard is under {root.path(features.folder)}; run: unicoder-vl extract")
    found = {
        shard: root.read_model(f"{features.folder}/{paths.region_receipt_name(shard)}", Receipt)
        for shard in there
        if selects(shard)
    }
    if not found:
        raise UserError(
            f"none of the {len(there)} feature shards of {features} is selected: they are {there[0]} to {there[-1]}"
        )
    receipts = {shard: receipt for shard, receipt in found.items() if receipt is not None}
    check_shards(root, features.dataset, features.split, features.extractor, receipts)
    return OpenFeatures(root, features, record, receipts)
