"""A folder of LMDB, opened for reading alone: whole, or refused."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lmdb

from tasks.errors import UserError

DATA = "data.mdb"


@contextmanager
def open_lmdb(folder: Path) -> Iterator[lmdb.Transaction]:
    """One reading transaction on a folder's database, whose values are views; no lock file is written.

    Raises:
        UserError: it is no LMDB, is cut, is damaged, or is open in this process already.
    """
    try:
        with lmdb.open(str(folder), readonly=True, lock=False, create=False, max_readers=1) as database:
            _check_size(folder, database)
            with database.begin(buffers=True) as transaction:
                yield transaction
    except lmdb.Error as error:
        raise UserError(f"{folder} cannot be read as LMDB ({error}); copy the whole folder again") from error


def _check_size(folder: Path, database: lmdb.Environment) -> None:
    """Refuse a cut file: a read beyond its end would end the process."""
    needed = (database.info()["last_pgno"] + 1) * database.stat()["psize"]
    size = (folder / DATA).stat().st_size
    if size < needed:
        raise UserError(f"{folder / DATA} has {size:,} bytes, but its pages take {needed:,}: it is cut; copy it again")
