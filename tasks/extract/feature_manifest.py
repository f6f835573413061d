"""The list of a split's feature shards. Readers start from this file, and it is written last."""

from __future__ import annotations

import re
from collections.abc import Collection

from feature_extraction.config import ExtractorConfig
from feature_extraction.samples.manifest import FeatureManifest, ShardEntry
from tasks.errors import UserError
from tasks.extract.shard import plan_shard
from tasks.extractor import ExtractorRecord, extractor_fingerprint
from tasks.features.imports.imported import imported_manifest
from tasks.made_from import check_captions, check_features, image_digests, publish_features
from tasks.records import Receipt, ShardRef
from tasks.storage import paths
from tasks.storage.paths import region_shard_number
from tasks.storage.root import Root


def write_feature_manifest(
    root: Root, dataset: str, split: str, config: ExtractorConfig, missing: Collection[int] = ()
) -> FeatureManifest:
    """Publish the list of a split's feature shards, once all are finished. Readers start from this file.

    Shards that the split's captions do without are not listed.

    Args:
        root: where they are.
        dataset: its name.
        split: its name.
        config: the extractor.
        missing: further shards to do without, where they have no regions.

    Raises:
        UserError: image shards are missing, or have no feature shard made from them with this extractor; or captions
            were made from others.
    """
    if config.backend == "imported":
        manifest = imported_manifest(root, dataset, split, config.model)
        check_features(root, dataset, split, config.model)
        return manifest
    shards = _image_shards(root, dataset, split)
    receipts = [_region_receipt(root, ref, config) for ref in shards]
    absent = [ref.shard for ref, receipt in zip(shards, receipts, strict=True) if receipt is None]
    if not set(absent) <= set(missing):
        some = ", ".join(map(str, absent[:8])) + (", ..." if len(absent) > 8 else "")
        raise UserError(
            f"{len(absent)} of {len(shards)} shards of {dataset}/{split} have no regions of this extractor "
            f"({some}); run: unicoder-vl extract"
        )
    extractor, details = extractor_fingerprint(config)
    record = root.read_model(paths.extractor_path(extractor), ExtractorRecord)
    if record is None:
        raise UserError(f"{root.path(paths.extractor_path(extractor))} is gone; run: unicoder-vl extract")
    layout = config.layout(record.feature_dim, len(record.labels))
    manifest = FeatureManifest(
        format=layout.format,
        max_regions=layout.max_regions,
        feature_dim=layout.feature_dim,
        encoding=layout.encoding,
        num_top=layout.num_top,
        num_classes=layout.num_classes,
        labels=record.labels,
        extractor=extractor,
        extractor_details=details,
        shards=tuple(
            ShardEntry(
                name=paths.region_shard_name(receipt.shard),
                samples=receipt.counts["ok"],
                bytes=receipt.files[paths.region_shard_name(receipt.shard)].bytes,
                sha256=receipt.files[paths.region_shard_name(receipt.shard)].sha256,
            )
            for receipt in receipts
            if receipt is not None
        ),
    )
    images = image_digests(root, dataset, split, [region_shard_number(entry.name) for entry in manifest.shards])
    publish_features(root, dataset, split, manifest, images)
    return manifest


def missing_shards(root: Root, dataset: str, split: str, config: ExtractorConfig) -> list[ShardRef]:
    """The image shards in a split's captions that have no regions of this extractor yet.

    Raises:
        UserError: image shards themselves are missing.
    """
    shards = _image_shards(root, dataset, split)
    return [ref for ref in shards if _region_receipt(root, ref, config) is None]


def _region_receipt(root: Root, ref: ShardRef, config: ExtractorConfig) -> Receipt | None:
    plan = plan_shard(root, ref, config)
    return root.done(plan.receipt_path, plan.fingerprint)


def _image_shards(root: Root, dataset: str, split: str) -> list[ShardRef]:
    """The image shards in the split's captions, in order: every one that the download completed."""
    folder = paths.image_receipt_path(dataset, split, 0).rpartition("/")[0]
    found = [re.fullmatch(r"images-(\d{5,})\.json", name) for name in root.names(folder)]
    captions = root.read_model(paths.captions_receipt_path(dataset, split), Receipt)
    missing = set() if captions is None else set(captions.missing)
    numbers = sorted({int(match.group(1)) for match in found if match} - missing)
    complete = captions is not None and set(numbers) | missing == set(range(len(numbers) + len(missing)))
    if not numbers or not complete:
        raise UserError(f"images of {dataset}/{split} are not complete under {root.uri}; run: unicoder-vl download")
    check_captions(root, dataset, split)
    return [ShardRef(dataset=dataset, split=split, shard=number) for number in numbers]
