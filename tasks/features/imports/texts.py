"""Turn one of UNITER's text databases into a split's captions table.

A record holds word-piece ids and the file name of its picture. The ids become text again by the vocabulary that the
database names, which the user gives. Texts keep their ids and the order of id2len.json; a text whose picture the image
database lacks is left out, counted and named, and so is one of two pictures (NLVR2, VCR), for which the table has no
place.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import lmdb
import lz4.frame
import msgpack
import pyarrow as pa
import pyarrow.parquet as pq

from model.data.tokenizer import Vocabulary, load_vocabulary
from model.errors import InputError
from tasks.download.captions import CAPTIONS_SCHEMA
from tasks.errors import UserError
from tasks.features.imports.config import TextSummary
from tasks.features.imports.sources import TEXT_LENGTHS
from tasks.features.imports.uniter import key_of
from tasks.records import Outcome, Receipt, Stage, fingerprint
from tasks.storage.digests import file_sha256
from tasks.storage.lmdb_folder import DATA, open_lmdb
from tasks.storage.locks import alone
from tasks.storage.paths import captions_path, captions_receipt_path, manifest_path
from tasks.storage.root import Root, Stopwatch, now

_EXAMPLES = 5
_WRITE_ROWS = 65_536
_CHUNK = 1 << 20
_LARGEST = 1 << 24
"""Bytes that a record may unpack to."""
_SPECIAL = {"UNK": "[UNK]", "CLS": "[CLS]", "SEP": "[SEP]", "MASK": "[MASK]"}


class _DamagedError(ValueError):
    """A record that cannot be read."""


def import_texts(root: Root, dataset: str, split: str, texts: Path, pieces: str | None, images: Path) -> TextSummary:
    """Write a split's captions table, unless the same texts were imported before.

    Args:
        root: where the table goes.
        dataset: its name.
        split: its name.
        texts: the text database's folder.
        pieces: the vocab.txt, a BERT's folder or a name on the hub; None: the error says which is needed.
        images: the image database, whose pictures the captions may be of.

    Raises:
        StageError: another process is importing them.
        UserError: a file is missing or damaged, the vocabulary is another than the database's, the split was
            downloaded, or no text is left.
    """
    if root.exists(manifest_path(dataset, split)):
        raise UserError(f"{dataset}/{split} has rows under {root.uri}, whose texts are its captions; leave out --texts")
    vocabulary = _load_vocabulary(texts, pieces)
    path, receipt_path = captions_path(dataset, split), captions_receipt_path(dataset, split)
    summary_path = f"{path.removesuffix('.parquet')}-import.json"
    with (
        alone(root, f"texts-{dataset}-{split}", f"importing texts of {dataset}/{split}"),
        open_lmdb(texts) as records,
        open_lmdb(images) as pictures,
    ):
        wanted = fingerprint(
            {
                "texts": _digest(records, with_lengths=True),
                "order": file_sha256(str(texts / TEXT_LENGTHS), "texts"),
                "pieces": vocabulary.digest,
                "pictures": _digest(pictures, with_lengths=False),
            }
        )
        found = root.read_model(summary_path, TextSummary)
        if found is not None and root.done(receipt_path, wanted) is not None:
            return found
        watch = Stopwatch()
        reader = _Texts(texts, records, pictures, vocabulary)
        digest = root.publish(path, lambda out: _write(out, reader, split))
        summary = reader.summary()
        root.publish_model(summary_path, summary)
        receipt = Receipt(
            stage=Stage.DOWNLOAD,
            dataset=dataset,
            split=split,
            shard=0,
            fingerprint=wanted,
            counts={Outcome.OK.value: summary.texts},
            files={path.rpartition("/")[2]: digest},
            seconds=watch.seconds,
            created_at=now(),
        )
        root.publish_model(receipt_path, receipt)
    return summary


def _digest(transaction: lmdb.Transaction, with_lengths: bool) -> str:
    """Sha256 of a database's keys, and of the lengths of its values."""
    digest = hashlib.sha256()
    for key, value in transaction.cursor():
        digest.update(bytes(key) + (f" {len(value)}\n" if with_lengths else "\n").encode())
    return digest.hexdigest()


# --- the vocabulary -------------------------------------------------------------------------------------------------


def _load_vocabulary(texts: Path, pieces: str | None) -> Vocabulary:
    """The vocabulary that a database's ids are of.

    Raises:
        UserError: none is given, or its special pieces or its length are not those that meta.json states.
    """
    meta = _read_meta(texts)
    name = next((str(meta[key]) for key in ("bert", "toker", "tokenizer") if meta.get(key)), "a BERT")
    if pieces is None:
        raise UserError(f"{texts} holds word pieces of {name}; give its vocab.txt or folder with --word-pieces")
    try:
        vocabulary = load_vocabulary(pieces)
    except InputError as error:
        raise UserError(f"--word-pieces: {error}") from error
    known = vocabulary.words.pieces
    stated = [(meta[key], piece) for key, piece in _SPECIAL.items() if isinstance(meta.get(key), int)]
    differs = [f"{piece} as {number}" for number, piece in stated if not _is_at(known, number, piece)]
    span = meta.get("v_range")
    if isinstance(span, list) and len(span) == 2 and span[1] != len(known):
        differs.append(f"{span[1]} pieces")
    if differs:
        raise UserError(
            f"--word-pieces {pieces} has {len(known)} pieces and is not the vocabulary of {texts}, which is {name} "
            f"with {' and '.join(differs)}; give that one"
        )
    return vocabulary


def _is_at(pieces: Sequence[str], number: int, piece: str) -> bool:
    return 0 <= number < len(pieces) and pieces[number] == piece


def _read_meta(texts: Path) -> dict[str, Any]:
    path = texts / "meta.json"
    for needed in (texts / DATA, texts / TEXT_LENGTHS, path):
        if not needed.is_file():
            raise UserError(f"{needed} is not there; give the folder of one of UNITER's text databases, whole")
    try:
        meta = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not whole JSON ({error}); copy it again") from error
    return meta if isinstance(meta, dict) else {}


def pieces_to_text(pieces: Sequence[str]) -> str:
    """Words of pieces, divided by spaces: `##` continues a word."""
    return " ".join(pieces).replace(" ##", "")


# --- the texts ------------------------------------------------------------------------------------------------------


class _Texts:
    """The captions of a database, one after the other, and counts of what became of its texts."""

    def __init__(
        self, folder: Path, records: lmdb.Transaction, pictures: lmdb.Transaction, vocabulary: Vocabulary
    ) -> None:
        self._folder, self._records, self._pictures, self._vocabulary = folder, records, pictures, vocabulary
        self._stored = self._changed = self._met = 0
        self._lost: Counter[str] = Counter()
        self._examples: dict[str, list[str]] = {}

    def batches(self) -> Iterator[list[tuple[str, str, str]]]:
        """Caption id, image key and text of every caption with a picture, in the order of id2len.json."""
        batch: list[tuple[str, str, str]] = []
        cut: list[list[int]] = []
        for text_id, length in read_lengths(self._folder / TEXT_LENGTHS):
            found = self._one(text_id, length)
            if found is None:
                continue
            ids, image = found
            batch.append((text_id, key_of(image), pieces_to_text([self._vocabulary.words.pieces[one] for one in ids])))
            cut.append(ids)
            if len(batch) == _WRITE_ROWS:
                self._count(batch, cut)
                yield batch
                batch, cut = [], []
        self._count(batch, cut)
        yield batch
        self._name_unlisted()
        if not self._stored:
            raise UserError(f"{self._folder} has no caption of a picture that the image database has: {self._said()}")

    def summary(self) -> TextSummary:
        examples = {name: tuple(names) for name, names in self._examples.items()}
        return TextSummary(texts=self._stored, changed=self._changed, lost=dict(self._lost), examples=examples)

    def _one(self, text_id: str, length: int) -> tuple[list[int], str] | None:
        """The word-piece ids and the picture of a text; None, and counted, where it is no caption."""
        value = self._records.get(text_id.encode())
        if value is None:
            self._lose("absent", text_id)
            return None
        self._met += 1
        try:
            ids, images = _read_record(bytes(value), length, self._vocabulary.size)
        except _DamagedError as error:
            self._lose("damaged", f"{text_id} ({error})")
            return None
        absent = [image for image in images if self._pictures.get(image.encode()) is None]
        for image in absent:
            self._note("no picture", image)
        if len(images) != 1:
            self._lose("two pictures", text_id)
            return None
        if absent:
            self._lost["no picture"] += 1
            return None
        return ids, images[0]

    def _lose(self, reason: str, name: str) -> None:
        self._lost[reason] += 1
        self._note(reason, name)

    def _note(self, reason: str, name: str) -> None:
        names = self._examples.setdefault(reason, [])
        if name not in names and len(names) < _EXAMPLES:
            names.append(name)

    def _count(self, batch: list[tuple[str, str, str]], cut: list[list[int]]) -> None:
        tokenizer = self._vocabulary.tokenizer
        tokenizer.no_truncation()
        again = tokenizer.encode_batch_fast([text for _, _, text in batch], add_special_tokens=False)
        self._stored += len(batch)
        self._changed += sum(one.ids != ids for one, ids in zip(again, cut, strict=True))

    def _name_unlisted(self) -> None:
        """Count entries that id2len.json lacks, and name some."""
        number = int(self._records.stat()["entries"]) - self._met
        if number <= 0:
            return
        listed = {text_id for text_id, _ in read_lengths(self._folder / TEXT_LENGTHS)}
        for key in self._records.cursor().iternext(keys=True, values=False):
            name = bytes(key).decode(errors="replace")
            if name not in listed:
                self._lose("unlisted", name)

    def _said(self) -> str:
        return lost_text(self.summary()) or "it is empty"


def lost_text(summary: TextSummary) -> str:
    """What was left out and why, with a few names."""
    parts = []
    for reason, what in (
        ("two pictures", "texts are of two pictures, as in NLVR2 and VCR, and make no caption"),
        ("no picture", "texts are of a picture that the image database lacks"),
        ("absent", "texts of id2len.json have no entry"),
        ("unlisted", "entries are not in id2len.json"),
        ("damaged", "texts are damaged"),
    ):
        number, names = summary.lost.get(reason, 0), summary.examples.get(reason, ())
        if number:
            parts.append(f"{number:,} {what}, such as {', '.join(names)}")
        elif names:
            parts.append(f"the image database lacks pictures of them, such as {', '.join(names)}")
    return "; ".join(parts)


def _read_record(value: bytes, length: int, size: int) -> tuple[list[int], list[str]]:
    """The word-piece ids of a record, and the names of its pictures.

    Raises:
        _DamagedError: it cannot be unpacked, or holds other things.
    """
    try:
        content = lz4.frame.LZ4FrameDecompressor().decompress(value, max_length=_LARGEST)
        record = msgpack.unpackb(content, raw=True, strict_map_key=False)
    except (RuntimeError, ValueError, msgpack.UnpackException) as error:
        raise _DamagedError(f"no lz4 frame of msgpack: {error or type(error).__name__}") from error
    ids = record.get(b"input_ids") if isinstance(record, dict) else None
    if not isinstance(ids, list) or not all(type(one) is int and 0 <= one < size for one in ids):
        raise _DamagedError("its input_ids are no ids of the vocabulary")
    if len(ids) != length:
        raise _DamagedError(f"{len(ids)} pieces, but id2len.json says {length}")
    images = record.get(b"img_fname")
    names = images if isinstance(images, list) else [images]
    if not names or not all(isinstance(name, bytes) for name in names):
        raise _DamagedError("its img_fname names no picture")
    return ids, [name.decode(errors="replace") for name in names]


_PAIR = re.compile(r'\s*[{,]\s*("(?:[^"\\]|\\.)*")\s*:\s*(\d+)(?=\s*[,}])')


def read_lengths(path: Path) -> Iterator[tuple[str, int]]:
    """The names and numbers of a JSON map, in its order and piece by piece: it may name millions of texts.

    Raises:
        UserError: it is no such map, or cut.
    """
    with path.open(encoding="utf-8") as stream:
        rest = ""
        while chunk := stream.read(_CHUNK):
            rest += chunk
            end = 0
            while (match := _PAIR.match(rest, end)) is not None:
                yield json.loads(match[1]), int(match[2])
                end = match.end()
            rest = rest[end:]
            if len(rest) > _CHUNK:
                break
    if rest.strip() not in ("}", "{}"):
        raise UserError(f"{path} is no whole map of texts to numbers, from {rest[:40]!r} on; copy it again")


def _write(stream: IO[bytes], texts: _Texts, split: str) -> None:
    with pq.ParquetWriter(stream, CAPTIONS_SCHEMA, compression="zstd") as writer:
        for batch in texts.batches():
            columns = {
                "caption_id": [text_id for text_id, _, _ in batch],
                "image_key": [key for _, key, _ in batch],
                "text": [text for _, _, text in batch],
                "split": [split] * len(batch),
            }
            writer.write_table(pa.table(columns, schema=CAPTIONS_SCHEMA))
