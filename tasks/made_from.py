"""Whether captions and features are of the root's present rows and images. Every reader asks before it reads.

Rows can be replaced (`--accept-changes`) and images fetched again. Captions and features of before still look whole
then, and give the images of the new rows the regions of others. Receipts tell: that of a feature shard holds the
digest of its image shard in its fingerprint, that of the captions those of the manifest and of all image shards.

So that not every receipt is read each time, finished features have a made-from.json (`MadeFrom`). Where it still
speaks of the present captions and rows, as it mostly does, that is all that is read. Else one receipt an image
shard and one a feature shard are.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache

from pydantic import Field

from feature_extraction.samples.manifest import FeatureManifest, parse_manifest
from feature_extraction.samples.regions import REGION_FORMAT
from feature_extraction.samples.tars import ShardError
from tasks.errors import UserError
from tasks.extractor import ExtractorRecord
from tasks.records import Receipt, Record, fingerprint
from tasks.storage.paths import (
    captions_receipt_path,
    extractor_path,
    feature_manifest_path,
    features_folder,
    image_receipt_path,
    image_shard_path,
    manifest_receipt_path,
    region_receipt_name,
    region_shard_number,
)
from tasks.storage.root import Root

log = logging.getLogger(__name__)

CAPTIONS_FORMAT = "captions/1"
_IMPORTED = "imported_from"
"""Among an extractor's details: its features were extracted elsewhere."""


class MadeFrom(Record):
    """made-from.json: what a split's features were made from, written before their manifest."""

    features: str | None = Field(description="sha256 of their manifest.json; None while shards are being imported")
    rows: str | None = Field(default=None, description="digest of the split's rows; None where it has none")
    captions: str | None = Field(default=None, description="fingerprint of its captions")
    images: dict[int, str] = Field(default_factory=dict, description="sha256 of each image shard, by its number")
    by_order: bool = Field(default=False, description="imported without a downloaded split, and numbered by itself")


# --- fingerprints: what a receipt says of the stage before ----------------------------------------------------------


def features_fingerprint(extractor: str, images: Receipt) -> str:
    """The fingerprint of a feature shard.

    Args:
        extractor: its fingerprint.
        images: receipt of the image shard.
    """
    # The tar alone counts: the outcome table beside it also tells how long each request took, which changes no region.
    return _features_fingerprint(extractor, _pictures(images) or "")


def captions_fingerprint(rows: Receipt, shards: Iterable[Receipt], missing: Sequence[int]) -> str:
    """The fingerprint of a split's captions.

    Args:
        rows: receipt of the manifest.
        shards: receipts of the image shards, in order, without those that are missing.
        missing: numbers of these, ascending.
    """
    identity = {
        "format": CAPTIONS_FORMAT,
        "manifest": rows.content_digest(),
        "shards": [receipt.content_digest() for receipt in shards],
    }
    return fingerprint(identity | ({"missing": list(missing)} if missing else {}))


def _features_fingerprint(extractor: str, images: str) -> str:
    return fingerprint({"format": REGION_FORMAT, "extractor": extractor, "images": images})


def _pictures(images: Receipt) -> str | None:
    """Sha256 of an image shard's tar."""
    digest = images.files.get(image_shard_path(images.dataset, images.split, images.shard).rpartition("/")[2])
    return None if digest is None else digest.sha256


# --- writing --------------------------------------------------------------------------------------------------------


def publish_features(
    root: Root, dataset: str, split: str, manifest: FeatureManifest, images: Mapping[int, str], by_order: bool = False
) -> None:
    """Publish what a split's features were made from, and then the list of their shards.

    Args:
        root: where they are.
        dataset: its name.
        split: its name.
        manifest: the list.
        images: sha256 of each image shard that they were made from; see `image_digests`.
        by_order: they were numbered by themselves, and belong to no rows.
    """
    content = (manifest.model_dump_json(indent=2) + "\n").encode()
    rows, captions = _rows(root, dataset, split), _captions(root, dataset, split)
    about = MadeFrom(
        features=hashlib.sha256(content).hexdigest(),
        rows=None if rows is None else rows.content_digest(),
        captions=None if captions is None else captions.fingerprint,
        images=dict(images),
        by_order=by_order,
    )
    path = made_from_path(manifest.extractor, dataset, split)
    if root.read_model(path, MadeFrom) != about:
        root.publish_model(path, about)
    root.publish_bytes(feature_manifest_path(manifest.extractor, dataset, split), content)


def begin_import(root: Root, dataset: str, split: str, extractor: str, by_order: bool) -> None:
    """Record, before the first shard, whether imported features belong to no rows: then a download is refused."""
    path = made_from_path(extractor, dataset, split)
    about = root.read_model(path, MadeFrom)
    if by_order if about is None else about.by_order != by_order:
        root.publish_model(path, MadeFrom(features=None, by_order=by_order))


def image_digests(root: Root, dataset: str, split: str, shards: Sequence[int]) -> dict[int, str]:
    """Sha256 of image shards by number, from their receipts; shards without a receipt are left out."""
    found = _image_receipts(root, dataset, split, shards)
    return {shard: digest for shard, receipt in found.items() if (digest := _pictures(receipt)) is not None}


def made_from_path(extractor: str, dataset: str, split: str) -> str:
    return f"{features_folder(extractor, dataset, split)}/made-from.json"


# --- asking ---------------------------------------------------------------------------------------------------------


def check_features(root: Root, dataset: str, split: str, extractor: str) -> None:
    """Refuse finished features and captions that are not of the root's present rows and images.

    What cannot be known is accepted: images whose receipts are gone, as where a disk was cleared of them.

    Args:
        root: where they lie.
        dataset: its name.
        split: its name.
        extractor: fingerprint of the extractor, or its first twelve digits.

    Raises:
        UserError: rows or images have changed since; names the stage to run again.
    """
    if not _is_known(root, dataset, split, extractor):
        check_captions(root, dataset, split)
        check_shards(root, dataset, split, extractor, _listed_receipts(root, dataset, split, extractor))


def stale_features(root: Root, dataset: str, split: str, extractor: str) -> list[int]:
    """The shards of a split's finished features that `check_features` would refuse, ascending."""
    if _is_known(root, dataset, split, extractor):
        return []
    return stale_shards(root, dataset, split, extractor, _listed_receipts(root, dataset, split, extractor))


def _is_known(root: Root, dataset: str, split: str, extractor: str) -> bool:
    """Whether made-from.json says that finished features are of the present rows and captions."""
    about = root.read_model(made_from_path(extractor, dataset, split), MadeFrom)
    if about is None or about.features is None:
        return False
    try:
        content = root.read_bytes(feature_manifest_path(extractor, dataset, split))
    except FileNotFoundError:
        return False
    rows, captions = _rows(root, dataset, split), _captions(root, dataset, split)
    current = MadeFrom(
        features=hashlib.sha256(content).hexdigest(),
        rows=None if rows is None else rows.content_digest(),
        captions=None if captions is None else captions.fingerprint,
        images=about.images,
        by_order=about.by_order and rows is None,
    )
    return current == about


def _listed_receipts(root: Root, dataset: str, split: str, extractor: str) -> dict[int, Receipt]:
    """Receipts of the shards in the manifest of a split's features, by number."""
    path = feature_manifest_path(extractor, dataset, split)
    try:
        manifest = parse_manifest(root.read_bytes(path), root.path(path))
    except (FileNotFoundError, ShardError):
        return {}  # Readers of the features report it.
    folder = features_folder(extractor, dataset, split)
    shards = [region_shard_number(entry.name) for entry in manifest.shards]
    found = root.read_models([f"{folder}/{region_receipt_name(shard)}" for shard in shards], Receipt)
    return {shard: receipt for shard, receipt in zip(shards, found, strict=True) if receipt is not None}


def check_shards(root: Root, dataset: str, split: str, extractor: str, receipts: Mapping[int, Receipt]) -> None:
    """Refuse feature shards, finished set or not, by their receipts. Raises as `check_features`."""
    if not receipts:
        return
    record = root.read_model(extractor_path(extractor), ExtractorRecord)
    imported = record is not None and _IMPORTED in record.details
    stale = stale_shards(root, dataset, split, extractor, receipts)
    if stale and imported and _belongs_to_no_rows(root, dataset, split, extractor):
        raise _by_order(root, dataset, split, extractor)
    if stale:
        some = f"{len(stale)} of {len(receipts)} shards, {stale[0]:05d} for one"
        advice = "`unicoder-vl import-features`" if imported else "`unicoder-vl extract` with the same parameters"
        raise UserError(
            f"features of {dataset}/{split} ({extractor[:12]}) were made from other images than are under {root.uri} "
            f"now ({some}): run {advice}"
        )


def stale_shards(root: Root, dataset: str, split: str, extractor: str, receipts: Mapping[int, Receipt]) -> list[int]:
    """Feature shards made from other images than their number has now, ascending."""
    if not receipts:
        return []
    record = root.read_model(extractor_path(extractor), ExtractorRecord)
    if record is None:
        return []  # Nothing says what they are.
    images = _image_receipts(root, dataset, split, sorted(receipts))
    if _IMPORTED not in record.details:
        stale = {shard for shard, images_of in images.items() if not _is_of(receipts[shard], record, images_of)}
    elif _belongs_to_no_rows(root, dataset, split, extractor):
        stale = set(receipts) if _rows(root, dataset, split) is not None else set()
    else:
        stale = _stale_imports(root, dataset, split, extractor, images)
    return sorted(stale | _beyond(root, dataset, split, receipts))


def check_captions(root: Root, dataset: str, split: str) -> None:
    """Raise UserError unless captions are of the root's present rows and images."""
    rows, captions = _rows(root, dataset, split), _captions(root, dataset, split)
    if rows is None or captions is None:
        return
    images = _image_receipts(root, dataset, split, _image_shards(root, dataset, split))
    if captions_are_stale(rows, captions, images):
        raise UserError(
            f"captions of {dataset}/{split} were made from other rows or images than are under {root.uri} now: its "
            "download has not come to its end since; run `unicoder-vl download` with the same parameters"
        )


def captions_are_stale(rows: Receipt, captions: Receipt, images: Mapping[int, Receipt]) -> bool:
    """Whether captions were made from another manifest or other image shards.

    Args:
        rows: receipt of the manifest.
        captions: their receipt.
        images: receipts of all image shards that have one, by number. Where some were cleared from the disk, nothing
            is known.
    """
    numbers = set(images) | set(captions.missing)
    if not images or numbers != set(range(len(numbers))):
        return False
    shards = [images[number] for number in sorted(images) if number not in captions.missing]
    return captions.fingerprint != captions_fingerprint(rows, shards, sorted(captions.missing))


def check_no_order(root: Root, dataset: str, split: str) -> None:
    """Refuse to download a split whose features were imported by order: they would pass for those of its rows.

    Raises:
        UserError: names them, and the ways out.
    """
    for extractor in root.names("features"):
        about = root.read_model(made_from_path(extractor, dataset, split), MadeFrom)
        if about is not None and about.by_order:
            raise _by_order(root, dataset, split, extractor)
        if about is None and _rows(root, dataset, split) is None and _was_imported(root, dataset, split, extractor):
            log.warning(
                "features of %s/%s (%s) were imported before it was downloaded: if by order, they belong to other "
                "pictures than its rows will; import them again then, with --match name, number or key",
                dataset,
                split,
                extractor[:12],
            )


def _is_of(receipt: Receipt, extractor: ExtractorRecord, images: Receipt) -> bool:
    """Whether a feature shard was extracted from an image shard."""
    pictures = _pictures(images)
    if pictures is None:
        return True  # It says nothing.
    # At first the fingerprint held the digests of both files of the image shard.
    known = (_features_fingerprint(extractor.fingerprint, digest) for digest in (pictures, images.content_digest()))
    return receipt.fingerprint in known


def _stale_imports(root: Root, dataset: str, split: str, extractor: str, images: Mapping[int, Receipt]) -> set[int]:
    """Imported shards made from other pictures.

    Their fingerprints cannot be computed again without the files that they came from.
    """
    about = root.read_model(made_from_path(extractor, dataset, split), MadeFrom)
    if about is None:
        captions = _captions(root, dataset, split)
        if captions is not None and images:
            _warn_of_import(f"{dataset}/{split}", extractor[:12])
        return set()
    digests = {shard: _pictures(receipt) for shard, receipt in images.items()}
    return {
        shard for shard, digest in digests.items() if digest is not None and about.images.get(shard, digest) != digest
    }


@cache
def _warn_of_import(name: str, extractor: str) -> None:
    """Warn once of each feature set."""
    log.warning(
        "features of %s (%s) were imported by an older version, which did not note of which images: if its rows have "
        "changed since, import them again",
        name,
        extractor,
    )


def _belongs_to_no_rows(root: Root, dataset: str, split: str, extractor: str) -> bool:
    about = root.read_model(made_from_path(extractor, dataset, split), MadeFrom)
    return about is not None and about.by_order


def _by_order(root: Root, dataset: str, split: str, extractor: str) -> UserError:
    folder = root.path(features_folder(extractor, dataset, split))
    return UserError(
        f"the features in {folder} were imported by order and belong to no rows, so captions of {dataset}/{split} "
        "would be given the regions of other pictures; remove that folder, and import again once the download is done, "
        "with --match name, number or key), or download under another dataset name or --root"
    )


def _was_imported(root: Root, dataset: str, split: str, extractor: str) -> bool:
    if not root.names(features_folder(extractor, dataset, split)):
        return False
    record = root.read_model(extractor_path(extractor), ExtractorRecord)
    return record is not None and _IMPORTED in record.details


def _beyond(root: Root, dataset: str, split: str, shards: Iterable[int]) -> set[int]:
    """The numbers without an image shard, where rows have become fewer.

    Nothing is said of a split whose images were cleared from the disk.
    """
    numbers, captions = _image_shards(root, dataset, split), _captions(root, dataset, split)
    if not numbers or captions is None:
        return set()
    last = max([*numbers, *captions.missing])
    beyond = {shard for shard in shards if shard > last}
    # Their receipts may be gone one by one; that they belong to nothing is known where the others are all there.
    whole = set(numbers) | set(captions.missing) == set(range(last + 1))
    return beyond if whole else set()


def _image_shards(root: Root, dataset: str, split: str) -> list[int]:
    """Numbers of the image shards that have a receipt, ascending."""
    folder = image_receipt_path(dataset, split, 0).rpartition("/")[0]
    found = (re.fullmatch(r"images-(\d{5,})\.json", name) for name in root.names(folder))
    return sorted(int(match[1]) for match in found if match)


def _image_receipts(root: Root, dataset: str, split: str, shards: Sequence[int]) -> dict[int, Receipt]:
    """Receipts of image shards by number; shards without one are left out."""
    found = root.read_models([image_receipt_path(dataset, split, shard) for shard in shards], Receipt)
    return {shard: receipt for shard, receipt in zip(shards, found, strict=True) if receipt is not None}


def _rows(root: Root, dataset: str, split: str) -> Receipt | None:
    return root.read_model(manifest_receipt_path(dataset, split), Receipt)


def _captions(root: Root, dataset: str, split: str) -> Receipt | None:
    return root.read_model(captions_receipt_path(dataset, split), Receipt)
