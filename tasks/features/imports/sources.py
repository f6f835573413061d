"""Other programs' feature files, read by picture: their form, their pictures, and one picture at a time.

A TSV is read through once, for its digest and to note where each line begins; the notes lie in a temporary SQLite
file (TMPDIR; about 100 bytes a picture) that has no name, so memory grows neither with the pictures nor with the
length of a line, and a killed import leaves nothing.
"""

from __future__ import annotations

import hashlib
import os
import re
import sqlite3
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from feature_extraction.foreign.arrays import FloatType, ForeignError, tell_float_type
from feature_extraction.foreign.npz import read_npz
from feature_extraction.foreign.tsv import (
    BOTTOM_UP_FIELDS,
    LXMERT_FIELDS,
    ForeignRegions,
    feature_bytes,
    read_bottom_up_row,
    read_lxmert_row,
    row_id,
    split_fields,
)
from feature_extraction.foreign.vinvl import GEOMETRY, read_vinvl_rows, vinvl_feature_bytes, vinvl_names
from tasks.errors import UserError
from tasks.features.imports.uniter import PICTURE_SIZE, UniterDatabase, find_databases, key_of, open_uniter
from tasks.storage.lmdb_folder import DATA

Form = Literal["lxmert", "bottom-up", "vinvl", "npz", "uniter"]

_LONGEST_LINE = 64 << 20  # Bytes; a thousand boxes of 2054 numbers take 11 million.
_COMPRESSED = (b"\x1f\x8b", b"PK\x03\x04", b"BZh", b"\xfd7zX", b"\x28\xb5\x2f\xfd")  # gzip, zip, bzip2, xz, zstd
TEXT_LENGTHS = "id2len.json"
"""The file that tells one of UNITER's databases of texts."""
_LABEL_FILES = ("label", "labels", "predictions")
FIRST_ROWS = 64
"""Pictures of a file that tell what all of them are."""


@dataclass(frozen=True)
class ForeignFiles:
    """The files to import, of one form and in the order given; `labels` lie beside each of VinVL's features."""

    form: Form
    paths: tuple[Path, ...]
    labels: tuple[Path, ...] = ()


def recognise(sources: Sequence[Path]) -> ForeignFiles:
    """Tell the form of feature files from their content.

    Args:
        sources: TSV files; or one folder, of `.npz` files, with VinVL's TSVs, or UNITER's database.

    Raises:
        UserError: a source is missing, of no form that can be read, or of another form than the first.
    """
    if not sources:
        raise UserError("no feature files are given; give a TSV file or a folder")
    for source in sources:
        if not source.exists():
            raise UserError(f"feature file {source} is not there; give a TSV file or a folder of .npz files")
    if any(source.is_dir() for source in sources):
        if len(sources) > 1:
            raise UserError("give one folder, or one or more TSV files")
        return _folder(sources[0])
    forms = {_form_of(source) for source in sources}
    if len(forms) > 1:
        raise UserError(f"the feature files are of several forms ({', '.join(sorted(forms))}); import them one by one")
    form = forms.pop()
    return ForeignFiles(form, tuple(sources), tuple(map(_labels_of, sources)) if form == "vinvl" else ())


def _folder(folder: Path) -> ForeignFiles:
    if (folder / DATA).is_file():
        if (folder / TEXT_LENGTHS).is_file():
            raise UserError(f"{folder} is a database of texts; give the one of its images, and this one with --texts")
        return ForeignFiles("uniter", (folder,))
    if next(_npz_names(folder, ""), None) is not None:
        return ForeignFiles("npz", (folder,))
    tables = sorted(path for path in folder.glob("*.tsv") if re.search(r"features?\.tsv$", path.name))
    if not tables:
        tables = sorted(folder.glob("predictions.tsv"))
    if not tables and (databases := find_databases(folder)):
        raise UserError(
            f"{folder} holds {len(databases)} databases ({', '.join(databases)}); give one of them, such as "
            f"{folder / databases[0]}"
        )
    if not tables:
        raise UserError(f"{folder} holds neither .npz files nor features.tsv; give the folder or the TSV file itself")
    return recognise(tables)


def _form_of(path: Path) -> Form:
    with path.open("rb") as stream:
        start = stream.read(4)
        stream.seek(0)
        line = _line(stream, path)
    if not line:
        raise UserError(f"{path} is empty; give a feature TSV, or a folder of .npz files")
    if path.suffix == ".npz":
        raise UserError(f"{path} is one picture's file; give the folder of all .npz files")
    if start.startswith(_COMPRESSED):
        raise UserError(f"{path} is compressed; unpack it, and give what comes out")
    fields = split_fields(line)
    if len(fields) == len(LXMERT_FIELDS):
        return "lxmert"
    if len(fields) == len(BOTTOM_UP_FIELDS):
        return "bottom-up"
    if (len(fields) == 2 and fields[1][:1] in (b"{", b"[")) or (len(fields) == 3 and fields[1].isdigit()):
        return "vinvl"
    raise UserError(
        f"{path} is no feature TSV that is known: its first line has {len(fields)} tab-separated fields, and LXMERT's "
        "has 10, bottom-up attention's 6, VinVL's 2 or 3"
    )


def _labels_of(features: Path) -> Path:
    """The file with labels beside a VinVL feature file; the same file where it holds them itself."""
    with features.open("rb") as stream:
        if b'"rect"' in _line(stream, features):
            return features
    if re.search(r"features?\.tsv$", features.name):
        stem = re.sub(r"features?\.tsv$", "", features.name)
        for name in _LABEL_FILES:
            if (labels := features.with_name(f"{stem}{name}.tsv")).is_file():
                return labels
    raise UserError(
        f"{features} has no boxes and labels, and no label.tsv is beside it; put the label.tsv (or "
        "predictions.tsv) of the same run there, named as the feature file with label for feature"
    )


def _line(stream: IO[bytes], path: Path) -> bytes:
    """The next line; empty at the end."""
    line = stream.readline(_LONGEST_LINE)
    if len(line) == _LONGEST_LINE:
        raise UserError(f"{path} has a line of more than {_LONGEST_LINE >> 20} MiB; it is not a feature TSV")
    return line


# --- by picture -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """One picture of the files: its number in their order, its id, and its place."""

    number: int
    image_id: str
    source: int
    offset: int
    labels_offset: int


class ForeignSource:
    """The pictures of feature files by number or name. Made by `open_source`."""

    def __init__(
        self,
        files: ForeignFiles,
        notes: sqlite3.Connection,
        starts: Sequence[int],
        sha256: str,
        streams: tuple[list[IO[bytes]], list[IO[bytes]]],
        background_first: bool,
        feature_dim: int | None,
        database: UniterDatabase | None,
    ) -> None:
        self.form = files.form
        self.database = database
        """UNITER's, of which `files` is one."""
        self.sha256 = sha256
        """Digest of what the files hold, wherever they lie. Of `.npz` files, of their names and checksums; of a
        database, of names, lengths and ends of its values."""
        self._files = files
        self._notes = notes
        self._streams, self._labels = streams
        self._background_first = background_first
        self.length = int(self._notes.execute("SELECT count(*) FROM rows").fetchone()[0])
        """Pictures, each counted once."""
        *self._starts, self.numbers = starts
        """Rows, with repeated ones."""
        self.paths = files.paths
        self.float_types = tuple(self._float_type(number, feature_dim) for number in range(len(files.paths)))
        """Number type of each file's features; `.npz` files state their own."""

    @property
    def picture_size(self) -> tuple[int, int] | None:
        """The (width, height) of pictures that are not there, of a form that states none; None: rows state it."""
        return None if self.database is None else PICTURE_SIZE

    def key(self, row: Row) -> str:
        """Our key of a row that is of no downloaded picture: its number, or its name where others know it by that."""
        return f"{row.number:09d}" if self.database is None else key_of(row.image_id)

    def row(self, number: int) -> Row | None:
        """A picture by its number in the order of the files; None for a repeated one, and beyond the end."""
        return self._one("SELECT number, id, source, at, labels_at FROM rows WHERE number = ?", number)

    def named(self, name: str) -> Row | None:
        """A picture by the name that `open_source` made of its id."""
        return self._one("SELECT number, id, source, at, labels_at FROM rows WHERE name = ?", name)

    def first_rows(self, source: int) -> Iterator[Row]:
        """The first pictures of a file."""
        start = self._starts[source]
        end = min([start + FIRST_ROWS, *self._starts[source + 1 : source + 2], self.numbers])
        return filter(None, map(self.row, range(start, end)))

    def _one(self, query: str, value: object) -> Row | None:
        found = self._notes.execute(query, (value,)).fetchone()
        return None if found is None else Row(*found)

    def read(self, row: Row, num_classes: int) -> ForeignRegions:
        """Read a picture's regions.

        Raises:
            ForeignError: the row is damaged.
        """
        if self.database is not None:
            return self.database.read(row.image_id, num_classes)
        if self.form == "npz":
            path = self._files.paths[0] / f"{row.image_id}.npz"
            return read_npz(path, num_classes, self._background_first)
        line = self._line_at(self._streams, self._files.paths, row.source, row.offset)
        float_type = self.float_types[row.source]
        if self.form == "lxmert":
            return read_lxmert_row(line, float_type)
        if self.form == "bottom-up":
            return read_bottom_up_row(line, float_type)
        return read_vinvl_rows(line, self._labels_line(row), float_type)

    def _float_type(self, source: int, feature_dim: int | None) -> FloatType:
        """See `float_types`.

        Raises:
            UserError: they cannot be told, or are not so many.
        """
        if self.form in ("npz", "uniter"):
            return "float32"
        extra = (0, GEOMETRY) if self.form == "vinvl" else (0,)
        dims = () if feature_dim is None else tuple(feature_dim + more for more in extra)
        try:
            return tell_float_type(self._first_features(source), dims)
        except ForeignError as error:
            raise UserError(f"{self.paths[source]}: {error}") from error

    def _first_features(self, source: int) -> Iterator[tuple[int, bytes]]:
        for row in self.first_rows(source):
            line = self._line_at(self._streams, self.paths, source, row.offset)
            try:
                found = (
                    vinvl_feature_bytes(line, self._labels_line(row)) if self.form == "vinvl" else feature_bytes(line)
                )
            except ForeignError:
                continue  # The picture fails when its turn comes, and is counted there.
            yield found

    def _labels_line(self, row: Row) -> bytes:
        if row.labels_offset < 0:
            raise ForeignError(f"{self._files.labels[row.source].name} has no line for it")
        return self._line_at(self._labels, self._files.labels, row.source, row.labels_offset)

    def class_names(self) -> tuple[str, ...]:
        """All class names in VinVL's labels, sorted; damaged lines add none."""
        names: set[str] = set()
        for path in self._files.labels:
            with path.open("rb") as stream:
                while line := _line(stream, path):
                    try:
                        names |= vinvl_names(line)
                    except ForeignError:
                        continue  # The picture fails when its turn comes, and is counted there.
        return tuple(sorted(names))

    def _line_at(self, streams: list[IO[bytes]], paths: tuple[Path, ...], source: int, offset: int) -> bytes:
        streams[source].seek(offset)
        return _line(streams[source], paths[source])


@contextmanager
def open_source(
    files: ForeignFiles,
    name_of: Callable[[str], str] = str,
    background_first: bool = False,
    feature_dim: int | None = None,
) -> Iterator[ForeignSource]:
    """Read the files through and note each picture's place.

    Args:
        files: what `recognise` found.
        name_of: what to find an id by. Of rows with the same name the first one counts.
        background_first: see `read_npz`.
        feature_dim: D of a TSV's features; None: as its bytes tell.

    Raises:
        UserError: the files hold no pictures, their list does not fit on the disk, or their numbers cannot be told.
    """
    with ExitStack() as stack:
        notes = sqlite3.connect("", isolation_level=None)
        stack.callback(notes.close)
        notes.execute("PRAGMA journal_mode = OFF")
        notes.execute("PRAGMA synchronous = OFF")
        notes.execute(
            "CREATE TABLE rows (number INTEGER PRIMARY KEY, name TEXT UNIQUE, id TEXT, "
            "source INTEGER, at INTEGER, labels_at INTEGER)"
        )
        notes.execute("BEGIN")
        digest = hashlib.sha256()
        database = stack.enter_context(open_uniter(files.paths[0])) if files.form == "uniter" else None
        note = _note_npz if files.form == "npz" else _note_lines
        try:
            if database is None:
                starts = note(files, notes, name_of, digest)
            else:
                starts = _note_entries(database, notes, name_of, digest)
            notes.execute("COMMIT")
        except sqlite3.OperationalError as error:
            raise UserError(
                f"the list of pictures in {files.paths[0]} does not fit in the folder of temporary files ({error}); "
                "set TMPDIR to one with room"
            ) from error
        streams: list[IO[bytes]] = [stack.enter_context(path.open("rb")) for path in files.paths if path.is_file()]
        labels: list[IO[bytes]] = [stack.enter_context(path.open("rb")) for path in files.labels]
        source = ForeignSource(
            files, notes, starts, digest.hexdigest(), (streams, labels), background_first, feature_dim, database
        )  # fmt: skip
        if not source.length:
            raise UserError(f"{files.paths[0]} holds no pictures; give the feature files")
        yield source


def _note_lines(
    files: ForeignFiles, notes: sqlite3.Connection, name_of: Callable[[str], str], digest: Any
) -> list[int]:
    """Note where each row begins; return the number of each file's first one, and the number of rows."""
    number = 0
    starts = []
    for source, path in enumerate(files.paths):
        starts.append(number)
        for offset, image_id in _ids(path, digest):
            notes.execute(
                "INSERT OR IGNORE INTO rows VALUES (?, ?, ?, ?, ?, -1)",
                (number, name_of(image_id), image_id, source, offset),
            )
            number += 1
        if files.labels:
            for offset, image_id in _ids(files.labels[source], digest):
                notes.execute(
                    "UPDATE rows SET labels_at = ? WHERE name = ? AND source = ? AND labels_at < 0",
                    (offset, name_of(image_id), source),
                )
    return [*starts, number]


def _ids(path: Path, digest: Any) -> Iterator[tuple[int, str]]:
    """The start and the first field of each line."""
    offset = 0
    with path.open("rb") as stream:
        while line := _line(stream, path):
            digest.update(line)
            if line.strip():
                yield offset, row_id(line)
            offset += len(line)


def _note_npz(files: ForeignFiles, notes: sqlite3.Connection, name_of: Callable[[str], str], digest: Any) -> list[int]:
    """Note the files in the order of their names; return 0 and their number.

    Their ends hold checksums: no more is read.
    """
    (folder,) = files.paths
    rows = 0
    notes.execute("CREATE TABLE files (id TEXT PRIMARY KEY) WITHOUT ROWID")
    notes.executemany("INSERT INTO files VALUES (?)", ((name,) for name in _npz_names(folder, "")))
    for (image_id,) in notes.execute("SELECT id FROM files ORDER BY id"):
        digest.update(f"{image_id} {_checksums(folder / f'{image_id}.npz')}\n".encode())
        name = name_of(image_id.rpartition("/")[2])
        notes.execute("INSERT OR IGNORE INTO rows VALUES (?, ?, ?, 0, 0, -1)", (rows, name, image_id))
        rows += 1
    return [0, rows]


def _note_entries(
    database: UniterDatabase, notes: sqlite3.Connection, name_of: Callable[[str], str], digest: Any
) -> list[int]:
    """Note a database's pictures in the order of their keys; return 0 and their number."""
    entries = database.entries(digest)
    for number, (_, name) in enumerate(entries):
        found = name_of(name.removesuffix(".npz"))
        notes.execute("INSERT OR IGNORE INTO rows VALUES (?, ?, ?, 0, 0, -1)", (number, found, name))
    return [0, len(entries)]


def _npz_names(folder: Path, inside: str, above: frozenset[Path] = frozenset()) -> Iterator[str]:
    """Names of the `.npz` files below a folder, without suffix, in no order; no link is followed back up."""
    here = folder.resolve()
    if here in above:
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                yield from _npz_names(folder / entry.name, f"{inside}{entry.name}/", above | {here})
            elif entry.name.endswith(".npz"):
                yield inside + entry.name.removesuffix(".npz")


def _checksums(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            return " ".join(f"{info.filename}:{info.CRC:08x}" for info in archive.infolist())
    except (zipfile.BadZipFile, OSError):
        return f"damaged:{path.stat().st_size}"  # Reading the file tells what is wrong.
