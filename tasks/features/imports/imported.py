"""Imported features, as the later stages see them: there already, or still to be imported."""

from __future__ import annotations

from feature_extraction.samples.manifest import FeatureManifest, parse_manifest
from feature_extraction.samples.tars import ShardError
from tasks.errors import UserError
from tasks.records import Receipt, ShardRef, ShardResult
from tasks.storage import paths
from tasks.storage.root import Root


def imported_shard(root: Root, ref: ShardRef, extractor: str) -> ShardResult:
    """The receipt of an imported shard, as extraction would return it; it is never made here.

    Args:
        root: where the features lie.
        ref: the shard.
        extractor: the feature set's fingerprint, or its first twelve digits.

    Raises:
        UserError: the shard was not imported, or its files are not as its receipt says.
    """
    folder = paths.features_folder(extractor, ref.dataset, ref.split)
    path = f"{folder}/{paths.region_receipt_name(ref.shard)}"
    receipt = root.read_model(path, Receipt)
    if receipt is None or root.done(path, receipt.fingerprint) is None:
        raise UserError(f"{root.path(folder)} has no whole shard {ref.shard:05d}; run: unicoder-vl import-features")
    return ShardResult(receipt=receipt, skipped=True)


def imported_manifest(root: Root, dataset: str, split: str, extractor: str) -> FeatureManifest:
    """The manifest that a split's import has written.

    Raises:
        UserError: there is none, or it is not one.
    """
    path = paths.feature_manifest_path(extractor, dataset, split)
    if not root.exists(path):
        raise UserError(f"{root.path(path)} is not there; run: unicoder-vl import-features for {dataset}/{split}")
    try:
        return parse_manifest(root.read_bytes(path), root.path(path))
    except ShardError as error:
        raise UserError(str(error)) from error
