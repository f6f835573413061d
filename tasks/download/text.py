"""Files of text -> text shards and their manifest.

Passages keep the order of their lines. Each shard's receipt says where in the files the next shard begins, so a killed
command goes on behind the last whole shard; the manifest comes last, and without it there is no corpus.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from itertools import chain, islice
from typing import IO

from pydantic import Field
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

from model.data.text_shards import (
    MIN_WORDS,
    TEXT_FORMAT,
    TextManifest,
    TextShardEntry,
    text_shard_name,
    write_text_shard,
)
from tasks.config import TextDatasetConfig
from tasks.errors import UserError
from tasks.records import FileDigest, Record, fingerprint
from tasks.rows.text_files import Passages, Place, TextFile, find_text_files, text_file
from tasks.storage.locks import alone
from tasks.storage.paths import (
    download_settings_path,
    text_folder,
    text_manifest_path,
    text_receipt_path,
    text_settings_path,
)
from tasks.storage.root import Root, Stopwatch, now

log = logging.getLogger(__name__)

_SHARD_FILE = re.compile(r"text-(\d{5,})\.(?:json|parquet)")


class TextSettings(Record):
    """The content of a split's text.json: what its text was begun with."""

    files: tuple[TextFile, ...] = Field(description="input files, in order; they may lie elsewhere later")
    patterns: tuple[str, ...] = Field(description="how they were named")
    shard_passages: int = Field(description="passages per shard")

    @property
    def fingerprint(self) -> str:
        """Of all that decides the shards: content, not where it lies."""
        digests = [file.digest for file in self.files]
        return fingerprint({"format": TEXT_FORMAT, "shard_passages": self.shard_passages, "files": digests})


class TextReceipt(Record):
    """The receipt of one text shard."""

    fingerprint: str = Field(description="of the corpus: see TextSettings")
    shard: int = Field(description="its number")
    passages: int = Field(description="its rows")
    blank: int = Field(description="blank lines left out up to its last passage, of all shards so far")
    next_file: int = Field(description="number of the file in which the next shard begins")
    next_line: int = Field(description="lines of that file before it")
    file: FileDigest = Field(description="the shard's")
    seconds: float = Field(description="wall time of the work, in seconds")
    created_at: str = Field(description="UTC, ISO 8601")


class TextResult(Record):
    """What became of one split of text."""

    ran: int = Field(description="shards made now")
    skipped: int = Field(description="shards made before")
    counts: dict[str, int] = Field(description="passages, and blank lines left out")


def make_text(
    root: Root, dataset: TextDatasetConfig, split: str, accept_changes: bool = False, again: bool = False
) -> TextResult:
    """Turn the text files of a split into shards, as far as that was not done before.

    Args:
        accept_changes: make a finished corpus anew where it was made of other files or in other shards.
        again: make it anew in any case.

    Raises:
        UserError: a file is missing, empty, given twice, not text of UTF-8 or not to be read; all of them together are
            shorter than one row of training; a finished corpus is of other files or settings; or images have its name.
        StageError: another process is at it.
    """
    where = text_name(dataset.name, split)
    check_no_images(root, dataset.name, split)
    settings = _wanted_settings(root, dataset, split, accept_changes or again)
    with alone(root, f"text-{dataset.name}-{split}", f"making the {where}"):
        manifest = None if again else finished_text(root, dataset.name, split, settings.fingerprint)
        if manifest is not None:
            return TextResult(ran=0, skipped=len(manifest.shards), counts=_counts(manifest))
        root.remove(text_manifest_path(dataset.name, split))
        root.publish_model(text_settings_path(dataset.name, split), settings)
        return _make(root, dataset.name, split, settings, again)


def text_name(dataset: str, split: str) -> str:
    """A split's text in messages."""
    return f"text of {dataset}/{split}"


def check_no_images(root: Root, dataset: str, split: str) -> None:
    """Raise UserError where images have the name that text is to have."""
    if root.exists(download_settings_path(dataset, split)):
        raise UserError(f"{dataset}/{split} under {root.uri} has images already; give its text another name")


def check_no_text(root: Root, dataset: str, split: str) -> None:
    """Raise UserError where text has the name that images are to have."""
    if root.exists(text_settings_path(dataset, split)):
        raise UserError(f"{dataset}/{split} under {root.uri} is text already; give its images another name")


def finished_text(root: Root, dataset: str, split: str, wanted: str | None = None) -> TextManifest | None:
    """The manifest of a whole corpus; None where it is not finished, or a file of it is not whole.

    Args:
        wanted: the fingerprint that it must have; None: any.

    Raises:
        UserError: the manifest is damaged.
    """
    manifest = root.read_model(text_manifest_path(dataset, split), TextManifest)
    if manifest is None or wanted not in (None, manifest.fingerprint):
        return None
    folder = text_folder(dataset, split)
    return manifest if all(root.size(f"{folder}/{one.name}") == one.bytes for one in manifest.shards) else None


def begun_texts(root: Root) -> dict[tuple[str, str], TextSettings]:
    """(dataset, split) of every text corpus begun under a root, with what it is made from."""
    return {
        (dataset, split): found
        for dataset in root.names("datasets")
        for split in root.names(f"datasets/{dataset}")
        if root.exists(path := text_settings_path(dataset, split))  # A stray file there is no folder.
        and (found := root.read_model(path, TextSettings)) is not None
    }


def _wanted_settings(root: Root, dataset: TextDatasetConfig, split: str, accepts_changes: bool) -> TextSettings:
    """What a split's text is to be made from; raises UserError as `make_text`, but for what only its lines show."""
    where = text_name(dataset.name, split)
    patterns = dataset.splits[split]
    files = tuple(text_file(uri, where) for uri in find_text_files(patterns, where))
    settings = TextSettings(files=files, patterns=patterns, shard_passages=dataset.shard_passages)
    begun = root.read_model(text_settings_path(dataset.name, split), TextSettings)
    is_finished = root.exists(text_manifest_path(dataset.name, split))
    if begun is not None and is_finished and begun.fingerprint != settings.fingerprint and not accepts_changes:
        raise UserError(
            f"the {where} under {root.uri} was made of other input: {_difference(begun, settings)}. Give the same "
            "again, or another --name or --root, or --accept-changes to make it anew"
        )
    return settings


# --- shards ---------------------------------------------------------------------------------------------------------


def _make(root: Root, dataset: str, split: str, settings: TextSettings, again: bool) -> TextResult:
    where, wanted = text_name(dataset, split), settings.fingerprint
    uris = [file.uri for file in settings.files]
    _check_length(Passages(uris, where), where)
    entries: list[TextShardEntry] = []
    ran, place, blank = 0, Place(), 0
    reader: Passages | None = None
    while True:
        shard = len(entries)
        done = None if again else _done(root, dataset, split, shard, wanted)
        if done is None:
            reader = reader or Passages(uris, where, place, blank)
            first = next(reader, None)
            if first is None:
                break
            passages = islice(chain([first], reader), settings.shard_passages)
            done = _write_shard(root, dataset, split, shard, wanted, passages, reader)
            log.info("%s/%s %05d: %d passages (%.1f s)", dataset, split, shard, done.passages, done.seconds)
            ran += 1
        else:
            reader = None
        place, blank = Place(done.next_file, done.next_line), done.blank
        entries.append(
            TextShardEntry(
                name=text_shard_name(shard), passages=done.passages, bytes=done.file.bytes, sha256=done.file.sha256
            )
        )
    _drop_beyond(root, dataset, split, len(entries))
    manifest = TextManifest(
        fingerprint=wanted, shard_passages=settings.shard_passages, blank=reader.blank, shards=tuple(entries)
    )
    root.publish_model(text_manifest_path(dataset, split), manifest)
    return TextResult(ran=ran, skipped=len(entries) - ran, counts=_counts(manifest))


def _done(root: Root, dataset: str, split: str, shard: int, wanted: str) -> TextReceipt | None:
    receipt = root.read_model(text_receipt_path(dataset, split, shard), TextReceipt)
    if receipt is None or receipt.fingerprint != wanted:
        return None
    size = root.size(f"{text_folder(dataset, split)}/{text_shard_name(shard)}")
    return receipt if size == receipt.file.bytes else None


def _write_shard(
    root: Root, dataset: str, split: str, shard: int, wanted: str, passages: Iterator[str], reader: Passages
) -> TextReceipt:
    """Publish a shard of passages, and its receipt, once they are read."""
    watch = Stopwatch()
    count = 0

    def write(stream: IO[bytes]) -> None:
        nonlocal count
        count = write_text_shard(stream, passages)

    digest = root.publish(f"{text_folder(dataset, split)}/{text_shard_name(shard)}", write)
    receipt = TextReceipt(
        fingerprint=wanted,
        shard=shard,
        passages=count,
        blank=reader.blank,
        next_file=reader.place.file,
        next_line=reader.place.line,
        file=digest,
        seconds=watch.seconds,
        created_at=now(),
    )
    root.publish_model(text_receipt_path(dataset, split, shard), receipt)
    return receipt


def _check_length(passages: Iterator[str], where: str) -> None:
    """Raise UserError where all passages together are shorter than one row of training."""
    first = list(islice(passages, MIN_WORDS))
    if len(first) == MIN_WORDS:
        return
    # As BERT counts words: punctuation marks and CJK characters are words.
    normalizer, words = BertNormalizer(), BertPreTokenizer()
    count = sum(len(words.pre_tokenize_str(normalizer.normalize_str(passage))) for passage in first)
    if count < MIN_WORDS:
        raise UserError(f"the {where} has {count} words, and a row of training takes {MIN_WORDS}; give a longer text")


def _drop_beyond(root: Root, dataset: str, split: str, shards: int) -> None:
    """Remove shards beyond the last one, left over when the text became shorter, receipts first."""
    folder = text_folder(dataset, split)
    for name in root.names(folder):  # In this order, text-00007.json comes before text-00007.parquet.
        match = _SHARD_FILE.fullmatch(name)
        if match and int(match[1]) >= shards:
            root.remove(f"{folder}/{name}")


def _counts(manifest: TextManifest) -> dict[str, int]:
    return {"passages": manifest.passages, "blank": manifest.blank}


def _difference(begun: TextSettings, wanted: TextSettings) -> str:
    if begun.shard_passages != wanted.shard_passages:
        return f"{begun.shard_passages:,} passages a shard then, {wanted.shard_passages:,} now"
    if len(begun.files) != len(wanted.files):
        return f"{len(begun.files):,} files then, {len(wanted.files):,} now"
    pairs = zip(begun.files, wanted.files, strict=True)
    number, (old, new) = next((n, pair) for n, pair in enumerate(pairs, 1) if pair[0].digest != pair[1].digest)
    return f"file {number} was {old.uri}, and {new.uri} now has other content"
