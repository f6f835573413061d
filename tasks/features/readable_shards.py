"""The readable shards of a split, and those missing from it."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

from feature_extraction.samples.manifest import parse_manifest
from feature_extraction.samples.tars import ShardError
from tasks.download.settings import DownloadSettings
from tasks.errors import UserError
from tasks.features.feature_sets import FeatureSet
from tasks.made_from import check_captions, check_features, check_shards
from tasks.records import Receipt
from tasks.storage import paths
from tasks.storage.root import Root

log = logging.getLogger(__name__)

_NAMED = 8


@dataclass(frozen=True)
class ReadableShards:
    """Shards in one folder of a root: the bytes of each, by its name. Can be sent to another process."""

    root_uri: str
    folder: str
    sizes: dict[str, int]

    @contextmanager
    def open(self, name: str) -> Iterator[tuple[IO[bytes], str]]:
        """A shard to read from, and its full name for errors.

        Raises:
            ShardError: it is gone since, or is not of the size that was published.
        """
        # Opened anew for each shard: connections to an object store do not survive the fork of a data loader.
        root, path = Root(self.root_uri), f"{self.folder}/{name}"
        where, size = root.path(path), root.size(path)
        if size != self.sizes[name]:
            found = "is missing" if size is None else f"has {size:,} bytes"
            raise ShardError(f"{where} {found}, {self.sizes[name]:,} bytes were published; make this shard again")
        with root.open(path) as stream:
            yield stream, where


def find_region_shards(root: Root, features: FeatureSet, partial: bool) -> ReadableShards:
    """Find the feature shards of one feature set.

    Args:
        root: where they lie.
        features: the set.
        partial: take an unfinished set, too, and warn of what is missing from it.

    Raises:
        UserError: the set is not finished, or shards of it are gone; or it was made from other images than the root's
            present ones.
        ShardError: its manifest is damaged.
    """
    name = f"features of {features.dataset}/{features.split} ({features.extractor})"
    path = paths.feature_manifest_path(features.extractor, features.dataset, features.split)
    there = set(root.names(features.folder))
    expected = _expected_shards(root, features.dataset, features.split)
    captions = root.read_model(paths.captions_receipt_path(features.dataset, features.split), Receipt)
    unfinished = ""
    if "manifest.json" in there:
        check_features(root, features.dataset, features.split, features.extractor)
        manifest = parse_manifest(root.read_bytes(path), root.path(path))
        sizes = {paths.region_shard_number(entry.name): entry.bytes for entry in manifest.shards}
        if left_out := expected - set(sizes):
            log.warning("%s were finished without %s", name, _counted(left_out))
        expected = set(sizes)
    else:
        numbers = _numbers(there, r"regions-(\d{5,})\.json")
        receipts = _receipts(root, {n: f"{features.folder}/{paths.region_receipt_name(n)}" for n in numbers})
        check_shards(root, features.dataset, features.split, features.extractor, receipts)
        sizes = {n: receipt.files[paths.region_shard_name(n)].bytes for n, receipt in receipts.items()}
        expected = (expected - set(() if captions is None else captions.missing)) | set(sizes)
        unfinished = "the extraction or import has not come to its end"
    present = {n: size for n, size in sizes.items() if paths.region_shard_name(n) in there}
    advice = "run `unicoder-vl extract`, or `import-features`, with the same parameters"
    _tell_missing(name, expected, present, unfinished, partial, advice)
    return ReadableShards(
        root.uri, features.folder, {paths.region_shard_name(n): size for n, size in sorted(present.items())}
    )


def find_image_shards(root: Root, dataset: str, split: str, partial: bool) -> ReadableShards:
    """Find the image shards of a split.

    Args:
        root: where they lie.
        dataset: its name.
        split: its name.
        partial: take a split that is still being downloaded, too, and warn of what is missing from it.

    Raises:
        UserError: the split is not there or not whole, or its rows or images are others than its captions were made
            from.
    """
    name = f"images of {dataset}/{split}"
    first = paths.image_shard_path(dataset, split, 0)
    folder = first.rpartition("/")[0]
    there = set(root.names(folder))
    expected = _expected_shards(root, dataset, split)
    if not expected:
        splits = [f"{d}/{s}" for d in root.names("datasets") for s in root.names(f"datasets/{d}")]
        known = f"; there are images of {', '.join(splits[:_NAMED])}" if splits else ""
        raise UserError(f"there are no {name} under {root.uri}{known}; run: unicoder-vl download")
    check_captions(root, dataset, split)
    captions = root.read_model(paths.captions_receipt_path(dataset, split), Receipt)
    if captions is not None and captions.missing:
        log.warning("%s were finished without %s", name, _counted(captions.missing))
        expected -= set(captions.missing)
    numbers = sorted(_numbers(there, r"images-(\d{5,})\.json") & expected)
    receipts = _receipts(root, {n: paths.image_receipt_path(dataset, split, n) for n in numbers})
    names = {n: paths.image_shard_path(dataset, split, n).rpartition("/")[2] for n in receipts}
    present = {n: receipt.files[names[n]].bytes for n, receipt in receipts.items() if names[n] in there}
    unfinished = "" if captions is not None else "the download has not come to its end"
    advice = "run `unicoder-vl download` with the same parameters"
    _tell_missing(name, expected, present, unfinished, partial, advice)
    return ReadableShards(root.uri, folder, {names[n]: size for n, size in present.items()})


def _tell_missing(
    name: str, expected: Collection[int], present: Collection[int], unfinished: str, partial: bool, advice: str
) -> None:
    """Refuse an incomplete set, or warn where a part was asked for."""
    missing = set(expected) - set(present)
    if not missing and not unfinished:
        return
    lacks = f"{len(missing)} of {len(expected)} shards are missing ({_listed(missing)})" if missing else ""
    said = f"{name} are not whole: {'; '.join(filter(None, [lacks, unfinished]))}"
    if not present:
        raise UserError(f"{said}; {advice}")
    if not partial:
        raise UserError(f"{said}; {advice}, or give partial=True to read what is there")
    log.warning("%s", said)


def _expected_shards(root: Root, dataset: str, split: str) -> set[int]:
    """Numbers of a split's image shards, also of those still to come; none where it was not downloaded."""
    folder = paths.image_receipt_path(dataset, split, 0).rpartition("/")[0]
    numbers = _numbers(root.names(folder), r"images-(\d{5,})\.json")
    rows = root.read_model(paths.manifest_receipt_path(dataset, split), Receipt)
    settings = root.read_model(paths.download_settings_path(dataset, split), DownloadSettings)
    if rows is not None and settings is not None:
        numbers |= set(range(-(-rows.counts["rows"] // int(settings.settings["shard_size"]))))
    return numbers


def _numbers(names: Collection[str], pattern: str) -> set[int]:
    return {int(match[1]) for name in names if (match := re.fullmatch(pattern, name))}


def _receipts(root: Root, named: Mapping[int, str]) -> dict[int, Receipt]:
    found = root.read_models(list(named.values()), Receipt)
    return {number: receipt for number, receipt in zip(named, found, strict=True) if receipt is not None}


def _counted(shards: Collection[int]) -> str:
    return f"{len(shards)} shard{'s' if len(shards) > 1 else ''} ({_listed(shards)})"


def _listed(shards: Collection[int]) -> str:
    return ", ".join(f"{number:05d}" for number in sorted(shards)[:_NAMED]) + (", ..." if len(shards) > _NAMED else "")
