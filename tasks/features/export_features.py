"""Export feature shards for other programs: LXMERT's TSV, or a folder with one `.npz` a picture.

Features are unpacked to float32: exact where they are stored as fp16, within the encoding's error where as sqrt8. We
store no attributes, so LXMERT's attrs_id and attrs_conf are zeros; `.npz` files leave them out.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from feature_extraction.foreign.npz import write_npz
from feature_extraction.foreign.tsv import write_lxmert_row
from feature_extraction.samples.manifest import parse_manifest
from feature_extraction.samples.regions import RegionSample, read_region_shard
from model.publish import sync_folder
from tasks.download.outcomes import read_outcome_columns
from tasks.errors import UserError
from tasks.features.feature_sets import FeatureSet
from tasks.features.imports.pictures import picture_name
from tasks.made_from import check_features
from tasks.records import Record, ShardRef
from tasks.storage.paths import region_shard_number
from tasks.storage.root import PART, Root

ExportFormat = Literal["lxmert", "npz"]
Ids = Literal["key", "name"]
_LONGEST_NAME = 200  # Bytes; file systems take 255, suffix included.
OnProgress = Callable[[int, int], None]
"""Called with (shards done, shards)."""


class ExportSummary(Record):
    """What an export wrote."""

    path: str
    pictures: int
    regions: int
    bytes: int


def export_features(
    root: Root,
    features: FeatureSet,
    form: ExportFormat,
    path: Path,
    ids: Ids = "key",
    on_progress: OnProgress | None = None,
) -> ExportSummary:
    """Write a finished feature set for another program, whole or not at all.

    Args:
        root: where the features lie.
        features: which.
        form: lxmert writes one TSV file, npz a folder.
        path: of that file or folder; it must not be there yet.
        ids: what pictures are called: our keys, or the file names in their URLs, without suffix.
        on_progress: hears of every shard.

    Raises:
        UserError: the features are not finished, or not of the root's present images; something is at `path`, or
            names are not unique.
        ShardError: a shard is damaged.
    """
    if path.exists():
        raise UserError(f"{path} is there already; remove it, or give another --out")
    where = f"{features.folder}/manifest.json"
    if not root.exists(where):
        raise UserError(f"features {features} are not finished under {root.uri}; run: unicoder-vl verify")
    check_features(root, features.dataset, features.split, features.extractor)
    manifest = parse_manifest(root.read_bytes(where), root.path(where))
    pictures = regions = 0

    def samples() -> Iterator[tuple[str, RegionSample]]:
        nonlocal pictures, regions
        for number, entry in enumerate(manifest.shards, 1):
            names = _names(root, features, region_shard_number(entry.name)) if ids == "name" else None
            with root.open(f"{features.folder}/{entry.name}") as stream:
                for sample in read_region_shard(stream, f"{root.path(features.folder)}/{entry.name}"):
                    pictures += 1
                    regions += len(sample.boxes)
                    yield sample.key if names is None else names[sample.key], sample
            if on_progress is not None:
                on_progress(number, len(manifest.shards))

    with _whole(path) as part:
        size = _write_tsv(part, samples()) if form == "lxmert" else _write_folder(part, samples())
    return ExportSummary(path=str(path), pictures=pictures, regions=regions, bytes=size)


def _names(root: Root, features: FeatureSet, shard: int) -> dict[str, str]:
    """File names of a shard's pictures, by key.

    Raises:
        UserError: one of them can be no file, or no field of a TSV: URLs of the web hold whatever they like.
    """
    ref = ShardRef(dataset=features.dataset, split=features.split, shard=shard)
    table = read_outcome_columns(root, ref, ["key", "url"])
    names = {}
    for key, url in zip(table["key"].to_pylist(), table["url"].to_pylist(), strict=True):
        names[key] = name = picture_name(url)
        if not name or not name.isprintable() or len(name.encode(errors="replace")) > _LONGEST_NAME:
            raise UserError(f"picture {key} has the name {name[:80]!r}, which can be no file's; export with --ids key")
    return names


def _write_tsv(path: Path, samples: Iterator[tuple[str, RegionSample]]) -> int:
    with path.open("wb") as stream:
        for image_id, sample in samples:
            stream.write(write_lxmert_row(sample, image_id))
        stream.flush()
        os.fsync(stream.fileno())
        return stream.tell()


def _write_folder(folder: Path, samples: Iterator[tuple[str, RegionSample]]) -> int:
    folder.mkdir()
    size = 0
    for image_id, sample in samples:
        try:
            with (folder / f"{image_id}.npz").open("xb") as stream:
                write_npz(sample, stream)
                size += stream.tell()
        except FileExistsError as error:
            raise UserError(
                f"two pictures are named {image_id!r}, so files cannot be; export with --ids key"
            ) from error
    os.sync()
    return size


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """A temporary path that becomes `path` at the end; what a killed export left there is removed first."""
    part = path.with_name(path.name + PART)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove(part)
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror}); give another --out") from error
    try:
        yield part
        part.replace(path)
    except BaseException:
        _remove(part)
        raise
    sync_folder(path.parent)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
