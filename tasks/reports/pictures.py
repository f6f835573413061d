"""Pictures of a split by key, with their detected regions, for a gallery."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from feature_extraction.samples.manifest import FeatureManifest, parse_manifest
from feature_extraction.samples.regions import RegionSample, decode_regions
from tasks.errors import UserError
from tasks.features.lookup import find_records, read_pictures
from tasks.storage.paths import feature_manifest_path, features_folder, region_shard_number
from tasks.storage.root import Root

MIN_SCORE = 0.2
MOST_DRAWN = 10


@dataclass(frozen=True)
class Picture:
    """A stored picture of `size` (width, height) in pixels.

    Boxes are (x0, y0, x1, y1) in these pixels, one label each, best score first. `jpeg` is None where the image is not
    on the disk: features may be imported, and some users clear the disk of images after extraction.
    """

    key: str
    size: tuple[int, int]
    jpeg: bytes | None
    boxes: tuple[tuple[float, float, float, float], ...]
    labels: tuple[str, ...]

    @property
    def regions(self) -> list[tuple[tuple[float, float, float, float], str]]:
        """Each box with its label."""
        return list(zip(self.boxes, self.labels, strict=True))


def find_pictures(root: Root, dataset: str, split: str, extractor: str, keys: Collection[str]) -> dict[str, Picture]:
    """Find the pictures of these keys, each with its best regions: at most `MOST_DRAWN`, of score `MIN_SCORE` or more.

    Args:
        root: where images and features lie.
        dataset: of the pictures.
        split: of the pictures.
        extractor: fingerprint of the extractor whose regions are drawn.
        keys: of the pictures.

    Raises:
        UserError: the features are missing, or do not have one of the keys.
        ShardError: a shard is damaged.
    """
    manifest = _read_manifest(root, feature_manifest_path(extractor, dataset, split))
    regions, shards = _read_regions(root, features_folder(extractor, dataset, split), manifest, set(keys))
    jpegs = read_pictures(root, dataset, split, shards)
    return {key: picture_of(jpegs.get(key), regions[key], manifest.labels) for key in keys}


def picture_of(jpeg: bytes | None, regions: RegionSample, names: tuple[str, ...]) -> Picture:
    """A picture with its best regions, see `find_pictures`; `names` are those of the labels."""
    kept = int((regions.scores[:MOST_DRAWN] >= MIN_SCORE).sum())  # Best score first.
    return Picture(
        key=regions.key,
        size=regions.size,
        jpeg=jpeg,
        boxes=tuple((float(x0), float(y0), float(x1), float(y1)) for x0, y0, x1, y1 in regions.boxes[:kept]),
        labels=tuple(names[label] for label in regions.labels[:kept]),
    )


def _read_manifest(root: Root, path: str) -> FeatureManifest:
    try:
        return parse_manifest(root.read_bytes(path), root.path(path))
    except FileNotFoundError as error:
        raise UserError(f"{root.path(path)} is missing; run: unicoder-vl extract") from error


def _read_regions(
    root: Root, folder: str, manifest: FeatureManifest, keys: set[str]
) -> tuple[dict[str, RegionSample], dict[int, set[str]]]:
    """Read the regions of these images by key, and the keys by shard number."""
    regions: dict[str, RegionSample] = {}
    shards: dict[int, set[str]] = {}
    for entry in manifest.shards:
        with root.open(f"{folder}/{entry.name}") as stream:
            for key, record in find_records(stream, entry.name, manifest.layout, entry.samples, keys):
                regions[key] = decode_regions(key, record)
                shards.setdefault(region_shard_number(entry.name), set()).add(key)
    missing = sorted(keys - regions.keys())
    if missing:
        raise UserError(f"{root.path(folder)} has no image {missing[0]}, which was scored; run: unicoder-vl evaluate")
    return regions, shards
