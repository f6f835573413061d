"""UNITER's image databases: their pictures by name, and how many boxes of each are read.

A database is an LMDB folder. Its name says how many boxes a picture has: the list `nbb_REST.json` beside `feat_REST`
(and `feat_REST_compressed`) holds their number, `feat_numbbN` has the first N, `all` has all.
"""

from __future__ import annotations

import json
import logging
import re
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lmdb

from feature_extraction.foreign.arrays import ForeignError
from feature_extraction.foreign.tsv import ForeignRegions
from feature_extraction.foreign.uniter import read_uniter_value
from tasks.errors import UserError
from tasks.storage.lmdb_folder import DATA, open_lmdb

logger = logging.getLogger("tasks.import_features")

_KEYS = b"__keys__"
_SUFFIX = ".npz"
_ENDS = 256
"""Bytes at either end of a value that its checksum is of: reading all of a database twice would take hours."""
PICTURE_SIZE = (1000, 1000)
"""(width, height) given to a picture of which the database alone is there: it holds shares of an unknown size."""


class UniterDatabase:
    """The pictures of an image database. Made by `open_uniter`.

    Attributes:
        ignored: entries in values that are no features, by name, of the values read so far.
        unlisted: pictures that the list of box counts does not name.
        absent: names in the lists of box counts or keys that the database has no entry for.
    """

    def __init__(self, folder: Path, transaction: lmdb.Transaction) -> None:
        self._folder, self._transaction = folder, transaction
        self._list, self._counts = _box_counts(folder)
        numbered = re.fullmatch(r"feat_numbb(\d+)(?:_compressed)?", folder.name)
        self._limit = int(numbered[1]) if numbered else None
        self.ignored: Counter[str] = Counter()
        self.unlisted: list[str] = []
        self.absent: list[str] = []

    def entries(self, digest: Any) -> list[tuple[str, str]]:
        """Our key and the database's of every picture, by ours; notes what has no partner.

        Args:
            digest: is fed names, lengths and ends of the values.

        Raises:
            UserError: two names make one key, or a name is no text.
        """
        found: dict[str, str] = {}
        listed = set(self._counts or ())
        for key_view, value in self._transaction.cursor():
            name = bytes(key_view)
            if name == _KEYS:
                listed |= _listed_keys(bytes(value))
                continue
            try:
                text = name.decode()
            except UnicodeDecodeError as error:
                raise UserError(f"{self._folder} has a key that is no text, {name!r}; is it UNITER's?") from error
            ends = bytes(value[:_ENDS]) + bytes(value[-_ENDS:])
            digest.update(f"{text} {len(value)} {zlib.crc32(ends):08x}\n".encode())
            if self._counts is not None and text not in self._counts:
                self.unlisted.append(text)
            listed.discard(text)
            if (key := key_of(text)) in found:
                raise UserError(f"{self._folder}: {found[key]!r} and {text!r} would both have the key {key!r}")
            found[key] = text
        self.absent = sorted(listed)
        self._say_unpaired()
        digest.update(f"{self._list} {self._limit}\n".encode())
        return sorted(found.items())

    def read(self, name: str, num_classes: int) -> ForeignRegions:
        """Read a picture's regions.

        Raises:
            ForeignError: its value is damaged, or has fewer boxes than the list says.
        """
        value = self._transaction.get(name.encode())
        if value is None:
            raise ForeignError("the database has no entry of this name any more")
        count = None if self._counts is None else self._counts.get(name)
        return read_uniter_value(bytes(value), name, num_classes, count, self._limit, self.ignored)

    def _say_unpaired(self) -> None:
        for names, what in (
            (self.absent, "names in its lists have no entry"),
            (self.unlisted, f"entries are not in {self._list}, and are read with all of their boxes"),
        ):
            if names:
                logger.warning("%s: %d %s, such as %s", self._folder, len(names), what, ", ".join(names[:5]))


@contextmanager
def open_uniter(folder: Path) -> Iterator[UniterDatabase]:
    """Open an image database. Raises UserError as `open_lmdb`, and where its list of box counts is damaged."""
    with open_lmdb(folder) as transaction:
        yield UniterDatabase(folder, transaction)


def key_of(name: str) -> str:
    """Our key of a picture by its name in UNITER's databases: without .npz, and `_` for what no key holds."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", name.removesuffix(_SUFFIX))


def find_databases(folder: Path) -> list[str]:
    """Names of the LMDB folders in a folder."""
    return sorted(path.parent.name for path in folder.glob(f"*/{DATA}"))


def _box_counts(folder: Path) -> tuple[str | None, dict[str, int] | None]:
    """The name and the content of a database's list of box counts; None where it has none."""
    match = re.fullmatch(r"feat_(th.+?)(?:_compressed)?", folder.name)
    if match is None:
        return None, None
    path = folder.parent / f"nbb_{match[1]}.json"
    if not path.is_file():
        logger.warning("%s is not beside %s: pictures are read with all boxes of their entries", path.name, folder)
        return None, None
    try:
        counts = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not whole JSON ({error}); copy it again") from error
    if not isinstance(counts, dict) or not all(type(count) is int and count >= 0 for count in counts.values()):
        raise UserError(f"{path} is no map of names to numbers of boxes; copy it again")
    return path.name, counts


def _listed_keys(value: bytes) -> set[str]:
    """The names in a database's `__keys__`; a damaged list names none."""
    try:
        names = json.loads(value)
    except (ValueError, RecursionError):
        return set()
    return {name for name in names if isinstance(name, str)} if isinstance(names, list) else set()
