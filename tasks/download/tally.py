"""Running counts over a split's outcome tables: all that the report of a download needs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tasks.download.placeholders import Prefixes, Rows, digest_prefixes, key_numbers, url_hosts
from tasks.errors import UserError
from tasks.records import Outcome

UNREAD = 255
"""The code of a row whose shard is missing."""

_OUTCOMES = pa.array([outcome.value for outcome in Outcome])
_DUPLICATE = list(Outcome).index(Outcome.DUPLICATE)
_MOST_DETAILS = 5_000  # different details kept in memory; the rarest are forgotten
_MERGE_ROWS = 16_384


class RunningGroups:
    """A running GROUP BY; `urls` counts the rows of each group."""

    def __init__(self, keys: Sequence[str], column: str, how: Literal["sum", "first"], kind: Any) -> None:
        """Begin without groups.

        The result has one more column, of type `kind`: the sum of the group's values, or its first one.
        """
        self._keys = list(keys)
        self._kept = [("urls", "sum"), (column, how)]
        names = [(key, pa.string()) for key in keys]
        self._parts = [pa.schema([*names, ("urls", pa.int64()), (column, kind)]).empty_table()]

    def add(self, table: Any) -> None:
        counted = table.append_column("urls", pa.array(np.ones(len(table), np.int64)))
        self._parts.append(self._grouped(counted))
        # Merged once the new rows are as many as the old, each row goes through few merges.
        if sum(len(part) for part in self._parts[1:]) > max(_MERGE_ROWS, len(self._parts[0])):
            self.merge()

    def merge(self) -> Any:
        """The groups so far, as one table."""
        self._parts = [self._grouped(pa.concat_tables(self._parts))]
        return self._parts[0]

    def keep(self, most: int) -> None:
        """Keep the `most` largest groups, once there are more than twice as many."""
        if sum(len(part) for part in self._parts) > 2 * most and len(self.merge()) > 2 * most:
            self._parts = [self._parts[0].sort_by([("urls", "descending")]).slice(0, most)]

    def _grouped(self, table: Any) -> Any:
        # One thread: "first" needs the order.
        grouped = table.group_by(self._keys, use_threads=False).aggregate(self._kept)
        columns = {key: grouped[key] for key in self._keys}
        return pa.table(columns | {name: grouped[f"{name}_{how}"] for name, how in self._kept})


@dataclass
class Tally:
    """Counts over the tables added so far.

    `codes` holds a number per manifest row: which of `Outcome` it ended as, or UNREAD. `digests` are the beginnings
    of the digests of all pictures, and `digest_rows` the numbers of their rows.
    """

    codes: Any
    duplicates: list[Rows] = field(default_factory=list)
    originals: list[Rows] = field(default_factory=list)
    hosts: RunningGroups = field(
        default_factory=lambda: RunningGroups(["host", "outcome"], "seconds", "sum", pa.float64())
    )
    details: RunningGroups = field(
        default_factory=lambda: RunningGroups(["outcome", "detail"], "url", "first", pa.string())
    )
    http_statuses: Counter[int] = field(default_factory=Counter)
    images: int = 0
    image_bytes: int = 0
    short_sides: Counter[int] = field(default_factory=Counter)
    long_sides: Counter[int] = field(default_factory=Counter)
    digests: list[Prefixes] = field(default_factory=list)
    digest_rows: list[Any] = field(default_factory=list)

    def add(self, table: Any, name: str) -> None:
        """Add joined outcome tables of the split `name`.

        Raises:
            UserError: a row is not one of the manifest's.
        """
        rows = key_numbers(table["key"])
        if rows.max(initial=-1) >= len(self.codes):
            raise UserError(f"{name} has image shards made from more rows than its manifest; run: unicoder-vl download")
        codes = pc.index_in(table["outcome"], value_set=_OUTCOMES).to_numpy()
        self.codes[rows] = codes
        duplicate = codes == _DUPLICATE
        self.duplicates.append(rows[duplicate])
        self.originals.append(key_numbers(table["image_key"])[duplicate])
        own = table.filter(pa.array(~duplicate))
        self.details.add(own.select(["outcome", "detail", "url"]))
        self.details.keep(_MOST_DETAILS)
        good = own.filter(pc.not_equal(own["outcome"], Outcome.BAD_ROW.value))
        of_web = good.select(["outcome", "seconds"]).append_column("host", url_hosts(good["url"]))
        self.hosts.add(of_web.filter(pc.is_valid(of_web["host"])))
        _count(self.http_statuses, own["http_status"].drop_null())
        self._add_pictures(own.filter(pc.equal(own["outcome"], Outcome.OK.value)))

    def _add_pictures(self, pictures: Any) -> None:
        self.images += len(pictures)
        self.image_bytes += pc.sum(pictures["bytes"]).as_py() or 0
        _count(self.short_sides, pc.min_element_wise(pictures["width"], pictures["height"]))
        _count(self.long_sides, pc.max_element_wise(pictures["width"], pictures["height"]))
        self.digests.append(digest_prefixes(pictures["sha256"]))
        self.digest_rows.append(key_numbers(pictures["key"]).astype(np.int32))

    def outcomes(self) -> dict[Outcome, int]:
        """Rows by outcome; a duplicate counts under its original's, as far as that was read."""
        codes = self.codes.copy()
        duplicates, originals = joined(self.duplicates), joined(self.originals)
        known = self.codes[originals] != UNREAD
        codes[duplicates[known]] = self.codes[originals[known]]
        counts = np.bincount(codes, minlength=UNREAD + 1)
        return {outcome: int(counts[code]) for code, outcome in enumerate(Outcome) if counts[code]}


def joined(parts: Sequence[Rows]) -> Rows:
    """Row numbers of all parts in one array, also of no parts."""
    return np.concatenate([np.empty(0, np.int64), *parts])


def _count(counter: Counter[int], numbers: Any) -> None:
    values, counts = np.unique(numbers.to_numpy(), return_counts=True)
    for value, count in zip(values.tolist(), counts.tolist(), strict=True):
        counter[int(value)] += count
