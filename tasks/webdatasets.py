"""Regions and images as WebDataset pipelines, for a training loop of your own:

    from tasks.webdatasets import open_regions
    for sample in open_regions("data", "cc3m/train", captions=True, shuffle=1000):
        sample["boxes"], sample["features"], sample["captions"]

What is returned is a `webdataset.DataPipeline` with WebDataset's own methods (`map`, `select`, `to_tuple`, `batched`,
`with_epoch`, ...) and a torch `IterableDataset`, so a `DataLoader` takes it. Shards are divided among the processes of
a distributed run and then among the workers of the data loader, as WebDataset does. So processes get unequal numbers of
samples: where they train together, end an epoch by steps (`with_epoch`, `itertools.islice`). Training here reads the
same shards by an index instead (`model/data/store.py`).

Never call WebDataset's `.decode()` on shards of others: it unpickles what it finds. These samples need none.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING, Any

from feature_extraction.samples.images import ImageSample, read_image_shard
from feature_extraction.samples.regions import decode_regions, read_region_records
from feature_extraction.samples.tars import ShardError
from tasks.errors import UserError
from tasks.extractor import ExtractorRecord
from tasks.features.caption_table import CaptionTable
from tasks.features.feature_sets import FeatureSet, feature_sets
from tasks.features.readable_shards import ReadableShards, find_image_shards, find_region_shards
from tasks.made_from import check_captions
from tasks.storage.paths import extractor_path
from tasks.storage.root import Root

if TYPE_CHECKING:
    from webdataset import FluidWrapper

AnyRoot = str | PathLike[str] | Root
Sample = dict[str, Any]


def open_regions(
    root: AnyRoot,
    split: str,
    *,
    extractor: str | None = None,
    captions: bool = False,
    shuffle: int = 0,
    seed: int | None = None,
    partial: bool = False,
) -> FluidWrapper:
    """A pipeline of a split's detected regions, one sample an image. Images whose extraction failed have none.

    A sample is a dict of the fields of `RegionSample`: `key`; `size` (width, height); `boxes` (R, 4) f32; `labels` (R,)
    i16, see `read_labels`; `scores` and `background` (R,) f32; `features` (R, D) f32; and, where the extractor stored
    them, `top_labels` and `top_scores` (R, T), or `class_scores` (R, 1 + C) f32. R differs from image to image and may
    be 0. `__key__` and `__url__` (the shard) are WebDataset's. With `captions` there are also `captions`, a list of
    texts, and `caption_ids`; both are empty for an image without captions.

    Args:
        root: folder, or URI such as s3://BUCKET/FOLDER.
        split: DATASET/SPLIT.
        extractor: first digits of its fingerprint, which name its folder under ROOT/features; None: the only one.
        captions: join the captions.
        shuffle: draw samples from a buffer of so many, and shards in random order; 0: as they lie. The buffer holds
            records as stored, 0.2 MB each at 100 regions of 2,048 numbers.
        seed: of the order. Each pass over the pipeline has another one; workers of a data loader must be persistent
            for that, or begin again with the first. None: every order is another one.
        partial: read a set that is not finished, or that lost shards; the log says what is missing.

    Raises:
        UserError: there are no such features, several extractors made some, they are not whole, or were made from other
            images than the root has now.
        ShardError: while reading: a shard is damaged.
    """
    under = _as_root(root)
    dataset, split_name = _names(split)
    features = _one_feature_set(under, split, extractor)
    record = _extractor_record(under, features)
    shards = find_region_shards(under, features, partial)
    table = None
    if captions:
        check_captions(under, dataset, split_name)
        table = CaptionTable(under, dataset, split_name)
    return _pipeline(shards, _RegionRecords(shards), _DecodeRegions(record.feature_dim, table), shuffle, seed)


def open_images(
    root: AnyRoot,
    split: str,
    *,
    captions: bool = True,
    decode: bool = True,
    shuffle: int = 0,
    seed: int | None = None,
    partial: bool = False,
) -> FluidWrapper:
    """A pipeline of a split's downloaded images, one sample an image.

    A sample is a dict: `key`; `image`, an RGB `PIL.Image`, or without `decode` the bytes of its JPEG; `json`, a dict of
    its `caption`, `url`, `size` (width, height) and `sha256` of the bytes received; and with `captions`, as
    `open_regions`, `captions` and `caption_ids` of all rows that have this image. `__key__` and `__url__` (the shard)
    are WebDataset's.

    Args:
        root: folder, or URI such as s3://BUCKET/FOLDER.
        split: DATASET/SPLIT.
        captions: join the captions of all rows; the image's own one is in `json` in any case.
        decode: give pixels.
        shuffle: as `open_regions`.
        seed: as `open_regions`.
        partial: read a split that is not downloaded to its end, or that lost shards; the log says what is missing.

    Raises:
        UserError: there is no such split, it is not whole, or its captions were made from other rows or images.
        ShardError: while reading: a shard or a picture is damaged.
    """
    under = _as_root(root)
    dataset, split_name = _names(split)
    shards = find_image_shards(under, dataset, split_name, partial)
    table = CaptionTable(under, dataset, split_name) if captions else None
    return _pipeline(shards, _ImageRecords(shards), _DecodeImages(decode, table), shuffle, seed)


def read_labels(root: AnyRoot, split: str, extractor: str | None = None) -> tuple[str, ...]:
    """Label names by the numbers in `open_regions`. Arguments and errors as there."""
    under = _as_root(root)
    _names(split)
    return _extractor_record(under, _one_feature_set(under, split, extractor)).labels


# --- finding ---------------------------------------------------------------------------------------------------------


def _as_root(root: AnyRoot) -> Root:
    return root if isinstance(root, Root) else Root(str(root))


def _names(split: str) -> tuple[str, str]:
    if re.fullmatch(r"[A-Za-z0-9_-]+/[A-Za-z0-9_-]+", split) is None:
        raise UserError(f"{split!r} is not DATASET/SPLIT, such as cc3m/train")
    dataset, _, name = split.partition("/")
    return dataset, name


def _one_feature_set(root: Root, split: str, extractor: str | None) -> FeatureSet:
    found = feature_sets(root, split, extractor)
    if len(found) > 1:
        known = ", ".join(item.extractor for item in found)
        raise UserError(
            f"{split} has features of {len(found)} extractors under {root.uri}: {known}; choose with "
            f"extractor={found[0].extractor!r}"
        )
    return found[0]


def _extractor_record(root: Root, features: FeatureSet) -> ExtractorRecord:
    path = extractor_path(features.extractor)
    record = root.read_model(path, ExtractorRecord)
    if record is None:
        raise UserError(f"{root.path(path)} is missing: nothing says what made these features; extract again")
    return record


# --- stages ----------------------------------------------------------------------------------------------------------


def _pipeline(shards: ReadableShards, read: Any, decode: Any, shuffle: int, seed: int | None) -> FluidWrapper:
    if isinstance(shuffle, bool) or shuffle < 0:
        raise UserError(f"shuffle={shuffle!r}: give the number of samples to draw from, such as 1000, or 0")

    import webdataset  # With it comes torch.

    every = max(len(shards.sizes), 1)
    pipeline = webdataset.FluidWrapper(webdataset.SimpleShardList(list(shards.sizes)))
    for stage in (_split_by_node, webdataset.split_by_worker, _shuffled(every, seed, shuffle > 0)):
        pipeline.append(stage)
    pipeline.append(read)
    pipeline.append(_shuffled(shuffle, seed, shuffle > 0))
    pipeline.append(decode)
    return pipeline


def _shuffled(size: int, seed: int | None, wanted: bool) -> Any:
    """A stage that draws from a full buffer."""
    import webdataset

    if not wanted:
        return _as_they_come
    if seed is None:
        return webdataset.shuffle(size, initial=size)
    return webdataset.detshuffle(size, initial=size, seed=seed)


def _as_they_come(samples: Iterable[Sample]) -> Iterator[Sample]:
    yield from samples


def _split_by_node(shards: Iterable[Sample]) -> Iterator[Sample]:
    """The shards of this process of a distributed run.

    Raises:
        UserError: there are fewer shards than processes, so that some would wait for ever for those without.
    """
    import webdataset
    from webdataset.utils import pytorch_worker_info

    every = list(shards)
    processes = pytorch_worker_info()[1]
    if processes > len(every):
        raise UserError(
            f"{len(every)} shards cannot be divided among {processes} processes; start fewer, or make smaller shards"
        )
    yield from webdataset.split_by_node(iter(every))


@dataclass(frozen=True)
class _RegionRecords:
    shards: ReadableShards

    def __call__(self, wanted: Iterable[Sample]) -> Iterator[Sample]:
        for shard in wanted:
            with self.shards.open(shard["url"]) as (stream, where):
                for key, record in read_region_records(stream, where):
                    yield {"__key__": key, "__url__": where, "rgn": record}


@dataclass(frozen=True)
class _DecodeRegions:
    feature_dim: int
    captions: CaptionTable | None

    def __call__(self, records: Iterable[Sample]) -> Iterator[Sample]:
        for stored in records:
            key, where = stored["__key__"], stored["__url__"]
            try:
                regions = decode_regions(key, stored["rgn"])
            except ShardError as error:
                raise ShardError(f"{where}: {error}") from error
            if regions.features.shape[1] != self.feature_dim:
                raise ShardError(
                    f"{where}: key {key}: features of {regions.features.shape[1]} numbers, but this extractor's have "
                    f"{self.feature_dim}; extract this shard again"
                )
            fields = {name: value for name, value in vars(regions).items() if value is not None}
            yield {"__key__": key, "__url__": where, **fields, **_captions_of(key, self.captions)}


@dataclass(frozen=True)
class _ImageRecords:
    shards: ReadableShards

    def __call__(self, wanted: Iterable[Sample]) -> Iterator[Sample]:
        for shard in wanted:
            with self.shards.open(shard["url"]) as (stream, where):
                for image in read_image_shard(stream, where):
                    yield {"__key__": image.key, "__url__": where, "stored": image}


@dataclass(frozen=True)
class _DecodeImages:
    decode: bool
    captions: CaptionTable | None

    def __call__(self, records: Iterable[Sample]) -> Iterator[Sample]:
        for record in records:
            stored: ImageSample = record["stored"]
            yield {
                "__key__": stored.key,
                "__url__": record["__url__"],
                "key": stored.key,
                "image": _picture(stored, record["__url__"]) if self.decode else stored.jpeg,
                "json": {
                    "caption": stored.caption,
                    "url": stored.url,
                    "size": stored.size,
                    "sha256": stored.sha256,
                },
                **_captions_of(stored.key, self.captions),
            }


def _picture(stored: ImageSample, where: str) -> Any:
    from PIL import Image

    try:
        return Image.open(io.BytesIO(stored.jpeg), formats=["JPEG"]).convert("RGB")
    # Pillow reports damage as any of these; a cut file is an OSError.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ShardError(f"{where}: key {stored.key}: not a whole JPEG ({error}); download this shard again") from error


def _captions_of(key: str, captions: CaptionTable | None) -> Sample:
    if captions is None:
        return {}
    ids, texts = captions.find(key)
    return {"captions": texts, "caption_ids": ids}
