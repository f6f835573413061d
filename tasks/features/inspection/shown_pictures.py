"""Pictures of a split with their regions drawn: chosen at random or by key, with their captions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from feature_extraction.samples.regions import RegionLayout, RegionSample, decode_regions
from feature_extraction.samples.tars import ShardError
from tasks.errors import UserError
from tasks.features.inspection.config import InspectConfig
from tasks.features.inspection.drawing import DrawnRegion, draw_regions
from tasks.features.inspection.region_statistics import check_labels
from tasks.features.lookup import find_records, read_captions, read_pictures, read_record
from tasks.features.open_features import OpenFeatures
from tasks.storage import paths

_BEST_LABELS = 5
"""Labels shown of a whole distribution."""

Found = dict[str, tuple[int, RegionSample]]
"""Key -> shard and regions of an image."""


@dataclass(frozen=True)
class ShownPicture:
    """A picture with its regions drawn; `here` is false, and the picture grey, where its image is not on the disk."""

    key: str
    shard: int
    captions: tuple[str, ...]
    regions: tuple[DrawnRegion, ...]
    num_regions: int
    here: bool
    image: Image.Image


def show_pictures(opened: OpenFeatures, layout: RegionLayout, config: InspectConfig) -> list[ShownPicture]:
    """The chosen pictures in the order of their shards, or of the keys given.

    Raises:
        UserError: a key has no regions in the selected shards.
        ShardError: a shard, or a picture in it, is damaged.
    """
    if config.keys is None:
        found = _draw_at_random(opened, layout, config.count, config.seed)
    else:
        found = _find(opened, layout, config.keys)
    dataset, split = opened.features.dataset, opened.features.split
    shards: dict[int, list[str]] = {}
    for key, (shard, _) in found.items():
        shards.setdefault(shard, []).append(key)
    jpegs = read_pictures(opened.root, dataset, split, shards)
    captions = read_captions(opened.root, dataset, split, found.keys())
    return [
        _shown(opened, config, shard, sample, jpegs.get(key), captions.get(key, []))
        for key, (shard, sample) in found.items()
    ]


def _draw_at_random(opened: OpenFeatures, layout: RegionLayout, count: int, seed: int) -> Found:
    """Draw images from all selected shards, each as likely as any other."""
    shards = list(opened.receipts)
    ends = np.cumsum([opened.samples(shard) for shard in shards])
    total = int(ends[-1])
    drawn = np.random.default_rng(seed).choice(total, min(count, total), replace=False)
    found: Found = {}
    for place in sorted(drawn.tolist()):
        number = int(np.searchsorted(ends, place, side="right"))
        position = place - (int(ends[number - 1]) if number else 0)
        with opened.shard(shards[number]) as (stream, name):
            key, record = read_record(stream, name, layout, position)
            found[key] = (shards[number], _decoded(opened, name, key, record))
    return found


def _find(opened: OpenFeatures, layout: RegionLayout, keys: Sequence[str]) -> Found:
    """Find images by key, in the order of the keys."""
    found: Found = {}
    missing = set(keys)
    for shard in opened.receipts:
        if not missing:
            break
        with opened.shard(shard) as (stream, name):
            for key, record in find_records(stream, name, layout, opened.samples(shard), missing):
                found[key] = (shard, _decoded(opened, name, key, record))
        missing -= found.keys()
    if missing:
        raise UserError(
            f"the selected shards of {opened.features} have no regions of image {min(missing)}; its key is the number "
            "of its row with all nine digits, and a picture that was lost has no regions"
        )
    return {key: found[key] for key in keys}


def _decoded(opened: OpenFeatures, name: str, key: str, record: bytes) -> RegionSample:
    try:
        sample = decode_regions(key, record)
        check_labels(sample, len(opened.extractor.labels))
    except ShardError as error:
        raise ShardError(f"{name}: {error}") from error
    return sample


def _shown(
    opened: OpenFeatures,
    config: InspectConfig,
    shard: int,
    sample: RegionSample,
    jpeg: bytes | None,
    captions: Sequence[str],
) -> ShownPicture:
    names = opened.extractor.labels
    shown = int((sample.scores[: config.max_drawn] >= config.min_score).sum())  # Best score first.
    regions = tuple(
        DrawnRegion(
            box=(float(x0), float(y0), float(x1), float(y1)),
            label=int(label),
            name=names[label],
            score=float(score),
            best=_best_labels(sample, place, names),
        )
        for place, ((x0, y0, x1, y1), label, score) in enumerate(
            zip(sample.boxes[:shown], sample.labels[:shown], sample.scores[:shown], strict=True)
        )
    )
    try:
        image = draw_regions(jpeg, sample.size, regions)
    except OSError as error:
        path = paths.image_shard_path(opened.features.dataset, opened.features.split, shard)
        raise ShardError(
            f"{opened.root.path(path)}, key {sample.key}: the picture is damaged ({error}); download this shard again"
        ) from error
    return ShownPicture(sample.key, shard, tuple(captions), regions, len(sample.boxes), jpeg is not None, image)


def _best_labels(sample: RegionSample, place: int, names: Sequence[str]) -> tuple[tuple[str, float], ...]:
    if sample.class_scores is not None:
        foreground = sample.class_scores[place, 1:]
        best = np.argsort(-foreground, kind="stable")[:_BEST_LABELS].tolist()
        return tuple((names[label], float(foreground[label])) for label in best)
    if sample.top_labels is None or sample.top_scores is None:
        return ()
    found = zip(sample.top_labels[place].tolist(), sample.top_scores[place].tolist(), strict=True)
    return tuple((names[label], score) for label, score in found)
