"""Verify a feature set. Fast: receipts, sizes and counts. Deep: every byte and every record, too."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from typing import IO

from pydantic import Field

from feature_extraction.samples.manifest import FeatureManifest, ShardEntry, parse_manifest
from feature_extraction.samples.regions import RegionLayout, decode_layout, decode_regions
from feature_extraction.samples.tars import ShardError, read_tar
from tasks.errors import UserError
from tasks.extractor import ExtractorRecord
from tasks.features.feature_sets import FeatureSet
from tasks.made_from import stale_shards
from tasks.records import FileDigest, Receipt, Record, fingerprint
from tasks.storage import paths
from tasks.storage.root import Root

OnProgress = Callable[[int, int], None]
"""Called with (shards looked at, shards)."""

_TAR_HEADER, _RECORD_HEADER = 512, 64
_TAR_BLOCK, _TAR_RECORD = 512, 10_240
_RECORD = "extractor.json"


class Problem(Record):
    """One damaged file, what is wrong with it, and what to do."""

    file: str
    what: str
    remove: tuple[str, ...] = Field(description="files in the way of mending")
    command: str = Field(description="what to do, these files included")


class Verification(Record):
    """The result of verifying one feature set."""

    extractor: str = Field(description="the first twelve digits of its fingerprint")
    dataset: str
    split: str
    deep: bool
    finished: bool = Field(description="there is a manifest")
    shards: int = Field(description="shards that should be there, as far as can be known")
    samples: int = Field(description="images in the sound ones")
    problems: tuple[Problem, ...]


def verify_features(
    root: Root, features: FeatureSet, deep: bool = False, on_progress: OnProgress | None = None
) -> Verification:
    """Check every shard of a feature set. Nothing is changed, and damage is a result, not an error.

    Fast, it reads receipts and 576 bytes of each shard. Deep, it reads everything: the checksum of each shard, its
    records, their order and their labels. A feature set without a manifest is looked at as far as it has come.
    """
    return _Check(root, features, deep).run(on_progress)


class _Check:
    """One pass over one feature set, which collects problems."""

    def __init__(self, root: Root, features: FeatureSet, deep: bool) -> None:
        self.root, self.features, self.deep = root, features, deep
        self.folder = features.folder
        self.problems: list[Problem] = []
        self.samples = 0
        self.record: ExtractorRecord | None = None
        self.imported = False

    def run(self, on_progress: OnProgress | None) -> Verification:
        names = self.root.names(self.folder)
        manifest = self._whole_set()
        entries = {} if manifest is None else {entry.name: entry for entry in manifest.shards}
        expected = set(entries) | {paths.region_shard_name(number) for number in self._image_shards()}
        found = {name for name in names if re.fullmatch(r"regions-\d{5,}\.tar", name)}
        receipts = {re.sub(r"\.json$", ".tar", name) for name in names if re.fullmatch(r"regions-\d{5,}\.json", name)}
        shards = sorted(expected | found | receipts)
        for number, name in enumerate(shards, 1):
            if name in expected or manifest is None:
                self._shard(name, manifest, entries.get(name), name in found)
            else:
                files = [file for file in (name, _receipt_of(name)) if file in names]
                self._add(files[0], "is not in manifest.json: it belongs to something else", files, again=False)
            if on_progress is not None:
                on_progress(number, len(shards))
        if manifest is None and not self.problems:
            self._add("manifest.json", "is not there, though every shard is")
        return Verification(
            extractor=self.features.extractor,
            dataset=self.features.dataset,
            split=self.features.split,
            deep=self.deep,
            finished=manifest is not None,
            shards=len(shards),
            samples=self.samples,
            problems=tuple(self.problems),
        )

    def _add(self, file: str, what: str, remove: Sequence[str] = (), again: bool = True) -> None:
        """Record a problem of a file: which others to remove, and whether to run the stage again."""
        paths = tuple(self._path(name) for name in remove)
        steps = [f"remove {' and '.join(paths)}"] if paths else []
        if again:
            steps.append(f"run: unicoder-vl {'import-features' if self.imported else 'extract'} (as before)")
        problem = Problem(
            file=self._path(file),
            what=what.partition("; ")[0],  # Some errors end with advice; here it is given in full.
            remove=paths,
            command=" and ".join(steps),
        )
        self.problems.append(problem)

    def _path(self, name: str) -> str:
        """Full name of a file in the folder, or of the extractor's record above it."""
        return self.root.path(
            paths.extractor_path(self.features.extractor) if name == _RECORD else f"{self.folder}/{name}"
        )

    # --- of the whole set

    def _whole_set(self) -> FeatureManifest | None:
        """Read and compare extractor.json and the manifest."""
        path = paths.extractor_path(self.features.extractor)
        what = "is not there"
        try:
            self.record = self.root.read_model(path, ExtractorRecord)
        except UserError as error:
            what = str(error).removeprefix(f"{self.root.path(path)} ")
        manifest, damage = self._manifest()
        about = self.record or manifest
        self.imported = about is not None and "imported_from" in _details(about)
        if self.record is None:
            self._add_record_problem(what)
        elif (
            self.record.fingerprint[:12] != self.features.extractor
            or fingerprint(self.record.details) != self.record.fingerprint
        ):
            self._add_record_problem("is of another extractor")
        if damage:
            self._add("manifest.json", damage, ["manifest.json"])
        elif manifest is not None and manifest.extractor[:12] != self.features.extractor:
            other = f"is of extractor {manifest.extractor[:12]}, not of {self.features.extractor}"
            self._add("manifest.json", other, ["manifest.json"])
        elif manifest is not None and self.record is not None and manifest.labels != self.record.labels:
            self._add("manifest.json", "has other labels than extractor.json", ["manifest.json"])
        return manifest

    def _manifest(self) -> tuple[FeatureManifest | None, str]:
        """The manifest, and what is wrong with it; None where it is absent or unreadable."""
        path = f"{self.folder}/manifest.json"
        if not self.root.exists(path):
            return None, ""
        try:
            return parse_manifest(self.root.read_bytes(path), "it"), ""
        except ShardError as error:
            return None, str(error).replace("it: not", "is not", 1)

    def _add_record_problem(self, what: str) -> None:
        """Record a problem of extractor.json, which extracting any one shard writes again."""
        receipts = [file for file in self.root.names(self.folder) if re.fullmatch(r"regions-\d{5,}\.json", file)]
        there = [_RECORD] if self.root.exists(paths.extractor_path(self.features.extractor)) else []
        self._add(_RECORD, what, there + ([] if self.imported else receipts[:1]))

    def _image_shards(self) -> list[int]:
        """Numbers of the split's image shards, each of which makes one; none where pictures were not downloaded."""
        folder = paths.image_receipt_path(self.features.dataset, self.features.split, 0).rpartition("/")[0]
        found = (re.fullmatch(r"images-(\d{5,})\.json", name) for name in self.root.names(folder))
        return [int(match.group(1)) for match in found if match]

    # --- of one shard

    def _shard(self, name: str, manifest: FeatureManifest | None, entry: ShardEntry | None, is_there: bool) -> None:
        """Find the first thing wrong with a shard, or count its samples."""
        receipt_name = _receipt_of(name)
        path = f"{self.folder}/{receipt_name}"
        try:
            receipt = self.root.read_model(path, Receipt)
        except UserError as error:
            self._add(receipt_name, str(error).removeprefix(f"{self.root.path(path)} "), [receipt_name])
            return
        if not is_there:
            self._add(name, "is missing")
        elif manifest is not None and entry is None:
            self._add(name, "is not in manifest.json")
        elif receipt is None:
            self._add(name, "has no receipt: it was not finished, or was copied here")
        else:
            try:
                self._compare(name, receipt, entry)
                layout = self._read_layout(name, receipt, manifest)
                if self.deep:
                    self._read_all(name, receipt, layout)
            except ShardError as error:
                self._add(name, str(error), [receipt_name])
            else:
                self.samples += receipt.counts["ok"]

    def _compare(self, name: str, receipt: Receipt, entry: ShardEntry | None) -> None:
        """Raise ShardError unless receipt, manifest and the files' sizes agree."""
        digest = receipt.files.get(name)
        if digest is None:
            raise ShardError("its receipt is of another file")
        for file, stated in receipt.files.items():
            size = self.root.size(f"{self.folder}/{file}")
            if size is None:
                raise ShardError(f"{file}, which belongs to it, is missing")
            if size != stated.bytes:
                raise ShardError(f"{file} has {size:,} bytes, and was written with {stated.bytes:,}")
        if entry is not None and (entry.sha256, entry.bytes) != (digest.sha256, digest.bytes):
            raise ShardError("it was written after manifest.json, or is another's: their checksums differ")
        if entry is not None and entry.samples != receipt.counts["ok"]:
            raise ShardError(f"its receipt counts {receipt.counts['ok']} images, manifest.json {entry.samples}")
        if receipt.shard in self._stale:
            raise ShardError("it was made by another extractor, or from pictures that have changed since")

    @cached_property
    def _stale(self) -> list[int]:
        """Numbers of the shards made from other pictures than are here."""
        if self.record is None:
            return []
        receipts = {}
        for name in self.root.names(self.folder):
            if re.fullmatch(r"regions-\d{5,}\.json", name):
                with suppress(UserError):  # A damaged receipt is reported when its shard's turn comes.
                    receipt = self.root.read_model(f"{self.folder}/{name}", Receipt)
                    if receipt is not None:
                        receipts[receipt.shard] = receipt
        features = self.features
        return stale_shards(self.root, features.dataset, features.split, features.extractor, receipts)

    def _read_layout(self, name: str, receipt: Receipt, manifest: FeatureManifest | None) -> RegionLayout | None:
        """The layout of a shard's first record, which all share; None where it has no record.

        Raises:
            ShardError: it is of another format version or extractor, or the shard's size does not fit it.
        """
        samples = receipt.counts["ok"]
        if not samples:
            return None
        with self.root.open(f"{self.folder}/{name}") as stream:
            head = stream.read(_TAR_HEADER + _RECORD_HEADER)
        key, _, extension = head[:100].rstrip(b"\0").decode("ascii", "replace").partition(".")
        if extension != "rgn":
            raise ShardError("it does not begin with a .rgn record")
        layout = decode_layout(key, head[_TAR_HEADER:])[0]
        self._check_layout(layout, manifest)
        expected = -(-(samples * layout.tar_bytes + 2 * _TAR_BLOCK) // _TAR_RECORD) * _TAR_RECORD
        if receipt.files[name].bytes != expected:
            raise ShardError(f"it has {receipt.files[name].bytes:,} bytes, but {samples} records make {expected:,}")
        return layout

    def _check_layout(self, layout: RegionLayout, manifest: FeatureManifest | None) -> None:
        if manifest is not None and layout != manifest.layout:
            raise ShardError(f"its records are {_about(layout)}, not {_about(manifest.layout)}: another extractor's")
        if self.record is not None and layout.feature_dim != self.record.feature_dim:
            raise ShardError(
                f"its features have {layout.feature_dim} numbers, not {self.record.feature_dim}: another extractor's"
            )
        if self.record is not None and layout.num_classes not in (0, len(self.record.labels)):
            raise ShardError(
                f"its class scores are of {layout.num_classes} classes, not {len(self.record.labels)}: another "
                "extractor's"
            )

    def _read_all(self, name: str, receipt: Receipt, layout: RegionLayout | None) -> None:
        """Raise ShardError unless checksums, records, keys and labels are right."""
        for file, stated in receipt.files.items():
            with self.root.open(f"{self.folder}/{file}") as stream:
                _check_digest(stream, file, stated)
        classes = len(self.record.labels) if self.record is not None else None
        last, count = "", 0
        with self.root.open(f"{self.folder}/{name}") as stream:
            for key, record in _records(stream, name):
                sample = decode_regions(key, record)
                if decode_layout(key, record)[0] != layout:
                    raise ShardError(f"key {key}: another layout than the first record's")
                if key <= last:
                    raise ShardError(f"key {key} follows {last}, so keys are not in order")
                if (
                    classes is not None
                    and len(sample.labels)
                    and not 0 <= sample.labels.min() <= sample.labels.max() < classes
                ):
                    raise ShardError(f"key {key}: a label is of none of the {classes} classes")
                last, count = key, count + 1
        if count != receipt.counts["ok"]:
            raise ShardError(f"it holds {count} images, and its receipt counts {receipt.counts['ok']}")


def _receipt_of(name: str) -> str:
    return paths.region_receipt_name(paths.region_shard_number(name))


def _details(about: ExtractorRecord | FeatureManifest) -> Mapping[str, object]:
    return about.details if isinstance(about, ExtractorRecord) else about.extractor_details


def _records(stream: IO[bytes], shard: str) -> Iterator[tuple[str, bytes]]:
    for member, content in read_tar(stream, shard):
        key, _, extension = member.partition(".")
        if extension != "rgn":
            raise ShardError(f"unexpected member {member!r}")
        yield key, content


def _check_digest(stream: IO[bytes], file: str, stated: FileDigest) -> None:
    digest = hashlib.sha256()
    while chunk := stream.read(1 << 20):
        digest.update(chunk)
    if digest.hexdigest() != stated.sha256:
        raise ShardError(f"{file} is damaged: its checksum is {digest.hexdigest()[:12]}, not {stated.sha256[:12]}")


def _about(layout: RegionLayout) -> str:
    top = "" if layout.class_scores == "none" else f" with class scores {layout.class_scores}"
    return f"{layout.max_regions} x {layout.feature_dim} {layout.encoding}{top}"
