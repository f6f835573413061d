"""Feature shards on disk with their receipts and pictures, as extraction leaves them, from hand-made regions."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from feature_extraction.samples.images import ImageSample, encode_image
from feature_extraction.samples.regions import Encoding, RegionLayout, RegionSample, encode_regions
from feature_extraction.samples.tars import write_tar
from tasks.extractor import ExtractorRecord
from tasks.features.failed_regions import failure_table
from tasks.features.feature_sets import FeatureSet
from tasks.records import Receipt, Stage
from tasks.storage import paths
from tasks.storage import root as storage
from tasks.storage.root import Root

EXTRACTOR = "e" * 64
DATASET, SPLIT = "photos", "train"
FEATURES = FeatureSet(EXTRACTOR[:12], DATASET, SPLIT)
LABELS = ("cat", "dog", "tree", "never seen")
SIZE = (40, 30)


def regions_of(
    key: str,
    labels: Sequence[int] = (0, 1),
    scores: Sequence[float] = (0.875, 0.5),
    features: Sequence[Sequence[float]] = ((3, 4, 0, 0), (0, 0, 0, 0)),
    boxes: Sequence[Sequence[float]] | None = None,
) -> RegionSample:
    """Regions of a picture of 40 x 30 pixels; by default two, of which the second's features are all zero."""
    count = len(labels)
    given = [[5, 5, 20, 25]] * count if boxes is None else boxes
    return RegionSample(
        key=key,
        size=SIZE,
        boxes=np.array(given, np.float32).reshape(count, 4),
        labels=np.array(labels, np.int16),
        scores=np.array(scores[:count], np.float32),
        background=np.full(count, 0.125, np.float32),
        features=np.array(features[:count], np.float32).reshape(count, 4),
    )


def jpeg(colour: str = "teal") -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", SIZE, colour).save(stream, "JPEG", quality=95)
    return stream.getvalue()


def publish_features(
    root: Root,
    shard: int,
    samples: Sequence[RegionSample],
    failures: Sequence[tuple[str, str]] = (),
    encoding: Encoding = "sqrt8",
    max_regions: int = 3,
    labels: Sequence[str] = LABELS,
    details: dict[str, object] | None = None,
) -> None:
    """A feature shard, its table of failures and its receipt, and what its extractor is."""
    top = samples[0].top_labels if samples else None
    whole = samples[0].class_scores if samples else None
    num_top, num_classes = 0 if top is None else top.shape[1], 0 if whole is None else whole.shape[1] - 1
    layout = RegionLayout(max_regions, 4, encoding, num_top, num_classes)
    folder = FEATURES.folder
    name = paths.region_shard_name(shard)
    members = [(f"{sample.key}.rgn", encode_regions(sample, layout)) for sample in samples]
    files = {name: root.publish(f"{folder}/{name}", lambda out: write_tar(out, members))}
    if failures:
        failed = paths.failed_regions_name(shard)
        files[failed] = root.publish_bytes(f"{folder}/{failed}", failure_table(failures))
    receipt = Receipt(
        stage=Stage.EXTRACT,
        dataset=DATASET,
        split=SPLIT,
        shard=shard,
        fingerprint="f" * 64,
        counts={
            "ok": len(samples),
            "failed": len(failures),
            "regions": sum(len(sample.boxes) for sample in samples),
        },
        files=files,
        seconds=0.1,
        created_at=storage.now(),
    )
    root.publish_model(f"{folder}/{paths.region_receipt_name(shard)}", receipt)
    record = ExtractorRecord(
        fingerprint=EXTRACTOR,
        details=details or {"config": {"backend": "torchvision", "model": "small", "selection": "argmax"}},
        feature_dim=4,
        labels=tuple(labels),
    )
    root.publish_model(paths.extractor_path(EXTRACTOR), record)


def publish_pictures(root: Root, shard: int, keys: Sequence[str], colour: str = "teal") -> None:
    """The image shard of these keys."""
    samples = [ImageSample(key, "a caption", "http://a/b", SIZE, "0" * 64, jpeg(colour)) for key in keys]
    members = [member for sample in samples for member in encode_image(sample)]
    root.publish(paths.image_shard_path(DATASET, SPLIT, shard), lambda out: write_tar(out, members))


def publish_captions(root: Root, captions: Sequence[tuple[str, str]]) -> None:
    """The split's table of captions, from (image key, text) each."""
    table = pa.table(
        {
            "caption_id": [f"{number:09d}" for number in range(len(captions))],
            "image_key": [key for key, _ in captions],
            "text": [text for _, text in captions],
            "split": [SPLIT] * len(captions),
        }
    )
    root.publish(paths.captions_path(DATASET, SPLIT), lambda out: pq.write_table(table, out))
